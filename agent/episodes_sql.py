"""Turns the gold SQL of table questions into arguments of ``tables.query``.

WikiSQL's queries are ``SELECT [AGG(]"column"[)] FROM t [WHERE "column" op value AND ...]``; that
grammar is parsed here, nothing wider. Values are written as the narrowed schema wants them: the
cell's own spelling for an equality on a text column, a number for a numeric column. What does not
fit gives None, and no episode.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..tools.table_read import clean_header

_NAME = r'"((?:[^"]|"")+)"'
_SELECT = re.compile(rf"SELECT (?:(COUNT|SUM|AVG|MIN|MAX)\({_NAME}\)|{_NAME}) FROM t(?: WHERE (.+))?", re.S)
_CONDITION = re.compile(rf"{_NAME} ([<>!]?=|[<>]) (?:'((?:[^']|'')*)'|(-?[0-9.]+(?:[eE][-+]?[0-9]+)?))", re.S)


def parse_wikisql(
    sql: str, header: Sequence[str], columns: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any] | None:
    """Return ``select`` and ``where`` for a gold query, or None where it is outside the grammar.

    ``header`` holds the table's column names as its file has them; ``columns`` are the table's
    columns in the run's facts (name, type, values), used to spell values as the cells do.
    """
    match = _SELECT.fullmatch(sql.strip().rstrip(";"))
    if match is None:
        return None
    aggregate, aggregated, plain, rest = match.groups()
    named = {raw.lower(): name for raw, name in zip(header, clean_header(header), strict=True)}
    facts = {column["name"]: column for column in columns}
    name = named.get(_unquote(aggregated or plain))
    if name is None:
        return None
    arguments: dict[str, Any] = {"select": [f"{aggregate.lower()}({name})" if aggregate else name]}
    where = _conditions(rest, named, facts) if rest else []
    if where is None:
        return None
    if where:
        arguments["where"] = where
    return arguments


def _unquote(name: str) -> str:
    return name.replace('""', '"').lower()


def _conditions(
    text: str, named: Mapping[str, str], facts: Mapping[str, Mapping[str, Any]]
) -> list[list[Any]] | None:
    found: list[list[Any]] = []
    position = 0
    while match := _CONDITION.match(text, position):
        quoted, op, word, number = match.groups()
        name = named.get(_unquote(quoted))
        if name is None:
            return None
        said = word.replace("''", "'") if word is not None else number
        value = _value(said, op, facts.get(name, {"type": "text" if word is not None else "real"}))
        if value is None:
            return None
        found.append([name, op, value])
        position = match.end()
        if position == len(text):
            return found
        if not text.startswith(" AND ", position):
            return None
        position += len(" AND ")
    return None


def _value(said: str, op: str, column: Mapping[str, Any]) -> str | int | float | None:
    """Return a value as the column's schema wants it; None when it cannot be said."""
    if column["type"] == "text":
        if op not in ("=", "!=") or "values" not in column:
            return said
        return next((cell for cell in column["values"] if cell.lower() == said.strip().lower()), None)
    try:
        number = float(said.replace(",", ""))
    except ValueError:
        return None
    whole = number.is_integer() and abs(number) < 2**53
    if column["type"] == "integer" and not whole:
        return None
    return int(number) if whole else number
