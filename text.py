"""Short work on text that several rooms need."""

from __future__ import annotations


def clip(text: str, length: int) -> str:
    """Return ``text`` on one line, at most ``length`` characters, with an ellipsis where it was cut."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def is_unicode(text: str) -> bool:
    """Return whether ``text`` has a UTF-8 form: bytes that were no text leave lone surrogates in it."""
    return not any("\ud800" <= mark <= "\udfff" for mark in text)
