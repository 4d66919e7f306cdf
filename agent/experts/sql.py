"""Recorded SQL queries as arguments of ``tables.query``.

Covers what the data sets hold in a simple form: one select term, AND conditions (=, comparison,
LIKE '%x%'), GROUP BY one column, ORDER BY a column or count, LIMIT. Anything else is refused with
None; a query that is understood wrongly is caught later, because episodes are executed and compared.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from typing import Any

from ...errors import ToolError, UsageError
from ...tools.tables.query import run_query as run_structured
from ...tools.tables.query import to_number

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
    select = _term(match["select"], table)
    if select is None:
        return None
    query: dict[str, Any] = {"select": [select]}
    if match["where"]:
        where = _conditions(match["where"], table)
        if where is None:
            return None
        query["where"] = where
    if match["group"]:
        query["group_by"] = _column(match["group"].strip('"'), table)
    if match["order"]:
        order = _term(match["order"], table)
        query["order_by"] = f"{order} {(match['way'] or 'asc').lower()}"
    if match["limit"]:
        query["limit"] = int(match["limit"])
    return None if None in query.values() else query


def _term(text: str, table: Mapping[str, Any]) -> str | None:
    match = re.fullmatch(r"(?:(\w+)\(\s*(.+?)\s*\)|(.+))", text.strip(), re.DOTALL)
    if match is None:
        return None
    function, inner, plain = match.groups()
    if plain:
        return _column(plain.strip('"'), table)
    if inner == "*":
        return "count(*)" if function.lower() == "count" else None
    column = _column(inner.strip('"'), table)
    if column is None:
        return None
    kind = table["types"][table["header"].index(column)]
    if function.lower() in ("sum", "avg") and kind == "text":
        return None
    return f"{function.lower()}({column})"


def _column(name: str, table: Mapping[str, Any]) -> str | None:
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
    column = _column(name, table)
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


def run_query(query: Mapping[str, Any], table: Mapping[str, Any]) -> list[Any]:
    """Return the query's value over ``table``. Raises UsageError when it cannot run."""
    conn = sqlite3.connect(":memory:")
    kinds = {"text": "TEXT COLLATE NOCASE", "integer": "INTEGER", "real": "REAL"}
    quoted = ['"' + str(name).replace('"', '""') + '"' for name in table["header"]]
    columns = ", ".join(f"{name} {kinds[kind]}" for name, kind in zip(quoted, table["types"], strict=True))
    try:
        conn.create_function("to_number", 1, to_number, deterministic=True)
        conn.execute(f"CREATE TABLE t ({columns})")
        conn.executemany(f"INSERT INTO t VALUES ({', '.join('?' * len(quoted))})", table["rows"])
        value = run_structured(conn, {"table": "t", **query}).value
    except (ToolError, sqlite3.Error) as error:
        raise UsageError(str(error)) from error
    finally:
        conn.close()
    return list(value)
