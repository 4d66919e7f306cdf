"""The forward pass: our own for Llama, Mistral, Qwen2 and Qwen3 shapes, the module's for the rest.

Decoding small models is bound by reading weights and by the cost of each operation, so
:class:`FusedForward` does what the architecture needs and nothing else: one projection for queries,
keys and values, one for gate and up, norms in fp32, keys and values written in place into a
:class:`~.cache.Slot`, grouped-query attention without repeating heads, and the output head only for
the rows (and, under a grammar, only the tokens) that can be chosen. Several sequences of different
lengths share every linear layer: their rows lie one after another in ``[rows, hidden]``; only
attention goes sequence by sequence. The fused weights replace the module's own storage (its
parameters become views), so memory is not doubled and weight updates in place are seen here.

:class:`ModuleForward` drives any other transformers architecture through its own ``forward`` with
one ``DynamicCache`` a sequence, one sequence after another: slower, and correct.

Shapes: R rows in all, H query heads, G key-value heads, D head width, V vocabulary.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ModelUnavailable
from .attention import Attention, layout
from .cache import Cache, Slot
from .packed import WIDTHS, Dense, Linear
from .transfer import ship
from .tree import Node, Span, narrow

FUSED_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_STATIC_ROPE = frozenset({"default", "linear", "llama3", "yarn"})


class Forward(Protocol):
    """A model as the engine sees it."""

    def new_cache(self) -> Cache:
        """Return an empty cache."""
        ...

    def hidden(
        self,
        batch: Sequence[tuple[Cache, Sequence[int]]],
        every: bool = False,
        tails: Sequence[int] | None = None,
    ) -> Tensor:
        """Run new ids through the model, extending each sequence's cache.

        Returns what :meth:`head` takes, one row ``[width]`` for each of the last ``tails[i]`` ids of
        sequence i (None: 1 each), sequence after sequence; all ``[R, width]`` when ``every`` is set.
        """
        ...

    def refresh(self) -> None:
        """Take over weights that were changed in place."""
        ...

    def head(self, hidden: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Return fp32 logits ``[rows, V]``, or ``[rows, len(allowed)]`` for those ids alone."""
        ...


@dataclass(frozen=True)
class _Layer:
    """Fused weights of one decoder layer; ``window`` is 0 for full attention."""

    norm: Tensor
    qkv: Linear
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear
    window: int

    def linears(self) -> list[Linear]:
        """Return the layer's linear parts."""
        return [self.qkv, self.out, self.gate_up, self.down]

    def packed(self, make: Callable[[Dense], Linear]) -> _Layer:
        """Return this layer with ``make(linear)`` in place of each linear."""
        qkv, out, gate_up, down = map(
            make, cast("list[Dense]", [self.qkv, self.out, self.gate_up, self.down])
        )
        return replace(self, qkv=qkv, out=out, gate_up=gate_up, down=down)


def _fuse(linears: Sequence[nn.Linear]) -> Dense:
    """Join linears row-wise and point their parameters at the joined storage."""
    weight = torch.cat([linear.weight.data for linear in linears])
    biased = linears[0].bias is not None
    bias = torch.cat([linear.bias.data for linear in linears]) if biased else None
    start = 0
    for linear in linears:
        end = start + linear.weight.shape[0]
        linear.weight.data = weight[start:end]
        if bias is not None:
            linear.bias.data = bias[start:end]
        start = end
    return Dense(weight, bias)


def _prepare(linears: Sequence[Linear]) -> None:
    for linear in linears:
        linear.prepare()


def _dense(linear: nn.Linear) -> Dense:
    return Dense(linear.weight.data, None if linear.bias is None else linear.bias.data)


def can_fuse(config: Any) -> bool:
    """Say whether :class:`FusedForward` computes exactly what this configuration means."""
    rope = getattr(config, "rope_parameters", None) or {}
    plain = rope.get("rope_type", "default") in _STATIC_ROPE
    return config.model_type in FUSED_TYPES and config.hidden_act == "silu" and plain


def make_forward(model: nn.Module, config: Any, packing: str = "") -> Forward:
    """Return the fastest forward that is correct for ``model``, its layers in the width ``packing``."""
    if not can_fuse(config):
        return ModuleForward(model, config)
    forward = FusedForward(model, config)
    if packing:
        forward.pack(WIDTHS[packing])
    if next(model.parameters()).device.type == "cuda":
        from .graphs import GraphedForward

        return GraphedForward(forward, int(config.max_position_embeddings))
    return forward


class FusedForward:
    """Our own forward; see the module's text."""

    def __init__(self, model: nn.Module, config: Any) -> None:
        self._heads = int(config.num_attention_heads)
        self._groups = int(config.num_key_value_heads)
        dim = getattr(config, "head_dim", None)
        self._dim = int(dim or config.hidden_size // self._heads)
        self._eps = float(config.rms_norm_eps)
        body = cast(Any, model).model
        self._embedding: Tensor = body.embed_tokens.weight.data
        self._norm: Tensor = body.norm.weight.data
        self._head_weight: Tensor = cast(Any, model).lm_head.weight.data
        self._head: Linear = Dense(self._head_weight)
        self._dense = [_read_layer(layer, config, i) for i, layer in enumerate(body.layers)]
        self._layers = self._dense
        self.windows = {layer.window for layer in self._dense}
        self.make: Callable[[Dense], Linear] | None = None
        self._inv_freq: Tensor = body.rotary_emb.inv_freq.float()
        self._rope_scale = float(getattr(body.rotary_emb, "attention_scaling", 1.0))
        self._cos = self._sin = self._embedding.new_empty(0, 1, self._dim)

    def new_cache(self) -> Slot:
        """Return an empty slot of this model's shape."""
        shares = not any(self.windows)
        return Slot(len(self._layers), self._groups, self._dim, self._embedding, shares)

    def head(self, hidden: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Return fp32 logits of ``hidden [rows, width]``; ``allowed`` picks rows of the head."""
        if allowed is None:
            return self._head(hidden).float()
        return F.linear(hidden, self._head_weight[allowed]).float()

    def pack(self, make: Callable[[Dense], Linear] | None, wait: bool = True) -> None:
        """Compute with ``make(layer)`` in place of every linear layer; None: with the layers as loaded.

        Packed layers are copies: after a change of weights call :meth:`refresh`. Without ``wait`` they
        are prepared in the background, while a first prompt is computed.
        """
        self.make = make
        dense = Dense(self._head_weight)
        self._head = dense if make is None else make(dense)
        self._layers = self._dense if make is None else [layer.packed(make) for layer in self._dense]
        linears = [self._head, *(part for layer in self._layers for part in layer.linears())]
        if wait:
            _prepare(linears)
        else:
            threading.Thread(target=_prepare, args=(linears,), name="packing", daemon=True).start()

    def refresh(self) -> None:
        """Take over weights that were changed in place."""
        if self.make is not None:
            self.pack(self.make)

    def hidden(
        self,
        batch: Sequence[tuple[Cache, Sequence[int]]],
        every: bool = False,
        tails: Sequence[int] | None = None,
    ) -> Tensor:
        """See :class:`Forward`. A cache's length moves only when all layers are done."""
        slots = [cast(Slot, cache) for cache, _ in batch]
        counts = [len(ids) for _, ids in batch]
        for slot, count in zip(slots, counts, strict=True):
            slot.reserve(slot.length + count)
        flat = ship([i for _, ids in batch for i in ids], self._embedding.device)
        cos, sin = self._rotation(slots, counts)
        x = self.run(flat, cos, sin, layout(slots, counts, self.windows, self._embedding))
        for slot, count in zip(slots, counts, strict=True):
            slot.length += count
        return self.normed(x if every else _last_rows(x, counts, tails))

    def run(self, ids: Tensor, cos: Tensor, sin: Tensor, attention: Attention) -> Tensor:
        """Run rows ``ids [R]``, rotated by ``cos, sin [R, 1, D]``, through all layers: ``[R, width]``."""
        x = F.embedding(ids, self._embedding)
        for index, layer in enumerate(self._layers):
            x = self._layer(x, index, layer, cos, sin, attention)
        return x

    def normed(self, x: Tensor) -> Tensor:
        """Return what :meth:`head` takes of rows that passed all layers."""
        return self._rms(x, self._norm)

    def _rms(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMS norm computed in fp32, rounded before the weight is applied, as transformers does."""
        if x.dtype == torch.float32 or x.is_cuda:  # there one kernel, in fp32 inside, rounds once at the end
            return F.rms_norm(x, (x.shape[-1],), weight, self._eps)
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self._eps)
        return weight * wide.to(x.dtype)

    def _rotation(self, slots: Sequence[Slot], counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return cosines and signed sines ``[R, 1, D]`` of the new rows' positions."""
        cos, sin = self.turns(max(s.length + n for s, n in zip(slots, counts, strict=True)))
        parts = [slice(s.length, s.length + n) for s, n in zip(slots, counts, strict=True)]
        if len(parts) == 1:
            return cos[parts[0]], sin[parts[0]]
        return torch.cat([cos[p] for p in parts]), torch.cat([sin[p] for p in parts])

    def turns(self, positions: int) -> tuple[Tensor, Tensor]:
        """Return cosines and signed sines ``[P, 1, D]`` of all positions, P at least ``positions``."""
        if positions > self._cos.shape[0]:
            size = -(-positions // 1024) * 1024
            angles = torch.arange(size, device=self._inv_freq.device).float()[:, None] * self._inv_freq
            cos, sin = angles.cos() * self._rope_scale, angles.sin() * self._rope_scale
            # sin carries the sign of rotate_half, so that a plain roll of the halves is enough
            self._cos = torch.cat([cos, cos], -1)[:, None].to(self._embedding)
            self._sin = torch.cat([-sin, sin], -1)[:, None].to(self._embedding)
        return self._cos, self._sin

    def _layer(
        self, x: Tensor, index: int, w: _Layer, cos: Tensor, sin: Tensor, attention: Attention
    ) -> Tensor:
        """One decoder layer over all rows; ``x [R, width]`` is updated in place and returned."""
        heads, groups, dim = self._heads, self._groups, self._dim
        qkv = w.qkv(self._rms(x, w.norm)).view(-1, heads + 2 * groups, dim)
        qk, v = qkv[:, : heads + groups], qkv[:, heads + groups :]
        if w.q_norm is not None and w.k_norm is not None:
            qk = torch.cat([self._rms(qk[:, :heads], w.q_norm), self._rms(qk[:, heads:], w.k_norm)], 1)
        qk = (qk * cos).addcmul_(qk.roll(dim // 2, -1), sin)
        x += w.out(attention.attend(qk[:, :heads], qk[:, heads:], v, index, w.window))
        gate, up = w.gate_up(self._rms(x, w.mlp_norm)).chunk(2, -1)
        x += w.down(F.silu(gate).mul_(up))
        return x


def _last_rows(x: Tensor, counts: Sequence[int], tails: Sequence[int] | None) -> Tensor:
    """Return the last ``tails[i]`` (None: 1) of each sequence's ``counts[i]`` rows of ``x``."""
    wanted = tails or [1] * len(counts)
    if sum(wanted) == len(x):
        return x
    ends = accumulate(counts)
    rows = [row for end, n in zip(ends, wanted, strict=True) for row in range(end - n, end)]
    return x[ship(rows, x.device)]


def _read_layer(layer: Any, config: Any, index: int) -> _Layer:
    """Fuse one transformers decoder layer; its parameters become views of the fused tensors."""
    attention, mlp = layer.self_attn, layer.mlp
    normed = hasattr(attention, "q_norm")
    return _Layer(
        norm=layer.input_layernorm.weight.data,
        qkv=_fuse([attention.q_proj, attention.k_proj, attention.v_proj]),
        q_norm=attention.q_norm.weight.data if normed else None,
        k_norm=attention.k_norm.weight.data if normed else None,
        out=_dense(attention.o_proj),
        mlp_norm=layer.post_attention_layernorm.weight.data,
        gate_up=_fuse([mlp.gate_proj, mlp.up_proj]),
        down=_dense(mlp.down_proj),
        window=_window(config, index),
    )


def _window(config: Any, index: int) -> int:
    """Return the layer's sliding window, 0 for full attention."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not window or (kinds is not None and kinds[index] != "sliding_attention"):
        return 0
    return int(window)


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
        """Begin anew with copies of the path's positions below ``base`` and of the next."""
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
        """See :class:`Forward`; here the result is the module's logits."""
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
