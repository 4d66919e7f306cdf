"""The memories that runs are given: the home's, or a fresh one for each goal of a suite.

:class:`HomeMemory` is what users have: the entries of all runs, in the home's database. It is opened on first
use, so a run that never recalls pays nothing, and ``import autogpt`` loads none of it.
:class:`SuiteMemories` gives every goal of a suite a new store with what its ``remembered`` says, so that
goals do not see one another and their order does not matter.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ...memory.entry import Draft, Kind, Recalled, Written
from ..goals.load import Goal
from .memory import RunMemory

if TYPE_CHECKING:
    from ...memory.database import Database
    from ...memory.recall.recall import Recaller
    from ...memory.store import MemoryStore
    from ...memory.vectors.reembed import Reembedding

SHOWN = 6
"""Entries that a recall shows at most."""


class HomeMemory:
    """The memory under ``home``: the store, and recall over it with vectors and words.

    ``embedder`` and ``server`` are the settings of these names. In the ``background`` missing vectors are
    made and the index is kept; without it, vectors are made when an entry is written and searched exactly,
    which suits a small memory of one process. Nothing is opened before it is needed, and a memory without
    entries never loads the embedder.
    """

    def __init__(
        self,
        home: Path,
        database: Database | None = None,
        *,
        embedder: str = "static",
        server: str = "",
        background: bool = True,
    ) -> None:
        """Use the entries under ``home``, over ``database`` where it is that of this home."""
        self.home = home
        self.background = background
        self._database, self._name, self._server = database, embedder, server

    @cached_property
    def store(self) -> MemoryStore:
        """The entries, opened on first use."""
        from ...memory.store import MemoryStore

        shared = self._database
        return MemoryStore(self.home, shared if shared and shared.path else None)

    @cached_property
    def vectors(self) -> Reembedding | None:
        """The embedder and index that serve; None where words alone are searched, after a logged line."""
        from ...memory.vectors.reembed import open_vectors

        made = open_vectors(self.store, self._name, self._server)
        if made is not None and self.background:
            made.start()
        return made

    @cached_property
    def recaller(self) -> Recaller:
        """What answers recalls."""
        from ...memory.recall.recall import Recaller

        return Recaller(self.store, lambda: self.vectors.serving if self.vectors else None)

    def recall(
        self, query: str, namespaces: Sequence[str], budget: int, kinds: Sequence[Kind] | None = None
    ) -> Recalled:
        """Return what is relevant to ``query``, best first; nothing is a result too.

        Shown is what scores as told facts do for goals that name them in passing ("the visits of my
        branch"): an entry that is missing costs the goal, one too many is a line to leave alone.
        """
        if not self.store.count():
            return Recalled((), 0, 0)
        least = self.recaller.ranker.reach
        return self.recaller.recall(query, namespaces, budget, SHOWN, kinds, threshold=least)

    def write(self, draft: Draft) -> Written:
        """Put ``draft`` through the write gate."""
        return self.write_many([draft])[0]

    def write_many(self, drafts: Sequence[Draft]) -> list[Written]:
        """Put several through the write gate, in order and all or none.

        Their vectors are made now where the embedder is at hand, else later in the background.
        """
        if self.background and "vectors" not in self.__dict__:
            return self.store.write_many(drafts)
        if self.vectors is None:
            return self.store.write_many(drafts)
        embedder = self.vectors.serving.embedder
        return self.store.write_many(drafts, embedder.embed([draft.text for draft in drafts]), embedder.id)

    def used(self, ids: Sequence[int], success: bool | None) -> None:
        """Count a use of entries, and whether it helped; None: not known."""
        if ids:
            self.store.used(ids, success)

    def close(self) -> None:
        """Stop the background, delete what expired or never helps (once a day), close the database."""
        if self.__dict__.get("vectors") is not None:
            self.__dict__["vectors"].close()
        if "store" in self.__dict__:
            from ...memory.database import StorageError
            from ...memory.upkeep.upkeep import DAY, prune

            with contextlib.suppress(StorageError):  # another time
                prune(self.store, every=DAY)
            self.store.close()

    def __enter__(self) -> HomeMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SuiteMemories:
    """A memory for each goal: what its ``remembered`` says, after ``told`` (what all goals have).

    With nothing told, a goal that has nothing to remember has no memory at all, so that suites without
    memory give the prompts that they always gave.
    """

    def __init__(self, told: Sequence[str] = ()) -> None:
        self._told = tuple(told)
        self._open: dict[str, HomeMemory] = {}
        self._shared: dict[str, HomeMemory] = {}

    def of(self, goal: Goal) -> RunMemory | None:
        """Return the goal's memory; the same one until :meth:`close`."""
        told = [*self._told, *goal.remembered]
        if not told and not goal.earlier and goal.id not in self._shared:
            return None
        memory = self._shared.get(goal.id) or self._open.get(goal.id)
        if memory is None:
            memory = HomeMemory(Path(tempfile.mkdtemp(prefix="autogpt-memory-")), background=False)
            self._open[goal.id] = memory
            memory.write_many([Draft(Kind.FACT, text) for text in told])
        return RunMemory(memory)

    def share(self, goal: Goal, earlier: Goal) -> None:
        """Let ``earlier`` have the memory of ``goal``."""
        self.of(goal)
        self._shared[earlier.id] = self._open[goal.id]

    def close(self, goal: Goal) -> None:
        """Remove the goal's memory."""
        memory = self._open.pop(goal.id, None)
        if memory is not None:
            memory.close()
            shutil.rmtree(memory.home, ignore_errors=True)

    def close_all(self) -> None:
        """Remove all that are left."""
        self._shared.clear()
        for name in list(self._open):
            memory = self._open.pop(name)
            memory.close()
            shutil.rmtree(memory.home, ignore_errors=True)
