"""GRPO: attempts at goals while training, rewarded by their checks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ....errors import UsageError
from ...evaluate.attempts import roll, seed_of
from ...open import open_registry
from ...record.rewards import Prices
from ..dataset import write_replay
from ..samples import attempt_of
from . import LEAST, Method, OnStep, Say

if TYPE_CHECKING:
    from ....llm.training.rl import Trajectory
    from ....llm.training.trainer import Report
    from ..trainer import Trainer
    from ..work import Figures, Options, Work


class Grpo(Method):
    """Group relative policy optimisation (Shao et al., 2024, arXiv:2402.03300).

    ``auto`` takes it once a version made by ``sft`` is in use: its attempts are then close to what the model
    already does.
    """

    name = "grpo"
    unit = "goals"
    practises = False
    priority = 1

    def suits(self, figures: Figures, parent: str) -> bool:
        """It wants goals, and a model that rejection sampling made."""
        return parent == "sft" and figures.goals >= LEAST

    def check(self, options: Options) -> None:
        """Refuse a single attempt as well: there is nothing to compare it with."""
        if options.attempts == 1:
            raise UsageError("--attempts 1: grpo compares the tries at a goal; take 2 or more")
        super().check(options)

    def gather(self, work: Work) -> int:
        """Write replayed samples; the goals are there."""
        write_replay(work)
        return work.state.figures.goals

    def train(self, trainer: Trainer, work: Work, on_step: OnStep, say: Say) -> Report:
        """Train on attempts at the goals."""
        options, replay = work.state.options, work.replay.path
        group: dict[str, Any] = {"group": options.attempts} if options.attempts else {}
        rounds = Rounds(trainer, work, say)
        return trainer.reinforce(
            list(rounds.goals), rounds.roll, rounds.publish, [replay] if work.state.figures.replayed else [],
            on_step, replay_share=self.replay_share(options), **group, **self.config(work),
        )  # fmt: skip


class Rounds:
    """Makes GRPO's attempts with the engine, under the adapter that was published last."""

    def __init__(self, trainer: Trainer, work: Work, say: Say) -> None:
        self.trainer, self.work, self.say = trainer, work, say
        self.goals = {goal.id: goal for goal in work.goals.read()}
        self._registry, self._prices = open_registry(), Prices.of(trainer.settings)
        self._adapter: Path | None = None
        self._count = len(work.rewards.read())
        """Rounds so far, also before a kill: no round repeats another's draws."""

    def publish(self, adapter: Path) -> None:
        """Use this adapter from now on."""
        self.trainer.unload()
        self._adapter = adapter

    def roll(self, wanted: Sequence[str], attempts: int) -> list[list[Trajectory]]:
        """Roll out ``attempts`` trajectories per goal; returns a group for each goal."""
        from ....llm.training.rl import Trajectory

        self._count += 1
        begun = time.monotonic()
        model = self.trainer.load(self._adapter)
        groups: list[list[Trajectory]] = [[] for _ in wanted]
        solved = 0
        for place, _, episode in roll(
            [self.goals[name] for name in wanted], attempts, model,
            seed_of(self.work.seed, "grpo", self._count), registry=self._registry, temperature=1.0,
            parallel=self.work.state.options.parallel,
        ):  # fmt: skip
            one = attempt_of(model.tokenizer, episode.events, self._prices)
            if one is not None:
                solved += one.solved
                groups[place].append(Trajectory(one.ids, one.mask, one.logprobs, one.value))
        self._note(groups, len(wanted) * attempts, solved, time.monotonic() - begun)
        return groups

    def _note(self, groups: Sequence[Sequence[Trajectory]], tries: int, solved: int, seconds: float) -> None:
        """Keep what a round came to, so that a resumed training counts on."""
        figures = self.work.state.figures
        figures.tries = (figures.tries or 0) + tries
        figures.solved_tries = (figures.solved_tries or 0) + solved
        figures.trying = (figures.trying or 0.0) + seconds
        self.work.save()
        rewards = [one.reward for group in groups for one in group]
        self.work.rewards.add({"tries": figures.tries, "reward": fmean(rewards) if rewards else 0.0})
        share = f"{figures.solved_tries / max(1, figures.tries):.0%}"
        self.say("trying goals", None, f"{figures.tries} tries, {share} achieved")
