"""The suites of strangers: right answers pass their checks, wrong ones do not; their tools are held out."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
from support.paths import ROOT

from autogpt.agent.experts.data import is_train
from autogpt.agent.goals.checks import AnswerCheck, CallsCheck, run_checks
from autogpt.agent.goals.load import Goal, load_goals
from autogpt.schemas import tool_schema

SUITES = ROOT / "benchmarks" / "suites"
SIZES = (1, 50, 100, 1000)


def suite(name: str) -> list[Goal]:
    return load_goals(next(SUITES.glob(f"{name}.jsonl*")))


def calls_of(goal: Goal) -> list[tuple[str, dict[str, object]]]:
    """The calls that a goal wants, each argument in its first form."""
    (check,) = [check for check in goal.check if isinstance(check, CallsCheck)]
    return [
        (call.name, {name: values[0] for name, values in call.arguments.items() if None not in values})
        for call in check.calls
    ]


def test_unseen_tools_are_held_out_and_their_right_calls_fit_and_pass(tmp_path: Path) -> None:
    goals = suite("unseen_tools")
    assert len(goals) == 200 and sum(goal.category == "sgd" for goal in goals) == 100
    for goal in goals:
        calls = calls_of(goal)
        schemas = {stub.name: tool_schema(stub.parameters, stub.name) for stub in goal.stubs}
        for name, arguments in calls:
            typed = {key: _as(schemas[name]["properties"][key], value) for key, value in arguments.items()}
            jsonschema.validate(typed, schemas[name])
        assert all(verdict.passed for verdict in run_checks(goal.check, None, tmp_path, calls))
        assert not all(verdict.passed for verdict in run_checks(goal.check, None, tmp_path, calls[1:]))
        if goal.category != "sgd":
            assert not all(is_train("sealtools", name) for name, _ in calls)


def _as(schema: dict[str, object], value: object) -> object:
    """The data hold numbers as text; a model writes what the schema says."""
    if schema.get("type") in ("integer", "number"):
        return float(str(value))
    return str(value) == "True" if schema.get("type") == "boolean" else value


def test_descriptions_and_defaults_of_the_source_reach_the_stub() -> None:
    for goal in suite("unseen_tools"):
        for stub in goal.stubs:
            properties = stub.parameters["properties"]
            assert stub.description and isinstance(properties, dict)
            assert all(
                isinstance(one, dict) and one["description"] and one["type"] for one in properties.values()
            )


@pytest.mark.parametrize("size", SIZES)
def test_a_crowd_has_the_same_goals_and_the_right_tool_in_it(size: int) -> None:
    alone, crowd = suite("tools_crowd_1"), suite(f"tools_crowd_{size}")
    assert [goal.goal for goal in crowd] == [goal.goal for goal in alone]
    for goal in crowd:
        names = [stub.name for stub in goal.stubs]
        assert len(set(names)) == len(names) == size and calls_of(goal)[0][0] in names


def test_talk_beside_tools_wants_words_and_no_call(tmp_path: Path) -> None:
    goals = suite("beside_tools")
    assert len(goals) == 150 and all(1 <= len(goal.stubs) <= 5 for goal in goals)
    for goal in goals:
        fact = next(check for check in goal.check if isinstance(check, AnswerCheck))
        said = (fact.matches or "").strip("\\b") if goal.category == "fact" else "It is so. 是这样。"
        passed = {
            text: all(verdict.passed for verdict in run_checks(goal.check, text, tmp_path))
            for text in (said, "", goal.goal, "What do you mean?")
        }
        assert passed == {said: True, "": False, goal.goal: False, "What do you mean?": False}, goal.goal
        called = run_checks(goal.check, said, tmp_path, [(goal.stubs[0].name, {})])
        assert not all(verdict.passed for verdict in called)


def test_tables_and_problems_are_as_many_as_said_and_their_answers_pass(tmp_path: Path) -> None:
    for name, count in (("strange_tables", 250), ("word_problems", 200)):
        goals = suite(name)
        assert len(goals) == count == len({goal.goal for goal in goals})
        for goal in goals:
            (check,) = goal.check
            assert isinstance(check, AnswerCheck)
            right = check.items if check.items is not None else check.number
            assert all(verdict.passed for verdict in run_checks(goal.check, right, tmp_path))


def test_office_goals_name_files_that_are_there() -> None:
    goals = suite("office")
    assert len(goals) == 37
    for goal in goals:
        assert all(path.is_file() for path in goal.input_paths()) and goal.check
