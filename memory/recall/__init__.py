"""Recall: what fits a query and is worth showing."""
