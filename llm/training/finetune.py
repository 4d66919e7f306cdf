"""Fine-tuning by LoRA: a base model and training samples in, a small adapter folder out.

``finetune(config)`` is the whole of it; the command line only parses and calls. The loop is made
for slow machines: the shared beginning of the samples runs once per step (``prefix``), the
schedule follows steps or a budget of minutes, whichever is nearer its end, and a checkpoint is
written atomically every few minutes, from which a killed run goes on with the next sample of the
same order. The loss is the mean cross entropy of the tokens that carry loss.

Run by hand: ``python -m autogpt.llm.training.finetune examples/train/small.yaml``.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .checkpoint import Checkpoint, file_sha256, load_checkpoint, save_checkpoint, write_adapter
from .console import Progress, StopFlag, printer
from .data import Step, data_hash, plan_epoch, read_samples, step_of

if TYPE_CHECKING:
    import torch


class FinetuneConfig(BaseModel):
    """What to train on what, for how long. Only ``base``, ``data`` and ``out`` have no default."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["finetune"] = "finetune"
    name: str = "small"
    base: Path
    """Folder of the base model in Hugging Face format."""
    data: list[Path] = Field(min_length=1)
    """Training files; see ``data.read_samples``."""
    eval_data: list[Path] = []
    """Held-out files; their loss is shown every ``eval_every`` steps."""
    out: Path
    """Folder of the run: ``adapter/``, ``checkpoint.pt``, ``tensorboard/``."""
    init: Path | None = None
    """An adapter folder to go on from, in place of a fresh one."""
    epochs: float = Field(default=1.0, gt=0)
    steps: int | None = Field(default=None, gt=0)
    """Number of optimiser steps; instead of ``epochs``."""
    minutes: float | None = Field(default=None, gt=0)
    """Budget of training time over all resumptions; the schedule ends with it."""
    batch: int = Field(default=16, gt=0)
    micro_tokens: int = Field(default=1024, gt=0)
    """Padded tokens per micro-batch (about 2 MB of memory each at the size of ``small``)."""
    longest: int = Field(default=2048, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of the run during which the rate climbs; then it falls, by a cosine, to a tenth."""
    rank: int = Field(default=16, gt=0)
    alpha: int = Field(default=32, gt=0)
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
    adapter: Path


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


class _Trainer:
    """The state of one run: model, optimiser, position in the data."""

    def __init__(self, config: FinetuneConfig) -> None:
        import torch

        from ..model import weights_fingerprint

        self.config = config
        torch.manual_seed(config.seed)
        self.device, self.dtype = choose_compute(config.device, config.dtype)
        self.samples = read_samples(config.data, config.longest)
        self.held_out = read_samples(config.eval_data, config.longest) if config.eval_data else []
        self.peft, self.core = self._model()
        self.weights = [p for p in self.peft.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.weights, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0
        )
        self.per_epoch = len(self._epoch(0))
        self.total = config.steps or max(1, round(config.epochs * self.per_epoch))
        self.state = Checkpoint(
            identity={
                "base_sha256": weights_fingerprint(config.base),
                "tokenizer_sha256": file_sha256(config.base / "tokenizer.json"),
                "data_sha256": data_hash(config.data),
                "seed": config.seed,
                "batch": config.batch,
                "rank": config.rank,
            }
        )

    def _model(self) -> tuple[Any, Any]:
        import warnings

        import peft
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        model: Any = AutoModelForCausalLM.from_pretrained(self.config.base, dtype=self.dtype)
        model.to(self.device)
        if self.config.init:
            wrapped = peft.PeftModel.from_pretrained(model, str(self.config.init), is_trainable=True)
        else:
            lora = peft.LoraConfig(
                r=self.config.rank,
                lora_alpha=self.config.alpha,
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            )
            wrapped = peft.get_peft_model(model, lora)
        wrapped.peft_config["default"].base_model_name_or_path = self.config.name
        return wrapped, wrapped.get_base_model()

    def _epoch(self, epoch: int) -> list[Step]:
        return plan_epoch(self.samples, self.config.batch, self.config.seed, epoch, self.config.micro_tokens)

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

    def loss(self, step: Step, train: bool) -> tuple[float, int]:
        """Return (summed loss, tokens with loss) of a step; with ``train`` also leave gradients."""
        import torch

        from . import prefix

        pool = self.samples if train else self.held_out
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
        return summed, targets

    def train_step(self, step: Step) -> float:
        """Do one optimiser step and return its mean loss, in nats per token with loss."""
        import torch

        rate = rate_at(self.progress(), self.config.learning_rate, self.config.warmup)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        summed, targets = self.loss(step, train=True)
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return summed / targets

    def evaluate(self) -> float | None:
        """Return the mean loss over the first held-out samples, or None without any."""
        if not self.held_out:
            return None
        indices = range(min(self.config.eval_samples, len(self.held_out)))
        summed, targets = self.loss(step_of(self.held_out, indices, self.config.micro_tokens), train=False)
        return summed / targets

    def save(self) -> None:
        """Write the checkpoint and the adapter as it is now."""
        save_checkpoint(self.config.out / "checkpoint.pt", self.state, self.weights, self.optimiser)
        facts = {
            "name": self.config.name,
            **self.state.identity,
            "steps": self.state.step,
            "samples": self.state.samples,
            "minutes": round(self.state.seconds / 60, 1),
            "final_loss": self.state.loss,
            "eval_loss": self.state.eval_loss,
        }
        write_adapter(self.peft, self.config.out / "adapter", facts)


def finetune(config: FinetuneConfig, progress: Callable[[Progress], None] | None = None) -> Report:
    """Train an adapter, or go on with the run that ``config.out`` holds.

    Args:
        config: what to train.
        progress: called after each step; default prints to the terminal.

    Raises:
        UsageError: data, base or checkpoint do not fit; nothing is overwritten then.
    """
    from torch.utils.tensorboard import SummaryWriter

    config.out.mkdir(parents=True, exist_ok=True)
    trainer = _Trainer(config)
    state = trainer.state
    load_checkpoint(config.out / "checkpoint.pt", state, trainer.weights, trainer.optimiser)
    board = SummaryWriter(config.out / "tensorboard", purge_step=state.step)
    show = progress or printer(f"{config.name} on {trainer.device} in {trainer.dtype}")
    saved = time.monotonic()
    with StopFlag() as stop:
        for step in trainer.steps():
            if stop or trainer.progress() >= 1:
                break
            started = time.monotonic()
            shown = _one_step(trainer, step, started)
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
    trainer.save()
    board.close()
    return Report(
        finished, state.step, state.samples, state.tokens, state.seconds / 60, state.loss,
        state.eval_loss, config.out / "adapter",
    )  # fmt: skip


def _one_step(trainer: _Trainer, step: Step, started: float) -> Progress:
    """Do one step with its bookkeeping and, when it is due, an evaluation."""
    state, config = trainer.state, trainer.config
    mean = trainer.train_step(step)
    indices = [i for group in step for micro in group.micro for i in micro]
    tokens = sum(len(trainer.samples[i].rest) for i in indices)
    state.step += 1
    state.samples += len(indices)
    state.tokens += tokens
    weight = max(0.02, 1 / state.step)
    state.loss += (mean - state.loss) * weight
    evaluated = None
    if state.step % config.eval_every == 0:
        evaluated = state.eval_loss = trainer.evaluate()
    took = time.monotonic() - started
    state.seconds += took
    done = trainer.progress()
    return Progress(
        step=state.step,
        loss=mean,
        mean_loss=state.loss,
        eval_loss=evaluated,
        rate=float(trainer.optimiser.param_groups[0]["lr"]),
        tokens_per_second=tokens / took,
        done=min(1.0, done),
        eta_seconds=max(0.0, state.seconds * (1 - done) / done),
    )


def load_config(path: Path, roots: Sequence[Path] = ()) -> FinetuneConfig:
    """Read a training file (YAML). Relative paths are looked for beside it, then under ``roots``.

    Raises:
        UsageError: names the file and the field that is wrong.
    """
    from .config import read_config

    return read_config(path, FinetuneConfig, roots)


if __name__ == "__main__":
    import sys

    print(json.dumps(asdict(finetune(load_config(Path(sys.argv[1])))), default=str))
