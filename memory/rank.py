"""How relevant a candidate is to a query: a few measured features and a small learned judge.

BM25 and the cosine each see half of a match. This looks at the candidates that either found (some
tens) more closely: how much of the query's rare words a text has, whether they stand together and in
the query's order, whether they come early, and how near the best stretch of the text is to the question.
A network with one hidden layer turns the features into one score; it was trained on questions with
known answers (:mod:`autogpt.memory.training.ranker`), its few hundred numbers are in
``weights/ranker.json``. The score is the logarithm of odds: scores order candidates, and
``1 / (1 + exp(-score))`` says how likely the candidate answers the query.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..errors import DefectError
from .static import Floats, Words, is_chinese, words_of
from .tables import STOP_WORDS

FILE = Path(__file__).parent / "weights" / "ranker.json"
CHARACTERS = 2400
"""How much of a candidate is looked at."""
STRETCH = 40
"""Words in the stretch of a text that is compared with the query by meaning."""
NEAR = 20
"""Words within which rare words count as standing together."""
HEAD = 12
UNRANKED = 100

FEATURES = (
    "bm25 of the best", "cosine", "word place", "vector place", "cosine below the best", "rare words",
    "rarest word", "pairs", "rare words in the head", "rare words together", "length", "count of the rarest",
    "cosine of the best stretch", "cosine of the head", "Chinese", "words of the query",
)  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A text that word search or vector search found. Places count from 0; None: not found by it."""

    words: Sequence[str]
    """The text's words in order, see :func:`read_words`."""
    bm25: float
    cosine: float
    word_place: int | None
    vector_place: int | None


def read_words(text: str) -> list[str]:
    """Return the words of a candidate as the features see them."""
    return words_of(text, singles=False, characters=CHARACTERS)


@functools.lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """Return ``word`` without the commonest English endings; only equality matters."""
    if len(word) < 4 or is_chinese(word):
        return word
    if word.endswith("ies"):
        word = word[:-3] + "y"
    elif word.endswith("s") and not word.endswith("ss"):
        word = word[:-2] if word.endswith("sses") else word[:-1]
    for ending in ("ing", "ed", "ly", "er"):
        if word.endswith(ending) and len(word) > len(ending) + 3:
            word = word[: -len(ending)]
            if word[-1] == word[-2] and word[-1] not in "ls":
                word = word[:-1]
            break
    if word.endswith("e") and len(word) > 3:
        return word[:-1]
    return word[:-1] + "i" if word.endswith("y") and len(word) > 3 else word


class _Query:
    """What of a query does not depend on the candidate."""

    def __init__(self, text: str, words: Words) -> None:
        spoken = words_of(text, singles=False, characters=CHARACTERS)
        kept = [word for word in spoken if word not in STOP_WORDS] or spoken
        self.vector = words.vector(words_of(text), query=True)
        self.rarity: dict[str, float] = {}
        for word in kept:
            self.rarity[stem(word)] = max(self.rarity.get(stem(word), 0.0), words.rarity(word))
        self.total = sum(self.rarity.values()) + 1e-6
        self.rarest = max(self.rarity, key=lambda word: self.rarity[word], default="")
        stems = [stem(word) for word in kept]
        self.pairs = list(dict.fromkeys(pairwise(stems)))
        self.pairs_total = sum(self.rarity[a] + self.rarity[b] for a, b in self.pairs) + 1e-6
        self.chinese = float(any(is_chinese(word) for word in kept))


def features(query: str, candidates: Sequence[Candidate], words: Words) -> Floats:
    """Return ``[candidates, len(FEATURES)]`` for the candidates of one query."""
    asked = _Query(query, words)
    best_bm25 = max((candidate.bm25 for candidate in candidates), default=0.0) + 1e-6
    best_cosine = max((candidate.cosine for candidate in candidates), default=0.0)
    rows = np.zeros((len(candidates), len(FEATURES)), np.float32)
    for row, candidate in zip(rows, candidates, strict=True):
        lexical, stretch = _lexical(asked, candidate.words)
        places = [UNRANKED if at is None else at for at in (candidate.word_place, candidate.vector_place)]
        row[:] = [
            candidate.bm25 / best_bm25,
            candidate.cosine,
            1 / (10 + places[0]),
            1 / (10 + places[1]),
            candidate.cosine - best_cosine,
            *lexical,
            float(words.vector(stretch) @ asked.vector),
            float(words.vector(candidate.words[:STRETCH]) @ asked.vector),
            asked.chinese,
            math.log1p(len(asked.rarity)),
        ]
    return rows


def _lexical(query: _Query, words: Sequence[str]) -> tuple[list[float], Sequence[str]]:
    """Return the features of shared words, and the stretch of ``words`` where the most of them stand."""
    places: dict[str, list[int]] = {word: [] for word in query.rarity}
    for i, word in enumerate(words):
        found = places.get(stem(word))
        if found is not None:
            found.append(i)
    present = [word for word, at in places.items() if at]
    pairs = 0.0
    for first, second in query.pairs:
        after = set(places[second])
        if any(i + 1 in after or i + 2 in after for i in places[first]):
            pairs += query.rarity[first] + query.rarity[second]
    together, middle = _densest(query, places)
    begin = max(0, middle - STRETCH // 2)
    return [
        sum(query.rarity[word] for word in present) / query.total,
        float(query.rarest in present),
        pairs / query.pairs_total,
        sum(query.rarity[word] for word in present if places[word][0] < HEAD) / query.total,
        together / query.total,
        math.log1p(len(words)),
        math.log1p(len(places.get(query.rarest, ()))),
    ], words[begin : begin + STRETCH]


def _densest(query: _Query, places: dict[str, list[int]]) -> tuple[float, int]:
    """Return the greatest rarity of words within ``NEAR`` of each other, and the middle of that place."""
    events = sorted((i, word) for word, at in places.items() for i in at[:30])
    inside: dict[str, int] = {}
    best, middle, current, left = 0.0, 0, 0.0, 0
    for i, word in events:
        inside[word] = inside.get(word, 0) + 1
        if inside[word] == 1:
            current += query.rarity[word]
        while i - events[left][0] > NEAR:
            gone = events[left][1]
            inside[gone] -= 1
            if not inside[gone]:
                current -= query.rarity[gone]
            left += 1
        if current > best + 1e-9:
            best, middle = current, (i + events[left][0]) // 2
    return best, middle


@dataclass(frozen=True)
class Ranker:
    """The judge: standardised features, one hidden layer, one number."""

    mean: Floats
    deviation: Floats
    hidden: Floats
    """``[features, units]``"""
    hidden_bias: Floats
    out: Floats
    """``[units]``"""
    scale: float
    bias: float
    """The score is ``scale * network + bias``, calibrated as the logarithm of odds."""
    threshold: float
    """Below this score nothing relevant was found."""

    def scores(self, rows: Floats) -> Floats:
        """Return ``[n]`` scores for features ``[n, len(FEATURES)]``."""
        standard = np.clip((rows - self.mean) / self.deviation, -6, 6)
        raw = np.tanh(standard @ self.hidden + self.hidden_bias) @ self.out
        return np.asarray(self.scale * raw + self.bias, np.float32)

    def save(self, path: Path) -> None:
        """Write the judge as JSON, with the features' names."""
        parts = {
            name: np.asarray(value, np.float64).round(5).tolist() for name, value in self.__dict__.items()
        }
        path.write_text(json.dumps({"features": FEATURES, **parts}) + "\n")


@functools.cache
def shipped_ranker() -> Ranker:
    """Return the judge that comes with the package; it is read once."""
    return read_ranker(FILE)


def read_ranker(path: Path) -> Ranker:
    """Return the judge in ``path``. Raises :class:`DefectError` when it does not fit this code."""
    try:
        parts = json.loads(path.read_text())
        if tuple(parts.pop("features")) != FEATURES:
            raise ValueError("made for other features")
        arrays = {
            name: np.asarray(value, np.float32) for name, value in parts.items() if isinstance(value, list)
        }
        numbers = {name: float(value) for name, value in parts.items() if not isinstance(value, list)}
        return Ranker(**arrays, **numbers)  # type: ignore[arg-type]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise DefectError(
            f"{path}: the ranking cannot be read ({problem}); install the package anew"
        ) from problem
