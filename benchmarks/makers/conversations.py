"""Scripted sessions of three to five turns over one folder, with follow-ups that need the turns before.

"And in Graz?" or "write that to a file" mean something only after an earlier turn. Each turn has
its own checks, on the answer of that turn and on the workspace as it then is.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

from .common import Record, answer, csv_text, file, says
from .files import MESSAGES, PEOPLE, pages, phone_number
from .workflows import GOODS, STAFF, TEAMS, TOWNS

Turn = Record
Script = tuple[dict[str, str], list[Turn]]


def _say(text: str, *checks: Record) -> Turn:
    return {"say": text, "check": list(checks)}


def _bye(rng: random.Random) -> Turn:
    return _say(
        rng.choice(("Thanks!", "Thank you, that's all.", "Great, thanks a lot.")), answer(matches=r"\w\w")
    )


def orders(rng: random.Random) -> Script:
    """Count, narrow, sum, write."""
    one, two, three = rng.sample(TOWNS, 3)
    rows = [[700 + i, rng.choice((one, two, three)), rng.randint(5, 95)] for i in range(10)]
    rows += [[710, one, rng.randint(5, 95)], [711, two, rng.randint(5, 95)]]
    per_town = {town: [row[2] for row in rows if row[1] == town] for town in (one, two)}
    turns = [
        _say(
            rng.choice(("How many orders are in orders.csv?", "How many rows does orders.csv have?")),
            answer(number=12),
        ),
        _say(f"How many of them are from {one}?", answer(number=len(per_town[one]))),
        _say(f"And from {two}?", answer(number=len(per_town[two]))),
        _say(f"What is the total amount for {two}?", answer(number=sum(per_town[two]))),
        _say("Write that number to total.txt.", file("total.txt", equals=str(sum(per_town[two])))),
    ]
    return {"orders.csv": csv_text(["order", "town", "amount"], rows)}, turns[: rng.choice((4, 5))]


def prices(rng: random.Random) -> Script:
    """Look up, compare, compute with what was found."""
    rows: list[list[Any]] = [
        [item, price, rng.randint(1, 60)]
        for item, price in zip(rng.sample(GOODS, 6), rng.sample(range(4, 90), 6), strict=True)
    ]
    one, two = rng.sample(rows, 2)
    top = max(rows, key=lambda row: row[1])
    count = rng.randint(2, 9)
    turns = [
        _say(f"How much is the {one[0]}? See stock.csv.", answer(number=one[1])),
        _say(f"And the {two[0]}?", answer(number=two[1])),
        _say(f"What do {count} of those cost?", answer(number=count * two[1])),
        _say(
            rng.choice(
                ("Which item is the most expensive?", "What is the most expensive thing in the table?")
            ),
            says(top[0]),
        ),
        _bye(rng),
    ]
    return {"stock.csv": csv_text(["item", "price", "left"], rows)}, turns[: rng.choice((3, 4, 5))]


def staff(rng: random.Random) -> Script:
    """One person after another, then the group."""
    names = rng.sample(STAFF, 6)
    rows: list[list[Any]] = [
        [name, rng.choice(TEAMS), hours]
        for name, hours in zip(names, rng.sample(range(15, 41), 6), strict=True)
    ]
    one, two = rng.sample(rows, 2)
    busy = max(rows, key=lambda row: row[2])
    turns = [
        _say(f"Which team is {one[0]} in? The list is staff.csv.", says(one[1])),
        _say(f"What about {two[0]}?", says(two[1])),
        _say(f"How many hours does {two[0]} work?", answer(number=two[2])),
        _say("Who works the most hours?", says(busy[0])),
        _say("Save that name in busy.txt.", file("busy.txt", equals=busy[0])),
    ]
    return {"staff.csv": csv_text(["name", "team", "hours"], rows)}, turns[: rng.choice((3, 4, 5))]


def notes(rng: random.Random) -> Script:
    """List, find, rename, copy."""
    topics, folder = pages(rng, 3)
    index = rng.randrange(3)
    topic, name = topics[index], list(folder)[index]
    target = rng.choice(("kept.txt", "first.txt", "chosen.txt"))
    turns = [
        _say(
            rng.choice(("Hi, which files do I have here?", "What files are there?")),
            answer(items=list(folder)),
        ),
        _say(f"Which one mentions the {topic}?", says(name)),
        _say(f"Rename it to {target}.", file(target, equals=folder[name]), file(name, exists=False)),
        _say(f"Now copy {target} to again.txt.", file("again.txt", equals=folder[name])),
        _bye(rng),
    ]
    return folder, turns[: rng.choice((3, 4, 5))]


def phones(rng: random.Random) -> Script:
    """One number, another, write it, add a note."""
    people = rng.sample(PEOPLE, 4)
    numbers = [phone_number(rng) for _ in people]
    text = "".join(f"{person}: {number}\n" for person, number in zip(people, numbers, strict=True))
    message = rng.choice(MESSAGES)
    turns = [
        _say(f"What is {people[0]}'s number? It is in phones.txt.", says(numbers[0])),
        _say(f"And {people[2]}'s?", says(numbers[2])),
        _say(
            "Write that one to call.txt.",
            file("call.txt", matches=rf"^[^\n]{{0,40}}{re.escape(numbers[2])}\s*$"),
        ),
        _say(f'Also write "{message}" to todo.txt.', file("todo.txt", equals=message)),
    ]
    return {"phones.txt": text}, turns[: rng.choice((3, 4))]


def sums(rng: random.Random) -> Script:
    """Small talk and arithmetic that builds on itself."""
    one, two, three = rng.randint(12, 80), rng.randint(12, 80), rng.randint(3, 9)
    total = one + two
    turns = [
        _say(rng.choice(("Hello!", "Hi there.", "Good morning.")), answer(matches=r"\w\w")),
        _say(f"What is {one} plus {two}?", answer(number=total)),
        _say(f"Multiply that by {three}.", answer(number=total * three)),
        _say("Now write the result to result.txt.", file("result.txt", equals=str(total * three))),
        _bye(rng),
    ]
    return {}, turns[: rng.choice((3, 4, 5))]


SCRIPTS: tuple[Callable[[random.Random], Script], ...] = (orders, prices, staff, notes, phones, sums)


def conversations(count: int = 30, seed: int = 16) -> list[Record]:
    """Make ``count`` sessions, the kinds in turn."""
    rng = random.Random(seed)
    records = []
    for number in range(1, count + 1):
        script = SCRIPTS[number % len(SCRIPTS)]
        files, turns = script(rng)
        record: Record = {"id": f"conversations-{number:04d}", "category": script.__name__}
        records.append({**record, **({"files": files} if files else {}), "turns": turns})
    return records
