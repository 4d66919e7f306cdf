"""The training loop that fine-tuning and training from scratch share.

It is made for slow machines: the shared beginning of the samples runs once per step (``prefix``),
and pace, checkpoints and budget are those of ``pace``; a killed run goes on with the next sample of
the same order. The loss is the mean cross entropy of the tokens that carry loss.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydantic import Field

from . import prefix
from .console import Progress
from .data import Sample, Step, plan_epoch, step_of
from .pace import PaceConfig, Report, Run, Watch, choose_compute, finish, rate_at

__all__ = ["LoopConfig", "Report", "Trainer", "choose_compute", "rate_at", "run"]


class LoopConfig(PaceConfig):
    """What every recipe that learns from samples has."""

    batch: int = Field(default=16, gt=0)
    """Samples per optimiser step."""
    prefix_grad: bool = True
    """Carry gradients through the shared part too (exact); False saves about 6 % of a step."""
    eval_every: int = Field(default=100, gt=0)
    eval_samples: int = Field(default=64, gt=0)


@dataclass(kw_only=True)
class Trainer(Run):
    """A run over samples."""

    config: LoopConfig
    samples: list[Sample]
    held_out: list[Sample]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.per_epoch = len(self._epoch(0))
        self.total = self.config.steps or max(1, round(self.config.epochs * self.per_epoch))

    def _epoch(self, epoch: int) -> list[Step]:
        config = self.config
        return plan_epoch(self.samples, config.batch, config.seed, epoch, config.micro_tokens)

    def steps(self) -> Iterator[Step]:
        """Yield the steps that are still to do, from the recorded position on."""
        while True:
            epoch, position = divmod(self.state.step, self.per_epoch)
            yield from self._epoch(epoch)[position:]

    def train_step(self, step: Step) -> float:
        """Do one optimiser step and return its mean loss."""
        import torch

        self.set_rate()
        mean = prefix.step_loss(
            self.core, self.samples, step, self.autocast, train=True, prefix_grad=self.config.prefix_grad
        )
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return mean

    def evaluate(self) -> float | None:
        """Return the mean loss over the first held-out samples, or None without any."""
        if not self.held_out:
            return None
        indices = range(min(self.config.eval_samples, len(self.held_out)))
        step = step_of(self.held_out, indices, self.config.micro_tokens)
        return prefix.step_loss(self.core, self.held_out, step, self.autocast, train=False)


def run(trainer: Trainer, title: str, progress: Callable[[Progress], None] | None = None) -> Report:
    """Train until steps or minutes are used up, or go on with the run that ``out`` holds.

    Raises:
        UsageError: the checkpoint in ``out`` belongs to another run; nothing is overwritten then.
    """
    trainer.config.out.mkdir(parents=True, exist_ok=True)
    trainer.resume()
    with Watch(trainer, title, progress) as watch:
        for step in trainer.steps():
            if watch.over():
                break
            watch.after(_one_step(trainer, step))
    return finish(trainer, trainer.evaluate)


def _one_step(trainer: Trainer, step: Step) -> Progress:
    """Do one step with its bookkeeping and, when it is due, an evaluation."""
    started = time.monotonic()
    mean = trainer.train_step(step)
    indices = [i for group in step for micro in group.micro for i in micro]
    tokens = sum(len(trainer.samples[i].rest) for i in indices)
    due = (trainer.state.step + 1) % trainer.config.eval_every == 0
    return trainer.account(started, mean, len(indices), tokens, trainer.evaluate if due else None)
