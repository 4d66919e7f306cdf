"""Chat sessions of a few messages over one table: questions, follow-ups on the last value, small talk.

A session has no checks of its own; what its calls give is worked out by running them. ``chatty`` ones
are mostly talk, so that a table at hand is left alone when nobody asks about it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from ...llm.message import ToolCall
from ..goals.load import Goal
from .expert import Task, finish, plan
from .sheets import (
    STATISTICS,
    Query,
    Sheet,
    Work,
    sheet,
    sheet_files,
    target_name,
)
from .small_talk import small_talk


def sessions(rng: random.Random, number: int) -> Iterator[Task]:
    """Yield ``number`` chat sessions of two to four messages over one table, with small talk between."""
    for _ in range(number):
        item = sheet(rng)
        task = Task("conversations", Goal.model_validate({"goal": "session", "files": sheet_files(item)}))
        run = Work(1)
        for turn in range(rng.randint(2, 4)):
            task.turns.append(_message(item, run, turn, rng))
        yield task


def chatty(rng: random.Random, number: int) -> Iterator[Task]:
    """Yield ``number`` sessions over one table that begin with talk and hold at most one question."""
    for _ in range(number):
        item = sheet(rng)
        task = Task("conversations", Goal.model_validate({"goal": "session", "files": sheet_files(item)}))
        run = Work(1)
        length = rng.randint(1, 3)
        asked = rng.randrange(1, 5)
        for turn in range(length):
            if turn == asked:
                task.turns.append(_message(item, run, turn, rng))
            else:
                text, reply = small_talk(rng)
                task.turns.append((text, [finish(reply)]))
        yield task


def _message(item: Sheet, run: Work, turn: int, rng: random.Random) -> tuple[str, list[ToolCall]]:
    n, v = rng.choice(item.numbers), rng.choice([row[1] for row in item.table["rows"]])
    draw = rng.random()
    found_before = [handle for handle, value in run.values.items() if not str(value).endswith(".txt")]
    last = found_before[-1] if found_before else None
    before = len(run.calls)
    if draw < 0.15:
        text, answer = rng.choice((
            ("thanks", "You're welcome!"),
            ("ok", "Anything else?"),
            ("hello", "Hello! What can I do for you?"),
        ))  # fmt: skip
        return text, [finish(answer)]
    if turn and last and draw < 0.4 and _is_one_number(run.values[last]):
        p = rng.choice((5, 10, 19, 20, 50))
        text, expression = rng.choice((
            (f"add {p} % to that", f"{last} + {p}%"),
            (f"and {p}% of it?", f"{p}% of {last}"),
            ("double it", f"{last} * 2"),
        ))  # fmt: skip
        found = run.compute(expression)
        return text, [plan(("calculator", text)), *run.calls[before:], finish(found)]
    if turn and last and draw < 0.55:
        target = target_name(rng)
        run.write(target, last)
        text = rng.choice(
            (f"write that to {target}", f"save it in {target}", f"put the answer into {target}")
        )
        return text, [plan(("files.write", target)), *run.calls[before:], finish(f"Wrote {target}.")]
    kind = rng.choice(("sum", "avg", "max", "min", "count"))
    select = "count(*)" if kind == "count" else f"{kind}({n})"
    words = {"count": "how many rows"} | {k: f"{rng.choice(w)} {n}" for k, w in STATISTICS.items()}
    where = rng.random() < 0.5
    text = f"{words[kind]}{f' for {v}' if where else ''}?"
    if turn and rng.random() >= 0.5:
        text = f"and {text}" if kind == "count" else f"and the {text}"
    query: Query = {"select": [select], **({"where": [[item.group, "=", v]]} if where else {})}
    found = run.query(item, query)
    return text, [plan(("tables.query", select)), *run.calls[before:], finish(found)]


def _is_one_number(value: Any) -> bool:
    """Say whether a query gave one number; a computed one is not changed again."""
    return isinstance(value, list) and len(value) == 1 and isinstance(value[0], int | float)
