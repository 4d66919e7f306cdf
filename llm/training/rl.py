"""Learning from rewards: GRPO on attempts that our own engine and driver made.

Group relative policy optimisation (Shao et al., 2024, arXiv:2402.03300): several attempts at one goal
form a group, an attempt's advantage is its reward against the group's mean, and each token that the
model chose is made likelier or less likely by it. The loss is TRL's (token mean over the step, as in
DAPO, arXiv:2503.14476; clipped ratio; KL to the current model by the k3 estimator); the attempts come
from a callable, because TRL's own generation knows neither our grammar nor our tools: TRL's
``rollout_func`` would still batch, pad, score and shuffle them its own way, and corrects mismatches for
vLLM alone. Tool results and tokens that the grammar forced carry no loss.

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
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ...errors import UsageError
from .console import Progress
from .data import Sample
from .logprobs import Row, pad, row_logprobs, spread
from .monitor import repetition
from .pace import Report
from .policy import MixedConfig, PolicyRun, digest, open_run
from .trl_common import train

if TYPE_CHECKING:
    from pathlib import Path

    import torch


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


class GrpoConfig(MixedConfig):
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


_LEAST_SPREAD = 0.25
"""Rewards are divided by their deviation, but not by less: small prices stay small."""


def advantages(rewards: Sequence[float]) -> list[float]:
    """Return each reward against the group's mean, in deviations of the group (at least 0.25)."""
    mean, spread_ = fmean(rewards), pstdev(rewards)
    return [(reward - mean) / max(spread_, _LEAST_SPREAD) for reward in rewards]


def importance(ours: torch.Tensor, engines: torch.Tensor, truncate: float) -> torch.Tensor:
    """Return ``exp(ours - engines)`` of two log-probabilities, truncated to ``[1 / truncate, truncate]``."""
    return (ours - engines).exp().clamp(1 / truncate, truncate)


class _Rounds:
    """Rounds of attempts as TRL's GRPO loss reads them."""

    def __init__(
        self,
        config: GrpoConfig,
        run: PolicyRun,
        goals: Sequence[str],
        roll: Roll,
        publish: Callable[[Path], None],
    ) -> None:
        self.count, self.drift, self.temperature = len(goals), 0.0, config.temperature
        self.current: Sequence[Row] = ()
        self._config, self._run, self._goals, self._roll, self._publish = config, run, goals, roll, publish
        self._first = [weight.detach().clone() for weight in run.weights]
        self._round = -1
        self._rows: list[Row] = []
        self._old: list[torch.Tensor] = []
        self._reference: list[torch.Tensor] = []
        self._advantages: list[torch.Tensor] = []

    def rows(self, item: int) -> Sequence[Row]:
        """The one row of an attempt."""
        return (self._rows[item],)

    def referred(self) -> Sequence[Row]:
        """None beforehand: attempts are made on the way."""
        return ()

    def refer(self, sums: Sequence[float]) -> None:
        """Nothing."""

    def before(self, items: Sequence[int]) -> Sequence[int]:
        """Make a round of attempts where one is due; returns all attempts that teach something."""
        number = self._run.state.step // self._config.updates
        if number != self._round:
            self._publish(self._run.write(self._run.state))
            attempts = self._attempts([self._goals[i] for i in items])
            self._prepare(attempts)
            self._round = number
        return range(len(self._rows))

    def _attempts(self, wanted: Sequence[str]) -> list[tuple[Trajectory, float]]:
        """Return attempts with their advantages, from groups whose rewards differ."""
        config, notes = self._config, self._run.notes
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
                    live += zip(group, advantages(rewards), strict=True)
            tried, dead = tried + len(groups), dead + missing
            wanted, spare = spare[:missing], spare[missing:]
            if not wanted:
                break
        if not made:
            raise UsageError("no try of a whole round could be learned from: do the goals fit the model?")
        notes.update(
            reward=fmean(one.reward for one in made),
            reward_best=max(one.reward for one in made),
            length=fmean(sum(one.mask) for one in made),
            repetition=fmean(repetition(one.ids, one.mask) for one in made),
            dead_groups=dead / tried,
        )
        return live

    def _prepare(self, attempts: Sequence[tuple[Trajectory, float]]) -> None:
        """Compute what the loss needs of each attempt before the weights move."""
        import torch

        run, config = self._run, self._config
        kept = [(t, a) for t, a in attempts if any(t.mask[1:]) and len(t.ids) <= config.longest]
        self._rows = [Row(t.ids, (False, *t.mask[1:])) for t, _ in kept]
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
            self._advantages.append(advantage * importance(old, engine, config.truncate))
        apart = torch.cat(differences)
        run.notes.update(mismatch_mean=float(apart.mean()), mismatch_most=float(apart.max()))

    @contextmanager
    def _at_first(self) -> Iterator[None]:
        """Within it the weights are those of the current model."""
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

    def batch(self, items: Sequence[int]) -> dict[str, Any]:
        """The first token as TRL's prompt, the rest as its completion, our mask as that of tools."""
        import torch

        self.current = [self._rows[i] for i in items]
        tensors = pad(self.current, self._run.device)
        where = tensors["completion_mask"][:, 1:].bool()
        found = {
            "prompt_ids": tensors["input_ids"][:, :1],
            "prompt_mask": tensors["attention_mask"][:, :1],
            "completion_ids": tensors["input_ids"][:, 1:],
            "completion_mask": tensors["attention_mask"][:, 1:],
            "tool_mask": tensors["completion_mask"][:, 1:],
            "advantages": spread([self._advantages[i] for i in items], where),
            "old_per_token_logps": spread([self._old[i] for i in items], where),
            "num_items_in_batch": torch.tensor(
                sum(sum(row.mask) for row in self._rows), device=self._run.device
            ),
        }
        if self._config.kl:
            found["ref_per_token_logps"] = spread([self._reference[i] for i in items], where)
        return found


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
    run = open_run(config, "grpo", digest([_Named(goal) for goal in goals], replay), replay, per_step, facts)
    return train(
        run,
        _Rounds(config, run, goals, roll, publish),
        "GRPO",
        per_step,
        progress,
        repeat=config.updates,
        beta=config.kl,
        epsilon=config.clip,
        epsilon_high=config.clip_high,
        loss_type="dapo",
        num_generations=2,
        temperature=config.temperature,
    )


@dataclass(frozen=True)
class _Named:
    """A goal, for the hash of the data."""

    goal: str
