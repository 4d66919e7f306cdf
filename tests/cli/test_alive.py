"""No command is silent: a line before anything heavy is loaded, and one whenever nothing was shown."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autogpt.cli.alive import Alive


def test_the_first_line_comes_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps([{"name": "finish", "arguments": {"answer": "hello"}}]))
    command = [
        sys.executable,
        "-X",
        "importtime",
        "-m",
        "autogpt",
        "run",
        "say hello",
        "--model",
        "scripted:s.json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    before, said, after = done.stderr.partition("autogpt: loading scripted:s.json\n")
    assert done.returncode == 0 and said
    assert not [
        name for name in ("pydantic", "sqlalchemy", "rich", "autogpt.settings") if f" {name}\n" in before
    ]
    assert " sqlalchemy\n" in after


def test_commands_that_load_no_model_begin_without_a_word(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "autogpt", "tools", "list"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0 and "loading" not in done.stderr


def test_silence_is_broken_until_someone_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    alive = Alive(patience=0.05)
    alive.start("loading small")
    time.sleep(0.3)
    alive.touch()
    time.sleep(0.3)
    alive.rest()
    first, *later = capsys.readouterr().err.splitlines()
    assert first == "autogpt: loading small"
    assert "autogpt: loading small, 0 s" in later and "autogpt: working, 0 s" in later
    time.sleep(0.2)
    assert capsys.readouterr().err == "", "a person is being asked"


def test_output_puts_the_next_sign_off(capsys: pytest.CaptureFixture[str]) -> None:
    alive = Alive(patience=0.5)
    alive.start()
    for _ in range(20):
        time.sleep(0.05)
        alive.touch()
    alive.rest()
    assert capsys.readouterr().err == ""


def test_a_wrong_model_name_is_answered_before_torch_is_imported(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "autogpt", "run", "hello", "--model", "larg"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 2 and "no model 'larg'; did you mean large?" in done.stderr
    assert " autogpt.settings\n" in done.stderr and " torch\n" not in done.stderr
