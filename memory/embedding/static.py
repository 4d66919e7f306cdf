"""The embedder that ships with the package: a table of word vectors, summed.

A text's vector is the sum of its words' rows, each weighted by one plus the logarithm of its count;
words are lower-cased runs of letters and digits, Chinese gives its characters and overlapping pairs. A
word outside the table is spelt by its hashed four-letter pieces, so nothing is without a vector. The
rows were set to what all-MiniLM-L6-v2 says of each word (Chinese ones to their translations) and then
trained contrastively (:mod:`autogpt.memory.training.embedder`); a question's sum is turned by one more
small matrix, because questions use other words than answers. It needs numpy alone, about 60
microseconds a query and one millisecond a page, and 7 MB in 8 bit. Limits: word order is not seen, and
only English and Chinese were trained; the rarity of each word (:meth:`Words.rarity`) serves the ranking.
"""

from __future__ import annotations

import functools
import io
import math
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ...errors import DefectError
from ..entry import Vectors

Floats = NDArray[np.float32]

FILE = Path(__file__).parents[1] / "weights" / "words.npz"
CHARACTERS = 1600
"""How much of a text is read: the beginning of a long document speaks for it."""
PIECES = 8192
"""Rows for the hashed pieces of words outside the table."""
_LONGEST = 24

CHINESE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(f"[{CHINESE}]+|[^\\W_{CHINESE}]+")


def is_chinese(word: str) -> bool:
    """Return whether ``word`` is of a script written without spaces."""
    return "\u3040" <= word[0] <= "\ufaff"


def plain(text: str, characters: int) -> str:
    """Return the beginning of ``text`` as words are looked for in it."""
    return unicodedata.normalize("NFKC", text[:characters]).casefold()


def words_of(text: str, singles: bool = True, characters: int = CHARACTERS) -> list[str]:
    """Return the words of ``text`` in order; Chinese as pairs, with ``singles`` as characters too."""
    words: list[str] = []
    for word in _WORD.findall(plain(text, characters)):
        if not is_chinese(word):
            words.append(word[:_LONGEST])
            continue
        if singles or len(word) == 1:
            words.extend(word)
        words.extend(word[i : i + 2] for i in range(len(word) - 1))
    return words


@dataclass(frozen=True)
class Words:
    """The table: row ``i`` is ``table[i] * scale[i]``; after the words come ``PIECES`` hashed rows."""

    id: str
    index: dict[str, int]
    table: NDArray[np.int8]
    """``[words + PIECES, dimension]``"""
    scale: Floats
    turn: Floats
    """``[dimension, dimension]``, applied to questions."""
    rarities: Floats
    """``[words]``: the logarithm of how many texts there are to each that has the word."""

    def rarity(self, word: str) -> float:
        """Return how much a match of ``word`` tells, about 0 (``the``) to 13 (never seen)."""
        row = self.index.get(word)
        return UNSEEN if row is None else float(self.rarities[row])

    def spell(self, word: str) -> list[tuple[int, float]]:
        """Return the rows of ``word`` with their weights."""
        row = self.index.get(word)
        if row is not None:
            return [(row, 1.0)]
        marked = f"<{word}>"
        pieces = [marked[i : i + 4] for i in range(len(marked) - 3)] or [marked]
        if is_chinese(word):
            pieces = [word]
        return [(len(self.index) + zlib.crc32(piece.encode()) % PIECES, 1 / len(pieces)) for piece in pieces]

    def bag(self, words: Sequence[str]) -> tuple[NDArray[np.int64], Floats]:
        """Return the rows that ``words`` use and the weight of each."""
        weights: dict[int, float] = {}
        for word, count in Counter(words).items():
            factor = 1 + math.log(count)
            for row, part in self.spell(word):
                weights[row] = weights.get(row, 0.0) + factor * part
        size = len(weights)
        return np.fromiter(weights, np.int64, size), np.fromiter(weights.values(), np.float32, size)

    def vector(self, words: Sequence[str], query: bool = False) -> Floats:
        """Return the vector ``[dimension]`` of ``words``, of length one; zero when there are none."""
        rows, weights = self.bag(words)
        total = (weights * self.scale[rows]) @ self.table[rows].astype(np.float32)
        if query:
            total = total @ self.turn
        length = float(np.linalg.norm(total))
        return np.asarray(total / length if length > 0 else total, np.float32)

    def save(self, path: Path) -> None:
        """Write the table, packed."""
        packed = io.BytesIO()
        np.savez_compressed(
            packed,
            id=np.array(self.id),
            words=np.frombuffer("\n".join(self.index).encode(), np.uint8),
            table=self.table,
            scale=self.scale.astype(np.float16),
            turn=self.turn.astype(np.float16),
            rarities=self.rarities.astype(np.float16),
        )
        path.write_bytes(packed.getvalue())


UNSEEN = 13.0
"""Rarity of a word outside the table."""


@functools.cache
def shipped() -> Words:
    """Return the table that comes with the package; it is read once."""
    return read(FILE)


def read(path: Path) -> Words:
    """Return the table in ``path``. Raises :class:`DefectError` when it is missing or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            words = bytes(data["words"]).decode().split("\n")
            return Words(
                id=str(data["id"]),
                index={word: row for row, word in enumerate(words)},
                table=data["table"],
                scale=data["scale"].astype(np.float32),
                turn=data["turn"].astype(np.float32),
                rarities=data["rarities"].astype(np.float32),
            )
    except (OSError, ValueError, KeyError, zlib.error, EOFError, BadZipFile) as problem:
        raise DefectError(
            f"{path}: the word vectors cannot be read ({problem}); install the package anew"
        ) from problem


class StaticEmbedder:
    """The shipped embedder: no download, no library but numpy."""

    def __init__(self, words: Words | None = None) -> None:
        self.words = words or shipped()

    @property
    def id(self) -> str:
        """Name and version of the table."""
        return self.words.id

    @property
    def dimension(self) -> int:
        """Width of a vector."""
        return int(self.words.table.shape[1])

    def embed(self, texts: Sequence[str], query: bool = False) -> Vectors:
        """Return vectors ``[n, dimension]``; a text without a word gets zeros, which are near nothing."""
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for i, text in enumerate(texts):
            vectors[i] = self.words.vector(words_of(text), query)
        return vectors
