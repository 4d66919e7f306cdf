"""Best of n: several candidates for one turn, of which one is kept.

The first candidate is decoded as the caller asked, in the session itself; the others are sampled in
sessions that share its prompt, so that the prompt is computed once. With a value head the score of a
candidate is the sum of the chances of all candidates with the same call (weighted voting; Li et al.
2023), so that several that agree outweigh a single confident one; otherwise it is the mean
log-probability of its chosen tokens. An invalid candidate loses to any valid one, and the earlier of
equals wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..engine.sequence import Request
from ..message import Turn

TEMPERATURE = 0.7
"""Temperature of the further candidates if the first is greedy: they differ, but stay sensible."""


def candidates(request: Request) -> list[Request]:
    """Return the request and its further candidates, each with a session and a seed of its own."""
    sampling = request.sampling
    drawn = sampling.temperature if sampling.temperature > 0 else TEMPERATURE
    others = [
        replace(
            request,
            session=f"{request.session}#{k}",
            sampling=replace(sampling, temperature=drawn, seed=sampling.seed + k),
        )
        for k in range(1, sampling.best_of)
    ]
    return [request, *others]


def best(turns: Sequence[Turn], chances: Sequence[float | None] | None = None) -> int:
    """Return the index of the best of ``turns``; ``chances`` are the value head's, None for invalid ones."""

    def rank(place: int) -> tuple[bool, float, int]:
        turn = turns[place]
        valid = turn.invalid is None
        if not valid:
            return valid, 0.0, -place
        if chances is not None:
            return valid, votes[_call(turn)], -place
        return valid, turn.confidence, -place

    votes: dict[str, float] = {}
    for turn, chance in zip(turns, chances or (), strict=False):
        votes[_call(turn)] = votes.get(_call(turn), 0.0) + (chance or 0.0)

    return max(range(len(turns)), key=rank)


def _call(turn: Turn) -> str:
    """Return what identifies a candidate: its call, however it was spelt in tokens."""
    return turn.text if turn.call is None else turn.call.text()
