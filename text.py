"""Short work on text that several rooms need."""

from __future__ import annotations


def clip(text: str, length: int) -> str:
    """Return ``text`` on one line, at most ``length`` characters, with an ellipsis where it was cut."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"
