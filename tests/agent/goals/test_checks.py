"""Checks: the right result passes and a wrong one fails, for every kind."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from autogpt.agent.goals.checks import (
    AnswerCheck,
    CallsCheck,
    Check,
    Finding,
    Outcome,
    kinds,
    need,
    reward,
    run_checks,
)
from autogpt.agent.goals.compare import as_items, as_number, same, same_items, unwrap
from autogpt.agent.goals.load import Goal


def passes(check: dict[str, Any], value: Any = None, workspace: Path = Path("."), calls: Any = ()) -> bool:
    goal = Goal.model_validate({"goal": "g", "check": [check]})
    (verdict,) = run_checks(goal.check, value, workspace, calls)
    assert verdict.detail and "\n" not in verdict.detail
    return verdict.passed


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (30, "30", True),
        ("30.0", 30, True),
        ("1,200", 1200, True),
        (" Nord\u00a0 Fracht ", "nord fracht", True),
        ("ﬁne", "fine", True),  # NFKC
        ("\u22125", -5, True),
        (1e-7, 1.00000001e-7, True),
        ("1,20", 120, False),
        ("30 kg", 30, False),
        (True, 1, False),
        (30, 31, False),
        ("nan", "nan", True),
        (0, 1e-9, False),
        (None, "", True),
    ],
)
def test_scalars(one: Any, other: Any, equal: bool) -> None:
    assert same(one, other) is same(other, one) is equal


def test_numbers_are_only_numbers() -> None:
    assert as_number("1e3") == 1000 and as_number(".5") == 0.5 and as_number("+7") == 7
    for text in ("", "-", ".", "e5", "1e999", "inf", "12 34", "0x10", "1.2.3", None, [1], True):
        assert as_number(text) is None, text


def test_one_scalar_is_unwrapped_but_a_row_is_not() -> None:
    assert unwrap([[5]]) == unwrap([5]) == unwrap(5) == 5
    assert unwrap([["a", 1]]) == [["a", 1]] and unwrap([1, 2]) == [1, 2]


def test_items_are_multisets() -> None:
    assert same_items(["a", "B", 1], ["1.0", "b", "A"])
    assert same_items([1 / 3, 2], [2, 0.33333333])
    assert not same_items(["a", "a", "b"], ["a", "b", "b"])
    assert not same_items(["a"], ["a", "a"])
    assert as_items([[1], [2]]) == [1, 2] and as_items(5) == [5]
    assert as_items({"columns": ["x"], "rows": [["a"], ["b"]]}) == ["a", "b"]


@pytest.mark.parametrize(
    ("spec", "right", "wrong"),
    [
        ({"equals": "Nordfracht"}, "  nordFRACHT", "Nordfracht AG"),
        ({"equals": 3}, ["3.0"], "4"),
        ({"equals": [1, 2]}, ["1", 2], [2, 1]),
        ({"equals": {"a": 1}}, {"a": "1"}, {"a": 2}),
        ({"number": 12}, "12.0", "twelve"),
        ({"number": 12}, [[12]], 12.1),
        ({"number": 0.333, "tolerance": 0.001}, 1 / 3, 0.335),
        ({"one_of": ["yes", 1]}, "YES", "no"),
        ({"matches": "^par[iy]s"}, "Paris is it", "In Paris"),
        ({"items": ["a", "a", 2]}, ["2", "A", "a"], ["a", 2]),
        ({"items": ["x"]}, "X", ["x", "x"]),
    ],
)
def test_answer(spec: dict[str, Any], right: Any, wrong: Any) -> None:
    assert passes({"answer": spec}, right)
    assert not passes({"answer": spec}, wrong)
    assert not passes({"answer": spec}, None)


def test_calls_match_one_to_one_in_any_order() -> None:
    check = {
        "calls": [
            {"name": "book", "arguments": {"city": ["Paris", "Rome"], "class": ["eco", None]}},
            {"name": "book", "arguments": {"city": ["Paris"]}},
        ]
    }
    paris, rome = ("book", {"city": "paris"}), ("book", {"city": "Rome", "class": "eco"})
    assert passes(check, calls=[paris, rome]) and passes(check, calls=[rome, paris])
    assert passes(check, calls=[("book", {"city": "Paris", "class": None}), paris])
    assert not passes(check, calls=[paris])
    assert not passes(check, calls=[rome, rome])
    assert not passes(check, calls=[paris, rome, rome])
    assert not passes(check, calls=[paris, ("book", {"city": "Rome", "class": "first"})])
    assert not passes(check, calls=[paris, ("book", {"class": "eco"})])
    assert not passes(check, calls=[paris, ("book", {"city": "Rome", "extra": 1})])
    assert not passes(check, calls=[paris, ("order", {"city": "Rome"})])
    assert passes({"calls": []}) and not passes({"calls": []}, calls=[paris])


def test_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Total: 12\nNordfracht  AG \n")
    (tmp_path / "n.txt").write_text("119.0\n")
    (tmp_path / "j.json").write_text('{"a": [1, "B"]}')
    (tmp_path / "bin").write_bytes(b"\xff\xfe\x81")

    def check(value: Any = None, /, **spec: Any) -> bool:
        return passes({"file": spec}, value, tmp_path)

    assert check(path="a.txt", equals="Total: 12\nNordfracht  AG")
    assert not check(path="a.txt", equals="Total: 12")
    assert not check(path="a.txt", equals="total: 12\nNordfracht  AG")
    assert check(path="n.txt", equals="119") and not check(path="n.txt", equals="118")
    assert check(path="a.txt", contains=["nordfracht ag", "12"]) and not check(
        path="a.txt", contains=["12", "13"]
    )
    assert check(path="a.txt", matches="total: \\d+$") is False
    assert check(path="a.txt", matches="^total: \\d+\n")
    assert check(path="j.json", json={"a": [1, "b"]}) and not check(path="j.json", json={"a": [1]})
    assert not check(path="a.txt", json={"a": 1})
    assert check(path="a.txt", exists=True) and not check(path="b.txt", exists=True)
    assert check(path="b.txt", exists=False) and not check(path="a.txt", exists=False)
    assert not check(path="b.txt", contains="x") and not check(path="bin", contains="x")


def test_files_outside_the_workspace_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("yes")
    workspace = tmp_path / "w"
    workspace.mkdir()
    (workspace / "link.txt").symlink_to(tmp_path / "secret.txt")
    assert not passes({"file": {"path": "link.txt", "contains": "yes"}}, workspace=workspace)


def test_sql(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "out.db") as connection:
        connection.execute("create table t (a, b)")
        connection.executemany("insert into t values (?, ?)", [(1, "x"), (2, "y")])
    connection.close()

    def check(query: str, equals: Any, path: str = "out.db") -> bool:
        return passes({"sql": {"path": path, "query": query, "equals": equals}}, workspace=tmp_path)

    assert check("select b, a from t order by a", [["x", 1], ["y", 2]])
    assert not check("select b, a from t order by a", [["x", 1]])
    assert not check("select nothing from t", [])
    assert not check("delete from t", []) and check("select count(*) from t", [[2]])
    assert not check("select 1", [[1]], "none.db") and not (tmp_path / "none.db").exists()


def test_text_scores_against_the_nearest_reference() -> None:
    reference = ["The storm damaged the old harbour.", "Harbour hit by storm."]
    goal = Goal.model_validate({"goal": "g", "check": [{"text": {"reference": reference, "at_least": 0.6}}]})
    scores = {}
    for text in ("the storm damaged the old harbour", "storm damaged the city", "Prices rose again"):
        (verdict,) = run_checks(goal.check, text, Path("."))
        assert verdict.score is not None and verdict.passed is (verdict.score >= 0.6)
        scores[text] = verdict.score
    best, middle, worst = scores.values()
    assert best > 0.9 > middle > worst


def test_shell_compares_words_and_runs_nothing(tmp_path: Path) -> None:
    check = {"shell": {"command": "find . -name '*.sh' -exec touch ran {} +"}}
    assert passes(check, '  find .  -name "*.sh" -exec touch ran {} + ', tmp_path)
    assert not passes(check, "find . -name *.py -exec touch ran {} +", tmp_path)
    assert not passes({"shell": {"command": "ls -l"}}, "ls -l 'x", tmp_path)
    exact = {"shell": {"command": "ls -l", "normalised": False}}
    assert passes(exact, " ls -l") and not passes(exact, "ls  -l")
    assert list(tmp_path.iterdir()) == []


def test_command_fails_by_name_until_there_is_a_sandbox(tmp_path: Path) -> None:
    goal = Goal.model_validate({"goal": "g", "check": [{"command": {"run": "touch ran"}}]})
    (verdict,) = run_checks(goal.check, "x", tmp_path)
    assert not verdict.passed and "sandbox" in verdict.detail and list(tmp_path.iterdir()) == []


def test_reward_is_the_fraction_passed(tmp_path: Path) -> None:
    checks = [{"answer": {"equals": 1}}, {"answer": {"equals": 2}}, {"calls": []}]
    verdicts = run_checks(Goal.model_validate({"goal": "g", "check": checks}).check, 1, tmp_path)
    assert [verdict.passed for verdict in verdicts] == [True, False, True]
    assert [verdict.index for verdict in verdicts] == [0, 1, 2]
    assert reward(verdicts) == pytest.approx(2 / 3) and reward([]) is None


def test_checks_keep_the_shape_of_goal_files_when_dumped() -> None:
    goal = Goal(goal="g", check=[AnswerCheck(number=3), CallsCheck.model_validate([{"name": "ping"}])])
    dumped = json.loads(json.dumps(goal.model_dump(mode="json")))
    assert dumped["check"][0]["answer"]["number"] == 3
    assert dumped["check"][1] == {"calls": [{"name": "ping", "arguments": {}}]}
    assert Goal.model_validate(dumped) == goal


def test_a_check_of_one_class_is_known_everywhere_and_may_not_end_a_run_by_failing(tmp_path: Path) -> None:
    class LengthCheck(Check, kind="length"):
        at_most: int

        def verdict(self, outcome: Outcome) -> Finding:
            return need(len(outcome.value) <= self.at_most, f"{len(outcome.value)} characters", "fewer")

    assert "length" in kinds()
    (goal,) = [Goal.model_validate({"goal": "g", "check": [{"length": {"at_most": 3}}]})]
    details = [run_checks(goal.check, value, tmp_path)[0].detail for value in ("abc", "abcd", 7)]
    assert details[:2] == ["3 characters", "4 characters, wanted fewer"]
    assert details[2].startswith("the check failed: TypeError: ")
    with pytest.raises(ValidationError, match=r"length.at_most: Input should be a valid integer"):
        Goal.model_validate({"goal": "g", "check": [{"length": {"at_most": "few"}}]})
    with pytest.raises(ValidationError, match="unknown check `lenght`"):
        Goal.model_validate({"goal": "g", "check": [{"lenght": {"at_most": 3}}]})
