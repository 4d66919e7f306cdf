"""A suite of checkable goals from a user's own tables and texts.

Every question's query is run by the table tool itself, and kept only when the answer says something:
not empty, not the whole table, short enough to be written, no value twice, and not given away by the
question. Questions are distinct, by their words and by their query. The suite is JSON lines as
``autogpt eval``, ``run`` and ``improve`` read them; the queries are not in it, so that a model that
trains on it learns from its own attempts and the checks alone.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import ToolError, UsageError
from ...tools.tables.tools import TablesQuery
from ..goals.compare import normal_text
from . import chores, queries
from .fields import View
from .folder import Shelf, read_folder

MOST_ITEMS = 10
"""Values of an answer; more than that nobody reads."""
_PATIENCE = 60
"""Drafts per wanted goal before giving up: small tables hold few questions."""
_CHORES = 0.25
"""Share of goals about text files where there are tables as well."""

Record = dict[str, Any]
"""One line of the suite."""


@dataclass
class Practice:
    """A finished suite, and notes on what was left out."""

    goals: list[Record]
    notes: list[str] = field(default_factory=list)
    wanted: int = 0

    def lines(self) -> Iterator[str]:
        """Yield the summary: how many goals of each kind, and what was left out."""
        kinds = Counter(goal["category"] for goal in self.goals)
        yield f"{len(self.goals)} goals: " + ", ".join(
            f"{name} {count}" for name, count in kinds.most_common()
        )
        if len(self.goals) < self.wanted:
            yield f"{self.wanted} were asked for, but the files hold no more questions that differ"
        yield from self.notes


def practise(folder: Path, count: int = 100, seed: int = 0, out: Path | None = None) -> Practice:
    """Return about ``count`` goals over the files of ``folder``; nothing is written.

    ``out`` is where the suite will be written: inputs under its folder are named relative to it.
    Raises UsageError when there is nothing to make goals of.
    """
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="autogpt-practice-") as scratch:
        shelf = read_folder(folder, Path(scratch), rng, leave_out=out)
        goals = list(_goals(shelf, count, rng, _Places(folder.resolve(), out)))
    if not goals:
        raise UsageError(f"{folder}: none of its tables and texts gives a question with a clear answer")
    return Practice(goals, shelf.notes, count)


@dataclass(frozen=True)
class _Places:
    """How a goal names its inputs."""

    folder: Path
    out: Path | None

    def name(self, path: str) -> str:
        """Return an input as the suite names it: relative to the suite where it lies below it."""
        whole, base = self.folder / path, (self.out.parent if self.out else Path()).resolve()
        return whole.relative_to(base).as_posix() if whole.is_relative_to(base) else str(whole)


def _goals(shelf: Shelf, count: int, rng: random.Random, places: _Places) -> Iterator[Record]:
    """Yield up to ``count`` distinct goals."""
    share = 0.0 if not shelf.texts else _CHORES if shelf.views else 1.0
    asked: set[str] = set()
    made = 0
    for _ in range(count * _PATIENCE):
        if made == count:
            return
        if rng.random() < share:
            chore = chores.draw(shelf.texts, rng)
            record = None if chore is None else _chore_record(chore, asked, places)
        else:
            record = _table_record(rng.choice(shelf.views), rng, asked, places)
        if record is None or (words := normal_text(record["goal"])) in asked:
            continue
        asked.add(words)
        made += 1
        yield record


def _chore_record(chore: chores.Chore, asked: set[str], places: _Places) -> Record | None:
    key = f"{chore.kind} {chore.asked} {'' if chore.kind == 'which file' else chore.inputs}"
    if key in asked:
        return None
    asked.add(key)
    return _record("files", chore.question, tuple(map(places.name, chore.inputs)), {}, list(chore.check))


def _table_record(view: View, rng: random.Random, asked: set[str], places: _Places) -> Record | None:
    made = queries.draft(view, rng)
    if made is None:
        return None
    key = json.dumps([view.inputs, sorted(view.files), made.query], sort_keys=True)
    check = None if key in asked else answer_check(made, view)
    if check is None:
        return None
    asked.add(key)
    kind = "join" if view.joined else made.kind
    return _record(kind, made.question, tuple(map(places.name, view.inputs)), dict(view.files), [check])


def _record(
    kind: str, question: str, inputs: tuple[str, ...], files: dict[str, str], check: list[Any]
) -> Record:
    digest = hashlib.sha256(json.dumps([question, inputs, sorted(files)]).encode()).hexdigest()
    record: Record = {"id": f"practice-{digest[:10]}", "category": kind, "goal": question}
    record |= {"inputs": list(inputs)} if inputs else {}
    record |= {"files": files} if files else {}
    return {**record, "check": check}


def answer_check(made: queries.Draft, view: View) -> dict[str, Any] | None:
    """Run a draft's query with the tool and return the check of its answer; None: not worth asking."""
    try:
        value = TablesQuery().run(made.query, view.context).value
    except ToolError:
        return None
    if not value or len(value) > MOST_ITEMS or any(isinstance(row, list) for row in value):
        return None
    if len({normal_text(str(item)) for item in value}) < len(value) or any(item in (0, "") for item in value):
        return None
    if not made.whole_table and not _is_part(made, view, value):
        return None
    if any(given_away(item, made.question) for item in value):
        return None
    if len(value) > 1:
        return {"answer": {"items": value}}
    return {"answer": {"equals" if isinstance(value[0], str) else "number": value[0]}}


def _is_part(made: queries.Draft, view: View, value: list[Any]) -> bool:
    """Whether the query's conditions keep at least one row (for what is computed, two) but not nearly all."""
    count: Record = {key: made.query[key] for key in ("table", "join", "where") if key in made.query}
    count["select"] = ["count(*)"]
    kept = int(TablesQuery().run(count, view.context).value[0])
    least = 1 if made.kind in ("lookup", "list") else 2
    return least <= kept <= 0.8 * view.rows


def given_away(answer: Any, question: str) -> bool:
    """Whether the question has the answer in it as whole words (numbers as they are written)."""
    text = normal_text(f"{answer:g}" if isinstance(answer, float) else str(answer))
    return re.search(rf"(?<!\w){re.escape(text)}(?!\w)", normal_text(question)) is not None
