"""Goals of several dependent steps over several tools: look up, compute, write.

Each maker draws a goal with its tables or files, works out the expert's calls and what they give, and
returns the task with checks of the outcome. The benchmark's workflows are made elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..goals.load import Goal
from .expert import Task, call, finish, handles_before, plan
from .sheets import (
    STATISTICS,
    Check,
    Query,
    Sheet,
    Work,
    sheet,
    sheet_files,
    target_name,
)


def _make(
    goal: str,
    files: Mapping[str, str],
    steps: list[tuple[str, str]],
    work: Callable[[Work], tuple[str, list[Check]]],
) -> Task:
    base = handles_before(Goal.model_validate({"goal": "x", "files": dict(files)}))
    run = Work(base)
    answer, checks = work(run)
    made = Goal.model_validate({"goal": goal, "files": dict(files), "check": checks})
    return Task("workflows", made, [plan(*steps), *run.calls, finish(answer)])


def stat_change_write(rng: random.Random) -> Task:
    """A statistic of a column, changed by a percent, factor or amount, written to a file."""
    item, target = sheet(rng), target_name(rng)
    n, kind = rng.choice(item.numbers), rng.choice(tuple(STATISTICS))
    where: list[Any] = []
    of = ""
    if rng.random() < 0.45:
        v = rng.choice([row[1] for row in item.table["rows"]])
        where, of = (
            [[item.group, "=", v]],
            rng.choice((f" for {v}", f" where {item.group} is {v}", f" of {v}")),
        )
    p = rng.choice((5, 7, 10, 12, 15, 19, 20, 25))
    change, expression = rng.choice((
        (f"add {p} %", f"{{h}} + {p}%"), (f"add {p}% to it", f"{{h}} + {p}%"),
        (f"multiply it by {p}", f"{{h}} * {p}"), (f"divide it by {p}", f"{{h}} / {p}"),
        (f"subtract {p}", f"{{h}} - {p}"), (f"take {p} % off", f"{{h}} - {p}%"),
        (f"take {p} percent of it", f"{p}% of {{h}}"), (f"add {p}", f"{{h}} + {p}"),
        ("double it", "{h} * 2"), ("round it to a whole number", "round({h})"),
        ("round it to one decimal", "round({h}, 1)"),
    ))  # fmt: skip
    word = rng.choice(STATISTICS[kind])
    source = rng.choice(("", f" in {item.name}.csv", f" from {item.name}.csv"))
    text = rng.choice((
        "Find the {w} {n}{of}{s}, {c} and write the result to {t}.",
        "What is the {w} {n}{of}{s}? Then {c} and save it to {t}.",
        "Take the {w} {n}{of}{s}, {c}, then write that to {t}.",
        "Get the {w} {n}{of}{s}; {c}; put the result into {t}.",
    )).format(w=word, n=n, of=of, s=source, c=change, t=target)  # fmt: skip
    query: Query = {"select": [f"{kind}({n})"], **({"where": where} if where else {})}

    def work(run: Work) -> tuple[str, list[Check]]:
        found = run.compute(expression.format(h=run.query(item, query)))
        run.write(target, found)
        return found, [run.file_check(target, found)]

    return _make(
        text,
        sheet_files(item),
        [("tables.query", f"{kind}({n})"), ("calculator", change), ("files.write", target)],
        work,
    )


def top_write(rng: random.Random) -> Task:
    """The row or group that leads, written to a file."""
    item, target = sheet(rng), target_name(rng)
    n = rng.choice(item.numbers)
    column = rng.choice((item.entity, item.group))
    draw = rng.random()
    if draw < 0.4:
        way = rng.choice(("desc", "asc"))
        word = rng.choice(
            ("highest", "largest", "most") if way == "desc" else ("lowest", "smallest", "least")
        )
        query: Query = {"select": [item.entity], "order_by": f"{n} {way}", "limit": 1}
        asked = rng.choice((
            "Which {e} has the {w} {n}?",
            "Find the {e} with the {w} {n}.",
            "Who or what has the {w} {n}? Give the {e}.",
        ))  # fmt: skip
        asked = asked.format(e=item.entity, w=word, n=n)
    elif draw < 0.7:
        query = {"select": [column], "group_by": column, "order_by": "count(*) desc", "limit": 1}
        asked = rng.choice(("Which {e} appears most often?", "Which {e} has the most rows?",
                            "What is the most common {e}?",
                            "Find the {e} with the most entries.")).format(e=column)  # fmt: skip
    else:
        query = {"select": [column], "group_by": column, "order_by": f"sum({n}) desc", "limit": 1}
        asked = rng.choice(("Which {e} has the highest total {n}?",
                            "Find the {e} with the largest total {n}.",
                            "Which {e} leads in total {n}?")).format(e=column, n=n)  # fmt: skip
    told = rng.choice(
        ("Write the name to {t}.", "Write it to {t}.", "Save the name in {t}.", "Put the answer into {t}.")
    ).format(t=target)

    def work(run: Work) -> tuple[str, list[Check]]:
        found = run.query(item, query)
        run.write(target, found)
        return found, [run.file_check(target, found)]

    return _make(
        f"{asked} {told}",
        sheet_files(item),
        [("tables.query", query["select"][0]), ("files.write", target)],
        work,
    )


def two_values(rng: random.Random) -> Task:
    """Two queries and what they make together: a difference, a sum, a ratio, a share."""
    item = sheet(rng)
    n = rng.choice(item.numbers)
    groups = sorted({row[1] for row in item.table["rows"]})
    if len(groups) < 2:
        return two_values(rng)
    a, b = rng.sample(groups, 2)
    kind = rng.choice(("sum", "avg", "max"))
    word = rng.choice(STATISTICS[kind])
    asked, expression = rng.choice((
        ("How much larger is the {w} {n} of {a} than that of {b}?", "{x} - {y}"),
        ("What is the difference between the {w} {n} for {a} and for {b}?", "{x} - {y}"),
        ("Subtract the {w} {n} of {b} from the {w} {n} of {a}.", "{x} - {y}"),
        ("Add the {w} {n} of {a} and the {w} {n} of {b}.", "{x} + {y}"),
        ("How many times the {w} {n} of {b} is the {w} {n} of {a}?", "{x} / {y}"),
        ("Divide the {w} {n} of {a} by the {w} {n} of {b}.", "{x} / {y}"),
    ))  # fmt: skip
    save = rng.random() < 0.6
    target = target_name(rng)
    text = asked.format(w=word, n=n, a=a, b=b)
    if save:
        text += rng.choice(
            (f" Write the result to {target}.", f" Save it in {target}.", f" Put the number into {target}.")
        )

    def one(v: str) -> Query:
        return {"select": [f"{kind}({n})"], "where": [[item.group, "=", v]]}

    def work(run: Work) -> tuple[str, list[Check]]:
        x, y = run.query(item, one(a)), run.query(item, one(b))
        found = run.compute(expression.format(x=x, y=y))
        checks: list[Check] = [{"answer": {"number": run.values[found], "tolerance": 0.01}}]
        if save:
            run.write(target, found)
            checks.append(run.file_check(target, found))
        return found, checks

    steps = [
        ("tables.query", f"{kind}({n}) {a}"),
        ("tables.query", f"{kind}({n}) {b}"),
        ("calculator", "combine"),
    ]
    return _make(text, sheet_files(item), [*steps, *([("files.write", target)] if save else [])], work)


def _linked(rng: random.Random) -> tuple[Sheet, Sheet]:
    """Return a table of amounts with a second column that refers to rows of another table."""
    first, names, ids = rng.choice((
        ("orders", ("Acme", "Borealis", "Cirrus", "Dynamo", "Everest"), "customer"),
        ("shifts", ("Ada", "Ben", "Chloe", "David", "Elif", "Finn"), "employee"),
        ("shipments", ("Norda", "Velox", "Tramo", "Kestrel"), "carrier"),
        ("loans", ("Grace", "Hassan", "Isla", "Jakub", "Kira"), "member"),
    ))  # fmt: skip
    attribute, values = rng.choice((
        ("city", ("Oslo", "Lyon", "Porto", "Graz")),
        ("country", ("Norway", "France", "Peru")),
        ("level", ("gold", "silver")),
    ))  # fmt: skip
    amount = rng.choice(("amount", "hours", "weight", "days"))
    left = [[n + 1, rng.randrange(len(names)) + 1, rng.randint(1, 300)] for n in range(rng.randint(6, 14))]
    right = [[n + 1, name, rng.choice(values)] for n, name in enumerate(names)]
    key = f"{ids}_id"
    many = {"header": ["id", key, amount], "types": ["integer"] * 3, "rows": left}
    one = {"header": ["id", "name", attribute], "types": ["integer", "text", "text"], "rows": right}
    return Sheet(first, many, key, key, (amount,)), Sheet(f"{ids}s", one, "name", attribute, ())


def joined(rng: random.Random) -> Task:
    """Two tables joined by a key; the answer is found in one and asked for by the other."""
    many, one = _linked(rng)
    city = rng.choice([row[2] for row in one.table["rows"]])
    target = target_name(rng)
    made = _joined_sum(many, one, city, rng) if rng.random() < 0.5 else _joined_top(many, one, rng)
    if made is None:
        return joined(rng)
    text, query, value = made
    save = rng.random() < 0.6
    if save:
        text += rng.choice((f" Write it to {target}.", f" Save the answer in {target}.",
                            f" Put it into {target}."))  # fmt: skip

    def work(run: Work) -> tuple[str, list[Check]]:
        handle = run.add(call("tables.query", table=many.name, **query), value)
        checks: list[Check] = [{"answer": {"items": value}}]
        if save:
            run.write(target, handle)
            checks.append(run.file_check(target, handle))
        return handle, checks

    steps = [("tables.query", query["select"][0]), *([("files.write", target)] if save else [])]
    return _make(text, sheet_files(many, one), steps, work)


Joined = tuple[str, Query, list[Any]] | None


def _joined_sum(many: Sheet, one: Sheet, city: str, rng: random.Random) -> Joined:
    amount, key = many.numbers[0], many.entity
    chosen = {row[0] for row in one.table["rows"] if row[2] == city}
    found = sum(number for _, owner, number in many.table["rows"] if owner in chosen)
    if not found:
        return None
    asked = rng.choice(("What is the total {n} of {f} for {a} {c}?",
                        "How much {n} in all do the {f} of {c} have?",
                        "Total {n} over all {f} whose {i} is in {c}?",
                        "Sum up the {n} for {a} {c}."))  # fmt: skip
    ids = key.removesuffix("_id")
    text = asked.format(n=amount, f=many.name, a=one.group, c=city, i=ids)
    select, where = [f"sum({amount})"], [[one.group, "=", city]]
    return text, {"join": f"{one.name} on {key}=id", "select": select, "where": where}, [found]


def _joined_top(many: Sheet, one: Sheet, rng: random.Random) -> Joined:
    amount, key = many.numbers[0], many.entity
    names = {row[0]: row[1] for row in one.table["rows"]}
    totals: dict[str, int] = {}
    for _, owner, number in many.table["rows"]:
        totals[names[owner]] = totals.get(names[owner], 0) + number
    ranked = sorted(totals.items(), key=lambda pair: -pair[1])
    if len(ranked) < 2 or ranked[0][1] == ranked[1][1]:
        return None
    asked = rng.choice(("Which {i} has the highest total {n} over the {f}?",
                        "Name the {i} with the most {n} in all {f}.",
                        "Which {i} leads in total {n}? Give the name."))  # fmt: skip
    text = asked.format(i=key.removesuffix("_id"), n=amount, f=many.name)
    query = {"join": f"{one.name} on {key}=id", "select": ["name"], "group_by": "name",
             "order_by": f"sum({amount}) desc", "limit": 1}  # fmt: skip
    return text, query, [ranked[0][0]]


def read_then_query(rng: random.Random) -> Task:
    """Read a value from a text file and query the table for it."""
    item = sheet(rng)
    v = rng.choice([row[1] for row in item.table["rows"]])
    n = rng.choice(item.numbers)
    kind = rng.choice(("sum", "max", "count"))
    note = rng.choice(("note", "choice", "filter", "wanted", "request", "question")) + ".txt"
    select = "count(*)" if kind == "count" else f"{kind}({n})"
    asked = {
        "sum": "what is the total {n} for it?", "max": "what is its highest {n}?",
        "count": "how many rows does it have?",
    }[kind].format(n=n)  # fmt: skip
    text = rng.choice(("The {g} is named in {f}: {q}", "Read the {g} from {f}; {q}", "{f} names a {g}: {q}",
                       "Look in {f} for the {g}, then tell me: {q}")).format(g=item.group, f=note,
                           q=asked)  # fmt: skip
    files = {**sheet_files(item), note: rng.choice((f"{v}\n", v, f"{item.group}: {v}\n", f"please use {v}"))}
    query: Query = {"select": [select], "where": [[item.group, "=", v]]}

    def work(run: Work) -> tuple[str, list[Check]]:
        run.add(call("files.read", path=note), files[note])
        found = run.query(item, query)
        return found, [{"answer": {"items": run.values[found]}}]

    return _make(text, files, [("files.read", note), ("tables.query", select)], work)


def compute_write(rng: random.Random) -> Task:
    """A computation written to a file, with or without a number read from one."""
    a, b, target = rng.randint(2, 900), rng.randint(2, 90), target_name(rng)
    if rng.random() < 0.5:
        asked, expression = rng.choice((
            (f"Compute {a} * {b}", f"{a} * {b}"), (f"What is {b}% of {a}?", f"{b}% of {a}"),
            (f"Add {a} and {b}", f"{a} + {b}"),
            (f"Convert {a} km to miles", f"{a} km in miles"),
            (f"Work out ({a} + {b}) / 4", f"({a} + {b}) / 4"),
        ))  # fmt: skip
        text = asked.rstrip("?") + rng.choice((
            f" and write the result to {target}.",
            f" and save it in {target}.",
            f", then put it into {target}.",
        ))  # fmt: skip

        def work(run: Work) -> tuple[str, list[Check]]:
            found = run.compute(expression)
            run.write(target, found)
            return found, [run.file_check(target, found)]

        return _make(text, {}, [("calculator", expression[:60]), ("files.write", target)], work)
    source = rng.choice(("price", "rate", "number", "amount", "budget", "count")) + ".txt"
    word, sign = rng.choice((
        ("double", "* 2"),
        (f"add {b} to", f"+ {b}"),
        (f"add {b} % to", f"+ {b}%"),
        (f"multiply by {b}", f"* {b}"),
        ("halve", "/ 2"),
    ))  # fmt: skip
    text = rng.choice((f"Read the number in {source}, {word} it and write the result to {target}.",
                       f"Take the number from {source}, {word} it, then save it in {target}."))  # fmt: skip

    def read_work(run: Work) -> tuple[str, list[Check]]:
        number = run.add(call("files.read", path=source), str(a))
        found = run.compute(f"{number} {sign}")
        run.write(target, found)
        return found, [run.file_check(target, found)]

    return _make(text, {source: f"{a}\n" if rng.random() < 0.5 else str(a)},
                 [("files.read", source), ("calculator", word), ("files.write", target)],
                 read_work)  # fmt: skip


def list_write(rng: random.Random) -> Task:
    """The rows that meet a condition, written as a list."""
    item, target = sheet(rng), target_name(rng)
    v = rng.choice([row[1] for row in item.table["rows"]])
    text = rng.choice(("Write all {e}s with {g} {v} to {t}.",
                       "List the {e} of every row where {g} is {v} and save the list in {t}.",
                       "Which {e}s have {g} {v}? Write them to {t}.",
                       "Put every {e} whose {g} is {v} into {t}."))  # fmt: skip
    query: Query = {"select": [item.entity], "where": [[item.group, "=", v]]}

    def work(run: Work) -> tuple[str, list[Check]]:
        found = run.query(item, query)
        run.write(target, found)
        return found, [run.file_check(target, found)]

    made = text.format(e=item.entity, g=item.group, v=v, t=target)
    return _make(made, sheet_files(item), [("tables.query", item.entity), ("files.write", target)], work)


MAKERS = (
    stat_change_write,
    stat_change_write,
    top_write,
    top_write,
    two_values,
    two_values,
    joined,
    read_then_query,
    compute_write,
    list_write,
)


def chores(rng: random.Random, number: int) -> Iterator[Task]:
    """Yield ``number`` workflows of all kinds."""
    for _ in range(number):
        yield rng.choice(MAKERS)(rng)
