"""The host's side of the index's process: start it, ask it with a time limit, end it.

Whatever goes wrong over there (an error, a crash, a hang, nonsense) comes out here as one exception,
:class:`IndexFailed`, after which the process is ended. The child gets a clean environment: no
Chroma or proxy variables of the user, and a working folder of its own, because Chroma would read a
``.env`` file from the current one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..entry import Vectors
from .index_frames import Closed, Fields, receive, send

MEBIBYTE = 1024 * 1024
OPEN_SECONDS = 60.0
WRITE_SECONDS = 120.0
QUERY_SECONDS = 2.0
_DROPPED = ("CHROMA", "OTEL_", "IS_PERSISTENT", "PERSIST_DIRECTORY", "ANONYMIZED_TELEMETRY")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


class IndexFailed(Exception):
    """Chroma did not do what was asked; the message says what happened."""


@dataclass(frozen=True)
class Limits:
    """What the process may use, in bytes: its largest file, and its address space."""

    file: int
    memory: int

    @classmethod
    def for_rows(cls, rows: int, dimension: int) -> Limits:
        """Return limits with room for twice ``rows`` (at least 100,000) vectors.

        The largest file holds vectors and links; address space is several times what is resident
        (measured: 1.0 GB at 20,000 x 384 with 0.35 GB resident), so the limit is generous: it is
        there for a run-away, not for economy.
        """
        bytes_of_vectors = max(100_000, 2 * rows) * (dimension * 4 + 256)
        return cls(file=64 * MEBIBYTE + 3 * bytes_of_vectors, memory=4096 * MEBIBYTE + 8 * bytes_of_vectors)


class WorkerClient:
    """A running worker. One request at a time: callers see to that."""

    def __init__(self, cwd: Path, limits: Limits, lock: int | None = None) -> None:
        """Start it in ``cwd``; it inherits ``lock``, the descriptor of the lock on the folder."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", f"{__package__}.index_worker"]
        command += [str(theirs.fileno()), str(limits.file), str(limits.memory)]
        kept = (theirs.fileno(),) if lock is None else (theirs.fileno(), lock)
        try:
            self._process = subprocess.Popen(
                command,
                cwd=cwd,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=kept,
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise IndexFailed(f"the index's process does not start: {error}") from error
        finally:
            theirs.close()
        self._socket = ours

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(
        self, operation: str, payload: bytes = b"", seconds: float = WRITE_SECONDS, **fields: Any
    ) -> tuple[Fields, bytes]:
        """Return the answer to one request. Raises :class:`IndexFailed`; then the process is over.

        An error that Chroma reports leaves the process alive but is raised all the same.
        """
        deadline = time.monotonic() + seconds
        try:
            self._socket.settimeout(seconds)
            send(self._socket, {"operation": operation, **fields}, payload)
            answer, out = receive(self._socket, deadline)
        except TimeoutError:
            self.kill()
            raise IndexFailed(f"{operation}: no answer within {seconds:g} s") from None
        except Closed as error:
            self.kill()
            how = f"exit status {self._process.returncode}"
            raise IndexFailed(f"{operation}: the index's process ended ({how}): {error}") from error
        if "error" in answer:
            raise IndexFailed(f"{operation}: {answer['error']}")
        return answer, out

    def open(self, folder: Path, server: str, name: str, create: Fields | None = None) -> Fields | None:
        """Open or ``create`` the collection; return its metadata, None when there is none."""
        answer, _ = self.ask(
            "open", seconds=OPEN_SECONDS, folder=str(folder), server=server, name=name, create=create
        )
        metadata: Fields | None = answer.get("metadata") if answer.get("found") else None
        return metadata

    def number(self, operation: str, **fields: Any) -> int:
        """Return the count that ``count`` or ``has`` answers."""
        answer, _ = self.ask(operation, **fields)
        return int(answer["count"])

    def upsert(self, ids: Sequence[int], metadatas: Sequence[Fields], vectors: Vectors) -> None:
        """Add or replace entries with ``vectors [n, dimension]``."""
        payload = np.ascontiguousarray(vectors, "<f4").tobytes()
        self.ask("upsert", payload, ids=[str(entry) for entry in ids], metadatas=list(metadatas))

    def query(self, vectors: Vectors, k: int, seconds: float = QUERY_SECONDS) -> NDArray[np.int64]:
        """Return the ids nearest to ``vectors [n, dimension]``, ``[n, k]``, -1 where there are fewer."""
        payload = np.ascontiguousarray(vectors, "<f4").tobytes()
        _, out = self.ask("query", payload, seconds, vectors=len(vectors), k=k)
        if len(out) != len(vectors) * k * 8:
            raise IndexFailed("query: an answer of the wrong size")
        return np.frombuffer(out, "<i8").reshape(len(vectors), k)

    def kill(self) -> None:
        """End the process now and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        self._socket.close()

    def close(self, seconds: float = 10.0) -> None:
        """Let the process finish and wait for it; kill it after ``seconds``."""
        with contextlib.suppress(OSError):
            self._socket.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()


def _environment() -> dict[str, str]:
    """Return the environment of the child: ours without Chroma's and proxies' variables."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(_DROPPED) and name.lower() not in _PROXIES
    }
    paths = [os.path.abspath(path) for path in sys.path if path]
    return kept | {"PYTHONPATH": os.pathsep.join(paths), "MALLOC_ARENA_MAX": "2"}
