"""The KV cache: private slots written in place, and a prefix tree of what sessions share.

A :class:`Slot` is one tensor ``[layers, 2, kv_heads, capacity, head_dim]`` whose capacity grows in
steps of :data:`BUCKET` positions, so that a new token never moves the old ones. Positions past
``length`` are stale and get overwritten; that makes cropping free and an interrupted forward harmless,
because the length changes only after the forward is complete. A session is a path in the prefix tree
(:mod:`.prefix_tree`) and a slot for what follows: positions below ``base`` are read through the path.

:class:`Sessions` gives each new session the longest prefix that any other, open or closed, has
computed. Three decisions follow from measurements (SmolLM2's shape, prefix 600, own part up to 500,
CPU time of one thread for all 30 layers): reading a shared prefix once for a batch and merging takes
18 ms against 25 ms at 4 sequences, 50 against 89 at 16, 101 against 179 at 32; a single sequence pays
7.8 ms against 6.6 for the second pass, so an unshared prefix is copied into the slot, once (about 5 ms
for 500 positions); and a padded batch for the own parts (58 ms at 16) lost to one pass per sequence
(50), because the time goes into reading memory.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from .prefix_tree import Node, PrefixTree, Span, addresses, common_prefix, narrow
from .prompt_cache import WORTH_LOADING, PromptCache

__all__ = [
    "BUCKET",
    "WORTH_COPYING",
    "Cache",
    "Session",
    "Sessions",
    "Slot",
    "common_prefix",
    "default_budget",
]

BUCKET = 256
"""Positions by which a slot grows."""
WORTH_COPYING = 16
"""A shared prefix shorter than this is recomputed: looking it up would cost more."""
WORTH_A_PASS = 64
"""A last tree node shorter than this is copied into the slot instead of being read in its own pass."""
IDLE_SHARE = 4
"""1 / the share of the budget that memory used by no open session may fill (a quarter)."""


class Cache(Protocol):
    """A sequence's key-value memory as the engine sees it."""

    @property
    def length(self) -> int:
        """Positions that hold valid keys and values."""
        ...

    @property
    def memory(self) -> Span:
        """The tensors that this cache holds itself."""
        ...

    def reserve(self, positions: int) -> None:
        """Make room for ``positions`` in total."""
        ...

    def crop(self, length: int) -> None:
        """Forget everything from position ``length`` on; shared positions are the caller's business."""
        ...

    def covers(self, start: int) -> bool:
        """Say whether the cache holds all positions from ``start`` on itself."""
        ...

    def export(self, start: int, end: int) -> Span:
        """Return views of positions that it holds itself and will not write again."""
        ...

    def rest(self, node: Node) -> None:
        """Rest on ``node``: positions on its path may be read from the tree instead of from here."""
        ...

    def begin(self, node: Node, base: int, copied: Sequence[Span]) -> None:
        """Restart: read positions below ``base`` through the path of ``node``, copy the following ones in."""
        ...


class Slot:
    """The cache of our own forward; see the module's text for its layout."""

    def __init__(self, layers: int, kv_heads: int, head_dim: int, like: Tensor, shares: bool = True) -> None:
        """``shares=False`` copies every prefix, as sliding-window attention reads from one place."""
        self.buffer = like.new_empty(layers, 2, kv_heads, 0, head_dim)
        self.base = 0
        self.length = 0
        self.node: Node | None = None
        """The tree node whose path may be read instead of the slot; None: nothing is shared."""
        self._shares = shares

    @property
    def memory(self) -> Span:
        """The buffer, spare room included."""
        return (self.buffer,)

    def reserve(self, positions: int) -> None:
        """Grow to a multiple of :data:`BUCKET` that holds ``positions``, keeping valid contents."""
        capacity, held = self.buffer.shape[3], self.length - self.base
        positions -= self.base
        if positions <= capacity:
            return
        if held:  # grow by half again at least, so that many small growths copy little
            positions = max(positions, capacity + capacity // 2)
        layers, two, heads, _, dim = self.buffer.shape
        rounded = -(-positions // BUCKET) * BUCKET
        grown = self.buffer.new_empty(layers, two, heads, rounded, dim)
        grown[:, :, :, :held] = self.buffer[:, :, :, :held]
        self.buffer = grown

    def crop(self, length: int) -> None:
        """Lower the length; no data moves."""
        self.length = min(self.length, length)

    def covers(self, start: int) -> bool:
        """See :class:`Cache`."""
        return self.base <= start

    def export(self, start: int, end: int) -> Span:
        """See :class:`Cache`; one tensor ``[layers, 2, kv_heads, end - start, head_dim]``."""
        return narrow((self.buffer,), start - self.base, end - self.base)

    def rest(self, node: Node) -> None:
        """See :class:`Cache`."""
        self.node = node if self._shares else None

    def begin(self, node: Node, base: int, copied: Sequence[Span]) -> None:
        """See :class:`Cache`."""
        if not self._shares:
            base, copied = 0, [*node.spans(0, base), *copied]
        self.rest(node)
        layers, two, heads, _, dim = self.buffer.shape
        self.buffer = self.buffer.new_empty(layers, two, heads, 0, dim)
        self.base = self.length = base
        count = sum(span[0].shape[-2] for span in copied)
        self.reserve(base + count)
        at = 0
        for (part,) in copied:
            self.buffer[:, :, :, at : at + part.shape[3]] = part
            at += part.shape[3]
        self.length = base + count


@dataclass(eq=False)
class Session:
    """A cache, the ids it was computed from, and the tree node that it rests on.

    Positions below the node's end belong to the tree, even where the slot holds a copy.
    """

    cache: Cache
    node: Node
    ids: list[int] = field(default_factory=list)
    core: int = 0
    """Leading ids that other processes will begin with too: saved to disk when the session ends."""

    def settle(self) -> None:
        """Make ids and cache agree again after an interrupted step."""
        self.crop(min(len(self.ids), self.cache.length))

    def crop(self, length: int) -> None:
        """Keep the first ``length`` positions; shared ones are left alone, not overwritten."""
        del self.ids[length:]
        self.cache.crop(length)
        if self.node.end > length:
            keep = self.node
            while keep.end > length and keep.parent is not None:
                keep = keep.parent
            copied = self.node.spans(keep.end, length)
            self.rest(keep)
            self.cache.begin(keep, keep.end, copied)

    def rest(self, node: Node) -> None:
        """Become a user of ``node`` instead of the previous one."""
        self.node.users -= 1
        node.users += 1
        self.node = node
        self.cache.rest(node)


class Sessions:
    """All key-value memory of an engine: open sessions by name, the prefix tree, one byte budget."""

    def __init__(
        self, make: Callable[[], Cache], budget: int, prompt_cache: PromptCache | None = None
    ) -> None:
        self._make = make
        self._prompt_cache = prompt_cache
        self._budget = budget
        self._live: OrderedDict[str, Session] = OrderedDict()
        self._tree = PrefixTree()

    def open(self, name: str) -> Session:
        """Return the session called ``name``, created if unknown, and mark it as most recently used."""
        session = self._live.get(name)
        if session is None:
            session = self._live[name] = self._new()
        self._live.move_to_end(name)
        session.settle()
        return session

    def adopt(self, session: Session, ids: Sequence[int]) -> None:
        """Give ``session`` the longest known prefix of ``ids``, if it holds much less itself."""
        ids = list(ids)
        self._publish_nearest(session, ids)
        node, length = self._tree.match(ids)
        if self._prompt_cache is not None and self._load(ids, max(length, len(session.ids))):
            node, length = self._tree.match(ids)
        if length <= len(session.ids) + WORTH_COPYING:
            return
        node = self._tree.cut(node, length)
        keep = node
        while keep.parent is not None and len(keep.ids) < WORTH_A_PASS:
            keep = keep.parent
        alone = not any(keep in s.node.path() for s in self._live.values() if s is not session)
        base = 0 if alone else keep.end
        session.rest(keep)
        session.cache.begin(keep, base, node.spans(base, length))
        session.ids = ids[:length]

    def fork(self, name: str, new: str) -> None:
        """Make ``new`` continue from what session ``name`` holds now; nothing is copied."""
        source = self.open(name)
        self.drop(new)
        branch = self._live[new] = self._new()
        if source.ids:
            self._publish(source, len(source.ids))
            branch.rest(source.node)
            branch.cache.begin(source.node, source.node.end, [])
            branch.ids = list(source.ids)

    def close(self, name: str) -> None:
        """End a session; what it computed stays in the tree while the budget allows."""
        session = self._live.get(name)
        if session is None:
            return
        session.settle()
        if len(session.ids) >= session.node.end + WORTH_COPYING:
            self._publish(session, len(session.ids))
        if self._prompt_cache is not None and session.core:
            self._save(self._prompt_cache, session.ids[: session.core])
        del self._live[name]
        session.node.users -= 1

    def drop(self, name: str) -> None:
        """Forget a session at once, with everything that only it used (its values cannot be trusted)."""
        session = self._live.pop(name, None)
        if session is None:
            return
        node = session.node
        node.users -= 1
        while node.parent is not None and not node.users and not node.children:
            self._tree.remove(node)
            node = node.parent
        self._loosen(session.cache.memory)

    def computed(self, rows: int, seconds: float) -> None:
        """Record a forward's cost, to know when loading is cheaper; short forwards do not count."""
        if self._prompt_cache is not None and rows >= WORTH_LOADING:
            self._prompt_cache.computed(rows, seconds)

    def clear(self) -> None:
        """Forget everything; needed whenever the weights changed."""
        self._live.clear()
        self._tree = PrefixTree()
        self._prompt_cache = None  # its files belong to the weights as loaded

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values, shared ones counted once."""
        own = self._own()
        return self._tree.nbytes + sum(n for address, n in own.items() if not self._tree.holds(address))

    def shrink(self, busy: set[str], budget: int | None = None) -> None:
        """Free the oldest memory until the budget holds; sessions in ``busy`` stay in any case.

        A ``budget`` of 0 frees everything idle. Leaves of the tree go first, then idle open sessions
        (which are recomputed when they are used again).
        """
        budget = self._budget if budget is None else budget
        while (total := self.nbytes) > budget or self._idle_bytes() > budget // IDLE_SHARE:
            oldest = self._tree.oldest()
            if oldest is not None:
                self._tree.remove(oldest)
                self._loosen(oldest.span)
                continue
            idle = next((name for name in self._live if name not in busy), None)
            if idle is None or total <= budget:
                return
            session = self._live.pop(idle)
            session.node.users -= 1
            self._loosen(session.cache.memory)

    def _load(self, ids: list[int], known: int) -> bool:
        """Load the longest prefix of ``ids`` on disk into the tree, if it is much longer than ``known``."""
        assert self._prompt_cache is not None
        stored = self._prompt_cache.find(ids, known)
        span = None if stored is None else self._prompt_cache.load(stored)
        if stored is None or span is None:
            return False
        node, length = self._tree.match(stored.ids)
        node = self._tree.cut(node, length)
        self._tree.add(node, stored.ids[length:], narrow(span, length, len(stored.ids)))
        return True

    def _save(self, prompt_cache: PromptCache, ids: list[int]) -> None:
        """Save a prefix that the tree holds."""
        node, length = self._tree.match(ids)
        if length == len(ids):
            prompt_cache.save(ids, node.spans(0, length))

    def _new(self) -> Session:
        self._tree.root.users += 1
        return Session(self._make(), self._tree.root)

    def _own(self) -> dict[int, int]:
        """Return the storages of open sessions with their bytes."""
        found: dict[int, int] = {}
        for session in self._live.values():
            found |= addresses(session.cache.memory)
        return found

    def _idle_bytes(self) -> int:
        """Return the bytes held by the tree alone."""
        own = self._own()
        return self._tree.nbytes - sum(n for address, n in own.items() if self._tree.holds(address))

    def _publish_nearest(self, session: Session, ids: list[int]) -> None:
        """Publish the longest prefix of ``ids`` that an open session holds, if the tree has less."""
        best, length = None, max(self._tree.match(ids)[1], len(session.ids)) + WORTH_COPYING
        for other in self._live.values():
            if other is session:
                continue
            shared = min(common_prefix(other.ids, ids), other.cache.length)
            if shared > length:
                best, length = other, shared
        if best is not None:
            best.settle()
            self._publish(best, length)

    def _publish(self, session: Session, end: int) -> None:
        """Put the session's first ``end`` positions into the tree, as views, and rest it on them."""
        if end <= session.node.end:
            return
        own = session.node
        node, length = self._tree.match(session.ids[:end])
        if length == end:
            node = self._tree.cut(node, length)
        elif node is own and length == own.end and self._alone_on(session):
            span = session.cache.export(own.start, end)
            self._tree.extend(own, session.ids[length:end], span)
        else:
            node = self._tree.cut(node, length)
            node = self._tree.add(node, session.ids[length:end], session.cache.export(length, end))
        session.rest(node)

    def _alone_on(self, session: Session) -> bool:
        """Say whether the session's node can be extended in place, which keeps paths short."""
        node = session.node
        mine = node.parent is not None and node.users == 1 and not node.children
        return mine and session.cache.covers(node.start)

    def _loosen(self, span: Span) -> None:
        """Free the storages of ``span``, copying what tree nodes still need of them."""
        own = self._own()
        for address in addresses(span):
            if self._tree.holds(address) and address not in own:
                with suppress(MemoryError, RuntimeError):  # no room to copy: it stays as it is
                    self._tree.separate(address)


def default_budget(device: torch.device) -> int:
    """Return a quarter of the device's memory, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // 4
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
