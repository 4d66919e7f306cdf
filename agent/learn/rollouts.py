"""Practice: several attempts at each goal, scored by the goal's checks and appended to a file.

A goal that its first two attempts both achieve teaches little and gets no more of them, so time goes to goals
that are achieved sometimes. An attempt is kept with its token ids, masks and log-probabilities, so every
method can learn from it. Gold answers and queries are not read here: only the reward is, which the driver
made from the checks' verdicts.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

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


@dataclass
class Practice:
    """How to practise. ``deadline`` is a moment of ``time.monotonic``; None: until all is tried."""

    model: Model
    tokenizer: ChatTokenizer
    registry: Registry
    prices: Prices
    attempts: int
    temperature: float
    parallel: int
    seed: int
    deadline: float | None = None
    on_done: Callable[[int, int], None] = lambda tried, solved: None
    """Called after each attempt: how many there are, and how many of them achieved their goal."""

    def run(self, goals: Sequence[Goal], file: JsonLines[Attempt]) -> None:
        """Attempt every goal and append to ``file``; attempts that are there already are not repeated."""
        done: dict[str, dict[int, bool]] = defaultdict(dict)
        for attempt in file.read():
            done[attempt.id][attempt.number] = attempt.solved
        for start in range(0, len(goals), BLOCK):
            block = goals[start : start + BLOCK]
            for wave in (range(min(EASY, self.attempts)), range(EASY, self.attempts)):
                numbers = [[n for n in wave if wants(done[goal.id], n)] for goal in block]
                if not self._wave(block, numbers, done, file):
                    return

    def _wave(
        self,
        goals: Sequence[Goal],
        numbers: Sequence[Collection[int]],
        done: Mapping[str, dict[int, bool]],
        file: JsonLines[Attempt],
    ) -> bool:
        """Make these attempts; returns False where the time is up."""
        if self._late():
            return False
        seed = seed_of(self.seed, "practice", sum(map(len, done.values())))
        for place, number, episode in roll(
            goals, numbers, self.model, seed,
            registry=self.registry, temperature=self.temperature, parallel=self.parallel,
        ):  # fmt: skip
            attempt = attempt_of(self.tokenizer, episode.events, self.prices, number)
            done[goals[place].id][number] = attempt is not None and attempt.solved
            if attempt is not None:
                file.add(attempt)
            solved = [one for tries in done.values() for one in tries.values()]
            self.on_done(len(solved), sum(solved))
            if self._late():
                return False
        return True

    def _late(self) -> bool:
        return self.deadline is not None and time.monotonic() > self.deadline


def wants(tries: Mapping[int, bool], number: int) -> bool:
    """Return whether a goal with these attempts (solved or not, by number) should get the ``number``-th."""
    if number in tries:
        return False
    first = [tries[n] for n in range(EASY) if n in tries]
    return not (len(first) == EASY and all(first))
