"""Bad input through the command line: one clear line that says what, where and what to do, and an exit code.

Files, tables and grants are here; models and full disks are in ``test_bad_machine``. Each case also
looks at what must not be lost: the user's files, and the run where there is one.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from autogpt.agent.goals.load import load_goals
from autogpt.cli.parser import main
from autogpt.llm.message import Prompt, ToolCall
from autogpt.llm.models.scripted import ScriptedModel

FINISH = {"name": "finish", "arguments": {"answer": "done"}}
QUOTING = 'city,people\nLyon,5\n"Pa"ris,21\nRome,28\n'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table and a model that finishes at once."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cities.csv").write_text("city,people\nLyon,5\nParis,21\n")
    (tmp_path / "s.json").write_text(json.dumps([FINISH]))
    return tmp_path


def complaint(argv: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail with ``code``; return its one line on standard error."""
    capsys.readouterr()
    assert main(argv) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "internal error" not in lines[0], lines
    return lines[0]


def run(name: str, *more: str) -> list[str]:
    return ["run", name, *more, "--model", "scripted:s.json"]


def goal_file(here: Path, **fields: Any) -> str:
    (here / "goal.yaml").write_text(json.dumps({"goal": "do it", **fields}))
    return "goal.yaml"


def input_line(here: Path, name: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a goal over an input that cannot be read; return how the transcript names that."""
    capsys.readouterr()
    honest = {**FINISH, "arguments": {"answer": f"I could not read {name}"}}
    (here / "s.json").write_text(json.dumps([honest]))
    assert main(run("How many people?", name)) == 3
    out = capsys.readouterr().out.splitlines()
    assert out[-1].startswith("not met: an input could not be read: " + name)
    lines = [line for line in out if line.startswith("input")]
    assert len(lines) == 1
    return lines[0]


def test_a_missing_file_is_named_with_the_nearest_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "goals.yaml: no such file" in complaint(run("goals.yaml"), 2, capsys)
    line = complaint(run("How many?", "citties.csv"), 2, capsys)
    assert str(here / "citties.csv") in line and "did you mean cities.csv?" in line
    line = complaint(run(goal_file(here, inputs=["citties.csv"])), 2, capsys)
    assert "goal.yaml:1: inputs[0]" in line and "did you mean `cities.csv`?" in line
    assert "no runs yet" in complaint(["runs", "show"], 2, capsys), "nothing was begun"


@pytest.mark.parametrize("name", ["goal.yaml", "goal.json", "goal.txt", "suite.jsonl"])
def test_a_binary_goal_file_is_not_text(here: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (here / name).write_bytes(b"PK\x03\x04\x00\xff\xfe\x00")
    assert f"{name}: is not UTF-8 text (byte 5)" in complaint(run(name), 2, capsys)
    assert "is not UTF-8 text" in complaint(["validate", name], 2, capsys)


@pytest.mark.parametrize("name", ["data.csv", "data.tsv", "data.json", "data.xlsx", "data.db"])
def test_a_binary_input_is_named_and_the_run_is_not_met(
    here: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / name).write_bytes(bytes(range(256)) * 20)
    line = input_line(here, name, capsys)
    assert "failed:" in line and line.count(name) == 2
    assert main([*run("How many people?", name), "--json"]) == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out)["status"] == "not_met"
    assert captured.err.startswith("autogpt: warning: " + name), "with --json it stands on standard error"
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('goal: "x\ninputs: [cities.csv]\n', "bad.yaml:3: malformed YAML: found unexpected end of stream"),
        ('goal: "x\ninputs: [cities.csv]\n', "that begins in line 1"),
        ("goal: x\n  inputs: []\n", "bad.yaml:2: malformed YAML: mapping values"),
        ("goal: x\n\tinputs: []\n", "bad.yaml:2: malformed YAML: found character '\\t'"),
        ("goal: &a [*a]\n", "bad.yaml:1: malformed YAML"),
        ("just words\n", "bad.yaml:1: a goal must be a mapping of fields, not str"),
        ("", "bad.yaml: holds no goal"),
        ("goal: x\ngoal: y\n", "bad.yaml:2: goal: is given twice"),
    ],
)
def test_malformed_yaml_has_its_line(
    here: Path, text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "bad.yaml").write_text(text)
    assert says in complaint(run("bad.yaml"), 2, capsys)


def test_malformed_json_lines_name_the_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "suite.jsonl").write_text('{"goal": "a"}\n{"goal":\n{"gaol": "c"}\n')
    line = complaint(["eval", "suite.jsonl", "--model", "scripted:s.json"], 2, capsys)
    assert "suite.jsonl:2: malformed JSON" in line and "and 2 more" in line
    assert main(["validate", "suite.jsonl"]) == 2
    assert "did you mean `goal`?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"tools": ["files", "tabels"]}, "tools[1]: unknown tool `tabels`; did you mean `tables`?"),
        ({"tools": ["frobnicate"]}, "tools[0]: unknown tool `frobnicate`"),
        ({"check": [{"answr": {"equals": 3}}]}, "unknown check `answr`; did you mean `answer`?"),
        ({"check": [{"frob": {}}]}, "unknown check `frob` (there are answer, calls, file"),
        ({"check": [{"command": {"run": "ls", "exit": 0}}]}, "check `command` is not available yet"),
        ({"check": [{"answer": {"equal": 3}}]}, "unknown field `equal`; did you mean `equals`?"),
        ({"goal": ""}, "goal: the goal is empty"),
        ({"goal": " \n"}, "goal: the goal is empty"),
        ({"limits": {"steps": 0}}, "limits.steps"),
    ],
)
def test_unknown_names_and_empty_goals_in_a_file(
    here: Path, fields: dict[str, Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = goal_file(here, **fields)
    line = complaint(run(name), 2, capsys)
    assert line.startswith("autogpt: error: goal.yaml:1: ") and says in line
    assert says in complaint(["validate", name], 2, capsys)


def test_an_empty_goal_is_refused_wherever_it_comes_from(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "empty.txt").write_text(" \n")
    for words in ("", "   ", "empty.txt"):
        assert "the goal is empty; say what should be done" in complaint(run(words), 2, capsys)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("../x.txt", "`..`"),
        ("a/../../x.txt", "`..`"),
        ("/etc/x.txt", "is absolute"),
        ("~/x.txt", "is absolute"),
        ("C:\\x.txt", "is absolute"),
        ("link/x.txt", "symbolic link"),
        ("linked.txt", "symbolic link"),
    ],
)
def test_a_grant_outside_the_workspace(
    here: Path,
    tmp_path_factory: pytest.TempPathFactory,
    path: str,
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "mine.txt").write_text("mine")
    (here / "link").symlink_to(outside)
    (here / "linked.txt").symlink_to(outside / "mine.txt")
    line = complaint(run(goal_file(here, grants={"write": [path]})), 2, capsys)
    assert "goal.yaml:1: grants.write[0]: " in line and says in line and path in line
    line = complaint(run("note it", "--write", path), 2, capsys)
    assert "--write: " in line and says in line and path in line
    assert [file.name for file in outside.iterdir()] == ["mine.txt"]


def test_two_inputs_of_one_name_are_refused_before_a_run_begins(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "old").mkdir()
    (here / "old" / "cities.csv").write_text("city\n")
    line = complaint(run("compare", "cities.csv", "old/cities.csv"), 2, capsys)
    assert "two inputs are named cities.csv" in line
    assert "no runs yet" in complaint(["runs", "show"], 2, capsys)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (QUOTING, "broken.csv line 3: broken quoting"),
        ('city,people\nLyon,5\n"Paris,21\nRome,28\n', "broken.csv line 3: broken quoting"),
        ("city,people\nLyon,5,7\n", "broken.csv line 2: 3 cells, but the header has 2"),
        ("", "broken.csv is empty"),
    ],
)
def test_a_broken_table_is_named_with_its_line(
    here: Path, text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "broken.csv").write_text(text)
    assert says in input_line(here, "broken.csv", capsys)
    assert (here / "broken.csv").read_text() == text


def test_a_large_table_is_loaded_and_its_result_stays_behind_a_handle(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = 120_000
    with (here / "large.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["supplier", "days", "note"])
        writer.writerows((f"S{i % 97}", i % 11, f"delivery number {i:06} " + "." * 40) for i in range(rows))
    assert (here / "large.csv").stat().st_size > 8_000_000
    some = {"table": "large", "select": ["note"], "where": [["supplier", "=", "S1"]]}
    turns = [
        {"name": "plan", "arguments": {"steps": [{"tool": "tables.query", "for": "all of them"}]}},
        {"name": "tables.query", "arguments": some},
        {"name": "tables.query", "arguments": {"table": "large", "select": ["count(*)"]}},
        {"name": "finish", "arguments": {"answer": "$3"}},
    ]
    (here / "s.json").write_text(json.dumps(turns))
    assert main(run("How many?", "large.csv")) == 0
    out = capsys.readouterr().out
    assert f"table large ({rows} rows)" in out and f"answer  {rows}" in out
    assert max(map(len, out.splitlines())) < 500, "a long result is shown in short"


def test_an_output_that_changed_meanwhile_is_not_overwritten(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from autogpt import AutoGPT

    target = here / "late.txt"
    target.write_text("old")

    def write(prompt: Prompt) -> ToolCall:
        target.write_text("the user's own change")
        return ToolCall("files.write", {"path": "late.txt", "content": "the run's result"})

    plan = ToolCall("plan", {"steps": [{"tool": "files.write", "for": "the note"}]})
    model = ScriptedModel([plan, write, ToolCall("finish", {"answer": "done"})])
    name = goal_file(here, grants={"read": ["."], "write": ["late.txt"]})
    result = AutoGPT(model).run(load_goals(name)[0])
    assert target.read_text() == "the user's own change"
    assert len(result.delivered) == 1
    assert (here / result.delivered[0]).read_text() == "the run's result"
    assert main(["runs", "show"]) == 0
    assert "(late.txt changed meanwhile and was left as it is)" in capsys.readouterr().out
