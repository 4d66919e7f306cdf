"""The in-memory driver with a scripted model on real tools: statuses, checks, batches, cleaning up."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.calls import finish, plan

from autogpt.agent.goals.load import Goal
from autogpt.agent.record.events import (
    ModelTurn,
    PersonAnswered,
    PersonSaid,
    RunEnded,
    RunStarted,
    ToolIntent,
    ToolOutcome,
)
from autogpt.agent.record.result import RunResult, plan_followed, resolved_answer, stub_calls, summarise
from autogpt.agent.record.state import State
from autogpt.agent.run.rollout import Episode, Rollout
from autogpt.errors import UsageError
from autogpt.llm.message import Prompt, ToolCall, Turn
from autogpt.llm.models.local import ContextOverflow
from autogpt.llm.models.scripted import Line, ScriptedModel, ScriptEnded
from autogpt.tools.registry import builtins

WEATHER = {
    "name": "weather",
    "description": "the weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
    "returns": "sunny",
}


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where rollouts make their workspaces; must be empty in the end."""
    place = tmp_path / "scratch"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def compute(expression: str) -> ToolCall:
    return ToolCall("calculator", {"expression": expression})


def goal(text: str = "do it", **fields: Any) -> Goal:
    return Goal.model_validate({"goal": text, **fields})


def play(script: Sequence[Line], /, masked: bool = True, plan: bool = True, **fields: Any) -> Episode:
    """Run one goal; with ``masked=False`` calls reach the driver unchecked."""
    return Rollout(ScriptedModel(script, masked), builtins(), plan=plan).run([goal(**fields)])[0]


def result(episode: Episode) -> RunResult:
    assert episode.result is not None
    return episode.result


def test_a_goal_is_achieved_with_the_value_behind_a_handle(scratch: Path) -> None:
    write = ToolCall("files.write", {"path": "out.txt", "content": "It is {$1}."})
    checks = [{"answer": {"number": 42}}, {"file": {"path": "out.txt", "equals": "It is 42."}}]
    episode = play(
        [plan("calculator", "files.write"), compute("6 * 7"), write, finish("$1")],
        id="six",
        category="sums",
        check=checks,
    )
    found = result(episode)
    assert (found.status, found.answer, found.reward, found.exit_code) == ("achieved", 42, 1.0, 0)
    assert (found.id, found.category, found.steps, found.tool_calls) == ("six", "sums", 4, 2)
    assert [(check["kind"], check["passed"]) for check in found.checks] == [("answer", True), ("file", True)]
    assert found.plan_followed is True
    assert found.model == "scripted"
    assert list(scratch.iterdir()) == []


def test_a_failed_check_is_not_met_and_the_reward_is_the_fraction_passed() -> None:
    checks = [{"answer": {"number": 4}}, {"file": {"path": "a.txt", "exists": True}}]
    found = result(play([finish("4")], check=checks))
    assert (found.status, found.reward, found.exit_code) == ("not_met", 0.5, 3)
    assert "a.txt does not exist" in found.checks[1]["detail"]


@pytest.mark.parametrize(
    ("script", "limits", "status", "cause", "code"),
    [
        ([plan("calculator"), compute("1"), compute("2")], {"steps": 3}, "limit", "limit of 3 steps", 4),
        ([ToolCall("ask", {"question": "which one?"})], {}, "needs_person", "asked: which one?", 5),
        (["no call", "<tool_call>{}</tool_call>", "again"], {}, "not_met", "3 invalid calls in a row", 3),
        (
            [plan("calculator"), compute("1"), compute("1"), plan("calculator"), compute("1"),
             plan("calculator"), compute("1")],
            {}, "not_met", "repeats the same call", 3,
        ),
    ],
)  # fmt: skip
def test_other_ends(
    script: Sequence[Line], limits: dict[str, Any], status: str, cause: str, code: int, scratch: Path
) -> None:
    found = result(play(script, limits=limits, check=[{"answer": {"number": 1}}]))
    assert (found.status, found.exit_code, found.reward) == (status, code, 0.0)
    assert cause in found.cause
    assert list(scratch.iterdir()) == []


def test_a_call_that_is_not_granted_is_refused_and_masked() -> None:
    def after(prompt: Prompt) -> ToolCall:
        assert "files.write" not in [call.name for call in prompt.calls]
        assert prompt.messages[-1].content.startswith("refused: writing b.txt is not granted")
        return finish("no")

    episode = play(
        [plan("files.write"), ToolCall("files.write", {"path": "b.txt", "content": "x"}), after],
        grants={"write": ["a.txt"]},
        check=[{"file": {"path": "b.txt", "exists": False}}],
    )
    assert result(episode).status == "achieved"


def test_grants_are_held_against_the_value_of_a_handle() -> None:
    """A path given as a handle is the path it stands for, here one that is granted."""
    read = ToolCall("files.read", {"path": "name.txt"})
    write = ToolCall("files.write", {"path": "$2", "content": "x"})
    episode = play(
        [plan("files.read", "files.write"), read, write, finish("done")],
        masked=False,
        files={"name.txt": "a.txt"},
        grants={"write": ["a.txt"]},
        check=[{"file": {"path": "a.txt", "equals": "x"}}],
    )
    assert result(episode).status == "achieved", result(episode).checks


def test_calls_that_make_no_sense_are_told_to_the_model() -> None:
    """A model without masks may name tools and handles that do not exist."""
    wrong = [
        ToolCall("shell", {"command": "ls"}),
        ToolCall("files.write", {"path": "$9", "content": "x"}),
    ]
    said: list[str] = []

    def last(prompt: Prompt) -> ToolCall:
        said.extend(message.content for message in prompt.messages if message.role == "tool")
        return finish("sorry")

    assert result(play([plan("calculator"), *wrong, last], masked=False)).status == "not_met"
    assert said[0] == "error: there is no tool shell"
    assert said[1].startswith("error: there is no $9")


@pytest.mark.parametrize("answer", ["it cost $9 or {$9}", " $9", "{$9}"])
def test_an_answer_with_an_unknown_handle_stays_text(answer: str) -> None:
    assert result(play([finish(answer)], masked=False)).answer == answer
    assert resolved_answer("{$1} of $1", {"$1": 2}) == "2 of $1"


def test_stub_calls_are_checked_by_the_values_of_their_arguments() -> None:
    stub = {**WEATHER, "returns": "Oslo"}
    checks = [{"calls": [{"name": "weather", "arguments": {"city": ["Paris"]}},
                         {"name": "weather", "arguments": {"city": ["Oslo"], "days": [2]}}]}]  # fmt: skip
    calls = [ToolCall("weather", {"city": "Paris"}), ToolCall("weather", {"city": "$1", "days": 2})]
    episode = play([plan("weather"), *calls, finish("$2")], stubs=[stub], check=checks)
    assert result(episode).status == "achieved", result(episode).checks
    assert stub_calls(episode.events)[1] == ("weather", {"city": "Oslo", "days": 2})
    missing = play([plan("weather"), calls[0], finish("$1")], stubs=[stub], check=checks)
    assert result(missing).status == "not_met"
    none = play([finish("hello")], stubs=[stub], check=[{"calls": []}])
    assert result(none).status == "achieved"


def test_without_a_plan_tools_come_at_once() -> None:
    found = result(play([compute("2"), finish("$1")], plan=False))
    assert (found.status, found.steps, found.plan_followed) == ("answered", 2, None)


def test_goals_go_side_by_side_in_batches(scratch: Path) -> None:
    """At most ``parallel`` at once; each round asks the model once; results in the order of the goals."""
    sizes: list[int] = []
    spaces: list[int] = []

    class Counting(ScriptedModel):
        def respond(self, prompts: Sequence[Prompt], on_text: Any = None) -> list[Turn]:
            sizes.append(len(prompts))
            spaces.append(len(list(scratch.iterdir())))
            return super().respond(prompts, on_text)

    long = [plan("calculator"), compute("1"), finish("$2")]
    script = {f"rollout-7-{n}": [finish(f"n{n}")] if n % 2 else long for n in range(1, 6)}
    done: list[str] = []
    rollout = Rollout(Counting(script), builtins(), parallel=2, seed=7)
    goals = [goal(f"goal {n}", id=f"g{n}", files={"same.txt": str(n)}) for n in range(1, 6)]
    episodes = rollout.run(goals, lambda episode: done.append(result(episode).id))
    assert [result(episode).id for episode in episodes] == ["g1", "g2", "g3", "g4", "g5"]
    assert [result(episode).answer for episode in episodes] == ["n1", 1, "n3", 1, "n5"]
    assert sorted(done) == ["g1", "g2", "g3", "g4", "g5"] != done
    assert max(sizes) == 2 == max(spaces)
    assert sum(sizes) == 3 * 1 + 2 * 3
    assert list(scratch.iterdir()) == []


def test_nothing_is_left_when_the_model_fails(scratch: Path) -> None:
    with pytest.raises(ScriptEnded):
        play([plan("calculator")])
    assert list(scratch.iterdir()) == []


def test_a_missing_input_is_said_and_leaves_nothing(scratch: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file: none\.csv"):
        play([finish("x")], inputs=["none.csv"])
    assert list(scratch.iterdir()) == []


def test_a_prompt_that_does_not_fit_costs_its_goal_only() -> None:
    class Small(ScriptedModel):
        def respond(self, prompts: Sequence[Prompt], on_text: Any = None) -> list[Turn]:
            if "long" in prompts[0].messages[1].content:
                raise ContextOverflow("the conversation has too many tokens")
            return super().respond(prompts, on_text)

    rollout = Rollout(Small([finish("ok")]), builtins(), parallel=1)
    episodes = rollout.run([goal("long"), goal("short")])
    assert [result(episode).status for episode in episodes] == ["not_met", "answered"]
    assert result(episodes[0]).cause == "the conversation has too many tokens"
    assert result(episodes[0]).invalid_calls == 1  # asking again would not help


def test_a_goal_for_a_folder_in_place_works_on_copies(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "n.csv").write_text("n\n1\n2\n")
    made = goal(inputs=["data/n.csv"], workspace=".", check=[{"answer": {"number": 3}}]).at(tmp_path)
    query = ToolCall("tables.query", {"table": "n", "select": ["sum(n)"]})
    episode = Rollout(ScriptedModel([plan("tables.query"), query, finish("$2")]), builtins()).run([made])[0]
    assert result(episode).status == "achieved", result(episode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "scratch"]


def test_a_conversation_goes_on_after_a_question_and_a_limit() -> None:
    script: list[Line] = [ToolCall("ask", {"question": "which?"}), finish("red"), plan("calculator"),
                          compute("1"), finish("bye")]  # fmt: skip
    rollout = Rollout(ScriptedModel(script), builtins())
    episode = rollout.open(goal("session", limits={"steps": 2}), mode="chat")

    def go(event: Any) -> State:
        episode.append(event)
        rollout.work(episode)
        return State.of(episode.events)

    assert go(PersonSaid(text="fix it")).waiting is not None
    assert go(PersonAnswered(text="the red one")).answer == "red"
    assert not go(PersonSaid(text="1?")).finished
    assert go(PersonSaid(text="bye")).answer == "bye"
    assert not any(isinstance(event, RunEnded) for event in episode.events)
    episode.close()


def test_the_summary_counts_tokens_and_seconds() -> None:
    started = RunStarted(run="r", goal={"goal": "x"})
    turn = ModelTurn(text="", call=None, ids=[1, 2, 3], forced=[True, True, False], prompt_tokens=50,
                     cached_tokens=40, seconds=1.5)  # fmt: skip
    inspected = ToolOutcome(call_id="d", tool="files.list", state="done", seconds=0.25, by="driver")
    called = ToolOutcome(call_id="c1", tool="calculator", state="failed", seconds=0.5)
    found = summarise([started, inspected, turn, turn, called], "here.db")
    assert found.tokens == {"prompt": 100, "cached": 80, "generated": 6, "forced": 4}
    assert found.seconds == {"total": 3.75, "model": 3.0, "tools": 0.75, "memory": 0.0}
    assert (found.steps, found.tool_calls, found.invalid_calls) == (2, 1, 2)
    assert (found.status, found.journal, found.id) == ("running", "here.db", "r")


def test_whether_a_plan_was_followed() -> None:
    started = RunStarted(run="r", goal={"goal": "x"})

    def turn(*tools: str) -> ModelTurn:
        return ModelTurn(text="", call={"name": "plan", "arguments": dict(plan(*tools).arguments)})

    def did(tool: str, by: Any = "model") -> ToolOutcome:
        return ToolOutcome(call_id="c", tool=tool, state="done", by=by)

    assert plan_followed([started, did("a")]) is None
    assert plan_followed([started, did("a", "driver"), turn("a", "b"), did("a"), did("b")]) is True
    assert plan_followed([started, turn("a", "b"), did("a")]) is False
    assert plan_followed([started, turn("a", "b"), did("b"), did("a")]) is False
    assert plan_followed([started, turn("a", "b"), did("a"), turn("c"), did("c")]) is True


def test_intents_are_recorded_before_outcomes() -> None:
    events = play([plan("calculator"), compute("1 + 1"), finish("$1")]).events
    kinds = [type(event) for event in events]
    at = kinds.index(ToolIntent)
    assert kinds[at + 1] is ToolOutcome
    assert [event.at for event in events[:-1] if not event.at] == []
