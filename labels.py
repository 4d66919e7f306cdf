"""Labels say where a value came from and so what it may be used for.

A label travels with every tool result, through the journal, into memory and training data.
``merge`` gives the label of a value made from several: the least trusted one wins, and a
secret stays secret. Labels mark; enforcing what they allow is the policy's work.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Label(StrEnum):
    """Origin of a value, from most to least trusted; ``SECRET`` may never leave."""

    TRUSTED = "trusted"
    """Said by the user: the goal, the goal file, an answer to a question."""
    STRUCTURED = "structured"
    """Numbers, identifiers and table cells from sources the user granted."""
    UNTRUSTED = "untrusted"
    """Free text: files, web pages, other programs, tool descriptions."""
    SECRET = "secret"
    """Must not be shown, stored in clear or trained on."""


_ORDER = (Label.TRUSTED, Label.STRUCTURED, Label.UNTRUSTED, Label.SECRET)


def merge(labels: Iterable[Label]) -> Label:
    """Return the label of a value derived from values with ``labels`` (trusted if none)."""
    return max(labels, key=_ORDER.index, default=Label.TRUSTED)
