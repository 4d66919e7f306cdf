"""Best of n: several candidates for one turn, of which one is kept.

The first candidate decodes as the caller asked, in the session itself; the others are drawn in
sessions that share its prompt, so that the prompt is computed once. The best is the one with the
highest score: what a caller's scorer says; else, where the model has a value head, the sum of the
chances of all candidates that are the same call (several that agree outweigh one that is sure of
itself; Li et al. 2023 call it weighted voting); else the mean log-probability of its chosen tokens. An
invalid candidate loses against any valid one, and the earlier of equals wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..engine.sequence import Request
from ..message import Prompt, Turn

Scorer = Callable[[Prompt, Turn], float]
"""From a prompt and a candidate to how good it is; larger is better."""

TEMPERATURE = 0.7
"""Of the further candidates where the first is greedy: enough to differ, little enough to be sane."""


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


def best(
    prompt: Prompt,
    turns: Sequence[Turn],
    scorer: Scorer | None = None,
    chances: Sequence[float | None] | None = None,
) -> int:
    """Return the place of the best of ``turns``; ``chances`` are the value head's, None for invalid ones."""

    def rank(place: int) -> tuple[bool, float, int]:
        turn = turns[place]
        valid = turn.invalid is None
        if not valid:
            return valid, 0.0, -place
        if scorer is not None:
            return valid, scorer(prompt, turn), -place
        if chances is not None:
            return valid, votes[_call(turn)], -place
        return valid, turn.confidence, -place

    votes: dict[str, float] = {}
    for turn, chance in zip(turns, chances or (), strict=False):
        votes[_call(turn)] = votes.get(_call(turn), 0.0) + (chance or 0.0)

    return max(range(len(turns)), key=rank)


def _call(turn: Turn) -> str:
    """Return what makes two candidates the same: the call, however it was reached."""
    return turn.text if turn.call is None else turn.call.text()
