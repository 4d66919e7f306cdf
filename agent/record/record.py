"""A run's events as one record: the first, the last, and the kinds in between.

For readers that ask for single events; what a whole run means is folded in :mod:`.state`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from .events import Event, ModelTurn, RunEnded, RunStarted, ToolOutcome, ToolSpec, ToolsShown

_E = TypeVar("_E", bound=Event)


@dataclass(frozen=True)
class Record:
    """A view of a run's events, oldest first; it sees events that are appended later."""

    events: Sequence[Event]

    @property
    def started(self) -> RunStarted:
        """The first event. Raises ValueError where it is missing."""
        first = self.events[0] if self.events else None
        if not isinstance(first, RunStarted):
            raise ValueError("a run begins with run.started")
        return first

    @property
    def ended(self) -> RunEnded | None:
        """The end of the run, None while it can still go on."""
        return self.last(RunEnded)

    @property
    def turns(self) -> list[ModelTurn]:
        """The model's turns."""
        return self.of(ModelTurn)

    @property
    def specs(self) -> dict[str, ToolSpec]:
        """Every tool that was ever described in the run, by name."""
        later = (spec for event in self.of(ToolsShown) for spec in event.tools)
        return {spec.name: spec for spec in (*self.started.tools, *later)}

    @property
    def outcomes(self) -> list[ToolOutcome]:
        """The outcomes of calls, the driver's included."""
        return self.of(ToolOutcome)

    def of(self, kind: type[_E]) -> list[_E]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def last(self, kind: type[_E]) -> _E | None:
        """Return the newest event of a kind, None where there is none."""
        return next((event for event in reversed(self.events) if isinstance(event, kind)), None)
