"""The words of memory: what an entry is, what a write answers, what a recall brings.

The store (the truth), the index (derived), the embedder and recall meet only in these records and
protocols, so each can be tested and replaced alone. Nothing here does I/O or loads a library.
Vectors are float32 ``[n, dimension]`` of length one, so a dot product is the cosine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..labels import Label

Vectors = NDArray[np.float32]

GLOBAL = ""
"""The namespace of what holds everywhere; any other is a project folder's absolute path."""


class Kind(StrEnum):
    """What an entry is about."""

    FACT = "fact"
    """Told by the user, or found and checked."""
    EPISODE = "episode"
    """A run: goal, plan, outcome, reward, what worked."""
    LESSON = "lesson"
    """A failure and what fixed it."""
    DOCUMENT = "document"
    """A piece of a file that the user added."""


@dataclass(frozen=True)
class Draft:
    """Something that asks to be remembered."""

    kind: Kind
    text: str
    namespace: str = GLOBAL
    label: Label = Label.TRUSTED
    run: str | None = None
    """The run that says it; None when the user writes by hand."""
    event: int | None = None
    """The event of that run which is the source."""
    source: str | None = None
    """A document's file and place, ``PATH#chunk``."""
    expires: float | None = None
    """Seconds since the epoch after which it is no longer recalled."""
    recalled: tuple[int, ...] = ()
    """Ids of the entries that the run had recalled before this was said."""


@dataclass(frozen=True)
class Entry:
    """One remembered thing, as stored. Times are seconds since the epoch."""

    id: int
    kind: Kind
    text: str
    namespace: str
    label: Label
    run: str | None
    event: int | None
    source: str | None
    hash: str
    """SHA-256 of the normalised text, hexadecimal."""
    created: float
    expires: float | None
    used: float | None
    """When it was last recalled."""
    uses: int
    successes: int
    """Uses in runs that then reached their goal."""
    superseded_by: int | None
    """The newer entry that contradicts this one; it stays, marked, and is not recalled."""


class Verdict(StrEnum):
    """What the write gate decided."""

    WRITTEN = "written"
    SUPERSEDED = "superseded"
    """Written; an older entry that it contradicts is now marked."""
    REFUSED = "refused"


@dataclass(frozen=True)
class Written:
    """The answer to a write; every one is recorded with its reason."""

    verdict: Verdict
    reason: str
    entry: Entry | None = None
    """What was written, or for a duplicate the entry that is already there."""
    replaced: int | None = None


@dataclass(frozen=True)
class Hit:
    """An entry that a recall found. ``score`` orders hits; ``cosine`` is 0 when only words matched."""

    entry: Entry
    score: float
    cosine: float


@dataclass(frozen=True)
class Recalled:
    """What a recall brings: hits within the token budget, best first; none is a result too."""

    hits: tuple[Hit, ...]
    tokens: int
    considered: int
    """Candidates that were looked at before the threshold and the budget."""


class Embedder(Protocol):
    """Turns texts into vectors, offline."""

    @property
    def id(self) -> str:
        """Name and version, kept with every vector; another id means re-embedding."""
        ...

    @property
    def dimension(self) -> int:
        """Width of a vector."""
        ...

    def embed(self, texts: Sequence[str], query: bool = False) -> Vectors:
        """Return one vector a text; ``query`` for models that tell questions from passages."""
        ...


class VectorIndex(Protocol):
    """Nearest neighbours by cosine over the live entries of the store."""

    def search(self, vector: Vectors, k: int, namespaces: Sequence[str]) -> list[tuple[int, float]]:
        """Return up to ``k`` pairs (entry id, cosine), nearest first, for ``vector [dimension]``."""
        ...
