"""A run that trains an adapter further, and what DPO, KTO and GRPO have in common.

Such a run starts from the current model's adapter and writes an adapter folder whose card says what it was
made from. The reference policy is the adapter as loaded: its log-probabilities are computed once, before the
first step, and kept beside the checkpoint. Log-probabilities are those of the model itself, without the
grammar that the engine adds. Ordinary samples of fine-tuning can be replayed in every step, at their cross
entropy, which keeps what was learned before.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydantic import Field

from ...errors import UsageError
from ...files import replace_file, sha256_of
from . import prefix
from .card import write_card
from .checkpoint import Checkpoint, base_facts
from .data import Sample, step_of
from .finetune import with_adapter
from .logprobs import Row, Scores, begin, cut, row_sums, score
from .monitor import CollapseMonitor
from .trainer import OnStep, Report, Run, RunConfig, StepResult, choose_compute

if TYPE_CHECKING:
    from torch import Tensor


class AdapterConfig(RunConfig):
    """What to train further, and as what."""

    name: str
    base: Path
    """Folder of the base model in Hugging Face format."""
    init: Path | None = None
    """The adapter folder to go on from: the current model, and the reference. None: a fresh adapter."""
    rank: int = Field(default=16, gt=0)
    """LoRA rank and alpha of a fresh adapter."""
    alpha: int = Field(default=32, gt=0)
    learning_rate: float = Field(default=5e-5, gt=0)


class ReplayConfig(AdapterConfig):
    """How ordinary samples are mixed in."""

    replay_share: float = Field(default=0.2, ge=0, lt=1)
    """Share of replayed samples among all samples of a step, where there are any to replay."""
    replay_weight: float = Field(default=1.0, gt=0)
    """Factor of the replayed samples' mean cross entropy (nats a token) in the loss."""


class Means:
    """Means over the values of a step's micro-batches, for the curves and the monitor."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, name: str, values: Tensor) -> None:
        """Take the values of a micro-batch."""
        if values.numel():
            self._sums[name] += float(values.detach().sum())
            self._counts[name] += values.numel()

    def all(self) -> dict[str, float]:
        """Return the means of all values taken, by name."""
        return {name: total / self._counts[name] for name, total in self._sums.items()}


class Objective(Protocol):
    """What a method learns from: items (pairs, rated answers, goals) and their loss."""

    temperature: float
    """Logits are divided by it."""

    def prepare(self, items: Sequence[int], figures: dict[str, float]) -> Sequence[int]:
        """Begin a step over the drawn items; returns what it learns from, as numbers for ``rows``.

        They are the items themselves but for GRPO, which draws goals and learns from attempts. May add
        to the step's ``figures``.
        """
        ...

    def rows(self, item: int) -> Sequence[Row]:
        """Return the token rows that the loss of one of these is computed from."""
        ...

    def loss(self, items: Sequence[int], scores: Scores, means: Means) -> Tensor:
        """Return a micro-batch's part of the step's loss; ``scores`` are of the items' rows, in order."""
        ...


@dataclass(kw_only=True)
class AdapterRun(Run):
    """A run that trains an adapter."""

    config: AdapterConfig

    def reference_sums(self, rows: Sequence[Row]) -> list[float]:
        """Return the rows' summed log-probabilities (nats) under the weights as loaded.

        They are kept in ``reference.json`` beside the checkpoint, for a run that is resumed.
        """
        path = self.config.out / "reference.json"
        if path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["identity"] == self.state.identity:
                return [float(value) for value in kept["sums"]]
        sums = row_sums(self.core, rows, self.config.micro_tokens, self.autocast)
        replace_file(path, json.dumps({"identity": self.state.identity, "sums": sums}))
        return sums


def optimise(
    run: AdapterRun,
    config: ReplayConfig,
    objective: Objective,
    items: int,
    batch: int,
    replay: Sequence[Sample],
    on_step: OnStep | None,
    repeat: int = 1,
) -> Report:
    """Train on ``items`` items, or go on with the run that ``config.out`` holds.

    Args:
        config: that of ``run``.
        batch: items of a step.
        replay: ordinary samples to mix in.
        repeat: how many steps in a row have the same items.

    Raises:
        Collapse: the policy has come apart; nothing is written then.
    """
    state = run.state
    run.total = config.steps or max(1, round(config.epochs * items * repeat / batch))
    run.resume()
    monitor = CollapseMonitor(config.out / "collapse.json")
    stream = _shuffled(items, config.seed)
    rounds = [list(islice(stream, batch)) for _ in range(-(-run.total // repeat))]

    def step() -> StepResult:
        figures: dict[str, float] = {}
        learnt = list(objective.prepare(rounds[state.step // repeat], figures))
        loss = 0.0
        if learnt:
            loss = _policy_gradient(run, objective, learnt, figures)
            if replay:
                _replay_gradient(run, config, replay, len(learnt), figures)
            run.apply_gradients()
        monitor.see({"loss": loss, **figures})
        tokens = sum(sum(row.mask) for item in learnt for row in objective.rows(item))
        return StepResult(loss, len(learnt), tokens, figures)

    method = state.identity["method"]
    return run.train(f"{config.name} by {method} on {run.device}, {items} items", step, on_step)


def _policy_gradient(
    run: AdapterRun, objective: Objective, items: Sequence[int], figures: dict[str, float]
) -> float:
    """Leave the gradient of a step's loss, in micro-batches; returns the loss and adds to ``figures``."""
    means = Means()
    with run.autocast():
        shared = begin(run.core, [row for item in items for row in objective.rows(item)], grad=True)
    lengths = [sum(len(row.ids) - shared.length for row in objective.rows(item)) for item in items]
    total = 0.0
    for places in cut(lengths, run.config.micro_tokens):
        part = [items[place] for place in places]
        rows = [row for item in part for row in objective.rows(item)]
        with run.autocast():
            scores = score(run.core, rows, shared, objective.temperature)
        for entropy in scores.entropy:
            means.add("entropy", entropy)
        loss = objective.loss(part, scores, means)
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    prefix.backward_shared(shared)
    figures.update(means.all())
    return total


def _replay_gradient(
    run: AdapterRun, config: ReplayConfig, samples: Sequence[Sample], items: int, figures: dict[str, float]
) -> None:
    """Add the gradient of replayed samples, drawn by the step's number, to that of ``items`` items."""
    rng = random.Random(f"{config.seed}:replay:{run.state.step}")
    exact = items * config.replay_share / (1 - config.replay_share)
    count = int(exact) + (rng.random() < exact % 1)
    chosen = [rng.randrange(len(samples)) for _ in range(count)]
    if chosen:
        step = step_of(samples, chosen, config.micro_tokens)
        figures["replay_loss"] = prefix.step_loss(
            run.core, samples, step, run.autocast, train=True, weight=config.replay_weight
        )


def digest(items: Sequence[object], replay: Sequence[Sample] = ()) -> str:
    """Return a SHA-256 over items (dataclasses of plain values) and replayed samples, in order."""
    total = hashlib.sha256()
    for item in items:
        total.update(json.dumps(vars(item), sort_keys=True).encode() + b"\n")
    for sample in replay:
        total.update(json.dumps([sample.prefix, sample.rest.tolist(), list(sample.mask)]).encode() + b"\n")
    return total.hexdigest()


def open_run(
    config: AdapterConfig,
    method: str,
    data_sha256: str,
    batch: int,
    facts: Mapping[str, object],
) -> AdapterRun:
    """Load base and adapter and return the run, at its beginning.

    Args:
        batch: items of a step.
        facts: what the card says of the method; read at each writing, and over what the run itself says.
    """
    import torch

    torch.manual_seed(config.seed)
    weights = config.init / "adapter_model.safetensors" if config.init else None
    if weights and not weights.is_file():
        raise UsageError(f"{config.init}: no adapter_model.safetensors here: name the current adapter")
    base_name, base = base_facts(config.base)
    identity: dict[str, str | int] = {
        "method": method,
        **base,
        "data_sha256": data_sha256,
        "init_sha256": sha256_of(weights) if weights else "",
        "seed": config.seed,
        "batch": batch,
    }
    device, dtype = choose_compute(config.device, config.dtype)
    model, adapter = with_adapter(
        config.base, config.init, config.rank, config.alpha, device, dtype, base_name
    )

    def write(state: Checkpoint) -> Path:
        said: dict[str, object] = {"name": config.name, "base": base_name, **identity, **state.facts()}
        said |= {"rank": adapter.settings["r"], **facts}
        if config.init:
            # The adapter's own weights were trained further: not merged, not stacked on another.
            said["adapter"] = f"went on from the adapter {config.init.name}, over the same base"
        adapter.write(config.out / "adapter", said)
        write_card(config.out / "adapter", said)
        return config.out / "adapter"

    return AdapterRun(
        config=config,
        core=model,
        weights=[weight for weight in model.parameters() if weight.requires_grad],
        device=device,
        dtype=dtype,
        state=Checkpoint({**identity, "settings": _settings(config)}),
        write=write,
    )


def _settings(config: AdapterConfig) -> str:
    """Return a short hash of what must not change between the two halves of a resumed run."""
    free = {"out", "device", "dtype", "checkpoint_minutes", "minutes", "tensorboard"}
    same = config.model_dump(mode="json", exclude=free)
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]


def _shuffled(count: int, seed: int) -> Iterator[int]:
    """Yield indices below ``count`` for ever, each epoch in an order of its own."""
    epoch = 0
    while True:
        order = list(range(count))
        random.Random(f"{seed}:{epoch}").shuffle(order)
        yield from order
        epoch += 1
