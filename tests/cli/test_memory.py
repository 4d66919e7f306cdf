"""``autogpt memory forget`` says one true thing: where the text is gone from, and where it still is."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.scripts import script

from autogpt.cli.parser import main

FACT = "The spare key is under the blue pot."
FINISH = {"name": "finish", "arguments": {"answer": "Noted."}}


def forgotten(capsys: pytest.CaptureFixture[str], *more: str) -> list[str]:
    capsys.readouterr()
    assert main(["memory", "forget", "1", *more]) == 0
    return capsys.readouterr().out.splitlines()


def test_what_only_memory_had_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", "add", FACT]) == 0
    first, *rest = forgotten(capsys)
    assert first == "forgot entry 1: gone from memory, its index and its backups"
    assert [line for line in rest if "still" in line] == []


def test_what_a_run_keeps_is_said_in_the_same_breath(
    tmp_path: Path, isolated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = script(tmp_path / "s.json", {"name": "remember", "arguments": {"text": FACT}}, FINISH)
    assert main(["run", f"Remember: {FACT}", "--model", model]) == 0
    (isolated / "history").write_text(f"+/remember {FACT}\n")
    first, *rest = forgotten(capsys)
    assert first.endswith("but not from these:") and "nothing" not in first
    keeps = [line for line in rest if "keeps that in its journal" in line]
    files = [line for line in rest if "still stands in" in line]
    assert len(keeps) == 1 and "autogpt runs remove" in keeps[0]
    assert [line.split()[-1] for line in files] == [str(isolated / "history")], (
        "the journal's file is explained"
    )


def test_with_the_run_it_is_gone(tmp_path: Path, isolated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = script(tmp_path / "s.json", {"name": "remember", "arguments": {"text": FACT}}, FINISH)
    assert main(["run", f"Remember: {FACT}", "--model", model]) == 0
    first, *rest = forgotten(capsys, "--runs")
    assert first == "forgot entry 1: gone from memory, its index and its backups"
    assert any("removed run" in line for line in rest)
    assert FACT.encode() not in b"".join(path.read_bytes() for path in isolated.rglob("*") if path.is_file())


def test_a_file_that_cannot_be_kept_is_named_and_the_exit_code_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photo.md").write_bytes(b"\x00\x01\x02" * 99)
    assert main(["memory", "add", str(tmp_path / "photo.md")]) == 1
    said = capsys.readouterr()
    assert "no file to read" in said.out and "photo.md: a binary file, not text" in said.err
