"""A run that moves a policy away from a reference: what the methods have in common before TRL.

Such a run goes on from the current model's adapter, mixes in replayed samples of ordinary
fine-tuning, and writes an adapter folder whose card says what it was made from. The reference is the
adapter as it was loaded; its log-probabilities are computed once and kept beside the checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from ...errors import UsageError
from ...files import replace_file, sha256_of
from ..fetch import BASE_FINGERPRINT
from . import prefix
from .card import write_card
from .checkpoint import Checkpoint, write_adapter
from .data import Sample, step_of
from .finetune import with_adapter
from .logprobs import Row, row_sums
from .pace import PaceConfig, Run, choose_compute

if TYPE_CHECKING:
    import torch


class Work(Protocol):
    """What a method trains on: items, each of one or more rows."""

    count: int
    """From how many items steps are drawn."""
    drift: float
    """KTO: mean log-ratio of policy and reference on answers after other situations (nats)."""
    current: Sequence[Row]
    """GRPO: the rows of the micro-batch that ``batch`` made last."""
    temperature: float
    """GRPO: the temperature at which attempts were sampled."""

    def rows(self, item: int) -> Sequence[Row]:
        """Return the rows of an item."""
        ...

    def referred(self) -> Sequence[Row]:
        """Return the rows whose reference log-probabilities the method needs."""
        ...

    def refer(self, sums: Sequence[float]) -> None:
        """Take the reference's summed log-probabilities of these rows."""
        ...

    def before(self, items: Sequence[int]) -> Sequence[int]:
        """Prepare for a step over these items; returns the items (of ``rows``) it is about."""
        ...

    def batch(self, items: Sequence[int]) -> dict[str, Any]:
        """Return a micro-batch as TRL's loss reads it."""
        ...


class PolicyConfig(PaceConfig):
    """What every method that moves a policy away from a reference has."""

    name: str
    base: Path
    """Folder of the base model in Hugging Face format."""
    init: Path | None = None
    """The adapter folder to go on from: the current model, and the reference. None: a fresh adapter."""
    rank: int = Field(default=16, gt=0)
    """LoRA rank and alpha of a fresh adapter."""
    alpha: int = Field(default=32, gt=0)
    learning_rate: float = Field(default=5e-5, gt=0)


class MixedConfig(PolicyConfig):
    """What every method has that mixes ordinary samples in."""

    replay_share: float = Field(default=0.2, ge=0, lt=1)
    """Share of replayed samples among all samples of a step, where there are any to replay."""
    replay_weight: float = Field(default=1.0, gt=0)
    """Factor of the replayed samples' mean cross entropy (nats a token) in the loss."""


@dataclass(kw_only=True)
class PolicyRun(Run):
    """A run over items (pairs, rated answers, attempts) with replayed samples."""

    config: PolicyConfig
    wrapped: Any
    """The PEFT model around ``core``."""
    replay: Sequence[Sample] = ()
    notes: dict[str, float] = field(default_factory=dict)
    """Figures of the current step, for tensorboard."""

    @property
    def mixed(self) -> MixedConfig:
        """The settings of a method that replays."""
        assert isinstance(self.config, MixedConfig)
        return self.config

    def replayed(self, items: int) -> list[int]:
        """Return which samples the coming step replays beside ``items`` items, a function of the step."""
        share = self.mixed.replay_share
        exact = items * share / (1 - share)
        rng = random.Random(f"{self.config.seed}:replay:{self.state.step}")
        count = int(exact) + (rng.random() < exact % 1)
        return [rng.randrange(len(self.replay)) for _ in range(count)]

    def replay_gradient(self, items: int) -> None:
        """Add the gradient of the replayed samples to the weights'."""
        chosen = self.replayed(items) if self.replay else []
        if chosen:
            step = step_of(self.replay, chosen, self.config.micro_tokens)
            self.notes["replay_loss"] = prefix.step_loss(
                self.core,
                self.replay,
                step,
                self.autocast,
                train=True,
                weight=self.mixed.replay_weight,
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
    config: PolicyConfig,
    method: str,
    data_sha256: str,
    replay: Sequence[Sample],
    batch: int,
    facts: Mapping[str, object],
) -> PolicyRun:
    """Load base and adapter and return the run, at its beginning.

    Args:
        batch: items of a step.
        facts: what the card says of the method; read at each writing, and over what the run itself says.
    """
    import torch

    from ..nn.load import weights_fingerprint

    torch.manual_seed(config.seed)
    base_sha256 = weights_fingerprint(config.base)
    init = sha256_of(config.init / "adapter_model.safetensors") if config.init else ""
    if config.init and not init:
        raise UsageError(f"{config.init}: no adapter_model.safetensors here: name the current adapter")
    identity: dict[str, str | int] = {
        "method": method,
        "base_sha256": base_sha256,
        "tokenizer_sha256": sha256_of(config.base / "tokenizer.json"),
        "data_sha256": data_sha256,
        "init_sha256": init,
        "seed": config.seed,
        "batch": batch,
    }
    device, dtype = choose_compute(config.device, config.dtype)
    base_name = "small" if base_sha256 == BASE_FINGERPRINT else str(config.base)
    wrapped = with_adapter(config.base, config.init, config.rank, config.alpha, device, dtype, base_name)

    _still(wrapped)
    rank = wrapped.peft_config["default"].r

    def write(state: Checkpoint) -> Path:
        said = {"name": config.name, "base": base_name, **identity, **state.facts(), "rank": rank, **facts}
        if config.init:
            # The adapter's own weights were trained further: not merged, not stacked on another.
            said["adapter"] = f"went on from the adapter {config.init.name}, over the same base"
        write_adapter(wrapped, config.out / "adapter", said)
        write_card(config.out / "adapter", said)
        return config.out / "adapter"

    return PolicyRun(
        config=config,
        core=wrapped.get_base_model(),
        weights=[weight for weight in wrapped.parameters() if weight.requires_grad],
        device=device,
        dtype=dtype,
        state=Checkpoint({**identity, "settings": _settings(config)}),
        write=write,
        wrapped=wrapped,
        replay=replay,
    )


def _still(model: torch.nn.Module) -> None:
    """Turn dropout off: log-probabilities are compared, with a reference's and with an engine's."""
    import torch

    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0


def _settings(config: PolicyConfig) -> str:
    """Return a short hash of what must not change between the two halves of a resumed run."""
    same = config.model_dump(mode="json", exclude={"out", "device", "dtype", "checkpoint_minutes", "minutes"})
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]


def shuffled(count: int, seed: int) -> Iterator[int]:
    """Yield indices below ``count`` for ever, each epoch in an order of its own."""
    epoch = 0
    while True:
        order = list(range(count))
        random.Random(f"{seed}:{epoch}").shuffle(order)
        yield from order
        epoch += 1


def reference(run: PolicyRun, work: Work) -> list[float]:
    """Return the summed log-probabilities of ``work.referred()`` under the weights as loaded.

    They are kept in ``reference.json`` beside the checkpoint, for the run that goes on.
    """
    place = run.config.out / "reference.json"
    identity = run.state.identity
    rows = work.referred()
    if not rows:
        return []
    if place.is_file():
        kept = json.loads(place.read_text(encoding="utf-8"))
        if kept["identity"] == identity:
            return [float(value) for value in kept["sums"]]
    sums = row_sums(run.core, rows, run.config.micro_tokens, run.autocast)
    replace_file(place, json.dumps({"identity": identity, "sums": sums}).encode())
    return sums
