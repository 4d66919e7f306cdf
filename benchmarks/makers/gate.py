"""The goals of the shipped gate: what ``autogpt improve`` judges candidates by on a user's machine.

Held out twice: training never sees them (valid files, held-out hashes, the makers of the suites with
seeds of their own), and no goal, table or question of a suite is among them, so that what was chosen by
the gate can still be measured by the suites. Tables are short, because a gate plays every goal twice.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from autogpt.agent.experts.data import is_train

from . import conversations, files, public, workflows
from .common import Record, answer, goal, read

TABLES, WORDS, FILES, WORKFLOWS = 600, 260, 240, 240
ROWS = 25
"""Tables of more rows are left out."""

NAMES = ("Oskar", "Leila", "Piotr", "Amara", "Stella", "Idris", "Wren", "Matteo", "Juno", "Tarek")
GOODS = (
    "lanterns",
    "tiles",
    "candles",
    "postcards",
    "bricks",
    "seedlings",
    "ribbons",
    "coins",
    "jars",
    "maps",
)
PROBLEMS = (
    ("After giving {a} {t} to {m}, {n} still has {b}. How many {t} were there at first?", "+"),
    ("A crate holds {a} {t}; another one holds {b}. What do the two crates hold together?", "+"),
    ("{n} counted {a} {t} on Monday, and {b} more were found on Tuesday. What is the total?", "+"),
    ("Of {s} {t} in the cellar {a} are broken. How many are whole?", "-"),
    ("{n} wants to own {s} {t} and owns {a}. How many are missing?", "-"),
    ("{m} carried {s} {t} and {n} carried {b}. By how many did {m} carry more?", "-"),
    ("Every shelf takes {a} {t}. How many {t} fit on {d} shelves?", "*"),
    ("{n} paints {a} {t} an hour. How many are painted after {d} hours?", "*"),
    ("A row has {a} {t} and there are {d} rows. How many {t} are there?", "*"),
    ("{p} {t} were split evenly between {d} teams. How many did one team get?", "/"),
    ("{n} walked {p} steps in {d} minutes. How many steps was that a minute?", "/"),
    ("{p} {t} fill {d} equal trays. How many are on one tray?", "/"),
)


def problem(rng: random.Random) -> tuple[str, float]:
    """Return a problem of one operation and its answer."""
    text, sign = rng.choice(PROBLEMS)
    n, m = rng.sample(NAMES, 2)
    a, b, d = rng.randint(3, 240), rng.randint(3, 240), rng.randint(2, 12)
    s, p = a + b, a * d
    right = {"+": a + b, "-": b if "{a}" in text else a, "*": a * d, "/": a}[sign]
    return text.format(n=n, m=m, t=rng.choice(GOODS), a=a, b=b, d=d, s=s, p=p), right


def _tables(data: Path, rng: random.Random, barred: set[str]) -> list[Record]:
    by_id = {table["id"]: table for table in read(data, "wikisql_valid_tables")}
    questions = list(read(data, "wikisql_valid"))
    used = {item["table_id"] for item in questions if item["question"] in barred}
    free = [q for q in questions if q["table_id"] not in used and len(by_id[q["table_id"]]["rows"]) <= ROWS]
    rng.shuffle(free)
    seen: Counter[str] = Counter()
    chosen = []
    for item in free:  # at most two questions about one table
        seen[item["table_id"]] += 1
        if seen[item["table_id"]] <= 2:
            chosen.append(item)
    found = []
    for number, item in enumerate(chosen[:TABLES], start=1):
        name, text = public.table_file(by_id[item["table_id"]])
        record = goal("gate-tables", number, "tables", item["question"], {name: text})
        found.append({**record, "check": [answer(items=item["answer"])]})
    return found


def _words(data: Path, rng: random.Random, barred: set[str]) -> list[Record]:
    single, double = public._mawps(data, 1), public._mawps(data, 2)
    left = [(text, float(result)) for _, text, result in [*single, *double] if text not in barred]
    held = [item for item in read(data, "gsm8k_train") if not is_train("gsm8k", item["question"])]
    more = [(item["question"], float(item["answer"].replace(",", ""))) for item in held]
    left += rng.sample([pair for pair in more if pair[0] not in barred], 60)
    while len(left) < WORDS:
        left.append(problem(rng))
    return [
        goal("gate-words", number, "words", text, {}, answer(number=int(right) if right % 1 == 0 else right))
        for number, (text, right) in enumerate(left, start=1)
    ]


def sessions(count: int = 36, seed: int = 31) -> list[Record]:
    """Make the sessions that judge, by the suite's makers; one that the suite holds is left out."""
    suite = [record["turns"] for record in conversations.conversations()]
    made = conversations.conversations(2 * count, seed)
    fresh = [{**record, "id": f"gate-{record['id']}"} for record in made if record["turns"] not in suite]
    return fresh[:count]


def gate(data: Path, seed: int = 21) -> list[Record]:
    """Make the goals, in random order; a text or record that a suite holds is left out."""
    rng = random.Random(seed)
    suites = [public.tables(data), public.words(data), public.words_multi(data), files.chores()]
    suites.append(workflows.workflows(data))
    barred = {record["goal"] for suite in suites for record in suite}
    asked = {text.rsplit(" ", 5)[0] for text in barred}
    chores = files.chores(FILES * 2, seed + 1)
    flows = [r for r in workflows.workflows(data, WORKFLOWS * 6, seed + 2) if r["category"] != "question"]
    made: list[Record] = []
    for kind, pool, count in (("files", chores, FILES), ("workflows", flows, WORKFLOWS)):
        fresh = {record["goal"]: record for record in pool if record["goal"] not in barred}
        made += [
            {**record, "id": f"gate-{record['id']}", "category": kind} for record in [*fresh.values()][:count]
        ]
    made += _tables(data, rng, barred | asked) + _words(data, rng, barred)
    rng.shuffle(made)
    return made
