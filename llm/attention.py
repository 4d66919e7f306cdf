"""Attention over key-value slots: which rows, positions and masks belong to each sequence.

The sequences of a batch have different lengths, so each attends by itself to its own slot; only the
linear layers are shared. Where causality alone is enough no mask is built.

Shapes: n rows of a sequence, H query heads, G key-value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .cache import Slot


@dataclass(frozen=True)
class Span:
    """The rows of one sequence in a forward, with its masks by window (None: no mask is needed)."""

    slot: Slot
    rows: slice
    start: int
    end: int
    masks: dict[int, Tensor | None]


def layout(slots: Sequence[Slot], counts: Sequence[int], windows: set[int], like: Tensor) -> list[Span]:
    """Lay out a batch: which rows, positions and masks belong to each sequence."""
    spans, row = [], 0
    for slot, count in zip(slots, counts, strict=True):
        start, end = slot.length, slot.length + count
        masks = {window: _mask(start, end, window, like) for window in windows}
        spans.append(Span(slot, slice(row, row + count), start, end, masks))
        row += count
    return spans


def _mask(start: int, end: int, window: int, like: Tensor) -> Tensor | None:
    """Return an additive mask ``[end - start, end]``, or None where causality alone is enough."""
    windowed = 0 < window < end
    if end - start == 1 or (start == 0 and not windowed):
        return None
    query = torch.arange(start, end, device=like.device)[:, None]
    key = torch.arange(end, device=like.device)[None]
    hidden = key > query
    if windowed:
        hidden |= key <= query - window
    return like.new_zeros(end - start, end).masked_fill_(hidden, float("-inf"))


def attend(q: Tensor, k: Tensor, v: Tensor, spans: Sequence[Span], index: int, window: int) -> Tensor:
    """Write keys and values ``[R, G, D]`` of a batch and attend with ``q [R, H, D]``.

    Returns ``[R, H * D]``, the rows in the batch's order.
    """
    if len(spans) == 1:
        return _attend_alone(q, k, v, spans[0], index, window)
    out = q.new_empty(q.shape[0], q.shape[1] * q.shape[2])
    for span in spans:
        rows = span.rows
        out[rows] = _attend_alone(q[rows], k[rows], v[rows], span, index, window)
    return out


def _attend_alone(q: Tensor, k: Tensor, v: Tensor, span: Span, index: int, window: int) -> Tensor:
    """Write keys and values ``[n, G, D]``, attend with ``q [n, H, D]``; returns ``[n, H * D]``."""
    n, heads, dim = q.shape
    buffer = span.slot.buffer[index]
    buffer[0, :, span.start : span.end] = k.transpose(0, 1)
    buffer[1, :, span.start : span.end] = v.transpose(0, 1)
    first = max(0, span.end - window) if window and n == 1 else 0
    keys, values = buffer[0, None, :, first : span.end], buffer[1, None, :, first : span.end]
    if n == 1:  # the heads of a group become the rows of one query: nothing is repeated or masked
        grouped = q.reshape(1, keys.shape[1], -1, dim)
        return F.scaled_dot_product_attention(grouped, keys, values).reshape(1, heads * dim)
    mask = span.masks[window]
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1)[None],
        keys,
        values,
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=heads != keys.shape[1],
    )
    return out[0].transpose(0, 1).reshape(n, heads * dim)
