"""Table files of every kind: what loads, with which types, and what is refused where."""

from __future__ import annotations

import csv
import json
import sqlite3
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from autogpt.errors import ToolError
from autogpt.tools.base import ToolContext, ToolResult, merge_facts
from autogpt.tools.tables.read import read_sources
from autogpt.tools.tables.tools import TablesDescribe, TablesQuery


def describe(ctx: ToolContext, path: str) -> ToolResult:
    result = TablesDescribe().run({"path": path}, ctx)
    ctx.facts = merge_facts(ctx.facts, result.facts)
    return result


def ask(ctx: ToolContext, **arguments: Any) -> ToolResult:
    return TablesQuery().run(arguments, ctx)


def test_what_the_system_will_not_open_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "sales.csv").mkdir()
    with pytest.raises(ToolError, match=r"^cannot open sales\.csv: Is a directory$"):
        read_sources(tmp_path / "sales.csv", "sales.csv")


def test_types_are_inferred_from_whole_columns(tmp_path: Path) -> None:
    (tmp_path / "My Data-1.csv").write_text(
        'n,big,money,pct,code,mixed,real,empty\n1,"1,200",$3.50,45%,007,1,0.5,\n-2,35,$4,5%,010,x,2,\n'
    )
    ctx = ToolContext(tmp_path)
    result = describe(ctx, "My Data-1.csv")
    assert result.value["table"] == "my_data_1"
    kinds = dict(result.value["columns"])
    assert kinds == {
        "n": "integer",
        "big": "integer",
        "money": "text",
        "pct": "text",
        "code": "text",
        "mixed": "text",
        "real": "real",
        "empty": "text",
    }
    assert ask(ctx, table="my_data_1", select=["sum(big)"]).value == [1235]
    assert ask(ctx, table="my_data_1", select=["code"]).value == ["007", "010"]
    assert ask(ctx, table="my_data_1", select=["n"], where=[["money", ">", "3.75"]]).value == [-2]


KINDS = ["csv", "semicolon", "tsv", "utf16", "latin", "json", "rows", "jsonl", "xlsx", "db"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_loads_alike(tmp_path: Path, kind: str) -> None:
    header, rows = ["Stadt", "größe", "seen"], [["Köln", 1.5, "2024-01-02"], ["Oslo", 2.0, None]]
    path = write_table(tmp_path, kind, header, rows)
    ctx = ToolContext(tmp_path)
    result = describe(ctx, path)
    assert result.value == {
        "table": "t" if kind != "db" else "t_orte",
        "columns": [["Stadt", "text"], ["größe", "real"], ["seen", "text"]],
        "rows": 2,
    }
    name = result.value["table"]
    assert ask(ctx, table=name, select=["Stadt", "größe", "seen"]).value == rows


def write_table(folder: Path, kind: str, header: list[str], rows: list[list[Any]]) -> str:
    lines = [header, *[["" if c is None else c for c in row] for row in rows]]
    encodings = {
        "csv": "utf-8",
        "tsv": "utf-8",
        "semicolon": "utf-8-sig",
        "utf16": "utf-16",
        "latin": "latin-1",
    }
    if kind in encodings:
        delimiter, encoding = {"semicolon": ";", "tsv": "\t"}.get(kind, ","), encodings[kind]
        path = folder / ("t.tsv" if kind == "tsv" else "t.csv")
        with path.open("w", encoding=encoding, newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows(lines)
    elif kind in ("json", "rows", "jsonl"):
        objects = [dict(zip(header, row, strict=True)) for row in rows]
        path = folder / ("t.jsonl" if kind == "jsonl" else "t.json")
        data: Any = objects if kind == "json" else {"header": header, "rows": rows}
        path.write_text("\n".join(map(json.dumps, objects)) if kind == "jsonl" else json.dumps(data))
    elif kind == "xlsx":
        from openpyxl import Workbook

        path = folder / "t.xlsx"
        book = Workbook()
        for row in [header, [rows[0][0], 1.5, rows[0][2]], ["Oslo", 2.0, None]]:
            book.active.append(row)
        book.save(path)
    else:
        path = folder / "t.db"
        with sqlite3.connect(path) as conn:
            conn.execute('CREATE TABLE Orte ("Stadt", "größe", "seen")')
            conn.executemany("INSERT INTO Orte VALUES (?, ?, ?)", rows)
        conn.close()
    return path.name


def test_every_sheet_and_every_sqlite_table_becomes_a_table(tmp_path: Path) -> None:
    from openpyxl import Workbook

    book = Workbook()
    book.active.title = "Q1"
    book.active.append(["a", "b"])
    book.active.append([1, True])
    book.create_sheet("Empty")
    book.create_sheet("Q 2").append(["a", "a", None, "c"])
    book.save(tmp_path / "report.xlsx")
    with sqlite3.connect(tmp_path / "shop.db") as conn:
        conn.execute("CREATE TABLE item (id INTEGER, data BLOB)")
        conn.execute("CREATE TABLE buyer (id INTEGER)")
        conn.execute("INSERT INTO item VALUES (1, x'00ff')")
    conn.close()
    ctx = ToolContext(tmp_path)
    assert [t["table"] for t in describe(ctx, "report.xlsx").value] == ["report_q1", "report_q_2"]
    assert [c["name"] for c in ctx.facts["tables"]["report_q_2"]["columns"]] == ["a", "a_2", "column_3", "c"]
    assert [t["table"] for t in describe(ctx, "shop.db").value] == ["shop_item", "shop_buyer"]
    assert ask(ctx, table="shop_item", select=["data"]).value == ["<2 bytes>"]
    assert ask(ctx, table="report_q1", select=["b"]).value == ["true"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"a,b\n1,\x00\x01\n", "a.csv is a binary file"),
        ("a.csv", b'a,b\n1,2\n3,"x\n4,5\n', "a.csv line 3: broken quoting"),
        ("a.csv", b'a,b\n1,2\n"x"y,5\n', "a.csv line 3: broken quoting"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "a.csv line 3: 3 cells, but the header has 2"),
        ("a.csv", b"", "a.csv is empty"),
        ("a.csv", b"\n\n", "a.csv is empty"),
        ("notes.txt", b"Just some words\nin a letter\n", "notes.txt is not a table"),
        ("a.json", b'{"a": [1,\n2,,]}', "a.json line 2: not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n{"a": }\n', "a.jsonl line 2: not valid JSON"),
        ("a.json", b'{"a": 1}', "a.json is not a table"),
        ("a.xlsx", b"PK\x03\x04 broken", "a.xlsx is not a readable XLSX file"),
        ("a.db", b"SQLite format 3\x00 broken", "a.db is not a readable SQLite file"),
    ],
)
def test_bad_files_are_refused_with_their_place(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ToolError, match="^" + says):
        describe(ToolContext(tmp_path), name)


def test_short_rows_are_filled_and_trailing_separators_ignored(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1\n\n2,3,,\n")
    ctx = ToolContext(tmp_path)
    describe(ctx, "a.csv")
    assert ask(ctx, table="a", select=["a", "b"]).value == [[1, None], [2, 3]]


@pytest.mark.parametrize(
    "path", ["../x.csv", "/etc/passwd", "missing.csv", "folder", "link.csv", "linked/a.csv"]
)
def test_paths_stay_inside_the_workspace(tmp_path: Path, path: str) -> None:
    workspace = tmp_path / "workspace"
    (workspace / "folder").mkdir(parents=True)
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    (workspace / "link.csv").symlink_to(tmp_path / "a.csv")
    (workspace / "linked").symlink_to(tmp_path)
    with pytest.raises(ToolError):
        describe(ToolContext(workspace), path)


def test_large_csv_is_streamed(tmp_path: Path) -> None:
    with (tmp_path / "big.csv").open("w") as file:
        file.write("id,name,amount\n")
        file.writelines(f"{n},customer number {n} of many,{n}.25\n" for n in range(60_000))
    ctx = ToolContext(tmp_path)
    tracemalloc.start()
    assert describe(ctx, "big.csv").value["rows"] == 60_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000  # the file's cells as Python objects would be several times that
    assert ask(ctx, table="big", select=["max(amount)"]).value == [59999.25]
    with pytest.raises(ToolError, match="more than 10,000 rows"):
        ask(ctx, table="big", select=["id"])
