"""LangChain's chat models as our model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.messages.tool import invalid_tool_call
from langchain_core.outputs import ChatGeneration, ChatResult
from support.calls import finish

from autogpt.errors import ModelUnavailable, UsageError
from autogpt.llm.message import CallSpec, Message, Prompt, ToolCall
from autogpt.llm.models.langchain import LangChainModel
from autogpt.llm.models.remote import ATTEMPTS, RemoteModelError
from autogpt.llm.models.token_budget import ContextOverflow


class Remote(BaseChatModel):
    """A chat model that knows tools, in LangChain's own manner: answers (or raises) what it is given."""

    answers: list[Any]
    seen: list[list[BaseMessage]] = []
    bound: list[dict[str, Any]] = []

    @property
    def _llm_type(self) -> str:
        return "remote"

    def bind_tools(self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any) -> Any:
        self.bound.append({"tools": tools, "tool_choice": tool_choice})
        return self.bind(tools=tools)

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Any:
        self.seen.append(messages)
        said = self.answers.pop(0)
        if isinstance(said, Exception):
            raise said
        return ChatResult(generations=[ChatGeneration(message=said)])


def calls(name: str, **arguments: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": "1"}])


READ = CallSpec(
    "files.read",
    {"type": "object", "properties": {"path": {"enum": ["a.txt"]}}, "required": ["path"]},
    "Read a file.",
)
FINISH = CallSpec("finish", {"type": "object", "properties": {"answer": {"type": "string"}}})


def prompt(*messages: Message) -> Prompt:
    return Prompt("s", messages or (Message("user", "go"),), (READ, FINISH))


def test_calls_are_bound_as_tools_and_come_back_under_their_own_names() -> None:
    remote = Remote(answers=[calls("files__read", path="a.txt")])
    turn = LangChainModel(remote).respond([prompt()])[0]
    assert turn.call == ToolCall("files.read", {"path": "a.txt"}) and turn.invalid is None
    assert turn.text == turn.call.text() and turn.ids == ()
    function = remote.bound[0]["tools"][0]["function"]
    assert (function["name"], function["description"]) == ("files__read", "Read a file.")
    assert function["parameters"]["properties"] == {"path": {"enum": ["a.txt"]}}
    assert remote.bound[0]["tool_choice"] == "any"


@pytest.mark.parametrize(
    ("said", "says"),
    [
        (calls("files__read", path="b.txt"), "'b.txt' is not one of"),
        (calls("files__write", path="a.txt"), "files__write is not allowed now"),
        (AIMessage("The file says hello."), "no complete <tool_call>"),
        (
            AIMessage("", invalid_tool_calls=[invalid_tool_call(name="finish", args="{", error="cut")]),
            "not JSON",
        ),
    ],
)
def test_what_does_not_fit_is_an_invalid_turn(said: AIMessage, says: str) -> None:
    turn = LangChainModel(Remote(answers=[said])).respond([prompt()])[0]
    assert turn.call is None and turn.invalid is not None and says in turn.invalid
    assert turn.text


def test_models_without_tool_binding_may_write_the_call() -> None:
    model = LangChainModel(GenericFakeChatModel(messages=iter([finish("ok").text(), "hm"])))
    assert model.respond([prompt()])[0].call == finish("ok")
    assert model.respond([prompt()])[0].call is None


def test_the_conversation_becomes_linked_calls_and_results() -> None:
    remote = Remote(answers=[calls("finish", answer="ok")])
    LangChainModel(remote).respond(
        [
            prompt(
                Message("system", "sys"),
                Message("user", "go"),
                Message("assistant", ToolCall("files.read", {"path": "a.txt"}).text(), (3, 4, 2)),
                Message("tool", "$1 = hello"),
                Message("assistant", "nonsense"),
                Message("tool", "invalid call: no call"),
                Message("assistant", finish("first").text()),
                Message("user", "and then?"),
            )
        ]
    )
    seen = remote.seen[0]
    assert [type(message).__name__[:2] for message in seen] == [
        "Sy",
        "Hu",
        "AI",
        "To",
        "AI",
        "Hu",
        "AI",
        "Hu",
    ]
    said, result = seen[2], seen[3]
    assert isinstance(said, AIMessage) and isinstance(result, ToolMessage)
    assert said.tool_calls[0]["name"] == "files__read" and said.tool_calls[0]["args"] == {"path": "a.txt"}
    assert result.tool_call_id == said.tool_calls[0]["id"] and result.content == "$1 = hello"
    assert seen[6].content == finish("first").text()


class Overloaded(Exception):
    status_code = 529


def test_what_may_pass_is_tried_again_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    remote = Remote(answers=[ConnectionResetError("gone"), Overloaded("busy"), calls("finish", answer="ok")])
    with caplog.at_level(logging.WARNING):
        turn = LangChainModel(remote, wait=0.001).respond([prompt()])[0]
    assert turn.call == finish("ok")
    assert len([record for record in caplog.records if "Retrying" in record.message]) == 2


def test_tries_are_bounded() -> None:
    remote = Remote(answers=[TimeoutError("slow") for _ in range(9)])
    with pytest.raises(RemoteModelError, match="langchain:here did not answer: TimeoutError: slow"):
        LangChainModel(remote, name="langchain:here", wait=0.001).respond([prompt()])
    assert len(remote.seen) == ATTEMPTS


def test_what_will_not_pass_is_not_tried_again() -> None:
    remote = Remote(answers=[ValueError("bad key\nsecond line"), calls("finish", answer="ok")])
    with pytest.raises(RemoteModelError, match="ValueError: bad key second line"):
        LangChainModel(remote, wait=0.001).respond([prompt()])
    assert len(remote.seen) == 1


def test_a_prompt_too_long_for_the_provider_is_told_apart() -> None:
    remote = Remote(answers=[ContextOverflowError("128001 tokens")])
    with pytest.raises(ContextOverflow, match=r"langchain:here cannot take .*128001 tokens"):
        LangChainModel(remote, name="langchain:here", wait=0.001).respond([prompt()])
    assert len(remote.seen) == 1


def test_several_prompts_are_answered_in_order() -> None:
    class Echo(Remote):
        def _generate(self, messages: list[BaseMessage], *rest: Any, **kwargs: Any) -> Any:
            said = calls("finish", answer=str(messages[-1].content))
            return ChatResult(generations=[ChatGeneration(message=said)])

    heard: list[int] = []
    many = [prompt(Message("user", str(i))) for i in range(12)]
    turns = LangChainModel(Echo(answers=[])).respond(many, lambda i, _: heard.append(i))
    assert [turn.call.arguments["answer"] for turn in turns if turn.call] == [str(i) for i in range(12)]
    assert heard == list(range(12))


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("gpt-4o", UsageError, "provider/name"),
        ("nobody/model", UsageError, "nobody"),
        ("mistralai/mistral-large", ModelUnavailable, "langchain-mistralai|langchain_mistralai"),
    ],
)
def test_loading_by_name_says_what_is_missing(name: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        LangChainModel.load(name)
    assert "\n" not in str(caught.value)
