"""Practice: several attempts at each goal, scored by the goal's checks and appended to a file.

A goal that its first two attempts both achieve teaches little and gets no more of them, so time goes to goals
that are achieved sometimes. An attempt is kept with its token ids, masks and log-probabilities, so every
method can learn from it. Gold answers and queries are not read here: only the reward is, which the driver
made from the checks' verdicts.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from ...llm.message import Model
from ...llm.text.tokenizer import ChatTokenizer
from ...tools.registry import Registry
from ..evaluate.attempts import roll, seed_of
from ..goals.load import Goal
from ..record.rewards import Prices
from .samples import Attempt, attempt_of
from .work import JsonLines

BLOCK = 48
"""Goals that are attempted together before the next ones."""
EASY = 2
"""A goal that its first attempts, this many, all achieve gets no more."""


def make_attempts(
    goals: Sequence[Goal],
    k: int,
    file: JsonLines[Attempt],
    model: Model,
    seed: int,
    *,
    registry: Registry,
    tokenizer: ChatTokenizer,
    prices: Prices,
    temperature: float,
    parallel: int,
    deadline: float | None,
) -> Iterator[tuple[int, int]]:
    """Make ``k`` attempts at each goal and append them to ``file``; those that are there are not repeated.

    Yields after each attempt how many there are, and how many of them achieved their goal. ``deadline`` is a
    moment of ``time.monotonic``; None: until all are made.
    """
    done: dict[str, dict[int, bool]] = defaultdict(dict)
    for attempt in file.read():
        done[attempt.id][attempt.number] = attempt.solved
    waves = (range(min(EASY, k)), range(EASY, k))
    for block, wave in ((start, wave) for start in range(0, len(goals), BLOCK) for wave in waves):
        chosen = goals[block : block + BLOCK]
        if deadline is not None and time.monotonic() > deadline:
            return
        numbers = [[n for n in wave if wants(done[goal.id], n)] for goal in chosen]
        for place, number, episode in roll(
            chosen, numbers, model, seed_of(seed, "practice", sum(map(len, done.values()))),
            registry=registry, temperature=temperature, parallel=parallel,
        ):  # fmt: skip
            made = attempt_of(tokenizer, episode.events, prices, number)
            done[chosen[place].id][number] = made is not None and made.solved
            if made is not None:
                file.add(made)
            solved = [one for tries in done.values() for one in tries.values()]
            yield len(solved), sum(solved)
            if deadline is not None and time.monotonic() > deadline:
                return


def wants(tries: Mapping[int, bool], number: int) -> bool:
    """Return whether a goal with these attempts (solved or not, by number) should get the ``number``-th."""
    if number in tries:
        return False
    first = [tries[n] for n in range(EASY) if n in tries]
    return not (len(first) == EASY and all(first))
