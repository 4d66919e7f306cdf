"""Upkeep: forgetting, tidying, backup and audit."""
