"""Suites from public data: table questions (WikiSQL) and word problems (MAWPS, GSM8K)."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autogpt.agent.experts.data import is_train

from .common import Record, answer, csv_text, goal, read, slug


def table_file(table: Record) -> tuple[str, str]:
    """Return the file name and CSV text of a table record."""
    return f"{slug(str(table['title']), 'table')}.csv", csv_text(table["header"], table["rows"])


def with_tables(data: Path, questions: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Return questions of WikiSQL's training part, each with its table."""
    wanted = {item["table_id"] for item in questions}
    by_id = {table["id"]: table for table in read(data, "wikisql_train_tables") if table["id"] in wanted}
    return [(item, by_id[item["table_id"]]) for item in questions]


def tables(data: Path, count: int = 1000, seed: int = 11) -> list[Record]:
    """Questions over one table each; the expected items are what the data's own query returned."""
    by_id = {table["id"]: table for table in read(data, "wikisql_valid_tables")}
    questions = list(read(data, "wikisql_valid"))
    records = []
    for number, item in enumerate(random.Random(seed).sample(questions, count), start=1):
        name, text = table_file(by_id[item["table_id"]])
        category = _kind(item["sql"])
        records.append(
            goal("tables", number, category, item["question"], {name: text}, answer(items=item["answer"]))
        )
    return records


def _kind(sql: str) -> str:
    """Return what the query computes: ``select``, ``count``, ``sum``, ``avg``, ``min`` or ``max``."""
    match = re.match(r"SELECT (COUNT|SUM|AVG|MIN|MAX)\(", sql)
    return match.group(1).lower() if match else "select"


def words(data: Path, count: int = 200, seed: int = 12) -> list[Record]:
    """Held-out MAWPS problems that one operation solves."""
    return _problems("words", _mawps(data, 1), count, seed)


def words_multi(data: Path, count: int = 200, seed: int = 13) -> list[Record]:
    """Held-out problems of several operations: half from MAWPS, half from GSM8K."""
    half = count // 2
    steps = _problems("words_multi", _mawps(data, 2), half, seed)
    held = [item for item in read(data, "gsm8k_train") if not is_train("gsm8k", item["question"])]
    more = [("gsm8k", item["question"], item["answer"]) for item in held]
    return steps + _problems("words_multi", more, count - half, seed, first=len(steps) + 1)


def _mawps(data: Path, operations: int) -> list[tuple[str, str, str]]:
    """Return (category, question, answer) of held-out problems with that many operators."""
    held = [item for item in read(data, "mawps_train") if not is_train("mawps", item["question"])]
    named = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide"}
    found = []
    for item in held:
        operators = re.findall(r" ([-+*/]) ", item["equation"])
        if len(operators) == operations:
            category = named[operators[0]] if operations == 1 else "mawps"
            found.append((category, item["question"], item["answer"]))
    return found


def _problems(
    suite: str, items: list[tuple[str, str, str]], count: int, seed: int, first: int = 1
) -> list[Record]:
    chosen = random.Random(seed).sample(items, min(count, len(items)))
    return [
        goal(suite, number, category, question, {}, answer(number=_number(result)))
        for number, (category, question, result) in enumerate(chosen, start=first)
    ]


def _number(text: Any) -> float:
    value = float(str(text).replace(",", ""))
    return int(value) if value.is_integer() else value
