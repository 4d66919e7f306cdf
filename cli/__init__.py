"""The command line: what a person types and sees. Nothing imports it."""

from .parser import main

__all__ = ["main"]
