"""A forward of fixed shape: what a CUDA graph can record, computed by any device.

A recording has shapes and addresses for ever. So a batch is fitted into a :class:`Shape` from a short
list; ids, positions and places come from numbers in a fixed buffer; and keys and values are read and
written in one fixed tensor, where every sequence has a seat (:class:`Seats`). What a seat holds is a
copy: the slot stays the truth, and new keys and values are copied back into it after every forward, so
that cropping, forking, the tree and snapshots know nothing of seats. A newcomer's beginning, shared or
its own, is copied in once, at the speed of the memory.

Attention reads all seats up to a sequence count and a length, with a mask: rows that only fill up, seats
of others and positions behind the last alter nothing.

Shapes: R rows, B sequences, T rows a sequence, P positions, H query heads, G key-value heads, D head
width, L layers.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kv.cache import Slot
from .forward import FusedForward
from .transfer import pinned

ROWS = (1, 4, 8, 16, 32, 64, 128, 512)
"""Rows that graphs are made for; a batch is filled up to the next."""
SEQUENCES = (1, 4, 16, 32)
DENSE_ROWS = 128
"""Up to here every sequence may as well have equally many rows: a GPU reads the weights meanwhile."""
ALONE, TOGETHER = 128, 32
"""New ids of a sequence beyond which it is a prompt for the ordinary forward: by itself, in company."""
LEAST_POSITIONS = 256


class Shape(NamedTuple):
    """What a graph is recorded for: R, T, B and how many positions are read."""

    rows: int
    reach: int
    sequences: int
    positions: int

    @property
    def dense(self) -> bool:
        """Whether rows lie where their sequences sit, T for each; else anywhere, to be placed."""
        return self.rows == self.sequences * self.reach


def fit(counts: Sequence[int], end: int, most: int) -> Shape:
    """Return the shape for sequences of ``counts`` new ids, the longest ending at ``end`` of ``most``."""
    sequences, reach = _next(len(counts), SEQUENCES), _next(max(counts), ROWS)
    rows = sequences * reach
    if rows > DENSE_ROWS:
        rows = min(rows, _next(sum(counts), ROWS))
    positions = LEAST_POSITIONS
    while positions < end:
        positions *= 2
    return Shape(rows, reach, sequences, min(positions, most))


def _next(number: int, steps: Sequence[int]) -> int:
    return next(step for step in steps if step >= number)


def _nobody() -> None:
    return None


@dataclass
class _Seat:
    """Who sits here, up to where it was written, and when it was last used."""

    slot: Callable[[], Slot | None] = _nobody
    written: int = 0
    used: int = 0


class Seats:
    """Copies of sequences' keys and values, ``[L, 2, seats, G, P + 1, D]``.

    The position behind the last takes what padding rows write. Everything else is finite at all times:
    masked positions are multiplied by 0, which a NaN would survive.
    """

    def __init__(self, like: Tensor, seats: int, positions: int) -> None:
        """``like`` is a slot's buffer ``[L, 2, G, 0, D]``."""
        layers, two, groups, _, dim = like.shape
        self.held = like.new_zeros(layers, two, seats, groups, positions + 1, dim)
        self.positions = positions
        self._seats = [_Seat() for _ in range(seats)]
        self._clock = 0

    def __len__(self) -> int:
        return len(self._seats)

    def assign(self, slots: Sequence[Slot], below: int) -> list[int]:
        """Return a seat with a number less than ``below`` for each slot: its own if it has one."""
        self._clock += 1
        sitting = {id(slot): n for n, seat in enumerate(self._seats) if (slot := seat.slot()) is not None}
        own = [sitting.get(id(slot), below) for slot in slots]
        free = [n for n in range(min(below, len(self))) if n not in own]
        free.sort(key=lambda n: self._seats[n].used if self._seats[n].slot() is not None else 0)
        found = []
        for slot, number in zip(slots, own, strict=True):
            if number >= below:
                if id(slot) in sitting:
                    self._seats[number].slot = _nobody
                number = free.pop(0)
                before = self._seats[number].slot()
                if before is not None:
                    before.mirrored = 0
                slot.mirrored = 0
                self._seats[number].slot = weakref.ref(slot)
            self._seats[number].used = self._clock
            found.append(number)
        return found

    def bring(self, number: int, slot: Slot, end: int) -> None:
        """Make the seat hold what the slot does, and nothing behind; it will be written to ``end``."""
        seat, held = self._seats[number], self.held[:, :, number]
        start, length = slot.mirrored, slot.length
        if seat.written > length:
            held[:, :, :, length : seat.written] = 0
        seat.written = end
        spans = slot.node.spans(start, slot.base) if slot.node is not None and start < slot.base else []
        for (part,) in spans:
            held[:, :, :, start : start + part.shape[3]] = part
            start += part.shape[3]
        if start < length:
            held[:, :, :, start:length] = slot.buffer[:, :, :, start - slot.base : length - slot.base]
        slot.mirrored = length

    def take_back(self, number: int, slot: Slot, end: int) -> None:
        """Copy positions from the slot's length to ``end`` into the slot, which then ends there."""
        start, base = slot.length, slot.base
        slot.buffer[:, :, :, start - base : end - base] = self.held[:, :, number, :, start:end]
        slot.length = slot.mirrored = end


class Numbers(NamedTuple):
    """A batch in numbers; padding rows are id 0 at position 0, written behind the last position."""

    ids: list[int]
    at: list[int]
    """``[R]``: each row's position; it attends up to there."""
    seat: list[int]
    write: list[int]
    """``[R]`` each: where the row's keys and values go."""
    seen: list[int]
    cell: list[int]
    """If not dense: ``[B * T]`` positions, as ``at``, and ``[R]`` each row's place among them; else empty."""

    @classmethod
    def padding(cls, shape: Shape, trash: int) -> Numbers:
        """Return rows that mean nothing."""
        rows, cells = shape.rows, 0 if shape.dense else shape.sequences * shape.reach
        seats = [row // shape.reach if shape.dense else 0 for row in range(rows)]
        zeros = [0] * rows
        return cls(zeros, zeros[:], seats, [trash] * rows, [0] * cells, zeros[: rows if cells else 0])


def lay(
    shape: Shape, trash: int, batch: Sequence[tuple[int, int, Sequence[int]]]
) -> tuple[Numbers, list[range]]:
    """Return the numbers of a batch of (seat, start, new ids), and which rows are whose."""
    numbers, done = Numbers.padding(shape, trash), 0
    rows: list[range] = []
    for seat, start, ids in batch:
        first, count = seat * shape.reach if shape.dense else done, len(ids)
        done += count
        rows.append(range(first, first + count))
        where, positions = slice(first, first + count), range(start, start + count)
        numbers.ids[where], numbers.at[where], numbers.write[where] = ids, positions, positions
        if not shape.dense:
            cells = range(seat * shape.reach, seat * shape.reach + count)
            numbers.seat[where] = [seat] * count
            numbers.cell[where] = cells
            numbers.seen[cells.start : cells.stop] = positions
    if not shape.dense and done < shape.rows:  # then not every cell is taken: padding goes to one that is not
        taken = set(numbers.cell[:done])
        spare = next(cell for cell in range(len(numbers.seen)) if cell not in taken)
        numbers.cell[done:] = [spare] * (shape.rows - done)
    return numbers, rows


class _Fixed:
    """Attention of a :class:`Step` (see :class:`~.attention.Attention`): all sequences in one product."""

    def __init__(
        self, held: Tensor, shape: Shape, seat: Tensor, write: Tensor, seen: Tensor, cell: Tensor | None
    ) -> None:
        self._held, self._shape, self._cell = held, shape, cell
        groups = torch.arange(held.shape[3], device=held.device)
        self._to = (seat[:, None], groups, write[:, None])
        self._seen = seen.view(shape.sequences, 1, shape.reach, 1)
        self._masks: dict[tuple[int, int], Tensor] = {}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, index: int, window: int) -> Tensor:
        """See :class:`~.attention.Attention`; the heads of a group become rows, so nothing is repeated."""
        _, reach, sequences, positions = self._shape
        keys, values = self._held[index]
        keys[self._to], values[self._to] = k, v
        _, heads, dim = q.shape
        groups = keys.shape[1]
        cells = sequences * reach
        if self._cell is not None:
            q = q.new_zeros(cells, heads, dim).index_copy_(0, self._cell, q)
        folded = q.view(sequences, reach, groups, -1, dim).permute(0, 2, 3, 1, 4)
        out = F.scaled_dot_product_attention(
            folded.reshape(sequences, groups, -1, dim),
            keys[:sequences, :, :positions],
            values[:sequences, :, :positions],
            attn_mask=self._mask(window, heads // groups, q),
        )
        out = out.view(sequences, groups, -1, reach, dim).permute(0, 3, 1, 2, 4).reshape(cells, -1)
        return out if self._cell is None else out.index_select(0, self._cell)

    def _mask(self, window: int, repeats: int, like: Tensor) -> Tensor:
        """Return the additive mask ``[B, 1, repeats * T, P]``, made once a forward."""
        if (window, repeats) not in self._masks:
            key = torch.arange(self._shape.positions, device=like.device)
            hidden = key > self._seen
            if window:
                hidden |= key <= self._seen - window
            mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
            self._masks[window, repeats] = mask.masked_fill_(hidden, float("-inf")).repeat(1, 1, repeats, 1)
        return self._masks[window, repeats]


class Step:
    """A forward of fixed shape: it reads numbers and keys from fixed places, asks nothing, never waits."""

    def __init__(self, forward: FusedForward, seats: Seats) -> None:
        self._forward, self._seats = forward, seats
        self._cos, self._sin = forward.turns(seats.positions)
        most, cells = ROWS[-1], SEQUENCES[-1] * TOGETHER
        self._numbers = torch.zeros(6 * most + cells, dtype=torch.int64, device=seats.held.device)

    def load(
        self, shape: Shape, batch: Sequence[tuple[Slot, int, Sequence[int]]], tails: Sequence[int]
    ) -> Tensor:
        """Put a batch of (slot, seat, new ids) in place; return the rows that give the last ``tails``."""
        numbers, rows = lay(
            shape, self._seats.positions, [(seat, slot.length, ids) for slot, seat, ids in batch]
        )
        wanted = [row for mine, tail in zip(rows, tails, strict=True) for row in mine[len(mine) - tail :]]
        flat = [number for part in numbers for number in part]
        device = self._numbers.device
        total = len(flat) + len(wanted)
        self._numbers[:total].copy_(pinned(flat + wanted, device), non_blocking=device.type == "cuda")
        return self._numbers[len(flat) : total]

    def __call__(self, shape: Shape) -> Tensor:
        """Compute what was loaded: rows for the head, ``[R, width]``."""
        rows, cells = shape.rows, 0 if shape.dense else shape.sequences * shape.reach
        sizes = [rows] * 4 + ([cells, rows] if cells else [])
        ids, at, seat, write, *placed = torch.split(self._numbers[: sum(sizes)], sizes)
        seen, cell = placed if placed else (at, None)
        attention = _Fixed(self._seats.held, shape, seat, write, seen, cell)
        cos, sin = self._cos.index_select(0, at), self._sin.index_select(0, at)
        return self._forward.normed(self._forward.run(ids, cos, sin, attention))
