"""The training loop of every method: schedule, checkpoints, progress, a request to stop.

A run ends after a number of steps or a budget of minutes, whichever comes first, and the learning rate
follows the same clock. A checkpoint is written atomically every few minutes, and a killed run goes on from it
with the very samples that it would have seen next. Ctrl-C and SIGTERM end a run after its current step, with
a checkpoint. What one step computes is each method's own (``StepResult``); learning from samples, which
fine-tuning and pretraining share, is here: ``SupervisedRun``.
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import UsageError
from . import prefix
from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .data import Sample, Step, plan_epoch, step_of

if TYPE_CHECKING:
    import torch

_PAUSE = 20
"""A step that takes this many times the mean (and over 20 s) was interrupted, not slow."""
_LONG_STEP = 10.0
"""Seconds from which a step is long: a second to give memory back is little then."""
_LINE_EVERY = 20
"""Steps between plain lines of progress."""


class RunConfig(BaseModel):
    """How long and how fast to train; common to all methods."""

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
    tensorboard: bool = False
    """Write curves for TensorBoard into ``out/tensorboard``."""


ConfigT = TypeVar("ConfigT", bound=RunConfig)


class SupervisedConfig(RunConfig):
    """How to learn from samples."""

    batch: int = Field(default=16, gt=0)
    """Samples per optimiser step."""
    prefix_grad: bool = True
    """Carry gradients through the shared part too (exact); False saves about 6 % of a step."""
    eval_every: int = Field(default=100, gt=0)
    """Steps between evaluations on the held-out samples."""
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


@dataclass(frozen=True)
class Progress:
    """One step as shown: losses in nats per token, tokens of the samples' own parts per second."""

    step: int
    loss: float
    mean_loss: float
    eval_loss: float | None
    rate: float
    tokens_per_second: float
    done: float
    eta_seconds: float

    def line(self) -> str:
        """Return the step as one plain line."""
        held_out = f" eval {self.eval_loss:.4f}" if self.eval_loss is not None else ""
        return (
            f"step {self.step} loss {self.mean_loss:.4f} lr {self.rate:.1e} "
            f"{self.tokens_per_second:.0f} tokens/s {self.done:.1%} "
            f"eta {self.eta_seconds / 60:.1f} min{held_out}"
        )


OnStep = Callable[[Progress], None]


@dataclass(frozen=True)
class StepResult:
    """What one optimiser step did."""

    loss: float
    samples: int
    tokens: int
    curves: Mapping[str, float] = field(default_factory=dict)
    """More figures of the step, for TensorBoard."""


def find_path(name: Path, roots: Sequence[Path]) -> Path:
    """Return the first existing ``root / name``, else ``name`` as it is."""
    name = name.expanduser()
    return next((root / name for root in roots if (root / name).exists()), name)


def read_config(path: Path, shape: type[ConfigT], roots: Sequence[Path] = ()) -> ConfigT:
    """Read ``path`` as YAML into ``shape``, with paths made absolute.

    Relative paths of inputs are looked for in the file's folder, in the current folder and under ``roots``
    (the data folder), in this order; ``out`` stays relative to the current folder.

    Raises:
        UsageError: names the file, the field and what is wrong with it.
    """
    import yaml

    try:
        config = shape.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as problem:
        raise UsageError(f"{path}: {problem.strerror}") from None
    except yaml.YAMLError as problem:
        raise UsageError(f"{path}: not YAML: {' '.join(str(problem).split())}") from None
    except ValidationError as problem:
        wrong = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in problem.errors()]
        raise UsageError(f"{path}: {'; '.join(wrong)}") from None
    places = [path.resolve().parent, Path.cwd(), *roots]
    changes: dict[str, object] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if name == "out":
            continue
        if isinstance(value, Path):
            changes[name] = find_path(value, places)
        elif isinstance(value, list) and value and isinstance(value[0], Path):
            changes[name] = [find_path(item, places) for item in value]
    return config.model_copy(update=changes)


def rate_at(progress: float, peak: float, warmup: float) -> float:
    """Return the learning rate at ``progress`` in 0..1: linear warm-up, then cosine to a tenth."""
    if progress < warmup:
        return peak * (progress / warmup * 0.95 + 0.05)
    fall = min(1.0, (progress - warmup) / (1 - warmup))
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * fall)))


def choose_compute(device: str, dtype: str) -> tuple[str, torch.dtype]:
    """Return (device, type of the matrix products) for training.

    Training is bound by arithmetic, so on a CPU the decoder's choice says nothing: bf16 is taken where the
    chip has it and a product of many rows is at least 1.5 times as fast in it.
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
    """One training run: a model, its trainable weights, and how far it is."""

    config: RunConfig
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

        On a CPU a model whose frozen weights have that type needs none: the adapter's layers convert.
        """
        import torch

        frozen = self.core.model.embed_tokens.weight
        joined = self.device == "cpu" and frozen.dtype is self.dtype
        return torch.autocast(self.device, self.dtype, enabled=self.dtype is not torch.float32 and not joined)

    def apply_gradients(self) -> None:
        """Do an optimiser step with the gradients that are there, clipped to a norm of 1."""
        import torch

        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def save(self) -> Path:
        """Write the checkpoint and what is trained, as it is now; returns the latter's folder."""
        save_checkpoint(self.config.out / "checkpoint.pt", self.state, self.weights, self.optimiser)
        return self.write(self.state)

    def resume(self) -> bool:
        """Go on from the checkpoint in ``out``; False where there is none.

        Raises:
            UsageError: it belongs to another run; nothing is overwritten then.
        """
        return load_checkpoint(self.config.out / "checkpoint.pt", self.state, self.weights, self.optimiser)

    def train(
        self,
        title: str,
        step: Callable[[], StepResult],
        on_step: OnStep | None = None,
        evaluate: Callable[[], float | None] | None = None,
        eval_every: int = 1,
    ) -> Report:
        """Repeat ``step`` until steps or minutes are used up or a stop is requested, then save.

        Args:
            step: computes gradients and applies them, at the rate that was set.
            on_step: called after each step; default prints to the terminal.
            evaluate: gives the held-out loss, every ``eval_every`` steps and at the end.
        """
        from .lora import give_back_memory, keep_memory

        if self.device == "cpu":
            keep_memory()
        show = on_step or _printer(title)
        saved = time.monotonic()
        with _stop_requests() as stop, self._curves() as draw:
            while not stop.is_set() and self.progress() < 1:
                started = time.monotonic()
                rate = rate_at(self.progress(), self.config.learning_rate, self.config.warmup)
                for group in self.optimiser.param_groups:
                    group["lr"] = rate
                result = step()
                due = evaluate is not None and (self.state.step + 1) % eval_every == 0
                shown = self._account(started, rate, result, evaluate if due else None)
                draw({**asdict(shown), **result.curves})
                show(shown)
                if self.device == "cpu" and time.monotonic() - started > _LONG_STEP:
                    give_back_memory()
                if time.monotonic() - saved > 60 * self.config.checkpoint_minutes:
                    self.save()
                    saved = time.monotonic()
        state = self.state
        finished = self.progress() >= 1
        if finished and evaluate:
            state.eval_loss = evaluate()
        return Report(
            finished, state.step, state.samples, state.tokens, state.seconds / 60, state.loss,
            state.eval_loss, self.save(),
        )  # fmt: skip

    def _account(
        self, started: float, rate: float, result: StepResult, evaluate: Callable[[], float | None] | None
    ) -> Progress:
        """Enter a step that began at ``started`` (monotonic) into the state; returns what to show of it."""
        state = self.state
        state.step += 1
        state.samples += result.samples
        state.tokens += result.tokens
        state.loss += (result.loss - state.loss) * max(0.02, 1 / state.step)
        speed = result.tokens / max(1e-9, time.monotonic() - started)
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
            loss=result.loss,
            mean_loss=state.loss,
            eval_loss=evaluated,
            rate=rate,
            tokens_per_second=speed,
            done=min(1.0, done),
            eta_seconds=max(0.0, state.seconds * (1 - done) / done),
        )

    @contextlib.contextmanager
    def _curves(self) -> Iterator[Callable[[Mapping[str, float | None]], None]]:
        """Give what draws the figures of a step, where curves are wanted."""
        if not self.config.tensorboard:
            yield lambda figures: None
            return
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(self.config.out / "tensorboard", purge_step=self.state.step) as board:

            def draw(figures: Mapping[str, float | None]) -> None:
                for name, value in figures.items():
                    if value is not None:
                        board.add_scalar(name, value, self.state.step)

            yield draw


@dataclass(kw_only=True)
class SupervisedRun(Run):
    """A run over samples. The loss is the mean cross entropy (nats) of the tokens that carry loss."""

    config: SupervisedConfig
    samples: list[Sample]
    held_out: list[Sample]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.per_epoch = len(self._epoch(0))
        self.total = self.config.steps or max(1, round(self.config.epochs * self.per_epoch))

    def _epoch(self, epoch: int) -> list[Step]:
        config = self.config
        return plan_epoch(self.samples, config.batch, config.seed, epoch, config.micro_tokens)

    def _steps(self) -> Iterator[Step]:
        """Yield the steps that are still to do, from the recorded position on."""
        while True:
            epoch, position = divmod(self.state.step, self.per_epoch)
            yield from self._epoch(epoch)[position:]

    def learn(self, title: str, on_step: OnStep | None = None) -> Report:
        """Train on the samples, or go on with the run that ``out`` holds.

        Raises:
            UsageError: the checkpoint in ``out`` belongs to another run; nothing is overwritten then.
        """
        self.resume()
        steps = self._steps()

        def step() -> StepResult:
            planned = next(steps)
            loss = prefix.step_loss(
                self.core, self.samples, planned, self.autocast,
                train=True, prefix_grad=self.config.prefix_grad,
            )  # fmt: skip
            self.apply_gradients()
            indices = [i for group in planned for micro in group.micro for i in micro]
            return StepResult(loss, len(indices), sum(len(self.samples[i].rest) for i in indices))

        return self.train(title, step, on_step, self._evaluate, self.config.eval_every)

    def _evaluate(self) -> float | None:
        """Return the mean loss over the first held-out samples, or None without any."""
        if not self.held_out:
            return None
        indices = range(min(self.config.eval_samples, len(self.held_out)))
        step = step_of(self.held_out, indices, self.config.micro_tokens)
        return prefix.step_loss(self.core, self.held_out, step, self.autocast, train=False)


def _print_line(shown: Progress) -> None:
    if shown.step % _LINE_EVERY == 0 or shown.step <= 3 or shown.eval_loss is not None or shown.done >= 1:
        print(shown.line(), file=sys.stderr, flush=True)


def _printer(title: str) -> OnStep:
    """Return what shows progress on standard error: a bar on a terminal, plain lines otherwise."""
    print(title, file=sys.stderr, flush=True)
    if not sys.stderr.isatty():
        return _print_line
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    bar = Bar(BarColumn(), TextColumn("{task.description}"), console=Console(stderr=True))
    task = bar.add_task("", total=1.0)
    bar.start()

    def show(shown: Progress) -> None:
        bar.update(task, completed=shown.done, description=shown.line())
        if shown.done >= 1:
            bar.stop()

    return show


@contextlib.contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """Give an event that SIGINT and SIGTERM set; a second SIGINT interrupts as usual."""
    requested = threading.Event()

    def request(*_: object) -> None:
        requested.set()
        print("stopping after this step; run again to go on", file=sys.stderr, flush=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    main = threading.current_thread() is threading.main_thread()  # only there can handlers be set
    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM) if main}
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
