"""LangChain chat models as models of ours (:class:`LangChainModel`).

The allowed calls are bound as tools; the answer is checked against their schemas, and a call that does
not fit is an invalid turn. Token fields of turns are empty. Everything else that concerns LangChain is in
:mod:`autogpt.langchain`; nothing imports either module before it is asked for.

Limits: one call per turn (further parallel calls are dropped); text content only; no token streaming; a
provider may refuse some schema keywords.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.tool import ToolCall as LangChainCall
from langchain_core.runnables import Runnable

from ...errors import ModelUnavailable, UsageError
from ...text import Prompting
from ..message import Message, OnText, Prompt, Sampling, ToolCall, Turn, why_invalid
from ..text.grammar import parse_call
from .remote import (
    PARALLEL,
    PASSING,
    RemoteModelError,
    calls_in,
    error_line,
    first_valid,
    function_of,
    retrying,
    safe_name,
    without_thought,
)
from .token_budget import ContextOverflow

_NO_CALL = "(no call)"


class LangChainModel:
    """Any LangChain chat model as the model of our loop; use :meth:`load` for one by name."""

    tokenizer_hash = ""
    prompting: Prompting = "teaching"

    def __init__(self, model: BaseChatModel, name: str | None = None, wait: float = 1.0) -> None:
        """Wrap ``model``; ``wait``: seconds before the second attempt, then doubling."""
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
            raise ModelUnavailable(f"langchain:{name}: {error_line(error)}") from error
        except ValueError as error:
            if "provider" in str(error):
                raise UsageError(f"langchain:{name}: {error_line(error)}") from error
            raise ModelUnavailable(f"langchain:{name}: {error_line(error)}") from error
        except Exception as error:  # each provider's package has error trees of its own (a missing key)
            raise ModelUnavailable(f"langchain:{name}: {error_line(error)}") from error
        return cls(made, f"langchain:{name}")

    def respond(self, prompts: Sequence[Prompt], on_text: OnText | None = None) -> list[Turn]:
        """Answer each prompt, several at once; raises :class:`RemoteModelError`.

        A prompt that the provider says is too long raises :class:`ContextOverflow`.

        Connection errors, timeouts and overloads are retried, at most ``ATTEMPTS`` times in all, and every
        failed attempt is logged.
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
        names = {safe_name(call.name): call.name for call in prompt.calls}
        tools = [function_of(call) for call in prompt.calls]
        bound, said = _bind(self.model, tools), _to_langchain(prompt.messages)
        answer = self._reached(lambda: bound.invoke(said))
        call, text, invalid = _read(answer, names)
        if call is not None:
            invalid = why_invalid(call, prompt.calls)
        if call is None or invalid:  # after a thought, in a code fence, or not the first of several
            found, _ = first_valid([*_said(answer), *calls_in(text_of(answer))], prompt.calls)
            call, text, invalid = (found, found.text(), None) if found else (call, text, invalid)
        usage = answer.usage_metadata or {"input_tokens": 0}
        return Turn(
            call=None if invalid else call,
            text=text,
            invalid=invalid,
            prompt_tokens=usage["input_tokens"],
            seconds=time.perf_counter() - started,
        )

    def generate(
        self,
        text: str,
        max_tokens: int = 2000,
        sampling: Sampling | None = None,
        system: str | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> str:
        """Answer ``text`` freely, without tools, streamed where the provider streams.

        ``max_tokens`` (or that of ``sampling``) is asked for, and what a thought says is left out. Raises
        :class:`RemoteModelError` or :class:`ContextOverflow`.
        """
        said: list[BaseMessage] = [] if system is None else [SystemMessage(system)]
        said.append(HumanMessage(text))
        most = sampling.max_tokens if sampling else max_tokens

        def ask() -> str:
            parts = []
            for piece in self.model.stream(said, max_tokens=most):
                parts.append(text_of(piece))
                if on_text is not None:
                    on_text(parts[-1])
            return "".join(parts)

        return without_thought(str(self._reached(ask, again=on_text is None)))

    def _reached(self, call: Callable[[], Any], again: bool = True) -> Any:
        """Return what ``call`` does, with its failures as ours; tried ``again`` where they may pass."""
        try:
            return retrying(self.wait, _may_pass, threading.Event())(call) if again else call()
        except ContextOverflowError as error:  # this prompt's fault alone, unlike all others
            raise ContextOverflow(f"{self.name} cannot take the conversation: {error_line(error)}") from error
        except Exception as error:  # providers raise errors of several HTTP libraries and their own
            raise RemoteModelError(f"{self.name} did not answer: {error_line(error)}") from error


def _bind(model: BaseChatModel, tools: list[dict[str, Any]]) -> Runnable[LanguageModelInput, AIMessage]:
    """Bind ``tools`` and require a call if the model supports that; return ``model`` if it has no tools."""
    try:
        return model.bind_tools(tools, tool_choice="any")
    except NotImplementedError:
        return cast("Runnable[LanguageModelInput, AIMessage]", model)
    except (TypeError, ValueError):
        return model.bind_tools(tools)


def _may_pass(error: BaseException) -> bool:
    """Say whether a failure may be temporary: the connection, a timeout, an overload."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    status = getattr(error, "status_code", None)
    if status is None:
        status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status in PASSING
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"TransportError", "APIConnectionError", "APITimeoutError", "ServiceUnavailable"})


def _said(answer: AIMessage) -> list[ToolCall]:
    """Return all calls that a provider told apart, under its own names."""
    return [ToolCall(call["name"], call["args"]) for call in answer.tool_calls]


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
    text = text_of(answer)
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
                said = LangChainCall(name=safe_name(call.name), args=dict(call.arguments), id=f"call_{i}")
                made.append(AIMessage("", tool_calls=[said]))
        elif message.role == "tool" and isinstance(before, AIMessage) and before.tool_calls:
            made.append(ToolMessage(message.content, tool_call_id=before.tool_calls[0]["id"] or ""))
        else:
            made.append(HumanMessage(message.content))
    return made


def text_of(message: BaseMessage) -> str:
    """Return a message's text; other content as JSON, so that nothing is dropped unseen."""
    content = message.content
    if isinstance(content, str):
        return content
    parts = [part if isinstance(part, str) else part.get("text") or json.dumps(part) for part in content]
    return "\n".join(parts)

