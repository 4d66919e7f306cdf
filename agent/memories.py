"""The memories that runs are given: the one of this home, and one of its own for each goal of a suite.

:class:`HomeMemory` is what users have: entries of all runs in the home's database. It opens on first use,
so that a run which never recalls pays nothing, and ``import autogpt`` loads none of it.
:class:`SuiteMemories` gives every goal of a suite a fresh store with what its ``remembered`` says, so that
goals do not see one another and order does not matter.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..memory.entry import Draft, Hit, Kind, Recalled, Written
from .goal import Goal
from .remembering import RunMemory

if TYPE_CHECKING:
    from ..memory.database import Database
    from ..memory.store import MemoryStore

SHOWN = 6
"""Entries that a recall shows at most."""


class HomeMemory:
    """The memory under ``home``."""

    def __init__(self, home: Path, database: Database | None = None) -> None:
        """Use the entries under ``home``, over ``database`` where it is that of this home."""
        self.home = home
        self._database = database

    @cached_property
    def store(self) -> MemoryStore:
        """The entries, opened on first use."""
        from ..memory.store import MemoryStore

        shared = self._database
        return MemoryStore(self.home, shared if shared and shared.path else None)

    def recall(
        self, query: str, namespaces: Sequence[str], budget: int, kinds: Sequence[Kind] | None = None
    ) -> Recalled:
        """Return what is relevant to ``query``."""
        found = self.store.search_words(query, SHOWN, namespaces, kinds)
        scores = dict(found)
        entries = self.store.get(list(scores))
        hits = tuple(Hit(entry, scores[entry.id], 0.0) for entry in entries)
        return Recalled(hits, sum(len(hit.entry.text) // 4 for hit in hits), len(found))

    def write(self, draft: Draft) -> Written:
        """Put ``draft`` through the write gate."""
        return self.store.write(draft)

    def write_many(self, drafts: Sequence[Draft]) -> list[Written]:
        """Write several at once."""
        return self.store.write_many(drafts)

    def used(self, ids: Sequence[int], success: bool) -> None:
        """Count a use of entries."""
        self.store.used(ids, success)

    def close(self) -> None:
        """Delete what expired or never helps, once a day, and let go of the database, if it was opened."""
        if "store" in self.__dict__:
            from ..memory.database import StorageError
            from ..memory.upkeep import DAY, prune

            with contextlib.suppress(StorageError):  # another time
                prune(self.store, every=DAY)
            self.store.close()


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
            memory = HomeMemory(Path(tempfile.mkdtemp(prefix="autogpt-memory-")))
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
