"""A model under the teaching prompt is guided more closely: it looks, and carries out what it planned."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime

import pytest

from autogpt.agent.goals.load import Goal
from autogpt.agent.run.loop import UNSTUCK
from autogpt.agent.run.rollout import Rollout
from autogpt.llm.message import Prompt, ToolCall
from autogpt.llm.models.scripted import ScriptedModel
from autogpt.text import Prompting
from autogpt.tools.registry import builtins

TABLE = {"t.csv": "town,n\nGraz,1\nLinz,2\n"}


def asked(prompting: Prompting, goal: Mapping[str, object], steps: Sequence[ToolCall]) -> Sequence[Prompt]:
    """Run ``goal`` and return what the model was asked."""
    model = ScriptedModel(steps, check=False)
    model.prompting = prompting
    Rollout(model, builtins()).run([Goal.model_validate({"grants": {"write": ["*"]}, **goal})])
    return model.prompts


def names(prompt: Prompt) -> list[str]:
    return [call.name for call in prompt.calls]


def planned(prompt: Prompt) -> list[str]:
    plan = next(call for call in prompt.calls if call.name == "plan")
    found: list[str] = plan.parameters["properties"]["steps"]["items"]["properties"]["tool"]["enum"]
    return found


@pytest.mark.parametrize(("prompting", "may"), [("teaching", False), ("names", True), ("typed", True)])
def test_a_goal_with_inputs_is_not_answered_before_a_look(prompting: Prompting, may: bool) -> None:
    end = [ToolCall("finish", {"answer": "2"})]
    first = asked(prompting, {"goal": "how many towns?", "files": TABLE}, end)
    assert ("finish" in names(first[0])) is may


def test_a_goal_without_inputs_may_be_answered_at_once() -> None:
    first = asked("teaching", {"goal": "hello"}, [ToolCall("finish", {"answer": "Hello!"})])
    assert names(first[0]) == ["plan", "finish", "ask"]


def test_a_plan_names_only_tools_that_can_run() -> None:
    end = [ToolCall("finish", {"answer": "5"})]
    without = planned(asked("teaching", {"goal": "2 + 3"}, end)[0])
    assert "calculator" in without and not any(name.startswith("tables.") for name in without)
    assert "tables.sql" in planned(asked("teaching", {"goal": "how many?", "files": TABLE}, end)[0])
    assert "tables.sql" in planned(asked("names", {"goal": "2 + 3"}, end)[0])


def test_what_was_planned_to_be_written_is_written_before_the_end() -> None:
    steps = [
        ToolCall("plan", {"steps": [{"tool": name, "for": "n"} for name in ("tables.sql", "files.write")]}),
        ToolCall("tables.sql", {"sql": "SELECT sum(n) FROM t"}),
        ToolCall("files.write", {"path": "sum.txt", "content": "$2"}),
        ToolCall("finish", {"answer": "$2"}),
    ]
    goal = {"goal": "write the sum of n to sum.txt", "files": TABLE}
    found = asked("teaching", goal, steps)
    assert ["finish" in names(prompt) for prompt in found] == [False, False, False, True]
    assert ["finish" in names(prompt) for prompt in asked("names", goal, steps)] == [True, False, True, True]


def test_tools_of_the_goals_own_that_were_planned_are_tried_before_the_end() -> None:
    stubs = [{"name": name, "description": name, "parameters": {"type": "object"}} for name in ("one", "two")]
    steps = [
        ToolCall("plan", {"steps": [{"tool": name, "for": "it"} for name in ("one", "two", "calculator")]}),
        ToolCall("one", {}),
        ToolCall("two", {}),
        ToolCall("finish", {"answer": "$2"}),
    ]
    goal = {"goal": "do both", "stubs": stubs}
    found = asked("teaching", goal, steps)
    assert ["finish" in names(prompt) for prompt in found] == [True, False, False, True]
    assert ["finish" in names(prompt) for prompt in asked("names", goal, steps)] == [True, False, True, True]


@pytest.mark.parametrize(("prompting", "ways"), [("teaching", 1), ("typed", 1), ("names", 2)])
def test_a_model_that_knows_sql_gets_one_way_of_asking_tables(prompting: Prompting, ways: int) -> None:
    end = [ToolCall("finish", {"answer": "2"})]
    known = planned(asked(prompting, {"goal": "x", "files": TABLE}, end)[0])
    assert len({"tables.sql", "tables.query"} & set(known)) == ways


def test_described_tables_are_not_planned_to_be_described_again() -> None:
    end = [ToolCall("finish", {"answer": "2"})]
    assert "tables.describe" not in planned(asked("teaching", {"goal": "x", "files": TABLE}, end)[0])
    assert "tables.describe" in planned(asked("typed", {"goal": "x", "files": TABLE}, end)[0])


@pytest.mark.parametrize(("prompting", "shown"), [("teaching", True), ("typed", True), ("names", False)])
def test_first_rows_are_shown_to_models_trained_with_them(prompting: Prompting, shown: bool) -> None:
    end = [ToolCall("finish", {"answer": "2"})]
    prompt = asked(prompting, {"goal": "how many?", "files": TABLE}, end)[0]
    assert ("first row: Graz, 1" in prompt.messages[-1].content) is shown


def test_a_model_that_repeats_itself_is_made_to_vary() -> None:
    again = ToolCall("tables.sql", {"sql": "SELECT town FROM t WHERE n = 9"})
    plan = ToolCall("plan", {"steps": [{"tool": "tables.sql", "for": "town"}]})
    end = ToolCall("finish", {"answer": "none"})
    prompts = asked("teaching", {"goal": "town with 9?", "files": TABLE}, [plan, again, again, end])
    assert [prompt.sampling.temperature for prompt in prompts] == [0.0, 0.0, 0.0, UNSTUCK]


def test_after_a_result_there_is_no_other_plan() -> None:
    plan = ToolCall("plan", {"steps": [{"tool": "tables.sql", "for": "n"}]})
    query, wrong = (ToolCall("tables.sql", {"sql": f"SELECT {what} FROM t"}) for what in ("sum(n)", "nope"))
    goal, end = {"goal": "sum of n?", "files": TABLE}, ToolCall("finish", {"answer": "$2"})
    assert "plan" not in names(asked("teaching", goal, [plan, query, end])[2])
    assert "plan" not in names(asked("typed", goal, [plan, query, end])[2])
    assert "plan" in names(asked("names", goal, [plan, query, end])[2])
    assert "plan" not in names(asked("teaching", goal, [plan, wrong, query, end])[2])
    assert names(asked("teaching", goal, [plan, wrong, wrong, end])[3]) == ["plan"]


@pytest.mark.parametrize(("prompting", "may"), [("teaching", False), ("typed", False), ("names", True)])
def test_a_first_call_that_failed_is_tried_again_before_the_end(prompting: Prompting, may: bool) -> None:
    plan = ToolCall("plan", {"steps": [{"tool": "tables.sql", "for": "n"}]})
    wrong, right, odd = (ToolCall("tables.sql", {"sql": f"SELECT {x} FROM t"}) for x in ("a", "n", "b"))
    end = ToolCall("finish", {"answer": "error"})
    found = asked(prompting, {"goal": "n?", "files": TABLE}, [plan, wrong, right, odd, end])
    assert ("finish" in names(found[2])) is may
    assert "finish" in names(found[4])  # something was read before


@pytest.mark.parametrize(("prompting", "said"), [("teaching", True), ("typed", False), ("names", False)])
def test_only_the_teaching_prompt_says_what_day_it_is(prompting: Prompting, said: bool) -> None:
    prompt = asked(prompting, {"goal": "what day is it?"}, [ToolCall("finish", {"answer": "2"})])[0]
    assert prompt.messages[-1].content.startswith(f"Today is {datetime.now():%A, %Y-%m-%d}.") is said


@pytest.mark.parametrize(("prompting", "held"), [("teaching", True), ("typed", True), ("names", False)])
def test_a_file_granted_by_name_is_written_before_the_end(prompting: Prompting, held: bool) -> None:
    plan = ToolCall("plan", {"steps": [{"tool": "tables.sql", "for": "n"}]})
    query = ToolCall("tables.sql", {"sql": "SELECT sum(n) FROM t"})
    write = ToolCall("files.write", {"path": "sum.txt", "content": "$2"})
    steps = [plan, query, write, ToolCall("finish", {"answer": "$2"})]
    goal = {"goal": "sum of n, to sum.txt", "files": TABLE, "grants": {"write": ["sum.txt"]}}
    found = asked(prompting, goal, steps if held else [plan, query, steps[-1]])
    assert ("finish" in names(found[2])) is not held and ("files.write" in names(found[2])) is held
    assert "finish" in names(found[-1])
    free = asked(prompting, {**goal, "grants": {"write": ["*.txt"]}}, [plan, query, steps[-1]])
    assert "finish" in names(free[2])


@pytest.mark.parametrize(("prompting", "may"), [("teaching", False), ("typed", True), ("names", True)])
def test_an_answer_of_a_trained_model_may_begin_with_an_amount(prompting: Prompting, may: bool) -> None:
    prompt = asked(prompting, {"goal": "hello"}, [ToolCall("finish", {"answer": "Hello!"})])[0]
    finish = next(call for call in prompt.calls if call.name == "finish")
    assert bool(re.match(finish.parameters["properties"]["answer"]["pattern"], "$18,076.57 is left")) is may
