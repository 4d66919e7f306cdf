"""The prefix tree (radix cache): keys and values that many sessions read and none writes.

A :class:`Node` is a range of positions: its ids, and a span, the keys and values that the model
computed for them after everything on the path from the root (compare RadixAttention in SGLang; Zheng et
al. 2023). Spans are views: publishing a session's prefix, splitting a node where another session
diverges, and forking copy nothing. Nodes are created where sessions turn out to share a prefix and
where they end, so the system prompt is one node under all goals, and each set of tools one below it.

A session counts in ``users`` of the node it rests on; nodes with users or children stay. The remaining
leaves are evicted by age under the budget of :class:`~.cache.Sessions`. The tree belongs to one model
with one set of weights: when they change, a new tree is started.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Span = tuple[Tensor, ...]
"""Keys and values of some positions, in whatever tensors a cache has; axis -2 counts positions."""


def narrow(span: Span, start: int, end: int) -> Span:
    """Return positions ``start`` to ``end`` of a span, counted from its beginning, as views."""
    return tuple(tensor.narrow(-2, start, end - start) for tensor in span)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many leading ids are equal, comparing slices so that long prefixes are quick."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high:  # invariant: the first `low` ids agree, the answer is at most `high`
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(eq=False)
class Node:
    """Positions ``start`` to ``end`` of every session below; the root holds none."""

    ids: list[int]
    span: Span
    parent: Node | None = None
    start: int = 0
    children: dict[int, Node] = field(default_factory=dict)
    """By their first id."""
    users: int = 0
    """Open sessions that rest on this node."""
    used: int = 0
    """When a session last matched it; larger is later."""

    @property
    def end(self) -> int:
        """The position after the last."""
        return self.start + len(self.ids)

    def path(self) -> list[Node]:
        """Return the nodes from below the root down to this one."""
        found: list[Node] = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            found.append(node)
            node = node.parent
        return found[::-1]

    def spans(self, start: int, end: int) -> list[Span]:
        """Return views of positions ``start`` to ``end`` (at most our own end), in order."""
        cut = ((n, max(start, n.start) - n.start, min(end, n.end) - n.start) for n in self.path())
        return [narrow(node.span, first, last) for node, first, last in cut if first < last]


class Storages:
    """The memory behind spans: each storage once, however many views there are."""

    def __init__(self) -> None:
        self._views: dict[int, int] = {}
        self._bytes: dict[int, int] = {}
        self.nbytes = 0

    def __contains__(self, address: int) -> bool:
        return address in self._views

    def add(self, span: Span) -> None:
        """Count the views of ``span``."""
        for address, size in addresses(span).items():
            if address not in self._views:
                self._bytes[address] = size
                self.nbytes += size
            self._views[address] = self._views.get(address, 0) + 1

    def remove(self, span: Span) -> None:
        """Take back what :meth:`add` counted."""
        for address in addresses(span):
            self._views[address] -= 1
            if not self._views[address]:
                del self._views[address]
                self.nbytes -= self._bytes.pop(address)


def addresses(span: Span) -> dict[int, int]:
    """Return the storages of a span with their bytes."""
    storages = (tensor.untyped_storage() for tensor in span)
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


class PrefixTree:
    """See the module's text."""

    def __init__(self) -> None:
        self.root = Node([], ())
        self._storages = Storages()
        self._clock = 0

    @property
    def nbytes(self) -> int:
        """Bytes that the tree keeps alive."""
        return self._storages.nbytes

    def holds(self, address: int) -> bool:
        """Say whether a storage is kept by the tree."""
        return address in self._storages

    def nodes(self) -> Iterator[Node]:
        """Yield every node but the root, parents first."""
        waiting = list(self.root.children.values())
        while waiting:
            node = waiting.pop()
            yield node
            waiting += node.children.values()

    def match(self, ids: Sequence[int]) -> tuple[Node, int]:
        """Return the deepest node on the path of ``ids``, and how many ids match in total."""
        self._clock += 1
        node, length = self.root, 0
        while length < len(ids) and (child := node.children.get(ids[length])) is not None:
            child.used = self._clock
            shared = common_prefix(child.ids, ids[length : length + len(child.ids)])
            node, length = child, length + shared
            if shared < len(child.ids):
                break
        return node, length

    def cut(self, node: Node, length: int) -> Node:
        """Return the node that ends at position ``length`` inside ``node``, splitting it if needed.

        ``node`` itself becomes the lower part, so that sessions resting on it stay valid.
        """
        count = length - node.start
        if count == len(node.ids):
            return node
        assert node.parent is not None and 0 < count < len(node.ids)
        upper = Node(node.ids[:count], narrow(node.span, 0, count), node.parent, node.start, used=node.used)
        lower = narrow(node.span, count, len(node.ids))
        self._storages.add(upper.span)
        self._storages.add(lower)
        self._storages.remove(node.span)
        node.parent.children[node.ids[0]] = upper
        node.ids, node.span, node.start, node.parent = node.ids[count:], lower, length, upper
        upper.children[node.ids[0]] = node
        return upper

    def add(self, parent: Node, ids: Sequence[int], span: Span) -> Node:
        """Add a leaf under ``parent``, which has no child that begins with the same id."""
        assert ids and ids[0] not in parent.children
        node = Node(list(ids), span, parent, parent.end, used=self._clock)
        self._storages.add(span)
        parent.children[ids[0]] = node
        return node

    def extend(self, node: Node, ids: Sequence[int], span: Span) -> None:
        """Extend a leaf; ``span`` holds all its positions, including the old ones."""
        assert not node.children
        self._storages.add(span)
        self._storages.remove(node.span)
        node.ids += ids
        node.span = span

    def remove(self, node: Node) -> None:
        """Remove an unused leaf."""
        assert node.parent is not None and not node.children and not node.users
        del node.parent.children[node.ids[0]]
        self._storages.remove(node.span)

    def oldest(self) -> Node | None:
        """Return the least recently matched leaf without users."""
        free = (node for node in self.nodes() if not node.children and not node.users)
        return min(free, key=lambda node: node.used, default=None)

    def separate(self, address: int) -> None:
        """Copy what nodes hold of one storage, so that the rest can be freed."""
        for node in list(self.nodes()):
            if address in addresses(node.span):
                copied = tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in node.span)
                self._storages.add(copied)
                self._storages.remove(node.span)
                node.span = copied
