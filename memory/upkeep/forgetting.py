"""Forgetting for good: no byte of the entry stays in memory's files, and what else has it is named.

Deleting a row leaves copies: in free space, in the write-ahead log, in the words of the index, in Chroma's
files, in backups. So forgetting deletes under ``secure_delete``, merges the word index (which drops the
words of deleted entries), rewrites the database file, empties the log, and does the same in the backups
that we made and can still find. Chroma's files are cleared by ``chroma.purge``, which the caller runs with
the change number of the forgetting. Runs that read or wrote the entry keep that in their journals, which
are in the same database file: :func:`seen_by` names those runs, and removing them is a choice. Not
covered: copies that others made, snapshots of the file system or the disk, and what a model learned.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from .. import tables as t
from ..database import Database, StorageError, runs
from ..database import events as event_rows
from ..entry import Entry
from ..rows import delete_entries, fetch
from ..store import MemoryStore

_TELLING = 12


@dataclass(frozen=True)
class Forgotten:
    """What was removed from memory and its backups."""

    entries: tuple[Entry, ...]
    change: int
    """Number of the last change, for ``chroma.purge``."""
    backups: tuple[str, ...]
    """Backups that were cleared too."""
    missing: tuple[str, ...]
    """Backups of ours that are not where they were made; they still hold it."""


def forget(store: MemoryStore, ids: Iterable[int], reason: str = "forgotten by the user") -> Forgotten:
    """Remove entries from the store and from the backups that can be found, and clear their traces.

    Ids that are not there are skipped. Raises ``StorageError`` naming a file that cannot be cleared.
    """
    entries = store.forget(ids, reason)
    scrub(store.database)
    cleared, missing = [], []
    for path in backups(store):
        if not Path(path).exists():
            missing.append(path)
        elif entries and _forget_in_backup(Path(path), entries):
            cleared.append(path)
    return Forgotten(tuple(entries), store.last_change(), tuple(cleared), tuple(missing))


def scrub(database: Database) -> None:
    """Clear the database file and its log of everything that was deleted.

    Other connections of this process are closed. Raises ``StorageError`` when another process keeps
    reading, so that the log cannot be emptied.
    """
    database.write(merge_words)
    database.close()
    with contextlib.closing(sqlite3.connect(database.path, timeout=30.0, isolation_level=None)) as raw:
        try:
            raw.execute("PRAGMA secure_delete=ON")
            raw.execute("VACUUM")
            busy = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.Error as error:
            raise StorageError(
                f"{database.path}: deleted, but its traces cannot be cleared: {error}"
            ) from error
    if busy:
        raise StorageError(
            f"{database.path}: deleted, but another process is using the file, so its log still has the "
            "text; end that process and run 'autogpt memory rebuild'"
        )


def merge_words(connection: Connection) -> None:
    """Merge the word index into one piece, which drops the words of deleted entries."""
    connection.exec_driver_sql(f"INSERT INTO {t.FTS}({t.FTS}) VALUES ('optimize')")


def backups(store: MemoryStore) -> list[str]:
    """Return the paths of the backups that were made of this memory."""
    with store.database.read() as connection:
        return [str(path) for path in connection.execute(sa.select(t.backups.c.path)).scalars()]


def _forget_in_backup(path: Path, entries: Sequence[Entry]) -> bool:
    """Remove the same entries (id and time of writing) from a backup; whether it had any of them."""
    database = Database(path.parent, f"sqlite:///{path}", reserve=False)
    wanted = {entry.id: entry.created for entry in entries}
    try:
        with database.read() as connection:
            found = [e for e in fetch(connection, list(wanted)) if wanted[e.id] == e.created]
        if found:
            database.write(lambda connection: delete_entries(connection, found))
            scrub(database)
        return bool(found)
    finally:
        database.close()
        with contextlib.closing(sqlite3.connect(path)) as raw:
            raw.execute("PRAGMA journal_mode=DELETE")  # one file again


def seen_by(database: Database, entries: Sequence[Entry]) -> dict[str, list[int]]:
    """Return the runs that have one of ``entries`` in their journals, each with the ids that it has seen.

    A run has seen an entry when it wrote or recalled it, or when one of its events has the text.
    """
    ids = {entry.id for entry in entries}
    found: dict[str, set[int]] = {}
    with database.read() as connection:
        about = sa.select(event_rows.c.run, event_rows.c.body).where(event_rows.c.type.like("memory.%"))
        for run, body in connection.execute(about):
            if seen := _mentioned(body) & ids:
                found.setdefault(run, set()).update(seen)
        for entry in entries:
            for form in _forms(entry.text):
                query = (
                    sa.select(event_rows.c.run).distinct().where(sa.func.instr(event_rows.c.body, form) > 0)
                )
                for run in connection.execute(query).scalars():
                    found.setdefault(run, set()).add(entry.id)
        known = set(connection.execute(sa.select(runs.c.run).where(runs.c.run.in_(list(found)))).scalars())
    for entry in entries:
        if entry.run is not None and (entry.run in known or database_has(database, entry.run)):
            found.setdefault(entry.run, set()).add(entry.id)
    return {run: sorted(seen) for run, seen in sorted(found.items())}


def traces(home: Path, entries: Sequence[Entry]) -> list[Path]:
    """Return the files under ``home``, models aside, that contain the text of an entry.

    Texts of a few letters are not looked for: they occur anywhere.
    """
    forms = [form.encode() for entry in entries if len(entry.text) >= _TELLING for form in _forms(entry.text)]
    found: list[Path] = []
    for folder, folders, names in os.walk(home):
        folders[:] = [name for name in folders if Path(folder, name) != home / "models"]
        found += [Path(folder, name) for name in sorted(names) if forms and _holds(Path(folder, name), forms)]
    return found


def _holds(path: Path, forms: Sequence[bytes]) -> bool:
    longest = max(map(len, forms))
    tail = b""
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                if any(form in tail + block for form in forms):
                    return True
                tail = block[-longest:]
    except OSError:
        return False
    return False


def database_has(database: Database, run: str) -> bool:
    """Return whether ``run`` is in the journal."""
    with database.read() as connection:
        return connection.execute(sa.select(runs.c.run).where(runs.c.run == run)).first() is not None


def _forms(text: str) -> set[str]:
    """Return the forms that ``text`` may have in a line of JSON."""
    return {json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1]}


def _mentioned(body: str) -> set[int]:
    """Return the entry ids that a memory event speaks of."""
    event = json.loads(body)
    named = [event.get("entry"), *(shown.get("id") for shown in event.get("entries", ()))]
    return {int(name) for name in named if name is not None}
