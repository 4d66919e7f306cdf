"""Evaluation: suites of goals, and the statistics that compare two models on them."""
