"""What a transaction on memory is made of: insert, fetch, search, supersede, delete, record.

Functions over an open connection, so that the store and its upkeep can put several of them into one
transaction. They decide nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from ..labels import Label
from . import tables as t
from .database import StorageError
from .entry import Draft, Entry, Kind, Vectors
from .write_gate.claims import claims
from .write_gate.wording import normal_hash

_BATCH = 400
"""Ids in one query; SQLite allows at least 999 variables."""
_SAME_TOPIC = 50


def _insert(table: str, columns: str, verb: str = "INSERT") -> str:
    """Return an insertion as plain SQL: building these as expressions takes longer than SQLite's work."""
    marks = ", ".join("?" for _ in columns.split())
    return f"{verb} INTO {table}({', '.join(columns.split())}) VALUES ({marks})"


_INSERT_ENTRY = _insert(
    t.entries.name,
    "kind text namespace label run event source hash created expires used uses successes superseded_by",
)
_INSERT_WORDS = _insert(t.FTS, "rowid words")
_DELETE_WORDS = f"INSERT INTO {t.FTS}({t.FTS}, rowid, words) VALUES ('delete', ?, ?)"
_INSERT_CLAIM = _insert(t.claims.name, "topic entry")
_INSERT_VECTOR = _insert(t.vectors.name, "entry embedder dimension vector", "INSERT OR REPLACE")
_INSERT_CHANGE = _insert(t.changes.name, "entry number live", "INSERT OR REPLACE")
_INSERT_WRITE = _insert(t.writes.name, "at verdict reason kind namespace entry run event")
_SAME_TEXT = f"SELECT id, namespace, superseded_by, expires FROM {t.entries.name} WHERE hash = ?"
_LAST_CHANGE = f"SELECT max(number) FROM {t.changes.name}"


def parts(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yield ``ids`` in pieces that fit one query."""
    return (ids[i : i + _BATCH] for i in range(0, len(ids), _BATCH))


def to_entry(row: Any) -> Entry:
    """Return the entry of a row of the table (a mapping)."""
    return Entry(**(dict(row) | {"kind": Kind(row["kind"]), "label": Label(row["label"])}))


def is_live(now: float) -> sa.ColumnElement[bool]:
    """Return the condition for an entry that may be recalled: not superseded and not expired."""
    expires = t.entries.c.expires
    return sa.and_(t.entries.c.superseded_by.is_(None), sa.or_(expires.is_(None), expires > now))


def chosen(
    namespaces: Sequence[str] | None, kinds: Sequence[Kind] | None, labels: Sequence[Label] | None
) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of a choice; None is no choice."""
    columns = (t.entries.c.namespace, t.entries.c.kind, t.entries.c.label)
    wanted = (namespaces, kinds, labels)
    return [
        column.in_([str(value) for value in values])
        for column, values in zip(columns, wanted, strict=True)
        if values is not None
    ]


def fetch(connection: Connection, ids: Sequence[int]) -> list[Entry]:
    """Return the entries with these ids in the given order; ids that are gone are skipped."""
    found: dict[int, Entry] = {}
    for part in parts(ids):
        rows = connection.execute(sa.select(t.entries).where(t.entries.c.id.in_(part))).mappings()
        found.update((row["id"], to_entry(row)) for row in rows)
    return [found[entry] for entry in ids if entry in found]


def same_text(connection: Connection, digest: str, namespaces: Sequence[str], now: float) -> set[int]:
    """Return the live entries of ``namespaces`` with this hash of their normalised text."""
    rows = connection.exec_driver_sql(_SAME_TEXT, (digest,))
    return {
        row.id
        for row in rows
        if row.namespace in namespaces
        and row.superseded_by is None
        and (row.expires is None or row.expires > now)
    }


def same_topic(connection: Connection, text: str, namespace: str, now: float) -> list[int]:
    """Return the newest live facts of ``namespace`` that claim something of what ``text`` claims."""
    topics = {claim.topic for claim in claims(text)}
    if not topics:
        return []
    query = (
        sa.select(t.entries.c.id)
        .join_from(t.claims, t.entries, t.entries.c.id == t.claims.c.entry)
        .where(t.claims.c.topic.in_(topics), t.entries.c.namespace == namespace, is_live(now))
        .order_by(t.entries.c.id.desc())
        .limit(_SAME_TOPIC)
    )
    return list(connection.execute(query).scalars())


def insert_entry(connection: Connection, draft: Draft, digest: str, now: float) -> Entry:
    """Insert an entry with its words and note the change."""
    values = {
        "kind": draft.kind.value,
        "text": draft.text,
        "namespace": draft.namespace,
        "label": draft.label.value,
        "run": draft.run,
        "event": draft.event,
        "source": draft.source,
        "hash": digest,
        "created": now,
        "expires": draft.expires,
        "used": None,
        "uses": 0,
        "successes": 0,
        "superseded_by": None,
    }
    entry = int(connection.exec_driver_sql(_INSERT_ENTRY, tuple(values.values())).lastrowid)
    insert_words(connection, entry, draft.kind, draft.text)
    note_changes(connection, [entry], live=True)
    return to_entry(values | {"id": entry})


def insert_words(connection: Connection, entry: int, kind: Kind, text: str) -> None:
    """Make an entry's text searchable, and what a fact claims findable."""
    connection.exec_driver_sql(_INSERT_WORDS, (entry, t.index_words(text)))
    if kind is Kind.FACT:
        for topic in {claim.topic for claim in claims(text)}:
            connection.exec_driver_sql(_INSERT_CLAIM, (topic, entry))


def insert_vectors(connection: Connection, ids: Sequence[int], vectors: Vectors, embedder: str) -> None:
    """Keep ``vectors [n, dimension]`` for the entries, in place of older ones."""
    dimension = vectors.shape[1]
    rows = [
        (entry, embedder, dimension, np.ascontiguousarray(vector, np.float32).tobytes())
        for entry, vector in zip(ids, vectors, strict=True)
    ]
    if rows:
        connection.exec_driver_sql(_INSERT_VECTOR, rows)


def check_dimension(connection: Connection, embedder: str, dimension: int) -> None:
    """Refuse a vector that is not as wide as the embedder's others."""
    query = sa.select(t.vectors.c.dimension).where(t.vectors.c.embedder == embedder).limit(1)
    known = connection.execute(query).scalar()
    if known is not None and known != dimension:
        raise StorageError(
            f"embedder {embedder} gives {dimension} numbers a text, but the store has its vectors with "
            f"{known}; 'autogpt memory rebuild' embeds everything anew"
        )


def cosines(
    connection: Connection,
    ids: Sequence[int],
    vector: NDArray[np.float32] | None,
    embedder: str | None,
) -> dict[int, float]:
    """Return the cosine of ``vector`` with the vectors of those entries that have one of its kind."""
    if vector is None or not ids:
        return {}
    query = sa.select(t.vectors.c.entry, t.vectors.c.vector).where(
        t.vectors.c.entry.in_(ids), t.vectors.c.embedder == embedder
    )
    rows = connection.execute(query).all()
    return {row.entry: float(np.frombuffer(row.vector, np.float32) @ vector) for row in rows}


def mark_superseded(connection: Connection, older: int, newer: int) -> None:
    """Mark an entry as contradicted by a newer one; it stays, and is not recalled."""
    change = sa.update(t.entries).where(t.entries.c.id == older).values(superseded_by=newer)
    connection.execute(change)
    note_changes(connection, [older], live=False)


def delete_entries(connection: Connection, found: Sequence[Entry]) -> None:
    """Delete entries, their words and vectors; the change says that they are gone."""
    ids = [entry.id for entry in found]
    for part in parts(ids):
        connection.execute(sa.delete(t.vectors).where(t.vectors.c.entry.in_(part)))
        connection.execute(sa.delete(t.claims).where(t.claims.c.entry.in_(part)))
        connection.execute(sa.delete(t.entries).where(t.entries.c.id.in_(part)))
    rows = [(entry.id, t.index_words(entry.text)) for entry in found]
    if rows:
        connection.exec_driver_sql(_DELETE_WORDS, rows)
    note_changes(connection, ids, live=False)


def replace_text(connection: Connection, entry: Entry, text: str) -> Entry:
    """Give an entry another text: its words and claims follow, its vector goes."""
    connection.exec_driver_sql(_DELETE_WORDS, (entry.id, t.index_words(entry.text)))
    connection.execute(sa.delete(t.vectors).where(t.vectors.c.entry == entry.id))
    connection.execute(sa.delete(t.claims).where(t.claims.c.entry == entry.id))
    change = {"text": text, "hash": normal_hash(text)}
    connection.execute(sa.update(t.entries).where(t.entries.c.id == entry.id).values(change))
    insert_words(connection, entry.id, entry.kind, text)
    note_changes(connection, [entry.id], live=entry.superseded_by is None)
    return replace(entry, text=text, hash=change["hash"])


def last_change(connection: Connection) -> int:
    """Return the number of the newest change, 0 before the first."""
    return int(connection.exec_driver_sql(_LAST_CHANGE).scalar() or 0)


def note_changes(connection: Connection, ids: Sequence[int], live: bool) -> None:
    """Give each of ``ids`` the next change number."""
    number = last_change(connection)
    rows = [(entry, number + i, live) for i, entry in enumerate(ids, start=1)]
    if rows:
        connection.exec_driver_sql(_INSERT_CHANGE, rows)


def record(
    connection: Connection, about: Draft | Entry, verdict: str, reason: str, entry: int | None, now: float
) -> None:
    """Log what was decided about a draft, or done to an entry; never its text."""
    values = (now, verdict, reason, about.kind.value, about.namespace, entry, about.run, about.event)
    connection.exec_driver_sql(_INSERT_WRITE, values)
