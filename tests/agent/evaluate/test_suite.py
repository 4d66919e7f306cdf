"""Evaluation: intervals against known values, the report's fields, categories, no plan, conversations."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.calls import finish, plan

from autogpt.agent.evaluate.statistics import bootstrap, wilson
from autogpt.agent.evaluate.suite import Evaluation, converse, evaluate, write_report
from autogpt.agent.goals.load import Conversation, Goal
from autogpt.agent.record.result import RunResult
from autogpt.llm.message import Prompt, ToolCall, Turn
from autogpt.llm.models.scripted import Line, ScriptedModel
from autogpt.tools.registry import builtins


def goals(*fields: dict[str, Any]) -> list[Goal]:
    return [Goal.model_validate({"goal": f"goal {n}", **more}) for n, more in enumerate(fields)]


def by_goal(answers: dict[str, Sequence[ToolCall]]) -> ScriptedModel:
    """A script that depends on the goal's text and on how often the model has spoken."""

    def line(prompt: Prompt) -> ToolCall:
        said = sum(message.role == "assistant" for message in prompt.messages)
        found = next(calls for text, calls in answers.items() if text in prompt.messages[1].content)
        return found[said]

    return ScriptedModel([line] * 20)


@pytest.mark.parametrize(
    ("passed", "n", "low", "high"),
    # statsmodels.stats.proportion.proportion_confint(passed, n, method="wilson") and Newcombe (1998)
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718),
     (20, 20, 0.8389, 1.0)],
)  # fmt: skip
def test_wilson_against_published_values(passed: int, n: int, low: float, high: float) -> None:
    assert wilson(passed, n) == pytest.approx((low, high), abs=6e-5)


def test_wilson_of_nothing_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_bootstrap() -> None:
    assert bootstrap([0.5] * 10) == (0.5, 0.5)
    low, high = bootstrap([0.0, 1.0] * 50)
    assert low == pytest.approx(0.4, abs=0.02)
    assert high == pytest.approx(0.6, abs=0.02)
    assert bootstrap([0.0, 1.0] * 50) == (low, high)


def test_the_report_has_its_fields_and_adds_up(tmp_path: Path) -> None:
    made = goals(
        {"id": "a", "category": "sums", "check": [{"answer": {"number": 1}}]},
        {"id": "b", "category": "words", "check": [{"answer": {"equals": "yes"}}]},
        {"id": "c", "category": "sums", "check": [{"text": {"reference": ["red fox"], "metric": "f1"}}]},
    )
    model = by_goal({
        "goal 0": [plan("calculator"), ToolCall("calculator", {"expression": "3 - 2"}), finish("$1")],
        "goal 1": [ToolCall("finish", {"answer": "$4"}), finish("no")],
        "goal 2": [finish("red dog")],
    })  # fmt: skip
    done: list[str] = []
    found = evaluate("s.jsonl", made, model, builtins(), on_done=lambda episode: done.append(episode.goal.id))
    write_report(found, tmp_path / "out.json")
    report = json.loads((tmp_path / "out.json").read_text())
    assert {"suite", "model", "n", "passed", "pass_rate", "wilson95", "invalid_calls", "by_category",
            "rows"} <= report.keys()  # fmt: skip
    assert (report["suite"], report["model"], report["n"]) == ("s.jsonl", "scripted", 3)
    assert sorted(done) == ["a", "b", "c"]
    achieved = [row["status"] == "achieved" for row in report["rows"]]
    assert achieved[:2] == [True, False]
    assert (report["passed"], report["pass_rate"]) == (sum(achieved), round(sum(achieved) / 3, 4))
    assert report["wilson95"] == [round(value, 4) for value in wilson(sum(achieved), 3)]
    assert report["invalid_calls"] == 1
    assert report["plan_followed"] == 1.0
    assert report["mean_score"] == 0.5
    assert list(report["by_category"]) == ["sums", "words"]
    assert (report["by_category"]["sums"]["n"], report["by_category"]["words"]["passed"]) == (2, 0)
    assert {"id", "run", "status", "answer", "reward", "checks", "steps", "tool_calls", "invalid_calls",
            "tokens", "seconds", "model", "journal"} <= report["rows"][0].keys()  # fmt: skip
    assert report["rows"][0]["tokens"].keys() == {"prompt", "cached", "generated", "forced"}
    assert report["rows"][0]["seconds"].keys() == {"total", "model", "tools", "memory"}


def test_an_empty_suite_has_a_report() -> None:
    report = Evaluation("s", "m", []).as_json()
    assert (report["n"], report["pass_rate"], report["wilson95"], report["rows"]) == (0, 0.0, [0.0, 1.0], [])


def test_no_plan_is_measured_without_one() -> None:
    calls = [ToolCall("calculator", {"expression": "1"}), finish("$1")]
    made = goals({"check": [{"answer": {"number": 1}}]})
    assert evaluate("s", made, by_goal({"goal": calls}), builtins(), plan=False).passed == 1
    with_plan = evaluate("s", made, by_goal({"goal": [calls[0], finish("7")]}), builtins())
    assert (with_plan.passed, with_plan.rows[0].invalid_calls) == (0, 1)


def test_several_samples_are_drawn_warm_and_each_with_its_seed() -> None:
    model = by_goal({"goal": [finish("x")]})
    found = evaluate("s", goals({}, {}), model, builtins(), seed=5, samples=2)
    assert len(found.rows) == 4
    drawn = {(prompt.sampling.temperature, prompt.sampling.seed) for prompt in model.prompts}
    assert drawn == {(0.7, 5), (0.7, 6)}
    evaluate("s", goals({}), model, builtins(), seed=5)
    assert model.prompts[-1].sampling.temperature == 0.0


# --- conversations -------------------------------------------------------------------------------


def session(*turns: tuple[str, list[dict[str, Any]]], **fields: Any) -> Conversation:
    said = [{"say": text, "check": check} for text, check in turns]
    return Conversation.model_validate({"id": "s1", "turns": said, **fields})


def hold(script: Sequence[Line], made: Conversation) -> list[RunResult]:
    return converse("c.jsonl", [made], ScriptedModel(script), builtins()).rows


def test_a_session_is_judged_message_by_message() -> None:
    made = session(
        ("how much?", [{"answer": {"number": 30}}]),
        ("twice that", [{"answer": {"number": 61}}]),
        ("save it in n.txt", [{"file": {"path": "n.txt", "equals": "60"}}]),
        files={"t.csv": "n\n10\n20\n"},
    )
    rows = hold(
        [
            plan("tables.query"),
            ToolCall("tables.query", {"table": "t", "select": ["sum(n)"]}), finish("$2"),
            plan("calculator"), ToolCall("calculator", {"expression": "$2 * 2"}), finish("$3"),
            plan("files.write"), ToolCall("files.write", {"path": "n.txt", "content": "$3"}), finish("saved"),
        ],
        made,
    )  # fmt: skip
    assert [(row.id, row.status, row.answer) for row in rows] == [
        ("s1/1", "achieved", [30]), ("s1/2", "not_met", 60), ("s1/3", "achieved", "saved"),
    ]  # fmt: skip
    assert [row.category for row in rows] == ["turn 1", "turn 2", "turn 3"]
    assert [row.reward for row in rows] == [1.0, 0.0, 1.0]
    assert [(row.steps, row.tool_calls, row.plan_followed) for row in rows] == [(3, 1, True)] * 3
    assert rows[1].checks[0]["detail"].startswith("the answer is 60, wanted 61")


def test_every_message_counts_whatever_happened_before() -> None:
    """A question is answered by the next message; a limit or bad calls end a message, not the session."""
    messages = ("fix it", "the red one", "1?", "and?", "bye")
    turns: list[tuple[str, list[dict[str, Any]]]] = [(said, []) for said in messages]
    script: list[Line] = [
        ToolCall("ask", {"question": "which?"}), finish("done"),
        plan("calculator"), ToolCall("calculator", {"expression": "1"}),
        "rubbish", "rubbish", finish("bye"),
    ]  # fmt: skip
    rows = hold(script, session(*turns, limits={"steps": 2}))
    assert [row.status for row in rows] == ["not_met", "answered", "not_met", "not_met", "answered"]
    assert [row.invalid_calls for row in rows] == [0, 0, 0, 2, 0]


def test_progress_is_heard_and_the_workspace_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    heard: list[RunResult] = []
    seen: Callable[[RunResult], None] = heard.append
    found = converse("c", [session(("hi", []))], ScriptedModel([finish("hi")]), builtins(), seen)
    assert heard == found.rows
    assert list(tmp_path.iterdir()) == []

    class Broken(ScriptedModel):
        def respond(self, prompts: Sequence[Prompt], on_text: Any = None) -> list[Turn]:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        converse("c", [session(("hi", []))], Broken([]), builtins())
    assert list(tmp_path.iterdir()) == []
