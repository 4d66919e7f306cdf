"""Reads table files (CSV, TSV, JSON, XLSX, SQLite): headers and rows, in a streaming way.

Every format becomes one or more :class:`Source`: a header and a function that yields the rows again
and again, so that loading can look first and insert then without holding a large file in memory.
What is not a table (a binary file, broken quoting, a row longer than the header) is refused with
the file and line.

Limits: JSON files are read whole (at most 100 MB); old ``.xls`` files and views of SQLite files are
not read; a formula in XLSX counts as the value that was last computed for it.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from ...errors import ToolError

Cell = str | int | float | None

TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".json", ".jsonl", ".xlsx", ".xlsm", ".sqlite", ".sqlite3", ".db")
MAX_COLUMNS = 1000
_MAX_JSON_BYTES = 100_000_000
_CONTROL = bytes(sorted(set(range(32)) - {9, 10, 11, 12, 13, 27}))


@dataclass(frozen=True)
class Source:
    """One table in a file; ``rows()`` yields every row, each as long as ``header``."""

    name: str | None
    """Sheet or table name inside the file, None when the file is one table."""
    header: list[str]
    rows: Callable[[], Iterator[Sequence[Cell]]]


def quote(name: str) -> str:
    """Return ``name`` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def clean_header(cells: Sequence[object]) -> list[str]:
    """Return column names: single-spaced, never empty, unique without regard to case."""
    names: list[str] = []
    used: set[str] = set()
    for number, cell in enumerate(cells, 1):
        name = " ".join(str(cell).split()) if cell is not None else ""
        base = name = name or f"column_{number}"
        count = 1
        while name.lower() in used:
            count += 1
            name = f"{base}_{count}"
        used.add(name.lower())
        names.append(name)
    return names


def read_sources(path: Path, shown: str) -> list[Source]:
    """Return the tables in the file at ``path``; ``shown`` names it in errors (ToolError)."""
    suffix = path.suffix.lower()
    try:
        path.open("rb").close()
    except OSError as error:
        raise ToolError(f"cannot open {shown}: {error.strerror}") from None
    if path.stat().st_size == 0:
        raise ToolError(f"{shown} is empty")
    if suffix in (".xlsx", ".xlsm"):
        sources = list(_xlsx_sources(path, shown))
    elif suffix in (".sqlite", ".sqlite3", ".db"):
        sources = list(_sqlite_sources(path, shown))
    elif suffix in (".json", ".jsonl"):
        sources = [_json_source(path, shown)]
    else:
        sources = [_csv_source(path, shown)]
    if not sources:
        raise ToolError(f"{shown} holds no table")
    for source in sources:
        if len(source.header) > MAX_COLUMNS:
            raise ToolError(f"{shown} has {len(source.header)} columns; at most {MAX_COLUMNS} can be loaded")
    return sources


def _fit(row: Sequence[Cell], width: int, where: str) -> Sequence[Cell]:
    """Return ``row`` with exactly ``width`` cells: padded, or refused if it has more."""
    if len(row) == width:
        return row
    if len(row) > width:
        if any(c not in (None, "") for c in row[width:]):
            raise ToolError(f"{where}: {len(row)} cells, but the header has {width}")
        return row[:width]
    return [*row, *[None] * (width - len(row))]


# --- CSV and TSV ---------------------------------------------------------------------------


def _csv_source(path: Path, shown: str) -> Source:
    encoding = _encoding(path, shown)
    delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else _delimiter(path, encoding)

    def records() -> Iterator[tuple[int, list[str]]]:
        line = 1
        with path.open(encoding=encoding, newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            try:
                for row in reader:
                    if row:
                        yield line, row
                    line = reader.line_num + 1
            except csv.Error as error:
                raise ToolError(f"{shown} line {line}: broken quoting ({error})") from None

    first = next(records(), None)
    if first is None:
        raise ToolError(f"{shown} is empty")
    header = clean_header(first[1])
    if len(header) < 2 and path.suffix.lower() not in TABLE_SUFFIXES:
        raise ToolError(f"{shown} is not a table: its first line has no separated columns")

    def rows() -> Iterator[Sequence[Cell]]:
        for line, row in islice(records(), 1, None):
            yield _fit(row, len(header), f"{shown} line {line}")

    return Source(None, header, rows)


def _encoding(path: Path, shown: str) -> str:
    """Return the text encoding of a file, reading all of it; refuse a binary one."""
    with path.open("rb") as file:
        start = file.read(4)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        file.seek(0)
        decoder = codecs.getincrementaldecoder("utf-8")()
        encoding = "utf-8-sig"
        while chunk := file.read(1 << 20):
            if len(chunk.translate(None, _CONTROL)) < len(chunk):
                raise ToolError(f"{shown} is a binary file, not a table of text")
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError:
                encoding = "latin-1"
                decoder.reset()
    return encoding


def _delimiter(path: Path, encoding: str) -> str:
    """Return the separator that cuts the first lines into the most, equally many cells."""
    with path.open(encoding=encoding, newline="") as file:
        lines = list(islice(file, 20))
    best, best_score = ",", (0.0, 0)
    for delimiter in ",;\t|":
        try:
            widths = [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]
        except csv.Error:
            continue
        if widths and widths[0] > 1:
            score = (sum(w == widths[0] for w in widths) / len(widths), widths[0])
            if score > best_score:
                best, best_score = delimiter, score
    return best


# --- JSON ------------------------------------------------------------------------------------


def _json_source(path: Path, shown: str) -> Source:
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ToolError(f"{shown} is larger than 100 MB; make it CSV")
    try:
        text = path.read_text(encoding=_encoding(path, shown))
        data = _json_lines(text) if path.suffix.lower() == ".jsonl" else json.loads(text)
    except json.JSONDecodeError as error:
        raise ToolError(f"{shown} line {error.lineno}: not valid JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise ToolError(f"{shown}: not readable JSON ({error})") from None
    header, rows = _json_rows(data, shown)
    names = clean_header(header)
    cells = [
        _fit([_json_cell(c) for c in row], len(names), f"{shown} row {n}") for n, row in enumerate(rows, 1)
    ]
    return Source(None, names, lambda: iter(cells))


def _json_lines(text: str) -> list[Any]:
    decoder, data = json.JSONDecoder(), []
    for match in re.finditer(r"^[^\S\n]*(?=\S)", text, re.M):
        item, end = decoder.raw_decode(text, match.end())  # errors then name the file's line
        stop = text.find("\n", end)
        if text[end : stop if stop >= 0 else len(text)].strip():
            raise json.JSONDecodeError("more than one value", text, end)
        data.append(item)
    return data


def _json_rows(data: Any, shown: str) -> tuple[list[Any], Iterable[list[Any]]]:
    if isinstance(data, dict):
        header, rows = data.get("header", data.get("columns")), data.get("rows")
        if isinstance(header, list) and isinstance(rows, list) and all(isinstance(r, list) for r in rows):
            return header, rows
    elif isinstance(data, list) and data:
        if all(isinstance(item, dict) for item in data):
            keys = list(dict.fromkeys(key for item in data for key in item))
            return keys, [[item.get(key) for key in keys] for item in data]
        if all(isinstance(item, list) for item in data):
            return data[0], data[1:]
    raise ToolError(f'{shown} is not a table: a list of objects or {{"header", "rows"}} is needed')


def _json_cell(cell: Any) -> Cell:
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if cell is None or isinstance(cell, str | int | float):
        return cell
    return json.dumps(cell, ensure_ascii=False)


# --- XLSX and SQLite -------------------------------------------------------------------------


def _xlsx_sources(path: Path, shown: str) -> Iterator[Source]:
    from openpyxl import load_workbook  # heavy: only when such a file is read

    def rows_of(sheet: str) -> Iterator[tuple[int, list[Cell]]]:
        book = load_workbook(path, read_only=True, data_only=True)
        try:
            for number, row in enumerate(book[sheet].iter_rows(values_only=True), 1):
                if any(cell is not None for cell in row):
                    yield number, [_xlsx_cell(cell) for cell in row]
        finally:
            book.close()

    try:
        book = load_workbook(path, read_only=True, data_only=True)
        sheets = [sheet.title for sheet in book.worksheets]
        book.close()
    except Exception:  # openpyxl raises whatever its XML and zip readers raise
        raise ToolError(f"{shown} is not a readable XLSX file") from None
    for sheet in sheets:
        first = next(rows_of(sheet), None)
        if first is None:
            continue
        cells = first[1]
        while cells[-1] is None:
            cells.pop()
        header = clean_header(cells)

        def rows(sheet: str = sheet, width: int = len(header)) -> Iterator[Sequence[Cell]]:
            for number, row in islice(rows_of(sheet), 1, None):
                yield _fit(row, width, f"{shown} sheet {sheet} row {number}")

        yield Source(sheet if len(sheets) > 1 else None, header, rows)


def _xlsx_cell(cell: Any) -> Cell:
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return int(cell)
    if cell is None or isinstance(cell, str | int | float):
        return cell
    if isinstance(cell, datetime) and not (cell.hour or cell.minute or cell.second):
        return cell.date().isoformat()
    return (
        cell.isoformat(" ")
        if isinstance(cell, datetime)
        else (cell.isoformat() if isinstance(cell, date) else str(cell))
    )


def _sqlite_sources(path: Path, shown: str) -> Iterator[Source]:
    uri = path.absolute().as_uri() + "?mode=ro&immutable=1"

    def select(sql: str) -> Iterator[Any]:
        conn = sqlite3.connect(uri, uri=True, check_same_thread=False)
        try:
            conn.text_factory = lambda raw: raw.decode("utf-8", "replace")
            yield from conn.execute(sql)
        except sqlite3.Error as error:
            raise ToolError(f"{shown} is not a readable SQLite file ({error})") from None
        finally:
            conn.close()

    listed = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    for (table,) in list(select(listed)):
        header = [row[1] for row in select(f"PRAGMA table_info({quote(table)})")]

        def rows(table: str = table) -> Iterator[Sequence[Cell]]:
            for row in select(f"SELECT * FROM {quote(table)}"):
                yield [f"<{len(c)} bytes>" if isinstance(c, bytes) else c for c in row]

        yield Source(table, clean_header(header), rows)
