"""Reads an answer out of a call while the model is still writing it."""

from __future__ import annotations

import json
import re

from ..text import is_unicode
from .view import clean

_ANSWER = re.compile(
    r'"name"\s*:\s*"finish"\s*,\s*"arguments"\s*:\s*\{\s*"answer"\s*:\s*"((?:[^"\\]|\\.)*)', re.S
)
"""An answer as far as it was written: a JSON string, its last escape whole."""
_HANDLE = re.compile(r"\$\d{0,4}\s*")
"""What may still become a handle."""


class AnswerStream:
    """The answer in one turn of the model; pieces come as to :data:`~autogpt.llm.message.OnText`."""

    def __init__(self) -> None:
        self._said = ""
        self.text = ""
        """What was answered so far. Empty for any other call, and for a handle such as ``$2``."""

    def feed(self, piece: str) -> None:
        """Take the next piece; one that opens a call begins again (an answer asked for once more)."""
        self._said = piece if piece.startswith("<tool_call>") else self._said + piece
        found = _ANSWER.search(self._said)
        if found is None or _HANDLE.fullmatch(found[1]):
            self.text = ""
            return
        try:
            text = json.loads(f'"{found[1]}"', strict=False)
        except ValueError:  # in the middle of \uXXXX
            return
        if is_unicode(text):  # not between the halves of a character beyond the basic plane
            self.text = clean(text)


def last_rows(text: str, width: int, rows: int) -> str:
    """Return the end of ``text`` that fits ``rows`` lines of a terminal of ``width`` cells."""
    from rich.cells import chop_cells

    lines = [row for line in text.splitlines() for row in chop_cells(line, max(2, width)) or [""]]
    return "\n".join(lines[-rows:])
