"""How two remembered texts relate: the same, one within the other, a contradiction, or neither.

Judged by words, with the cosine as a second opinion, because embeddings alone cannot do it: "the port of
alpha is 80" is nearer to "the port of beta is 80" than to its own paraphrases. So a pair is *the same*
only if no number and no name differs and the order of words says nothing, and a *contradiction* only if
both claim (``claims``) another value of one thing, if one affirms what the other denies, if two things that
are compared change places, or if a plural alone differs. Doubt means neither: keeping two entries is
cheaper than losing one. English, German, French, Spanish, Chinese.
"""

from __future__ import annotations

import re
from enum import StrEnum

from .claims import claims, differ, replaces
from .wording import Words, normal, words

NEAR_COSINE = 0.95
"""Above it, texts that differ in few words say the same, as far as names and numbers agree. Of nine pairs
like "the red team meets on floor two" and "the blue team ..." the shipped embedder put none above 0.89."""
NEAR_WORDS = 0.6
"""Share of common words that such texts must have at least."""


class Relation(StrEnum):
    """How a new text relates to an older one."""

    SAME = "same"
    WITHIN = "within"
    """All that the new text says is among the words of the older one, which says more."""
    CONTRADICTS = "contradicts"
    REPLACES = "replaces"
    """It says that something is different *now*, and the older text is of the same kind: a contradiction if
    no other entry could be meant."""
    OTHER = "other"


def relate(new: str, old: str, cosine: float | None = None) -> Relation:
    """Return how ``new`` relates to ``old``; ``cosine`` of their vectors where both have one."""
    if normal(new) == normal(old):
        return Relation.SAME
    ours, theirs = words(new), words(old)
    said, known = claims(new), claims(old)
    if any(differ(a, b) for a in said for b in known) or _denies(ours, theirs) or _swaps(new, old):
        return Relation.CONTRADICTS
    if any(replaces(a, b) for a in said for b in known):
        return Relation.REPLACES
    a, b = set(ours.stems), set(theirs.stems)
    if not a or not b or ours.negated != theirs.negated or ours.positive != theirs.positive:
        return Relation.OTHER
    if _other_number(ours, theirs):
        return Relation.CONTRADICTS
    only_new, only_old = a - b, b - a
    if not only_new and not only_old:
        return Relation.SAME if _same_order(new, old) else Relation.OTHER
    if not only_new:
        return Relation.SAME if len(only_old) == 1 and not _has_value(only_old, theirs) else Relation.WITHIN
    if _has_value(only_new, ours) or _has_value(only_old, theirs):
        return Relation.OTHER
    shared = len(a & b) / len(a | b)
    said, known = ([claim for claim in each if not claim.several] for each in (said, known))
    if said and known and not any(a.subject == b.subject and a.value == b.value for a in said for b in known):
        return Relation.OTHER
    near = cosine is not None and cosine >= NEAR_COSINE and shared >= NEAR_WORDS
    return Relation.SAME if near else Relation.OTHER


def _denies(ours: Words, theirs: Words) -> bool:
    """Whether one text affirms what the other denies; the past denies nothing."""
    if ours.past or theirs.past or not ours.topic:
        return False
    return ours.topic == theirs.topic and ours.positive != theirs.positive


_COMPARING = re.compile(
    r"(?i)\b(?:over|than|before|after|instead|rather|above|below|als|statt|lieber|vor|que|plutôt|avant|après|"
    r"antes|después|prefers?|bevorzugt?e?|préf[éè]r\w*|prefier\w+)\b"
)
"""Words between (or before) two things that make the order say something."""
_REORDERING = re.compile(r"(?i)\b(?:of|is|are|was|were|been|being)\b|['’]s?\b")
"""What lets the same words come in another order: "server backups", "the bill was paid"."""


def _swaps(new: str, old: str) -> bool:
    """Whether the texts compare the same two things the other way round ("tabs over spaces")."""
    a, b = words(new), words(old)
    if len(a.stems) != len(b.stems) or a.positive != b.positive:
        return False
    moved = [i for i, pair in enumerate(zip(a.stems, b.stems, strict=True)) if pair[0] != pair[1]]
    if len(moved) != 2 or a.stems[moved[0]] != b.stems[moved[1]] or a.stems[moved[1]] != b.stems[moved[0]]:
        return False
    return bool(_COMPARING.search(new)) and bool(_COMPARING.search(old))


def _other_number(a: Words, b: Words) -> bool:
    """Whether the texts differ in nothing but a plural: then the newer one is taken for a correction."""
    if len(a.spelt) != len(b.spelt):
        return False
    changed = [sorted(pair, key=len) for pair in zip(a.spelt, b.spelt, strict=True) if pair[0] != pair[1]]
    return bool(changed) and all(longer in (shorter + "s", shorter + "es") for shorter, longer in changed)


def _same_order(new: str, old: str) -> bool:
    """Whether the same words say the same: in one order, or reordered by a genitive or a passive."""
    a, b = words(new), words(old)
    if tuple(dict.fromkeys(a.stems)) == tuple(dict.fromkeys(b.stems)):
        return True
    return a.values == b.values and bool(_REORDERING.search(new) or _REORDERING.search(old))


def _has_value(stems: set[str], among: Words) -> bool:
    return any(stem in among.values or stem[0].isdigit() for stem in stems)
