"""The shipped fake plays its script, keeps what it saw, and does not let a wrong call pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autogpt import ScriptedModel
from autogpt.errors import UsageError
from autogpt.llm.message import CallSpec, Message, Prompt, ToolCall
from autogpt.llm.models.scripted import ScriptEnded

ANSWER = {
    "type": "object",
    "properties": {"answer": {"type": "string"}, "sure": {"type": "array", "items": {"type": "boolean"}}},
    "required": ["answer"],
    "additionalProperties": False,
}
FINISH = ToolCall("finish", {"answer": "42"})


def prompt(session: str = "s", text: str = "hi") -> Prompt:
    return Prompt(session, (Message("user", text),), (CallSpec("finish", ANSWER), CallSpec("ask", {})))


def test_each_session_plays_the_script_from_its_start() -> None:
    model = ScriptedModel([ToolCall("ask", {"question": "?"}), FINISH])
    first = model.respond([prompt("a"), prompt("b")])
    second = model.respond([prompt("b")])
    assert [turn.call.name for turn in [*first, *second] if turn.call] == ["ask", "ask", "finish"]
    assert [seen.session for seen in model.prompts] == ["a", "b", "b"]
    assert first[0].ids == () and first[0].text == ToolCall("ask", {"question": "?"}).text()
    model.close_session("b")
    again = model.respond([prompt("b")])[0].call
    assert again is not None and again.name == "ask"


def test_sessions_may_have_scripts_of_their_own() -> None:
    model = ScriptedModel({"a": [FINISH], "b": ["just text"]})
    a, b = model.respond([prompt("a"), prompt("b")])
    assert a.call == FINISH
    assert b.call is None and b.text == "just text" and b.invalid
    with pytest.raises(ScriptEnded, match="'c'"):
        model.respond([prompt("c")])


def test_a_function_sees_the_prompt() -> None:
    model = ScriptedModel([lambda seen: ToolCall("finish", {"answer": seen.messages[-1].content})])
    call = model.respond([prompt(text="echo me")])[0].call
    assert call is not None and call.arguments["answer"] == "echo me"


def test_text_that_is_a_call_counts_as_one() -> None:
    assert ScriptedModel([f"Well. {FINISH.text()}"]).respond([prompt()])[0].call == FINISH


def test_a_script_that_runs_out_says_how_far_it_went() -> None:
    model = ScriptedModel([FINISH])
    model.respond([prompt()])
    with pytest.raises(ScriptEnded, match=r"has 1 turns .* turn 2; allowed now: finish, ask"):
        model.respond([prompt()])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (ToolCall("plan", {}), "plan is not allowed now; allowed: finish, ask"),
        (ToolCall("finish", {}), "'answer' is a required property"),
        (ToolCall("finish", {"answer": 42}), 'arguments["answer"]: 42 is not of type'),
        (ToolCall("finish", {"answer": "x", "sure": [True, 1]}), 'arguments["sure"][1]: 1 is not of type'),
        (ToolCall("finish", {"answer": "x", "more": 1}), "more"),
    ],
)
def test_a_call_the_prompt_does_not_allow_is_invalid(call: ToolCall, says: str) -> None:
    turn = ScriptedModel([call]).respond([prompt()])[0]
    assert turn.call is None and turn.invalid is not None and says in turn.invalid
    assert turn.text == call.text()
    assert ScriptedModel([call], check=False).respond([prompt()])[0].call == call


def test_text_is_streamed() -> None:
    heard: list[tuple[int, str]] = []
    ScriptedModel([FINISH]).respond([prompt("a"), prompt("b")], lambda i, piece: heard.append((i, piece)))
    assert heard == [(0, FINISH.text()), (1, FINISH.text())]


@pytest.mark.parametrize("as_json", [True, False])
def test_scripts_come_from_files(tmp_path: Path, as_json: bool) -> None:
    path = tmp_path / ("script.json" if as_json else "script.yaml")
    data: list[Any] = [{"name": "ask"}, {"name": "finish", "arguments": {"answer": "ü"}}, "words"]
    yaml = "- {name: ask}\n- name: finish\n  arguments: {answer: ü}\n- words\n"
    path.write_text(json.dumps(data) if as_json else yaml, encoding="utf-8")
    model = ScriptedModel.from_file(path)
    turns = [model.respond([prompt()])[0] for _ in range(3)]
    assert [turn.call and turn.call.name for turn in turns] == ["ask", "finish", None]
    assert turns[1].call is not None and turns[1].call.arguments == {"answer": "ü"}
    assert model.name == f"scripted:{path.name}" and model.fingerprint != "scripted"


def test_a_file_may_hold_sessions(tmp_path: Path) -> None:
    path = tmp_path / "script.yaml"
    path.write_text("a: [{name: ask}]\nb: [{name: finish, arguments: {answer: x}}]\n")
    turns = ScriptedModel.from_file(path).respond([prompt("b"), prompt("a")])
    assert [turn.call.name for turn in turns if turn.call] == ["finish", "ask"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot read"),
        ("- {name: [", "neither YAML nor JSON"),
        ("7", "a script is a list"),
        ("- {name: ask}\n- {nme: ask}", "turn 2: a turn is"),
        ("- {name: ask, arguments: [1]}", "turn 1: a turn is"),
        ("s: [{name: ask}, 3]", "s: turn 2: a turn is"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "script.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=says) as caught:
        ScriptedModel.from_file(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
