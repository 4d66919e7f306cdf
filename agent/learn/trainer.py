"""The models of an improvement: what is improved, how it is loaded, and how a candidate is trained.

An adapter is trained further as one adapter (the next one starts from the one in use); a whole model gets its
first adapter. Models whose weights are not on this machine cannot be improved.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from ...files import sha256_of
from ...settings import Settings, bound_spinning
from ..open import with_model

if TYPE_CHECKING:
    from ...llm.models.local import LocalModel
    from ...llm.training.logprobs import Row
    from ...llm.training.rl import Trajectory
    from ...llm.training.trainer import Progress, Report

    OnStep = Callable[[Progress], None]


@dataclass(frozen=True)
class Subject:
    """A model that can be improved."""

    reference: str
    name: str
    """What its next versions are called."""
    base: Path
    adapter: Path | None

    def relation(self, full: bool) -> str:
        """Return how a candidate relates to it, for the card; ``full``: all weights were trained."""
        if full:
            merged = "" if self.adapter is None else ", its adapter merged"
            return f"a whole model: {self.reference}{merged}, all weights trained further"
        if self.adapter is None:
            return f"a first adapter on the whole model {self.reference}"
        return f"the adapter of {self.reference}, trained further: one adapter, not stacked"


def subject_of(settings: Settings) -> Subject:
    """Return the model in use as a subject. Raises UsageError if it cannot be trained."""
    from ...llm.registry import ModelRegistry

    reference = with_model(settings).model
    if reference.partition(":")[0] in ("langchain", "scripted"):
        raise UsageError(
            f"{reference} has no weights here; 'autogpt improve --model small' trains a local model"
        )
    registry = ModelRegistry(settings.home)
    found = registry.resolve(reference)
    if not isinstance(found.source, Path):
        raise UsageError(f"{reference}: give the folder of the model; a name on the hub cannot be improved")
    known = {version.reference: version.name for version in registry.list()}
    name = known.get(reference) or Path(reference).name or "model"
    return Subject(reference, name, found.source, found.adapter)


class Trainer:
    """Loads and trains; at most the two models of a gate are in memory."""

    def __init__(self, settings: Settings, subject: Subject) -> None:
        bound_spinning()
        self.settings = settings
        self.subject = subject
        self._loaded: dict[Path | None, LocalModel] = {}

    def load(self, adapter: Path | None) -> LocalModel:
        """Return the model with this adapter."""
        from ...llm.models.local import LocalModel

        if adapter not in self._loaded:
            base, merged = self._parts(adapter)
            self._loaded[adapter] = LocalModel.load(
                base,
                adapter=merged,
                device=self.settings.device,
                dtype=self.settings.dtype,
                cache_dir=self.settings.cache,
                name=self.subject.reference if adapter == self.subject.adapter else "candidate",
            )
        return self._loaded[adapter]

    def unload(self) -> None:
        """Drop the loaded models, before training needs the memory."""
        self._loaded.clear()
        gc.collect()

    def fingerprint(self, adapter: Path | None) -> str:
        """Return a hash of the weights, and of the device and dtype that they are computed with."""
        from ...llm.nn.load import weights_fingerprint

        base, merged = self._parts(adapter)
        parts = [weights_fingerprint(base), self.settings.device, self.settings.dtype]
        if merged is not None:
            parts.append(sha256_of(merged / "adapter_model.safetensors"))
        return hashlib.sha256("|".join(parts).encode()).hexdigest()

    def finetune(self, on_step: OnStep, data: list[Path], epsilon: float | None, **config: Any) -> Report:
        """Train a candidate on files of samples (``full``: all weights); ``epsilon``: a privacy budget."""
        from ...llm.training.data import read_samples
        from ...llm.training.finetune import FinetuneConfig, finetune
        from ...llm.training.private import PrivateConfig, finetune_private

        self.unload()
        if epsilon is None:
            return finetune(FinetuneConfig(**self._common(), data=data, **config), on_step)
        for name in ("batch", "full"):
            config.pop(name, None)
        return finetune_private(
            PrivateConfig(**self._common(), epsilon=epsilon, **config), read_samples(data), on_step
        )

    def prefer(
        self,
        method: str,
        items: Sequence[Any],
        replay: list[Path],
        on_step: OnStep,
        epsilon: float | None,
        **config: Any,
    ) -> Report:
        """Train a candidate by ``dpo`` on pairs or ``kto`` on rated answers, replaying ordinary samples."""
        from ...llm.training.data import read_samples
        from ...llm.training.preference import PreferenceConfig, train_dpo, train_kto
        from ...llm.training.private import PrivateConfig, dpo_private

        self.unload()
        if epsilon is not None:
            config.pop("replay_share", None)  # ordinary samples need no privacy budget, nor a part in it
            return dpo_private(PrivateConfig(**self._common(), epsilon=epsilon, **config), items, on_step)
        settings = PreferenceConfig(**self._common(), **config)
        train = train_dpo if method == "dpo" else train_kto
        return train(settings, items, read_samples(replay) if replay else (), on_step)

    def reinforce(
        self,
        goals: Sequence[str],
        roll: Callable[[Sequence[str], int], Sequence[Sequence[Trajectory]]],
        publish: Callable[[Path], None],
        replay: list[Path],
        on_step: OnStep,
        **config: Any,
    ) -> Report:
        """Train a candidate by GRPO on the attempts that ``roll`` makes."""
        from ...llm.training.data import read_samples
        from ...llm.training.rl import GrpoConfig, train_grpo

        self.unload()
        settings = GrpoConfig(**self._common(), **config)
        return train_grpo(settings, goals, roll, publish, read_samples(replay) if replay else (), on_step)

    def log_probabilities(self, adapter: Path | None, rows: Sequence[Row]) -> list[float]:
        """Return the summed log-probability (nats) of each row's tokens with loss, in fp32."""
        import contextlib

        from ...llm.nn.load import load_model
        from ...llm.training.logprobs import row_sums

        self.unload()
        device = self._common()["device"]
        base, merged = self._parts(adapter)
        loaded = load_model(base, device, "float32", merged, self.settings.cache)
        return row_sums(loaded.model, rows, 1024, contextlib.nullcontext)

    def _parts(self, adapter: Path | None) -> tuple[Path, Path | None]:
        """Return base and adapter of a candidate, which may be a whole model."""
        if adapter is not None and (adapter / "config.json").is_file():
            return adapter, None
        return self.subject.base, adapter

    def _common(self) -> dict[str, Any]:
        subject = self.subject
        device = "cpu" if self.settings.device == "mps" else self.settings.device
        return {"base": subject.base, "init": subject.adapter, "name": subject.name, "device": device}
