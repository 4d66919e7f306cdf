"""The forward pass: our own for Llama, Mistral, Qwen2 and Qwen3 shapes, the module's for the rest.

Decoding small models is bound by reading weights and by the cost of each operation, so
:class:`FusedForward` does what the architecture needs and nothing else: one projection for queries,
keys and values, one for gate and up, norms in fp32, keys and values written in place into a
:class:`~.cache.Slot`, grouped-query attention without repeating heads, and the output head only for
the rows (and, under a grammar, only the tokens) that can be chosen. Several sequences of different
lengths share every linear layer: their rows lie one after another in ``[rows, hidden]``; only
attention goes sequence by sequence. The fused weights replace the module's own storage (its
parameters become views), so memory is not doubled and weight updates in place are seen here.

Any other transformers architecture goes through its own module (:mod:`.module_forward`).

Shapes: R rows in all, H query heads, G key-value heads, D head width, V vocabulary.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kv.cache import Cache, Slot
from .attention import Plan, layout
from .device import to_device
from .low_precision import Dense, Linear, Precision, SwiGLU

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
class Layer:
    """Fused weights of one decoder layer; ``window`` is 0 for full attention."""

    norm: Tensor
    qkv: Linear
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: Linear
    mlp_norm: Tensor
    gate_up: Linear
    """Gate and up projections in one layer, with the activation."""
    down: Linear
    window: int

    def linears(self) -> list[Linear]:
        """Return the layer's linear parts."""
        return [self.qkv, self.out, self.gate_up, self.down]

    def stored(self) -> dict[str, Dense]:
        """Return the weights of a layer as loaded, by field."""
        inner = cast(SwiGLU, self.gate_up).inner
        found = {"qkv": self.qkv, "out": self.out, "gate_up": inner, "down": self.down}
        return cast("dict[str, Dense]", found)

    def converted(self, precision: Precision) -> Layer:
        """Return this layer, which is as loaded, in ``precision``."""
        parts = {name: precision.narrow(dense) for name, dense in self.stored().items()}
        gate_up = precision.swiglu(parts["gate_up"])
        qkv, out, down = (precision.linear(parts[name]) for name in ("qkv", "out", "down"))
        return replace(self, qkv=qkv, out=out, gate_up=gate_up, down=down)


@dataclass(frozen=True)
class Weights:
    """Everything that a forward reads, as loaded."""

    embedding: Dense
    head: Dense
    """The same object as ``embedding`` where the model ties them."""
    norm: Tensor
    layers: list[Layer]
    inv_freq: Tensor
    rope_scale: float

    @classmethod
    def of(cls, model: nn.Module, config: Any) -> Weights:
        """Take a module's weights; its parameters become views of the fused ones."""
        body, head = cast(Any, model).model, cast(Any, model).lm_head.weight
        embedding = Dense(body.embed_tokens.weight.data)
        return cls(
            embedding=embedding,
            head=embedding if head is body.embed_tokens.weight else Dense(head.data),
            norm=body.norm.weight.data,
            layers=[read_layer(layer, config, i) for i, layer in enumerate(body.layers)],
            inv_freq=body.rotary_emb.inv_freq.float(),
            rope_scale=float(getattr(body.rotary_emb, "attention_scaling", 1.0)),
        )

    def narrowed(self, precision: Precision) -> Weights:
        """Return the same with the vocabulary's tables in the form that ``precision`` stores."""
        embedding = precision.narrow(self.embedding)
        head = embedding if self.head is self.embedding else precision.narrow(self.head)
        return replace(self, embedding=embedding, head=head)


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
    """Prepare one layer after another; stop when the main thread has ended, so as not to delay exit.

    glibc holds on to memory freed in small pieces, here the fp32 weights, so it is trimmed regularly.
    """
    for number, linear in enumerate(linears):
        if number % 16 == 15:
            trim_memory()
        if threading.main_thread().is_alive():
            linear.prepare()
    trim_memory()


def trim_memory() -> None:
    """Give freed memory back to the system, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _dense(linear: nn.Linear) -> Dense:
    return Dense(linear.weight.data, None if linear.bias is None else linear.bias.data)


def can_fuse(config: Any) -> bool:
    """Say whether :class:`FusedForward` computes exactly what this configuration means."""
    rope = getattr(config, "rope_parameters", None) or {}
    plain = rope.get("rope_type", "default") in _STATIC_ROPE
    return config.model_type in FUSED_TYPES and config.hidden_act == "silu" and plain


class FusedForward:
    """Our own forward; see the module's text."""

    def __init__(self, model: nn.Module | Weights, config: Any) -> None:
        """Compute with a module's weights, which stay its own, or with ones read before (on the CPU)."""
        self._heads = int(config.num_attention_heads)
        self._groups = int(config.num_key_value_heads)
        dim = getattr(config, "head_dim", None)
        self._dim = int(dim or config.hidden_size // self._heads)
        self._eps = float(config.rms_norm_eps)
        self.weights = model if isinstance(model, Weights) else Weights.of(model, config)
        self._tables = self.weights
        self._head: Linear = self.weights.head
        self._layers = self.weights.layers
        self._norm = self.weights.norm
        self._count = int(config.num_hidden_layers)
        self._windows = {_window(config, index) for index in range(self._count)}
        self.precision: Precision | None = None
        self._like = self._norm.new_empty(0)
        """Device and number format of the residual stream."""
        self._cos = self._sin = self._like.new_empty(0, 1, self._dim)

    def new_cache(self) -> Slot:
        """Return an empty slot of this model's shape."""
        shares = not any(self._windows)
        return Slot(self._count, self._groups, self._dim, self._like, shares)

    def head(self, hidden: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Return fp32 logits of ``hidden [rows, width]``; ``allowed`` picks rows of the head."""
        if allowed is None:
            return self._head(hidden).float()
        return F.linear(hidden, self._tables.head.rows(allowed, hidden.dtype)).float()

    def set_precision(self, precision: Precision | None, wait: bool = True) -> None:
        """Compute every linear layer in ``precision``; None: with the weights as loaded.

        Converted layers are copies: after a change of weights call :meth:`refresh`. Without ``wait``
        they are prepared in the background, while a first prompt is computed.
        """
        self.precision = precision
        loaded = self.weights
        self._tables = loaded if precision is None else loaded.narrowed(precision)
        self._head = loaded.head if precision is None else precision.linear(self._tables.head)
        self._layers = loaded.layers if precision is None else [x.converted(precision) for x in loaded.layers]
        linears = [part for layer in self._layers for part in layer.linears()]
        # packing needs room for two, and the head is the largest: it comes first where the others take no
        # memory yet (mapped), else last, when they have freed their fp32 weights
        linears.insert(0 if self._tables.head.mapped else len(linears), self._head)
        if wait:
            _prepare(linears)
        else:
            threading.Thread(target=_prepare, args=(linears,), name="prepare-weights").start()

    def refresh(self) -> None:
        """Take over weights that were changed in place."""
        if self.precision is not None and self.weights.layers:
            self.set_precision(self.precision)

    def release(self, model: nn.Module) -> bool:
        """Free the fp32 weights, apart from norms, if the precision in use never needs them.

        ``model``, whose parameters are views of them, is left with empty ones: it can be neither run nor
        trained. Returns whether anything was freed.
        """
        if self.precision is None or not self.precision.every or not self.weights.layers:
            return False
        self.weights = replace(self._tables, layers=[])
        empty(model)
        return True

    def hidden(
        self,
        batch: Sequence[tuple[Cache, Sequence[int]]],
        every: bool = False,
        tails: Sequence[int] | None = None,
        look: Callable[[str, Tensor], None] | None = None,
        layers: Iterable[Layer] | None = None,
    ) -> Tensor:
        """See :class:`Forward`. A cache's length moves only when all layers are done.

        ``look`` is shown the residual stream after the embedding and after each layer, by name. ``layers``
        are computed instead of the model's own, one at a time: they may be made as they are asked for.
        """
        slots = [cast(Slot, cache) for cache, _ in batch]
        counts = [len(ids) for _, ids in batch]
        for slot, count in zip(slots, counts, strict=True):
            slot.reserve(slot.length + count)
        flat = to_device([i for _, ids in batch for i in ids], self._like.device)
        cos, sin = self._rotation(slots, counts)
        plan = layout(slots, counts, self._windows, self._like)
        x = self._tables.embedding.rows(flat, self._like.dtype)
        if look is not None:
            look("model.embed_tokens", x)
        for index, layer in enumerate(self._layers if layers is None else layers):
            x = self._layer(x, index, layer, cos, sin, plan)
            if look is not None:
                look(f"model.layers.{index}", x)
        for slot, count in zip(slots, counts, strict=True):
            slot.length += count
        return self._rms(x if every else _last_rows(x, counts, tails), self._norm)

    def _rms(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMS norm computed in fp32, rounded before the weight is applied, as transformers does."""
        if x.dtype == torch.float32 or x.is_cuda:  # there one kernel, in fp32 inside, rounds once at the end
            return F.rms_norm(x, (x.shape[-1],), weight, self._eps)
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self._eps)
        return weight * wide.to(x.dtype)

    def _rotation(self, slots: Sequence[Slot], counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return cosines and signed sines ``[R, 1, D]`` of the new rows' positions."""
        cos, sin = self._angles(max(s.length + n for s, n in zip(slots, counts, strict=True)))
        parts = [slice(s.length, s.length + n) for s, n in zip(slots, counts, strict=True)]
        if len(parts) == 1:
            return cos[parts[0]], sin[parts[0]]
        return torch.cat([cos[p] for p in parts]), torch.cat([sin[p] for p in parts])

    def _angles(self, positions: int) -> tuple[Tensor, Tensor]:
        """Return cosines and signed sines ``[P, 1, D]`` of positions 0 to P, with P >= ``positions``."""
        if positions > self._cos.shape[0]:
            size = -(-positions // 1024) * 1024
            frequencies, scale = self.weights.inv_freq, self.weights.rope_scale
            angles = torch.arange(size, device=frequencies.device).float()[:, None] * frequencies
            cos, sin = angles.cos() * scale, angles.sin() * scale
            # sin carries the sign of rotate_half, so that a plain roll of the halves is enough
            self._cos = torch.cat([cos, cos], -1)[:, None].to(self._like)
            self._sin = torch.cat([-sin, sin], -1)[:, None].to(self._like)
        return self._cos, self._sin

    def _layer(self, x: Tensor, index: int, w: Layer, cos: Tensor, sin: Tensor, plan: Plan) -> Tensor:
        """One decoder layer over all rows; ``x [R, width]`` is updated in place and returned."""
        heads, groups, dim = self._heads, self._groups, self._dim
        qkv = w.qkv(self._rms(x, w.norm)).view(-1, heads + 2 * groups, dim)
        qk, v = qkv[:, : heads + groups], qkv[:, heads + groups :]
        if w.q_norm is not None and w.k_norm is not None:
            qk = torch.cat([self._rms(qk[:, :heads], w.q_norm), self._rms(qk[:, heads:], w.k_norm)], 1)
        qk = (qk * cos).addcmul_(qk.roll(dim // 2, -1), sin)
        x += w.out(plan.attend(qk[:, :heads], qk[:, heads:], v, index, w.window))
        x += w.down(w.gate_up(self._rms(x, w.mlp_norm)))
        return x


def empty(model: nn.Module) -> None:
    """Free a module's matrices."""
    for part in model.modules():
        weight = getattr(part, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 2:
            weight.data = weight.data.new_empty(0)


def _last_rows(x: Tensor, counts: Sequence[int], tails: Sequence[int] | None) -> Tensor:
    """Return the last ``tails[i]`` (None: 1) of each sequence's ``counts[i]`` rows of ``x``."""
    wanted = tails or [1] * len(counts)
    if sum(wanted) == len(x):
        return x
    ends = accumulate(counts)
    rows = [row for end, n in zip(ends, wanted, strict=True) for row in range(end - n, end)]
    return x[to_device(rows, x.device)]


def read_layer(layer: Any, config: Any, index: int) -> Layer:
    """Fuse one transformers decoder layer; its parameters become views of the fused tensors."""
    attention, mlp = layer.self_attn, layer.mlp
    normed = hasattr(attention, "q_norm")
    return Layer(
        norm=layer.input_layernorm.weight.data,
        qkv=_fuse([attention.q_proj, attention.k_proj, attention.v_proj]),
        q_norm=attention.q_norm.weight.data if normed else None,
        k_norm=attention.k_norm.weight.data if normed else None,
        out=_dense(attention.o_proj),
        mlp_norm=layer.post_attention_layernorm.weight.data,
        gate_up=SwiGLU(_fuse([mlp.gate_proj, mlp.up_proj])),
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
