"""Which method learns from what there is, and the training of a candidate by each.

``auto``: enough pairs from corrections mean DPO, enough ratings of both kinds KTO. Else goals that check
themselves: kept-best fine-tuning (``sft``), and GRPO once a version made by ``sft`` is in use, because
its attempts are then close to what the model already does. What people said is not learned twice in turn:
the improvement after one by DPO or KTO is by goals. A privacy budget allows ``sft`` and ``dpo``.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from ...tools.registry import Registry
from ..goals.load import Goal
from ..record.rewards import Prices
from ..run.rollout import Rollout
from . import preferences
from .attempts import attempt_of, read_attempts
from .machine import Machine
from .work import Options, Work

if TYPE_CHECKING:
    from ...llm.training.rl import Trajectory
    from ...llm.training.trainer import Progress, Report

LEAST_KEPT = 8
"""Successes, pairs, ratings or goals below which nothing is trained."""
LEAST_PAIRS = 20
"""Corrections from which ``auto`` learns from them."""
LEAST_RATED = 32
"""Ratings from which it does: as many more as a fifth of all are held out then, enough to have a say."""
LEAST_OF_KIND = 5
"""Of these, at least so many up and so many down for KTO."""
RATES = {"sft": 3e-4, "dpo": 5e-5, "kto": 8e-5, "grpo": 5e-5}
"""Peak learning rates: an adapter goes on, so less than at its first training."""
FULL_RATE = 2e-5
"""That of all weights."""
EPOCHS = {"sft": 2.0, "dpo": 2.0, "kto": 4.0, "grpo": 2.0}
LEAST_SHARE = {"kto": 0.5}
"""Of replayed samples in a step: fifty ratings need many steps, and tasks suffer beside less (`LOG.md`)."""

OnStep = Callable[["Progress"], None]


def choose(options: Options, facts: Mapping[str, Any], parent_method: str) -> str:
    """Return the method; ``parent_method`` is how the model in use was made, empty if not by improving."""
    if options.method != "auto":
        method: str = options.method
    elif options.full:
        method = "sft"
    elif facts.get("pairs", 0) >= LEAST_PAIRS and parent_method != "dpo":
        method = "dpo"
    elif (
        facts.get("thumbs", 0) >= LEAST_RATED
        and parent_method != "kto"
        and min(facts.get("thumbs_up", 0), facts.get("thumbs_down", 0)) >= LEAST_OF_KIND
    ):
        method = "kto"
    else:
        goals = facts.get("goals", 0) >= LEAST_KEPT
        method = "grpo" if parent_method == "sft" and goals and not options.dp_epsilon else "sft"
    if method == "grpo" and options.attempts == 1:
        raise UsageError("--attempts 1: grpo compares the tries at a goal; take 2 or more")
    if options.full and (method != "sft" or options.dp_epsilon):
        raise UsageError(f"--full: {'a privacy budget' if options.dp_epsilon else method} trains an adapter; "
                         "take --method sft alone")  # fmt: skip
    if options.dp_epsilon and method not in ("sft", "dpo"):
        raise UsageError(f"--dp-epsilon: {method} cannot keep a privacy budget; take --method sft or dpo")
    return method


def gather(work: Work, method: str) -> int:
    """Write what DPO or KTO learn from, people's word first, and return how many there are."""
    practised = read_attempts(work.folder / "attempts.jsonl")
    if method == "dpo":
        pairs = [preferences.pair_of(row) for row in work.read("said_pairs.jsonl")]
        pairs += preferences.attempt_pairs(practised)
        work.write("pairs_in.jsonl", map(preferences.pair_row, pairs))
        return len(pairs)
    rated = [preferences.rated_of(row) for row in work.read("said_rated.jsonl")]
    rated += preferences.attempt_thumbs(practised)
    work.write("rated_in.jsonl", map(vars, rated))
    return len(rated)


def settings_for(options: Options, method: str, left: float | None, seed: int) -> dict[str, Any]:
    """Return what a method's configuration shares; ``left``: seconds of the budget."""
    share = max(options.replay, LEAST_SHARE.get(method, 0.0)) if options.replay else 0.0
    mixed: dict[str, Any] = {} if method == "sft" else {"replay_share": share}  # there it is in the samples
    if method == "grpo" and options.attempts:
        mixed["group"] = options.attempts
    return mixed | {
        "epochs": options.epochs or EPOCHS[method],
        "minutes": None if left is None else max(left / 60, 0.2),
        "learning_rate": options.learning_rate or (FULL_RATE if options.full else RATES[method]),
        "seed": seed,
    }


def fit_said(work: Work, machine: Machine, method: str, on_step: OnStep, config: dict[str, Any]) -> Report:
    """Train by DPO or KTO on what :func:`gather` wrote."""
    replay = [work.folder / "replay.jsonl"] if (work.folder / "replay.jsonl").is_file() else []
    if method == "dpo":
        pairs = [preferences.pair_of(row) for row in work.read("pairs_in.jsonl")]
        return machine.prefer("dpo", pairs, replay, on_step, **config)
    rated = [preferences.rated_of(row) for row in work.read("rated_in.jsonl")]
    return machine.prefer("kto", rated, replay, on_step, **config)


class Rolls:
    """Makes GRPO's attempts with the engine, from whichever adapter was published last."""

    def __init__(
        self,
        goals: Sequence[Goal],
        machine: Machine,
        registry: Registry,
        prices: Prices,
        options: Options,
        seed: int,
        say: Callable[[Rolls, float], None],
    ) -> None:
        self.goals = {goal.id: goal for goal in goals}
        self.machine, self.registry, self.prices, self.options = machine, registry, prices, options
        self.adapter: Path | None = None
        self.tally: Counter[str] = Counter()
        self.seconds = 0.0
        """Spent on trying."""
        self.seed = seed
        self._say = say
        self._count = 0

    def go_on(self, rounds: int, facts: Mapping[str, Any]) -> None:
        """Count on from what a killed training had tried, so that no round draws the same again."""
        self._count = rounds
        self.tally.update(tries=facts.get("tries", 0), solved=facts.get("solved_tries", 0))
        self.seconds = facts.get("trying", 0.0)

    def publish(self, adapter: Path) -> None:
        """Use this adapter from now on."""
        self.machine.unload()
        self.adapter = adapter

    def roll(self, wanted: Sequence[str], attempts: int) -> list[list[Trajectory]]:
        """Try each goal so many times; its tries share what they have computed."""
        from ...llm.training.rl import Trajectory

        self._count += 1
        model = self.machine.load(self.adapter)
        goals = [self.goals[name] for name in wanted for _ in range(attempts)]
        begun = time.monotonic()
        rollout = Rollout(
            model,
            self.registry,
            parallel=self.options.parallel,
            seed=self.seed * 1009 + random.Random(f"{self._count}").randrange(1 << 30),
            temperature=1.0,
        )
        groups: list[list[Trajectory]] = [[] for _ in wanted]
        for number, episode in enumerate(rollout.run(goals)):
            attempt = attempt_of(model.tokenizer, episode, number, self.prices)
            self.tally["tries"] += 1
            self.tally["solved"] += bool(attempt and attempt.solved)
            if attempt is not None:
                groups[number // attempts].append(
                    Trajectory(attempt.ids, attempt.mask, attempt.logprobs, attempt.value)
                )
        self.seconds += time.monotonic() - begun
        rewards = [one.reward for group in groups for one in group]
        self._say(self, fmean(rewards) if rewards else 0.0)
        return groups
