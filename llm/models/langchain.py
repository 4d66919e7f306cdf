"""LangChain, both ways: our model as its chat model, and its chat models as our model.

:class:`ChatAutoGPT` is a ``BaseChatModel`` whose ``bind_tools`` compiles the tools into the grammar,
so inside LangChain's ``create_agent`` a malformed call cannot happen; a plain answer is one more
call, ``finish``, and comes out as ordinary content. :class:`LangChainModel` lets any LangChain chat
model drive our loop: the allowed calls are bound as tools, what comes back is checked against their
schemas, and a call that does not fit is an invalid turn. Its token fields are empty.

This is the only module that imports LangChain, and nothing imports it before it is asked for.
Limits: one call a turn (further parallel calls are left out); text content only; no token
streaming; a provider may refuse some schema keywords.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast
from uuid import uuid4

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.tool import ToolCall as LangChainCall
from langchain_core.messages.tool import invalid_tool_call
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, PrivateAttr, SkipValidation

from ...errors import ModelUnavailable, UsageError, UserError
from ..message import (
    CallSpec,
    Message,
    Model,
    Prompt,
    Sampling,
    ToolCall,
    Turn,
    why_invalid,
)
from ..text.grammar import parse_call
from .token_budget import ContextOverflow

ATTEMPTS = 4
"""Tries of a remote call before giving up; the waits between them add up to some 7 seconds."""
PARALLEL = 8
"""Remote calls under way at once when several prompts are asked together."""
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_NO_CALL = "(no call)"
_log = logging.getLogger(__name__)


class RemoteModelError(UserError):
    """A LangChain model could not answer: refused, or unreachable after bounded retries."""


def describe_calls(calls: Sequence[CallSpec]) -> str:
    """Return the calls as lines ``name(a, b?): description``, the form our models are trained on."""
    lines = ["You reach the user's goal with tools, one call at a time."]
    for call in calls:
        required = set(call.parameters.get("required", ()))
        names = [key if key in required else f"{key}?" for key in call.parameters.get("properties", {})]
        lines.append(f"{call.name}({', '.join(names)}): {' '.join(call.description.split())}")
    return "\n".join(lines)


class ChatAutoGPT(BaseChatModel):
    """A model of ours as a LangChain chat model.

    >>> ChatAutoGPT(model=LocalModel.load("models/small")).bind_tools([search])
    """

    model: SkipValidation[Model]
    max_tokens: int = 400
    temperature: float = 0.0
    seed: int = 0
    describe: Callable[[Sequence[CallSpec]], str] = describe_calls
    """Writes the system text that lists the calls."""
    answer_chars: int = Field(default=1000, gt=0)
    """Longest plain answer."""
    _session: str = PrivateAttr(default_factory=lambda: f"langchain-{uuid4().hex}")

    @property
    def _llm_type(self) -> str:
        return "autogpt"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model.name, "fingerprint": self.model.fingerprint}

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | Any],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Allow calls of ``tools``; ``tool_choice``: None or "auto", "any", "none", or a tool's name."""
        made = [convert_to_openai_tool(tool) for tool in tools]
        return cast(
            "Runnable[LanguageModelInput, AIMessage]",
            self.bind(tools=made, tool_choice=tool_choice, **kwargs),
        )

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        tools = [_spec(tool) for tool in kwargs.get("tools") or ()]
        taken = {tool.name for tool in tools}
        answer = self._answer_call("finish" if "finish" not in taken else "reply")
        calls = _chosen(tools, answer, kwargs.get("tool_choice"))
        sampling = Sampling(temperature=self.temperature, seed=self.seed, max_tokens=self.max_tokens)
        talk = self._conversation(messages, calls, answer.name)
        turn = self.model.respond([Prompt(self._session, talk, calls, sampling)])[0]
        message = _message(turn, answer.name)
        for word in stop or ():
            message.content = str(message.content).partition(word)[0]
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _answer_call(self, name: str) -> CallSpec:
        text = {"type": "string", "maxLength": self.answer_chars}
        schema = {"type": "object", "properties": {"answer": text}, "required": ["answer"]}
        return CallSpec(name, {**schema, "additionalProperties": False}, "the answer")

    def _conversation(
        self, messages: Sequence[BaseMessage], calls: Sequence[CallSpec], answer: str
    ) -> tuple[Message, ...]:
        """Return our messages: one system text first, assistant turns as the calls they were."""
        told = [_text(message) for message in messages if isinstance(message, SystemMessage)]
        talk = [Message("system", "\n".join([*told, self.describe(calls)]))]
        for message in messages:
            text = _text(message)
            if isinstance(message, AIMessage):
                ids = message.response_metadata.get("ids")
                said = [ToolCall(call["name"], call["args"]) for call in message.tool_calls[:1]]
                call = said[0] if said else ToolCall(answer, {"answer": text})
                talk.append(Message("assistant", call.text(), tuple(ids) if ids else None))
            elif isinstance(message, ToolMessage):
                talk.append(Message("tool", text))
            elif not isinstance(message, SystemMessage):
                talk.append(Message("user", text))
        return tuple(talk)


def _chosen(tools: list[CallSpec], answer: CallSpec, choice: Any) -> tuple[CallSpec, ...]:
    """Return the calls that a ``tool_choice`` leaves."""
    if isinstance(choice, dict):
        choice = choice.get("function", choice).get("name")
    if not tools or choice == "none" or choice is False:
        return (answer,)
    if choice in (None, "auto"):
        return (*tools, answer)
    if choice in ("any", "required", True):
        return tuple(tools)
    named = tuple(tool for tool in tools if tool.name == choice)
    if not named:
        raise UsageError(
            f"tool_choice {choice!r} is no bound tool; bound: {', '.join(t.name for t in tools)}"
        )
    return named


def _message(turn: Turn, answer: str) -> AIMessage:
    """Return a turn as LangChain reads it; the exact ids ride along for the next prompt."""
    usage = {
        "input_tokens": turn.prompt_tokens,
        "output_tokens": len(turn.ids),
        "total_tokens": turn.prompt_tokens + len(turn.ids),
    }
    rest: dict[str, Any] = {"usage_metadata": usage, "response_metadata": {"ids": list(turn.ids)}}
    if turn.call is None:
        wrong = invalid_tool_call(name=None, args=turn.text, id=_call_id(), error=turn.invalid)
        return AIMessage(content="", invalid_tool_calls=[wrong], **rest)
    if turn.call.name == answer:
        return AIMessage(content=str(turn.call.arguments["answer"]), **rest)
    call = LangChainCall(name=turn.call.name, args=dict(turn.call.arguments), id=_call_id())
    return AIMessage(content="", tool_calls=[call], **rest)


class LangChainModel:
    """Any LangChain chat model as the model of our loop; use :meth:`load` for one by name."""

    tokenizer_hash = ""

    def __init__(self, model: BaseChatModel, name: str | None = None, wait: float = 1.0) -> None:
        """Put a model around ``model``; ``wait``: seconds before the second attempt, then doubling."""
        self.model = model
        self.name = name or f"langchain:{model._llm_type}"
        self.fingerprint = self.name
        self.wait = wait

    @classmethod
    def load(cls, name: str) -> LangChainModel:
        """Make the model ``provider/name``, e.g. ``openai/gpt-4o``, with keys from its own settings.

        Raises UsageError for a malformed name or an unknown provider, and
        :class:`~autogpt.errors.ModelUnavailable` when its package or key is missing.
        """
        from langchain.chat_models import init_chat_model

        provider, slash, model = name.partition("/")
        if not (provider and slash and model):
            raise UsageError(
                f"langchain:{name}: write langchain:provider/name, as in langchain:openai/gpt-4o"
            )
        try:
            made = init_chat_model(model, model_provider=provider)
        except ImportError as error:
            raise ModelUnavailable(f"langchain:{name}: {_line(error)}") from error
        except ValueError as error:
            if "provider" in str(error):
                raise UsageError(f"langchain:{name}: {_line(error)}") from error
            raise ModelUnavailable(f"langchain:{name}: {_line(error)}") from error
        except Exception as error:  # each provider's package has error trees of its own (a missing key)
            raise ModelUnavailable(f"langchain:{name}: {_line(error)}") from error
        return cls(made, f"langchain:{name}")

    def respond(
        self, prompts: Sequence[Prompt], on_text: Callable[[int, str], None] | None = None
    ) -> list[Turn]:
        """Answer each prompt, several at once; raises :class:`RemoteModelError`.

        A prompt that the provider says is too long raises :class:`ContextOverflow`.

        Connection errors, timeouts and overloads are tried again, at most ``ATTEMPTS`` times, and
        every failed attempt is logged.
        """
        if len(prompts) == 1:
            turns = [self._answer(prompts[0])]
        else:
            with ThreadPoolExecutor(max_workers=min(PARALLEL, len(prompts) or 1)) as pool:
                turns = list(pool.map(self._answer, prompts))
        for i, turn in enumerate(turns):
            if on_text is not None:
                on_text(i, turn.text)
        return turns

    def close_session(self, session: str) -> None:
        """Nothing is kept between turns."""

    def _answer(self, prompt: Prompt) -> Turn:
        started = time.perf_counter()
        names = {_safe(call.name): call.name for call in prompt.calls}
        tools = [_tool(call) for call in prompt.calls]
        bound, said = _bind(self.model, tools), _to_langchain(prompt.messages)
        try:
            answer = _retrying(self.wait)(bound.invoke, said)
        except ContextOverflowError as error:  # this prompt's fault alone, unlike all others
            raise ContextOverflow(f"{self.name} cannot take the conversation: {_line(error)}") from error
        except Exception as error:  # providers raise errors of several HTTP libraries and their own
            raise RemoteModelError(f"{self.name} did not answer: {_line(error)}") from error
        call, text, invalid = _read(answer, names)
        if call is not None:
            invalid = why_invalid(call, prompt.calls)
        usage = answer.usage_metadata or {"input_tokens": 0}
        return Turn(
            call=None if invalid else call,
            text=text,
            invalid=invalid,
            prompt_tokens=usage["input_tokens"],
            seconds=time.perf_counter() - started,
        )


def _bind(model: BaseChatModel, tools: list[dict[str, Any]]) -> Runnable[LanguageModelInput, AIMessage]:
    """Bind ``tools``, insisting on a call where the model knows how to; plain if it has no tools."""
    try:
        return model.bind_tools(tools, tool_choice="any")
    except NotImplementedError:
        return cast("Runnable[LanguageModelInput, AIMessage]", model)
    except (TypeError, ValueError):
        return model.bind_tools(tools)


def _retrying(wait: float) -> Any:
    import tenacity

    return tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_exponential(multiplier=wait, max=8 * wait),
        retry=tenacity.retry_if_exception(_may_pass),
        before_sleep=tenacity.before_sleep_log(_log, logging.WARNING),
        reraise=True,
    )


def _may_pass(error: BaseException) -> bool:
    """Say whether a failure may be gone in a moment: the connection, a timeout, an overload."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    status = getattr(error, "status_code", None)
    if status is None:
        status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status in _PASSING
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"TransportError", "APIConnectionError", "APITimeoutError", "ServiceUnavailable"})


def _read(answer: AIMessage, names: dict[str, str]) -> tuple[ToolCall | None, str, str | None]:
    """Return ``(call, its text, what is wrong)`` of a model's answer."""
    if answer.tool_calls:
        first = answer.tool_calls[0]
        call = ToolCall(names.get(first["name"], first["name"]), first["args"])
        return call, call.text(), None
    if answer.invalid_tool_calls:
        broken = answer.invalid_tool_calls[0]
        text = str(broken.get("args") or "")
        return None, text or _NO_CALL, f"the arguments are not JSON: {broken.get('error') or text[:80]}"
    text = _text(answer)
    parsed, wrong = parse_call(text)
    return parsed, text or _NO_CALL, wrong


def _to_langchain(messages: Sequence[Message]) -> list[BaseMessage]:
    """Return LangChain's messages: a call and the result that follows it become a linked pair."""
    made: list[BaseMessage] = []
    for i, message in enumerate(messages):
        before = made[-1] if made else None
        if message.role == "system":
            made.append(SystemMessage(message.content))
        elif message.role == "assistant":
            call, _ = parse_call(message.content)
            answered = i + 1 < len(messages) and messages[i + 1].role == "tool"
            if call is None or not answered:
                made.append(AIMessage(message.content or _NO_CALL))
            else:
                said = LangChainCall(name=_safe(call.name), args=dict(call.arguments), id=f"call_{i}")
                made.append(AIMessage("", tool_calls=[said]))
        elif message.role == "tool" and isinstance(before, AIMessage) and before.tool_calls:
            made.append(ToolMessage(message.content, tool_call_id=before.tool_calls[0]["id"] or ""))
        else:
            made.append(HumanMessage(message.content))
    return made


def _tool(call: CallSpec) -> dict[str, Any]:
    """Return a call as a tool in the form that every provider's package takes."""
    parameters = {"type": "object", "properties": {}, **call.parameters}
    function = {
        "name": _safe(call.name),
        "description": call.description or call.name,
        "parameters": parameters,
    }
    return {"type": "function", "function": function}


def _spec(tool: dict[str, Any]) -> CallSpec:
    function = tool.get("function", tool)
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    return CallSpec(function["name"], parameters, function.get("description", ""))


def _safe(name: str) -> str:
    """Return a name that providers accept: letters, digits, ``_`` and ``-``."""
    return re.sub(r"[^A-Za-z0-9_-]", "__", name)[:64]


def _text(message: BaseMessage) -> str:
    """Return a message's text; other content as JSON, so that nothing is dropped unseen."""
    content = message.content
    if isinstance(content, str):
        return content
    parts = [part if isinstance(part, str) else part.get("text") or json.dumps(part) for part in content]
    return "\n".join(parts)


def _call_id() -> str:
    return f"call_{uuid4().hex[:12]}"


def _line(error: BaseException) -> str:
    """Return an error as one line."""
    said = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
