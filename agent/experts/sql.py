"""Table questions in SQL, for models that know it: ``tables.sql`` in place of ``tables.query``.

:func:`in_sql` writes the queries of any task as SELECT statements. :func:`wtq` adds what a structured query
cannot say (differences, rows before and after, the same as another's, either of two) from the queries that
WikiTableQuestions records; :func:`sheets` our own wordings over made-up tables: per group, distinct,
expressions, months, two tables. Episodes are executed and compared, so a wrong statement is dropped.
"""

from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...llm.message import ToolCall
from ...tools.handles import text_form
from ...tools.tables.read import quote
from ..goals.load import Goal
from .data import is_train, read_records
from .expert import Task, call, finish, handles_before, plan
from .sheets import Sheet, sheet, target_name
from .tables import insert_table, simple_name, table_csv, table_name

_AGGREGATE = re.compile(r"(count|sum|avg|min|max)\((.+)\)")
_HANDLE = re.compile(r"\$\d+")
_PURPOSE = 60
_RESERVED = frozenset(
    re.findall(
        r"\w+",
        "ADD ALL AND AS ASC BETWEEN BY CASE CHECK COLUMN CREATE DEFAULT DELETE DESC DISTINCT DROP ELSE END "
        "EXISTS FROM FULL GROUP HAVING IN INDEX INNER INSERT INTO IS JOIN LEFT LIKE LIMIT NOT NULL OFFSET ON "
        "OR ORDER OUTER PRIMARY REFERENCES RIGHT SELECT SET TABLE THEN TO TRANSACTION UNION UNIQUE UPDATE "
        "USING VALUES VIEW WHEN WHERE WITH",
    )
)


def identifier(name: str) -> str:
    """Return a name as SQL needs it: in double quotes unless it is one plain word that SQL does not use."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) and name.upper() not in _RESERVED
    return name if plain else quote(name)


def literal(value: Any) -> str:
    """Return a value as SQL writes it."""
    if isinstance(value, bool) or value is None:
        return {True: "1", False: "0", None: "NULL"}[value]
    return str(value) if isinstance(value, int | float) else "'" + str(value).replace("'", "''") + "'"


def statement(query: Mapping[str, Any]) -> str:
    """Return a structured query as a SELECT statement."""
    terms = [_term(name) for name in query["select"]]
    table = query["table"]
    sql = f"SELECT {', '.join(terms)} FROM {identifier(table)}"
    if query.get("join"):
        other, _, pair = query["join"].partition(" on ")
        left, _, right = pair.partition("=")
        sql += f" JOIN {identifier(other)} ON {_column(f'{table}.{left}')} = {_column(f'{other}.{right}')}"
    if query.get("where"):
        sql += " WHERE " + " AND ".join(map(_condition, query["where"]))
    found = [_AGGREGATE.fullmatch(name) for name in query["select"]]
    plain = [term for term, match in zip(terms, found, strict=True) if match is None]
    aggregates = [match[1] for match in found if match]
    if query.get("group_by"):
        sql += f" GROUP BY {_column(query['group_by'])}"
    elif aggregates and plain and aggregates not in (["min"], ["max"]):
        sql += f" GROUP BY {', '.join(plain)}"
    if query.get("order_by"):
        name, _, way = query["order_by"].rpartition(" ")
        sql += f" ORDER BY {_term(name)}" + (" DESC" if way == "desc" else "")
    return sql + (f" LIMIT {query['limit']}" if query.get("limit") else "")


def _column(name: str) -> str:
    """Return a column's name, which may have its table's before it."""
    table, dot, column = name.partition(".")
    return f"{identifier(table)}.{identifier(column)}" if dot and " " not in name else identifier(name)


def _term(name: str) -> str:
    found = _AGGREGATE.fullmatch(name)
    if found is None:
        return _column(name)
    return f"{found[1].upper()}({'*' if found[2] == '*' else _column(found[2])})"


def _condition(item: Sequence[Any]) -> str:
    name, operator, value = item
    if _HANDLE.fullmatch(str(value)):
        value = f"{{{value}}}"
    if operator == "contains":
        return f"{_column(name)} LIKE {literal(f'%{value}%')}"
    return f"{_column(name)} {operator} {literal(value)}"


def in_sql(task: Task) -> Task:
    """Return the task with its queries as SQL."""
    return replace(
        task, calls=_converted(task.calls), turns=[(text, _converted(calls)) for text, calls in task.turns]
    )


def _converted(calls: Sequence[ToolCall]) -> list[ToolCall]:
    made = []
    for one in calls:
        if one.name == "tables.query":
            one = call("tables.sql", sql=statement(one.arguments))
        elif one.name == "plan":
            steps = [(step["tool"], step["for"]) for step in one.arguments["steps"]]
            one = plan(*((("tables.sql" if tool == "tables.query" else tool), what) for tool, what in steps))
        made.append(one)
    return made


_QUOTED = re.compile(r"""("(?:[^"]|"")+")|('(?:[^']|'')*')""")


def wtq(rng: random.Random) -> Iterator[Task]:
    """Yield the questions of ``wtq_train`` whose recorded query is trusted, in SQL."""
    tables = {record["id"]: record for record in read_records("wtq_tables")}
    chosen = [
        record
        for record in read_records("wtq_train")
        if record["sql_silver"] and record.get("sql_score", 0) >= 3.5 and is_train("wtq", record["table_id"])
    ]
    rng.shuffle(chosen)
    for record in chosen:
        table = tables[record["table_id"]]
        if len(table["rows"]) <= 120 and len(table["header"]) <= 12:
            name = table_name(table["title"], rng)
            sql = _QUOTED.sub(
                lambda found: found[2] or identifier(found[1][1:-1].replace('""', '"')), record["sql_silver"]
            )
            sql = re.sub(r"\bFROM t\b", f"FROM {identifier(simple_name(name))}", sql)
            files = {f"{name}.csv": table_csv(table)}
            yield _task(record["question"], files, sql, record["answer"], rng)


def _task(
    question: str, files: Mapping[str, str], sql: str, answer: Sequence[Any], rng: random.Random
) -> Task:
    wanted = {"equals" if any(isinstance(value, list) for value in answer) else "items": list(answer)}
    goal = Goal.model_validate({"goal": question, "files": files, "check": [{"answer": wanted}]})
    selected = re.sub(r"\s+", " ", sql[len("SELECT ") :].split(" FROM ")[0]).replace('"', "")
    calls = [plan(("tables.sql", selected[:_PURPOSE])), call("tables.sql", sql=sql)]
    return Task("tables", goal, [*calls, finish(f"${handles_before(goal) + 1}")])


_ONE: Sequence[tuple[Sequence[str], str]] = (
    (("How many rows does each {g} have?", "Count the rows per {g}.", "Number of entries for every {g}?"),
     "SELECT {G}, COUNT(*) FROM {t} GROUP BY {G}"),
    (("What is the total {n} per {g}?", "Sum up {n} for each {g}.", "{n} by {g}, please: the totals."),
     "SELECT {G}, SUM({N}) FROM {t} GROUP BY {G}"),
    (("What is the average {n} of each {g}?", "Mean {n} by {g}?"),
     "SELECT {G}, AVG({N}) FROM {t} GROUP BY {G}"),
    (("How many different {e} are there?", "How many distinct {e} does the list have?"),
     "SELECT COUNT(DISTINCT {E}) FROM {t}"),
    (("List every {g} once.", "Which {g} are there?", "Show the different {g}.", "All {g} please"),
     "SELECT DISTINCT {G} FROM {t}"),
    (("What is {n} plus {m} over all rows?", "Add up {n} and {m} of everything."),
     "SELECT SUM({N} + {M}) FROM {t}"),
    (("What is the sum of {n} times {m}?", "Multiply {n} by {m} in each row and add it all up."),
     "SELECT SUM({N} * {M}) FROM {t}"),
    (("Which {e} has the largest difference between {n} and {m}?",
      "For which {e} do {n} and {m} differ most?"),
     "SELECT {E} FROM {t} ORDER BY ABS({N} - {M}) DESC LIMIT 1"),
    (("What is the total {n} of {v} and {w}?", "Sum of {n} for {v} and {w} together?",
      "How much {n} do {v} and {w} have in all?"),
     "SELECT SUM({N}) FROM {t} WHERE {G} IN ({V}, {W})"),
    (("How many rows are either {v} or {w}?", "How many entries have {v} or {w} as {g}?"),
     "SELECT COUNT(*) FROM {t} WHERE {G} IN ({V}, {W})"),
    (("What share of all rows is {v}, in percent?", "How many percent of the entries are {v}?"),
     "SELECT 100.0 * SUM({G} = {V}) / COUNT(*) FROM {t}"),
    (("What percent of the total {n} comes from {v}?", "{v}'s share of {n}, in percent?"),
     "SELECT 100.0 * SUM(CASE WHEN {G} = {V} THEN {N} END) / SUM({N}) FROM {t}"),
    (("How many {e} are above the average {n}?", "How many rows have more {n} than the average?"),
     "SELECT COUNT(*) FROM {t} WHERE {N} > (SELECT AVG({N}) FROM {t})"),
    (("Show {e}, {n} and {m} of the rows of {v}.", "{e}, {n} and {m} where {g} is {v}"),
     "SELECT {E}, {N}, {M} FROM {t} WHERE {G} = {V}"),
    (("Which {g} come up more than twice?", "Which {g} have at least three rows?"),
     "SELECT {G} FROM {t} GROUP BY {G} HAVING COUNT(*) > 2"),
    (("Which {e} is second by {n}?", "What {e} has the second highest {n}?"),
     "SELECT {E} FROM {t} ORDER BY {N} DESC LIMIT 1 OFFSET 1"),
    (("{e} with {n} between {a} and {b}?", "Which {e} have a {n} from {a} to {b}?"),
     "SELECT {E} FROM {t} WHERE {N} BETWEEN {a} AND {b}"),
    (("How many rows of {mon}?", "How many entries were in {mon}?", "Count what happened in {mon}."),
     "SELECT COUNT(*) FROM {t} WHERE {D} LIKE '{ym}%'"),
    (("Total {n} in {mon}?", "How much {n} came together in {mon}?"),
     "SELECT SUM({N}) FROM {t} WHERE {D} LIKE '{ym}%'"),
    (("Which {e} is the newest?", "What is the latest {e} by {d}?"),
     "SELECT {E} FROM {t} ORDER BY {D} DESC LIMIT 1"),
    (("Total {n} of {v} after {day}?", "What {n} did {v} have in all after {day}?"),
     "SELECT SUM({N}) FROM {t} WHERE {G} = {V} AND {D} > '{day}'"),
)  # fmt: skip
_TWO: Sequence[tuple[Sequence[str], str]] = (
    (("Which {x} of {o} never appears in {s}?", "Which {x} has no row in {s} at all?",
      "Which {x} is in {o} but not in {s}?"),
     "SELECT {X} FROM {o} WHERE {X} NOT IN (SELECT {X} FROM {s})"),
    (("What is the total {n} of each {k}?", "Sum {n} per {k}.", "{n} in all by {k}?"),
     "SELECT {K}, SUM({N}) FROM {s} JOIN {o} ON {s}.{X} = {o}.{X} GROUP BY {K}"),
    (("Which {k} has the most {n} in total?", "Which {k} comes first by its sum of {n}?"),
     "SELECT {K} FROM {s} JOIN {o} ON {s}.{X} = {o}.{X} GROUP BY {K} ORDER BY SUM({N}) DESC LIMIT 1"),
    (("How many rows of {s} belong to {k} {c}?", "How many entries has {k} {c}?"),
     "SELECT COUNT(*) FROM {s} JOIN {o} ON {s}.{X} = {o}.{X} WHERE {K} = {C}"),
    (("What is the total {n} for {k} {c}?", "How much {n} does {k} {c} bring together?"),
     "SELECT SUM({N}) FROM {s} JOIN {o} ON {s}.{X} = {o}.{X} WHERE {K} = {C}"),
)  # fmt: skip
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
           "November", "December")  # fmt: skip
_KINDS = (
    ("region", ("north", "south", "east", "west")), ("level", ("gold", "silver", "basic")),
    ("country", ("Austria", "Norway", "Spain", "Chile")), ("team", ("red", "blue", "green")),
)  # fmt: skip


def sheets(rng: random.Random, number: int) -> Iterator[Task]:
    """Yield ``number`` questions over made-up tables, a third of them over two."""
    made = 0
    while made < number:
        item = sheet(rng)
        task = _over_two(item, rng) if rng.random() < 0.33 else _over_one(item, rng)
        if task is not None:
            made += 1
            yield task


def _over_one(item: Sheet, rng: random.Random) -> Task | None:
    table, date = item.table, rng.choice(("date", "day", "due", "booked"))
    days = [f"2026-{rng.randint(1, 6):02}-{rng.randint(1, 28):02}" for _ in table["rows"]]
    table = {
        **table,
        "header": [*table["header"], date],
        "types": [*table["types"], "text"],
        "rows": [[*row, day] for row, day in zip(table["rows"], days, strict=True)],
    }
    n, m = (item.numbers * 2)[:2]
    groups = sorted({row[1] for row in table["rows"]})
    if n == m or len(groups) < 2 or date in item.table["header"]:
        return None
    v, w = rng.sample(groups, 2)
    low = rng.randint(1, 500)
    month = rng.choice(days)[:7]
    values = {
        "t": identifier(simple_name(item.name)), "e": item.entity, "E": identifier(item.entity),
        "g": item.group, "G": identifier(item.group), "n": n, "N": identifier(n), "m": m, "M": identifier(m),
        "v": v, "V": literal(v), "w": w, "W": literal(w), "a": low, "b": low + rng.randint(100, 400),
        "d": date, "D": identifier(date), "ym": month, "mon": f"{_MONTHS[int(month[5:]) - 1]} {month[:4]}",
        "day": rng.choice(days),
    }  # fmt: skip
    return _filled(rng.choice(_ONE), values, {item.name: table}, rng)


def _over_two(item: Sheet, rng: random.Random) -> Task | None:
    key, kinds = rng.choice(_KINDS)
    if key in map(str.lower, item.table["header"]):
        return None
    names = sorted({row[0] for row in item.table["rows"]})
    other: dict[str, Any] = {"header": [item.entity, key], "types": ["text", "text"],
             "rows": [[name, rng.choice(kinds)] for name in [*names, *_more(names, rng)]]}  # fmt: skip
    rng.shuffle(other["rows"])
    title = rng.choice(("master", "register", "members", "catalogue", "overview"))
    n = rng.choice(item.numbers)
    c = rng.choice(kinds)
    values = {
        "s": identifier(simple_name(item.name)), "o": title, "x": item.entity, "X": identifier(item.entity),
        "k": key, "K": identifier(key), "n": n, "N": identifier(n), "c": c, "C": literal(c),
    }  # fmt: skip
    return _filled(rng.choice(_TWO), values, {item.name: item.table, title: other}, rng)


def _more(names: Sequence[str], rng: random.Random) -> list[str]:
    """Return one or two names that the first table lacks."""
    return [
        f"{rng.choice(names)} {word}" for word in rng.sample(("II", "junior", "new", "B"), rng.randint(1, 2))
    ]


_SAVED = 0.3
_SAVE = ("{q} Write it to {f}.", "{q} Save the result as {f}.", "{q} Put that into {f}.",
         "{q} Store it in {f}", "Write to {f}: {q}", "Into {f} please: {q}",
         "Make a file {f} with the answer: {q}")  # fmt: skip


def _saved(task: Task, answer: Sequence[Any], rng: random.Random) -> Task:
    """Return the task with its result also written to a file."""
    target = target_name(rng)
    result = str(task.calls[-1].arguments["answer"])
    text = rng.choice(_SAVE).format(q=task.goal.goal, f=target)
    check = [{"file": {"path": target, "equals": text_form(answer)}}]
    goal = task.goal.model_dump(mode="json", exclude={"id"}) | {"goal": text, "check": check}
    steps = [(step["tool"], step["for"]) for step in task.calls[0].arguments["steps"]]
    write = call("files.write", path=target, content=result)
    calls = [plan(*steps, ("files.write", target)), *task.calls[1:-1], write, task.calls[-1]]
    return replace(task, goal=Goal.model_validate(goal), calls=calls)


def _filled(
    form: tuple[Sequence[str], str], values: Mapping[str, Any], tables: Mapping[str, Any], rng: random.Random
) -> Task | None:
    """Return the task of a form, with the answer that SQLite gives; None where that is empty or a tie."""
    question, sql = rng.choice(form[0]).format(**values), form[1].format(**values)
    conn = sqlite3.connect(":memory:")
    for name, table in tables.items():
        insert_table(conn, simple_name(name), table)
    try:
        rows = conn.execute(sql).fetchall()
    except sqlite3.Error:  # a name that both tables have
        return None
    finally:
        conn.close()
    answer: list[Any] = [list(row) if len(row) > 1 else row[0] for row in rows]
    if not answer or None in answer or len(answer) > 12:
        return None
    files = {f"{name}.csv": table_csv(table) for name, table in tables.items()}
    task = _task(question, files, sql, answer, rng)
    return _saved(task, answer, rng) if rng.random() < _SAVED else task
