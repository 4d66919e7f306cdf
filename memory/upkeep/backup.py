"""Out of memory and into it: backups of the whole database, and entries as JSON lines.

A backup is SQLite's own online copy, made under a temporary name, opened and checked, then renamed: a file
under the final name is whole. It holds the runs too, since they share the file. Exported lines carry every
field of an entry, so provenance, uses and what superseded what survive the way to another home; ids are
new there. Vectors are not exported: they are made again from the text. An export reads what it can
of a damaged file, so it is also how to save entries from one.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ...errors import UsageError
from ...labels import Label
from .. import tables as t
from ..database import Database, StorageError
from ..entry import Draft, Entry, Kind, Verdict
from ..rows import insert_entry, note_changes, record, same_text
from ..store import MemoryStore
from ..write_gate.gate import inspect
from ..write_gate.wording import normal_hash


def backup(store: MemoryStore, target: Path) -> Path:
    """Copy the database to ``target`` (a new file) while it is in use; return the absolute path.

    Raises ``UsageError`` if the file is there already, ``StorageError`` when the copy is not sound.
    """
    path = Path(os.path.abspath(target.expanduser()))
    if path.exists():
        raise UsageError(f"{path} is there already; name a new file")
    with store.database.read() as connection:
        connection.execute(sa.select(t.entries.c.id).limit(1))
    part = path.with_name(f".{path.name}.part")
    try:
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        with (
            contextlib.closing(sqlite3.connect(store.database.path)) as source,
            contextlib.closing(sqlite3.connect(part)) as copy,
        ):
            source.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")
        check_file(part)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        part.rename(path)
    except (sqlite3.Error, OSError) as error:
        raise StorageError(f"{path}: no backup was made: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    row = {"path": str(path), "at": store.clock()}
    store.database.write(lambda c: c.execute(sa.insert(t.backups).prefix_with("OR REPLACE").values(row)))
    return path


def check_file(path: Path) -> None:
    """Read a whole database file; raises ``StorageError`` with one line when it is damaged.

    After a crash its log is taken in first, so the file must be writable.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True)) as raw:
            verdict = raw.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict == "ok":
                raw.execute(f"SELECT count(*) FROM {t.entries.name}").fetchone()
    except sqlite3.Error as error:
        verdict = str(error)
    if verdict != "ok":
        raise StorageError(
            f"{path}: the database is damaged ({' '.join(str(verdict).split())}); save what is readable with "
            "'autogpt memory export FILE', then move the file away, or put a backup in its place"
        )


@dataclass(frozen=True)
class Lost:
    """Entries that an export could not read, because the file is damaged there."""

    first: int
    last: int


def export(database: Database) -> Iterator[str | Lost]:
    """Yield every entry as a line of JSON, in the order of ids; damaged places as :class:`Lost`."""
    names = [field.name for field in fields(Entry)]
    columns = ", ".join(names)
    by_range = f"SELECT {columns} FROM {t.entries.name} WHERE id BETWEEN ? AND ? ORDER BY id"
    with contextlib.closing(sqlite3.connect(f"file:{database.path}?mode=rw", uri=True)) as raw:
        try:
            row = raw.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (t.entries.name,)).fetchone()
            last = int(row[0])
        except TypeError:
            return
        except sqlite3.Error as error:
            raise StorageError(f"{database.path}: nothing in it can be read: {error}") from error
        pending = [(first, min(first + 511, last)) for first in range(last // 512 * 512 + 1, 0, -512)]
        while pending:
            low, high = pending.pop()
            try:
                rows = raw.execute(by_range, (low, high)).fetchall()
            except (sqlite3.Error, UnicodeDecodeError):
                if low == high:
                    yield Lost(low, high)
                    continue
                middle = (low + high) // 2
                pending += [(middle + 1, high), (low, middle)]
                continue
            for row in rows:
                yield json.dumps(
                    dict(zip(names, row, strict=True)), ensure_ascii=False, separators=(",", ":")
                )


@dataclass
class Imported:
    """What :func:`import_lines` did."""

    written: int = 0
    known: int = 0
    """Entries that were here already."""
    refused: int = 0


def import_lines(store: MemoryStore, lines: Iterable[str]) -> Imported:
    """Store exported entries, all or none, with their provenance, uses and times.

    What is superseded stays so. Raises ``UsageError`` naming the line that is wrong.
    """
    read = [(number, _parse(number, line)) for number, line in enumerate(lines, start=1) if line.strip()]
    done = Imported()
    now = store.clock()

    def work(connection: Connection) -> None:
        done.written = done.known = done.refused = 0
        ids: dict[int, int] = {}
        fresh: list[Entry] = []
        for number, entry in read:
            draft = _draft(entry)
            reason = inspect(draft)
            if reason is not None:
                record(connection, draft, Verdict.REFUSED, f"import, line {number}: {reason}", None, now)
                done.refused += 1
                continue
            if there := _here(connection, entry, now):
                ids[entry.id] = min(there)
                done.known += 1
                continue
            ids[entry.id] = _insert(connection, draft, entry, now)
            fresh.append(entry)
            done.written += 1
        _relink(connection, fresh, ids)

    store.database.write(work)
    return done


def _here(connection: Connection, entry: Entry, now: float) -> set[int]:
    """Return the entries that ``entry`` is already: live with its text, or it itself from another import."""
    same = sa.select(t.entries.c.id).where(
        t.entries.c.hash == normal_hash(entry.text),
        t.entries.c.namespace == entry.namespace,
        t.entries.c.created == entry.created,
        t.entries.c.superseded_by.is_(None) == (entry.superseded_by is None),
    )
    itself = set(connection.execute(same).scalars())
    if entry.superseded_by is not None:
        return itself
    return itself | same_text(connection, normal_hash(entry.text), [entry.namespace], now)


def _insert(connection: Connection, draft: Draft, entry: Entry, now: float) -> int:
    made = insert_entry(connection, draft, normal_hash(entry.text), entry.created)
    kept: dict[str, Any] = {"used": entry.used, "uses": entry.uses, "successes": entry.successes}
    if entry.superseded_by is not None:
        kept["superseded_by"] = 0  # at once, so that a later line with the same text is not taken for it
        note_changes(connection, [made.id], live=False)
    connection.execute(sa.update(t.entries).where(t.entries.c.id == made.id).values(kept))
    record(connection, draft, Verdict.WRITTEN, "imported", made.id, now)
    return made.id


def _relink(connection: Connection, fresh: Iterable[Entry], ids: dict[int, int]) -> None:
    """Set what superseded what, by the ids given here; 0 stays for what did not come along."""
    for entry in fresh:
        if entry.superseded_by is not None:
            change = sa.update(t.entries).where(t.entries.c.id == ids[entry.id])
            connection.execute(change.values(superseded_by=ids.get(entry.superseded_by, 0)))


def _draft(entry: Entry) -> Draft:
    return Draft(
        entry.kind,
        entry.text,
        entry.namespace,
        entry.label,
        entry.run,
        entry.event,
        entry.source,
        entry.expires,
    )


def _parse(number: int, line: str) -> Entry:
    try:
        data: dict[str, Any] = json.loads(line)
        entry = Entry(**(data | {"kind": Kind(data["kind"]), "label": Label(data["label"])}))
        for name, kinds in (("id", int), ("text", str), ("namespace", str), ("created", (int, float))):
            if not isinstance(data[name], kinds):
                raise ValueError(f"{name} has the wrong type")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"line {number}: not an exported entry: {error}") from error
    return entry
