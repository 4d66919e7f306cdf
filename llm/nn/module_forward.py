"""The forward of any transformers architecture with plain attention, through its own module.

One ``DynamicCache`` a sequence, one sequence after another: slower than :mod:`.forward`'s own, and
correct. Limit: models with a recurrent state are refused, because it cannot be cropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import ModelUnavailable
from ..kv.cache import Cache
from ..kv.prefix_tree import Node, Span, narrow


class ModuleCache:
    """A transformers ``DynamicCache`` behind :class:`~.cache.Cache`."""

    def __init__(self) -> None:
        from transformers import DynamicCache

        self.inner: Any = DynamicCache()
        self.length = 0

    @property
    def memory(self) -> Span:
        """All keys and values, ``[1, G, positions, D]`` each; layers may differ in G and D."""
        layers = [layer for layer in self.inner.layers if layer.is_initialized]
        return tuple(tensor for layer in layers for tensor in (layer.keys, layer.values))

    def reserve(self, positions: int) -> None:
        """Nothing to do: the inner cache grows by itself."""

    def crop(self, length: int) -> None:
        """Cut every layer to ``length``, also layers that an interrupted forward left longer."""
        for layer in self.inner.layers:
            if layer.is_initialized:
                layer.keys = layer.keys[:, :, :length]
                layer.values = layer.values[:, :, :length]
        self.length = min(self.length, length)

    def covers(self, start: int) -> bool:
        """True: this cache always holds everything itself."""
        return True

    def export(self, start: int, end: int) -> Span:
        """Return views; the inner cache never writes into its tensors, it makes longer ones."""
        return narrow(self.memory, start, end)

    def rest(self, node: Node) -> None:
        """Nothing to do: this cache reads nothing elsewhere."""

    def begin(self, node: Node, base: int, copied: Sequence[Span]) -> None:
        """Restart with copies of the path's positions below ``base`` and of the following ones."""
        from transformers import DynamicCache

        self.inner = DynamicCache()
        spans = [*node.spans(0, base), *copied]
        self.length = sum(span[0].shape[-2] for span in spans)
        tensors = [torch.cat(parts, -2) for parts in zip(*spans, strict=True)]
        for index in range(0, len(tensors), 2):
            self.inner.update(tensors[index], tensors[index + 1], index // 2)


class ModuleForward:
    """Any transformers causal model with attention caches, one sequence at a time."""

    def __init__(self, model: nn.Module, config: Any) -> None:
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        layers = DynamicCache(config=config).layers
        if not all(isinstance(layer, DynamicLayer) for layer in layers):
            raise ModelUnavailable(
                f"model type {config.model_type!r} keeps a recurrent state that cannot be cropped; "
                "choose a model with plain attention"
            )
        self._model = model
        self._device = next(model.parameters()).device

    def refresh(self) -> None:
        """Nothing to do: the module's own weights are computed with."""

    def new_cache(self) -> ModuleCache:
        """Return an empty cache."""
        return ModuleCache()

    def head(self, hidden: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Return fp32 logits; ``hidden`` holds them already, the module has computed its head."""
        return (hidden if allowed is None else hidden[:, allowed]).float()

    def hidden(
        self,
        batch: Sequence[tuple[Cache, Sequence[int]]],
        every: bool = False,
        tails: Sequence[int] | None = None,
    ) -> Tensor:
        """See :class:`~.forward.Forward`; here the result is the module's logits."""
        rows = []
        for (item, ids), tail in zip(batch, tails or [1] * len(batch), strict=True):
            cache = cast(ModuleCache, item)
            cache.crop(cache.length)
            output = self._model(
                input_ids=torch.tensor([list(ids)], device=self._device),
                past_key_values=cache.inner,
                use_cache=True,
                logits_to_keep=0 if every else tail,
            )
            cache.length += len(ids)
            rows.append(output.logits[0])
        return torch.cat(rows)
