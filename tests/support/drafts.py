"""Entries that tests of memory write."""

from __future__ import annotations

from typing import Any

from autogpt.memory.entry import Draft, Kind


def fact(text: str, **more: Any) -> Draft:
    """Return a fact; ``more`` are fields of :class:`Draft`."""
    return Draft(Kind.FACT, text, **more)
