"""The truth of memory: entries, their vectors and their words, in the one database of the home.

Everything else (the vector index, the cache of a process) is made from this and can be thrown away.
A write goes through the gate inside one transaction, so that two processes never store the same
thing twice, and is durable when it returns. Every change of an entry gets the next change number,
which is all that a follower needs (:meth:`MemoryStore.changes`). Memory is always in the SQLite file
under the home, also where the runs are in another database. Word search is BM25 by FTS5; vectors
are only kept here, not searched. Forgetting, merging and auditing are in ``upkeep``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from ..labels import Label
from . import tables as t
from .database import Database
from .entry import GLOBAL, Draft, Entry, Kind, Vectors, Verdict, Written
from .lexical import search
from .rows import (
    check_dimension,
    chosen,
    cosines,
    delete_entries,
    fetch,
    insert_entry,
    insert_vectors,
    is_live,
    last_change,
    mark_superseded,
    note_changes,
    parts,
    record,
    replace_text,
    same_text,
    same_topic,
    to_entry,
)
from .write_gate.gate import Decision, Neighbour, compare, inspect
from .write_gate.wording import normal_hash

NEIGHBOURS = 12
"""How many of the entries most similar in words a draft is compared with."""


@dataclass(frozen=True)
class Change:
    """The last change of an entry: follow them by ``number`` and nothing is missed."""

    number: int
    entry: int
    live: bool
    """False when the entry is gone or superseded; true when it, or its vector, is new."""


class MemoryStore:
    """The entries under ``home``; or over a SQLite ``database`` that is already open.

    Times are seconds since the epoch (``clock``). Raises ``StorageError`` with one clear line when
    the file cannot be used.
    """

    def __init__(
        self, home: Path, database: Database | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        if database is not None and database.path != Database(home).path:
            raise ValueError(f"memory lives in {Database(home).path}, not in {database.where}")
        self.home = home
        self.database = database or Database(home)
        self.clock = clock

    def close(self) -> None:
        """Release the database's connections; the next call opens them again."""
        self.database.close()

    # Writing

    def write(
        self, draft: Draft, vector: NDArray[np.float32] | None = None, embedder: str | None = None
    ) -> Written:
        """Let ``draft`` through the gate and store it; what was decided, and why, is recorded.

        ``vector`` ``[dimension]`` of length one comes with the id of its ``embedder``. When this
        returns, the entry survives ``kill -9``.
        """
        vectors = None if vector is None else vector[None, :]
        return self.write_many([draft], vectors, embedder)[0]

    def write_many(
        self, drafts: Sequence[Draft], vectors: Vectors | None = None, embedder: str | None = None
    ) -> list[Written]:
        """Write ``drafts`` (with ``vectors [n, dimension]``) in order, in one transaction: all or none.

        A refused draft does not stop the others.
        """
        answer: list[Written] = self.database.write(
            lambda connection: self.write_in(connection, drafts, vectors, embedder)
        )
        return answer

    def write_in(
        self,
        connection: Connection,
        drafts: Sequence[Draft],
        vectors: Vectors | None = None,
        embedder: str | None = None,
    ) -> list[Written]:
        """As :meth:`write_many`, inside a write transaction of the caller's."""
        if vectors is not None:
            if embedder is None or len(vectors) != len(drafts):
                raise ValueError("vectors come with their embedder's id, one for every draft")
            check_dimension(connection, embedder, vectors.shape[1])
        now = self.clock()
        rows: Iterable[NDArray[np.float32] | None] = repeat(None) if vectors is None else vectors
        pairs = zip(drafts, rows, strict=False)
        return [self._write_one(connection, draft, vector, embedder, now) for draft, vector in pairs]

    def _write_one(
        self,
        connection: Connection,
        draft: Draft,
        vector: NDArray[np.float32] | None,
        embedder: str | None,
        now: float,
    ) -> Written:
        entry: Entry | None = None
        if refusal := inspect(draft):
            decision = Decision(Verdict.REFUSED, refusal)
        else:
            digest = normal_hash(draft.text)
            decision = compare(draft, self._neighbours(connection, draft, digest, vector, embedder, now))
            if decision.verdict is not Verdict.REFUSED:
                entry = insert_entry(connection, draft, digest, now)
                if vector is not None:
                    insert_vectors(connection, [entry.id], vector[None, :], str(embedder))
                if decision.replaces is not None:
                    mark_superseded(connection, decision.replaces, entry.id)
            elif decision.entry is not None:
                entry = next(iter(fetch(connection, [decision.entry])), None)
        record(connection, draft, decision.verdict.value, decision.reason, entry.id if entry else None, now)
        return Written(decision.verdict, decision.reason, entry, decision.replaces)

    def _neighbours(
        self,
        connection: Connection,
        draft: Draft,
        digest: str,
        vector: NDArray[np.float32] | None,
        embedder: str | None,
        now: float,
    ) -> list[Neighbour]:
        """Return the live entries that ``draft`` is compared with: equal, recalled, of similar words."""
        spaces = list(dict.fromkeys([draft.namespace, GLOBAL]))
        exact = same_text(connection, digest, spaces, now)
        ids = [*exact, *draft.recalled]
        if draft.kind is not Kind.DOCUMENT and not exact:
            kinds = (draft.kind,)
            if draft.kind is Kind.FACT:
                ids += same_topic(connection, draft.text, draft.namespace, now)
            ids += [id for id, _ in search(connection, draft.text, NEIGHBOURS, spaces, now, kinds)]
        found = fetch(connection, list(dict.fromkeys(ids)))
        similar = cosines(connection, [entry.id for entry in found], vector, embedder)
        return [
            Neighbour(
                id=entry.id,
                text=entry.text,
                kind=entry.kind,
                namespace=entry.namespace,
                label=entry.label,
                cosine=similar.get(entry.id),
                recalled=entry.id in draft.recalled,
                exact=entry.hash == digest,
            )
            for entry in found
        ]

    def used(self, ids: Iterable[int], success: bool | None) -> None:
        """Count one use of each entry in a run that has ended, and whether it reached its goal.

        None, where nobody knows whether it did, only keeps the time.
        """
        change: dict[str, Any] = {"used": self.clock()}
        if success is not None:
            change["uses"] = t.entries.c.uses + 1
        if success:
            change["successes"] = t.entries.c.successes + 1
        wanted = list(dict.fromkeys(ids))

        def work(connection: Connection) -> None:
            for part in parts(wanted):
                connection.execute(sa.update(t.entries).where(t.entries.c.id.in_(part)).values(change))

        if wanted:
            self.database.write(work)

    def set_vectors(self, ids: Sequence[int], vectors: Vectors, embedder: str) -> None:
        """Keep ``vectors [n, dimension]`` for entries, in place of older ones.

        Entries that are gone or superseded meanwhile are skipped.
        """
        if len(ids) != len(vectors):
            raise ValueError("one vector for every entry")

        def work(connection: Connection) -> None:
            check_dimension(connection, embedder, vectors.shape[1])
            present = {entry.id for entry in fetch(connection, ids) if entry.superseded_by is None}
            rows = [i for i, entry in enumerate(ids) if entry in present]
            kept = [ids[i] for i in rows]
            insert_vectors(connection, kept, vectors[rows], embedder)
            note_changes(connection, kept, live=True)

        if len(ids):
            self.database.write(work)

    def forget(self, ids: Iterable[int], reason: str = "forgotten") -> list[Entry]:
        """Delete entries with their words and vectors; return those that were there.

        What the file still holds of them afterwards is cleared by ``forgetting.forget``.
        """
        wanted = list(dict.fromkeys(ids))
        now = self.clock()

        def work(connection: Connection) -> list[Entry]:
            found = fetch(connection, wanted)
            delete_entries(connection, found)
            for entry in found:
                record(connection, entry, "forgotten", reason, entry.id, now)
            return found

        gone: list[Entry] = self.database.write(work)
        return gone

    def edit(self, entry: int, text: str) -> Written:
        """Give an entry another text, by the user's hand; its vector is made later.

        Refused like a write where the text alone is wrong (:func:`gate.inspect`) or already there.
        """
        now = self.clock()

        def work(connection: Connection) -> Written:
            old = next(iter(fetch(connection, [entry])), None)
            if old is None:
                return Written(Verdict.REFUSED, f"there is no entry {entry}")
            draft = Draft(old.kind, text, old.namespace, old.label, old.run, old.event, old.source)
            same = same_text(connection, normal_hash(text), [old.namespace, GLOBAL], now) - {entry}
            reason = inspect(draft) or (f"the same text is already there (entry {min(same)})" if same else "")
            if reason:
                record(connection, draft, Verdict.REFUSED, f"edit: {reason}", entry, now)
                return Written(Verdict.REFUSED, reason, old)
            record(connection, draft, Verdict.WRITTEN, "edited by the user", entry, now)
            return Written(Verdict.WRITTEN, "edited", replace_text(connection, old, text))

        answer: Written = self.database.write(work)
        return answer

    # Reading

    def get(self, ids: Sequence[int]) -> list[Entry]:
        """Return the entries with these ids in the given order; ids that are gone are skipped."""
        with self.database.read() as connection:
            return fetch(connection, ids)

    def entries(
        self,
        namespaces: Sequence[str] | None = None,
        kinds: Sequence[Kind] | None = None,
        labels: Sequence[Label] | None = None,
        live: bool | None = True,
        limit: int | None = None,
        after: int = 0,
        newest: bool = False,
    ) -> list[Entry]:
        """Return entries in the order of their ids, from the first above ``after``; or newest first.

        ``live`` False gives those that are superseded or expired, None all. None elsewhere: any.
        """
        order = t.entries.c.id.desc() if newest else t.entries.c.id
        query = sa.select(t.entries).where(t.entries.c.id > after).order_by(order).limit(limit)
        query = query.where(*chosen(namespaces, kinds, labels))
        if live is not None:
            query = query.where(is_live(self.clock()) if live else sa.not_(is_live(self.clock())))
        with self.database.read() as connection:
            return [to_entry(row) for row in connection.execute(query).mappings()]

    def search_words(
        self,
        query: str,
        k: int,
        namespaces: Sequence[str] | None = None,
        kinds: Sequence[Kind] | None = None,
        labels: Sequence[Label] | None = None,
    ) -> list[tuple[int, float]]:
        """Return up to ``k`` pairs (entry id, BM25 score) of live entries, best (greatest) first."""
        with self.database.read() as connection:
            return search(connection, query, k, namespaces, self.clock(), kinds, labels)

    def vectors(
        self, embedder: str, namespaces: Sequence[str] | None = None
    ) -> tuple[NDArray[np.int64], Vectors]:
        """Return ids ``[n]`` (ascending) and vectors ``[n, dimension]`` of live entries."""
        alive = sa.select(t.entries.c.id).where(is_live(self.clock()), *chosen(namespaces, None, None))
        with self.database.read() as connection:
            live_ids = connection.execute(alive).scalars().all()
            rows = connection.exec_driver_sql(
                f"SELECT entry, vector FROM {t.vectors.name} WHERE embedder = ? ORDER BY entry", (embedder,)
            ).fetchall()
        if not rows or not live_ids:
            return np.empty(0, np.int64), np.empty((0, len(rows[0][1]) // 4 if rows else 0), np.float32)
        ids = np.fromiter((row[0] for row in rows), np.int64, len(rows))
        matrix = np.frombuffer(b"".join([row[1] for row in rows]), np.float32).reshape(len(rows), -1)
        keep = np.isin(ids, np.fromiter(live_ids, np.int64, len(live_ids)))
        return (ids, matrix) if keep.all() else (ids[keep], matrix[keep])

    def missing_vectors(self, embedder: str, limit: int = 256) -> list[tuple[int, str]]:
        """Return up to ``limit`` live entries (id, text) without a vector of ``embedder``."""
        has = sa.select(t.vectors.c.entry).where(t.vectors.c.embedder == embedder)
        query = (
            sa.select(t.entries.c.id, t.entries.c.text)
            .where(is_live(self.clock()), t.entries.c.id.not_in(has))
            .order_by(t.entries.c.id)
            .limit(limit)
        )
        with self.database.read() as connection:
            return [(int(id), str(text)) for id, text in connection.execute(query)]

    def changes(self, since: int = 0, limit: int | None = None) -> list[Change]:
        """Return the entries that changed after change number ``since``, in that order.

        An entry appears once, with its last change; what was forgotten stays as a number, not live.
        """
        query = sa.select(t.changes).where(t.changes.c.number > since).order_by(t.changes.c.number)
        with self.database.read() as connection:
            rows = connection.execute(query.limit(limit)).all()
        return [Change(number=row.number, entry=row.entry, live=row.live) for row in rows]

    def last_change(self) -> int:
        """Return the number of the newest change, 0 before the first."""
        with self.database.read() as connection:
            return last_change(connection)

    def namespaces(self) -> list[str]:
        """Return the namespaces that have entries, everywhere first."""
        with self.database.read() as connection:
            return list(
                connection.execute(
                    sa.select(t.entries.c.namespace).distinct().order_by("namespace")
                ).scalars()
            )

    def count(self, live: bool = True) -> int:
        """Return how many entries there are; ``live`` leaves out superseded and expired ones."""
        query = sa.select(sa.func.count()).select_from(t.entries)
        if live:
            query = query.where(is_live(self.clock()))
        with self.database.read() as connection:
            return int(connection.execute(query).scalar_one())
