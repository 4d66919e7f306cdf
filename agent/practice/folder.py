"""Reads a user's folder for practice: tables as our own tool loads them, and text files.

Nothing is changed. A table of more than 5,000 rows is not copied into every run: 500 of its rows,
drawn at random, go into the goals themselves. What cannot be used is said in one line per file, and
the rest is used. Limits: 100 files, folders three deep, no hidden ones and no links.
"""

from __future__ import annotations

import csv
import io
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ...errors import ToolError, UsageError
from ...tools.base import ToolContext, merge_facts
from ...tools.files import decode
from ...tools.tables.query import qualified
from ...tools.tables.read import Source, quote, read_sources
from ...tools.tables.tools import TABLE_SUFFIXES, TablesDescribe, open_tables
from .fields import Field, View, role_of, twins

MOST_FILES = 100
MOST_ROWS = 5000
SAMPLED_ROWS = 500
LEAST_ROWS = 4
TEXT_SUFFIXES = (".txt", ".md", ".log", ".rst")
MOST_TEXT = 20_000
"""Bytes of a text file that goals are made of."""


@dataclass
class Shelf:
    """What a folder holds that goals can be made of, and one line for what it does not."""

    views: list[View] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    """Path in the folder to text."""
    notes: list[str] = field(default_factory=list)


def read_folder(folder: Path, scratch: Path, rng: random.Random, leave_out: Path | None = None) -> Shelf:
    """Return what ``folder`` holds; ``scratch`` takes sampled tables; ``leave_out`` is no input.

    Raises UsageError when the folder is missing or holds no table and no text.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; give one with tables or texts in it")
    shelf = Shelf()
    found = [path for path in _walk(folder) if leave_out is None or path != leave_out.resolve()]
    if len(found) > MOST_FILES:
        shelf.notes.append(f"{folder}: {len(found)} files; the first {MOST_FILES} are used")
    whole, sampled = ToolContext(folder), ToolContext(scratch)
    tables: dict[str, str] = {}
    for path in found[:MOST_FILES]:
        name = path.relative_to(folder.resolve()).as_posix()
        try:
            if path.suffix.lower() in TABLE_SUFFIXES:
                tables |= _load(path, name, whole, sampled, shelf, rng)
            else:
                _read_text(path, name, shelf)
        except (ToolError, OSError) as error:
            reason = str(error) if isinstance(error, ToolError) else f"{name}: {error.strerror}"
            shelf.notes.append(f"{reason}; left out")
    for context in (whole, sampled):
        known = context.facts.get("tables", {})
        plain = {name: view for name in known if (view := _view(name, known[name], context, tables, shelf))}
        shelf.views += [view for view in plain.values() if view.fields]
        shelf.views += _joins(plain, known, context)
    if not shelf.views and not shelf.texts:
        why = f" ({shelf.notes[0]})" if shelf.notes else ""
        wanted = ", ".join((*TABLE_SUFFIXES[:1], ".tsv", ".json", ".xlsx", ".sqlite", *TEXT_SUFFIXES[:2]))
        raise UsageError(f"{folder}: holds nothing to make goals of{why}; wanted: {wanted}")
    return shelf


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the plain files of a folder in the order of their names, three folders deep."""
    top = folder.resolve()
    for root, folders, names in os.walk(top):
        depth = len(Path(root).relative_to(top).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < 3 else []
        for name in sorted(names):
            path = Path(root, name)
            known = path.suffix.lower() in (*TABLE_SUFFIXES, *TEXT_SUFFIXES)
            if known and not name.startswith(".") and path.is_file() and not path.is_symlink():
                yield path


def _read_text(path: Path, name: str, shelf: Shelf) -> None:
    with path.open("rb") as file:
        raw = file.read(MOST_TEXT + 1)
    text = decode(raw)
    if len(raw) > MOST_TEXT:
        shelf.notes.append(f"{name}: larger than {MOST_TEXT // 1000} kB; left out")
    elif text is None or not text.strip():
        shelf.notes.append(f"{name}: {'is empty' if text is not None else 'is not text'}; left out")
    else:
        shelf.texts[name] = text


def _load(
    path: Path, name: str, whole: ToolContext, sampled: ToolContext, shelf: Shelf, rng: random.Random
) -> dict[str, str]:
    """Load a file's tables, those of a large file as samples; return the samples' CSV texts by name."""
    sources = read_sources(path, name)
    counts = [sum(1 for _ in islice(source.rows(), MOST_ROWS + 1)) for source in sources]
    if max(counts) <= MOST_ROWS:
        _describe(whole, name)
        return {}
    texts: dict[str, str] = {}
    for source in sources:
        stem = "-".join(part for part in (path.stem, source.name) if part)
        file = f"{stem.replace('/', '-')}.csv"
        texts[file] = _sample(source, rng)
        (sampled.workspace / file).write_text(texts[file], encoding="utf-8")
        _describe(sampled, file)
    shelf.notes.append(f"{name}: more than {MOST_ROWS:,} rows; goals bring {SAMPLED_ROWS} of them, as CSV")
    return texts


def _describe(context: ToolContext, name: str) -> None:
    result = TablesDescribe().run({"path": name}, context)
    context.facts = merge_facts(context.facts, result.facts)


def _sample(source: Source, rng: random.Random) -> str:
    """Return rows drawn evenly from a stream of unknown length (reservoir sampling), as CSV."""
    kept: list[tuple[int, Sequence[Any]]] = []
    for number, row in enumerate(source.rows()):
        if len(kept) < SAMPLED_ROWS:
            kept.append((number, row))
        elif (place := rng.randrange(number + 1)) < SAMPLED_ROWS:
            kept[place] = (number, row)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(source.header)
    writer.writerows(["" if cell is None else cell for cell in row] for _, row in sorted(kept, key=_first))
    return out.getvalue()


def _first(pair: tuple[int, Sequence[Any]]) -> int:
    return pair[0]


def _view(
    name: str, entry: Mapping[str, Any], context: ToolContext, samples: Mapping[str, str], shelf: Shelf
) -> View | None:
    """Return a loaded table as questions see it, or None with a note why not."""
    path, columns = str(entry["path"]), entry["columns"]
    place = path if entry["source"] is None else f"{path}, {entry['source']}"
    if len(columns) < 2 or entry["rows"] < LEAST_ROWS:
        what = "one column" if len(columns) < 2 else f"{entry['rows']} rows"
        shelf.notes.append(f"{place}: a table of {what} gives no questions; left out")
        return None
    title = str(entry["source"] or Path(path).stem)
    conn = open_tables(context)
    cells = list(zip(*conn.execute(f"SELECT * FROM {quote(name)}"), strict=True))
    double = twins([column["name"] for column in columns])
    if double:
        shelf.notes.append(f"{place}: columns that stand twice are left out: {', '.join(sorted(double))}")
    fields = []
    for column, values in zip(columns, cells, strict=True):
        role = role_of(column["name"], column["type"], values, title)
        if role is not None and column["name"] not in double:
            fields.append(Field(column["name"], role, tuple(values)))
    if not fields:
        shelf.notes.append(f"{place}: no column suits a question (names or cells); left out")
    inline = path in samples
    return View(
        query={"table": name},
        title=title,
        fields=tuple(fields),
        rows=entry["rows"],
        source=entry["source"],
        context=context,
        inputs=() if inline else (path,),
        files={path: samples[path]} if inline else {},
    )


def _joins(views: Mapping[str, View], known: Mapping[str, Any], context: ToolContext) -> Iterator[View]:
    """Yield each pair of tables in which a row of the one belongs to at most one row of the other."""
    conn = open_tables(context)
    for name, left in views.items():
        for join in known[name]["joins"]:
            other, _, pair = join.partition(" on ")
            a, equals, b = pair.partition("=")
            if other not in views or not equals or "=" in b:
                continue
            one, many = quote(name), quote(other)
            unique = f"SELECT count({quote(b)}) = count(DISTINCT {quote(b)}) FROM {many}"
            both = f"SELECT * FROM {one} JOIN {many} ON {one}.{quote(a)} = {many}.{quote(b)}"
            rows = list(conn.execute(f"{both} LIMIT {MOST_ROWS + 1}"))
            if conn.execute(unique).fetchone()[0] and LEAST_ROWS <= len(rows) <= MOST_ROWS:
                yield _joined(left, views[other], join, known, rows)


def _joined(left: View, right: View, join: str, known: Mapping[str, Any], rows: Sequence[Any]) -> View:
    """Return two tables as one view; columns that both have are left out."""
    fields: list[Field] = []
    tables = [view.query["table"] for view in (left, right)]
    columns = [known[table]["columns"] for table in tables]
    names = [[column["name"] for column in side] for side in columns]
    asked = iter(qualified(tables[0], names[0], tables[1], names[1]))
    cells = iter(zip(*rows, strict=True))
    for side, view in enumerate((left, right)):
        suits = {item.name for item in view.fields}
        for column in columns[side]:
            name, values = next(asked), next(cells)
            role = role_of(column["name"], column["type"], values, view.title)
            if role is not None and column["name"] in suits and name == column["name"]:
                fields.append(Field(name, role, tuple(values), side))
    return View(
        query={"table": tables[0], "join": join},
        title=left.title,
        fields=tuple(fields),
        rows=len(rows),
        source=None,
        context=left.context,
        inputs=tuple(dict.fromkeys((*left.inputs, *right.inputs))),
        files={**left.files, **right.files},
    )
