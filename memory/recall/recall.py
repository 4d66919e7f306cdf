"""Recall: what the memory holds that is relevant to a query, within a token budget; or nothing.

Word search (BM25) and the vector index each name candidates; those of either are looked at closely and
scored by one learned judge (:mod:`rank`), which on held-out questions puts the right entry higher than
either search and than their fusion by rank. Its score is a calibrated logarithm of odds, so "nothing
relevant" is a result: what stays under the threshold is not shown. Among what is relevant, entries
that are recent, or were used in runs that reached their goal, come a little earlier; ones that were
shown often and never helped a little later. Superseded and expired entries never come: every
candidate is read from the store, and checked, before it is shown, whatever an index may still name.
Without an embedder (not fetched, or being exchanged) words alone name the candidates.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ...errors import UserError
from ...labels import Label
from ..embedding.static import Floats, Words, shipped
from ..entry import (
    Embedder,
    Entry,
    Hit,
    Kind,
    Recalled,
    VectorIndex,
    Vectors,
)
from ..rows import cosines
from ..store import MemoryStore
from .rank import (
    FEATURES,
    Candidate,
    Ranker,
    Reading,
    features,
    read_text,
    shipped_ranker,
)

log = logging.getLogger(__name__)

DEPTH = 40
"""Candidates asked of each search; more cost time and gained nothing."""
QUERY_CHARACTERS = 2000
SHOWABLE = (Label.TRUSTED, Label.STRUCTURED, Label.UNTRUSTED)
"""Labels that may be recalled; their entries keep them, for the taint rules."""
RECENT, RECENT_DAYS = 0.2, 30.0
"""What an entry of today gains in log-odds; it halves every :data:`RECENT_DAYS`."""
HELPED, UNHELPFUL = 0.3, 0.3
"""What use gains when it always ended well, and what costs being shown often without that."""
DAY = 86_400.0
READINGS = 2_000
"""Texts that are kept as they were read, some 5 KB each."""


class Serving(Protocol):
    """The embedder and the index over its vectors, as one pair."""

    @property
    def embedder(self) -> Embedder:
        """Makes the query's vector."""
        ...

    @property
    def index(self) -> VectorIndex:
        """Holds vectors of the same embedder."""
        ...


@dataclass(frozen=True)
class Scored:
    """A candidate with its score (log-odds of being relevant) and its cosine."""

    entry: Entry
    score: float
    cosine: float


def tokens_at_most(text: str) -> int:
    """Return an upper estimate of ``text``'s tokens: a third of its letters, three for a Chinese one."""
    wide = sum(ord(letter) > 0x2E7F for letter in text)
    return math.ceil((len(text) - wide) / 3) + 3 * wide


def bonus(entry: Entry, now: float) -> float:
    """Return what recency, use and success add to an entry's score, between -0.3 and 0.5."""
    recent: float = RECENT * 0.5 ** (max(0.0, now - (entry.used or entry.created)) / DAY / RECENT_DAYS)
    helped = HELPED * entry.successes / (entry.uses + 2)
    idle = UNHELPFUL * min(1.0, max(0, entry.uses - 4) / 8) if not entry.successes else 0.0
    return recent + helped - idle


class Recaller:
    """Answers recalls from ``store``. ``serving`` is asked once a recall; None means words alone.

    Any thread may recall. Never raises for a query, whatever it holds; a vector search that fails is
    logged and the words answer.
    """

    def __init__(
        self,
        store: MemoryStore,
        serving: Callable[[], Serving | None] = lambda: None,
        words: Words | None = None,
        ranker: Ranker | None = None,
    ) -> None:
        self.store, self._serving = store, serving
        self._words, self._ranker = words, ranker
        self._read: Callable[[str], Reading] = functools.lru_cache(maxsize=READINGS)(
            lambda text: read_text(text, self.words)
        )

    @property
    def words(self) -> Words:
        """The word table that features are measured with; read on first use."""
        return self._words or shipped()

    @property
    def ranker(self) -> Ranker:
        """The judge; read on first use."""
        return self._ranker or shipped_ranker()

    def recall(
        self,
        query: str,
        namespaces: Sequence[str],
        budget_tokens: int,
        limit: int = 8,
        kinds: Sequence[Kind] | None = None,
        labels: Sequence[Label] = SHOWABLE,
        count: Callable[[str], int] = tokens_at_most,
        threshold: float | None = None,
    ) -> Recalled:
        """Return at most ``limit`` relevant entries of ``namespaces``, best first, within the budget.

        ``count`` says how many tokens a text takes as it will be shown; an entry that does not fit into
        what is left is passed over. ``threshold`` overrides the calibrated one, in log-odds.
        """
        found = self.search(query, namespaces, kinds, labels)
        least = self.ranker.threshold if threshold is None else threshold
        now = self.store.clock()
        relevant = [hit for hit in found if hit.score >= least]
        relevant.sort(key=lambda hit: -(hit.score + bonus(hit.entry, now)))
        hits: list[Hit] = []
        tokens = 0
        for hit in relevant:
            cost = count(hit.entry.text)
            if len(hits) < limit and tokens + cost <= budget_tokens:
                hits.append(Hit(hit.entry, hit.score, hit.cosine))
                tokens += cost
        return Recalled(tuple(hits), tokens, len(found))

    def search(
        self,
        query: str,
        namespaces: Sequence[str],
        kinds: Sequence[Kind] | None = None,
        labels: Sequence[Label] = SHOWABLE,
    ) -> list[Scored]:
        """Return all candidates with their scores, best first, without threshold or budget."""
        live, rows, cosine = self.measure(query, namespaces, kinds, labels)
        scores = self.ranker.scores(rows)
        order = np.argsort(-scores, kind="stable")
        return [Scored(live[i], float(scores[i]), cosine.get(live[i].id, 0.0)) for i in order]

    def measure(
        self,
        query: str,
        namespaces: Sequence[str],
        kinds: Sequence[Kind] | None = None,
        labels: Sequence[Label] = SHOWABLE,
    ) -> tuple[list[Entry], Floats, dict[int, float]]:
        """Return the candidates, their features ``[n, features]`` and, where known, cosines by id."""
        query = query[:QUERY_CHARACTERS].encode(errors="replace").decode()
        if not query.strip():
            return [], np.zeros((0, len(FEATURES)), np.float32), {}
        by_words = dict(self.store.search_words(query, DEPTH, namespaces, kinds, labels))
        vector, near, embedder = self._nearest(query, namespaces)
        live = self._live(list(dict.fromkeys([*by_words, *near])), namespaces, kinds, labels)
        lacking = [entry.id for entry in live if entry.id not in near]
        cosine = dict(near)
        if vector is not None and lacking:
            with self.store.database.read() as connection:
                cosine |= cosines(connection, lacking, vector, embedder)
        return live, self._features(query, live, by_words, list(near), cosine), cosine

    def _nearest(
        self, query: str, namespaces: Sequence[str]
    ) -> tuple[Vectors | None, dict[int, float], str | None]:
        """Return the query's vector, the nearest entries' cosines (nearest first), the embedder's id."""
        serving = self._serving()
        if serving is None:
            return None, {}, None
        try:
            vector = serving.embedder.embed([query], query=True)[0]
            found = serving.index.search(vector, DEPTH, namespaces) if vector.any() else []
        except (UserError, OSError) as problem:
            log.warning("memory: words alone answer, as the vector search failed: %s", problem)
            return None, {}, None
        return vector, dict(found), serving.embedder.id

    def _live(
        self,
        ids: list[int],
        namespaces: Sequence[str],
        kinds: Sequence[Kind] | None,
        labels: Sequence[Label],
    ) -> list[Entry]:
        """Return the entries of ``ids`` that may be shown."""
        now = self.store.clock()
        return [
            entry
            for entry in self.store.get(ids)
            if entry.superseded_by is None
            and (entry.expires is None or entry.expires > now)
            and entry.namespace in namespaces
            and entry.label in labels
            and (kinds is None or entry.kind in kinds)
        ]

    def _features(
        self,
        query: str,
        entries: Sequence[Entry],
        by_words: dict[int, float],
        near: Sequence[int],
        cosine: dict[int, float],
    ) -> Floats:
        """Return the features ``[entries, features]``; places are those that the searches gave."""
        word_place = {entry: place for place, entry in enumerate(by_words)}
        vector_place = {entry: place for place, entry in enumerate(near)}
        candidates = [
            Candidate(
                text=self._read(entry.text),
                bm25=by_words.get(entry.id, 0.0),
                cosine=cosine.get(entry.id, 0.0),
                word_place=word_place.get(entry.id),
                vector_place=vector_place.get(entry.id),
            )
            for entry in entries
        ]
        return features(query, candidates, self.words)
