"""A memory for training episodes with scripted recalls.

An episode must hold the right entry, its older version or only what looks alike, whatever a retrieval
would have found; so what each recall shows is given, while the calls, the events and the prompt are real.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...labels import Label
from ...memory.entry import (
    GLOBAL,
    Draft,
    Entry,
    Hit,
    Kind,
    Recalled,
    Verdict,
    Written,
)


@dataclass
class Shelf:
    """A memory with scripted recalls: the n-th shows ``shown[n]``, later ones nothing."""

    shown: list[list[str]] = field(default_factory=list)
    refuse: str | None = None
    """Why the gate keeps nothing, where the episode wants that."""
    seed: int = 0
    kept: int = 0

    def recall(
        self, query: str, namespaces: Sequence[str], budget: int, kinds: Sequence[Kind] | None = None
    ) -> Recalled:
        """Return the entries of the next recall, with growing ids."""
        texts = self.shown.pop(0) if self.shown else []
        rng = random.Random(f"{self.seed} {texts}")
        ids = sorted(rng.sample(range(1, 40 if rng.random() < 0.5 else 3000), len(texts)))
        hits = tuple(Hit(entry(number, text), 1.0, 0.5) for number, text in zip(ids, texts, strict=True))
        return Recalled(hits, sum(len(text) // 4 for text in texts), len(texts))

    def write(self, draft: Draft) -> Written:
        """Keep everything, or nothing."""
        if self.refuse:
            return Written(Verdict.REFUSED, self.refuse)
        self.kept += 1
        number = random.Random(self.seed).randint(1, 3000) + self.kept
        return Written(Verdict.WRITTEN, "new", entry(number, draft.text))

    def used(self, ids: Sequence[int], success: bool | None) -> None:
        """Ignore: uses in episodes are not counted."""


def entry(number: int, text: str) -> Entry:
    """Return a fact of the user as an entry."""
    return Entry(
        number, Kind.FACT, text, GLOBAL, Label.TRUSTED, None, None, None, "", 0.0, None, None, 0, 0, None
    )
