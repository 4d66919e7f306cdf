"""The suites: they load, they can be passed and failed, and the script makes the same again."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from support.paths import ROOT

from autogpt.agent.experts.splits import HELD_OUT, is_train
from autogpt.agent.goals.checks import run_checks
from autogpt.agent.goals.compare import same
from autogpt.agent.goals.load import load_conversations, load_goals

SUITES = ROOT / "benchmarks" / "suites"
DATA = os.environ.get("AUTOGPT_DATA", "")
SIZES = {"tables": 1000, "words": 200, "words_multi": 200, "files": 150, "chat": 60, "workflows": 100}


@pytest.mark.parametrize("name", SIZES)
def test_a_suite_loads_whole_and_an_empty_answer_fails_it(name: str, tmp_path: Path) -> None:
    goals = load_goals(SUITES / f"{name}.jsonl")
    assert len(goals) == SIZES[name]
    for goal in goals:
        assert goal.check and goal.category
        verdicts = run_checks(goal.check, None, tmp_path)
        assert not all(verdict.passed for verdict in verdicts), goal.id


def test_expected_table_answers_are_in_the_tables() -> None:
    for goal in load_goals(SUITES / "tables.jsonl"):
        if goal.category == "select":
            (text,) = goal.files.values()
            cells = {cell for row in csv.reader(io.StringIO(text)) for cell in row}
            for item in goal.model_dump()["check"][0]["answer"]["items"]:
                assert any(same(item, cell) for cell in cells), goal.id


def test_conversations_have_three_to_five_turns() -> None:
    sessions = load_conversations(SUITES / "conversations.jsonl")
    assert len(sessions) >= 30
    assert all(3 <= len(session.turns) <= 5 for session in sessions)
    assert all(turn.check for session in sessions for turn in session.turns)


def test_splits_hold_out_about_their_share_and_ignore_case() -> None:
    for kind, share in HELD_OUT.items():
        held = sum(not is_train(kind, f"key {number}") for number in range(2000))
        assert abs(held / 2000 - share / 100) < 0.03
    assert is_train("gsm8k", "How  many?") == is_train("gsm8k", "how many?")
    with pytest.raises(KeyError):
        is_train("unknown", "x")


def test_word_problems_are_held_out() -> None:
    for goal in load_goals(SUITES / "words.jsonl"):
        assert not is_train("mawps", goal.goal)
    for goal in load_goals(SUITES / "words_multi.jsonl"):
        assert not is_train("gsm8k" if goal.category == "gsm8k" else "mawps", goal.goal)


def test_the_script_says_what_is_missing(tmp_path: Path) -> None:
    env = {**os.environ, "AUTOGPT_DATA": str(tmp_path)}
    script = str(ROOT / "benchmarks" / "make_suites.py")
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("make_suites: set AUTOGPT_DATA")


@pytest.mark.parametrize("name", ["files", "chat", "conversations"])
def test_generated_suites_are_made_the_same_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    make_suites = importlib.import_module("make_suites")

    assert "".join(make_suites.lines(name, Path())) == (SUITES / f"{name}.jsonl").read_text("utf-8")


@pytest.mark.skipif(not DATA, reason="AUTOGPT_DATA is not set")
@pytest.mark.parametrize("name", ["tables", "words", "words_multi", "workflows"])
def test_suites_from_data_are_made_the_same_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    make_suites = importlib.import_module("make_suites")

    assert "".join(make_suites.lines(name, Path(DATA))) == (SUITES / f"{name}.jsonl").read_text("utf-8")


def test_examples_name_inputs_that_exist() -> None:
    goals = load_goals(ROOT / "examples")
    assert len(goals) >= 8 and all(goal.check for goal in goals)
    for goal in goals:
        assert all(path.is_file() for path in goal.input_paths())


def test_deliveries_example_expects_what_sql_finds() -> None:
    (goal,) = (goal for goal in load_goals(ROOT / "examples") if goal.id == "late-deliveries")
    (path,) = goal.input_paths()
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    connection = sqlite3.connect(":memory:")
    connection.execute("create table t (supplier, status)")
    connection.executemany("insert into t values (?, ?)", [(row["supplier"], row["status"]) for row in rows])
    query = "select supplier from t where status = 'late' group by 1 order by count(*) desc limit 1"
    (expected,) = connection.execute(query).fetchone()
    connection.close()
    assert json.loads(goal.model_dump_json())["check"][0]["answer"]["equals"] == expected


def test_the_gate_ships_goals_that_no_suite_holds() -> None:
    goals = load_goals(ROOT / "agent" / "learn" / "held_out" / "gate.jsonl.zst")
    assert Counter(goal.category for goal in goals) == {
        "tables": 600,
        "words": 260,
        "files": 240,
        "workflows": 240,
    }
    assert all(goal.check for goal in goals) and len({goal.id for goal in goals}) == len(goals)
    suites = [goal for name in SIZES for goal in load_goals(SUITES / f"{name}.jsonl")]
    assert not {goal.goal for goal in goals} & {goal.goal for goal in suites}
    tables = {text for goal in suites if goal.id.startswith("tables") for text in goal.files.values()}
    held = [goal for goal in goals if goal.category == "tables"]
    assert not any(text in tables for goal in held for text in goal.files.values())
