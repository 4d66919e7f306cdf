"""Table questions: WikiSQL and WikiTableQuestions with their queries, and our own wordings.

The query of a question becomes the arguments of ``tables.query``; the episode is kept only when
running it gives the answer that the data set holds. A third of the tables are shown in title case,
because the source is lower case and people's tables are not. Templated questions add what WikiSQL
lacks: order, group, limit and counts over real tables.

Of recorded SQL the simple forms are read: one select term, AND conditions (=, comparison, LIKE '%x%'), GROUP
BY one column, ORDER BY a column or count, LIMIT. Others are skipped; a query that is understood wrongly is
caught later, because episodes are executed and compared.
"""

from __future__ import annotations

import csv
import io
import random
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...errors import ToolError, UsageError
from ...tools.tables.query import run_query as run_structured
from ...tools.tables.query import to_number
from ...tools.tables.read import quote
from ..goals.load import Goal
from .data import is_train, read_records
from .expert import Task, call, finish, handles_before, plan

Table = Mapping[str, Any]
FILE_NAMES = ("table", "data", "list", "records", "results", "sheet", "export")


def table_csv(table: Table) -> str:
    """Return the table as CSV text."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table["header"])
    for row in table["rows"]:
        writer.writerow(["" if cell is None else cell for cell in row])
    return out.getvalue()


def table_name(title: str, rng: random.Random) -> str:
    """Return a file name such as people give: a few words of the title, or a plain word."""
    words = re.findall(r"[a-z0-9]+", title.lower())[: rng.randint(1, 3)]
    if not words or rng.random() < 0.3:
        words = [rng.choice(FILE_NAMES)]
    return "_".join(words)


def retitled(table: Table) -> dict[str, Any]:
    """Return the table with headers and cells in title case."""
    header = [_title(str(name)) for name in table["header"]]
    rows = [[_title(cell) if isinstance(cell, str) else cell for cell in row] for row in table["rows"]]
    return {**table, "header": header, "rows": rows}


def _title(text: str) -> str:
    return re.sub(r"(^|[\s(/\-])([a-z])", lambda match: match[1] + match[2].upper(), text)


def simple_name(name: str) -> str:
    """Return the table name that the tool makes of a file's stem."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "t"


def purpose(query: Mapping[str, Any]) -> str:
    """Return what a query is for, in a few words: its first selected thing."""
    return str(query["select"][0])[:60]


def question_task(
    question: str, table: Table, query: dict[str, Any], answer: Sequence[Any], name: str
) -> Task:
    """Return the task of one question over one table: plan, query, finish with the handle."""
    check = [{"answer": {"items": list(answer)}}]
    goal = Goal.model_validate({"goal": question, "files": {f"{name}.csv": table_csv(table)}, "check": check})
    steps = [
        plan(("tables.query", purpose(query))),
        call("tables.query", table=simple_name(name), **query),
        finish(f"${handles_before(goal) + 1}"),
    ]
    return Task("tables", goal, steps)


def with_mistake(task: Task, query: Mapping[str, Any], table: Table, rng: random.Random) -> Task:
    """Put a query that finds nothing before the right one; the mistake itself carries no loss."""
    where = [list(condition) for condition in query.get("where") or []]
    if not where:
        return task
    wrong = rng.choice(where)
    cells = sorted({str(row[table["header"].index(wrong[0])]) for row in table["rows"]})
    if not isinstance(wrong[2], str) or wrong[1] != "=" or len(cells) < 2 or len(where) < 2:
        return task
    wrong[2] = rng.choice([cell for cell in cells if cell != wrong[2]])
    mistaken = {**query, "where": where}
    try:
        if run_query(mistaken, table):
            return task
    except UsageError:
        return task
    last = handles_before(task.goal) + 2
    calls = [
        task.calls[0],
        call("tables.query", table=task.calls[1].arguments["table"], **mistaken),
        task.calls[1],
    ]
    return Task("tables", task.goal, [*calls, finish(f"${last}")], unlearned=(1,))


def wikisql(rng: random.Random, limit: int | None = None) -> Iterator[Task]:
    """Yield tasks from ``wikisql_train`` in random order."""
    tables = {record["id"]: record for record in read_records("wikisql_train_tables")}
    questions = list(read_records("wikisql_train"))
    rng.shuffle(questions)
    for record in questions[:limit]:
        yield from _recorded(record, record["sql"], tables[record["table_id"]], rng)


def wtq(rng: random.Random, limit: int | None = None) -> Iterator[Task]:
    """Yield tasks from those questions of ``wtq_train`` whose query is simple and trusted."""
    tables = {record["id"]: record for record in read_records("wtq_tables")}
    kinds = {"list", "count", "order", "group", "sum", "max", "min", "avg"}
    chosen = [
        record
        for record in read_records("wtq_train")
        if record["sql_silver"]
        and record.get("sql_kind") in kinds
        and record.get("sql_score", 0) >= 3.0
        and is_train("wtq", record["table_id"])
    ]
    rng.shuffle(chosen)
    for record in chosen[:limit]:
        yield from _recorded(record, record["sql_silver"], tables[record["table_id"]], rng, case=0.0)


def _recorded(
    record: Mapping[str, Any], sql: str, table: Table, rng: random.Random, case: float = 0.35
) -> Iterator[Task]:
    if len(table["rows"]) > 400 or len(table["header"]) > 14:
        return
    query = parse_query(sql, table)
    if query is None:
        return
    if rng.random() < case:
        titled = retitled(table)
        query = parse_query(_retitled_sql(sql), titled)
        table = titled
    if query is None:
        return
    task = question_task(record["question"], table, query, record["answer"], table_name(table["title"], rng))
    yield with_mistake(task, query, table, rng) if rng.random() < 0.3 else task


def _retitled_sql(sql: str) -> str:
    return re.sub(r'"((?:[^"]|"")+)"', lambda match: '"' + _title(match[1]) + '"', sql)


# Our own wordings over real tables. ``{a}`` is a text column, ``{n}`` a number column, ``{v}`` a cell.
_ORDER = (
    "which {a} has the {top} {n}?", "what is the {a} with the {top} {n}?",
    "who or what has the {top} {n}? give the {a}", "name the {a} with the {top} {n}",
    "find the {a} whose {n} is the {top}",
)  # fmt: skip
_TOP = {
    "desc": ("highest", "largest", "most", "greatest", "biggest"),
    "asc": ("lowest", "smallest", "least", "fewest"),
}
_COUNT = (
    "how many rows have {a} {v}?", "how many entries are there with {a} {v}?",
    "count the rows where {a} is {v}",
    "how often is the {a} {v}?", "how many times does {v} appear as {a}?", "how many have {v} as the {a}?",
)  # fmt: skip
_GROUP = (
    "which {a} appears most often?", "which {a} occurs the most?", "what is the most common {a}?",
    "which {a} has the most rows?", "which {a} had the most entries?",
)  # fmt: skip
_GROUP_WHERE = (
    "which {a} appears most often where {b} is {v}?", "which {a} had the most rows with {b} {v}?",
    "among those with {b} {v}, which {a} is the most common?", "which {a} has the most {v} entries?",
)  # fmt: skip
_GROUP_SUM = (
    "which {a} has the highest total {n}?", "which {a} has the largest sum of {n}?",
    "what {a} leads in total {n}?", "which {a} adds up to the most {n}?",
)  # fmt: skip
_AGGREGATE = {
    "avg": ("what is the average {n}?", "average {n}", "what is the mean of {n}?"),
    "sum": ("what is the total {n}?", "add up all the {n}", "what is the sum of {n}?"),
    "max": ("what is the highest {n}?", "what is the maximum {n}?", "largest {n}?"),
    "min": ("what is the lowest {n}?", "what is the minimum {n}?", "smallest {n}?"),
}
_AGGREGATE_WHERE = {
    "avg": ("what is the average {n} for {v}?", "mean {n} where {a} is {v}"),
    "sum": (
        "what is the total {n} for {v}?",
        "how much {n} in all for {a} {v}?",
        "sum of {n} where {a} is {v}",
    ),
    "max": ("what is the highest {n} for {v}?", "largest {n} where {a} is {v}?"),
    "min": ("what is the lowest {n} for {v}?", "smallest {n} where {a} is {v}?"),
}
_TOP_N = ("list the {k} {a} with the {top} {n}", "which {k} {a} have the {top} {n}?", "top {k} {a} by {n}")
_ALL = (
    "how many rows are there?", "how many entries does the table have?", "count the rows",
    "how many records are there in total?",
)  # fmt: skip


def templated(
    rng: random.Random, count: int, sources: Sequence[str] = ("wikisql_train", "wtq")
) -> Iterator[Task]:
    """Yield ``count`` templated questions over tables of WikiSQL and WikiTableQuestions."""
    tables = [
        table
        for source in sources
        for table in read_records(f"{source}_tables")
        if source != "wtq" or is_train("wtq", table["id"])
    ]
    made = 0
    while made < count:
        table = rng.choice(tables)
        if not 4 <= len(table["rows"]) <= 80 or len(table["header"]) > 12:
            continue
        if rng.random() < 0.4 and not str(table["id"]).startswith("wtq"):
            table = retitled(table)
        task = templated_task(table, rng)
        if task is not None:
            made += 1
            yield task


def templated_task(table: Table, rng: random.Random, name: str | None = None) -> Task | None:
    """Return one templated question over ``table``, or None when it does not suit."""
    text, numbers = columns_of(table)
    if not text or not numbers:
        return None
    a, n = rng.choice(text), rng.choice(numbers)
    maker = rng.choice(
        (_order_query, _count_query, _group_query, _group_sum_query, _aggregate_query, _top_query)
    )
    made = maker(table, a, n, rng)
    if made is None:
        return None
    question, query = made
    answer = evaluate(query, table)
    if answer is None:
        return None
    return question_task(question, table, query, answer, name or table_name(table["title"], rng))


def columns_of(table: Table) -> tuple[list[str], list[str]]:
    """Return the names of the table's text columns and of its number columns that suit questions."""
    text, numbers = [], []
    for index, (name, kind) in enumerate(zip(table["header"], table["types"], strict=True)):
        cells = [row[index] for row in table["rows"]]
        if not str(name).strip() or '"' in name or len(name) > 40 or None in cells:
            continue
        if kind == "text" and all(len(str(cell)) < 50 for cell in cells):
            text.append(name)
        elif kind != "text" and len(set(cells)) > 2 and name.lower() not in ("no", "id", "rank", "#"):
            numbers.append(name)
    return text, numbers


Made = tuple[str, dict[str, Any]] | None


def _column(table: Table, name: str) -> list[Any]:
    index = table["header"].index(name)
    return [row[index] for row in table["rows"]]


def _order_query(table: Table, a: str, n: str, rng: random.Random) -> Made:
    values = _column(table, n)
    way = rng.choice(("desc", "asc"))
    best = max(values) if way == "desc" else min(values)
    if values.count(best) != 1:
        return None
    question = rng.choice(_ORDER).format(a=a, n=n, top=rng.choice(_TOP[way]))
    return question, {"select": [a], "order_by": f"{n} {way}", "limit": 1}


def _count_query(table: Table, a: str, n: str, rng: random.Random) -> Made:
    if rng.random() < 0.15:
        return rng.choice(_ALL), {"select": ["count(*)"]}
    v = rng.choice(_column(table, a))
    return rng.choice(_COUNT).format(a=a, v=v), {"select": ["count(*)"], "where": [[a, "=", v]]}


def _top_group(values: Sequence[Any]) -> Any:
    counts = sorted(((values.count(value), str(value)) for value in set(values)), reverse=True)
    return counts[0][1] if len(counts) > 1 and counts[0][0] > counts[1][0] else None


def _group_query(table: Table, a: str, n: str, rng: random.Random) -> Made:
    text, _ = columns_of(table)
    query: dict[str, Any] = {"select": [a], "group_by": a, "order_by": "count(*) desc", "limit": 1}
    others = [name for name in text if name != a]
    if others and rng.random() < 0.6:
        b = rng.choice(others)
        v = rng.choice(_column(table, b))
        kept = [x for x, y in zip(_column(table, a), _column(table, b), strict=True) if y == v]
        if len(kept) < 3 or _top_group(kept) is None:
            return None
        question = rng.choice(_GROUP_WHERE).format(a=a, b=b, v=v)
        return question, {
            "select": [a],
            "where": [[b, "=", v]],
            **{k: query[k] for k in ("group_by", "order_by", "limit")},
        }
    if _top_group(_column(table, a)) is None:
        return None
    return rng.choice(_GROUP).format(a=a), query


def _group_sum_query(table: Table, a: str, n: str, rng: random.Random) -> Made:
    totals: dict[Any, float] = {}
    for key, value in zip(_column(table, a), _column(table, n), strict=True):
        totals[key] = totals.get(key, 0) + value
    ranked = sorted(totals.values(), reverse=True)
    if len(ranked) < 2 or len(ranked) == len(table["rows"]) or ranked[0] == ranked[1]:
        return None
    question = rng.choice(_GROUP_SUM).format(a=a, n=n)
    return question, {"select": [a], "group_by": a, "order_by": f"sum({n}) desc", "limit": 1}


def _aggregate_query(table: Table, a: str, n: str, rng: random.Random) -> Made:
    kind = rng.choice(tuple(_AGGREGATE))
    if rng.random() < 0.5:
        return rng.choice(_AGGREGATE[kind]).format(n=n), {"select": [f"{kind}({n})"]}
    v = rng.choice(_column(table, a))
    question = rng.choice(_AGGREGATE_WHERE[kind]).format(a=a, n=n, v=v)
    return question, {"select": [f"{kind}({n})"], "where": [[a, "=", v]]}


def _top_query(table: Table, a: str, n: str, rng: random.Random) -> Made:
    k, way = rng.randint(2, 5), rng.choice(("desc", "asc"))
    values = sorted(_column(table, n), reverse=way == "desc")
    if len(values) <= k or values[k - 1] == values[k]:
        return None
    wording = rng.choice(_TOP_N if way == "desc" else _TOP_N[:2])
    question = wording.format(k=k, a=a, n=n, top=rng.choice(_TOP[way]))
    return question, {"select": [a], "order_by": f"{n} {way}", "limit": k}


def evaluate(query: Mapping[str, Any], table: Table) -> list[Any] | None:
    """Return the query's answer by the tool itself, or None when it fails or finds nothing."""
    try:
        values = run_query(query, table)
    except UsageError:
        return None
    return values or None


_NAME = r'"((?:[^"]|"")+)"'
_TERM = rf"(?:(COUNT|SUM|AVG|MIN|MAX)\(\s*(?:{_NAME}|\*)\s*\)|{_NAME}|COUNT\(\*\))"
_QUERY = re.compile(
    rf"SELECT (?P<select>{_TERM}) FROM t"
    r"(?: WHERE (?P<where>.+?))?"
    rf"(?: GROUP BY (?P<group>{_NAME}))?"
    rf"(?: ORDER BY (?P<order>{_TERM})(?: (?P<way>ASC|DESC))?)?"
    r"(?: LIMIT (?P<limit>\d+))?",
    re.IGNORECASE | re.DOTALL,
)
_VALUE = r"('(?:[^']|'')*'|-?\d+(?:\.\d+)?)"
_CONDITION = re.compile(rf"{_NAME}\s*(=|!=|<>|>=|<=|>|<|LIKE)\s*{_VALUE}", re.IGNORECASE)


def parse_query(sql: str, table: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the query's arguments without the table's name, or None when it is not simple.

    Values of equalities are written as the cell is spelt, because the schema lists cells.
    """
    match = _QUERY.fullmatch(sql.strip().rstrip(";"))
    if match is None:
        return None
    select = _sql_term(match["select"], table)
    if select is None:
        return None
    query: dict[str, Any] = {"select": [select]}
    if match["where"]:
        where = _conditions(match["where"], table)
        if where is None:
            return None
        query["where"] = where
    if match["group"]:
        query["group_by"] = _header(match["group"].strip('"'), table)
    if match["order"]:
        order = _sql_term(match["order"], table)
        query["order_by"] = f"{order} {(match['way'] or 'asc').lower()}"
    if match["limit"]:
        query["limit"] = int(match["limit"])
    return None if None in query.values() else query


def _sql_term(text: str, table: Mapping[str, Any]) -> str | None:
    match = re.fullmatch(r"(?:(\w+)\(\s*(.+?)\s*\)|(.+))", text.strip(), re.DOTALL)
    if match is None:
        return None
    function, inner, plain = match.groups()
    if plain:
        return _header(plain.strip('"'), table)
    if inner == "*":
        return "count(*)" if function.lower() == "count" else None
    column = _header(inner.strip('"'), table)
    if column is None:
        return None
    kind = table["types"][table["header"].index(column)]
    if function.lower() in ("sum", "avg") and kind == "text":
        return None
    return f"{function.lower()}({column})"


def _header(name: str, table: Mapping[str, Any]) -> str | None:
    wanted = name.replace('""', '"').lower()
    names = [header for header in table["header"] if str(header).lower() == wanted]
    return names[0].strip() if len(names) == 1 and names[0].strip() == names[0] else None


def _conditions(text: str, table: Mapping[str, Any]) -> list[list[Any]] | None:
    found: list[list[Any]] = []
    rest = text.strip()
    while rest:
        match = _CONDITION.match(rest)
        if match is None:
            return None
        condition = _condition(match[1], match[2], match[3], table)
        if condition is None:
            return None
        found.append(condition)
        rest = rest[match.end() :].strip()
        if rest:
            if not rest.upper().startswith("AND "):
                return None
            rest = rest[4:].strip()
    return found or None


def _condition(name: str, operator: str, literal: str, table: Mapping[str, Any]) -> list[Any] | None:
    column = _header(name, table)
    if column is None:
        return None
    index = table["header"].index(column)
    numeric = table["types"][index] != "text"
    text = literal[1:-1].replace("''", "'") if literal.startswith("'") else literal
    operator = {"<>": "!="}.get(operator, operator.upper())
    if operator == "LIKE":
        inner = text.strip("%")
        return [column, "contains", inner] if not numeric and inner and "%" not in inner else None
    if numeric:
        number = to_number(text)
        if number is None:
            return None
        return [column, operator, int(number) if float(number).is_integer() else number]
    if operator in ("=", "!="):
        cells = {str(row[index]).strip() for row in table["rows"] if row[index] is not None}
        same = [cell for cell in cells if cell.lower() == text.strip().lower()]
        return [column, operator, sorted(same)[0]] if same else None
    return [column, operator, text]


def insert_table(conn: sqlite3.Connection, name: str, table: Mapping[str, Any]) -> None:
    """Make ``table`` in a database, under ``name``."""
    kinds = {"text": "TEXT COLLATE NOCASE", "integer": "INTEGER", "real": "REAL"}
    quoted = [quote(str(column)) for column in table["header"]]
    pairs = zip(quoted, table["types"], strict=True)
    columns = ", ".join(f"{column} {kinds[kind]}" for column, kind in pairs)
    conn.execute(f"CREATE TABLE {quote(name)} ({columns})")
    conn.executemany(f"INSERT INTO {quote(name)} VALUES ({', '.join('?' * len(quoted))})", table["rows"])


def run_query(query: Mapping[str, Any], table: Mapping[str, Any]) -> list[Any]:
    """Return the query's value over ``table``. Raises UsageError when it cannot run."""
    conn = sqlite3.connect(":memory:")
    try:
        conn.create_function("to_number", 1, to_number, deterministic=True)
        insert_table(conn, "t", table)
        value = run_structured(conn, {"table": "t", **query}).value
    except (ToolError, sqlite3.Error) as error:
        raise UsageError(str(error)) from error
    finally:
        conn.close()
    return list(value)
