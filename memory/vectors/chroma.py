"""The index of memory: exact search always, and a Chroma collection kept in step with the store.

``MemoryIndex.search`` answers from the store's own vectors (:mod:`exact`) until Chroma is open, checked
and in step, and after that wherever Chroma is not quicker: up to about :data:`EXACT_ROWS` vectors the
exact search takes no longer and cannot be wrong. Above that Chroma names candidates whose cosines are
computed from the store's vectors, so Chroma can miss an entry but cannot invent or misorder one.
Chroma is there for large namespaces, for a server that others share, and as a plain collection
(entry ids, embeddings, kind, namespace, label and time; never a text) that other tools can open.

Chroma runs in this process, is imported lazily and opened by a background thread. Chroma 1.5.9 rewrites
its graph files in place: a kill can tear them, and opening a torn graph can crash the process or
fill the disk. So a folder is opened only if it was closed in good order: closing writes a marker with
the SHA-256 of each file, opening compares and removes it. Without a matching marker the folder is thrown
away and built again from the store, as it is when a check fails or an entry was forgotten (Chroma keeps
deleted vectors in its files). A fault inside Chroma's native code on sound files would not be contained.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import platform
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from ...files import replace_file, sha256_of
from ..database import StorageError
from ..entry import Embedder, Vectors
from ..store import MemoryStore
from .exact import Exact

log = logging.getLogger(__name__)
T = TypeVar("T")

EXACT_ROWS = 20_000
SPARE = 10
"""Candidates asked of Chroma beyond those wanted (and half as many again)."""
MOST_CANDIDATES = 400
"""Where a namespace is so small a part that more would be needed, the exact search is quicker."""
MOST_FAILURES = 4
RETRY_SECONDS = 0.5
"""Wait after a failure; four times as long after each further one."""
SMALL_DELAY = 30.0
"""Seconds until Chroma is opened for a store that it does not answer for, so that short runs skip it."""
POLL_SECONDS = 1.0
CLOSE_SECONDS = 10.0
QUERY_SECONDS = 2.0
SERVER_SECONDS = 3.0
SERVER_RETRY_SECONDS = 30.0
COLLECTION = "autogpt-memory"
FOLDER = "index"
"""Where the index is, under the home."""
ROOM = 64 << 20
"""Bytes that the folder may have beyond what its vectors take."""
FORMAT = 1
"""Raise it when what a collection holds changes; older ones are then rebuilt."""
SELF_QUERIES = 64
MISSES = 2
"""Self-queries that may fail, as the graph is approximate. A loss of 10 % of the vectors passes with a
probability of 4 %, one of 24 % (two writers, measured) with less than 1 in 100,000."""
HNSW = {"space": "cosine", "max_neighbors": 16, "ef_construction": 64, "ef_search": 100}
"""Measured on 20,000 x 384: with 64 instead of 100 a build takes a quarter less time, and a search still
found all of the true ten nearest."""
_BATCH = 1_000
_TRIES = 10
"""How often to catch up with writers before comparing."""
_SAME = 0.9999
"""Cosine from which another entry counts as the one that was asked for: they may be equal."""


class IndexFailed(Exception):
    """Chroma did not do what was asked; the message says what happened, in one line."""


class Forgotten(IndexFailed):
    """The collection holds entries that were forgotten; only a new one is free of them."""


@dataclass(frozen=True)
class IndexStatus:
    """How the index is."""

    state: str
    """``exact`` (Chroma is not open), ``waiting`` (another process keeps it), ``building``, ``ready``
    or ``off`` (given up until the next start)."""
    detail: str
    """Why, in one line; empty when all is well."""
    entries: int
    rebuilt: int
    """How often this process rebuilt it."""


class MemoryIndex:
    """Nearest neighbours over the vectors of ``embedder`` in ``store``; a ``VectorIndex``.

    ``folder`` holds the lock, the marker and Chroma's files; ``server`` (``http://host:port``) uses a
    Chroma server instead, in collection ``name``. Before :meth:`start` the index is the exact search
    alone. Any thread may search. One process at a time keeps the collection in step; the others
    answer exactly, and their writes reach it through the store's change numbers.
    """

    def __init__(
        self,
        store: MemoryStore,
        embedder: str,
        dimension: int,
        folder: Path,
        server: str = "",
        name: str = COLLECTION,
        exact_rows: int = EXACT_ROWS,
    ) -> None:
        self.folder, self.server, self.name = folder, server, name
        self.exact = Exact(store, embedder, dimension)
        self.exact_rows = exact_rows
        self._copy: Collection | None = None
        self._thread: threading.Thread | None = None
        self._asking = threading.Lock()
        self._stop, self._wake, self._ready = threading.Event(), threading.Event(), threading.Event()
        self._rebuild_wanted = False
        self._state, self._detail, self._failures, self._rebuilt = "exact", "", 0, 0
        self._answered = 0

    def __enter__(self) -> MemoryIndex:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Begin to bring Chroma up in the background; returns at once."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._keep, name="memory-index", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop the background work and close Chroma; the next start goes on from there."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            # A call that hangs inside Chroma is left behind: there is no marker, so nothing trusts its files.
            self._thread.join(CLOSE_SECONDS)
            self._thread = None

    def search(self, vector: Vectors, k: int, namespaces: Sequence[str]) -> list[tuple[int, float]]:
        """Return up to ``k`` pairs (entry id, cosine), nearest first, for ``vector [dimension]``.

        Sees every write that was acknowledged before the call.
        """
        if vector.shape != (self.exact.dimension,):
            raise ValueError(f"a vector of {self.exact.dimension} numbers is wanted, got {vector.shape}")
        candidates = self._candidates(vector, k, namespaces)
        if candidates is not None:
            hits = self.exact.search(vector, k, namespaces, among=candidates)
            if len(hits) == k:
                self._answered += 1
                return hits
        return self.exact.search(vector, k, namespaces)

    def status(self) -> IndexStatus:
        """Return how the index is."""
        return IndexStatus(self._state, self._detail, self.exact.count(), self._rebuilt)

    @property
    def answered(self) -> int:
        """How many searches Chroma named the candidates for."""
        return self._answered

    def wait(self, seconds: float) -> bool:
        """Wait until Chroma is checked and in step with the store; whether it is."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._state != "off":
            self._wake.set()
            if self._ready.wait(0.05) and self._in_step():
                return True
            time.sleep(0.02)
        return self._in_step()

    def rebuild(self) -> None:
        """Ask for a new collection, in the background; the exact search answers meanwhile."""
        self._rebuild_wanted = True
        self._ready.clear()
        self._wake.set()

    def _in_step(self) -> bool:
        """Whether Chroma has all that the store has, and could be asked now."""
        if self._copy is None or not self._asking.acquire(timeout=0.1):
            return False
        try:
            return self._ready.is_set() and self._copy.number == self.exact.store.last_change()
        finally:
            self._asking.release()

    def _candidates(self, vector: Vectors, k: int, namespaces: Sequence[str]) -> list[int] | None:
        """Ask Chroma, if it is ready, in step, idle, and quicker; None leaves it to the exact search."""
        if k <= 0 or not self._ready.is_set():
            return None
        rows, total = self.exact.counts(namespaces)
        if rows <= self.exact_rows:
            return None
        wanted = SPARE + k * total * 3 // (2 * max(rows, 1))
        if wanted > MOST_CANDIDATES or not self._asking.acquire(blocking=False):
            return None
        try:
            copy = self._copy
            if copy is None or not self._ready.is_set() or copy.number != self.exact.number:
                self._wake.set()
                return None
            return _within(QUERY_SECONDS, lambda: copy.nearest(vector[None, :], wanted)[0])
        except IndexFailed as error:
            self._failed(error)
            return None
        finally:
            self._asking.release()

    def _failed(self, error: Exception) -> None:
        """Stop asking Chroma; the background thread opens or rebuilds it."""
        was_ready = self._ready.is_set()
        if was_ready:
            log.warning("memory index: %s; searching exactly until it is rebuilt", error)
        self._detail = str(error) if was_ready else f"the index cannot be built: {error}"
        self._failures += 0 if was_ready and self.server else 1
        self._ready.clear()
        self._wake.set()

    # The background thread

    def _keep(self) -> None:
        """Open the collection and keep it in step until :meth:`close`."""
        lock: int | None = None
        try:
            if self.exact.count() <= self.exact_rows and not self.server:
                self._wake.wait(SMALL_DELAY)
            lock = self._take_lock()
            if lock is not None:
                self._copy = Collection(self.exact, self.folder, self.server, self.name, lock)
                while not self._stop.is_set() and self._failures < MOST_FAILURES:
                    if not self.server or self._server_is_there():
                        self._step(self._copy)
        except (OSError, StorageError) as error:
            self._detail = str(error)
        finally:
            with self._asking:
                if self._copy is not None:
                    self._copy.close(orderly=self._ready.is_set() or self._state == "building")
                    self._copy = None
            self._ready.clear()
            if lock is not None:
                os.close(lock)
            self._state = "exact" if self._stop.is_set() else "off"
            if not self._stop.is_set():
                log.warning("memory index: %s; searching exactly from now on", self._detail)

    def _step(self, copy: Collection) -> None:
        """Bring the collection up where it is not ready, else follow the store for a while."""
        try:
            if not self._ready.is_set():
                self._state = "building"
                with self._asking:
                    self._bring_up(copy)
                if not self._stop.is_set():
                    self._state, self._detail = "ready", ""
                    self._ready.set()
                return
            self._wake.wait(POLL_SECONDS)
            self._wake.clear()
            if self._ready.is_set() and copy.number != self.exact.store.last_change():
                with self._asking:
                    copy.follow(self._stop.is_set)
        except Forgotten as error:
            self._ready.clear()
            self._detail, self._rebuild_wanted = str(error), True
        except (IndexFailed, OSError) as error:
            self._state = "failed"  # its files are not to be trusted: closing writes no marker
            self._failed(error)
            if self._failures < MOST_FAILURES:
                self._stop.wait(RETRY_SECONDS * 4.0**self._failures)

    def _bring_up(self, copy: Collection) -> None:
        """Open the collection, or throw it away and build it. Raises :class:`IndexFailed`."""
        if not self._rebuild_wanted:
            try:
                copy.open()
                copy.check(self._stop.is_set)
                return
            except IndexFailed as error:
                log.info("memory index: %s; rebuilding", error)
                self._detail = str(error)
        self._rebuild_wanted = False
        copy.create()
        self._rebuilt += 1
        copy.check(self._stop.is_set)

    def _take_lock(self) -> int | None:
        """Return the descriptor of the lock on the folder once it is ours; None when stopped first."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        while not self._stop.is_set():
            if _locked(lock):
                return lock
            self._state, self._detail = "waiting", "another process keeps the index in step"
            self._stop.wait(POLL_SECONDS)
        os.close(lock)
        return None

    def _server_is_there(self) -> bool:
        """Try the server's port unless it is in use; when nobody listens, say so once and wait a while."""
        if self._ready.is_set():
            return True
        url = urlsplit(self.server)
        try:
            socket.create_connection((url.hostname or "", _port(self.server)), SERVER_SECONDS).close()
        except (OSError, ValueError) as error:
            line = (
                f"no Chroma server at {self.server} ({error}); memory is searched without it: "
                "start it, or change the setting 'chroma'"
            )
            if self._detail != line:
                log.warning("%s", line)
            self._state, self._detail = "exact", line
            self._wake.wait(SERVER_RETRY_SECONDS)
            self._wake.clear()
            return False
        return True


class Collection:
    """The collection ``name`` in ``folder``, or on ``server``, of the vectors that ``exact`` has.

    ``lock`` is the descriptor of the held lock on the folder. Whatever Chroma raises comes out as
    :class:`IndexFailed`. All methods but :meth:`nearest` belong to one thread.
    """

    def __init__(self, exact: Exact, folder: Path, server: str, name: str, lock: int) -> None:
        self._exact, self._server, self._name, self._lock = exact, server, name, lock
        self._data, self._marker = folder / "chroma", folder / "clean.json"
        self._client: Any = None
        self._collection: Any = None
        self.number = -1
        """The change number of the store up to which the collection is complete."""

    def open(self) -> None:
        """Open the collection as it was left, if it was closed in good order and is of this embedder."""
        self.close(orderly=False)
        expected = self._trusted()
        with _translated("open"):
            self._connect()
            self._collection = self._client.get_collection(self._name, embedding_function=None)
            metadata = self._collection.metadata or {}
        number = metadata.get("change")
        if not isinstance(number, int) or metadata != self._metadata(number) or expected not in (None, number):
            raise IndexFailed("the index is of another embedder, form or time")
        if not 0 <= number <= self._exact.store.last_change():
            raise IndexFailed("the index is newer than the store")
        self.number = number

    def create(self) -> None:
        """Throw everything away and make an empty collection, to be filled by :meth:`follow`."""
        self.close(orderly=False)
        clean = self._exact.store.last_change()
        if not self._server:
            shutil.rmtree(self._data, ignore_errors=True)
            if self._data.exists():
                raise IndexFailed(f"{self._data} cannot be removed")
        self._clean_until(clean)
        with _translated("create"):
            self._connect()
            if any(each.name == self._name for each in self._client.list_collections()):
                self._client.delete_collection(self._name)
            self._collection = self._client.create_collection(
                self._name,
                configuration={"hnsw": {**HNSW, "num_threads": min(2, os.cpu_count() or 1)}},
                metadata=self._metadata(0),
                embedding_function=None,
            )
        self.number = 0

    def follow(self, stopping: Callable[[], bool]) -> None:
        """Apply what changed in the store since :attr:`number`, in batches, until ``stopping``."""
        store = self._exact.store
        while not stopping() and (changes := store.changes(self.number, _BATCH)):
            changed = [change.entry for change in changes]
            rows = self._exact.rows()[1].of(changed)
            entries = {entry.id: entry for entry in store.get(changed)}
            here = rows.at(np.isin(rows.ids, list(entries)))
            names = [str(entry) for entry in here.ids.tolist()]
            gone = [str(entry) for entry in changed if entry not in entries]
            hidden = sorted({str(entry) for entry in entries} - set(names))
            described = [
                {"kind": str(e.kind), "namespace": e.namespace, "label": str(e.label), "created": e.created}
                for e in (entries[int(name)] for name in names)
            ]
            with _translated("update"):
                if gone and self._collection.get(gone, include=[])["ids"]:
                    raise Forgotten("entries were forgotten")
                if names:
                    self._collection.upsert(names, embeddings=here.vectors, metadatas=described)
                if hidden and (there := self._collection.get(hidden, include=[])["ids"]):
                    self._collection.delete(there)
                # Told to Chroma last: whatever ends this early, the same changes are applied once more.
                self._collection.modify(metadata=self._metadata(changes[-1].number))
            self.number = changes[-1].number
            self._clean_until(self.number)
            if not self._server and _bytes(self._data) > self._most_bytes():
                raise IndexFailed(f"the index has grown to {_bytes(self._data) >> 20:,} MB")

    def check(self, stopping: Callable[[], bool]) -> None:
        """Catch up with the store, then compare the count and let random entries find themselves.

        Raises :class:`IndexFailed` if Chroma does not have what the store has. While other processes go
        on writing, or once ``stopping``, there is nothing to compare.
        """
        for _ in range(_TRIES):
            self.follow(stopping)
            number, rows = self._exact.rows()
            if number == self.number:
                break
        else:
            return
        if stopping():
            return
        with _translated("count"):
            found = int(self._collection.count())
        if found != len(rows):
            raise IndexFailed(f"the index has {found:,} entries, the store {len(rows):,}")
        rng = np.random.default_rng()
        chosen = rows.at(rng.permutation(len(rows))[:SELF_QUERIES])
        misses = 0
        nearest = self.nearest(chosen.vectors, 1) if len(chosen) else []
        for entry, vector, ids in zip(chosen.ids.tolist(), chosen.vectors, nearest, strict=True):
            same = entry in ids or bool((rows.of(ids).vectors @ vector > _SAME).any())
            misses += not same
        if misses > MISSES:
            raise IndexFailed(f"{misses} of {len(chosen)} entries do not find themselves")

    def nearest(self, vectors: Vectors, k: int) -> list[list[int]]:
        """Return the ids nearest to each of ``vectors [n, dimension]``, best first, up to ``k``."""
        with _translated("query"):
            found = self._collection.query(query_embeddings=vectors, n_results=k, include=["distances"])
            return [[int(name) for name in names] for names in found["ids"]]

    def close(self, orderly: bool) -> None:
        """Close Chroma; ``orderly`` marks the files as good to open again."""
        client, self._client, self._collection = self._client, None, None
        if client is None:
            return
        with contextlib.suppress(IndexFailed), _translated("close"):
            client.close()
            if orderly and not self._server:
                marker = {"change": self.number, "files": _digests(self._data)}
                replace_file(self._marker, json.dumps(marker))

    def _trusted(self) -> int | None:
        """Return the change number that the marker tells, and remove it; raises unless the files are its.

        Other tools that read the collection leave marks in Chroma's SQLite file, so that one may differ if
        SQLite finds it sound; the graph's files may not. On a server there is no marker: None.
        """
        if self._server:
            return None
        try:
            marker = json.loads(self._marker.read_text())
            self._marker.unlink()
            if _bytes(self._data) > self._most_bytes():
                raise IndexFailed("the index is larger than what it holds can be")
            found, files = _digests(self._data), dict(marker["files"])
            if found.pop("chroma.sqlite3") != files.pop("chroma.sqlite3"):
                _check_sqlite(self._data / "chroma.sqlite3")
            if found != files:
                raise IndexFailed("the index's files are not as they were left")
            return int(marker["change"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise IndexFailed(f"the index was not closed in good order ({error})") from error

    def _connect(self) -> None:
        import chromadb
        from chromadb.config import Settings

        # Chroma would read a file .env of the current folder.
        settings = Settings(_env_file=None, anonymized_telemetry=False)  # type: ignore[call-arg]
        if self._server:
            url = urlsplit(self._server)
            self._client = chromadb.HttpClient(
                str(url.hostname), _port(self._server), ssl=url.scheme == "https", settings=settings
            )
        else:
            self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._client = chromadb.PersistentClient(str(self._data), settings=settings)

    def _most_bytes(self) -> int:
        """Return the size that the folder may have: room for thrice as many vectors (or 100,000)."""
        return ROOM + 9 * max(100_000, self._exact.count()) * (self._exact.dimension * 4 + 256)

    def _clean_until(self, number: int) -> None:
        """Tell :func:`purge` that nothing here was forgotten at or before change ``number``."""
        if number > _clean_until(self._lock):
            os.pwrite(self._lock, b"%020d" % number, 0)

    def _metadata(self, number: int) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "embedder": self._exact.embedder,
            "dimension": self._exact.dimension,
            "change": number,
        }


def open_index(store: MemoryStore, embedder: Embedder, server: str = "") -> MemoryIndex:
    """Return the index of ``store`` for ``embedder``, not started; ``server`` is the setting ``chroma``.

    On a server the collection is named after this machine and home, so that several can share it.
    """
    place = hashlib.sha256(f"{platform.node()}:{store.home.resolve()}".encode()).hexdigest()[:12]
    name = f"{COLLECTION}-{place}" if server else COLLECTION
    return MemoryIndex(store, embedder.id, embedder.dimension, store.home / FOLDER, server, name)


def purge(folder: Path, change: int, seconds: float = 20.0) -> bool:
    """Remove from Chroma's files what was forgotten up to change number ``change``; whether it is gone.

    When another process keeps the index, it sees the change itself and drops its files; this waits
    until it has. On a Chroma server the collection is made again by whoever uses it next; what the
    server's own files hold until ``chroma vacuum`` is outside our reach.
    """
    if not folder.is_dir():
        return True
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + seconds
    try:
        while not _locked(lock):
            if _clean_until(lock) >= change:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        (folder / "clean.json").unlink(missing_ok=True)
        shutil.rmtree(folder / "chroma", ignore_errors=True)
        return not (folder / "chroma").exists()
    finally:
        os.close(lock)


@contextlib.contextmanager
def _translated(operation: str) -> Iterator[None]:
    """Turn whatever Chroma raises into :class:`IndexFailed`: also its panics, which are no ``Exception``."""
    try:
        yield
    except (IndexFailed, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        line = " ".join(str(error).split())[:300]
        raise IndexFailed(f"{operation}: {type(error).__name__}: {line}") from error


def _within(seconds: float, work: Callable[[], T]) -> T:
    """Return what ``work`` returns; raise :class:`IndexFailed` if that takes longer than ``seconds``."""
    done: list[T] = []
    failed: list[IndexFailed] = []

    def run() -> None:
        try:
            done.append(work())
        except IndexFailed as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="memory-query", daemon=True)
    thread.start()
    thread.join(seconds)
    if done:
        return done[0]
    raise failed[0] if failed else IndexFailed(f"no answer within {seconds:g} s")


def _check_sqlite(path: Path) -> None:
    """Raise ``ValueError`` unless SQLite finds the file sound."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as raw:
            verdict = raw.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        raise ValueError(f"chroma.sqlite3: {error}") from error
    if verdict != "ok":
        raise ValueError(f"chroma.sqlite3: {verdict}")


def _digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file by its path within ``folder``."""
    return {str(path.relative_to(folder)): sha256_of(path) for path in folder.rglob("*") if path.is_file()}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _clean_until(lock: int) -> int:
    """Return the change number up to which the copy is free of what was forgotten, as its keeper says."""
    text = os.pread(lock, 20, 0)
    return int(text) if len(text) == 20 and text.isdigit() else -1


def _locked(lock: int) -> bool:
    """Take the lock if nobody holds it; whether it is ours."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _port(server: str) -> int:
    url = urlsplit(server)
    return url.port or (443 if url.scheme == "https" else 8000)
