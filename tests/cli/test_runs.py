"""``autogpt runs``: the list stays readable, and old runs with their copies of inputs can go."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from support.scripts import script

from autogpt.agent.record.events import RunEnded, RunStarted
from autogpt.agent.record.store import RunStore
from autogpt.cli.parser import main

DAY = 86_400.0
FINISH = {"name": "finish", "arguments": {"answer": "done"}}


def made(store: RunStore, number: int, days: float, ended: bool = True, blob: int = 0) -> str:
    """A run that began and ended ``days`` ago, with ``blob`` bytes of a copied input."""
    run = f"20260101-{number:06d}-aaaaaa"
    at = time.time() - days * DAY
    with store.create(RunStarted(run=run, goal={"goal": f"goal {number}"}, at=at)) as journal:
        if ended:
            journal.append(RunEnded(status="achieved", cause="", at=at))
    workspace = store.folder(run) / "workspace"
    workspace.mkdir()
    (workspace / "big.csv").write_bytes(b"x" * blob)
    return run


def test_a_long_goal_is_one_short_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = script(tmp_path / "s.json", FINISH)
    goal = "count the words\n" + "and once more " * 2000
    main(["run", goal, "--model", model])
    capsys.readouterr()
    assert main(["runs", "list"]) == 0
    _, line = capsys.readouterr().out.splitlines()
    assert "count the words" in line and line.endswith("…") and len(line) < 400


def test_runs_say_how_much_disk_they_take(store: RunStore, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(store, 1, 0, blob=2_500_000)
    assert main(["runs", "list"]) == 0
    assert "2.5 MB" in capsys.readouterr().out
    assert main(["runs", "list", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["run"] == run and info["bytes"] >= 2_500_000
    main(["doctor", "--json"])
    (database,) = [f for f in json.loads(capsys.readouterr().out) if f["what"] == "database"]
    assert "the runs' files take 2.5 MB" in database["detail"] and "--older-than" in database["detail"]


def test_old_runs_are_removed_with_their_files(store: RunStore, capsys: pytest.CaptureFixture[str]) -> None:
    old, left, new = made(store, 1, 40, blob=1_000_000), made(store, 2, 31, ended=False), made(store, 3, 2)
    assert main(["runs", "remove", "--older-than", "60d"]) == 0
    assert "no run is older than 60d" in capsys.readouterr().out
    assert main(["runs", "remove", "--older-than", "30d"]) == 0
    assert "removed 2 runs, 1.0 MB of files" in capsys.readouterr().out
    assert [info.run for info in store.list_runs()] == [new]
    assert not store.folder(old).exists() and not store.folder(left).exists()


def test_a_run_that_is_going_on_is_never_old(store: RunStore) -> None:
    run = f"20260101-{7:06d}-aaaaaa"
    with store.create(RunStarted(run=run, goal={"goal": "slow"}, at=time.time() - 40 * DAY)):
        assert main(["runs", "remove", "--older-than", "30d"]) == 0
    assert store.info(run).run == run


@pytest.mark.parametrize(
    ("argv", "says"),
    [([], "name a run, or --older-than"), (["last", "--older-than", "3d"], "name a run, or --older-than"),
     (["--older-than", "soon"], "a time such as"), (["--older-than", "0d"], "a time such as")],
)  # fmt: skip
def test_what_is_to_be_removed_must_be_clear(
    store: RunStore, argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made(store, 1, 40)
    assert main(["runs", "remove", *argv]) == 2
    assert says in capsys.readouterr().err
    assert store.info(run).run == run


def test_a_question_unattended_says_how_to_answer_and_goes_on(
    tmp_path: Path, store: RunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    model = script(tmp_path / "ask.json", {"name": "ask", "arguments": {"question": "Which month?"}})
    assert main(["run", "Count the late ones.", "--model", model]) == 5
    run = store.resolve_run("last")
    said = capsys.readouterr()
    assert "Which month?" in said.out
    assert f'to answer: autogpt approve {run} "YOUR ANSWER"' in said.err
    assert store.info(run).status == "waiting"
    later = script(tmp_path / "later.json", {"name": "finish", "arguments": {"answer": "12 in March"}})
    assert main(["approve", run, "March", "--model", later]) == 0
    assert "12 in March" in capsys.readouterr().out
    assert main(["approve", run, "April", "--model", later]) == 2
    assert f"run {run} has ended and waits for no answer" in capsys.readouterr().err


def test_resuming_a_run_that_has_ended_says_so(
    tmp_path: Path, store: RunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made(store, 1, 1)
    assert main(["resume", run, "--model", script(tmp_path / "s.json", FINISH)]) == 0
    assert f"run {run} has ended already; 'autogpt runs show {run}' shows it" in capsys.readouterr().err


def test_an_approval_unattended_says_how_to_answer(
    tmp_path: Path, store: RunStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = {"name": "plan", "arguments": {"steps": [{"tool": "files.write", "for": "the note"}]}}
    write = {"name": "files.write", "arguments": {"path": "other.txt", "content": "x"}}
    model = script(tmp_path / "w.json", plan, write, FINISH)
    goal = {"goal": "note it", "on_approval": "park", "grants": {"read": ["."], "write": ["late.txt"]}}
    (tmp_path / "goal.json").write_text(json.dumps(goal))
    assert main(["run", "goal.json", "--model", model, "--json"]) == 5
    said = capsys.readouterr()
    assert json.loads(said.out)["status"] == "needs_person"
    assert f"to answer: autogpt approve {store.resolve_run('last')} once|run|always|no" in said.err
