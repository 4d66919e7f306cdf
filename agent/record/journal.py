"""The journal: a run's events, in memory for rollouts and in the database for everything else.

``append`` returns only when the event is committed, so the process may be killed at any instant. Large
results are blobs in the run's folder, named by their hash (written whole, fsynced, renamed), and the event
keeps the hash. The list in memory is exactly what a later load would give, so resuming is deciding again.
One live process owns a run: it holds a lock on the run's folder until it ends, however it ends. Not
covered: two machines that share a home over a network file system without locks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from ...errors import UserError
from ...files import replace_file
from .events import (
    Event,
    PersonAnswered,
    PersonAsked,
    RunEnded,
    RunInterrupted,
    RunStarted,
    ToolOutcome,
    dump_event,
    parse_event,
)

if TYPE_CHECKING:
    from ...memory.database import Database

INLINE_BYTES = 4096
"""A result whose JSON is longer goes into a blob."""
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_E = TypeVar("_E", bound=Event)
_T = TypeVar("_T")


class Paused(UserError):
    """The disk is full. Everything recorded is committed and the run can be resumed."""


class Journal(Protocol):
    """An append-only list of a run's events, with the exact values of its outcomes."""

    run: str

    @property
    def events(self) -> Sequence[Event]:
        """All events so far, oldest first; not to be changed."""
        ...

    def append(self, event: _E) -> _E:
        """Commit ``event`` (stamped with the time if it has none); return it as it was kept."""
        ...

    def value(self, outcome: ToolOutcome) -> Any:
        """Return the exact value of an outcome, wherever it is kept."""
        ...


class MemoryJournal:
    """A journal for rollouts: a list that is gone with the process; values stay in their events."""

    def __init__(self, run: str, events: Iterable[Event] = ()) -> None:
        self.run = run
        self.events = list(events)

    def append(self, event: _E) -> _E:
        """Keep ``event``, stamped with the time if it has none."""
        kept = _stamped(event)
        self.events.append(kept)
        return kept

    def value(self, outcome: ToolOutcome) -> Any:
        """Return the outcome's value."""
        return outcome.value


class RunLock:
    """The lock on a run's folder; the operating system drops it when the process dies.

    Raises ``UserError`` naming the process that holds it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(self._file, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(self._file)
            raise UserError(
                f"run {folder.name} is held by process {holder}; wait for it, or end it and resume"
            ) from error
        os.ftruncate(self._file, 0)
        with contextlib.suppress(OSError):  # the number is a courtesy; a full disk must not stop a resume
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Release the lock. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def is_held(folder: Path) -> bool:
    """Return whether a live process owns the run in ``folder``."""
    try:
        file = os.open(folder / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


class DatabaseJournal:
    """A run in the database, owned by this process until ``close``.

    ``append`` raises :class:`Paused` when the disk is full. The event is then usually committed all
    the same (the reserve file made room for it), and nothing before it is lost.
    """

    def __init__(self, database: Database, folder: Path, events: Sequence[Event], lock: RunLock) -> None:
        self.run = folder.name
        self.folder = folder
        self._database = database
        self._events = list(events)
        self._lock = lock
        self._full = False
        self._stale = False
        self._values: dict[str, Any] = {}

    @property
    def events(self) -> Sequence[Event]:
        """All events so far, oldest first."""
        if self._stale:  # an append was cut off (Ctrl-C), so only the database knows whether it happened
            self._events = load_events(self._database, self.run)
            self._stale = False
        return self._events

    def append(self, event: _E) -> _E:
        """Commit ``event`` and return it as a later load would: large values behind their hash."""
        stamped = self._with_space(lambda: self._with_blob(_stamped(event)))
        body = encode_event(stamped)
        kept = decode_event(body)
        if not isinstance(kept, type(event)):
            raise TypeError(f"{type(event).__name__} does not survive storing")
        seq = len(self.events)
        self._stale = True
        self._with_space(lambda: insert_event(self._database, self.run, seq, kept, body))
        self._events.append(kept)
        self._stale = False
        if self._full:
            self._pause()
        return kept

    def value(self, outcome: ToolOutcome) -> Any:
        """Return the exact value of ``outcome``; a blob is read once.

        Raises ``UserError`` when the blob is missing or damaged.
        """
        if outcome.blob is None:
            return outcome.value
        if outcome.blob not in self._values:
            self._values[outcome.blob] = read_blob(self.folder, outcome.blob)
        return self._values[outcome.blob]

    def close(self) -> None:
        """Release the run, so that another process may resume it. Idempotent."""
        self._lock.release()

    def __enter__(self) -> DatabaseJournal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _with_blob(self, event: _E) -> _E:
        if not isinstance(event, ToolOutcome) or event.blob is not None:
            return event
        digest = write_blob(self.folder, event.value)
        if digest is None:
            return event
        self._values[digest] = event.value
        return event.model_copy(update={"value": None, "blob": digest})

    def _with_space(self, step: Callable[[], _T]) -> _T:
        """Run ``step``; on a full disk give up the reserve and run it once more."""
        from ...memory.database import StorageFull

        while True:
            try:
                return step()
            except (StorageFull, OSError) as error:
                if isinstance(error, OSError) and error.errno not in _NO_SPACE:
                    raise
                spent, self._full = self._full, True
                if spent or not self._database.release_reserve():
                    self._pause(error)

    def _pause(self, cause: Exception | None = None) -> NoReturn:
        raise Paused(
            f"paused: disk full while journalling {self._database.where}; "
            f"free space and run 'autogpt resume {self.run}'"
        ) from cause


def insert_event(database: Database, run: str, seq: int, event: Event, body: str) -> None:
    """Commit one event as number ``seq`` of ``run``, and what the list of runs shows with it.

    Raises ``UserError`` when another process wrote that number first.
    """
    import sqlalchemy as sa

    from ...memory.database import events, runs

    row = {"run": run, "seq": seq, "at": event.at, "type": dump_event(event)["type"], "body": body}
    change = _run_change(event)

    def work(connection: sa.Connection) -> None:
        connection.execute(sa.insert(events).values(row))
        if change:
            connection.execute(sa.update(runs).where(runs.c.run == run).values(change))

    try:
        database.write(work)
    except sa.exc.IntegrityError as error:
        raise UserError(f"run {run}: event {seq} was written by another process; resume it again") from error


def load_events(database: Database, run: str) -> list[Event]:
    """Return the events of ``run``, oldest first; none when there is no such run.

    Raises ``UserError`` when a known event cannot be read.
    """
    import sqlalchemy as sa

    from ...memory.database import events

    query = sa.select(events.c.body).where(events.c.run == run).order_by(events.c.seq)
    with database.read() as connection:
        bodies = connection.execute(query).scalars().all()
    try:
        return [decode_event(body) for body in bodies]
    except ValueError as error:
        raise UserError(f"run {run}: its journal cannot be read: {error}") from error


def _run_change(event: Event) -> dict[str, Any]:
    """Return what ``event`` changes in the run's row of the list."""
    match event:
        case RunStarted():
            return {"status": "running"}
        case PersonAsked():
            return {"status": "waiting"}
        case PersonAnswered():
            return {"status": "running"}
        case RunInterrupted():
            return {"status": "waiting"} if event.cause == PARKED else {"status": "interrupted"}
        case RunEnded():
            return {"status": event.status, "ended": event.at, "reward": event.reward}
    return {}


PARKED = "parked: waiting for a person"
"""Cause of the ``run.interrupted`` of a run that waits for an approval or an answer."""


def encode_event(event: Event) -> str:
    """Return the event as one line of JSON that any database can hold.

    Lone surrogates (from odd file names or models) have no UTF-8 form; such lines are ASCII.
    """
    data = dump_event(event)
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(data, separators=(",", ":"))
    return text


def decode_event(body: str) -> Event:
    """Return the event of a line written by :func:`encode_event`."""
    return parse_event(json.loads(body))


def write_blob(folder: Path, value: Any) -> str | None:
    """Write ``value`` under ``folder/blobs`` if it is large; return its hash, or None if small.

    The file is whole and durable when this returns. Raises ``OSError``.
    """
    data = json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode()
    if len(data) <= INLINE_BYTES:
        return None
    digest = hashlib.sha256(data).hexdigest()
    replace_file(folder / "blobs" / digest, data)
    return digest


def read_blob(folder: Path, digest: str) -> Any:
    """Return the value of a blob; raises ``UserError`` when it is missing or damaged."""
    path = folder / "blobs" / digest
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: a result of run {folder.name} cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise UserError(f"{path}: a result of run {folder.name} is damaged; its content has another hash")
    return json.loads(data)


def _stamped(event: _E) -> _E:
    return event if event.at else event.model_copy(update={"at": round(time.time(), 6)})
