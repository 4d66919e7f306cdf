"""More chores that go over several tools, with real questions and plain configuration files.

A recorded WikiSQL question whose answer is also to be written down; a value of a settings file; what
share of a table's rows something is; a number of a table times a number of a file; the text of the file
that mentions something. They vary the wording and the number of steps, so that a plan's length follows
the goal.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from ..goals.load import Goal
from .expert import Task, call, finish, handles_before, plan
from .files import LINES, WORDS, workspace
from .sheets import Query, sheet, sheet_files, target_name
from .tables import simple_name, wikisql

_TOLD = (
    "Write it to {t}.", "Write the answer to {t}.", "Save the result in {t}.", "Put the answer into {t}.",
    "Then write it to {t}.", "Store it in {t}.", "Write what you find to {t}.",
)  # fmt: skip


def answers_to_file(rng: random.Random, number: int) -> Iterator[Task]:
    """Yield recorded table questions whose answer is written to a file."""
    for made, task in enumerate(wikisql(rng)):
        if made >= number:
            return
        target = target_name(rng)
        told = rng.choice(_TOLD).format(t=target)
        lead = task.goal.goal.rstrip()
        text = f"{lead if lead[-1] in '?.!' else lead + '.'} {told}"
        data = task.goal.model_dump(mode="json", exclude={"id"})
        data["check"] = [*data["check"], {"file": {"path": target, "exists": True}}]
        answer = task.calls[-1].arguments["answer"]
        step = task.calls[0].arguments["steps"][0]
        calls = [
            plan((step["tool"], step["for"]), ("files.write", target)),
            *task.calls[1:-1],
            call("files.write", path=target, content=answer),
            finish(answer),
        ]
        yield Task("workflows", Goal.model_validate({**data, "goal": text}), calls, unlearned=task.unlearned)


_KEYS = {
    "host": ("alpha", "node-3", "mail.example.org", "db1"),
    "port": ("8080", "443", "5432", "9000"),
    "language": ("en", "fr", "nb", "pt"),
    "user": ("root", "guest", "elena", "marc"),
    "retry": ("2", "3", "5"),
    "colour": ("teal", "amber", "grey"),
    "mode": ("fast", "safe", "debug"),
    "version": ("1.4", "2.0", "3.11"),
    "currency": ("EUR", "NOK", "JPY"),
    "country": ("Chile", "Malta", "Ghana"),
    "level": ("4", "7", "12"),
    "theme": ("dark", "light"),
    "backup": ("daily", "weekly"),
    "limit": ("20", "250", "4000"),
}


def setting(rng: random.Random) -> Task:
    """The value of one key of a configuration file."""
    form = rng.choice(("{k}: {v}", "{k} = {v}", "{k}={v}", "{k} - {v}"))
    rows = [(key, rng.choice(_KEYS[key])) for key in rng.sample(sorted(_KEYS), rng.randint(3, 6))]
    key, value = rng.choice(rows)
    name = rng.choice(("config", "options", "app", "prefs", "service", "job", "profile")) + rng.choice(
        (".cfg", ".txt", ".ini", ".conf")
    )
    files = {**workspace(rng, 0, 2), name: "\n".join(form.format(k=k, v=v) for k, v in rows) + "\n"}
    text = rng.choice((
        "What is the {k} in {f}?", "Which {k} does {f} set?", "Read the {k} from {f}.",
        "{f}: what is {k}?", "Tell me the value of {k} in {f}.", "Look up {k} in {f}.",
    )).format(k=key, f=name)  # fmt: skip
    goal = Goal.model_validate({"goal": text, "files": files, "check": [{"answer": {"equals": value}}]})
    return Task(
        "files",
        goal,
        [plan(("files.read", f"{key} in {name}")), call("files.read", path=name), finish(value)],
    )


def share(rng: random.Random) -> Task:
    """What share of the rows has a value, in percent."""
    item = sheet(rng)
    v = rng.choice([row[1] for row in item.table["rows"]])
    total = len(item.table["rows"])
    part = sum(row[1] == v for row in item.table["rows"])
    text = rng.choice((
        "What percentage of the rows has {g} {v}?", "How many percent of all rows are {v}?",
        "What share of the {e}s is {v}, in percent?", "Which percentage of {f} has {v} as {g}?",
    ))  # fmt: skip
    text = text.format(g=item.group, v=v, e=item.entity, f=f"{item.name}.csv")
    check = [{"answer": {"number": 100 * part / total, "tolerance": 0.01}}]
    goal = Goal.model_validate({"goal": text, "files": sheet_files(item), "check": check})
    base = handles_before(goal)
    some: Query = {"select": ["count(*)"], "where": [[item.group, "=", v]]}
    name = simple_name(item.name)
    return Task(
        "workflows",
        goal,
        [
            plan(("tables.query", f"count(*) {v}"), ("tables.query", "count(*)"), ("calculator", "percent")),
            call("tables.query", table=name, **some),
            call("tables.query", table=name, select=["count(*)"]),
            call("calculator", expression=f"${base + 1} / ${base + 2} * 100"),
            finish(f"${base + 3}"),
        ],
    )


def scaled(rng: random.Random) -> Task:
    """A number of a table combined with a number of a file."""
    item = sheet(rng)
    n = rng.choice(item.numbers)
    names = [row[0] for row in item.table["rows"]]
    single = [name for name in names if names.count(name) == 1]
    if not single:
        return scaled(rng)
    who = rng.choice(single)
    value = next(row[item.table["header"].index(n)] for row in item.table["rows"] if row[0] == who)
    source = rng.choice(("factor", "tax", "share", "bonus", "weighting", "exchange")) + ".txt"
    number = rng.choice((2, 3, 4, 0.5, 1.5, 1.2, 10, 0.25))
    verb, sign = rng.choice((("Multiply", "*"), ("Divide", "/")))
    text = rng.choice((
        "{w} the {n} of {x} by the number in {f}.",
        "Take the {n} of {x} and {l} it by the number in {f}.",
        "{f} holds a number; {l} the {n} of {x} by it.",
    ))  # fmt: skip
    text = text.format(w=verb, l=verb.lower(), n=n, x=who, f=source)
    result = value * number if sign == "*" else value / number
    target = target_name(rng) if rng.random() < 0.4 else None
    if target:
        text += " " + rng.choice(_TOLD).format(t=target)
    check: list[dict[str, object]] = [{"answer": {"number": result, "tolerance": 0.01}}]
    check += [{"file": {"path": target, "exists": True}}] if target else []
    goal = Goal.model_validate(
        {"goal": text, "files": {**sheet_files(item), source: f"{number}\n"}, "check": check}
    )
    base = handles_before(goal)
    steps = [("tables.query", n), ("files.read", source), ("calculator", verb.lower())]
    calls = [
        call("tables.query", table=simple_name(item.name), select=[n], where=[[item.entity, "=", who]]),
        call("files.read", path=source),
        call("calculator", expression=f"${base + 1} {sign} ${base + 2}"),
    ]
    if target:
        steps.append(("files.write", target))
        calls.append(call("files.write", path=target, content=f"${base + 3}"))
    return Task("workflows", goal, [plan(*steps), *calls, finish(f"${base + 3}")])


def found_text(rng: random.Random) -> Task:
    """The text of the file that mentions a word, copied."""
    files = workspace(rng, 2, 5)
    word = rng.choice(WORDS)
    files = {name: text.replace(word, "thing") for name, text in files.items()}
    source, target = rng.choice(list(files)), target_name(rng)
    files[source] += ("" if files[source].endswith("\n") else "\n") + LINES[1].format(a=word) + "\n"
    text = rng.choice((
        "Find the file that mentions {w} and copy its text to {t}.",
        "Copy the file about {w} to {t}.",
        "Which file mentions {w}? Save its content as {t}.",
    )).format(w=word, t=target)  # fmt: skip
    check = [{"file": {"path": target, "equals": files[source]}}]
    goal = Goal.model_validate({"goal": text, "files": files, "check": check})
    base = handles_before(goal)
    return Task(
        "workflows",
        goal,
        [
            plan(("files.search", word), ("files.read", "its text"), ("files.write", target)),
            call("files.search", text=word),
            call("files.read", path=source),
            call("files.write", path=target, content=f"${base + 2}"),
            finish(f"Copied {source} to {target}."),
        ],
    )


def most_counted(rng: random.Random) -> Task:
    """Who has the most rows of one kind: a count by group under a condition."""
    item = sheet(rng)
    rows = item.table["rows"]
    v = rng.choice([row[1] for row in rows])
    mine = [row[0] for row in rows if row[1] == v]
    counts = sorted((mine.count(name) for name in set(mine)), reverse=True)
    if len(counts) < 2 or counts[0] == counts[1]:
        return most_counted(rng)
    noun = rng.choice((item.name.split("_")[0], "rows", "entries", "records"))
    text = rng.choice((
        "Which {e} has the most {v} {n}?", "Which {e} had the most {v} {n}?",
        "Who has the most {v} {n}? Give the {e}.", "Find the {e} with the most {v} {n}.",
        "Which {e} has the largest number of {v} {n}?", "Which {e} occurs most often with {g} {v}?",
        "Name the {e} that had the most {n} with {g} {v}.",
        "What {e} has the highest number of {n} that are {v}?", "Which {e} was {v} most often?",
    ))  # fmt: skip
    text = text.format(e=item.entity, v=v.lower() if rng.random() < 0.5 else v, n=noun, g=item.group)
    query: Query = {
        "select": [item.entity],
        "where": [[item.group, "=", v]],
        "group_by": item.entity,
        "order_by": "count(*) desc",
        "limit": 1,
    }
    winner = max(set(mine), key=mine.count)
    target = target_name(rng) if rng.random() < 0.35 else None
    if target:
        text += " " + rng.choice(_TOLD).format(t=target)
    check: list[dict[str, object]] = [{"answer": {"equals": winner}}]
    check += [{"file": {"path": target, "equals": winner}}] if target else []
    goal = Goal.model_validate({"goal": text, "files": sheet_files(item), "check": check})
    found = f"${handles_before(goal) + 1}"
    steps = [("tables.query", item.entity)]
    calls = [call("tables.query", table=simple_name(item.name), **query)]
    if target:
        steps.append(("files.write", target))
        calls.append(call("files.write", path=target, content=found))
    return Task("workflows" if target else "tables", goal, [plan(*steps), *calls, finish(found)])


MAKERS = (most_counted, most_counted, setting, setting, share, scaled, scaled, found_text)


def chores(rng: random.Random, number: int) -> Iterator[Task]:
    """Yield ``number`` chores of all kinds but recorded questions."""
    for _ in range(number):
        yield rng.choice(MAKERS)(rng)
