"""The table tools: ``tables.describe``, ``tables.query``, ``tables.sql``. All of them only read.

A described file is loaded into the run's own SQLite database, a private temporary one that spills
to disk, so that files are never changed and large ones fit. There is no tool here that writes a
table: a result goes to a file through the file tools, which ask for a grant. The connection lives
in ``ctx.cache`` and is made again, from the recorded facts and the files, after a crash; a file
that changed in between is read as it is then.
"""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import ToolError
from ...labels import Label
from .. import paths
from ..base import Effect, Facts, Replay, Tool, ToolContext, ToolResult
from .describe import found_line, joins, preview
from .load import Column, load_source
from .mend_sql import mend_sql, near_cells, near_names
from .query import fetch, run_query, shape, shown, to_number
from .query_schema import general_schema, narrowed_schema
from .read import TABLE_SUFFIXES, Source, quote, read_sources

__all__ = ["TABLE_SUFFIXES", "TablesDescribe", "TablesQuery", "TablesSql", "open_tables", "tools"]

_MAX_CELLS = 2000
"""Distinct cells recorded per table, over all its columns."""


def tools() -> list[Tool]:
    """Return the family's tools, in the order they are shown."""
    return [TablesDescribe(), TablesQuery(), TablesSql()]


@dataclass
class _Loaded:
    """What ``ctx.cache["tables"]`` holds."""

    conn: sqlite3.Connection
    names: set[str] = field(default_factory=set)


def open_tables(ctx: ToolContext) -> sqlite3.Connection:
    """Return the run's table database, with every table of ``ctx.facts`` loaded."""
    loaded = _loaded(ctx)
    known = ctx.facts.get("tables", {})
    for path in dict.fromkeys(entry["path"] for name, entry in known.items() if name not in loaded.names):
        wanted = {entry["source"]: name for name, entry in known.items() if entry["path"] == path}
        for source in read_sources(_locate(ctx, path), path):
            if source.name in wanted:
                load_source(loaded.conn, wanted[source.name], source)
        missing = set(wanted.values()) - _names(loaded.conn)
        if missing:
            raise ToolError(f"{path} no longer holds table {min(missing)}; describe it again")
        loaded.names |= set(wanted.values())
    return loaded.conn


def _loaded(ctx: ToolContext) -> _Loaded:
    if "tables" not in ctx.cache:
        conn = sqlite3.connect("", check_same_thread=False)
        conn.execute("PRAGMA journal_mode = MEMORY")
        conn.execute("PRAGMA synchronous = OFF")
        conn.execute("PRAGMA cache_size = -65536")
        conn.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000_000)
        conn.create_function("to_number", 1, to_number, deterministic=True)
        ctx.cache["tables"] = _Loaded(conn)
    loaded: _Loaded = ctx.cache["tables"]
    return loaded


def _names(conn: sqlite3.Connection) -> set[str]:
    return {name for (name,) in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _locate(ctx: ToolContext, path: str) -> Path:
    """Return the file at a workspace path, refusing what is missing, a folder or behind a link."""
    names = paths.split(path)
    for depth in range(1, len(names) + 1):
        status = paths.status_of(ctx.workspace, "/".join(names[:depth]))
        if status is None:
            raise ToolError(f"there is no file {path}")
        here = ctx.workspace.joinpath(*names[:depth])
        if here.is_symlink() or not (here.is_file() if depth == len(names) else here.is_dir()):
            raise ToolError(f"{path} is not a plain file in the workspace")
    return ctx.workspace.joinpath(*names)


class TablesDescribe(Tool):
    """Load a table file and say what is in it."""

    name = "tables.describe"
    description = "load a table file; shows its columns and cells named in the goal"
    parameters = {
        "type": "object",
        "properties": {"path": {"type": "string", "maxLength": 200}},
        "required": ["path"],
        "additionalProperties": False,
    }
    effect = Effect.READ
    replay = Replay.PURE

    def narrow(self, facts: Facts, handles: tuple[str, ...]) -> Mapping[str, Any] | None:
        found = [path for path in facts.get("files", {}) if path.lower().endswith(TABLE_SUFFIXES)]
        if not found:
            return None
        return {**self.parameters, "properties": {"path": {"enum": found}}}

    def run(self, args: Mapping[str, Any], ctx: ToolContext) -> ToolResult:
        path = paths.normal(str(args["path"]))
        file = _locate(ctx, path)
        conn = open_tables(ctx)
        known: dict[str, Any] = dict(ctx.facts.get("tables", {}))
        old = [name for name, entry in known.items() if entry["path"] == path]
        kept = {name: known[name] for name in known if name not in old}
        fresh: dict[str, dict[str, Any]] = {}
        for source in read_sources(file, path):
            name = _table_name(file.stem, source, {*kept, *fresh})
            columns, rows = load_source(conn, name, source)
            fresh[name] = {"path": path, "source": source.name, "rows": rows, "columns": _columns(columns)}
        _loaded(ctx).names |= set(fresh)
        for name in set(old) - set(fresh):
            conn.execute(f"DROP TABLE IF EXISTS {quote(name)}")
        tables = {**kept, **fresh}
        plausible = joins(conn, tables)
        facts = {name: {**entry, "joins": plausible[name]} for name, entry in tables.items()}
        change: dict[str, Any] = {n: e for n, e in facts.items() if n in fresh or e != known.get(n)}
        change |= {name: None for name in old if name not in fresh}
        value: list[dict[str, Any]] = []
        lines: list[str] = []
        for name, entry in fresh.items():
            columns_typed = [[c["name"], c["type"]] for c in entry["columns"]]
            value.append({"table": name, "columns": columns_typed, "rows": entry["rows"]})
            row = conn.execute(f"SELECT * FROM {quote(name)} LIMIT 1").fetchone() or ()
            found = found_line(conn, name, entry["columns"], ctx.goal)
            lines.append(preview(name, facts[name], found, row))
        whole = value[0] if len(value) == 1 else value
        return ToolResult(whole, "\n".join(lines), {"tables": change}, Label.UNTRUSTED)


def _table_name(stem: str, source: Source, taken: set[str]) -> str:
    """Return a simple, unique name: from the file's stem, a sheet's name added, or the SQLite table's."""
    simple, base = (
        re.sub(r"[\W_]+", "_", unicodedata.normalize("NFC", part).lower()).strip("_")
        for part in (source.name or "", stem)
    )
    name = "_".join(part for part in (base, simple) if part)[:40].strip("_")
    name = f"t_{name}" if name.startswith("sqlite") else name or "t"
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name}_{number}"
    return unique


def _columns(columns: list[Column]) -> list[dict[str, Any]]:
    """Return columns as facts, listing distinct cells while the table's budget lasts."""
    found: list[dict[str, Any]] = [{"name": c.name, "type": c.type} for c in columns]
    room = _MAX_CELLS
    for entry, column in sorted(zip(found, columns, strict=True), key=lambda p: len(p[1].values or ())):
        if column.nulls:
            entry["nulls"] = True
        if column.values is not None and len(column.values) <= room:
            room -= len(column.values)
            entry["values"] = list(column.values)
    return found


class TablesQuery(Tool):
    """Ask the loaded tables, by names that are there."""

    name = "tables.query"
    description = "select from a loaded table"
    parameters = general_schema()
    effect = Effect.READ
    replay = Replay.PURE

    def narrow(self, facts: Facts, handles: tuple[str, ...]) -> Mapping[str, Any] | None:
        tables = facts.get("tables")
        return narrowed_schema(tables, handles) if tables else None

    def run(self, args: Mapping[str, Any], ctx: ToolContext) -> ToolResult:
        if not ctx.facts.get("tables"):
            raise ToolError("no table is loaded; use tables.describe first")
        return run_query(open_tables(ctx), args)


_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}


def _known(facts: Facts) -> tuple[list[str], list[str]]:
    """Return what the loaded tables and their columns are called, and the cells that are listed."""
    tables: Mapping[str, Any] = facts.get("tables", {})
    columns = [column for entry in tables.values() for column in entry["columns"]]
    cells = [cell for column in columns for cell in column.get("values", ())]
    return [*tables, *(column["name"] for column in columns)], cells


def _only_reads(action: int, _first: str | None, second: str | None, *_where: str | None) -> int:
    if action == sqlite3.SQLITE_FUNCTION and second in ("load_extension", "fts3_tokenizer"):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY


class TablesSql(Tool):
    """One SELECT statement over the loaded tables, for models that write SQL."""

    name = "tables.sql"
    description = "run one SQLite SELECT over the loaded tables"
    parameters = {
        "type": "object",
        "properties": {
            "sql": {
                "type": "string",
                "maxLength": 600,
                "description": "names with blanks in double quotes, values spelt as in the cells",
            }
        },
        "required": ["sql"],
        "additionalProperties": False,
    }
    effect = Effect.READ
    replay = Replay.PURE

    def narrow(self, facts: Facts, handles: tuple[str, ...]) -> Mapping[str, Any] | None:
        return self.parameters if facts.get("tables") else None

    def run(self, args: Mapping[str, Any], ctx: ToolContext) -> ToolResult:
        if not ctx.facts.get("tables"):
            raise ToolError("no table is loaded; use tables.describe first")
        if not str(args["sql"]).strip():
            raise ToolError("the statement is empty; write a SELECT")
        conn = open_tables(ctx)
        sql = str(args["sql"])
        conn.set_authorizer(_only_reads)
        try:
            rows = self._fetch(conn, sql, ctx.facts)
        finally:
            conn.set_authorizer(None)
        value = shape(rows, len(rows[0]) if rows else 1)
        nothing = not value or value in ([0], [None])
        hint = near_cells(sql, ctx.facts, conn) if nothing else ""
        return ToolResult(value, "; ".join(filter(None, (shown(value), hint))), label=Label.STRUCTURED)

    @staticmethod
    def _fetch(conn: sqlite3.Connection, sql: str, facts: Facts) -> list[list[Any]]:
        """Run a statement; one that fails is mended where it is plain what was meant, and tried again."""
        names, cells = _known(facts)
        try:
            return fetch(conn, sql)
        except ToolError as error:
            if "not authorized" in str(error):
                raise ToolError("only a SELECT statement is allowed") from None
            mended = mend_sql(sql, names, cells)
            if mended == sql:
                raise ToolError(f"{error}{near_names(str(error), names)}") from None
        try:
            return fetch(conn, mended)
        except ToolError as error:
            raise ToolError(f"{error}{near_names(str(error), names)}") from None
