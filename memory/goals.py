"""Which goals are the same, alike, or on which side of the split: by their words alone.

A goal's *family* is the set of its words without numbers and stop words, so that one goal with another
number in it never stands on both sides. The split depends on the wording only, so it is the same tomorrow
and elsewhere. What still looks alike across the split is found by :func:`alike`.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

from .tables import STOP_WORDS

HELD_OUT = 20
"""Of a hundred families of goals, how many are never trained on."""
ALIKE = 0.8
"""Two goals whose sets of words overlap this much (Jaccard) are too alike to be on both sides."""


def goal_hash(wording: str) -> str:
    """Return the hash of a goal's wording: case and white space do not count."""
    text = " ".join(unicodedata.normalize("NFKC", wording).casefold().split())
    return hashlib.sha256(text.encode()).hexdigest()


def words_of(wording: str) -> frozenset[str]:
    """Return the words that make a goal what it is: without numbers and stop words."""
    plain = unicodedata.normalize("NFKC", wording).casefold()
    words = frozenset(re.findall(r"[^\W\d_]+", plain))
    return (words - STOP_WORDS) or words


def family_hash(wording: str) -> str:
    """Return the hash of the goal's family."""
    return hashlib.sha256(" ".join(sorted(words_of(wording))).encode()).hexdigest()


def is_held_out(family: str) -> bool:
    """Return whether goals of this family are never trained on."""
    return int(family[:16], 16) % 100 < HELD_OUT


def alike(
    one: Iterable[tuple[str, frozenset[str]]], other: Sequence[tuple[str, frozenset[str]]]
) -> Iterable[tuple[str, str]]:
    """Yield pairs with words that overlap by ALIKE. Two such sets share one of their first few words."""

    def first(words: frozenset[str]) -> list[str]:
        return sorted(words)[: len(words) - math.ceil(ALIKE * len(words)) + 1]

    by_word: dict[str, list[tuple[str, frozenset[str]]]] = defaultdict(list)
    for goal, words in other:
        for word in first(words):
            by_word[word].append((goal, words))
    for goal, words in one:
        for word in first(words):
            for match, theirs in by_word[word]:
                if len(words & theirs) >= ALIKE * len(words | theirs):
                    yield goal, match
