"""How long and how fast a run trains, and what happens around its steps, whatever the method.

The schedule follows steps or a budget of minutes, whichever is nearer its end; a checkpoint is
written atomically every few minutes, from which a killed run goes on; each step is shown, and drawn
for tensorboard. What a step computes is the method's own affair (``loop``, ``methods``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .console import Progress, StopFlag, printer

if TYPE_CHECKING:
    import torch

_PAUSE = 20
"""A step that takes this many times the mean (and over 20 s) was interrupted, not slow."""


class PaceConfig(BaseModel):
    """How long and how fast to train; what every method has."""

    model_config = ConfigDict(extra="forbid")

    out: Path
    """Folder of the run: what was trained, ``checkpoint.pt``, ``tensorboard/``."""
    epochs: float = Field(default=1.0, gt=0)
    steps: int | None = Field(default=None, gt=0)
    """Number of optimiser steps; instead of ``epochs``."""
    minutes: float | None = Field(default=None, gt=0)
    """Budget of training time over all resumptions; the schedule ends with it."""
    micro_tokens: int = Field(default=1024, gt=0)
    """Padded tokens per micro-batch (about 2 MB of memory each at the size of ``small``)."""
    longest: int = Field(default=2048, gt=0)
    """Samples of more tokens are left out."""
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of the run during which the rate climbs; then it falls, by a cosine, to a tenth."""
    weight_decay: float = Field(default=0.0, ge=0)
    seed: int = 0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    checkpoint_minutes: float = Field(default=3.0, ge=0)


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

    Training is bound by arithmetic, so on a CPU the decoder's choice says nothing: there bf16 is taken
    where the chip has it and a product of many rows is at least 1.5 times as fast in it.
    """
    import torch

    from ..nn.device import DTYPES, probe_device
    from ..nn.low_precision import has_bf16

    choice = probe_device(device, dtype)
    found = DTYPES[choice.dtype]
    if choice.device != "cpu":
        return choice.device, torch.float32 if found is torch.float16 else found
    torch.set_num_threads(choice.threads)
    if dtype != "auto":
        return choice.device, DTYPES[dtype]

    def seconds(kind: torch.dtype) -> float:
        rows, weight = torch.randn(512, 576).to(kind), torch.randn(1536, 576).to(kind)
        best = math.inf
        for _ in range(6):
            started = time.perf_counter()
            torch.nn.functional.linear(rows, weight)
            best = min(best, time.perf_counter() - started)
        return best

    narrow = has_bf16() and seconds(torch.bfloat16) * 1.5 <= seconds(torch.float32)
    return choice.device, torch.bfloat16 if narrow else torch.float32


@dataclass(kw_only=True)
class Run:
    """One training run: a model, what of it is trained, and where the run stands."""

    config: PaceConfig
    core: Any
    """A decoder of transformers with ``model`` and ``lm_head``, on ``device``."""
    weights: list[torch.Tensor]
    device: str
    dtype: torch.dtype
    state: Checkpoint
    write: Callable[[Checkpoint], Path]
    """Writes what is trained, as it is now; returns its folder."""
    total: int = 1
    """Steps of the whole run."""

    def __post_init__(self) -> None:
        import torch

        self.optimiser = torch.optim.AdamW(
            self.weights,
            lr=self.config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=self.config.weight_decay,
        )

    def progress(self) -> float:
        """Return how far the run is, 0..1: by steps or by the budget, whichever is nearer its end."""
        done = self.state.step / self.total
        if self.config.minutes:
            done = max(done, self.state.seconds / (60 * self.config.minutes))
        return done

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which products are computed in the run's type.

        On a CPU a model whose frozen weights are in that type needs none (``lora`` joins the adapter's).
        """
        import torch

        frozen = self.core.model.embed_tokens.weight
        joined = self.device == "cpu" and frozen.dtype is self.dtype
        return torch.autocast(self.device, self.dtype, enabled=self.dtype is not torch.float32 and not joined)

    def set_rate(self) -> None:
        """Give the optimiser the rate of the coming step."""
        rate = rate_at(self.progress(), self.config.learning_rate, self.config.warmup)
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def save(self) -> Path:
        """Write the checkpoint and what is trained, as it is now."""
        save_checkpoint(self.config.out / "checkpoint.pt", self.state, self.weights, self.optimiser)
        return self.write(self.state)

    def resume(self) -> bool:
        """Go on from the checkpoint in ``out``; False where there is none.

        Raises:
            UsageError: it belongs to another run; nothing is overwritten then.
        """
        return load_checkpoint(self.config.out / "checkpoint.pt", self.state, self.weights, self.optimiser)

    def account(
        self,
        started: float,
        loss: float,
        samples: int,
        tokens: int,
        evaluate: Callable[[], float | None] | None = None,
    ) -> Progress:
        """Enter a step into the state; returns what to show of it.

        Args:
            started: ``time.monotonic()`` at its beginning.
            evaluate: called when the step is entered, where an evaluation is due.
        """
        state = self.state
        state.step += 1
        state.samples += samples
        state.tokens += tokens
        state.loss += (loss - state.loss) * max(0.02, 1 / state.step)
        speed = tokens / max(1e-9, time.monotonic() - started)
        evaluated = None
        if evaluate:
            evaluated = state.eval_loss = evaluate()
        took = time.monotonic() - started
        # A process that was suspended within the step (SIGSTOP, a closed lid) is not charged for it.
        usual = state.seconds / (state.step - 1) if state.step > 1 else took
        state.seconds += min(took, _PAUSE * max(usual, 1.0))
        done = self.progress()
        return Progress(
            step=state.step,
            loss=loss,
            mean_loss=state.loss,
            eval_loss=evaluated,
            rate=float(self.optimiser.param_groups[0]["lr"]),
            tokens_per_second=speed,
            done=min(1.0, done),
            eta_seconds=max(0.0, state.seconds * (1 - done) / done),
        )


class Watch:
    """A context around a run's steps: tensorboard, what is shown, checkpoints, a wish to stop."""

    def __init__(self, run: Run, title: str, progress: Callable[[Progress], None] | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        from .lora import keep_memory

        if run.device == "cpu":
            keep_memory()
        self._run = run
        self._board = SummaryWriter(run.config.out / "tensorboard", purge_step=run.state.step)
        self._show = progress or printer(title)
        self._saved = time.monotonic()
        self._stop = StopFlag()

    def __enter__(self) -> Watch:
        self._stop.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.__exit__(kind, error, trace)
        self._board.close()

    def over(self) -> bool:
        """Say whether the run is at its end, or someone wished it to stop."""
        return bool(self._stop) or self._run.progress() >= 1

    def after(self, shown: Progress, more: Mapping[str, float] | None = None) -> None:
        """Show a step and draw it, with ``more`` curves; save where that is due."""
        for name, value in {**asdict(shown), **(more or {})}.items():
            if value is not None:
                self._board.add_scalar(name, value, self._run.state.step)
        self._show(shown)
        if time.monotonic() - self._saved > 60 * self._run.config.checkpoint_minutes:
            self._run.save()
            self._saved = time.monotonic()


def finish(run: Run, evaluate: Callable[[], float | None] | None = None) -> Report:
    """Evaluate a run that is at its end, save it, and say what it did."""
    state = run.state
    finished = run.progress() >= 1
    if finished and evaluate:
        state.eval_loss = evaluate()
    folder = run.save()
    return Report(
        finished, state.step, state.samples, state.tokens, state.seconds / 60, state.loss,
        state.eval_loss, folder,
    )  # fmt: skip
