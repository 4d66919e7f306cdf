"""Exact nearest neighbours: the store's vectors in memory, one matrix a namespace, kept in step.

This is the search that is always right and always there: it needs no index file, only the truth. A
matrix a namespace, because every query names its namespaces and a product with the rows that count
is faster than a mask over all of them. Before each search the newest change number of the store is
compared (one indexed read), and what changed is read, so a search sees every write that was
acknowledged, by whatever process. Memory: 1.5 MB for 1,000 entries of 384 numbers, 150 MB for
100,000, read in well under a second; a product over 100,000 takes about 8 ms on one core. Beyond a
few hundred thousand entries in one namespace that is what a nearest-neighbour index is for.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from .. import tables as t
from ..entry import Vectors
from ..rows import last_change, parts
from ..store import MemoryStore

Ids = NDArray[np.int64]
Times = NDArray[np.float64]

_RELOAD_FROM = 2_000
"""More changes than this, and more than a quarter of the entries: reading all is quicker."""


@dataclass(frozen=True)
class Rows:
    """Entries that are not superseded, with their vectors; expired ones are still among them."""

    ids: Ids
    namespaces: list[str]
    expires: Times
    """Seconds since the epoch; infinity for never."""
    vectors: Vectors

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Delta:
    """What became of the entries that changed after some change number."""

    number: int
    """The number up to which this tells all."""
    rows: Rows
    """New or changed entries."""
    superseded: list[int]
    """Still in the store, not to be found any more (or without a vector of this embedder)."""
    gone: list[int]
    """Forgotten: nothing of them may stay anywhere."""


def read_all(store: MemoryStore, embedder: str, dimension: int) -> tuple[int, Rows]:
    """Return the newest change number and all rows of ``embedder``, in one snapshot."""
    with store.database.read() as connection:
        number = last_change(connection)
        # The driver's own cursor: 100,000 rows come in half the time without SQLAlchemy's row objects.
        cursor = connection.connection.cursor()
        cursor.execute(f"SELECT id, namespace, expires FROM {t.entries.name} WHERE superseded_by IS NULL")
        known = {row[0]: (row[1], row[2]) for row in cursor.fetchall()}
        cursor.execute(
            f"SELECT entry, vector FROM {t.vectors.name} WHERE embedder = ? AND dimension = ?",
            (embedder, dimension),
        )
        found = [row for row in cursor.fetchall() if row[0] in known]
        cursor.close()
    return number, _rows(found, known, dimension)


def read_delta(store: MemoryStore, embedder: str, dimension: int, since: int, limit: int) -> Delta:
    """Return what changed after change number ``since``, at most ``limit`` entries, in one snapshot."""
    changes = sa.select(t.changes.c.entry, t.changes.c.number).where(t.changes.c.number > since)
    with store.database.read() as connection:
        changed = connection.execute(changes.order_by(t.changes.c.number).limit(limit)).all()
        ids = [int(row.entry) for row in changed]
        rows, present = _read_some(connection, ids, embedder, dimension)
    found = set(rows.ids.tolist())
    return Delta(
        number=int(changed[-1].number) if changed else since,
        rows=rows,
        superseded=[entry for entry in ids if entry in present and entry not in found],
        gone=[entry for entry in ids if entry not in present],
    )


def read_rows(store: MemoryStore, ids: Sequence[int], embedder: str, dimension: int) -> Rows:
    """Return the rows of those of ``ids`` that are not superseded and have a vector."""
    with store.database.read() as connection:
        return _read_some(connection, ids, embedder, dimension)[0]


def _read_some(
    connection: Connection, ids: Sequence[int], embedder: str, dimension: int
) -> tuple[Rows, set[int]]:
    """Return the rows of ``ids`` and the set of those that are in the store at all."""
    entries, vectors = t.entries.c, t.vectors.c
    present: set[int] = set()
    known: dict[int, tuple[str, float | None]] = {}
    found: list[tuple[int, bytes]] = []
    for part in parts(ids):
        described = sa.select(entries.id, entries.namespace, entries.expires, entries.superseded_by)
        for row in connection.execute(described.where(entries.id.in_(part))):
            present.add(row.id)
            if row.superseded_by is None:
                known[row.id] = (row.namespace, row.expires)
        query = sa.select(vectors.entry, vectors.vector).where(
            vectors.entry.in_(part), vectors.embedder == embedder, vectors.dimension == dimension
        )
        found += [(row[0], row[1]) for row in connection.execute(query) if row[0] in known]
    return _rows(found, known, dimension), present


def _rows(
    found: Sequence[tuple[int, bytes]],
    known: dict[int, tuple[str, float | None]],
    dimension: int,
) -> Rows:
    ids = np.fromiter((row[0] for row in found), np.int64, len(found))
    joined = np.frombuffer(b"".join([row[1] for row in found]), np.float32)
    expires = np.fromiter(
        (np.inf if (end := known[row[0]][1]) is None else end for row in found), np.float64, len(found)
    )
    names = [known[row[0]][0] for row in found]
    return Rows(ids, names, expires, joined.reshape(len(found), dimension))


class _Block:
    """The rows of one namespace, dense; a row that goes is filled with the last one."""

    def __init__(self, rows: Rows, chosen: NDArray[np.int_] | slice) -> None:
        self.ids, self.expires, self.vectors = rows.ids[chosen], rows.expires[chosen], rows.vectors[chosen]
        self.count = len(self.ids)
        self.soonest = float(self.expires.min(initial=np.inf))
        self._places: dict[int, int] | None = None

    @property
    def places(self) -> dict[int, int]:
        """Entry id to row; made when first needed, as most processes only search."""
        if self._places is None:
            self._places = {entry: row for row, entry in enumerate(self.ids[: self.count].tolist())}
        return self._places

    def put(self, entry: int, vector: Vectors, expires: float) -> None:
        """Add a row, or change it."""
        row = self.places.get(entry)
        if row is None:
            row = self.count
            self._make_room()
            self.places[entry] = row
            self.count += 1
        self.ids[row], self.expires[row], self.vectors[row] = entry, expires, vector
        self.soonest = min(self.soonest, expires)

    def drop(self, entry: int) -> bool:
        """Remove a row; whether it was there."""
        row = self.places.pop(entry, None)
        if row is None:
            return False
        self.count = last = self.count - 1
        if row != last:
            moved = int(self.ids[last])
            self.ids[row], self.expires[row] = moved, self.expires[last]
            self.vectors[row] = self.vectors[last]
            self.places[moved] = row
        self.vectors[last] = 0.0
        return True

    def _make_room(self) -> None:
        if self.count == len(self.ids) or not self.vectors.flags.writeable:
            room = max(64, self.count + self.count // 2)
            for name in ("ids", "expires", "vectors"):
                old = getattr(self, name)
                new = np.zeros((room, *old.shape[1:]), old.dtype)
                new[: self.count] = old[: self.count]
                setattr(self, name, new)

    def writeable(self) -> None:
        """Own the arrays before the first change: what was read from the database is read only."""
        if not self.vectors.flags.writeable:
            self._make_room()

    def top(self, query: Vectors, k: int, now: float) -> tuple[Ids, Vectors]:
        """Return ids and cosines of the ``k`` nearest rows, in no order; fewer when there are fewer."""
        scores = self.vectors[: self.count] @ query
        if now >= self.soonest:
            scores[self.expires[: self.count] <= now] = -np.inf
        chosen: NDArray[np.intp] | slice = slice(None)
        if self.count > k:
            chosen = np.argpartition(scores, self.count - k)[self.count - k :]
        ids, best = self.ids[: self.count][chosen], scores[chosen]
        live = best > -np.inf
        return ids[live], best[live]


class Exact:
    """Exact search over the vectors of ``embedder`` in ``store``, for many threads.

    ``search`` and its kin first read what changed in the store since the last time.
    """

    def __init__(self, store: MemoryStore, embedder: str, dimension: int) -> None:
        self.store, self.embedder, self.dimension = store, embedder, dimension
        self.number = -1
        """The change number of the store that the rows show; -1 before the first reading."""
        self._blocks: dict[str, _Block] = {}
        self._lock = threading.RLock()

    def refresh(self) -> None:
        """Read what changed in the store; the first time, everything."""
        with self._lock:
            newest = self.store.last_change()
            if newest == self.number:
                return
            behind = newest - self.number
            if self.number < 0 or behind < 0 or behind > max(_RELOAD_FROM, self._count() // 4):
                self._load()
                return
            while self.number < newest:
                delta = read_delta(self.store, self.embedder, self.dimension, self.number, _RELOAD_FROM)
                if delta.number == self.number:
                    break
                self._apply(delta)

    def count(self) -> int:
        """Return the number of rows, expired ones too."""
        return self.counts(())[1]

    def counts(self, namespaces: Sequence[str]) -> tuple[int, int]:
        """Return the number of rows in ``namespaces`` and in all, expired ones too."""
        with self._lock:
            self.refresh()
            named = [self._blocks[name].count for name in dict.fromkeys(namespaces) if name in self._blocks]
            return sum(named), self._count()

    def search(self, vector: Vectors, k: int, namespaces: Sequence[str]) -> list[tuple[int, float]]:
        """Return up to ``k`` pairs (entry id, cosine), nearest first, for ``vector [dimension]``."""
        with self._lock:
            self.refresh()
            blocks = [self._blocks[name] for name in dict.fromkeys(namespaces) if name in self._blocks]
            now = self.store.clock()
            found = [block.top(vector, k, now) for block in blocks if block.count and k > 0]
        return _ordered([(ids, scores) for ids, scores in found], k)

    def rescore(
        self, vector: Vectors, ids: Sequence[int], k: int, namespaces: Sequence[str]
    ) -> list[tuple[int, float]]:
        """Return the best ``k`` of the candidates ``ids`` that are live and in ``namespaces``."""
        with self._lock:
            self.refresh()
            now = self.store.clock()
            found: list[tuple[Ids, Vectors]] = []
            for name in dict.fromkeys(namespaces):
                block = self._blocks.get(name)
                if block is None:
                    continue
                rows = [row for entry in ids if (row := block.places.get(entry)) is not None]
                rows = [row for row in rows if block.expires[row] > now]
                found.append((block.ids[rows], block.vectors[rows] @ vector))
        return _ordered(found, k)

    def sample(self, count: int, seed: int) -> tuple[Ids, Vectors]:
        """Return up to ``count`` random rows: ids and vectors, for the index to find again."""
        with self._lock:
            self.refresh()
            total = self._count()
            rng = np.random.default_rng(seed)
            picked = rng.choice(total, min(count, total), replace=False).tolist() if total else []
            ids, vectors, start = [], [], 0
            for block in self._blocks.values():
                rows = [place - start for place in picked if start <= place < start + block.count]
                ids.append(block.ids[rows])
                vectors.append(block.vectors[rows])
                start += block.count
        if not ids:
            return np.empty(0, np.int64), np.empty((0, self.dimension), np.float32)
        return np.concatenate(ids), np.concatenate(vectors)

    def vectors_of(self, ids: Sequence[int]) -> dict[int, Vectors]:
        """Return the vectors of those of ``ids`` that are here."""
        with self._lock:
            return {
                entry: block.vectors[row].copy()
                for block in self._blocks.values()
                for entry in ids
                if (row := block.places.get(entry)) is not None
            }

    def _count(self) -> int:
        return sum(block.count for block in self._blocks.values())

    def _load(self) -> None:
        number, rows = read_all(self.store, self.embedder, self.dimension)
        places: dict[str, list[int]] = {}
        for place, name in enumerate(rows.namespaces):
            places.setdefault(name, []).append(place)
        if len(places) == 1:
            self._blocks = {name: _Block(rows, slice(None)) for name in places}  # no copy
        else:
            self._blocks = {name: _Block(rows, np.array(chosen)) for name, chosen in places.items()}
        self.number = number

    def _apply(self, delta: Delta) -> None:
        rows = delta.rows
        moved = [*delta.superseded, *delta.gone, *rows.ids.tolist()]
        for block in self._blocks.values():
            block.writeable()
            for entry in moved:
                block.drop(entry)
        for i, name in enumerate(rows.namespaces):
            if name not in self._blocks:
                self._blocks[name] = _Block(rows, slice(0, 0))
            self._blocks[name].put(int(rows.ids[i]), rows.vectors[i], float(rows.expires[i]))
        self._blocks = {name: block for name, block in self._blocks.items() if block.count}
        self.number = delta.number


def _ordered(found: Sequence[tuple[Ids, Vectors]], k: int) -> list[tuple[int, float]]:
    """Join results of several namespaces: best first, equal ones by id."""
    if not found or k <= 0:
        return []
    ids = np.concatenate([ids for ids, _ in found])
    scores = np.concatenate([scores for _, scores in found])
    order = np.lexsort((ids, -scores))[:k]
    return [(int(ids[i]), float(scores[i])) for i in order]
