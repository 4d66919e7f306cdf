"""What every engine of the comparison offers, and what is noted of a turn.

An engine plays recorded goals: it is given each turn's prompt ids and allowed calls, and answers with
one call, greedily, under a grammar. What it keeps between turns is its own affair; what it computes is
counted. Compiling the grammar belongs to the turn, for every engine alike; what was compiled earlier in
the same process may be reused, as it would be in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .recording import GoalRecord, TurnRecord

LIMIT = 400
"""Tokens that a turn may have, for every engine."""


@dataclass(frozen=True)
class Place:
    """Where the model is, and how to run it: what a worker is started with."""

    engine: str
    """``ours``, ``generate``, ``llama`` or ``xllama``."""
    folder: str
    adapter: str | None
    width: str
    """One of :data:`.plan.WIDTHS`."""
    threads: int
    options: dict[str, Any]
    transcripts: str
    scratch: str

    @property
    def label(self) -> str:
        """Name the engine, its width and what is unusual about it."""
        words = [self.engine, self.width]
        for name, value in self.options.items():
            words.append(f"no {name}" if value is False else f"{name}={value}")
        return " ".join(words)


@dataclass(frozen=True)
class Played:
    """What one turn cost. ``seconds`` is the time until its answer was there."""

    goal: int
    turn: int
    seconds: float
    ids: tuple[int, ...]
    prompt: int
    computed: int
    """Prompt tokens that went through the model in this turn."""
    forwards: float
    complete: bool
    unfed: int = 1
    """Tokens at the answer's end that no forward has taken yet: the next turn computes them first."""


class Subject(Protocol):
    """An engine with the model loaded."""

    weight_bytes: int
    """Bytes of weights that a forward of one row reads."""

    def configure(self, options: dict[str, Any]) -> None:
        """Take other options than those it was opened with, and forget everything."""
        ...

    def play(self, goals: Sequence[tuple[int, GoalRecord]], turns: int, together: int) -> list[Played]:
        """Answer the first ``turns`` turns of each goal, ``together`` goals at once if it can."""
        ...

    def fork(self, turn: TurnRecord, count: int) -> tuple[float, int]:
        """Sample ``count`` answers at temperature 1 from one prompt; return seconds and tokens."""
        ...

    def logits(self, ids: Sequence[int], places: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits ``[len(places), V]`` after each of ``places`` in ``ids``."""
        ...

    def forget(self) -> None:
        """Drop everything that is kept between turns."""
        ...


def shared(before: Sequence[int], prompt: Sequence[int]) -> int:
    """Return the length of the common prefix, at most all but one of ``prompt``."""
    limit = min(len(before), len(prompt) - 1)
    for place in range(limit):
        if before[place] != prompt[place]:
            return place
    return limit


def allowed(bitmask: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the ids whose bits are set."""
    return np.flatnonzero(np.unpackbits(bitmask.view(np.uint8), bitorder="little"))
