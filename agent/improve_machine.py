"""The models of an improvement: what is improved, how it is loaded, and how a candidate is trained.

An adapter is trained further as one adapter (a shipped or promoted one is where the next begins), a whole
model gets a first adapter on itself. Models that do not own their tokens here cannot be improved.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..settings import Settings, bound_spinning
from .setup import with_model

if TYPE_CHECKING:
    from ..llm.brain import LocalModel
    from ..llm.training.console import Progress
    from ..llm.training.loop import Report


@dataclass(frozen=True)
class Subject:
    """A model that can be improved."""

    reference: str
    name: str
    """What its next versions are called."""
    base: Path
    adapter: Path | None

    @property
    def kind(self) -> str:
        """What the card says of how a candidate stands to it."""
        if self.adapter is None:
            return f"a first adapter on the whole model {self.reference}"
        return f"the adapter of {self.reference}, trained further: one adapter, not stacked"


def subject_of(settings: Settings) -> Subject:
    """Return the model in use as what is to be improved. Raises UsageError where it cannot be trained."""
    from ..llm.registry import ModelRegistry

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


class Machine:
    """Loads and trains; at most the two models of a gate are in memory."""

    def __init__(self, settings: Settings, subject: Subject) -> None:
        bound_spinning()
        self.settings = settings
        self.subject = subject
        self._loaded: dict[Path | None, LocalModel] = {}

    def load(self, adapter: Path | None) -> LocalModel:
        """Return the model with this adapter."""
        from ..llm.brain import LocalModel

        if adapter not in self._loaded:
            self._loaded[adapter] = LocalModel.load(
                self.subject.base,
                adapter=adapter,
                device=self.settings.device,
                dtype=self.settings.dtype,
                cache_dir=self.settings.cache,
                name=self.subject.reference if adapter == self.subject.adapter else "candidate",
            )
        return self._loaded[adapter]

    def unload(self) -> None:
        """Let go of the models, before training needs the memory."""
        self._loaded.clear()
        gc.collect()

    def fingerprint(self, adapter: Path | None) -> str:
        """Return what tells two models' results apart: weights, and what they are computed with."""
        from ..llm.model import weights_fingerprint
        from ..llm.training.checkpoint import file_sha256

        parts = [weights_fingerprint(self.subject.base), self.settings.device, self.settings.dtype]
        if adapter is not None:
            parts.append(file_sha256(adapter / "adapter_model.safetensors"))
        return hashlib.sha256("|".join(parts).encode()).hexdigest()

    def finetune(self, on_step: Callable[[Progress], None], **config: Any) -> Report:
        """Train a candidate on files of samples; ``config`` is that of ``FinetuneConfig``."""
        from ..llm.training.finetune import FinetuneConfig, finetune

        self.unload()
        subject = self.subject
        common: dict[str, Any] = {"base": subject.base, "init": subject.adapter, "name": subject.name}
        common["device"] = "cpu" if self.settings.device == "mps" else self.settings.device
        return finetune(FinetuneConfig(**common, **config), on_step)
