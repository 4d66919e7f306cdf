"""Key-value memory: one slot a sequence, written in place, cropped by lowering a length.

A slot is one tensor ``[layers, 2, kv_heads, capacity, head_dim]`` whose capacity grows in steps of
:data:`BUCKET` positions, so that a new token never moves the old ones. Rows behind ``length`` are
stale and get overwritten; that makes cropping free and an interrupted forward harmless, because the
length moves only after the forward is complete. :class:`Sessions` keeps the slots of live sessions,
of the last few closed ones, and of prefixes that two sessions were seen to share (a system prompt),
under one byte budget. Copies are real copies: sharing one stored prefix between slots is not done.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

import torch
from torch import Tensor

BUCKET = 256
"""Positions by which a slot grows."""
WORTH_COPYING = 16
"""A shared prefix shorter than this is recomputed: a copy would not pay."""
KEPT_CLOSED = 2
KEPT_PREFIXES = 8


class Cache(Protocol):
    """What the engine needs of a sequence's key-value memory."""

    @property
    def length(self) -> int:
        """Positions that hold valid keys and values."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...

    def reserve(self, positions: int) -> None:
        """Make room for ``positions`` in all."""
        ...

    def crop(self, length: int) -> None:
        """Forget everything from position ``length`` on."""
        ...

    def copy(self, length: int) -> Self:
        """Return an independent cache that holds the first ``length`` positions."""
        ...


class Slot:
    """The cache of our own forward; see the module's text for its layout."""

    def __init__(self, layers: int, kv_heads: int, head_dim: int, like: Tensor) -> None:
        self.buffer = like.new_empty(layers, 2, kv_heads, 0, head_dim)
        self.length = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer, spare room included."""
        return self.buffer.numel() * self.buffer.element_size()

    def reserve(self, positions: int) -> None:
        """Grow to a multiple of :data:`BUCKET` that holds ``positions``; keeps what is valid."""
        capacity = self.buffer.shape[3]
        if positions <= capacity:
            return
        if self.length:  # grow by half again at least, so that many small growths copy little
            positions = max(positions, capacity + capacity // 2)
        layers, two, heads, _, dim = self.buffer.shape
        rounded = -(-positions // BUCKET) * BUCKET
        grown = self.buffer.new_empty(layers, two, heads, rounded, dim)
        grown[:, :, :, : self.length] = self.buffer[:, :, :, : self.length]
        self.buffer = grown

    def crop(self, length: int) -> None:
        """Lower the length; no data moves."""
        self.length = min(self.length, length)

    def copy(self, length: int) -> Slot:
        """Return a new slot with the first ``length`` positions."""
        layers, _, heads, _, dim = self.buffer.shape
        other = Slot(layers, heads, dim, self.buffer)
        other.reserve(length)
        other.buffer[:, :, :, :length] = self.buffer[:, :, :, :length]
        other.length = length
        return other


@dataclass(eq=False)
class Session:
    """A cache and the ids it was computed from."""

    cache: Cache
    ids: list[int] = field(default_factory=list)

    def settle(self) -> None:
        """Make ids and cache agree again after an interrupted step."""
        length = min(len(self.ids), self.cache.length)
        self.crop(length)

    def crop(self, length: int) -> None:
        """Keep the first ``length`` positions."""
        del self.ids[length:]
        self.cache.crop(length)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many leading ids are equal, comparing slices so that long prefixes are quick."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # invariant: the first `low` ids agree, the answer is at most `high`
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class Sessions:
    """All caches of an engine: live by name, closed and shared ones by age, under a byte budget."""

    def __init__(self, make: Callable[[], Cache], budget: int) -> None:
        self._make = make
        self._budget = budget
        self._live: OrderedDict[str, Session] = OrderedDict()
        self._closed: list[Session] = []
        self._prefixes: list[Session] = []

    def open(self, name: str) -> Session:
        """Return the session called ``name``, new and empty if unknown, as the latest used."""
        session = self._live.get(name)
        if session is None:
            session = self._live[name] = Session(self._make())
        self._live.move_to_end(name)
        session.settle()
        return session

    def adopt(self, session: Session, ids: list[int]) -> None:
        """Give ``session`` the longest prefix of ``ids`` that any cache holds, if worth a copy."""
        best, length = None, len(session.ids) + WORTH_COPYING
        for other in [*self._live.values(), *self._closed, *self._prefixes]:
            if other is session:
                continue
            other.settle()
            shared = common_prefix(other.ids, ids)
            if shared > length:
                best, length = other, shared
        if best is None:
            return
        session.cache = best.cache.copy(length)
        session.ids = list(ids[:length])
        if best in self._prefixes:
            self._prefixes.remove(best)
            self._prefixes.append(best)
        elif len(best.ids) > length and not any(p.ids == session.ids for p in self._prefixes):
            self._prefixes.append(Session(best.cache.copy(length), list(session.ids)))
            del self._prefixes[:-KEPT_PREFIXES]

    def fork(self, name: str, new: str) -> None:
        """Make ``new`` an independent copy of session ``name``."""
        source = self.open(name)
        self._live[new] = Session(source.cache.copy(source.cache.length), list(source.ids))

    def close(self, name: str) -> None:
        """End a session; its cache stays for a while, because the next may begin the same way."""
        session = self._live.pop(name, None)
        if session is not None and session.ids:
            session.settle()
            self._closed.append(session)
            del self._closed[:-KEPT_CLOSED]

    def drop(self, name: str) -> None:
        """Forget a session at once (its values cannot be trusted)."""
        self._live.pop(name, None)

    def clear(self) -> None:
        """Forget everything; needed whenever the weights changed."""
        self._live.clear()
        self._closed.clear()
        self._prefixes.clear()

    @property
    def nbytes(self) -> int:
        """Bytes of all caches."""
        return sum(s.cache.nbytes for s in [*self._live.values(), *self._closed, *self._prefixes])

    def shrink(self, busy: set[str], budget: int | None = None) -> None:
        """Free the oldest caches until the budget holds; sessions in ``busy`` stay in any case.

        Another ``budget`` than the usual one may be given: 0 frees all that is idle.

        Closed sessions go first, then idle live ones (they are computed again when they return),
        shared prefixes last: they are small and save the most.
        """
        budget = self._budget if budget is None else budget
        while self.nbytes > budget:
            idle = next((name for name in self._live if name not in busy), None)
            if self._closed:
                self._closed.pop(0)
            elif idle is not None:
                del self._live[idle]
            elif self._prefixes:
                self._prefixes.pop(0)
            else:
                return


def default_budget(device: torch.device) -> int:
    """Return a quarter of the device's memory, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // 4
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
