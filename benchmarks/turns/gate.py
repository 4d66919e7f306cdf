"""The gate that every engine and width must pass before its time counts.

Two things are asked at the places of the transcripts where a token was chosen: how far the logits are
from transformers' fp32 logits, as the root mean square of the difference over the standard deviation of
the reference; and whether the best token under the grammar is the same wherever the reference's lead
of its best over its second is larger than that error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .recording import GoalRecord, TurnRecord
from .subject import allowed

MOST_ERROR = 0.05
LEAST_AGREEMENT = 0.99


@dataclass(frozen=True)
class Verdict:
    """How near an engine's logits are to the reference."""

    error: float
    """RMS difference of the logits / standard deviation of the reference."""
    agreement: float
    """Share of the clear places where the best allowed token is the same."""
    places: int
    clear: int
    """Places whose margin is larger than the error."""

    @property
    def passed(self) -> bool:
        """Say whether both bounds hold."""
        return self.error <= MOST_ERROR and self.agreement >= LEAST_AGREEMENT

    def as_json(self) -> dict[str, Any]:
        """Return the figures and whether they pass."""
        return {**asdict(self), "passed": self.passed}


def gate(
    reference: NDArray[np.float32], logits: NDArray[np.float32], may: Sequence[NDArray[np.int64]]
) -> Verdict:
    """Compare ``logits [P, V]`` with ``reference [P, V]``; ``may[i]`` are the ids the grammar has at place i.

    V may differ by padding: what both have is compared.
    """
    width = min(reference.shape[1], logits.shape[1])
    reference, logits = reference[:, :width], logits[:, :width]
    difference = float(np.sqrt(np.mean(np.square(logits - reference, dtype=np.float64))))
    spread = float(np.mean(reference.std(1, dtype=np.float64)))
    clear = same = 0
    for row, other, ids in zip(reference, logits, may, strict=True):
        best, second = np.sort(row[ids])[::-1][:2]
        if best - second > difference:
            clear += 1
            same += int(ids[row[ids].argmax()] == ids[other[ids].argmax()])
    error = difference / spread if np.isfinite(difference) else float("inf")
    return Verdict(error, same / clear if clear else 1.0, len(reference), clear)


def sample_goals(goals: Sequence[GoalRecord], count: int) -> list[GoalRecord]:
    """Return ``count`` goals spread over all kinds."""
    if count >= len(goals):
        return list(goals)
    return [goals[i * len(goals) // count] for i in range(count)]


def decisions(turn: TurnRecord, compiler: Any) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield the places of one turn where there was a choice, and the ids that were allowed there."""
    matcher = compiler.compile(turn.calls).matcher()
    for place, (token, forced) in enumerate(zip(turn.said, turn.forced, strict=True)):
        if not forced:
            ids = allowed(matcher.bitmask())
            if len(ids) > 1:
                yield len(turn.prompt) + place - 1, ids
        if not matcher.consume(token):
            return
