"""The reward of a run: one number computed from its events, with its parts and their sources.

What was earned comes from a person's ratings, else from the goal's checks, else from a judge's ratings;
all of them are kept, and the first of these is the base. From the base small prices are taken for turns,
errors and approvals that were asked for (settings ``reward_*``), together at most ``reward_most``, and the
value never falls below 0: a goal that was not met is worth nothing, however quickly, or failing fast
would be learned. Nothing that a tool returned, a file holds or the model wrote is read here: only
``rating`` and ``run.ended`` (the checks' verdict) earn, and these a person or the driver appends. A number
outside 0 to 1 (a journal from elsewhere may hold one) counts as not said.

In a conversation each message has its own reward, from the ratings that follow it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from .events import (
    Event,
    ModelTurn,
    PersonAsked,
    PersonSaid,
    Rating,
    RunStarted,
    ToolOutcome,
)
from .record import Record

if TYPE_CHECKING:
    from ...settings import Settings

Source = Literal["checks", "person", "judge"]


@dataclass(frozen=True)
class Prices:
    """What the way to a result costs; see the settings of these names."""

    step: float = 0.005
    error: float = 0.02
    approval: float = 0.02
    most: float = 0.2

    @classmethod
    def of(cls, settings: Settings) -> Prices:
        """Return the prices that the settings name."""
        return cls(
            settings.reward_step, settings.reward_error, settings.reward_approval, settings.reward_most
        )


@dataclass(frozen=True)
class Parts:
    """What a reward was made of: what each source gave (None: nothing), and what was taken off."""

    person: float | None = None
    """Mean of the ratings, of each person the last."""
    checks: float | None = None
    """Fraction of the goal's checks that passed."""
    judge: float | None = None
    steps: float = 0.0
    errors: float = 0.0
    approvals: float = 0.0


@dataclass(frozen=True)
class Reward:
    """What a run, or a message of a conversation, was worth: 0 to 1."""

    value: float
    parts: Parts
    source: Source
    """Where the base comes from."""

    @property
    def base(self) -> float:
        """The value before prices."""
        base: float = getattr(self.parts, self.source)
        return base


def reward_of(events: Sequence[Event], prices: Prices | None = None) -> Reward | None:
    """Return the reward of a run (or of the events of one message), None where nothing says it."""
    prices = prices or Prices()
    person, judge, checks = _ratings(events, "person"), _ratings(events, "judge"), _checks(events)
    turns = [event for event in events if isinstance(event, ModelTurn)]
    failed = [
        event
        for event in events
        if isinstance(event, ToolOutcome) and event.by == "model" and event.state != "done"
    ]
    asked = [event for event in events if isinstance(event, PersonAsked) and event.kind == "approval"]
    errors = len(failed) + sum(turn.call is None for turn in turns)
    parts = Parts(
        person,
        checks,
        judge,
        prices.step * len(turns),
        prices.error * errors,
        prices.approval * len(asked),
    )
    earned: list[tuple[Source, float | None]] = [("person", person), ("checks", checks), ("judge", judge)]
    for source, base in earned:
        if base is not None:
            price = min(prices.most, parts.steps + parts.errors + parts.approvals)
            return Reward(max(0.0, base - price), parts, source)
    return None


def source_of(rating: Rating) -> Source:
    """Return who gave the rating: a person, or a judge for every source other than ``user``."""
    return "person" if rating.source == "user" else "judge"


def last_ratings(events: Sequence[Event], source: Source) -> dict[str, Rating]:
    """Return the ratings that count: by who gave it, the last of each."""
    return {
        event.by: event
        for event in events
        if isinstance(event, Rating) and source_of(event) == source and 0.0 <= event.value <= 1.0
    }


def _ratings(events: Sequence[Event], source: Source) -> float | None:
    found = last_ratings(events, source).values()
    return sum(rating.value for rating in found) / len(found) if found else None


def _checks(events: Sequence[Event]) -> float | None:
    """Return the fraction of checks passed, as the run's end records it: 0 if it ended before them, None
    for a run without checks, whether it ended ``answered`` or ``not_met``."""
    ended = Record(events).ended
    if ended is None or ended.reward is None or not 0.0 <= ended.reward <= 1.0:
        return None
    return ended.reward


def last_span(events: Sequence[Event]) -> range:
    """Return the places of the last of :func:`spans`; none where nothing was said yet."""
    return next(reversed(list(spans(events))), range(0))


def spans(events: Sequence[Event]) -> Iterator[range]:
    """Yield the places of the events of each message of a conversation; of a goal, of all but the first."""
    first = events[0] if events else None
    if not isinstance(first, RunStarted):
        raise ValueError("a run begins with run.started")
    if first.mode != "chat":
        yield range(1, len(events))
        return
    begins = [place for place, event in enumerate(events) if isinstance(event, PersonSaid)]
    for begin, end in pairwise([*begins, len(events)]):
        yield range(begin, end)
