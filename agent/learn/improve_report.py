"""What an improvement says: how it goes while it lasts, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Say = Callable[[str, float | None, str], None]
"""Hears what is being done: text, share or None, detail."""


@dataclass(frozen=True)
class ImproveReport:
    """How an improvement ended."""

    id: str
    decision: str
    """``promoted``, ``kept`` (the old model stays) or ``nothing`` (there was too little to learn from)."""
    reason: str
    parent: str
    version: str
    """The new model's reference, where it was promoted."""
    method: str
    folder: Path
    verdict: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The gate's table; see :class:`~autogpt.agent.evaluate.statistics.Row`."""
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def page(self) -> Path:
        """The HTML page."""
        return self.folder / "index.html"
