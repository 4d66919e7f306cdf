"""Makers of the evaluation suites, one module per kind; ``make_suites.py`` calls them all.

They are written apart from the makers of training episodes on purpose: other names, other
wordings, other contents, so that a suite measures skill and not memory.
"""
