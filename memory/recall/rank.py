"""How relevant a candidate is to a query: a few measured features and a small learned judge.

BM25 and the cosine each see half of a match. This looks at the candidates that either found (some
tens) more closely: how much of the query's rare words a text has, whether they are together and in
the query's order, whether they come early, how near the best stretch of the text is to the question,
and how near the text is to what the question asks once its topic, or what they share, is taken out.
A network with one hidden layer turns the features into one score; it was trained on questions with
known answers (:mod:`autogpt.memory.training.ranker`), its few hundred numbers are in
``weights/ranker.json``. The score is the logarithm of odds: scores order candidates, and
``1 / (1 + exp(-score))`` says how likely the candidate answers the query.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import DefectError
from ..embedding.static import UNSEEN, Floats, Words, is_chinese, words_of
from ..tables import STOP_WORDS

FILE = Path(__file__).parents[1] / "weights" / "ranker.json"
CHARACTERS = 2400
"""How much of a candidate is looked at."""
STRETCH = 40
"""Words in the stretch of a text that is compared with the query by meaning."""
NEAR = 20
"""Words within which rare words count as standing together."""
HEAD = 12
UNRANKED = 100

_TOPIC = 0.6
"""Words this rare, as a share of the rarest, are what a question is about; the others say what it asks."""
_OPENING = 60
"""Words of a text of which it is seen how many the query names."""

FEATURES = (
    "bm25 of the best", "cosine", "word place", "vector place", "cosine below the best", "rare words",
    "rarest word", "pairs", "rare words in the head", "rare words together", "length", "count of the rarest",
    "cosine of the best stretch", "cosine of the head", "Chinese", "words of the query", "bm25",
    "rarest word that lacks", "names", "opening that the query names", "rarity of the rarest",
    "asked and text", "asked and head", "asked and stretch", "lacking and text", "lacking and head",
    "lacking and stretch",
)  # fmt: skip
"""*Asked* is the vector of a query without its topic ("what are the symptoms of"), *lacking* that of
the query's words that a text does not have: what it must say in other words, if it answers."""


@dataclass(frozen=True)
class Reading:
    """A text as the features see it."""

    stems: list[str]
    """Of its words, in order."""
    known: frozenset[str]
    """The same, each once."""
    rows: NDArray[np.int32]
    """``[words, 2]`` rows of the table: of the word, and of a Chinese pair's first character; -1: none."""
    opening: Floats
    """Rarities of the words of the beginning, 0 of stop words."""
    vector: Floats
    head: Floats


@dataclass(frozen=True)
class Candidate:
    """A text that word search or vector search found. Places count from 0; None: not found by it."""

    text: Reading
    bm25: float
    cosine: float
    word_place: int | None
    vector_place: int | None


def read_text(text: str, words: Words) -> Reading:
    """Return ``text`` as the features see it, measured with the table ``words``."""
    spoken = words_of(text, singles=False, characters=CHARACTERS)
    row = words.index.get
    stems = [base_form(word) for word in spoken]
    rows = np.full((len(spoken), 2), -1, np.int32)
    rows[:, 0] = [row(word, -1) for word in spoken]
    if not text.isascii():
        rows[:, 1] = [row(word[0], -1) if is_chinese(word) else -1 for word in spoken]
    begun = rows[:_OPENING, 0]
    opening = np.where(begun < 0, UNSEEN, words.rarities[begun])
    opening[[i for i, word in enumerate(spoken[:_OPENING]) if word in STOP_WORDS]] = 0.0
    return Reading(
        stems,
        frozenset(stems),
        rows,
        opening,
        _sum(np.unique(rows), words),
        _sum(rows[:STRETCH], words),
    )


def _sum(rows: NDArray[np.int32], words: Words) -> Floats:
    """Return the sum of rows of the table, of length one; words outside the table are left out."""
    flat = rows.ravel()
    flat = flat[flat >= 0]
    total = words.scale[flat] @ words.table[flat].astype(np.float32)
    return np.asarray(total / max(float(np.linalg.norm(total)), 1e-9), np.float32)


@functools.lru_cache(maxsize=65536)
def base_form(word: str) -> str:
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
            self.rarity[base_form(word)] = max(self.rarity.get(base_form(word), 0.0), words.rarity(word))
        self.total = sum(self.rarity.values()) + 1e-6
        self.rarest = max(self.rarity, key=lambda word: self.rarity[word], default="")
        self.greatest = self.rarity.get(self.rarest, 0.0)
        stems = [base_form(word) for word in kept]
        self.pairs = list(dict.fromkeys(pairwise(stems)))
        self.pairs_total = sum(self.rarity[a] + self.rarity[b] for a, b in self.pairs) + 1e-6
        self.chinese = float(any(is_chinese(word) for word in kept))
        self.names = {base_form(word.casefold()) for word in _CAPITAL.findall(text)} & set(self.rarity)
        self.names_total = sum(self.rarity[word] for word in self.names)
        self.stems = [base_form(word) for word in spoken]
        self.parts = np.stack([_part(word, words) for word in spoken]) if spoken else _nothing(words)
        """``[words, dimension]``: what each word adds to the query's vector."""
        asked = [word in STOP_WORDS or words.rarity(word) < _TOPIC * self.greatest for word in spoken]
        self.asked = _unit(np.array(asked, np.float32)[None, :] @ self.parts)[0]


def _part(word: str, words: Words) -> Floats:
    rows, weights = words.bag([word, *word] if is_chinese(word) and len(word) > 1 else [word])
    return np.asarray((weights * words.scale[rows]) @ words.table[rows].astype(np.float32) @ words.turn)


def _nothing(words: Words) -> Floats:
    return np.zeros((0, words.table.shape[1]), np.float32)


def _unit(rows: Floats) -> Floats:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9), np.float32)


def features(query: str, candidates: Sequence[Candidate], words: Words) -> Floats:
    """Return ``[candidates, len(FEATURES)]`` for the candidates of one query."""
    rows = np.zeros((len(candidates), len(FEATURES)), np.float32)
    if not candidates:
        return rows
    asked = _Query(query, words)
    best_bm25 = max(candidate.bm25 for candidate in candidates) + 1e-6
    best_cosine = max(candidate.cosine for candidate in candidates)
    stretches = np.zeros((len(candidates), words.table.shape[1]), np.float32)
    lacking = np.zeros((len(candidates), len(asked.stems)), np.float32)
    for i, candidate in enumerate(candidates):
        text = candidate.text
        places = _places(asked, text)
        lexical, begin = _lexical(asked, text, places)
        stretches[i] = _sum(text.rows[begin : begin + STRETCH], words)
        lacking[i] = [word not in text.known for word in asked.stems]
        ranks = [UNRANKED if at is None else at for at in (candidate.word_place, candidate.vector_place)]
        rows[i, :_VECTORS] = [
            candidate.bm25 / best_bm25,
            candidate.cosine,
            1 / (10 + ranks[0]),
            1 / (10 + ranks[1]),
            candidate.cosine - best_cosine,
            *lexical,
            0.0,
            0.0,
            asked.chinese,
            math.log1p(len(asked.rarity)),
            candidate.bm25 / asked.total,
            *_absent(asked, text, places),
            asked.greatest / UNSEEN,
        ]
    sides = (
        np.stack([each.text.vector for each in candidates]),
        np.stack([each.text.head for each in candidates]),
    )
    rows[:, FEATURES.index("cosine of the best stretch")] = stretches @ asked.vector
    rows[:, FEATURES.index("cosine of the head")] = sides[1] @ asked.vector
    left = _unit(lacking @ asked.parts)
    for i, side in enumerate((*sides, stretches)):
        rows[:, _VECTORS + i] = side @ asked.asked
        rows[:, _VECTORS + 3 + i] = (side * left).sum(axis=1)
    return rows


_VECTORS = FEATURES.index("asked and text")
_CAPITAL = re.compile(r"(?<=\s)[A-Z][\w'-]*")
"""Words that begin with a capital inside a query: mostly names."""


def _places(query: _Query, text: Reading) -> dict[str, list[int]]:
    """Return the places in the text of each word of the query that it has."""
    places: dict[str, list[int]] = {}
    if not text.known.isdisjoint(query.rarity):
        for i, word in enumerate(text.stems):
            if word in query.rarity:
                places.setdefault(word, []).append(i)
    return places


def _absent(query: _Query, text: Reading, places: dict[str, list[int]]) -> list[float]:
    """Return how rare the rarest word is that ``text`` lacks, how many of the names it has, how much of its
    opening the query names.
    """
    lacks = max((rarity for word, rarity in query.rarity.items() if word not in text.known), default=0.0)
    named = sum(query.rarity[word] for word in query.names if word in text.known)
    begun = [i for at in places.values() for i in at if i < _OPENING]
    return [
        lacks / UNSEEN,
        named / query.names_total if query.names_total else -1.0,
        float(text.opening[begun].sum() / (text.opening.sum() + 1e-6)),
    ]


def _lexical(query: _Query, text: Reading, places: dict[str, list[int]]) -> tuple[list[float], int]:
    """Return the features of shared words, and where the stretch with most of them begins."""
    pairs = 0.0
    for first, second in query.pairs:
        after = set(places.get(second, ()))
        if after and any(i + 1 in after or i + 2 in after for i in places.get(first, ())):
            pairs += query.rarity[first] + query.rarity[second]
    together, middle = _densest(query, places)
    return [
        sum(query.rarity[word] for word in places) / query.total,
        float(query.rarest in places),
        pairs / query.pairs_total,
        sum(query.rarity[word] for word, at in places.items() if at[0] < HEAD) / query.total,
        together / query.total,
        math.log1p(len(text.stems)),
        math.log1p(len(places.get(query.rarest, ()))),
    ], max(0, middle - STRETCH // 2)


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
    reach: float
    """What told facts score at least (19 of 20) for goals that only name them in passing."""

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
