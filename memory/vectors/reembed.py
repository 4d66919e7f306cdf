"""A new embedder takes over without a query lost: the old vectors answer until the new ones are complete.

Vectors of different embedders cannot be compared, so one of them serves at a time: the embedder, and
the index over its vectors, as one pair (:class:`Serving`). When the configured embedder lacks vectors,
the one that has most of them serves, as long as it can still be loaded; a background thread
embeds what is missing, a batch at a time (what is done is kept, so it goes on after a restart), and
then the pair is exchanged at once and the old vectors are dropped. The same thread gives vectors to
entries that were written without one. While an embedder on its way out serves, its vectors are
searched exactly, without Chroma, which would have to follow every batch for nothing. When the old
one cannot be loaded, the new one serves what it has so far, and words find the rest.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from ...errors import UserError
from .. import tables as t
from ..embedding import embed
from ..entry import Embedder
from ..store import MemoryStore
from .chroma import MemoryIndex, open_index

log = logging.getLogger(__name__)

BATCH = 64
"""Texts embedded at once: seconds of work at most that a restart repeats."""
POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Serving:
    """What answers queries now: embed with one, search the other."""

    embedder: Embedder
    index: MemoryIndex


def vector_counts(store: MemoryStore) -> dict[str, int]:
    """Return for each embedder how many entries that are not superseded have its vector."""
    query = (
        sa.select(t.vectors.c.embedder, sa.func.count())
        .join(t.entries, t.entries.c.id == t.vectors.c.entry)
        .where(t.entries.c.superseded_by.is_(None))
        .group_by(t.vectors.c.embedder)
    )
    with store.database.read() as connection:
        return {str(name): int(count) for name, count in connection.execute(query)}


def embed_missing(
    store: MemoryStore, embedder: Embedder, stopping: Callable[[], bool] = lambda: False
) -> int:
    """Give every live entry without one a vector of ``embedder``; return how many were embedded."""
    done = 0
    while not stopping() and (missing := store.missing_vectors(embedder.id, BATCH)):
        ids, texts = [entry for entry, _ in missing], [text for _, text in missing]
        store.set_vectors(ids, embedder.embed(texts), embedder.id)
        done += len(ids)
    return done


def drop_other_vectors(store: MemoryStore, keep: str) -> int:
    """Remove the vectors of all embedders but ``keep``; return how many."""

    def work(connection: sa.engine.Connection) -> int:
        return connection.execute(sa.delete(t.vectors).where(t.vectors.c.embedder != keep)).rowcount

    count: int = store.database.write(work)
    return count


def drop_unfit_vectors(store: MemoryStore, embedder: Embedder) -> int:
    """Remove the vectors under the id of ``embedder`` that are not as wide as what it gives; return how many.

    A model that was exchanged under its name leaves such: they can be compared with nothing any more.
    """
    unfit = (t.vectors.c.embedder == embedder.id) & (t.vectors.c.dimension != embedder.dimension)
    with store.database.read() as connection:
        if connection.execute(sa.select(t.vectors.c.entry).where(unfit).limit(1)).first() is None:
            return 0
    count: int = store.database.write(
        lambda connection: connection.execute(sa.delete(t.vectors).where(unfit)).rowcount
    )
    log.warning(
        "memory: %s gives %d numbers a text now; %d vectors of before are dropped and made anew",
        embedder.id, embedder.dimension, count,
    )  # fmt: skip
    return count


class Reembedding:
    """Chooses what serves, and brings the configured embedder ``wanted`` up to date in the background.

    ``load`` returns an embedder by its id, or None when it is not to be had any more; ``open_index``
    makes the index over an embedder's vectors. :attr:`serving` may be read by any thread, once for
    each query.
    """

    def __init__(
        self,
        store: MemoryStore,
        wanted: Embedder,
        load: Callable[[str], Embedder | None],
        open_index: Callable[[Embedder], MemoryIndex],
    ) -> None:
        self._store, self._wanted, self._open_index = store, wanted, open_index
        self._stop, self._wake = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        drop_unfit_vectors(store, wanted)
        previous = self._previous(load)
        self.serving = Serving(previous or wanted, open_index(previous or wanted))
        """The pair for the next query."""

    def _previous(self, load: Callable[[str], Embedder | None]) -> Embedder | None:
        counts = vector_counts(self._store)
        have = counts.pop(self._wanted.id, 0)
        best = max(counts, key=lambda name: counts[name], default=None)
        if best is None or counts[best] <= have:
            return None
        previous = load(best)
        if previous is None:
            log.warning(
                "memory: the embedder %s is not there any more; %d of %d entries are found by their words "
                "alone until %s has embedded them", best, counts[best] - have, counts[best], self._wanted.id,
            )  # fmt: skip
        return previous

    def start(self) -> None:
        """Start the index, and the background work; returns at once."""
        if self._thread is None:
            self._stop.clear()
            if self.serving.embedder.id == self._wanted.id:
                self.serving.index.start()
            self._thread = threading.Thread(target=self._keep, name="memory-embedding", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop; what has been embedded is kept."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.serving.index.close()

    def wait(self, seconds: float) -> bool:
        """Wait until the configured embedder serves and nothing is missing; whether it is so."""
        deadline = time.monotonic() + seconds
        while not (complete := self._complete()) and time.monotonic() < deadline:
            self._wake.set()
            time.sleep(0.02)
        return complete

    def _complete(self) -> bool:
        if self.serving.embedder.id != self._wanted.id:
            return False
        return not self._store.missing_vectors(self._wanted.id, 1)

    def _keep(self) -> None:
        """Embed what is missing, take over, and go on giving vectors to entries without one."""
        seen = -1
        try:
            while not self._stop.is_set():
                newest = self._store.last_change()
                if newest != seen:
                    embed_missing(self._store, self._wanted, self._stop.is_set)
                    seen = newest
                if self.serving.embedder.id != self._wanted.id and not self._stop.is_set():
                    self._take_over()
                self._wake.wait(POLL_SECONDS)
                self._wake.clear()
        except (UserError, OSError, ValueError) as error:
            log.warning("memory: embedding stopped until the next start: %s", error)

    def _take_over(self) -> None:
        old, index = self.serving, self._open_index(self._wanted)
        index.exact.rows()  # read before anybody waits for it
        self.serving = Serving(self._wanted, index)
        # What was written with the old embedder in the meantime gets its new vector before the old go.
        embed_missing(self._store, self._wanted, self._stop.is_set)
        if not self._stop.is_set():
            dropped = drop_other_vectors(self._store, self._wanted.id)
            log.info("memory: %s serves now; %d older vectors dropped", self._wanted.id, dropped)
        old.index.close()
        index.start()


def open_vectors(
    store: MemoryStore, embedder: str, server: str = "", say: Callable[[str], None] = log.warning
) -> Reembedding | None:
    """Return what answers for the setting ``embedder`` over ``store``, not started; None for words alone.

    ``server`` is the setting ``chroma``. An embedder that is not to be had is one line to ``say``.
    """
    wanted = embed.load_or_words(embedder, store.home, say)
    if wanted is None:
        return None

    def index(of: Embedder) -> MemoryIndex:
        return open_index(store, of, server)

    return Reembedding(store, wanted, lambda identity: embed.by_id(identity, store.home), index)
