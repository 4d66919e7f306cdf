"""What a small reader should know of a table: columns, few-valued cells, cells named by the goal, joins.

The text is short on purpose (a typical table stays under 80 tokens): a column is shown with its
type, or with its values when there are two to four short ones; beyond that only the cells that
occur in the goal as whole words are shown, in the table's own spelling, because those are what a
query will have to name. Everything is computed from the loaded tables and the goal alone.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .read import quote

MAX_SHOWN_COLUMNS = 24
MAX_FOUND = 8
FIRST_ROW = "first row: "
"""How the line begins that shows a row; models that name tools only were trained without it."""
_MAX_EXAMPLE = 24
"""Characters of a cell of that row."""
_MAX_EXAMPLES = 12
_MAX_SHOWN_VALUES = 4
_MAX_JOINS = 2
"""Per pair of tables."""
_MAX_JOINS_SHOWN = 4
"""Per table."""
_MAX_JOINED_TABLES = 10
_MAX_GOAL = 2000
_TOKEN = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+|[^\w\s]")
_NUMBER = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d{1,15}(?:\.\d{1,10})?", re.ASCII)
_DATE = re.compile(r"\d+([-/.])\d+\1\d+|\d{1,2}:\d{2}(?::\d{2})?", re.ASCII)
_DASHES = str.maketrans({"–": "-", "—": "-", "−": "-", "’": "'", "‘": "'", "“": '"', "”": '"'})
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by did do does for from had has have how i in is it no not of on or s "
        "that the to was were what when where which who whose why with yes",
    )
)


def preview(name: str, table: Mapping[str, Any], found: str, row: Sequence[Any] = ()) -> str:
    """Return the description of a table from its facts.

    ``found``: the line of found cells or ''; ``row``: the first row's cells, as an example.
    """
    columns = table["columns"]
    shown = [_column(c, table["rows"]) for c in columns[:MAX_SHOWN_COLUMNS]]
    if len(columns) > MAX_SHOWN_COLUMNS:
        shown.append(f"… {len(columns) - MAX_SHOWN_COLUMNS} more columns")
    rows = "1 row" if table["rows"] == 1 else f"{table['rows']} rows"
    lines = [f"table {name} ({rows}): {', '.join(shown)}"]
    lines += [found] if found else []
    lines += [f"join: {'; '.join(table['joins'])}"] if table["joins"] else []
    lines += [FIRST_ROW + ", ".join(map(_example, row[:_MAX_EXAMPLES]))] if row else []
    return "\n".join(lines)


def _example(cell: Any) -> str:
    text = f"{cell:.10g}" if isinstance(cell, float) else " ".join(str(cell).split())
    text = "null" if cell is None else text
    text = text if len(text) <= _MAX_EXAMPLE else text[: _MAX_EXAMPLE - 1] + "…"
    return f'"{text}"' if "," in text else text


def _column(column: Mapping[str, Any], rows: int) -> str:
    name = column["name"] if len(column["name"]) <= 40 else column["name"][:39] + "…"
    if "," in name or "|" in name:
        name = f'"{name}"'
    values = column.get("values")
    if values and 2 <= len(values) <= min(_MAX_SHOWN_VALUES, rows - 1) and len("|".join(values)) <= 40:
        return f"{name} {'|'.join(values)}"
    return f"{name} {column['type']}"


# --- cells that occur in the goal -----------------------------------------------------------


def found_line(conn: sqlite3.Connection, name: str, columns: Iterable[Mapping[str, Any]], goal: str) -> str:
    """Return ``found: "nordfracht" in supplier; 42 in number``, or '' when nothing occurs."""
    phrases = _phrases(goal)
    if not phrases:
        return ""
    numbers = _numbers(phrases)
    places: dict[str, list[str]] = {}
    spans: dict[str, set[tuple[int, int]]] = {}
    for column in columns:
        text = column["type"] == "text"
        for cell in _matches(conn, name, column, phrases if text else numbers):
            shown = f'"{cell}"' if text else f"{cell:.15g}" if isinstance(cell, float) else str(cell)
            places.setdefault(shown, []).append(column["name"])
            spans.setdefault(shown, set()).update(phrases.get(fold(cell), ()) if text else numbers[cell])
    best = sorted((s for s in places if spans[s]), key=lambda shown: (-len(shown), min(spans[shown])))
    kept: list[str] = []
    for shown in best:
        free = {s for s in spans[shown] if not any(_inside(s, t) for k in kept for t in spans[k])}
        if free and len(kept) < MAX_FOUND:
            kept.append(shown)
            spans[shown] = free
    kept.sort(key=lambda shown: min(spans[shown]))
    parts = [f"{shown} in {', '.join(places[shown][:3])}" for shown in kept]
    return "found: " + "; ".join(parts) if parts else ""


def _inside(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1] and inner != outer


def _phrases(goal: str) -> dict[str, set[tuple[int, int]]]:
    """Return every run of whole words in the goal, lower case, with where it stands."""
    text = goal[:_MAX_GOAL].translate(_DASHES).lower()
    tokens = [match.span() for match in _TOKEN.finditer(text)]
    found: dict[str, set[tuple[int, int]]] = {}
    for first, (start, _) in enumerate(tokens):
        for _, end in tokens[first : first + 14]:
            phrase = " ".join(text[start:end].split())
            if len(phrase) > 60:
                break
            if phrase not in _COMMON and any(c.isalnum() for c in phrase):
                found.setdefault(phrase, set()).add((start, end))
    return found


def _numbers(phrases: Mapping[str, set[tuple[int, int]]]) -> dict[float, set[tuple[int, int]]]:
    """Return the numbers among the phrases; the parts of a date or a time are none."""
    dates = {span for phrase, spans in phrases.items() if _DATE.fullmatch(phrase) for span in spans}
    numbers: dict[float, set[tuple[int, int]]] = {}
    for phrase, spans in phrases.items():
        free = {span for span in spans if not any(_inside(span, date) for date in dates)}
        if free and _NUMBER.fullmatch(phrase):
            numbers.setdefault(float(phrase.replace(",", "")), set()).update(free)
    return numbers


def _matches(
    conn: sqlite3.Connection, table: str, column: Mapping[str, Any], wanted: Iterable[Any]
) -> list[Any]:
    """Return the distinct cells of a column that are among ``wanted``."""
    if "values" in column:
        phrases = set(wanted)
        return [cell for cell in column["values"] if fold(cell) in phrases]
    name, keys = quote(column["name"]), list(wanted)
    cells: list[Any] = []
    for start in range(0, len(keys), 10_000):
        part = keys[start : start + 10_000]
        marks = ",".join("?" * len(part))
        sql = f"SELECT DISTINCT {name} FROM {quote(table)} WHERE {name} IN ({marks})"
        cells += [cell for (cell,) in conn.execute(sql, part)]
    return cells


def fold(cell: str) -> str:
    """Return a cell as the goal's phrases are written: lower case, plain dashes, single spaces."""
    return " ".join(cell.translate(_DASHES).lower().split())


# --- joins ----------------------------------------------------------------------------------


def joins(conn: sqlite3.Connection, tables: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return, for each table, plausible joins such as ``suppliers on supplier_id=id``, best first."""
    found: dict[str, list[str]] = {name: [] for name in tables}
    names = list(tables)[:_MAX_JOINED_TABLES]
    for position, left in enumerate(names):
        for right in names[position + 1 :]:
            for a, b in _pairs(conn, left, tables[left], right, tables[right])[:_MAX_JOINS]:
                found[left].append(f"{right} on {a}={b}")
                found[right].append(f"{left} on {b}={a}")
    return {name: texts[:_MAX_JOINS_SHOWN] for name, texts in found.items()}


def _pairs(
    conn: sqlite3.Connection, left: str, a: Mapping[str, Any], right: str, b: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Return column pairs that join two tables: alike in name and sharing cells, or text mostly shared."""
    scored: list[tuple[float, str, str]] = []
    for x in a["columns"][:MAX_SHOWN_COLUMNS]:
        for y in b["columns"][:MAX_SHOWN_COLUMNS]:
            if (x["type"] == "text") != (y["type"] == "text") or "real" in (x["type"], y["type"]):
                continue
            named = _alike(x["name"], y["name"], left, right)
            if not named and (x["type"] != "text" or min(_variety(x), _variety(y)) < 3):
                continue
            shared = _shared(conn, left, x["name"], right, y["name"])
            if shared > 0 and (named == 2 or shared >= 0.6):
                scored.append((shared + named, x["name"], y["name"]))
    best = sorted(scored, key=lambda pair: -pair[0])
    sure = [pair for pair in best if pair[0] > 2]
    return [(x, y) for _, x, y in sure or best]


def _alike(x: str, y: str, left: str, right: str) -> int:
    """How far names say that columns join: 2 for the same name, or ``supplier_id`` (or ``supplier``)
    and the ``id`` of suppliers; 1 for any other ``..._id`` and ``id``; else 0."""
    x, y = _words(x), _words(y)
    if x == y:
        return 2 if x != "id" else 0
    likeness = 0
    keys = ("id", "name", "code", "key", "number", "no")
    for key, owner, other in ((y, right, x), (x, left, y)):
        single = _words(owner).removesuffix("s")
        if key in keys and other in (f"{single} {key}", single, f"{_words(owner)} {key}"):
            return 2
        if key == "id" and other.endswith(" id"):
            likeness = 2 if single.startswith(other[:3]) else 1
    return likeness


def _words(name: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower()))


def _variety(column: Mapping[str, Any]) -> int:
    return len(column["values"]) if "values" in column else 1000


def _shared(conn: sqlite3.Connection, left: str, x: str, right: str, y: str) -> float:
    """Return the larger share, of either column's distinct cells (at most 1000), found in the other."""
    shares = []
    for a, p, b, q in ((left, x, right, y), (right, y, left, x)):
        sql = (
            f"SELECT avg(v IN (SELECT {quote(q)} FROM {quote(b)})) FROM (SELECT DISTINCT {quote(p)} AS v "
            f"FROM {quote(a)} WHERE {quote(p)} IS NOT NULL LIMIT 1000)"
        )
        shares.append(conn.execute(sql).fetchone()[0] or 0.0)
    return max(shares)
