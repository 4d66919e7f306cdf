"""Practising: several tries at each goal, each scored by the goal's checks, kept as lines on disk.

The rollout driver plays the tries in batches. A goal that two tries out of two achieve teaches little and
gets no more of them, so that time goes to goals that are achieved sometimes. A try is kept with its token
ids, masks and log-probabilities, so that every method can learn from it. Gold answers and queries are not
read here: only the reward is, which the driver made from the checks' verdicts.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...llm.message import Model
from ...memory.experience import is_solved
from ...memory.goals import goal_hash
from ...tools.registry import Registry
from ..goals.load import Goal
from ..record.events import Event, ModelTurn
from ..record.rewards import Prices, Reward, reward_of
from ..run.rollout import Episode, Rollout
from .encode import Encoded, encode_run, sample_record, wrong_turns
from .work import Lines, read_lines

if TYPE_CHECKING:
    from ...llm.text.tokenizer import ChatTokenizer

BLOCK = 48
"""Goals that are practised together before the next ones."""
EASY = 2
"""A goal that its first so many tries all achieved gets no more."""


@dataclass(frozen=True)
class Attempt:
    """One try at a goal, or one past run of it. The three sequences have the same length."""

    goal: str
    """Hash of the goal's wording."""
    id: str
    """The goal's id: goals of the same wording over other files are different."""
    number: int
    category: str
    source: str
    """``practice``, or the run that it was."""
    status: str
    base: float
    """The reward before prices, 0 to 1."""
    value: float
    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    logprobs: tuple[float, ...]
    prefix: int
    said: str = ""
    """Its calls, for the page and to tell tries apart."""
    earned: str = "checks"
    """Where its reward comes from; see :class:`~autogpt.agent.record.rewards.Reward`."""

    @property
    def solved(self) -> bool:
        """Whether the goal was achieved."""
        return is_solved(self.base, self.earned)

    def row(self) -> dict[str, Any]:
        """Return what :func:`read_attempts` reads again."""
        return {
            **vars(self),
            "ids": list(self.ids),
            "mask": "".join("01"[value] for value in self.mask),
            "logprobs": [round(value, 5) for value in self.logprobs],
        }

    def record(self) -> dict[str, Any]:
        """Return it as a line of a training file."""
        return sample_record(self.ids, self.mask, self.prefix, self.category)


def read_attempts(path: Path) -> list[Attempt]:
    """Return the attempts of a file; a line that was cut off is left out."""
    names = {field.name for field in fields(Attempt)}
    found = []
    for row in read_lines(path):
        values = {key: value for key, value in row.items() if key in names}
        values["ids"], values["logprobs"] = tuple(row["ids"]), tuple(row["logprobs"])
        values["mask"] = tuple(mark == "1" for mark in row["mask"])
        found.append(Attempt(**values))
    return found


def attempt_of(
    tokenizer: ChatTokenizer, episode: Episode, number: int, prices: Prices, source: str = "practice"
) -> Attempt | None:
    """Return the attempt that an episode was, or None where its tokens or reward are not known."""
    reward = reward_of(episode.events, prices)
    if reward is None or episode.result is None:
        return None
    try:
        encoded = encode_attempt(tokenizer, episode.events, reward)
    except ValueError:
        return None
    goal = episode.goal
    return Attempt(
        goal_hash(goal.goal), goal.id, number, goal.category or "goals", source, episode.result.status,
        reward.base, reward.value, encoded.ids, encoded.mask, encoded.logprobs, encoded.prefix,
        said_in(episode.events), reward.source,
    )  # fmt: skip


def encode_attempt(tokenizer: ChatTokenizer, events: Sequence[Event], reward: Reward) -> Encoded:
    """Encode a run by what it was worth: a success does not teach its wrong turns, a failure is made of them.

    Raises ValueError where its tokens are not known.
    """
    unlearned = wrong_turns(events) if is_solved(reward.base, reward.source) else ()
    return encode_run(tokenizer, events, unlearned)


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
    on_done: Callable[[int, int], None] | None = None
    """Hears how many tries are done, and how many of them achieved their goal."""

    def run(self, goals: Sequence[Goal], path: Path) -> None:
        """Try every goal, and append to ``path``; what is there already is not tried again."""
        done = _tally(read_attempts(path))
        with Lines(path) as lines:
            for start in range(0, len(goals), BLOCK):
                block = goals[start : start + BLOCK]
                for wave in (range(EASY), range(EASY, self.attempts)):
                    tries = [
                        (g, n) for g in block for n in wave if n < self.attempts and wants(done[g.id], n)
                    ]
                    if self.late():
                        return
                    self._wave(tries, done, lines)

    def late(self) -> bool:
        """Whether the time is up."""
        return self.deadline is not None and time.monotonic() > self.deadline

    def _wave(
        self, tries: Sequence[tuple[Goal, int]], done: dict[str, dict[int, bool]], lines: Lines
    ) -> None:
        """Make these tries; those of one goal stand together, so that they share what is computed."""
        made = sum(map(len, done.values()))
        rollout = Rollout(
            self.model,
            self.registry,
            parallel=self.parallel,
            seed=self.seed * 1009 + made + 1,
            temperature=self.temperature,
        )
        for place, episode in rollout.stream([goal for goal, _ in tries]):
            goal, number = tries[place]
            attempt = attempt_of(self.tokenizer, episode, number, self.prices)
            done[goal.id][number] = attempt is not None and attempt.solved
            if attempt is not None:
                lines.add(attempt.row())
            if self.on_done:
                tried = [solved for made_so_far in done.values() for solved in made_so_far.values()]
                self.on_done(len(tried), sum(tried))
            if self.late():
                return


def wants(tries: Mapping[int, bool], number: int) -> bool:
    """Return whether a goal with these tries should be tried for the ``number``-th time."""
    if number in tries:
        return False
    first = [tries[n] for n in range(EASY) if n in tries]
    return not (len(first) == EASY and all(first))


def rates(attempts: Iterable[Attempt]) -> dict[str, tuple[int, int]]:
    """Return by goal how often it was solved and tried."""
    solved: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    for attempt in attempts:
        tried[attempt.goal] += 1
        solved[attempt.goal] += attempt.solved
    return {goal: (solved[goal], count) for goal, count in tried.items()}


def _tally(attempts: Iterable[Attempt]) -> dict[str, dict[int, bool]]:
    done: dict[str, dict[int, bool]] = defaultdict(dict)
    for attempt in attempts:
        done[attempt.id][attempt.number] = attempt.solved
    return done


def said_in(events: Iterable[Event]) -> str:
    """Return the calls of a run, one a line: what tells tries apart, and what the page shows."""
    calls = [event.call for event in events if isinstance(event, ModelTurn) and event.call]
    return "\n".join(
        f"{call['name']} {json.dumps(call['arguments'], ensure_ascii=False, separators=(',', ':'))}"
        for call in calls
    )
