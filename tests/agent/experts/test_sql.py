"""Table tasks in SQL: queries become statements of the same meaning; our own questions have their answers."""

from __future__ import annotations

import random
import sqlite3
from typing import Any

import pytest

from autogpt.agent.experts import sql
from autogpt.agent.experts.expert import Task, call, finish, plan
from autogpt.agent.goals.load import Goal
from autogpt.agent.run.rollout import Rollout
from autogpt.llm.models.scripted import ScriptedModel
from autogpt.tools.registry import builtins


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"select": ["town"], "where": [["n", ">=", 3]]}, "SELECT town FROM t WHERE n >= 3"),
        ({"select": ["count(*)"], "where": [["a b", "=", "it's"]]},
         """SELECT COUNT(*) FROM t WHERE "a b" = 'it''s'"""),
        ({"select": ["town", "sum(n)"]}, "SELECT town, SUM(n) FROM t GROUP BY town"),
        ({"select": ["town", "max(n)"]}, "SELECT town, MAX(n) FROM t"),
        ({"select": ["town"], "group_by": "town", "order_by": "count(*) desc", "limit": 1},
         "SELECT town FROM t GROUP BY town ORDER BY COUNT(*) DESC LIMIT 1"),
        ({"select": ["town"], "where": [["order", "contains", "x"], ["n", "=", "$3"]]},
         """SELECT town FROM t WHERE "order" LIKE '%x%' AND n = '{$3}'"""),
        ({"select": ["name"], "join": "u on id=t_id", "where": [["t.k", "=", "a"]]},
         "SELECT name FROM t JOIN u ON t.id = u.t_id WHERE t.k = 'a'"),
    ],
)  # fmt: skip
def test_a_query_is_written_as_sql(query: dict[str, Any], wanted: str) -> None:
    assert sql.statement({"table": "t", **query}) == wanted
    bare = wanted.replace("{$3}", "1")
    connection = sqlite3.connect(":memory:")
    connection.execute('CREATE TABLE t (id, town, n, "a b", "order", k)')
    connection.execute("CREATE TABLE u (t_id, name)")
    connection.execute(bare)  # SQLite reads it


def test_a_task_keeps_all_but_its_queries() -> None:
    goal = Goal.model_validate({"goal": "how many?", "files": {"t.csv": "a,b\n1,2\n"}})
    query = call("tables.query", table="t", select=["count(*)"])
    steps = plan(("tables.query", "count(*)"), ("calculator", "x"))
    task = sql.in_sql(Task("tables", goal, [steps, query, finish("$2")]))
    assert [made.name for made in task.calls] == ["plan", "tables.sql", "finish"]
    assert [step["tool"] for step in task.calls[0].arguments["steps"]] == ["tables.sql", "calculator"]
    assert task.calls[1].arguments == {"sql": "SELECT COUNT(*) FROM t"}


def test_our_questions_are_answered_by_their_own_calls() -> None:
    tasks = list(sql.sheets(random.Random(4), 40))
    assert len({task.goal.goal for task in tasks}) > 30
    assert any(len(task.goal.files) == 2 for task in tasks)
    for task in tasks:
        model = ScriptedModel(task.calls, check=False)
        model.prompting = "typed"
        result = Rollout(model, builtins()).run([task.goal])[0].result
        assert result is not None and result.status == "achieved", task.goal.goal
