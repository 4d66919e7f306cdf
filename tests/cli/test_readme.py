"""What the README shows works: its Python runs, its goal files are valid and run, its commands exist."""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from autogpt.cli.parser import build_parser, main

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the example data, as a reader has it, and the model that ships with the package."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copytree(ROOT / "examples" / "data", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUTOGPT_MODEL", "nano")
    return tmp_path


def test_python_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    """One after the other, as a reader pastes them: a later one may use the names of an earlier one."""
    names: dict[str, object] = {"__name__": "__main__"}
    for code in blocks("python"):
        exec(compile(code, "README.md", "exec"), names)
        assert "print(" not in code or capsys.readouterr().out.strip()


@pytest.mark.parametrize("text", blocks("yaml"))
def test_goal_files_are_valid_and_run(text: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parsed = yaml.safe_load(text)
    assert parsed, "a block that shows nothing"
    if not isinstance(parsed, dict) or "goal" not in parsed:
        return  # a configuration or a recipe, not a goal
    (here / "goal.yaml").write_text(text, encoding="utf-8")
    assert main(["validate", "goal.yaml"]) == 0, capsys.readouterr().err
    (here / "s.json").write_text(json.dumps([{"name": "finish", "arguments": {"answer": "done"}}]))
    assert main(["run", "goal.yaml", "--model", "scripted:s.json"]) in (0, 3), capsys.readouterr().err


def test_commands_exist() -> None:
    (groups,) = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    lines = [line.removeprefix("$ ") for text in blocks("") + blocks("sh") for line in text.splitlines()]
    named = [line.split()[1].rstrip(",") for line in lines if line.startswith("autogpt ")]
    assert len(named) > 5
    assert not set(named) - set(groups.choices)


def test_there_are_examples() -> None:
    assert blocks("python") and blocks("yaml")
