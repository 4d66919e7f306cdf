"""Mending a SELECT that failed for want of quotes: what people and small models forget.

Tried only after SQLite has refused the statement, so a right one is never touched. Limits: an apostrophe is
doubled only in cells that the run's facts list; a name that is a word of SQL may be quoted where the word was
meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

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
    odd = {n.casefold(): n for n in names if not n.isidentifier() or n.lower() in _KEYWORDS}
    if not odd:
        return sql
    longest = sorted(odd.values(), key=len, reverse=True)
    bare = "|".join(rf"(?<!\w){re.escape(name)}(?!\w)(?!\s+by\b)" for name in longest)
    parts = re.split(r"""('(?:[^']|'')*'|"(?:[^"]|"")*"|\[[^\]]*\]|`[^`]*`)""", sql)
    for i in range(0, len(parts), 2):  # the others are quoted already
        parts[i] = re.sub(bare, lambda found: quote(odd[found[0].casefold()]), parts[i], flags=re.I)
    return "".join(parts)
