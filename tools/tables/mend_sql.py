"""Mending a SELECT that failed over a name, and saying what was nearly meant: what small models forget.

Tried only after SQLite has refused the statement, so a right one is never touched. Limits: an apostrophe is
doubled only in cells that the run's facts list; a name that is a word of SQL may be quoted where the word was
meant. Hints for a result without rows look at equalities of a column and a text alone.
"""

from __future__ import annotations

import difflib
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .read import quote

_KEYWORDS = frozenset({
    "add", "all", "alter", "case", "check", "column", "constraint", "create", "default", "delete", "drop",
    "group", "having", "index", "insert", "order", "primary", "references", "set", "table", "to",
    "transaction", "trigger", "unique", "update", "values", "view", "when",
})  # fmt: skip
"""SQLite's words that tables and columns are often called by, and that a SELECT seldom needs as such."""


def mend_sql(sql: str, names: Iterable[str], cells: Iterable[str] = ()) -> str:
    """Return ``sql`` with what people and small models forget: quotes around names, doubled apostrophes.

    Names that are no identifiers, or words of SQL (but for ``ORDER BY`` and ``GROUP BY``), are put in
    double quotes wherever they stand bare: ``Year Joined = 1966``, ``FROM table``. ``cells`` that hold an
    apostrophe are looked for as they are: ``'St. John's'``.
    """
    for cell in cells:
        if "'" in cell:
            sql = sql.replace(f"'{cell}'", "'" + cell.replace("'", "''") + "'")
    known = list(names)
    odd = {n.casefold(): n for n in known if not n.isidentifier() or n.lower() in _KEYWORDS}
    joined = {re.sub(r"\W+", "_", n).strip("_").casefold(): n for n in known if not n.isidentifier()}
    short = {n.partition(" (")[0].casefold(): n for n in known if " (" in n}
    plain = {name.casefold() for name in known}
    odd |= {key: n for key, n in (short | joined).items() if key and key not in plain}
    if not odd:
        return sql
    longest = sorted(odd, key=len, reverse=True)
    bare = "|".join(rf"(?<!\w){re.escape(name)}(?!\w)(?!\s+by\b)" for name in longest)
    parts = re.split(r"""('(?:[^']|'')*'|"(?:[^"]|"")*"|\[[^\]]*\]|`[^`]*`)""", sql)
    for i in range(0, len(parts), 2):  # the others are quoted already
        parts[i] = re.sub(bare, lambda found: quote(odd[found[0].casefold()]), parts[i], flags=re.I)
    return "".join(parts)


def near_names(error: str, names: Sequence[str]) -> str:
    """Return what to add to SQLite's error about a name that does not exist: the nearest, or all."""
    found = re.search(r"no such (column|table): (.+)$", error)
    if found is None:
        return ""
    wanted = found[2].rpartition(".")[2].replace("_", " ").casefold()
    near = difflib.get_close_matches(wanted, [name.casefold() for name in names], 1, 0.75)
    if near:
        return f"; did you mean {quote(next(n for n in names if n.casefold() == near[0]))}?"
    listed = ", ".join(map(quote, dict.fromkeys(names)))
    return f"; there are {listed if len(listed) <= _LISTED else listed[:_LISTED] + '…'}"


_LISTED = 300
_EQUAL = re.compile(r"""("(?:[^"]|"")+"|\w+)\s*(?:=|LIKE)\s*'((?:[^']|'')*)'""", re.I)


def near_cells(sql: str, facts: Mapping[str, Any], conn: sqlite3.Connection) -> str:
    """Return which text of a statement without rows no cell has, with the nearest cells; '' without any."""
    for name, text in _EQUAL.findall(sql):
        column = name.strip('"').replace('""', '"')
        value = text.replace("''", "'").strip("%")
        for table, entry in facts.get("tables", {}).items():
            same = [c["name"] for c in entry["columns"] if c["name"].casefold() == column.casefold()]
            if not same:
                continue
            rows = conn.execute(f"SELECT DISTINCT {quote(same[0])} FROM {quote(table)} LIMIT 2000").fetchall()
            cells = [str(cell) for (cell,) in rows if cell is not None]
            if any(value.casefold() in cell.casefold() for cell in cells):
                continue
            lower = {cell.casefold(): cell for cell in reversed(cells)}
            near = [lower[key] for key in difflib.get_close_matches(value.casefold(), list(lower), 2, 0.5)]
            shown = ", ".join(f'"{cell[:60]}"' for cell in near or cells[:3])
            return f'no {same[0]} is "{value}" ({"nearest" if near else "there are"}: {shown})'
    return ""
