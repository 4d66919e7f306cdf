"""Goals of several dependent steps over several tools, and conversations with follow-up questions.

Tables are made up (sales, stock, staff, trips, ...) with names and numbers drawn at random, or taken
from the data sets; answers come from running the queries. Values go from call to call as handles.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...tools.calculator import calculate
from ...tools.handles import resolve, text_form
from ..goal import Goal
from .expert import Task, call, finish, handles_before, plan
from .files import PEOPLE
from .sql import run_query
from .tables import retitled, simple_name, table_csv

Query = dict[str, Any]


@dataclass(frozen=True)
class Sheet:
    """A made-up table: its file name, and how its columns are called."""

    name: str
    table: dict[str, Any]
    entity: str
    """The column that names a row's subject."""
    group: str
    """A text column with few values."""
    numbers: tuple[str, ...]


_KINDS: tuple[tuple[str, str, tuple[str, ...], str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("sales", "product", ("lamp", "chair", "desk", "sofa", "shelf", "mirror", "rug", "clock", "vase", "stool"),
     "region", ("north", "south", "east", "west"), ("units", "price")),
    ("stock", "article", ("bolt", "nut", "washer", "hinge", "screw", "bracket", "nail", "spring", "gasket", "valve"),
     "warehouse", ("Alpha", "Beta", "Gamma"), ("quantity", "weight")),
    ("staff", "employee", tuple(person.split()[0] for person in PEOPLE),
     "department", ("Finance", "Support", "Research", "Legal"), ("salary", "age", "overtime")),
    ("trips", "driver", ("Kowalski", "Jensen", "Moreau", "Okafor", "Tanaka", "Weber", "Rossi", "Lind"),
     "vehicle", ("van", "truck", "bike"), ("distance", "fuel")),
    ("orders", "customer", ("Acme", "Borealis", "Cirrus", "Dynamo", "Everest", "Fjord", "Granite", "Helix"),
     "status", ("paid", "open", "late"), ("amount", "items")),
    ("harvest", "field", ("Hill", "River", "Oak", "Mill", "Stone", "Lake", "Pine", "Sun"),
     "crop", ("wheat", "barley", "corn", "oats"), ("tons", "hectares")),
    ("matches", "team", ("Lions", "Sharks", "Eagles", "Wolves", "Bears", "Hawks", "Tigers", "Foxes"),
     "stadium", ("Park", "Arena", "Dome"), ("goals", "visitors")),
    ("projects", "task", ("design", "coding", "testing", "review", "launch", "training", "research", "support"),
     "owner", ("Kim", "Lee", "Sara", "Tom"), ("hours", "cost")),
    ("library", "title", ("Dune", "Emma", "Ulysses", "Beloved", "Walden", "Persuasion", "Solaris", "Middlemarch"),
     "genre", ("novel", "science", "poetry"), ("pages", "loans")),
)  # fmt: skip


def sheet(rng: random.Random) -> Sheet:
    """Return a random table of 5 to 20 rows."""
    name, entity, names, group, groups, numbers = rng.choice(_KINDS)
    rows = []
    for number in range(rng.randint(5, 20)):
        subject = names[number % len(names)] if rng.random() < 0.5 else rng.choice(names)
        values = [round(rng.uniform(1, 500), 2) if rng.random() < 0.0 else rng.randint(1, 900) for _ in numbers]
        rows.append([subject, rng.choice(groups), *values])
    header = [entity, group, *numbers]
    table = {"header": header, "types": ["text", "text", *["integer"] * len(numbers)], "rows": rows, "title": name}
    if rng.random() < 0.25:
        table = {**retitled(table), "title": name}
        entity, group, *rest = table["header"]
        numbers = tuple(rest)
    suffix = rng.choice(("", "", "_2024", "_list", "_data", "s_may"))
    return Sheet(f"{name}{suffix}", table, entity, group, numbers)


def _target(rng: random.Random) -> str:
    return rng.choice(("answer", "result", "total", "out", "value", "winner", "summary", "final", "report", "best")) + ".txt"


def _query(item: Sheet, query: Query) -> Any:
    return call("tables.query", table=simple_name(item.name), **query)


class _Run:
    """Works out the expert's calls and what they give, so that checks hold the exact outcome."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.values: dict[str, Any] = {}
        self.calls: list[Any] = []

    def add(self, made: Any, value: Any) -> str:
        self.calls.append(made)
        handle = f"${self.base + len(self.calls)}"
        self.values[handle] = value
        return handle

    def query(self, item: Sheet, query: Query) -> str:
        return self.add(_query(item, query), run_query(query, item.table))

    def compute(self, expression: str) -> str:
        exact = resolve({"e": expression}, self.values, ("e",))["e"]
        return self.add(call("calculator", expression=expression), calculate(exact)[0])

    def write(self, path: str, content: str) -> str:
        return self.add(call("files.write", path=path, content=content), path)

    def text(self, content: str) -> str:
        return text_form(resolve({"c": content}, self.values)["c"])


def _make(
    goal: str, files: Mapping[str, str], steps: list[tuple[str, str]], work: Callable[[_Run], tuple[str, list[dict[str, Any]]]]
) -> Task:
    base = handles_before(Goal.model_validate({"goal": "x", "files": dict(files)}))
    run = _Run(base)
    answer, checks = work(run)
    made = Goal.model_validate({"goal": goal, "files": dict(files), "check": checks})
    return Task("workflows", made, [plan(*steps), *run.calls, finish(answer)])


def _file_check(path: str, run: _Run, content: str) -> dict[str, Any]:
    return {"file": {"path": path, "equals": run.text(content)}}


def _files(*items: Sheet) -> dict[str, str]:
    return {f"{item.name}.csv": table_csv(item.table) for item in items}


_STAT = {"avg": ("average", "mean"), "sum": ("total", "sum of"), "max": ("highest", "maximum"), "min": ("lowest", "minimum")}


def stat_change_write(rng: random.Random) -> Task:
    """A statistic of a column, changed by a percent, factor or amount, written to a file."""
    item, target = sheet(rng), _target(rng)
    n, kind = rng.choice(item.numbers), rng.choice(tuple(_STAT))
    where: list[Any] = []
    of = ""
    if rng.random() < 0.45:
        v = rng.choice([row[1] for row in item.table["rows"]])
        where, of = [[item.group, "=", v]], rng.choice((f" for {v}", f" where {item.group} is {v}", f" of {v}"))
    p = rng.choice((5, 7, 10, 12, 15, 19, 20, 25))
    change, expression = rng.choice((
        (f"add {p} %", "{h} + %d%%" % p), (f"add {p}% to it", "{h} + %d%%" % p), (f"multiply it by {p}", "{h} * %d" % p),
        (f"divide it by {p}", "{h} / %d" % p), (f"subtract {p}", "{h} - %d" % p), (f"take {p} % off", "{h} - %d%%" % p),
        (f"take {p} percent of it", "%d%% of {h}" % p), (f"add {p}", "{h} + %d" % p), (f"double it", "{h} * 2"),
        ("round it to a whole number", "round({h})"), ("round it to one decimal", "round({h}, 1)"),
    ))  # fmt: skip
    word = rng.choice(_STAT[kind])
    source = rng.choice(("", f" in {item.name}.csv", f" from {item.name}.csv"))
    text = rng.choice((
        "Find the {w} {n}{of}{s}, {c} and write the result to {t}.", "What is the {w} {n}{of}{s}? Then {c} and save it to {t}.",
        "Take the {w} {n}{of}{s}, {c}, then write that to {t}.", "Get the {w} {n}{of}{s}; {c}; put the result into {t}.",
    )).format(w=word, n=n, of=of, s=source, c=change, t=target)  # fmt: skip
    query: Query = {"select": [f"{kind}({n})"], **({"where": where} if where else {})}

    def work(run: _Run) -> tuple[str, list[dict[str, Any]]]:
        found = run.compute(expression.format(h=run.query(item, query)))
        run.write(target, found)
        return found, [_file_check(target, run, found)]

    return _make(text, _files(item), [("tables.query", f"{kind}({n})"), ("calculator", change), ("files.write", target)], work)


def top_write(rng: random.Random) -> Task:
    """The row or group that leads, written to a file."""
    item, target = sheet(rng), _target(rng)
    n = rng.choice(item.numbers)
    column = rng.choice((item.entity, item.group))
    draw = rng.random()
    if draw < 0.4:
        way = rng.choice(("desc", "asc"))
        word = rng.choice(("highest", "largest", "most") if way == "desc" else ("lowest", "smallest", "least"))
        query: Query = {"select": [item.entity], "order_by": f"{n} {way}", "limit": 1}
        asked = rng.choice(("Which {e} has the {w} {n}?", "Find the {e} with the {w} {n}.", "Who or what has the {w} {n}? Give the {e}."))
        asked = asked.format(e=item.entity, w=word, n=n)
    elif draw < 0.7:
        query = {"select": [column], "group_by": column, "order_by": "count(*) desc", "limit": 1}
        asked = rng.choice(("Which {e} appears most often?", "Which {e} has the most rows?", "What is the most common {e}?",
                            "Find the {e} with the most entries.")).format(e=column)  # fmt: skip
    else:
        query = {"select": [column], "group_by": column, "order_by": f"sum({n}) desc", "limit": 1}
        asked = rng.choice(("Which {e} has the highest total {n}?", "Find the {e} with the largest total {n}.",
                            "Which {e} leads in total {n}?")).format(e=column, n=n)  # fmt: skip
    told = rng.choice(("Write the name to {t}.", "Write it to {t}.", "Save the name in {t}.", "Put the answer into {t}.")).format(t=target)

    def work(run: _Run) -> tuple[str, list[dict[str, Any]]]:
        found = run.query(item, query)
        run.write(target, found)
        return found, [_file_check(target, run, found)]

    return _make(f"{asked} {told}", _files(item), [("tables.query", query["select"][0]), ("files.write", target)], work)


def two_values(rng: random.Random) -> Task:
    """Two queries and what they make together: a difference, a sum, a ratio, a share."""
    item = sheet(rng)
    n = rng.choice(item.numbers)
    groups = sorted({row[1] for row in item.table["rows"]})
    if len(groups) < 2:
        return two_values(rng)
    a, b = rng.sample(groups, 2)
    kind = rng.choice(("sum", "avg", "max"))
    word = rng.choice(_STAT[kind])
    asked, expression = rng.choice((
        ("How much larger is the {w} {n} of {a} than that of {b}?", "{x} - {y}"),
        ("What is the difference between the {w} {n} for {a} and for {b}?", "{x} - {y}"),
        ("Subtract the {w} {n} of {b} from the {w} {n} of {a}.", "{x} - {y}"),
        ("Add the {w} {n} of {a} and the {w} {n} of {b}.", "{x} + {y}"),
        ("How many times the {w} {n} of {b} is the {w} {n} of {a}?", "{x} / {y}"),
        ("Divide the {w} {n} of {a} by the {w} {n} of {b}.", "{x} / {y}"),
    ))  # fmt: skip
    save = rng.random() < 0.6
    target = _target(rng)
    text = asked.format(w=word, n=n, a=a, b=b)
    if save:
        text += rng.choice((f" Write the result to {target}.", f" Save it in {target}.", f" Put the number into {target}."))

    def one(v: str) -> Query:
        return {"select": [f"{kind}({n})"], "where": [[item.group, "=", v]]}

    def work(run: _Run) -> tuple[str, list[dict[str, Any]]]:
        x, y = run.query(item, one(a)), run.query(item, one(b))
        found = run.compute(expression.format(x=x, y=y))
        checks: list[dict[str, Any]] = [{"answer": {"number": run.values[found], "tolerance": 0.01}}]
        if save:
            run.write(target, found)
            checks.append(_file_check(target, run, found))
        return found, checks

    steps = [("tables.query", f"{kind}({n}) {a}"), ("tables.query", f"{kind}({n}) {b}"), ("calculator", "combine")]
    return _make(text, _files(item), [*steps, *([("files.write", target)] if save else [])], work)


def joined(rng: random.Random) -> Task:
    """Two tables joined by a key; the answer is found in one and asked for by the other."""
    first, names, ids = rng.choice((
        ("orders", ("Acme", "Borealis", "Cirrus", "Dynamo", "Everest"), "customer"),
        ("shifts", ("Ada", "Ben", "Chloe", "David", "Elif", "Finn"), "employee"),
        ("shipments", ("Norda", "Velox", "Tramo", "Kestrel"), "carrier"),
        ("loans", ("Grace", "Hassan", "Isla", "Jakub", "Kira"), "member"),
    ))  # fmt: skip
    attribute, values = rng.choice((("city", ("Oslo", "Lyon", "Porto", "Graz")), ("country", ("Norway", "France", "Peru")), ("level", ("gold", "silver"))))
    amount = rng.choice(("amount", "hours", "weight", "days"))
    left = [[n + 1, rng.randrange(len(names)) + 1, rng.randint(1, 300)] for n in range(rng.randint(6, 14))]
    right = [[n + 1, name, rng.choice(values)] for n, name in enumerate(names)]
    key = f"{ids}_id"
    a = Sheet(first, {"header": ["id", key, amount], "types": ["integer"] * 3, "rows": left}, key, key, (amount,))
    b = Sheet(f"{ids}s", {"header": ["id", "name", attribute], "types": ["integer", "text", "text"], "rows": right}, "name", attribute, ())
    city = rng.choice([row[2] for row in right])
    who = {row[0]: (row[1], row[2]) for row in right}
    totals: dict[str, int] = {}
    for _, owner, number in left:
        totals[who[owner][0]] = totals.get(who[owner][0], 0) + number
    join = f"{b.name} on {key}=id"
    target = _target(rng)
    if rng.random() < 0.5:
        found = sum(number for _, owner, number in left if who[owner][1] == city)
        if not found:
            return joined(rng)
        asked = rng.choice(("What is the total {n} of {f} for {a} {c}?", "How much {n} in all do the {f} of {c} have?",
                            "Total {n} over all {f} whose {i} is in {c}?", "Sum up the {n} for {a} {c}."))  # fmt: skip
        text = asked.format(n=amount, f=first, a=attribute, c=city, i=ids)
        query: Query = {"join": join, "select": [f"sum({amount})"], "where": [[attribute, "=", city]]}
        value: list[Any] = [found]
    else:
        ranked = sorted(totals.items(), key=lambda pair: -pair[1])
        if len(ranked) < 2 or ranked[0][1] == ranked[1][1]:
            return joined(rng)
        asked = rng.choice(("Which {i} has the highest total {n} over the {f}?", "Name the {i} with the most {n} in all {f}.",
                            "Which {i} leads in total {n}? Give the name."))  # fmt: skip
        text = asked.format(i=ids, n=amount, f=first)
        query = {"join": join, "select": ["name"], "group_by": "name", "order_by": f"sum({amount}) desc", "limit": 1}
        value = [ranked[0][0]]
    save = rng.random() < 0.6
    if save:
        text += rng.choice((f" Write it to {target}.", f" Save the answer in {target}.", f" Put it into {target}."))

    def work(run: _Run) -> tuple[str, list[dict[str, Any]]]:
        handle = run.add(call("tables.query", table=a.name, **query), value)
        checks: list[dict[str, Any]] = [{"answer": {"items": value}}]
        if save:
            run.write(target, handle)
            checks.append(_file_check(target, run, handle))
        return handle, checks

    steps = [("tables.query", query["select"][0]), *([("files.write", target)] if save else [])]
    return _make(text, _files(a, b), steps, work)


def read_then_query(rng: random.Random) -> Task:
    """A value stands in a text file; the table is asked about it."""
    item = sheet(rng)
    v = rng.choice([row[1] for row in item.table["rows"]])
    n = rng.choice(item.numbers)
    kind = rng.choice(("sum", "max", "count"))
    note = rng.choice(("note", "choice", "filter", "wanted", "request", "question")) + ".txt"
    select = "count(*)" if kind == "count" else f"{kind}({n})"
    asked = {
        "sum": "what is the total {n} for it?", "max": "what is its highest {n}?", "count": "how many rows does it have?",
    }[kind].format(n=n)  # fmt: skip
    text = rng.choice(("The {g} is named in {f}: {q}", "Read the {g} from {f}; {q}", "{f} names a {g}: {q}",
                       "Look in {f} for the {g}, then tell me: {q}")).format(g=item.group, f=note, q=asked)  # fmt: skip
    files = {**_files(item), note: rng.choice((f"{v}\n", v, f"{item.group}: {v}\n", f"please use {v}"))}
    query: Query = {"select": [select], "where": [[item.group, "=", v]]}

    def work(run: _Run) -> tuple[str, list[dict[str, Any]]]:
        run.add(call("files.read", path=note), files[note])
        found = run.query(item, query)
        return found, [{"answer": {"items": run.values[found]}}]

    return _make(text, files, [("files.read", note), ("tables.query", select)], work)


def compute_write(rng: random.Random) -> Task:
    """A computation written to a file, with or without a number read from one."""
    a, b, target = rng.randint(2, 900), rng.randint(2, 90), _target(rng)
    if rng.random() < 0.5:
        asked, expression = rng.choice((
            (f"Compute {a} * {b}", f"{a} * {b}"), (f"What is {b}% of {a}?", f"{b}% of {a}"), (f"Add {a} and {b}", f"{a} + {b}"),
            (f"Convert {a} km to miles", f"{a} km in miles"), (f"Work out ({a} + {b}) / 4", f"({a} + {b}) / 4"),
        ))  # fmt: skip
        text = asked.rstrip("?") + rng.choice((f" and write the result to {target}.", f" and save it in {target}.", f", then put it into {target}."))

        def work(run: _Run) -> tuple[str, list[dict[str, Any]]]:
            found = run.compute(expression)
            run.write(target, found)
            return found, [_file_check(target, run, found)]

        return _make(text, {}, [("calculator", expression[:60]), ("files.write", target)], work)
    source = rng.choice(("price", "rate", "number", "amount", "budget", "count")) + ".txt"
    word, sign = rng.choice((("double", "* 2"), (f"add {b} to", f"+ {b}"), (f"add {b} % to", f"+ {b}%"), (f"multiply by {b}", f"* {b}"), ("halve", "/ 2")))
    text = rng.choice((f"Read the number in {source}, {word} it and write the result to {target}.",
                       f"Take the number from {source}, {word} it, then save it in {target}."))  # fmt: skip

    def read_work(run: _Run) -> tuple[str, list[dict[str, Any]]]:
        number = run.add(call("files.read", path=source), str(a))
        found = run.compute(f"{number} {sign}")
        run.write(target, found)
        return found, [_file_check(target, run, found)]

    return _make(text, {source: f"{a}\n" if rng.random() < 0.5 else str(a)},
                 [("files.read", source), ("calculator", word), ("files.write", target)], read_work)  # fmt: skip


def list_write(rng: random.Random) -> Task:
    """The rows that meet a condition, written as a list."""
    item, target = sheet(rng), _target(rng)
    v = rng.choice([row[1] for row in item.table["rows"]])
    text = rng.choice(("Write all {e}s with {g} {v} to {t}.", "List the {e} of every row where {g} is {v} and save the list in {t}.",
                       "Which {e}s have {g} {v}? Write them to {t}.", "Put every {e} whose {g} is {v} into {t}."))  # fmt: skip
    query: Query = {"select": [item.entity], "where": [[item.group, "=", v]]}

    def work(run: _Run) -> tuple[str, list[dict[str, Any]]]:
        found = run.query(item, query)
        run.write(target, found)
        return found, [_file_check(target, run, found)]

    made = text.format(e=item.entity, g=item.group, v=v, t=target)
    return _make(made, _files(item), [("tables.query", item.entity), ("files.write", target)], work)


MAKERS = (stat_change_write, stat_change_write, top_write, top_write, two_values, two_values, joined, read_then_query, compute_write, list_write)


def chores(rng: random.Random, number: int) -> Iterator[Task]:
    """Yield ``number`` workflows of all kinds."""
    for _ in range(number):
        yield rng.choice(MAKERS)(rng)


def conversations(rng: random.Random, number: int) -> Iterator[Task]:
    """Yield ``number`` chat sessions of two to four messages over one table, with small talk between."""
    for _ in range(number):
        item = sheet(rng)
        task = Task("chat", Goal.model_validate({"goal": "session", "files": _files(item)}))
        run = _Run(1)
        for turn in range(rng.randint(2, 4)):
            task.turns.append(_message(item, run, turn, rng))
        yield task


def _message(item: Sheet, run: _Run, turn: int, rng: random.Random) -> tuple[str, list[Any]]:
    n, v = rng.choice(item.numbers), rng.choice([row[1] for row in item.table["rows"]])
    draw = rng.random()
    last = next((handle for handle in reversed(run.values) if not str(run.values[handle]).endswith(".txt")), None)
    before = len(run.calls)
    if draw < 0.15:
        text, answer = rng.choice((("thanks", "You're welcome!"), ("ok", "Anything else?"), ("hello", "Hello! What can I do for you?")))
        return text, [finish(answer)]
    if turn and last and draw < 0.4 and isinstance(run.values[last], list) and len(run.values[last]) == 1 \
            and isinstance(run.values[last][0], int | float):  # fmt: skip
        p = rng.choice((5, 10, 19, 20, 50))
        text, expression = rng.choice(((f"add {p} % to that", f"{last} + {p}%"), (f"and {p}% of it?", f"{p}% of {last}"), ("double it", f"{last} * 2")))
        found = run.compute(expression)
        return text, [plan(("calculator", text)), *run.calls[before:], finish(found)]
    if turn and last and draw < 0.55:
        target = _target(rng)
        run.write(target, last)
        text = rng.choice((f"write that to {target}", f"save it in {target}", f"put the answer into {target}"))
        return text, [plan(("files.write", target)), *run.calls[before:], finish(f"Wrote {target}.")]
    kind = rng.choice(("sum", "avg", "max", "min", "count"))
    select = "count(*)" if kind == "count" else f"{kind}({n})"
    words = {"count": "how many rows"} | {k: f"{rng.choice(w)} {n}" for k, w in _STAT.items()}
    where = rng.random() < 0.5
    text = f"{words[kind]}{f' for {v}' if where else ''}?"
    text = text if turn == 0 or rng.random() < 0.5 else f"and the {text}" if kind != "count" else f"and {text}"
    query: Query = {"select": [select], **({"where": [[item.group, "=", v]]} if where else {})}
    found = run.query(item, query)
    return text, [plan(("tables.query", select)), *run.calls[before:], finish(found)]


