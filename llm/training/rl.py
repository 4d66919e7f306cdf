"""Learning from rewards: GRPO on attempts that our own engine and driver made.

Group relative policy optimisation (Shao et al., 2024, arXiv:2402.03300): several attempts at one goal form a
group, an attempt's advantage is its reward against the group's mean, and each token that the model chose is
made likelier or less likely by it (``losses.grpo``; the mean over the tokens of the step, as in DAPO). The
attempts come from a callable. Tool results and tokens that the grammar forced carry no loss.

Two distributions. The engine draws from ``mu``, the model's distribution cut to what the grammar allows and
renormalised; the trainer's forward sees the whole one, ``pi``. With ``Z`` the mass that the grammar allows,
``log pi(a) = log mu(a) + log Z``: even without numerical error the trainer's value is the lower. What is
deployed, and so improved, is ``mu``, whose gradient is that of ``log pi(a) - log Z``. ``Z`` depends on the
place and not on the token, so the part left out has, like a baseline, mean zero under advantages that have
mean zero; it adds noise, no direction. Hence the ratio that is clipped has trainer-side values on both sides,
the old ones computed once when a round begins. Numerical differences (packed weights, rounded adapter)
enter as an importance weight on the advantage, ``pi_old(a) / mu(a)`` truncated to ``[1 / truncate,
truncate]``: it cannot be told from ``Z``, which needs no correction, so it is bounded on both sides. The mean
and largest absolute difference are reported with every round; on tokens where ``Z`` is 1 they are what
engine and trainer disagree about.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from types import SimpleNamespace
from typing import TYPE_CHECKING

from pydantic import Field

from ...errors import UsageError
from . import losses
from .adapter_run import AdapterRun, Means, ReplayConfig, digest, open_run, optimise
from .data import Sample
from .logprobs import Row, Scores, row_logprobs
from .monitor import repetition
from .trainer import Progress, Report

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


@dataclass(frozen=True)
class Trajectory:
    """One whole attempt at a goal, as token ids."""

    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    """True where the model chose the token."""
    logprobs: tuple[float, ...]
    """Natural log under the engine's masked distribution at its temperature; 0.0 where not chosen."""
    reward: float


Roll = Callable[[Sequence[str], int], Sequence[Sequence[Trajectory]]]
"""``(goals, attempts of each)`` to groups, in the goals' order, from the policy that was published last."""


class GrpoConfig(ReplayConfig):
    """How to learn from rewards."""

    goals_per_step: int = Field(default=4, gt=0)
    group: int = Field(default=8, ge=2)
    """Attempts at each goal."""
    updates: int = Field(default=1, gt=0)
    """Optimiser steps on each round of attempts."""
    kl: float = Field(default=0.02, ge=0)
    """Price of a nat of divergence from the current model."""
    clip: float = Field(default=0.2, gt=0, lt=1)
    """How far below 1 a ratio of new and old probability counts."""
    clip_high: float = Field(default=0.28, gt=0)
    """And how far above."""
    truncate: float = Field(default=2.0, ge=1)
    """Largest importance weight of trainer against engine; its inverse is the smallest."""
    temperature: float = Field(default=1.0, gt=0)
    """That of the attempts."""
    dead: float = Field(default=0.05, ge=0)
    """A group whose rewards differ by no more than this teaches nothing: other goals are tried instead."""
    resample: int = Field(default=2, ge=0)
    """How often in a round dead groups are replaced by other goals."""


class _Rounds:
    """The objective of GRPO: draws goals, learns from a round of attempts at them."""

    def __init__(
        self,
        config: GrpoConfig,
        run: AdapterRun,
        goals: Sequence[str],
        roll: Roll,
        publish: Callable[[Path], None],
    ) -> None:
        self.temperature = config.temperature
        self._config, self._run, self._goals, self._roll, self._publish = config, run, goals, roll, publish
        self._first = [weight.detach().clone() for weight in run.weights]
        self._round = -1
        self._tokens = 0
        self._rows: list[Row] = []
        self._old: list[Tensor] = []
        self._reference: list[Tensor] = []
        self._advantages: list[Tensor] = []

    def prepare(self, items: Sequence[int], figures: dict[str, float]) -> Sequence[int]:
        """Make a round of attempts at the goals where one is due; returns all attempts to learn from."""
        number = self._run.state.step // self._config.updates
        if number != self._round:
            self._publish(self._run.write(self._run.state))
            self._score(self._attempts([self._goals[i] for i in items], figures), figures)
            self._round = number
        return range(len(self._rows))

    def rows(self, item: int) -> Sequence[Row]:
        """Return the one row of an attempt."""
        return (self._rows[item],)

    def loss(self, items: Sequence[int], scores: Scores, means: Means) -> Tensor:
        """Return the attempts' part of the loss, the mean over the tokens of the step."""
        import torch

        def flat(values: Sequence[Tensor]) -> Tensor:
            return torch.cat([values[i] for i in items])

        config = self._config
        policy, old, advantage = torch.cat(scores.logprobs), flat(self._old), flat(self._advantages)
        reference = flat(self._reference) if config.kl else None
        if reference is not None:
            means.add("kl", losses.divergence(policy.detach(), reference))
        cut = losses.clipped(policy.detach(), old, advantage, config.clip, config.clip_high)
        means.add("clip_ratio/region_mean", cut.float())
        each = losses.grpo(policy, old, advantage, config.clip, config.clip_high, reference, config.kl)
        return each.sum() / self._tokens

    def _attempts(self, wanted: Sequence[str], figures: dict[str, float]) -> list[tuple[Trajectory, float]]:
        """Return attempts with their advantages, from groups whose rewards differ."""
        config = self._config
        rng = random.Random(f"{config.seed}:spare:{self._run.state.step}")
        spare = [goal for goal in self._goals if goal not in wanted]
        rng.shuffle(spare)
        live: list[tuple[Trajectory, float]] = []
        made: list[Trajectory] = []
        dead = tried = 0
        for _ in range(config.resample + 1):
            groups = self._roll(wanted, config.group)
            if len(groups) != len(wanted):
                raise UsageError(f"{len(groups)} groups of attempts came for {len(wanted)} goals")
            missing = 0
            for group in groups:
                rewards = [one.reward for one in group]
                made += group
                if len(rewards) < 2 or max(rewards) - min(rewards) <= config.dead:
                    missing += 1
                else:
                    live += zip(group, losses.advantages(rewards), strict=True)
            tried, dead = tried + len(groups), dead + missing
            wanted, spare = spare[:missing], spare[missing:]
            if not wanted:
                break
        if not made:
            raise UsageError("no try of a whole round could be learned from: do the goals fit the model?")
        figures.update(
            reward=fmean(one.reward for one in made),
            reward_best=max(one.reward for one in made),
            length=fmean(sum(one.mask) for one in made),
            repetition=fmean(repetition(one.ids, one.mask) for one in made),
            dead_groups=dead / tried,
        )
        return live

    def _score(self, attempts: Sequence[tuple[Trajectory, float]], figures: dict[str, float]) -> None:
        """Compute what the loss needs of each attempt before the weights move."""
        import torch

        run, config = self._run, self._config
        kept = [(t, a) for t, a in attempts if any(t.mask[1:]) and len(t.ids) <= config.longest]
        self._rows = [Row(t.ids, (False, *t.mask[1:])) for t, _ in kept]
        self._tokens = sum(sum(row.mask) for row in self._rows)
        self._advantages, self._reference = [], []
        if not kept:
            return
        settings = (run.core, self._rows, config.micro_tokens, run.autocast, config.temperature)
        self._old = row_logprobs(*settings)
        if config.kl:
            with self._at_first():
                self._reference = row_logprobs(*settings)
        differences = []
        for (attempt, advantage), row, old in zip(kept, self._rows, self._old, strict=True):
            said = [value for value, own in zip(attempt.logprobs, row.mask, strict=True) if own]
            engine = torch.tensor(said, device=old.device)
            differences.append((old - engine).abs())
            self._advantages.append(advantage * losses.importance(old, engine, config.truncate))
        apart = torch.cat(differences)
        figures.update(mismatch_mean=float(apart.mean()), mismatch_most=float(apart.max()))

    @contextmanager
    def _at_first(self) -> Iterator[None]:
        """Give the run, for a while, the weights that it started from."""
        import torch

        now = [weight.detach().clone() for weight in self._run.weights]
        try:
            with torch.no_grad():
                for weight, value in zip(self._run.weights, self._first, strict=True):
                    weight.copy_(value)
            yield
        finally:
            with torch.no_grad():
                for weight, value in zip(self._run.weights, now, strict=True):
                    weight.copy_(value)


def train_grpo(
    config: GrpoConfig,
    goals: Sequence[str],
    roll: Roll,
    publish: Callable[[Path], None],
    replay: Sequence[Sample] = (),
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Train an adapter on the rewards of attempts, or go on with the run that ``config.out`` holds.

    A run that was killed within a round makes that round's attempts again.

    Args:
        goals: names of checkable goals, for ``roll``.
        roll: makes attempts; called once a round and again for goals that replace dead groups.
        publish: called before each round with the adapter's folder: ``roll`` must use it from then on.
        replay: samples of ordinary fine-tuning to mix in.
        progress: called after each step; default prints to the terminal.

    Raises:
        Collapse: repetition, entropy, length or rewards say that the policy has come apart.
        UsageError: no goals, groups that do not fit, or the checkpoint belongs to another run.
        ModelUnavailable: the base is missing or damaged.
    """
    if not goals:
        raise UsageError("no goals to practise on: name goals with checks")
    per_step = min(config.goals_per_step, len(goals))
    facts = {"kl": config.kl, "group": config.group, "replay_share": config.replay_share if replay else 0.0}
    run = open_run(
        config, "grpo", digest([SimpleNamespace(goal=goal) for goal in goals], replay), per_step, facts
    )
    objective = _Rounds(config, run, goals, roll, publish)
    return optimise(run, config, objective, len(goals), per_step, replay, progress, config.updates)
