"""The write gate: what may become an entry, and why not.

Most of what agents store is junk: what they had just been told from memory, the same thing again, a
value that is no longer true next to the one that is, tool output of unknown origin, passwords. The gate
is pure: :func:`inspect` looks at a draft alone, :func:`compare` at the draft and the entries that
resemble it; the store finds those, carries the decision out and records its reason. How two texts relate
is judged in ``relation``, secrets are found in ``secrets``. Reasons never quote the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...labels import Label, merge
from ...text import is_unicode
from ..entry import Draft, Kind, Verdict
from .relation import Relation, relate
from .secrets import find_secret

MOST_CHARACTERS = 8_000
"""An entry is something to be read in one glance; longer texts are documents and come in pieces."""


@dataclass(frozen=True)
class Neighbour:
    """An entry that resembles a draft."""

    id: int
    text: str
    kind: Kind
    namespace: str
    label: Label
    cosine: float | None
    """None where one of the two has no vector of the same embedder."""
    recalled: bool
    """Whether the run had read it before it said the draft."""
    exact: bool
    """Whether the normalised texts are equal."""


@dataclass(frozen=True)
class Decision:
    """What the gate says. ``entry`` is the one already there, ``replaces`` the one that is superseded."""

    verdict: Verdict
    reason: str
    entry: int | None = None
    replaces: int | None = None


def inspect(draft: Draft) -> str | None:
    """Return why ``draft`` is refused whatever else is stored, or None."""
    text = draft.text
    if not is_unicode(text):
        return "the text is not valid Unicode (it has a lone surrogate); decode it properly first"
    if not text.strip():
        return "the text is empty"
    if len(text) > MOST_CHARACTERS:
        return (
            f"the text has {len(text):,} characters, an entry at most {MOST_CHARACTERS:,}; "
            "put it into a file and add that"
        )
    if "\0" in text:
        return "the text has a zero byte; that is binary data, not text"
    if not any(character.isalnum() for character in text):
        return "the text has no letter and no digit"
    if draft.label is Label.SECRET:
        return "it is labelled secret"
    if secret := find_secret(text):
        return f"it looks like a secret ({secret}); keep those out of memory"
    by_hand = draft.run is None and draft.label is Label.TRUSTED
    of_file = draft.kind is Kind.DOCUMENT and draft.source is not None
    if not by_hand and not of_file and (draft.run is None or draft.event is None):
        return "no provenance: what the user did not write needs the run and the event it came from"
    return None


def compare(draft: Draft, neighbours: Iterable[Neighbour]) -> Decision:
    """Decide on a draft that passed :func:`inspect`, given the live entries that resemble it."""
    replaces: int | None = None
    maybe: list[int] = []
    for near in neighbours:
        if near.exact:
            relation = Relation.SAME
        elif draft.kind is Kind.DOCUMENT or (near.kind is not draft.kind and not near.recalled):
            continue
        else:
            relation = relate(draft.text, near.text, near.cosine)
        if relation is Relation.SAME and near.recalled:
            return Decision(Verdict.REFUSED, f"it was itself recalled (entry {near.id})", near.id)
        if relation is Relation.SAME:
            how = "the same text" if near.exact else "nearly the same"
            return Decision(Verdict.REFUSED, f"{how} is already there (entry {near.id})", near.id)
        if relation is Relation.WITHIN and near.recalled:
            return Decision(Verdict.REFUSED, f"it only repeats what was recalled (entry {near.id})", near.id)
        contradicts = relation in (Relation.CONTRADICTS, Relation.REPLACES)
        if not contradicts or near.namespace != draft.namespace:
            continue  # what holds in one project may differ from what holds elsewhere
        if draft.kind is not Kind.FACT or near.kind is not Kind.FACT:
            continue
        if merge([draft.label, near.label]) is not near.label:
            if relation is Relation.REPLACES:
                continue
            reason = f"it contradicts entry {near.id}, which is trusted more"
            return Decision(Verdict.REFUSED, reason, near.id)
        if relation is Relation.REPLACES:
            maybe.append(near.id)
        else:
            replaces = replaces or near.id
    if replaces is None and len(maybe) == 1:  # "I now use Emacs": of several tools, which one is not said
        replaces = maybe[0]
    if replaces is not None:
        return Decision(Verdict.SUPERSEDED, f"new value; entry {replaces} is superseded", replaces=replaces)
    return Decision(Verdict.WRITTEN, "new")
