"""Loads table sources into SQLite with inferred column types.

Loading makes two passes over a source, one that finds types and distinct values and one that
inserts, so that a large file is never held in memory. Cells are stripped, empty ones are null, and
a column is numeric only when *every* cell is a plain number (thousands separators allowed); amounts
with units, percent signs or leading zeros stay text, so that nothing is lost by loading.
"""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from ...errors import ToolError
from .read import Cell, Source, quote

MAX_VALUES = 200
"""A text column with at most this many distinct cells lists them all."""
MAX_VALUE_LENGTH = 60
_BATCH = 5000
_INTEGER = re.compile(r"-?(?:0|[1-9]\d{0,2}(?:,\d{3}){1,5}|[1-9]\d{0,17})", re.ASCII)
_REAL = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)?\.\d+(?:[eE][-+]?\d{1,2})?", re.ASCII)


@dataclass(frozen=True)
class Column:
    """One column of a loaded table."""

    name: str
    type: str
    """``integer``, ``real`` or ``text``."""
    values: tuple[str, ...] | None
    """All distinct cells of a text column, in order of appearance, when they are few and short."""
    nulls: bool
    """Whether some cell is empty."""


def load_source(conn: sqlite3.Connection, table: str, source: Source) -> tuple[list[Column], int]:
    """Create ``table`` from ``source`` (replacing it) and return its columns and row count."""
    profiles = [_Profile() for _ in source.header]
    for batch in _batches(source):
        for profile, cells in zip(profiles, batch, strict=True):
            profile.add(cells)
    kinds = {"integer": "INTEGER", "real": "REAL", "text": "TEXT COLLATE NOCASE"}
    columns = [
        Column(name, p.type, p.distinct() if p.type == "text" else None, p.nulls)
        for name, p in zip(source.header, profiles, strict=True)
    ]
    ddl = ", ".join(f"{quote(c.name)} {kinds[c.type]}" for c in columns)
    marks = ", ".join("?" * len(columns))
    rows = 0
    try:
        with conn:
            conn.execute(f"DROP TABLE IF EXISTS {quote(table)}")
            conn.execute(f"CREATE TABLE {quote(table)} ({ddl})")
            for batch in _batches(source):
                converted = [_convert(cells, c.type) for cells, c in zip(batch, columns, strict=True)]
                conn.executemany(f"INSERT INTO {quote(table)} VALUES ({marks})", zip(*converted, strict=True))
                rows += len(converted[0])
    except (sqlite3.Error, UnicodeEncodeError, OverflowError, ToolError) as error:
        conn.execute(f"DROP TABLE IF EXISTS {quote(table)}")
        if isinstance(error, ToolError):
            raise
        raise ToolError(f"cannot load table {table}: {error}") from None
    return columns, rows


@dataclass
class _Profile:
    """What is known of a column while its cells stream by."""

    kind: str = ""
    nulls: bool = False
    values: dict[str, str] | None = field(default_factory=dict)

    @property
    def type(self) -> str:
        return self.kind or "text"

    def add(self, cells: list[Cell]) -> None:
        present = [c for c in cells if c is not None]
        self.nulls = self.nulls or len(present) < len(cells)
        if self.kind != "text" and present:
            found = _kind(present)
            self.kind = found if self.kind in ("", found) else "text" if found == "text" else "real"
        if self.values is not None:
            for cell in dict.fromkeys(present):
                text = _text(cell)
                if len(text) > MAX_VALUE_LENGTH or len(self.values) > MAX_VALUES:
                    self.values = None
                    return
                self.values.setdefault(text.lower(), text)

    def distinct(self) -> tuple[str, ...] | None:
        few = self.values is not None and len(self.values) <= MAX_VALUES
        return tuple(self.values.values()) if self.values is not None and few else None


def _kind(cells: Sequence[Cell]) -> str:
    """Return the narrowest type that holds every cell."""
    texts = [c for c in cells if isinstance(c, str)]
    real = any(isinstance(c, float) for c in cells)
    if any(isinstance(c, int) and abs(c) >= 2**63 for c in cells):
        return "text"
    if all(map(_INTEGER.fullmatch, texts)):
        return "real" if real else "integer"
    if all(_REAL.fullmatch(c) or _INTEGER.fullmatch(c) for c in texts):
        return "real"
    return "text"


def _text(cell: Cell) -> str:
    if isinstance(cell, float):
        return f"{cell:.15g}"
    return str(cell)


def _convert(cells: list[Cell], kind: str) -> list[Cell]:
    if kind == "text":
        return [c if c is None or isinstance(c, str) else _text(c) for c in cells]
    number = int if kind == "integer" else float
    return [number(c.replace(",", "")) if isinstance(c, str) else c for c in cells]


def _batches(source: Source) -> Iterator[list[list[Cell]]]:
    """Yield the cells column by column, a few thousand rows at a time, stripped."""
    rows = source.rows()
    while batch := list(islice(rows, _BATCH)):
        yield [[_stripped(c) for c in column] for column in zip(*batch, strict=True)]


def _stripped(cell: Cell) -> Cell:
    """Return a cell without outer white space; empty text, NaN and infinity are null."""
    if isinstance(cell, str):
        return cell.strip() or None
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell
