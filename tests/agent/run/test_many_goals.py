"""Several goals in one command: one that cannot begin does not take the others with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.calls import finish

from autogpt.agent.goals.load import Goal
from autogpt.agent.record.store import RunStore
from autogpt.agent.run.runner import Runner
from autogpt.errors import UsageError
from autogpt.llm.models.scripted import ScriptedModel
from autogpt.tools.registry import builtins


def test_a_goal_that_cannot_begin_leaves_the_others_alone(tmp_path: Path) -> None:
    goals = [Goal(goal="one"), Goal(goal="two", tools=["no.such"]), Goal(goal="three")]
    runner = Runner(RunStore(tmp_path), ScriptedModel([finish(), finish()]), builtins())
    results = runner.run_all(goals)
    assert [result.status for result in results] == ["answered", "error", "answered"]
    assert "no.such" in results[1].cause and results[1].exit_code == 1
    assert len(runner.store.list_runs()) == 2


def test_alone_it_is_an_error_of_the_command(tmp_path: Path) -> None:
    runner = Runner(RunStore(tmp_path), ScriptedModel([]), builtins())
    with pytest.raises(UsageError, match=r"no\.such"):
        runner.run_all([Goal(goal="two", tools=["no.such"])])
