"""The errands that the learning benchmark practises on: unlike what measures, and their checks are right."""

from __future__ import annotations

import csv
import io
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT

from autogpt.agent.goals.checks import run_checks
from autogpt.agent.goals.load import Goal, load_goals
from autogpt.agent.learn.goal_split import alike_to, shipped_gate


@pytest.fixture(scope="module")
def makers() -> dict[str, Callable[[random.Random], Any]]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from learning.errands import MAKERS
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return {maker.__name__: maker for maker in MAKERS}


def made(maker: Callable[[random.Random], Any], seed: int) -> Goal:
    text, folder, checks = maker(random.Random(seed))
    return Goal.model_validate({"id": str(seed), "goal": text, "files": folder, "check": checks})


def rows(goal: Goal, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(goal.files[name])))


def test_no_errand_is_alike_to_what_judges_or_measures(makers: dict[str, Any], tmp_path: Path) -> None:
    errands = [made(maker, seed) for maker in makers.values() for seed in range(40)]
    measured = [*shipped_gate(), *load_goals(ROOT / "benchmarks" / "suites" / "workflows.jsonl")]
    assert alike_to([goal.goal for goal in errands], [goal.goal for goal in measured]) == set()
    for goal in errands:
        assert not all(verdict.passed for verdict in run_checks(goal.check, None, tmp_path)), goal.goal


def test_the_checks_are_what_the_tables_say(makers: dict[str, Any], tmp_path: Path) -> None:
    for seed in range(20):
        goal = made(makers["across"], seed)
        club = next(row["club"] for row in rows(goal, "members.csv") if row["club"] in goal.goal)
        home = {row["member"]: row["club"] for row in rows(goal, "members.csv")}
        fees = [int(row["fee"]) for row in rows(goal, "fees.csv") if home[row["member"]] == club]
        assert passed(goal, tmp_path, str(sum(fees))) and not passed(goal, tmp_path, str(sum(fees) + 1))

        goal = made(makers["mean_and_more"], seed)
        (source,) = goal.files
        rents = [int(row["rent"]) for row in rows(goal, source)]
        rate = next(int(word) for word in goal.goal.replace("%", " ").split() if word.isdigit())
        wanted = sum(rents) / len(rents) * (1 + rate / 100)
        assert passed(goal, tmp_path, f"{round(wanted, 4):g}") and not passed(goal, tmp_path, "0")


def passed(goal: Goal, workspace: Path, content: str) -> bool:
    """Whether the goal's checks pass when its file says so."""
    path = goal.model_dump()["check"][0]["file"]["path"]
    (workspace / path).write_text(content, encoding="utf-8")
    return all(verdict.passed for verdict in run_checks(goal.check, None, workspace))
