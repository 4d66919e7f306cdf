"""The process that Chroma runs in: ``python -m`` this, with FD FILE_BYTES MEMORY_BYTES.

Chroma's damage stays here. Measured on 1.5.9, a torn index can crash the process that opens it, or
grow to tens of gigabytes; so this process has limits on file size and memory, no core dumps, and one
socket (``FD``, a pair with its host) through which it answers one request at a time. It ends when the
host's side closes, at the latest :data:`GRACE` seconds later even if Chroma hangs. It inherits the
host's lock on the index folder and so keeps it for as long as it can still write there.

Requests (:data:`_OPERATIONS`) are about one collection, a plain one: entry ids as text, embeddings,
metadatas (kind, namespace, label, created); never a text, so that forgetting is not Chroma's task.
The collection's own metadata tells the embedder, its dimension and the change number of the store
up to which the collection is complete.
"""

from __future__ import annotations

import os
import resource
import select
import socket
import sys
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from .index_frames import Closed, Fields, receive, send

GRACE = 20.0
NICENESS = 5
"""Building an index must not slow the run; a query that comes late is answered by the host itself."""
HNSW = {"space": "cosine", "max_neighbors": 16, "ef_construction": 64, "ef_search": 100}
"""Measured on 20,000 x 384: with 64 instead of 100 a build takes a quarter less time, and a search still
found all of the true ten nearest."""


class Worker:
    """One Chroma client and one collection; the methods are the operations."""

    def __init__(self) -> None:
        self._client: Any = None
        self._collection: Any = None

    def open(self, fields: Fields, _payload: bytes) -> tuple[Fields, bytes]:
        """Connect to ``folder`` or ``server``; open the collection ``name``, or make it (``create``)."""
        import chromadb
        from chromadb.config import Settings
        from chromadb.errors import NotFoundError

        settings = Settings(anonymized_telemetry=False)
        if fields["server"]:
            url = urlsplit(fields["server"])
            secure = url.scheme == "https"
            port = url.port or (443 if secure else 8000)
            self._client = chromadb.HttpClient(str(url.hostname), port, ssl=secure, settings=settings)
        else:
            self._client = chromadb.PersistentClient(fields["folder"], settings=settings)
        try:
            if fields["create"]:
                self._make(fields["name"], fields["create"])
            else:
                self._collection = self._client.get_collection(fields["name"], embedding_function=None)
        except NotFoundError:
            return {"found": False}, b""
        return {"found": True, "metadata": self._collection.metadata or {}}, b""

    def _make(self, name: str, metadata: Fields) -> None:
        if any(each.name == name for each in self._client.list_collections()):
            self._client.delete_collection(name)
        threads = min(2, os.cpu_count() or 1)
        self._collection = self._client.create_collection(
            name,
            configuration={"hnsw": {**HNSW, "num_threads": threads}},
            metadata=metadata,
            embedding_function=None,
        )

    def count(self, _fields: Fields, _payload: bytes) -> tuple[Fields, bytes]:
        """Return the number of entries in the collection."""
        return {"count": self._collection.count()}, b""

    def upsert(self, fields: Fields, payload: bytes) -> tuple[Fields, bytes]:
        """Add or replace entries: ``ids``, ``metadatas`` and float32 vectors."""
        vectors = np.frombuffer(payload, "<f4").reshape(len(fields["ids"]), -1)
        self._collection.upsert(fields["ids"], embeddings=vectors, metadatas=fields["metadatas"])
        return {}, b""

    def delete(self, fields: Fields, _payload: bytes) -> tuple[Fields, bytes]:
        """Take ``ids`` out of the collection."""
        self._collection.delete(fields["ids"])
        return {}, b""

    def has(self, fields: Fields, _payload: bytes) -> tuple[Fields, bytes]:
        """Return how many of ``ids`` are in the collection."""
        return {"count": len(self._collection.get(fields["ids"], include=[])["ids"])}, b""

    def seal(self, fields: Fields, _payload: bytes) -> tuple[Fields, bytes]:
        """Set the collection's own ``metadata``."""
        self._collection.modify(metadata=fields["metadata"])
        return {}, b""

    def query(self, fields: Fields, payload: bytes) -> tuple[Fields, bytes]:
        """Return the ids nearest to each vector, ``[vectors, k]`` as int64, -1 where there are fewer."""
        vectors = np.frombuffer(payload, "<f4").reshape(fields["vectors"], -1)
        found = self._collection.query(
            query_embeddings=vectors, n_results=fields["k"], include=["distances"]
        )["ids"]
        ids = np.full((len(vectors), fields["k"]), -1, "<i8")
        for row, names in zip(ids, found, strict=True):
            row[: len(names)] = [int(name) for name in names]
        return {}, ids.tobytes()


_OPERATIONS = {
    name: getattr(Worker, name) for name in ("open", "count", "upsert", "delete", "has", "seal", "query")
}


def limit(file_bytes: int, memory_bytes: int) -> None:
    """Limit this process: files, address space, no core dumps. A lower limit already set stays."""
    wanted = (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_AS, memory_bytes),
    )
    for kind, value in wanted:
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (value, value))
        except (ValueError, OSError):
            # macOS knows RLIMIT_AS but does not let it be set; the file size limit is what matters.
            continue


def _end_with(host: socket.socket) -> None:
    """Wait until the host's side closes, then end this process even if Chroma hangs."""
    poll = select.poll()
    poll.register(host, select.POLLHUP)
    while not any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll()):
        time.sleep(0.1)
    time.sleep(GRACE)
    os._exit(1)


def serve(host: socket.socket) -> None:
    """Answer requests until the host closes its side."""
    worker = Worker()
    while True:
        try:
            fields, payload = receive(host)
        except Closed:
            return
        try:
            answer, out = _OPERATIONS[fields["operation"]](worker, fields, payload)
        except Exception as error:
            # Whatever Chroma raises is an answer; the host decides what it means.
            line = " ".join(str(error).split())[:500]
            answer, out = {"error": f"{type(error).__name__}: {line}"}, b""
        try:
            send(host, answer, out)
        except Closed:
            return


def main(arguments: list[str]) -> None:
    """Set the limits and serve the host on the inherited socket."""
    descriptor, file_bytes, memory_bytes = (int(argument) for argument in arguments)
    limit(file_bytes, memory_bytes)
    os.nice(NICENESS)
    os.umask(0o077)
    host = socket.socket(fileno=descriptor)
    threading.Thread(target=_end_with, args=(host,), daemon=True).start()
    serve(host)
    # Not a normal exit: a hanging thread of Chroma must not keep the folder's lock.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
