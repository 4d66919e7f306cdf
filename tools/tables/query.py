"""The structured query: its JSON schema from what is loaded, the SQL it means, and how results read.

A query is an object ``table, join?, select, where?, group_by?, order_by?, limit?``. Its schema
names the tables, columns, aggregates and cells that are there, so a masked model chooses instead of
spelling; a model without masks is checked here, and told the nearest name. The SQL is built from
known identifiers and bound parameters only. Aggregates group by the plain columns beside them,
except with one ``min`` or ``max``, where SQLite takes the plain columns from the row that has it
("which supplier has the most days"). Several tables are joined by equality of one column pair.
"""

from __future__ import annotations

import difflib
import math
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import ToolError
from ...labels import Label
from ..base import ToolResult
from .read import quote

MAX_ROWS = 10_000
MAX_SECONDS = 5.0
_ORDER = ("<", "<=", ">", ">=")
_SHOWN_ROWS = 10
_SHOWN_CELL = 60


@dataclass(frozen=True)
class Term:
    """Something that can be selected: a column or an aggregate over one."""

    sql: str
    aggregate: str
    """``count``, ``sum``, ... or '' for a plain column."""
    type: str


def run_query(conn: sqlite3.Connection, args: Mapping[str, Any]) -> ToolResult:
    """Run a structured query and return its rows, a preview and, when nothing matched, a hint."""
    names, source = _source(conn, args)
    terms = scope_terms(conn, names)
    select = [_term(terms, name) for name in _texts(args["select"])]
    conditions = [_condition(terms, item) for item in args.get("where") or []]
    sql, params = _statement(args, terms, select, source, conditions)
    rows = fetch(conn, sql, params)
    value = shape(rows, len(select))
    text = shown(value)
    nothing = not value or (len(select) == 1 and select[0].aggregate == "count" and value == [0])
    if nothing and conditions:
        text += "; " + _hint(conn, source, terms, args["where"], conditions)
    return ToolResult(value, text, label=Label.STRUCTURED)


def fetch(conn: sqlite3.Connection, sql: str, params: Sequence[Any] = ()) -> list[list[Any]]:
    """Return all rows of a statement; ToolError after five seconds or 10,000 rows."""
    end = time.monotonic() + MAX_SECONDS
    conn.set_progress_handler(lambda: time.monotonic() > end, 20_000)
    try:
        rows = conn.execute(sql, params).fetchmany(MAX_ROWS + 1)
    except (sqlite3.Error, sqlite3.Warning, OverflowError) as error:
        if "interrupted" in str(error):
            raise ToolError(f"the query took more than {MAX_SECONDS:g} seconds; ask for less") from None
        raise ToolError(f"the query failed: {error}") from None
    finally:
        conn.set_progress_handler(None, 0)
    if len(rows) > MAX_ROWS:
        raise ToolError(f"the result has more than {MAX_ROWS:,} rows; add where or limit")
    return [[_json_value(c) for c in row] for row in rows]


def _json_value(cell: Any) -> Any:
    if isinstance(cell, bytes):
        return cell.hex()
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def shape(rows: list[list[Any]], width: int) -> list[Any]:
    """Return one column as a list of its values, nulls left out; several as a list of rows."""
    return [row[0] for row in rows if row[0] is not None] if width == 1 else rows


def shown(value: list[Any]) -> str:
    """Return ``3 rows: a; b; c`` or ``2 rows: a, 3; b, 2``, at most ten rows."""
    if not value:
        return "0 rows"
    first = value[:_SHOWN_ROWS]
    rows = "; ".join(", ".join(map(_cell, row)) if isinstance(row, list) else _cell(row) for row in first)
    more = "; …" if len(value) > _SHOWN_ROWS else ""
    return f"{len(value)} row{'s' if len(value) > 1 else ''}: {rows}{more}"


def _cell(cell: Any) -> str:
    if cell is None:
        return "null"
    text = f"{cell:.10g}" if isinstance(cell, float) else " ".join(str(cell).split())
    return text if len(text) <= _SHOWN_CELL else text[: _SHOWN_CELL - 1] + "…"


# --- names ----------------------------------------------------------------------------------


def term_names(columns: Sequence[tuple[str, str]]) -> list[str]:
    """Return what can be selected from columns (name, type): themselves, then the aggregates."""
    names = [name for name, _ in columns] + ["count(*)"]
    for name, kind in columns:
        names += [f"{function}({name})" for function in _functions(kind)]
    return list(dict.fromkeys(names))


def _functions(kind: str) -> tuple[str, ...]:
    return ("count", "min", "max") if kind == "text" else ("count", "sum", "avg", "min", "max")


def qualified(left: str, a: Sequence[str], right: str, b: Sequence[str]) -> list[str]:
    """Return the column names of two joined tables; those that both have as ``table.column``."""
    both = {x.lower() for x in a} & {y.lower() for y in b}
    return [f"{t}.{c}" if c.lower() in both else c for t, cs in ((left, a), (right, b)) for c in cs]


def table_columns(conn: sqlite3.Connection, table: str) -> list[tuple[str, str]]:
    """Return (name, type) of a loaded table's columns."""
    rows = conn.execute("SELECT name, type FROM pragma_table_info(?)", (table,)).fetchall()
    return [(name, kind.lower()) for name, kind in rows]


def scope_terms(conn: sqlite3.Connection, names: Sequence[str]) -> dict[str, Term]:
    """Return every term of one table or of two joined ones, by the name it is asked for."""
    columns = [(t, c, k) for t in names for c, k in table_columns(conn, t)]
    if len(names) == 2:
        left, right = ([c for t, c, _ in columns if t == name] for name in names)
        asked = qualified(names[0], left, names[1], right)
    else:
        asked = [c for _, c, _ in columns]
    terms: dict[str, Term] = {}
    for name, (table, column, kind) in zip(asked, columns, strict=True):
        terms[name] = Term(f"{quote(table)}.{quote(column)}", "", kind)
    terms.setdefault("count(*)", Term("count(*)", "count", "integer"))
    for name, term in list(terms.items()):
        if term.aggregate:
            continue
        for function in _functions(term.type):
            terms.setdefault(f"{function}({name})", Term(f"{function}({term.sql})", function, term.type))
    return terms


def _term(terms: Mapping[str, Term], name: str) -> Term:
    if name in terms:
        return terms[name]
    lower = {known.lower(): known for known in terms}
    if name.lower() in lower:
        return terms[lower[name.lower()]]
    raise ToolError(f"there is no column {name}{_nearest(name, list(terms))}")


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name.lower(), [k.lower() for k in known], 1, 0.5)
    return f"; did you mean {next(k for k in known if k.lower() == near[0])}?" if near else ""


def _texts(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _source(conn: sqlite3.Connection, args: Mapping[str, Any]) -> tuple[list[str], str]:
    """Return the table names of a query and its FROM clause."""
    known = [n for (n,) in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid")]
    table = args["table"]
    if table not in known:
        raise ToolError(f"there is no table {table}; loaded: {', '.join(known) or 'none'}")
    join = args.get("join")
    if not join:
        return [table], quote(table)
    other, _, pair = str(join).partition(" on ")
    if other not in known:
        raise ToolError(f"there is no table {other} to join; loaded: {', '.join(known)}")
    left, right = ({c for c, _ in table_columns(conn, t)} for t in (table, other))
    for position in (i for i, letter in enumerate(pair) if letter == "="):
        a, b = pair[:position], pair[position + 1 :]
        if a in left and b in right:
            on = f"{quote(table)}.{quote(a)} = {quote(other)}.{quote(b)}"
            return [table, other], f"{quote(table)} JOIN {quote(other)} ON {on}"
    raise ToolError(f'join must be "table on column=column", with columns of {table} and {other}')


# --- the statement --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Condition:
    sql: str
    params: list[Any]


def _statement(
    args: Mapping[str, Any],
    terms: Mapping[str, Term],
    select: Sequence[Term],
    source: str,
    conditions: Sequence[_Condition],
) -> tuple[str, list[Any]]:
    sql = f"SELECT {', '.join(t.sql for t in select)} FROM {source}"
    params = [p for c in conditions for p in c.params]
    if conditions:
        sql += " WHERE " + " AND ".join(c.sql for c in conditions)
    order = _order(terms, str(args["order_by"])) if args.get("order_by") else None
    aggregates = [t.aggregate for t in select if t.aggregate]
    if order and order[0].aggregate:
        aggregates += ["order"]
    plain = [t.sql for t in select if not t.aggregate]
    if args.get("group_by"):
        group = _term(terms, str(args["group_by"]))
        if group.aggregate:
            raise ToolError(f"group_by takes a column, not {args['group_by']}")
        sql += f" GROUP BY {group.sql}"
    elif aggregates and plain and aggregates not in (["min"], ["max"]):
        sql += f" GROUP BY {', '.join(plain)}"
    if order:
        sql += f" ORDER BY {order[0].sql} IS NULL, {order[0].sql} {order[1]}"
    if args.get("limit"):
        if not isinstance(args["limit"], int):
            raise ToolError(f"limit is a whole number, not {args['limit']}")
        sql += " LIMIT ?"
        params.append(args["limit"])
    return sql, params


def _order(terms: Mapping[str, Term], text: str) -> tuple[Term, str]:
    name, _, direction = text.rpartition(" ")
    if direction.lower() not in ("asc", "desc") or text in terms:
        name, direction = text, "asc"
    return _term(terms, name), direction


def _condition(terms: Mapping[str, Term], item: Any) -> _Condition:
    if not isinstance(item, list) or len(item) != 3:
        raise ToolError('each condition is [column, op, value], such as ["city", "=", "Oslo"]')
    name, op, value = item
    term = _term(terms, str(name))
    if term.aggregate:
        raise ToolError(f"where takes a column, not {name}")
    if op in ("=", "!="):
        return _equality(term, op, value)
    if isinstance(value, list):
        value = _only(value, f"{name} {op}")
    if value is None:
        raise ToolError(f"{name} {op} needs a value")
    if op == "contains":
        pattern = str(value).replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        return _Condition(f"{term.sql} LIKE ? ESCAPE '\\'", [f"%{pattern}%"])
    if op in _ORDER:
        number = to_number(value)
        if term.type != "text" and number is None:
            raise ToolError(f'{name} is numeric; "{value}" is not a number')
        if term.type == "text" and number is not None:
            return _Condition(f"to_number({term.sql}) {op} ?", [number])
        return _Condition(f"{term.sql} {op} ?", [value if number is None else number])
    raise ToolError(f"there is no operator {op}; use = != > < >= <= or contains")


def _equality(term: Term, op: str, value: Any) -> _Condition:
    if isinstance(value, list):
        items = [_plain(_only(v, "a list") if isinstance(v, list) else v) for v in value]
        word = "NOT IN" if op == "!=" else "IN"
        return _Condition(f"{term.sql} {word} ({','.join('?' * len(items))})", items)
    if value is None:
        return _Condition(f"{term.sql} IS {'NOT ' if op == '!=' else ''}NULL", [])
    return _Condition(f"{term.sql} {op} ?", [_plain(value)])


def _only(values: list[Any], where: str) -> Any:
    if len(values) != 1:
        raise ToolError(f"{where} needs one value, not {len(values)}")
    return values[0]


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, str | int | float):
        return value.strip() if isinstance(value, str) else value
    raise ToolError("a condition compares with a text, a number or a list of them")


def to_number(value: Any) -> float | int | None:
    """Read a number out of a value: ``1,200``, ``$3.50``, ``45%`` and numbers themselves, else None.

    Also the SQL function of that name, for order comparisons on text columns.
    """
    if isinstance(value, int | float):
        return value
    if not isinstance(value, str):
        return None
    try:
        number = float(value.strip().strip("$€£%").replace(",", ""))
    except ValueError:
        return None
    return number if abs(number) < 1e300 else None


# --- the hint for an empty result -----------------------------------------------------------


def _hint(
    conn: sqlite3.Connection,
    source: str,
    terms: Mapping[str, Term],
    where: Sequence[Any],
    conditions: Sequence[_Condition],
) -> str:
    """Say which condition matches nothing by itself, with the nearest cell."""
    for (name, op, value), condition in zip(where, conditions, strict=True):
        if not fetch(conn, f"SELECT 1 FROM {source} WHERE {condition.sql} LIMIT 1", condition.params):
            said = f'"{value}"' if isinstance(value, str) else _cell(value)
            near = ""
            term = _term(terms, str(name))
            if op in ("=", "contains") and isinstance(value, str) and term.type == "text":
                cells = fetch(conn, f"SELECT DISTINCT {term.sql} FROM {source} LIMIT 2000")
                close = difflib.get_close_matches(value.lower(), [str(c[0]).lower() for c in cells], 1, 0.6)
                near = f' (nearest: "{close[0]}")' if close else ""
            return f"no row has {name} {op} {said}{near}"
    return "no row meets all conditions together" if len(conditions) > 1 else "no row matches"
