"""The training loop that fine-tuning and training from scratch share.

It is made for slow machines: the shared beginning of the samples runs once per step (``prefix``),
the schedule follows steps or a budget of minutes, whichever is nearer its end, and a checkpoint is
written atomically every few minutes, from which a killed run goes on with the next sample of the
same order. The loss is the mean cross entropy of the tokens that carry loss.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .console import Progress, StopFlag, printer
from .data import Sample, Step, plan_epoch, step_of

if TYPE_CHECKING:
    import torch

_PAUSE = 20
"""A step that takes this many times the mean (and over 20 s) was interrupted, not slow."""


class LoopConfig(BaseModel):
    """How long and how fast to train; what every recipe has."""

    model_config = ConfigDict(extra="forbid")

    out: Path
    """Folder of the run: what was trained, ``checkpoint.pt``, ``tensorboard/``."""
    epochs: float = Field(default=1.0, gt=0)
    steps: int | None = Field(default=None, gt=0)
    """Number of optimiser steps; instead of ``epochs``."""
    minutes: float | None = Field(default=None, gt=0)
    """Budget of training time over all resumptions; the schedule ends with it."""
    batch: int = Field(default=16, gt=0)
    micro_tokens: int = Field(default=1024, gt=0)
    """Padded tokens per micro-batch (about 2 MB of memory each at the size of ``small``)."""
    longest: int = Field(default=2048, gt=0)
    """Samples of more tokens are left out."""
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of the run during which the rate climbs; then it falls, by a cosine, to a tenth."""
    weight_decay: float = Field(default=0.0, ge=0)
    prefix_grad: bool = True
    """Carry gradients through the shared part too (exact); False saves about 6 % of a step."""
    seed: int = 0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    checkpoint_minutes: float = Field(default=3.0, ge=0)
    eval_every: int = Field(default=100, gt=0)
    eval_samples: int = Field(default=64, gt=0)


@dataclass(frozen=True)
class Report:
    """What a run did. ``loss`` is the running mean at the end, ``eval_loss`` held out, in nats."""

    finished: bool
    steps: int
    samples: int
    tokens: int
    minutes: float
    loss: float
    eval_loss: float | None
    folder: Path
    """What was trained: an adapter's folder or a model's."""


def rate_at(progress: float, peak: float, warmup: float) -> float:
    """Return the learning rate at ``progress`` in 0..1: linear warm-up, then cosine to a tenth."""
    if progress < warmup:
        return peak * (progress / warmup * 0.95 + 0.05)
    fall = min(1.0, (progress - warmup) / (1 - warmup))
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * fall)))


def choose_compute(device: str, dtype: str) -> tuple[str, torch.dtype]:
    """Return (device, type of the matrix products) for training.

    The decoder's probe decides, but on a CPU its bf16 may pay only for reading weights; training is
    bound by arithmetic, so there bf16 must also win a product of many rows.
    """
    import torch

    from ..probe import DTYPES, probe_device

    choice = probe_device(device, dtype)
    found = DTYPES[choice.dtype]
    if found is torch.float16:
        found = torch.float32
    if choice.device != "cpu":
        return choice.device, found
    torch.set_num_threads(choice.threads)

    def seconds(kind: torch.dtype) -> float:
        rows, weight = torch.randn(512, 576).to(kind), torch.randn(1536, 576).to(kind)
        best = math.inf
        for _ in range(6):
            started = time.perf_counter()
            torch.nn.functional.linear(rows, weight)
            best = min(best, time.perf_counter() - started)
        return best

    if dtype == "auto" and found is torch.bfloat16 and seconds(found) * 1.5 > seconds(torch.float32):
        found = torch.float32
    return choice.device, found


@dataclass
class Trainer:
    """One run: a model, what of it is trained, on which samples, and where the run stands."""

    config: LoopConfig
    core: Any
    """A decoder of transformers with ``model`` and ``lm_head``, on ``device``."""
    weights: list[torch.Tensor]
    samples: list[Sample]
    held_out: list[Sample]
    device: str
    dtype: torch.dtype
    state: Checkpoint
    write: Callable[[Checkpoint], Path]
    """Writes what is trained, as it is now; returns its folder."""

    def __post_init__(self) -> None:
        import torch

        self.optimiser = torch.optim.AdamW(
            self.weights,
            lr=self.config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=self.config.weight_decay,
        )
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

    def progress(self) -> float:
        """Return how far the run is, 0..1: by steps or by the budget, whichever is nearer its end."""
        done = self.state.step / self.total
        if self.config.minutes:
            done = max(done, self.state.seconds / (60 * self.config.minutes))
        return done

    def _autocast(self) -> AbstractContextManager[Any]:
        import torch

        return torch.autocast(self.device, self.dtype, enabled=self.dtype is not torch.float32)

    def loss(self, step: Step, train: bool) -> float:
        """Return the mean loss of a step, in nats a token; with ``train`` also leave gradients."""
        import torch

        from . import prefix

        pool: Sequence[Sample] = self.samples if train else self.held_out
        targets = sum(pool[i].targets for group in step for micro in group.micro for i in micro)
        summed = 0.0
        for group in step:
            with self._autocast():
                shared = prefix.run_shared(self.core.model, group.prefix, train and self.config.prefix_grad)
            for micro in group.micro:
                with torch.set_grad_enabled(train), self._autocast():
                    part = prefix.loss_sum(self.core, shared, [pool[i] for i in micro])
                summed += float(part.detach())
                if train:
                    (part / targets).backward()  # type: ignore[no-untyped-call]
            prefix.backward_shared(shared)
        return summed / targets

    def train_step(self, step: Step) -> float:
        """Do one optimiser step and return its mean loss."""
        import torch

        rate = rate_at(self.progress(), self.config.learning_rate, self.config.warmup)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        mean = self.loss(step, train=True)
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return mean

    def evaluate(self) -> float | None:
        """Return the mean loss over the first held-out samples, or None without any."""
        if not self.held_out:
            return None
        indices = range(min(self.config.eval_samples, len(self.held_out)))
        return self.loss(step_of(self.held_out, indices, self.config.micro_tokens), train=False)

    def save(self) -> Path:
        """Write the checkpoint and what is trained, as it is now."""
        save_checkpoint(self.config.out / "checkpoint.pt", self.state, self.weights, self.optimiser)
        return self.write(self.state)


def run(trainer: Trainer, title: str, progress: Callable[[Progress], None] | None = None) -> Report:
    """Train until steps or minutes are used up, or go on with the run that ``out`` holds.

    Raises:
        UsageError: the checkpoint in ``out`` belongs to another run; nothing is overwritten then.
    """
    from torch.utils.tensorboard import SummaryWriter

    from .lora import keep_memory

    config, state = trainer.config, trainer.state
    if trainer.device == "cpu":
        keep_memory()
    config.out.mkdir(parents=True, exist_ok=True)
    load_checkpoint(config.out / "checkpoint.pt", state, trainer.weights, trainer.optimiser)
    board = SummaryWriter(config.out / "tensorboard", purge_step=state.step)
    show = progress or printer(title)
    saved = time.monotonic()
    with StopFlag() as stop:
        for step in trainer.steps():
            if stop or trainer.progress() >= 1:
                break
            shown = _one_step(trainer, step)
            for name, value in asdict(shown).items():
                if value is not None:
                    board.add_scalar(name, value, state.step)
            show(shown)
            if time.monotonic() - saved > 60 * config.checkpoint_minutes:
                trainer.save()
                saved = time.monotonic()
    finished = trainer.progress() >= 1
    if finished:
        state.eval_loss = trainer.evaluate()
    folder = trainer.save()
    board.close()
    return Report(
        finished, state.step, state.samples, state.tokens, state.seconds / 60, state.loss,
        state.eval_loss, folder,
    )  # fmt: skip


def _one_step(trainer: Trainer, step: Step) -> Progress:
    """Do one step with its bookkeeping and, when it is due, an evaluation."""
    state = trainer.state
    started = time.monotonic()
    mean = trainer.train_step(step)
    indices = [i for group in step for micro in group.micro for i in micro]
    tokens = sum(len(trainer.samples[i].rest) for i in indices)
    state.step += 1
    state.samples += len(indices)
    state.tokens += tokens
    state.loss += (mean - state.loss) * max(0.02, 1 / state.step)
    speed = tokens / (time.monotonic() - started)
    evaluated = None
    if state.step % trainer.config.eval_every == 0:
        evaluated = state.eval_loss = trainer.evaluate()
    took = time.monotonic() - started
    # A process that was suspended within the step (SIGSTOP, a closed lid) is not charged for it.
    usual = state.seconds / (state.step - 1) if state.step > 1 else took
    state.seconds += min(took, _PAUSE * max(usual, 1.0))
    done = trainer.progress()
    return Progress(
        step=state.step,
        loss=mean,
        mean_loss=state.loss,
        eval_loss=evaluated,
        rate=float(trainer.optimiser.param_groups[0]["lr"]),
        tokens_per_second=speed,
        done=min(1.0, done),
        eta_seconds=max(0.0, state.seconds * (1 - done) / done),
    )
