"""Chroma's copy of the store's vectors: open it, check it against the truth, keep it in step, rebuild it.

Nothing here is trusted to be right because it was right before. Opening checks the embedder, the
dimension, the change number, the count and whether random entries find themselves; whatever is wrong
raises :class:`IndexFailed`, and the answer to that is always the same: throw the copy away and
build it from the store. A copy says up to which change of the store it is complete only once it is,
so a kill during a build leaves nothing that could be taken for an index. Forgotten entries also end
a copy: Chroma keeps deleted vectors in its files, so only a new copy is free of them. Superseded
entries are just deleted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import sqlalchemy as sa

from .. import tables as t
from ..entry import Vectors
from ..rows import last_change, parts
from .exact import Exact, Rows, read_delta, read_rows
from .index_client import QUERY_SECONDS, IndexFailed, Limits, WorkerClient
from .index_frames import Fields

FORMAT = 1
"""Raise it when what a collection holds changes; older ones are then rebuilt."""
SELF_QUERIES = 64
MISSES = 2
"""So many of the self-queries may fail: the graph is approximate. A loss of 10 % of the vectors
passes with a probability of 4 %, one of 24 % (two writers, measured) with less than 1 in 100,000."""
_TRIES = 10
"""How often to catch up with writers before counting; while they go on, counting has to wait."""
_BATCH = 1_000
_SAME = 0.9999
"""Cosine from which another entry counts as the one that was asked for: they may be equal."""


class Forgotten(IndexFailed):
    """Entries that the copy holds were forgotten; only a new copy is free of them."""


class ChromaCopy:
    """The collection ``name`` in ``folder``, or on ``server``, of the vectors that ``exact`` has.

    ``lock`` is the descriptor of the held lock on the folder, which the process inherits. All
    methods but :meth:`query` belong to one thread; ``stopping`` ends a long one early.
    """

    def __init__(
        self, exact: Exact, folder: Path, server: str, name: str, lock: int, stopping: Callable[[], bool]
    ) -> None:
        self._exact, self._server, self._name, self._lock = exact, server, name, lock
        self._folder = folder
        self._data = folder / "chroma"
        self._stopping = stopping
        self._client: WorkerClient | None = None
        self.number = -1
        """The change number of the store up to which the copy is complete."""

    @property
    def pid(self) -> int | None:
        """Process id of the worker, while there is one."""
        return self._client.pid if self._client else None

    def open(self) -> None:
        """Open the copy, bring it up to date and check it. Raises :class:`IndexFailed`."""
        if not self._server and not self._data.is_dir():
            raise IndexFailed("there is no index yet")
        client = self._start()
        metadata = client.open(self._data, self._server, self._name)
        if metadata is None:
            raise IndexFailed("there is no index yet")
        number = metadata.get("change")
        expected = self._metadata(number if isinstance(number, int) else -1)
        wrong = [key for key, value in expected.items() if metadata.get(key) != value]
        if wrong:
            raise IndexFailed(f"the index is of another {' and '.join(wrong)}")
        self.number = int(expected["change"])
        if self.number < 0:
            raise IndexFailed("the index was not finished")
        os.ftruncate(self._lock, 0)
        if self.number > self._exact.store.last_change():
            raise IndexFailed("the index is newer than the store")
        self.follow()
        self.check()

    def follow(self) -> bool:
        """Apply what changed in the store; return whether there was anything."""
        moved = False
        while not self._stopping():
            exact = self._exact
            delta = read_delta(exact.store, exact.embedder, exact.dimension, self.number, _BATCH)
            if delta.number == self.number:
                break
            client = self._running()
            if delta.gone and client.number("has", ids=_names(delta.gone)):
                raise Forgotten("entries were forgotten")
            self._upsert(client, delta.rows)
            if delta.superseded:
                client.ask("delete", ids=_names(delta.superseded))
            # Told to Chroma only once it has all of it: after a kill in between, the same changes
            # are applied once more, which changes nothing.
            self.number, moved = delta.number, True
            self._clean(delta.number)
            client.ask("seal", metadata=self._metadata(delta.number))
        return moved

    def check(self) -> None:
        """Compare the count, and let random entries find themselves. Raises :class:`IndexFailed`."""
        exact, client = self._exact, self._running()
        for _ in range(_TRIES):
            expected = exact.count()
            if exact.number == self.number:
                break
            self.follow()
        found = client.number("count")
        if exact.number == self.number and expected != found:
            raise IndexFailed(f"the index has {found:,} entries, the store {expected:,}")
        ids, vectors = exact.sample(SELF_QUERIES, seed=time.time_ns() % 2**32)
        if not len(ids):
            return
        nearest = client.query(vectors, 1, 60.0)[:, 0].tolist()
        known = exact.vectors_of(nearest)
        misses = sum(
            1
            for entry, vector, other in zip(ids.tolist(), vectors, nearest, strict=True)
            if other != entry and (other not in known or float(known[other] @ vector) < _SAME)
        )
        if misses > MISSES:
            raise IndexFailed(f"{misses} of {len(ids)} entries do not find themselves")

    def rebuild(self) -> None:
        """Throw the copy away and build it anew from the store. Raises :class:`IndexFailed`."""
        self.drop()
        exact = self._exact
        with exact.store.database.read() as connection:
            number = last_change(connection)
            query = sa.select(t.vectors.c.entry).where(t.vectors.c.embedder == exact.embedder)
            ids = [int(entry) for entry in connection.execute(query.order_by(t.vectors.c.entry)).scalars()]
        if not self._server:
            self._clean(number)
        client = self._start()
        client.open(self._data, self._server, self._name, create=self._metadata(-1))
        for part in (ids[i : i + _BATCH] for i in range(0, len(ids), _BATCH)):
            if self._stopping():
                raise IndexFailed("stopped while building")
            self._upsert(client, read_rows(exact.store, part, exact.embedder, exact.dimension))
        self.number = number
        client.ask("seal", metadata=self._metadata(number))
        if self._server:
            self._clean(number)
        self.follow()
        self.check()

    def drop(self) -> None:
        """Remove every byte of the copy (on a server: at the next rebuild, by its own means)."""
        self.kill()
        shutil.rmtree(self._data, ignore_errors=True)
        if self._data.exists():
            raise IndexFailed(f"{self._data} cannot be removed")

    def query(self, vector: Vectors, k: int) -> list[int]:
        """Return the ids nearest to ``vector [dimension]``, best first."""
        found = self._running().query(vector[None, :], k, QUERY_SECONDS)
        return [entry for entry in found[0].tolist() if entry >= 0]

    def close(self) -> None:
        """Let the process finish."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def kill(self) -> None:
        """End the process now."""
        if self._client is not None:
            with contextlib.suppress(OSError):
                self._client.kill()
            self._client = None

    def _start(self) -> WorkerClient:
        self.close()
        limits = Limits.for_rows(self._exact.count(), self._exact.dimension)
        self._client = WorkerClient(self._folder, limits, self._lock)
        return self._client

    def _running(self) -> WorkerClient:
        if self._client is None:
            raise IndexFailed("the index's process does not run")
        return self._client

    def _clean(self, number: int) -> None:
        """Tell ``purge`` that nothing here was forgotten at or before change ``number``."""
        os.pwrite(self._lock, b"%020d" % number, 0)

    def _metadata(self, number: int) -> Fields:
        return {
            "format": FORMAT,
            "embedder": self._exact.embedder,
            "dimension": self._exact.dimension,
            "change": number,
        }

    def _upsert(self, client: WorkerClient, rows: Rows) -> None:
        if len(rows):
            ids = rows.ids.tolist()
            client.upsert(ids, self._described(ids), rows.vectors)

    def _described(self, ids: Sequence[int]) -> list[Fields]:
        """Return what other tools see beside a vector; never the text."""
        columns = t.entries.c
        query = sa.select(columns.id, columns.kind, columns.namespace, columns.label, columns.created)
        known: dict[int, Fields] = {}
        with self._exact.store.database.read() as connection:
            for part in parts(ids):
                for row in connection.execute(query.where(columns.id.in_(part))):
                    known[row.id] = {
                        "kind": row.kind,
                        "namespace": row.namespace,
                        "label": row.label,
                        "created": row.created,
                    }
        gone = {"kind": "", "namespace": "", "label": "", "created": 0.0}
        return [known.get(entry, gone) for entry in ids]


def clean_until(lock: int) -> int:
    """Return the change number up to which the copy is free of what was forgotten, as its keeper says."""
    text = os.pread(lock, 20, 0)
    return int(text) if len(text) == 20 and text.isdigit() else -1


def _names(ids: Sequence[int]) -> list[str]:
    return [str(entry) for entry in ids]
