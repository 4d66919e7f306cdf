"""The index of memory: exact search always, Chroma beside it where it is quicker, never in the way.

``MemoryIndex.search`` answers from the store's vectors (:mod:`exact`) until Chroma is up, checked and
in step, and from then on wherever Chroma is not quicker: measured on two cores, a product over up to
about :data:`EXACT_ROWS` vectors takes no longer than asking Chroma does, and it cannot be wrong.
Above that Chroma names candidates and their cosines are computed from the store's own vectors, so
Chroma can miss an entry but cannot invent, mislabel or misorder one. What Chroma is for here: large
namespaces, a server that others use too, and a plain collection that other tools can open.

One thread keeps Chroma in step: it takes the lock on the folder (other processes wait for it and answer
exactly meanwhile; their writes reach Chroma through the store's change numbers, which is the queue),
starts the process, opens, checks, follows. Whatever fails there is dropped and rebuilt, at most
:data:`MOST_FAILURES` times; the run never waits for any of it. For a small store the process starts
only after :data:`SMALL_DELAY` seconds, so that short runs do not pay a second of computing for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import platform
import shutil
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..database import StorageError
from ..entry import Embedder, Vectors
from ..store import MemoryStore
from .exact import Exact
from .index_client import IndexFailed
from .index_copy import ChromaCopy, Forgotten, clean_until

log = logging.getLogger(__name__)

EXACT_ROWS = 20_000
SPARE = 10
"""Candidates asked of Chroma beyond those wanted (and half as many again)."""
MOST_CANDIDATES = 400
"""Where a namespace is so small a part that more would be needed, the exact search is quicker."""
MOST_FAILURES = 4
SMALL_DELAY = 30.0
"""Seconds until Chroma's process starts for a store that it does not answer for yet."""
POLL_SECONDS = 1.0
CLOSE_SECONDS = 10.0
SERVER_SECONDS = 3.0
SERVER_RETRY_SECONDS = 30.0
COLLECTION = "autogpt-memory"
FOLDER = "index"
"""Where the index is, under the home."""


@dataclass(frozen=True)
class IndexStatus:
    """How the index is, for ``autogpt memory stats``."""

    state: str
    """``exact`` (Chroma not started), ``waiting`` (another process keeps it), ``building``, ``ready``
    or ``off`` (given up until the next start)."""
    detail: str
    """Why, in one line; empty when all is well."""
    entries: int
    rebuilt: int
    """How often this process rebuilt it."""


class MemoryIndex:
    """Nearest neighbours over the vectors of ``embedder`` in ``store``; a ``VectorIndex``.

    ``folder`` holds the lock and Chroma's files; ``server`` (``http://host:port``) uses a Chroma server
    instead, in collection ``name``. Nothing is started before :meth:`start`; without it the index
    is the exact search alone. Any thread may search.
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
        self._copy: ChromaCopy | None = None
        self._thread: threading.Thread | None = None
        self._asking = threading.Lock()
        self._stop, self._wake, self._ready = threading.Event(), threading.Event(), threading.Event()
        self._rebuild_wanted = False
        self._state, self._detail, self._failures, self._rebuilt = "exact", "", 0, 0

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
        """Stop the background work and Chroma's process; the next start goes on from there."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            # Opening and building may be cut short: nothing is lost that the next start does not see.
            self._thread.join(0.0 if self._state == "building" else CLOSE_SECONDS)
            if self._thread.is_alive() and self._copy is not None:
                self._copy.kill()
            self._thread.join()
            self._thread = None

    def search(self, vector: Vectors, k: int, namespaces: Sequence[str]) -> list[tuple[int, float]]:
        """Return up to ``k`` pairs (entry id, cosine), nearest first, for ``vector [dimension]``.

        Sees every write that was acknowledged before the call.
        """
        if vector.shape != (self.exact.dimension,):
            raise ValueError(f"a vector of {self.exact.dimension} numbers is wanted, got {vector.shape}")
        candidates = self._candidates(vector, k, namespaces)
        if candidates is not None:
            hits = self.exact.rescore(vector, candidates, k, namespaces)
            if len(hits) == k:
                return hits
        return self.exact.search(vector, k, namespaces)

    def status(self) -> IndexStatus:
        """Return how the index is."""
        return IndexStatus(self._state, self._detail, self.exact.count(), self._rebuilt)

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
        """Ask for a new index, in the background; the exact search answers meanwhile."""
        self._ready.clear()
        self._rebuild_wanted = True
        self._wake.set()

    @property
    def worker(self) -> int | None:
        """Process id of Chroma's process, while there is one."""
        return self._copy.pid if self._copy else None

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
            return copy.query(vector, wanted)
        except IndexFailed as error:
            self._failed(error)
            return None
        finally:
            self._asking.release()

    def _failed(self, error: IndexFailed) -> None:
        """Take note of a failure of a copy that was ready; the background thread does the rest."""
        log.warning("memory index: %s; searching exactly until it is rebuilt", error)
        self._detail = str(error)
        self._failures += 0 if self.server else 1
        self._ready.clear()
        self._wake.set()

    # The background thread

    def _keep(self) -> None:
        """Load the vectors, then keep Chroma's copy in step until :meth:`close`."""
        lock: int | None = None
        try:
            small = self.exact.count() <= self.exact_rows and not self.server
            self._wake.wait(SMALL_DELAY if small else 0.0)
            lock = self._take_lock()
            if lock is not None:
                copy = ChromaCopy(self.exact, self.folder, self.server, self.name, lock, self._stop.is_set)
                self._copy = copy
                while not self._stop.is_set() and self._failures < MOST_FAILURES:
                    if self._bring_up(copy):
                        self._follow(copy)
        except (OSError, StorageError) as error:
            self._detail = str(error)
        finally:
            self._ready.clear()
            with self._asking:
                if self._copy is not None:
                    self._copy.close()
            if lock is not None:
                os.close(lock)
            self._state = "exact" if self._stop.is_set() else "off"
            if not self._stop.is_set():
                log.warning("memory index: %s; searching exactly from now on", self._detail)

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

    def _bring_up(self, copy: ChromaCopy) -> bool:
        """Open the copy, or rebuild it; whether it is ready now."""
        if self.server and not self._server_is_there():
            return False
        self._state = "building"
        try:
            if self._rebuild_wanted:
                raise IndexFailed("a rebuild was asked for")
            with self._asking:
                copy.open()
        except IndexFailed as error:
            if self._stop.is_set():
                return False
            log.info("memory index: %s; rebuilding", error)
            self._detail, self._rebuild_wanted = str(error), False
            if not self._rebuilds(copy):
                return False
        self._state, self._detail = "ready", ""
        self._ready.set()
        return True

    def _rebuilds(self, copy: ChromaCopy) -> bool:
        try:
            with self._asking:
                copy.rebuild()
        except (IndexFailed, OSError) as error:
            copy.kill()
            self._failures += 1
            self._detail = f"the index cannot be built: {error}"
            if self._failures < MOST_FAILURES:
                self._stop.wait(0.5 * 4.0**self._failures)
            return False
        self._rebuilt += 1
        return True

    def _server_is_there(self) -> bool:
        """Try the server's port; when nobody listens, say so once and wait a while."""
        url = urlsplit(self.server)
        try:
            port = url.port or (443 if url.scheme == "https" else 8000)
            socket.create_connection((url.hostname or "", port), SERVER_SECONDS).close()
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

    def _follow(self, copy: ChromaCopy) -> None:
        """Apply changes as they come, until something is wrong or the index is closed."""
        while self._ready.is_set() and not self._stop.is_set():
            self._wake.wait(POLL_SECONDS)
            self._wake.clear()
            if self._stop.is_set() or not self._ready.is_set():
                break
            try:
                if copy.number != self.exact.store.last_change():
                    with self._asking:
                        copy.follow()
            except Forgotten as error:
                self._ready.clear()
                self._detail, self._rebuild_wanted = str(error), True
                with self._asking:
                    copy.drop()
            except IndexFailed as error:
                self._failed(error)


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
    until it has. (On a Chroma server the collection is made anew by whoever uses it next; what the
    server's own files still hold until ``chroma vacuum`` is not ours to promise.)
    """
    if not folder.is_dir():
        return True
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + seconds
    try:
        while not _locked(lock):
            if clean_until(lock) >= change:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        shutil.rmtree(folder / "chroma", ignore_errors=True)
        return not (folder / "chroma").exists()
    finally:
        os.close(lock)


def _locked(lock: int) -> bool:
    """Take the lock if nobody holds it; whether it is ours."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
