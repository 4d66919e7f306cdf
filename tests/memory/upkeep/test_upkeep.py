"""Keeping memory sound: forgetting to the last byte, audits, backups, export and import, files in step."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
from support.drafts import fact

from autogpt.agent.record.events import MemoryRecalled, RunStarted
from autogpt.agent.record.store import RunStore
from autogpt.cli.parser import main
from autogpt.errors import UsageError
from autogpt.labels import Label
from autogpt.memory.database import StorageError
from autogpt.memory.documents.documents import PIECE_TOKENS, add, chunk, count_tokens
from autogpt.memory.entry import Draft, Kind, Verdict
from autogpt.memory.experience import Experience
from autogpt.memory.store import MemoryStore
from autogpt.memory.upkeep.backup import Lost, backup, check_file, export, import_lines
from autogpt.memory.upkeep.forgetting import forget, seen_by, traces
from autogpt.memory.upkeep.upkeep import audit

SECRETIVE = "Zanzibar Kingfisher meets Wolpertinger at Möwenstraße 七十二号"
RUN = "20260101-000000-aaaaaa"


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    return MemoryStore(tmp_path / "home")


def piece(text: str, place: int) -> Draft:
    return Draft(Kind.DOCUMENT, text, label=Label.UNTRUSTED, source=f"/f.md#{place}")


def remains(folder: Path, text: str) -> list[str]:
    """Files under ``folder`` that hold the text, or a telling word of it, in any usual encoding."""
    words = [text, *(word for word in text.split() if len(word) > 7)]
    forms = {form.encode(code) for form in (*words, *(w.lower() for w in words))
             for code in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le")}  # fmt: skip
    forms |= {json.dumps(text)[1:-1].encode(), base64.b64encode(text.encode())[:-4]}
    forms |= {text.encode().hex().encode()}
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [file.name for file in files if any(form in file.read_bytes() for form in forms)]


def test_forgetting_leaves_no_byte(store: MemoryStore, tmp_path: Path) -> None:
    """Among others, after edits and uses, with a backup: every file is scanned for it."""
    store.write_many([piece(f"another piece, number {n}, about harbours", n) for n in range(80)])
    written = store.write(fact("Zanzibar Kingfisher")).entry
    assert written is not None
    store.edit(written.id, SECRETIVE)
    store.write_many([piece(f"a later piece, number {n}, about mills", n + 80) for n in range(80)])
    store.used([written.id], True)
    copy = backup(store, tmp_path / "copy.db")
    assert remains(tmp_path, SECRETIVE)  # the scan sees what is there
    gone = forget(store, [written.id])
    store.close()
    assert [entry.text for entry in gone.entries] == [SECRETIVE] and gone.backups == (str(copy),)
    assert remains(tmp_path, SECRETIVE) == []
    assert store.get([written.id]) == [] and store.search_words("Zanzibar", 3) == []
    assert store.count() == 160 and len(store.search_words("harbours", 500)) == 80
    check_file(copy)
    copy.unlink()
    assert forget(store, [1]).missing == (str(copy),)


def test_what_remains_of_a_forgotten_entry_is_told(store: MemoryStore) -> None:
    store.write_many([fact(SECRETIVE), fact("tea is served at four")])
    journal(store, RUN, [(1, SECRETIVE)])
    gone = forget(store, [1, 2])
    assert seen_by(store.database, gone.entries) == {RUN: [1]} and not gone.missing
    assert traces(store.home, gone.entries) == [store.database.path]
    RunStore(store.home, database=store.database).remove(RUN)
    again = forget(store, [2])
    assert not (seen_by(store.database, again.entries) or traces(store.home, again.entries) or again.missing)


def journal(store: MemoryStore, run: str, shown: list[tuple[int, str]]) -> None:
    runs = RunStore(store.home, database=store.database)
    with runs.create(RunStarted(run=run, goal={"goal": "look"})) as open_run:
        entries = [
            {"id": id, "text": text, "kind": "fact", "label": "trusted", "score": 1.0, "hash": ""}
            for id, text in shown
        ]
        open_run.append(MemoryRecalled.model_validate({"query": "look", "entries": entries}))


def test_runs_that_have_seen_an_entry_are_named_and_removed(
    store: MemoryStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_many([fact(SECRETIVE), fact("tea is served at four")])
    journal(store, RUN, [(1, SECRETIVE)])
    journal(store, "20260101-000000-bbbbbb", [(2, "tea is served at four")])
    assert seen_by(store.database, store.get([1])) == {RUN: [1]}
    store.close()
    monkeypatch.setenv("AUTOGPT_HOME", str(store.home))
    assert main(["memory", "forget", "1", "--runs"]) == 0
    said = capsys.readouterr().out
    assert f"removed run {RUN}" in said and "bbbbbb" not in said and "models: none" in said
    assert remains(store.home, SECRETIVE) == []
    assert [info.run for info in RunStore(store.home).list_runs()] == ["20260101-000000-bbbbbb"]


def test_without_runs_it_says_where_it_still_is(
    store: MemoryStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(fact(SECRETIVE))
    journal(store, RUN, [(1, SECRETIVE)])
    Experience(store.database).record_training("small@2", [RUN])
    (store.home / "history").write_text(f"+/remember {SECRETIVE}\n", encoding="utf-8")
    store.close()
    monkeypatch.setenv("AUTOGPT_HOME", str(store.home))
    assert main(["memory", "forget", "1"]) == 0
    said = capsys.readouterr().out
    assert f"model small@2 was trained on {RUN}" in said
    assert f"run {RUN} has seen it" in said and "still stands in" in said and "history" in said
    assert main(["memory", "forget", "1"]) == 1


def test_the_audit_finds_each_kind_of_junk(store: MemoryStore) -> None:
    """What the gate would refuse, put in behind its back."""
    store.write_many([fact(f"sound fact number {n} about harbours") for n in range(20)])
    assert audit(store).faults == ()
    store.write_many([
        fact("The host is db1"), fact("Mills grind corn"), fact("Shown text about mills"),
        fact("a: 1"), fact("harmless words"), fact("Written by its run", run=RUN, event=5),
    ])  # fmt: skip
    journal(store, RUN, [(23, "Shown text about mills")])

    def corrupt(connection: Any) -> None:
        for id, change in {
            22: "text = 'The host is db2'", 24: "text = 'Mills grind corn.'", 25: "label = 'untrusted'",
            26: "text = 'shown text about mills'",
        }.items():  # fmt: skip
            connection.exec_driver_sql(f"UPDATE memory_entries SET {change} WHERE id = {id}")

    store.database.write(corrupt)
    store.edit(22, "The host is db2!")
    found = audit(store)
    faults = {fault.entry.id: fault.fault for fault in found.faults}
    assert faults[25] == "provenance" and faults[26] in ("recalled", "duplicate")
    assert faults[21] == "contradicted" and found.share == len(faults) / 26


def test_export_and_import_keep_everything(store: MemoryStore, tmp_path: Path) -> None:
    store.write_many([
        fact("The host is db1"), fact("The host is db2"), fact("The host is db1"),
        Draft(Kind.LESSON, "read\nthe log", "/p", Label.UNTRUSTED, RUN, 3, expires=9e9),
        Draft(Kind.DOCUMENT, "a piece", label=Label.UNTRUSTED, source="/f.md#0"),
    ])  # fmt: skip
    store.used([3], True)
    lines = [str(item) for item in export(store.database)]
    other = MemoryStore(tmp_path / "other")
    other.write(fact("something before"))
    done = import_lines(other, lines)
    assert (done.written, done.known, done.refused) == (5, 0, 0)

    def shape(at: MemoryStore, shift: int) -> list[Any]:
        return [
            {**e.__dict__, "id": e.id - shift, "superseded_by": e.superseded_by and e.superseded_by - shift}
            for e in at.entries(live=None, after=shift)
        ]

    assert shape(other, 1) == shape(store, 0)
    assert [id for id, _ in other.search_words("host", 5)] == [4]
    assert import_lines(other, lines).known == 5 and other.count(live=False) == 6
    for bad in ("{}", "[]", "nonsense", lines[0].replace('"fact"', '"wish"')):
        with pytest.raises(UsageError, match="line 2: not an exported entry"):
            import_lines(MemoryStore(tmp_path / "third"), [lines[0], bad])
    assert MemoryStore(tmp_path / "third").count() == 0  # all or none


def test_a_damaged_file_gives_up_what_is_readable(store: MemoryStore) -> None:
    store.write_many([piece(f"piece {n} " + "x" * 3000, n) for n in range(100)])
    backup(store, store.home / "sound.db")
    store.close()
    check_file(store.database.path)
    data = bytearray(store.database.path.read_bytes())
    place = data.index(b"piece 50 ") // 4096 * 4096
    data[place : place + 4096] = b"\xff" * 4096
    store.database.path.write_bytes(data)
    with pytest.raises(StorageError, match=r"is damaged .* 'autogpt memory export FILE'"):
        check_file(store.database.path)
    items = list(export(store.database))
    lost = sum(item.last - item.first + 1 for item in items if isinstance(item, Lost))
    read = [json.loads(item)["text"] for item in items if isinstance(item, str)]
    assert 1 <= lost <= 10 and len(read) == 100 - lost
    assert all(text.startswith("piece ") and text.endswith("x" * 3000) for text in read)
    assert MemoryStore(store.home / "new").count() == 0
    assert import_lines(MemoryStore(store.home / "new"), [i for i in items if isinstance(i, str)]).written


def test_a_backup_is_whole_and_never_replaces_a_file(store: MemoryStore, tmp_path: Path) -> None:
    store.write(fact("tea"))
    path = backup(store, tmp_path / "copy.db")
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(UsageError, match="is there already"):
        backup(store, path)
    (tmp_path / "restored").mkdir()
    path.rename(tmp_path / "restored" / "autogpt.db")
    assert [entry.text for entry in MemoryStore(tmp_path / "restored").entries()] == ["tea"]
    with pytest.raises(StorageError, match="no backup was made"):
        backup(store, tmp_path / "nowhere" / "copy.db")


# Files


def test_files_are_kept_in_step(store: MemoryStore, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.md").write_text("# Harbour\n\nShips leave at dawn.\n\n# Mill\n\nThe mill grinds corn.\n")
    (folder / "deep" / "b.txt").write_text("Tea is served at four.")
    (folder / "c.bin.txt").write_bytes(b"\0\1\2")
    (folder / "image.png").write_bytes(b"\x89PNG")
    first = add(store, folder, "/p")
    assert (len(first.added), first.written, len(first.skipped)) == (2, 3, 1)
    assert "binary" in first.skipped[0][1]
    mill = store.get([store.search_words("mill", 1)[0][0]])[0]
    assert mill.source == f"{folder}/a.md#1" and mill.label is Label.UNTRUSTED and mill.namespace == "/p"
    assert mill.text.startswith("Mill\n")
    store.used([mill.id], True)
    assert add(store, folder, "/p").unchanged == 2
    (folder / "a.md").write_text("# New\n\nBefore all.\n\n# Mill\n\nThe mill grinds corn.\n")
    (folder / "deep" / "b.txt").unlink()
    again = add(store, folder, "/p")
    assert (again.changed, len(again.removed)) == ([f"{folder}/a.md"], 1)
    assert (again.written, again.forgotten) == (1, 2)
    kept = store.get([mill.id])[0]
    assert kept.uses == 1 and store.count() == 2  # the same piece is the same entry
    for file in folder.glob("*"):
        if file.is_file():
            file.unlink()
    assert add(store, folder, "/p").forgotten == 2 and store.count() == 0
    with pytest.raises(UsageError, match="no such file"):
        add(store, tmp_path / "nothing", "/p")


def test_a_piece_of_two_files_outlives_one_of_them(store: MemoryStore, tmp_path: Path) -> None:
    for name in ("a.md", "b.md"):
        (tmp_path / name).write_text(f"# Licence\n\nAnyone may copy it.\n\n# {name}\n\nOf its own: {name}\n")
    add(store, tmp_path, "")
    assert store.count() == 3
    (tmp_path / "a.md").unlink()
    add(store, tmp_path, "")
    assert {entry.source for entry in store.entries()} == {f"{tmp_path}/b.md#0", f"{tmp_path}/b.md#1"}


def test_secrets_in_files_stay_out(store: MemoryStore, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("# Web\n\nPort 80.\n\n# Access\n\nThe password is hunter2.\n")
    done = add(store, tmp_path / "notes.md", "")
    assert done.written == 1 and "password" in done.refused[0].reason
    assert "hunter2" not in "".join(entry.text for entry in store.entries())


@pytest.mark.parametrize("suffix", [".md", ".txt", ".py", ".csv", ".html"])
def test_pieces_are_bounded_and_lose_nothing(suffix: str) -> None:
    rows = [f"row{n},harbour,{n * 7},mill wheel" for n in range(400)]
    texts = {
        ".md": "# Guide\n\n" + "\n\n".join(f"## Part {n}\n\n{'word' * 3} text {n}. " * 9 for n in range(40)),
        ".txt": "One sentence about harbours here. " * 500 + "长句子没有空格。" * 200 + "x" * 3000,
        ".py": "import os\n\n\n" + "\n\n".join(f"def f{n}():\n    return {n} + {n}\n" for n in range(100)),
        ".csv": "name,what,number,more\n" + "\n".join(rows),
        ".html": "<html><head><title>t</title></head><body>"
        + "".join(f"<h2>Part {n}</h2><p>Text &amp; more {n}.</p><script>no()</script>" for n in range(60)),
    }
    pieces = chunk(texts[suffix], suffix)
    assert max(count_tokens(piece) for piece in pieces) <= PIECE_TOKENS * 1.5
    joined = " ".join(pieces)
    if suffix == ".csv":
        assert all(piece.startswith("name,what,number,more\n") for piece in pieces)
        assert all(row in joined for row in rows)
    if suffix == ".md":
        assert all(piece.startswith("Guide > Part") for piece in pieces) and "text 39." in joined
    if suffix == ".txt":
        assert joined.count("harbours") == 500 and joined.count("长") == 200 and joined.count("x") == 3000
    if suffix == ".py":
        assert all(f"return {n} + {n}" in joined for n in range(100))
    if suffix == ".html":
        assert "Text & more 59." in joined and "no()" not in joined and any("Part 59" in p for p in pieces)
    assert chunk("", suffix) == [] and chunk(" \n\n ", suffix) == []


# The command line


def test_the_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        code = main(["memory", *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    monkeypatch.chdir(tmp_path)
    assert run("list") == (0, "nothing is remembered yet; 'autogpt memory add' adds\n", "")
    assert run("add", "The host is db1") == (0, "remembered as entry 1\n", "")
    code, out, _ = run("add", "The host is db2")
    assert code == 0 and "in place of entry 1: The host is db1" in out
    code, out, err = run("add", "my password is hunter2")
    assert (code, out) == (1, "") and "hunter2" not in err
    assert err.startswith("refused: it looks like a secret")
    code, out, err = run("add", "docs/missing.md")
    assert code == 2 and err == "autogpt: error: docs/missing.md: no such file or folder\n"
    assert run("add", "") == (1, "", "refused: the text is empty\n"), "not all files of this folder"
    (tmp_path / "notes.md").write_text("# Tea\n\nIt is served at four.\n")
    assert "1 new; 1 piece " in run("add", "notes.md")[1]
    assert run("add", "notes.md", "--expires", "2")[0] == 2 and run("add", "x", "--expires", "0")[0] == 2
    (tmp_path / "notes.md").unlink()
    assert "1 gone" in run("add", "notes.md")[1]
    assert [json.loads(line)["id"] for line in run("list", "--json")[1].splitlines()] == [2]
    assert [json.loads(line)["id"] for line in run("list", "--all", "--json")[1].splitlines()] == [2, 1]
    assert "superseded by entry 2" in run("show", "1")[1] and run("show", "99")[0] == 1
    assert json.loads(run("search", "host", "--json")[1])["text"] == "The host is db2"
    assert run("edit", "2", "The host is db3") == (0, "entry 2 is changed\n", "")
    assert json.loads(run("stats", "--json")[1])["live"] == 1
    assert json.loads(run("audit", "--json")[1]) == {"entries": 1, "share": 0.0, "faults": []}
    assert run("tidy")[1] == "0 merged, 0 deleted\n" and "(2 entries)" in run("rebuild")[1]
    assert run("export", "out.jsonl")[0] == 0 and run("backup", "b.db")[0] == 0
    assert run("import", "out.jsonl")[1] == "0 entries imported, 2 were here already, 0 refused\n"
    assert run("forget", "7")[0] == 1 and "forgot entries 1, 2" in run("forget", "1", "2")[1]
    (tmp_path / "bad.jsonl").write_text("{}\n")
    assert run("import", "bad.jsonl")[::2][0] == 2


def test_a_fact_may_be_given_days(isolated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", "add", "The demo is in room 7", "--expires", "2.5"]) == 0
    later = MemoryStore(isolated, clock=lambda: time.time() + 3 * 86_400)
    (entry,) = MemoryStore(isolated).entries()
    assert entry.expires == pytest.approx(entry.created + 2.5 * 86_400, abs=60)
    assert later.entries() == []


def test_a_write_says_why_without_the_text(store: MemoryStore) -> None:
    store.write_many([fact("tea"), fact("tea"), fact("my password is hunter2")])
    store.forget([1])
    with store.database.read() as connection:
        rows = connection.exec_driver_sql("SELECT verdict, reason FROM memory_writes ORDER BY id").all()
    assert [row[0] for row in rows] == [
        Verdict.WRITTEN, Verdict.REFUSED, Verdict.REFUSED, "forgotten",
    ]  # fmt: skip
    assert all(row[1] for row in rows) and "hunter2" not in str(rows) and "tea" not in str(rows)
