"""Several attempts at each goal: the one loop that practice, GRPO, the value head and the gate share.

Attempts at one goal are rolled out side by side, so they share its prompt's KV cache. Each is sampled under
a session of its own, which tells its draws from all others of the same seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence

from ...llm.message import Model
from ...tools.registry import Registry
from ..goals.load import Goal
from ..run.rollout import Episode, Rollout


def roll(
    goals: Sequence[Goal],
    k: int | Sequence[Collection[int]],
    model: Model,
    seed: int,
    *,
    registry: Registry,
    temperature: float,
    parallel: int = 16,
) -> Iterator[tuple[int, int, Episode]]:
    """Yield (index of the goal, number of the attempt, episode) as attempts end.

    Args:
        k: attempts at each goal, numbered from 0; or for each goal the numbers of those to make.
        seed: of the sampling. Calls with one seed repeat each other's draws: see :func:`seed_of`.
        parallel: attempts under way at once.
    """
    numbers = [range(k)] * len(goals) if isinstance(k, int) else k
    plan = [(place, number) for place, wanted in enumerate(numbers) for number in wanted]
    rollout = Rollout(model, registry, parallel=parallel, seed=seed, temperature=temperature)
    for place, episode in rollout.stream(goals[goal] for goal, _ in plan):
        yield (*plan[place], episode)


def seed_of(*parts: object) -> int:
    """Return a seed of 31 bits made from ``parts``: other parts, other draws."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1
