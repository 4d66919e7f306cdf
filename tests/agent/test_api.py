"""The Python face of the package, as the README shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.calls import finish

import autogpt
from autogpt import AutoGPT, Goal, ScriptedModel, tool
from autogpt.errors import UsageError, UserError
from autogpt.llm.message import ToolCall


@tool
def postage(grams: int) -> float:
    """Price of a letter in euros."""
    return 0.85 if grams <= 20 else 1.60


def scripted(*calls: ToolCall) -> ScriptedModel:
    return ScriptedModel(list(calls))


PLAN = ToolCall("plan", {"steps": [{"tool": "postage", "for": "the price"}]})
ASK_PRICE = ToolCall("postage", {"grams": 35})


def test_every_public_name_exists() -> None:
    for name in autogpt.__all__:
        assert getattr(autogpt, name) is not None
    with pytest.raises(AttributeError, match="nonesuch"):
        autogpt.nonesuch  # noqa: B018


def test_a_passed_in_tool_is_called_and_recorded() -> None:
    seen = []
    model = scripted(PLAN, ASK_PRICE, finish("$1"))
    agent = AutoGPT(model, tools=[postage], on_event=lambda run, event: seen.append(event))
    result = agent.run(Goal.model_validate({"goal": "the price?", "check": [{"answer": {"equals": 1.6}}]}))
    assert (result.status, result.answer, result.reward) == ("achieved", 1.6, 1.0)
    assert agent.runner.store.load(result.run) == seen


def test_inputs_are_relative_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "note.txt").write_text("hello")
    monkeypatch.chdir(tmp_path)
    model = scripted(
        ToolCall("plan", {"steps": [{"tool": "files.read", "for": "the note"}]}),
        ToolCall("files.read", {"path": "note.txt"}),
        finish("$2"),
    )
    assert AutoGPT(model).run("what does it say?", inputs=["note.txt"]).answer == "hello"
    with pytest.raises(UsageError, match=r"gone\.txt"):
        AutoGPT(model).run("what does it say?", inputs=["gone.txt"])


def test_a_question_goes_to_the_caller() -> None:
    from autogpt.agent.record.events import PersonAnswered

    model = scripted(ToolCall("ask", {"question": "which?"}), finish("that one"))
    agent = AutoGPT(model, ask=lambda run, asked: PersonAnswered(text=f"{asked.text} the blue one"))
    result = agent.run("take it")
    assert (result.status, result.checked) == ("answered", False)
    assert model.prompts[-1].messages[-1].content == "which? the blue one"


def test_home_keeps_the_runs(tmp_path: Path) -> None:
    agent = AutoGPT(scripted(finish("hi")), home=tmp_path / "elsewhere")
    run = agent.run("greet").run
    assert (tmp_path / "elsewhere" / "autogpt.db").exists()
    assert AutoGPT(scripted(), home=tmp_path / "elsewhere").resume(run).answer == "hi"


def test_chat_keeps_its_state_between_messages() -> None:
    model = scripted(finish("Hi!"), finish("Bye!"))
    session = AutoGPT(model).chat()
    assert [session.say("hello").text, session.say("bye").text] == ["Hi!", "Bye!"]
    session.close()
    said = [message.content for message in model.prompts[-1].messages if message.role == "user"]
    assert said == ["Goal: hello", "bye"]


def test_making_an_agent_touches_nothing(isolated: Path) -> None:
    AutoGPT()
    assert not isolated.exists()
    with pytest.raises(UserError, match="autogpt model fetch"):
        AutoGPT().generate("hello")


def test_a_model_that_only_calls_cannot_generate() -> None:
    with pytest.raises(UsageError, match="cannot generate"):
        AutoGPT(scripted()).generate("hello")


def test_wrong_settings_are_named() -> None:
    with pytest.raises(UsageError, match="device"):
        AutoGPT(device="gpu")
