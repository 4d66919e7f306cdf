"""Nearest neighbours: exact search, and the Chroma collection kept in step with the truth."""
