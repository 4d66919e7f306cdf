"""The one SQL database: runs with their events, memory and experience.

SQLAlchemy Core and nothing above it: tables, short transactions, numbered migrations. SQLite is
the default (``<home>/autogpt.db``: write-ahead log, ``synchronous=FULL``, mode 0600), so that many
processes may append at once and a commit survives ``kill -9``; PostgreSQL works by URL. All that
is particular to SQLite is in the pragma hooks and in :func:`_kind_of`. A small reserve file
next to the database is given up when the disk is full, so that the last state can still be
committed before the run pauses. Not covered: a disk that lies about fsync, and file systems
without locks (some network mounts).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event as sa_event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_attempt, wait_exponential

from ..errors import UserError
from .tables import create_memory

log = logging.getLogger(__name__)

RESERVE_BYTES = 4 * 1024 * 1024
"""Enough for thousands of events; small enough that nobody minds."""
BUSY_SECONDS = 15.0
"""How long SQLite itself waits for another writer before it reports "locked"."""
LOCK_ATTEMPTS = 4

metadata = sa.MetaData()

schema_versions = sa.Table(
    "schema_versions",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("applied", sa.Float, nullable=False),
)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run", sa.String(64), primary_key=True),
    sa.Column("goal", sa.Text, nullable=False),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("mode", sa.String(10), nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("started", sa.Float, nullable=False, index=True),
    sa.Column("ended", sa.Float),
    sa.Column("reward", sa.Float),
    sa.Column("parent", sa.String(64)),
    sa.Column("workspace", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("run", sa.String(64), sa.ForeignKey("runs.run", ondelete="CASCADE"), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("type", sa.String(40), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)


experience_runs = sa.Table(
    "experience_runs",
    metadata,
    sa.Column("run", sa.String(64), sa.ForeignKey("runs.run", ondelete="CASCADE"), primary_key=True),
    sa.Column("events", sa.Integer, nullable=False),
    sa.Column("reader", sa.String(64), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("goal", sa.String(64), nullable=False),
    sa.Column("family", sa.String(64), nullable=False),
    sa.Column("wording", sa.Text, nullable=False),
    sa.Column("held_out", sa.Boolean, nullable=False),
    sa.Column("consent", sa.String(10), nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("model_hash", sa.Text, nullable=False),
    sa.Column("tokenizer_hash", sa.Text, nullable=False),
    sa.Column("tools_hash", sa.String(64), nullable=False),
)
"""What each run gave to learn from, or the reason why it gave nothing; see ``memory/experience.py``."""

experience_samples = sa.Table(
    "experience_samples",
    metadata,
    sa.Column(
        "run", sa.String(64), sa.ForeignKey("experience_runs.run", ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("hash", sa.String(64), nullable=False, index=True),
    sa.Column("ids", sa.LargeBinary, nullable=False),
    sa.Column("sampled", sa.LargeBinary, nullable=False),
    sa.Column("logprobs", sa.LargeBinary, nullable=False),
    sa.Column("reward", sa.Float),
    sa.Column("base", sa.Float),
    sa.Column("source", sa.String(10), nullable=False),
    sa.Column("parts", sa.Text, nullable=False),
    sa.Column("chosen", sa.Text),
)

model_runs = sa.Table(
    "model_runs",
    metadata,
    sa.Column("model", sa.String(255), primary_key=True),
    sa.Column("run", sa.String(64), primary_key=True, index=True),
    sa.Column("at", sa.Float, nullable=False),
)
"""Which runs a model was trained on. A run that is removed stays named here: the model has seen it."""


class StorageError(UserError):
    """The database cannot be used as it is; the message says which file and what to do."""


class StorageFull(StorageError):
    """No space is left (or a quota is reached) where the database lives."""


class _Locked(Exception):
    """Another process holds the write lock; the transaction did not begin and may be retried."""


def _create_runs_and_events(connection: Connection) -> None:
    metadata.create_all(connection, tables=[runs, events])


def _create_experience(connection: Connection) -> None:
    metadata.create_all(connection, tables=[experience_runs, experience_samples])


def _create_lineage(connection: Connection) -> None:
    metadata.create_all(connection, tables=[model_runs])


MIGRATIONS: list[Callable[[Connection], None]] = [
    _create_runs_and_events,
    create_memory,
    _create_experience,
    _create_lineage,
]
"""Migration ``i`` (from 0) makes schema version ``i + 1``. Append only; never edit one that shipped."""


class Database:
    """The database under ``home`` (a folder, made when missing), or the one that ``url`` names.

    Opening is lazy: the first transaction creates the file, migrates the schema and makes the
    reserve (unless ``reserve`` is False, as for a backup).

    Raises :class:`StorageError` with one clear line for what a person can put right.
    """

    def __init__(self, home: Path, url: str | None = None, reserve: bool = True) -> None:
        self.home = home
        self.path = home / "autogpt.db"
        try:
            self._url: URL = make_url(url) if url else URL.create("sqlite", database=str(self.path))
        except sa.exc.ArgumentError as error:
            raise StorageError(
                "the address of the database is not a URL such as postgresql://host/name"
            ) from error
        self._is_file = self._url.get_backend_name() == "sqlite"
        if self._is_file and self._url.database:
            self.path = Path(self._url.database)
        self._reserve = self.path.with_name(self.path.name + ".reserve")
        self._wants_reserve = reserve
        self._engine: Engine | None = None

    @property
    def where(self) -> str:
        """What to call the database in a message (without a password)."""
        return str(self.path) if self._is_file else self._url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Release connections; the next transaction opens them again."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A read transaction: one snapshot for everything in the block."""
        with self._translated(), self._open().connect() as connection:
            yield connection

    def write(self, work: Callable[[Connection], Any]) -> Any:
        """Run ``work`` in one write transaction and return its result once it is committed.

        ``work`` may be called again when another process held the lock, so it must only use
        the connection. Raises :class:`StorageFull` when the disk is full.
        """
        return self._retrying(lambda: self._write_once(self._open(), work))

    def release_reserve(self) -> bool:
        """Give up the reserve file; True if there was one, so a retry has space."""
        with contextlib.suppress(OSError):
            self._reserve.unlink()
            log.info("disk full: gave up the reserve %s", self._reserve)
            return True
        return False

    def make_reserve(self) -> None:
        """Make the reserve file if it is missing; silently does without when there is no space."""
        if not self._is_file or not self._wants_reserve or self._reserve.exists():
            return
        part = self._reserve.with_name(f"{self._reserve.name}.{os.getpid()}")
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(bytes(RESERVE_BYTES))
            part.replace(self._reserve)
        except OSError as error:
            log.info("no reserve file: %s", error)
            with contextlib.suppress(OSError):
                part.unlink()

    def _open(self) -> Engine:
        if self._engine is None:
            with self._translated():
                self._engine = self._connect()
        return self._engine

    def _connect(self) -> Engine:
        if self._is_file:
            self._create_file()
            engine = sa.create_engine(self._url, connect_args={"timeout": BUSY_SECONDS})
            sa_event.listen(engine, "connect", _set_pragmas)
            sa_event.listen(engine, "begin", _begin)
        else:
            try:
                engine = sa.create_engine(self._url, pool_pre_ping=True)
            except ModuleNotFoundError as error:
                raise StorageError(f"{self.where}: install the driver {error.name!r} first") from error
            except sa.exc.NoSuchModuleError as error:
                raise StorageError(
                    f"{self.where}: no such kind of database: {self._url.drivername}"
                ) from error
        try:
            self._retrying(lambda: self._migrate(engine))
        except BaseException:
            engine.dispose()
            raise
        self.make_reserve()
        return engine

    def _create_file(self) -> None:
        """Create the file with mode 0600 before SQLite would make it readable for others.

        A file that is there is not opened: closing it would drop the locks of this process's other
        connections to it, and SQLite could then delete a log that they still write to.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))

    def _migrate(self, engine: Engine) -> None:
        known = len(MIGRATIONS)

        def version(connection: Connection) -> int:
            if not sa.inspect(connection).has_table(schema_versions.name):
                return 0
            found = connection.execute(sa.select(sa.func.max(schema_versions.c.version))).scalar()
            return int(found or 0)

        def check(found: int) -> None:
            if found > known:
                raise StorageError(
                    f"{self.where}: schema version {found} is newer than this program knows ({known}); "
                    "upgrade autogpt, or point AUTOGPT_HOME elsewhere"
                )

        def upgrade(connection: Connection) -> None:
            schema_versions.create(connection, checkfirst=True)
            found = version(connection)
            check(found)
            for number, migration in enumerate(MIGRATIONS[found:], start=found + 1):
                migration(connection)
                connection.execute(sa.insert(schema_versions).values(version=number, applied=time.time()))

        with engine.connect() as connection:
            found = version(connection)
        check(found)
        if found < known:
            self._write_once(engine, upgrade)

    def _write_once(self, engine: Engine, work: Callable[[Connection], Any]) -> Any:
        with self._translated(), engine.connect() as connection:
            connection = connection.execution_options(autogpt_write=True)
            with connection.begin():
                return work(connection)

    def _retrying(self, step: Callable[[], Any]) -> Any:
        """Bounded retries, for "locked" alone; each is logged."""
        retrying = Retrying(
            retry=retry_if_exception_type(_Locked),
            stop=stop_after_attempt(LOCK_ATTEMPTS),
            wait=wait_exponential(multiplier=0.1, max=2.0),
            before_sleep=before_sleep_log(log, logging.WARNING),
            reraise=True,
        )
        try:
            return retrying(step)
        except _Locked as error:
            raise StorageError(
                f"{self.where}: locked by another process for over {LOCK_ATTEMPTS * BUSY_SECONDS:.0f} s; "
                "end that process and try again"
            ) from error

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn driver errors that a person can put right into one clear line."""
        try:
            yield
        except OSError as error:
            raise StorageError(f"{self.where}: {error.strerror or error}") from error
        except sa.exc.IntegrityError:
            raise
        except sa.exc.DBAPIError as error:
            kind = _kind_of(error.orig)
            if kind == "locked":
                raise _Locked(self.where) from error
            if kind == "full":
                raise StorageFull(f"{self.where}: disk full; free space and try again") from error
            if kind is not None:
                raise StorageError(f"{self.where}: {kind}") from error
            if not self._is_file and isinstance(error, sa.exc.OperationalError):
                raise StorageError(f"{self.where}: {str(error.orig).splitlines()[0]}") from error
            raise


def _set_pragmas(dbapi_connection: Any, _record: Any) -> None:
    """SQLite: leave transactions to us; durable commits; references enforced."""
    dbapi_connection.isolation_level = None
    cursor = dbapi_connection.cursor()
    # secure_delete: what is forgotten is overwritten with zeros, whoever deletes it.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    """SQLite: writers take the lock at once, so a transaction never fails half way for a lock."""
    write = connection.get_execution_options().get("autogpt_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _kind_of(error: BaseException | None) -> str | None:
    """Classify a SQLite error: ``locked``, ``full``, a sentence for a person, or None."""
    if not isinstance(error, sqlite3.Error):
        return None
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return None
    primary = code & 0xFF
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "locked"
    # A write that the system refuses (quota, file size limit) is a full disk for our purposes.
    if primary == sqlite3.SQLITE_FULL or code in (
        sqlite3.SQLITE_IOERR_WRITE,
        sqlite3.SQLITE_IOERR_FSYNC,
        sqlite3.SQLITE_IOERR_SHMSIZE,
    ):
        return "full"
    sentences = {
        sqlite3.SQLITE_READONLY: "cannot be written; check its permissions and its folder's",
        sqlite3.SQLITE_CANTOPEN: "cannot be opened; check its permissions and its folder's",
        sqlite3.SQLITE_PERM: "access denied; check its permissions",
        sqlite3.SQLITE_NOTADB: "is not an AutoGPT database; move it away or set AUTOGPT_HOME",
        sqlite3.SQLITE_CORRUPT: "is damaged; save what is readable with 'autogpt memory export FILE' and "
        "'autogpt runs export', then put a backup in its place or move it away",
        sqlite3.SQLITE_IOERR: "input/output error; check the disk",
    }
    return sentences.get(primary)
