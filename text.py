"""Short work on text that several rooms need."""

from __future__ import annotations

from typing import Literal

Prompting = Literal["names", "typed", "teaching"]
"""How a model is prompted; a property of the model, kept in its card and in ``run.started``.

``names``: trained on tools shown by the names of their arguments; ``typed``: trained on typed signatures;
``teaching``: not trained by us, so that the system message explains the protocol with worked examples.
"""

def clip(text: str, length: int) -> str:
    """Return ``text`` on one line, at most ``length`` characters, with an ellipsis where it was cut."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def is_unicode(text: str) -> bool:
    """Return whether ``text`` has a UTF-8 form: bytes that were no text leave lone surrogates in it."""
    return not any("\ud800" <= mark <= "\udfff" for mark in text)
