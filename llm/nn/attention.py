"""Attention over KV slots and shared prefixes.

The sequences of a batch have different lengths, so each attends to its own slot separately; only the
linear layers are batched. A node of the prefix tree that several sequences rest on is read once for
all: their stacked query rows attend to it in one pass, and the partial results are merged by their
log-sum-exp, which is exact. No mask is built where causality alone suffices. :func:`layout` plans this
once per forward, :meth:`Plan.attend` executes it in every layer.

Limit: layers with a sliding window never share (their slots hold everything themselves).

Shapes: R rows of a batch, n rows of a sequence, H query heads, G key-value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kv.cache import Slot
from ..kv.prefix_tree import Node
from .device import to_device

Views = tuple[Tensor, ...]

WORTH_SHARING = 256
"""A node is read once for all if that saves this many positions: a pass and its merge cost about 40 us
per layer, a position 0.15 us (measured at SmolLM2's shape)."""


@dataclass(frozen=True)
class Span:
    """The rows of one sequence in a forward; its slot serves positions ``first`` to ``end``.

    ``masks`` are by window (None: no mask is needed). The views of the slot are made once per forward,
    one per layer: slicing again in every layer would cost as much as short attention.
    """

    count: int
    first: int
    masks: dict[int, Tensor | None]
    keys: Views
    """``[1, G, end - first, D]``"""
    values: Views
    new_keys: Views
    """``[G, n, D]``: where the keys of this forward's rows go."""
    new_values: Views


@dataclass(frozen=True)
class Pass:
    """A node's span, ``[layers, 2, G, positions, D]``, and the rows that read it."""

    span: Tensor
    rows: slice | Tensor


@dataclass(frozen=True)
class Plan:
    """How a batch attends: sequence by sequence, shared spans once."""

    spans: list[Span]
    passes: list[Pass]
    counts: list[int]
    """Rows of each span."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, index: int, window: int) -> Tensor:
        """Write ``k, v [R, G, D]`` of layer ``index``, then attend with ``q [R, H, D]``: ``[R, H * D]``.

        Rows are in the order of the batch.
        """
        spans, counts = self.spans, self.counts
        keys, values = k.transpose(0, 1), v.transpose(0, 1)
        if len(spans) == 1:
            spans[0].new_keys[index].copy_(keys)
            spans[0].new_values[index].copy_(values)
        else:
            targets = [s.new_keys[index] for s in spans] + [s.new_values[index] for s in spans]
            torch._foreach_copy_(
                targets, [*keys.split_with_sizes(counts, 1), *values.split_with_sizes(counts, 1)]
            )
        if self.passes:
            return _attend_merged(q, self, index).flatten(1)
        if len(spans) == 1:
            return _attend_alone(q, spans[0], index, window)
        parts = zip(q.split_with_sizes(counts), spans, strict=True)
        return torch.cat([_attend_alone(part, span, index, window) for part, span in parts])


def layout(slots: Sequence[Slot], counts: Sequence[int], windows: set[int], like: Tensor) -> Plan:
    """Plan a batch: the rows, positions, masks and shared spans of each sequence."""
    common = _common(slots)
    spans: list[Span] = []
    readers: dict[Node, list[slice]] = {}
    row = 0
    for slot, count in zip(slots, counts, strict=True):
        rows = slice(row, row + count)
        path = slot.node.path() if slot.node is not None else []
        first = max([slot.base, *(node.end for node in path if node in common)])
        for node in path:
            if node.end <= first:
                readers.setdefault(node, []).append(rows)
        start, end = slot.length, slot.length + count
        masks = {window: _mask(start - first, end - first, window, like) for window in windows}
        spans.append(_span(slot, first, start, end, masks))
        row += count
    passes = [Pass(node.span[0], _rows(parts, row, like)) for node, parts in readers.items()]
    return Plan(spans, passes, list(counts))


def _span(slot: Slot, first: int, start: int, end: int, masks: dict[int, Tensor | None]) -> Span:
    """Return the span of positions ``start`` to ``end``, which read positions from ``first`` on."""
    keys, values = slot.buffer[:, 0], slot.buffer[:, 1]
    held, new = slice(first - slot.base, end - slot.base), slice(start - slot.base, end - slot.base)
    return Span(
        end - start,
        first,
        masks,
        keys[:, None, :, held].unbind(0),
        values[:, None, :, held].unbind(0),
        keys[:, :, new].unbind(0),
        values[:, :, new].unbind(0),
    )


def _common(slots: Sequence[Slot]) -> set[Node]:
    """Return the nodes worth reading once for several sequences, with all their ancestors."""
    if len(slots) == 1:
        return set()
    users: dict[Node, int] = {}
    for slot in slots:
        for node in slot.node.path() if slot.node is not None else []:
            users[node] = users.get(node, 0) + 1
    worth = (node for node, count in users.items() if (count - 1) * len(node.ids) >= WORTH_SHARING)
    return {above for node in worth for above in node.path()}


def _rows(parts: Sequence[slice], total: int, like: Tensor) -> slice | Tensor:
    """Join rows of sequences: one slice if they are adjacent, else their indices."""
    if all(a.stop == b.start for a, b in pairwise(parts)):
        return slice(parts[0].start, parts[-1].stop)
    numbers = [row for part in parts for row in range(total)[part]]
    return to_device(numbers, like.device)


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


def _attend_alone(q: Tensor, span: Span, index: int, window: int) -> Tensor:
    """Attend with ``q [n, H, D]`` to a single slot; returns ``[n, H * D]``."""
    n, heads, dim = q.shape
    keys, values = span.keys[index], span.values[index]
    if n == 1 and 0 < window < keys.shape[2]:
        keys, values = keys[:, :, -window:], values[:, :, -window:]
    if n == 1:  # the heads of a group become the rows of one query: nothing is repeated or masked
        grouped = q.reshape(1, keys.shape[1], -1, dim)
        return F.scaled_dot_product_attention(grouped, keys, values).reshape(1, heads * dim)
    if q.device.type == "mps":  # its kernel in torch 2.11 knows no grouped heads
        keys, values = (t.repeat_interleave(heads // keys.shape[1], 1) for t in (keys, values))
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


def _attend_merged(q: Tensor, plan: Plan, index: int) -> Tensor:
    """Attend to slots and shared spans; returns ``[R, H, D]``."""
    heads, dim = q.shape[1:]
    parts, all_sums = [], []
    for rows, span in zip(q.split_with_sizes(plan.counts), plan.spans, strict=True):
        keys, values = span.keys[index], span.values[index]
        if span.count == 1:
            part, lse = attend_sums(rows.view(1, keys.shape[1], -1, dim), keys, values, None, False)
            parts.append(part.view(1, heads, dim))
            all_sums.append(lse.reshape(1, heads))
        else:
            mask = span.masks[0]
            part, lse = attend_sums(rows.transpose(0, 1)[None], keys, values, mask, mask is None)
            parts.append(part[0].transpose(0, 1))
            all_sums.append(lse[0].T)
    out, sums = torch.cat(parts), torch.cat(all_sums)
    for shared in plan.passes:
        keys, values = shared.span[index, :, None]
        readers, groups = shared.rows, keys.shape[1]
        # the rows of all sequences, and the heads of a group, become the rows of one query
        stacked = (
            q[readers].view(-1, groups, heads // groups, dim).transpose(0, 1).reshape(1, groups, -1, dim)
        )
        part, lse = attend_sums(stacked, keys, values, None, False)
        part = part.view(groups, -1, heads // groups, dim).transpose(0, 1).reshape(-1, heads, dim)
        lse = lse.reshape(groups, -1, heads // groups).transpose(0, 1).reshape(-1, heads)
        before = sums[readers]
        out[readers] = torch.lerp(out[readers], part, torch.sigmoid(lse - before)[..., None].to(part.dtype))
        sums[readers] = torch.logaddexp(before, lse)
    return out


def attend_sums(
    q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """Attend with ``q [1, H, n, D]`` to ``keys, values [1, G, m, D]``.

    Returns ``[1, H, n, D]`` and the fp32 logarithm of each row's sum of exponents ``[1, H, n]``,
    which torch's attention computes but returns only from this private CPU operator; elsewhere it is
    computed by :func:`_sums_by_hand`. ``causal`` means that row i sees positions 0 to i.
    """
    if q.device.type == "cpu" and _FLASH is not None:
        found: tuple[Tensor, Tensor] = _FLASH(q, keys, values, 0.0, causal, attn_mask=mask)
        return found
    return _sums_by_hand(q, keys, values, mask, causal)


_FLASH = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)


def _sums_by_hand(
    q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """Do :func:`attend_sums` with two matrix products."""
    _, heads, n, dim = q.shape
    groups = keys.shape[1]
    grouped = q.reshape(groups, -1, n, dim).flatten(1, 2)
    scores = (grouped @ keys[0].mT).float().view(groups, -1, n, keys.shape[2]) * dim**-0.5
    if causal:
        later = torch.ones(n, n, dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    elif mask is not None:
        scores = scores + mask
    lse = scores.logsumexp(-1)
    weights = (scores - lse[..., None]).exp().to(values.dtype).flatten(1, 2)
    return (weights @ values[0]).view(1, heads, n, dim), lse.view(1, heads, n)
