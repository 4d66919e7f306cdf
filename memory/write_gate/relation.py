"""How two remembered texts relate: the same, one within the other, a contradiction, or neither.

Judged by words, with the cosine as a second opinion, because embeddings alone cannot do it: "the port of
alpha is 80" lies nearer to "the port of beta is 80" than to its own paraphrases. So a pair is *the same*
only if no number and no name differs, and a *contradiction* only if both claim (``claims``) another value
of one thing. Doubt means neither: keeping two entries is cheaper than losing one.
"""

from __future__ import annotations

from enum import StrEnum

from .claims import claims, differ
from .wording import Words, normal, words

NEAR_COSINE = 0.95
"""Above it, texts whose words differ a little say the same, as far as names and numbers agree. Of nine pairs
like "the red team meets on floor two" and "the blue team ..." the shipped embedder put none above 0.89."""
NEAR_WORDS = 0.6
"""Share of common words that such texts must have at least."""


class Relation(StrEnum):
    """How a new text relates to an older one."""

    SAME = "same"
    WITHIN = "within"
    """All that the new text says is among the words of the older one, which says more."""
    CONTRADICTS = "contradicts"
    OTHER = "other"


def relate(new: str, old: str, cosine: float | None = None) -> Relation:
    """Return how ``new`` relates to ``old``; ``cosine`` of their vectors where both have one."""
    if normal(new) == normal(old):
        return Relation.SAME
    said, known = claims(new), claims(old)
    if any(differ(a, b) for a in said for b in known):
        return Relation.CONTRADICTS
    ours, theirs = words(new), words(old)
    a, b = set(ours.stems), set(theirs.stems)
    if not a or not b or ours.negated != theirs.negated:
        return Relation.OTHER
    only_new, only_old = a - b, b - a
    if not only_new and not only_old:
        return Relation.SAME if _same_order(ours, theirs) else Relation.OTHER
    if not only_new:
        return Relation.SAME if len(only_old) == 1 and not _has_value(only_old, theirs) else Relation.WITHIN
    if _has_value(only_new, ours) or _has_value(only_old, theirs):
        return Relation.OTHER
    shared = len(a & b) / len(a | b)
    if said and known and not any(a.subject == b.subject and a.value == b.value for a in said for b in known):
        return Relation.OTHER
    near = cosine is not None and cosine >= NEAR_COSINE and shared >= NEAR_WORDS
    return Relation.SAME if near else Relation.OTHER


def _same_order(a: Words, b: Words) -> bool:
    """Whether names and numbers come in the same order: "A beat B" is not "B beat A"."""
    return a.values == b.values or tuple(dict.fromkeys(a.stems)) == tuple(dict.fromkeys(b.stems))


def _has_value(stems: set[str], among: Words) -> bool:
    return any(stem in among.values or stem[0].isdigit() for stem in stems)
