"""Models behind an OpenAI-compatible server: Ollama, llama.cpp, vLLM, LM Studio, OpenAI.

Such a model has no masks of ours, so how a call is asked for depends on what its server knows
(:data:`WAYS`): tools of which one is required, JSON of a schema, or plain text in the markup that small
models know. The first that works is kept for the server. What comes back is read leniently (after a
thought, in a code fence, among several) and checked strictly, and an answer without a valid call is
asked for once more, with the reason.

Limits: token ids and log-probabilities stay with the server, so nothing can be learned from such turns
by their tokens; Ollama cuts prompts beyond its own context without saying so (``OLLAMA_CONTEXT_LENGTH``).
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Literal

from ...errors import ModelUnavailable, UsageError
from ...text import Prompting
from ..message import CallSpec, Message, OnText, Prompt, Sampling, ToolCall, Turn
from ..text.grammar import parse_call
from .chat_server import Answer, ChatServer, OnNew, Refused
from .remote import (
    PARALLEL,
    RemoteModelError,
    calls_in,
    first_valid,
    function_of,
    loosened,
    read_json,
    safe_name,
    without_thought,
)
from .token_budget import ContextOverflow

Way = Literal["tools", "schema", "text"]
WAYS: tuple[Way, ...] = ("tools", "schema", "text")
"""How to ask for a call, the best first: ``tools`` with one required, ``response_format`` with a JSON schema,
or an instruction in the text."""
Messages = list[dict[str, Any]]
Found = tuple[ToolCall | None, str, str]
"""A valid call or None, the text of the turn, and what is wrong where there is no call."""
OPTIONAL = ("stream_options", "tool_choice", "seed", "temperature", "stop", "max_tokens", "stream")
"""Fields that a server may refuse and be asked without; ``max_tokens`` has a newer name."""
ROOM_TO_THINK = 3000
"""Further tokens for a model that was seen to think before it answers."""
PIECES_AFTER = 12
"""Pieces of a stream that are waited for after a valid call: its end, and the server's count of tokens."""
SMALL_ROOM = 400
"""Tokens that are asked for where the context has no room for more."""
_NO_CALL = "(no call)"


class OpenAIModel:
    """A model of an OpenAI-compatible server; use :meth:`load` for one by name."""

    tokenizer_hash = ""
    prompting: Prompting = "teaching"

    def __init__(self, server: ChatServer, model: str) -> None:
        """Take ``model`` of ``server``."""
        self.server = server
        self.model = model
        self.name = f"openai:{server.url}#{model}"
        self.fingerprint = self.name
        self._way = 0
        self._without: set[str] = set()
        """Fields that the server refuses; ``system``: messages of that role."""
        self._thinks = False

    @classmethod
    def load(cls, name: str, key: str = "") -> OpenAIModel:
        """Take the model ``URL#MODEL``; without ``#MODEL`` the only one that the server has.

        Raises UsageError for a malformed address, or where a choice must be made, and
        :class:`~autogpt.errors.ModelUnavailable` where server or model is not there.
        """
        url, _, model = name.partition("#")
        server = ChatServer(url, key)
        try:
            listed = server.models()
        except RemoteModelError as error:
            raise ModelUnavailable(str(error)) from error
        if model:
            if listed and not _among(model, listed):
                raise ModelUnavailable(f"{server.url} has no model {model}; it has: {_some(listed)}")
            return cls(server, model)
        if listed is None:
            raise UsageError(f"{server.url} does not list its models: write openai:{url}#MODEL")
        if len(listed) != 1:
            choice = f"one of: {_some(listed)}" if listed else "a model (it has none; load one there first)"
            raise UsageError(f"openai:{url}: write openai:{url}#MODEL with {choice}")
        return cls(server, listed[0])

    def respond(self, prompts: Sequence[Prompt], on_text: OnText | None = None) -> list[Turn]:
        """Answer each prompt, several at once; raises RemoteModelError or ContextOverflow.

        ``on_text`` gets the text of calls as our own models write it; where an answer is asked for again, it
        begins again.
        """
        stop, lock = threading.Event(), threading.Lock()

        def answer(i: int) -> Turn:
            def heard(piece: str) -> None:
                if on_text is not None:
                    with lock:
                        on_text(i, piece)

            return self._turn(prompts[i], partial(_Enough, prompts[i].calls, heard), stop)

        if len(prompts) == 1:
            return [answer(0)]
        pool = ThreadPoolExecutor(max_workers=min(PARALLEL, len(prompts) or 1))
        try:
            return list(pool.map(answer, range(len(prompts))))
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            self.server.abort()
            raise
        finally:
            pool.shutdown()

    def close_session(self, session: str) -> None:
        """Nothing is kept between turns."""

    def generate(
        self,
        text: str,
        max_tokens: int = 2000,
        sampling: Sampling | None = None,
        system: str | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> str:
        """Answer ``text`` freely, without tools; a thought before the answer is left out.

        ``max_tokens`` applies when no ``sampling`` is given. Raises RemoteModelError or ContextOverflow.
        """
        said = [] if system is None else [{"role": "system", "content": system}]
        said.append({"role": "user", "content": text})

        def write(_: Way) -> Messages:
            return _without_system(said) if "system" in self._without else said

        chosen = sampling or Sampling(max_tokens=max_tokens)
        heard = _AfterThought(on_text or (lambda _: None))
        answer, _ = self._ask(self._way, write, chosen, (), lambda: heard, threading.Event())
        heard.end()
        return without_thought(answer.text)

    def _turn(self, prompt: Prompt, listen: Callable[[], OnNew], stop: threading.Event) -> Turn:
        """Ask for a call, and once more with the reason where the answer holds none that is valid."""
        started = time.perf_counter()
        correction: Messages = []

        def write(way: Way) -> Messages:
            made = _linked(prompt.messages) if way == "tools" else _plain(prompt.messages)
            made = made if way == "tools" else _instructed(made, way, prompt.calls)
            return (_without_system(made) if "system" in self._without else made) + correction

        first, way = self._ask(self._way, write, prompt.sampling, prompt.calls, listen, stop)
        found = self._read(first, prompt.calls)
        if found[0] is not None and WAYS[way] == "tools" and not first.calls:
            way += 1  # the server does not know this model's calls, so it cannot hold it to them either
        elif found[0] is None:
            correction = [
                {"role": "assistant", "content": found[1]},
                {"role": "user", "content": f"invalid call: {found[2]}. Answer with a valid call."},
            ]
            # a server that takes tools and lets the model talk is asked more firmly
            talked = not _calls(first) and not first.cut and way + 1 < len(WAYS)
            again, way = self._ask(way + talked, write, prompt.sampling, prompt.calls, listen, stop)
            found = self._read(again, prompt.calls)
            if found[0] is None and not _calls(again) and not again.cut:
                found = _as_answer(again, prompt.calls) or found
                way = self._way
        call, text, problem = found
        self._way = way
        return Turn(
            call=call,
            text=text,
            invalid=None if call is not None else problem,
            prompt_tokens=first.prompt_tokens,
            cached_tokens=first.cached_tokens,
            seconds=time.perf_counter() - started,
        )

    def _read(self, answer: Answer, allowed: Sequence[CallSpec]) -> Found:
        """Return the first valid call of an answer, its text, and what is wrong where there is none."""
        self._thinks = self._thinks or bool(answer.thought or "<think" in answer.text)
        said = _calls(answer)
        call, problem = first_valid(said, allowed)
        if call is not None:
            return call, call.text(), ""
        if answer.cut:
            problem = "cut by the token limit"
        return None, without_thought(answer.text) or (said[0].text() if said else _NO_CALL), problem

    def _ask(
        self,
        place: int,
        write: Callable[[Way], Messages],
        sampling: Sampling,
        calls: Sequence[CallSpec],
        listen: Callable[[], OnNew],
        stop: threading.Event,
    ) -> tuple[Answer, int]:
        """Ask in the way at ``place``, or a later one where the server refuses it; return that, too."""
        small = False
        while True:
            room = sampling.max_tokens + ROOM_TO_THINK * self._thinks
            body = self._body(WAYS[place], write(WAYS[place]), sampling, calls)
            body[self._limit] = SMALL_ROOM if small else room
            try:
                return self.server.ask(body, listen(), stop), place
            except ContextOverflow:
                if small or room <= SMALL_ROOM:
                    raise
                small = True
            except Refused as error:
                if self._adapt(error, body):
                    continue
                gone = error.status < 400 or (error.status == 404 and "tool" not in error.said)
                if gone or not calls or place + 1 == len(WAYS):
                    raise self._unserved(error) from None
                place += 1

    @property
    def _limit(self) -> str:
        return "max_completion_tokens" if "max_tokens" in self._without else "max_tokens"

    def _adapt(self, error: Refused, body: Mapping[str, Any]) -> bool:
        """Note what the server refuses by name, to be left out; False where it names nothing new."""
        said = error.said.lower()
        named = [field for field in OPTIONAL if field in body and re.search(rf"\b{field}\b", said)]
        if "system" in said and "role" in said:
            named.append("system")
        fresh = [field for field in named if field not in self._without]
        self._without.update(fresh[:1])
        return bool(fresh)

    def _body(
        self, way: Way, messages: Messages, sampling: Sampling, calls: Sequence[CallSpec]
    ) -> dict[str, Any]:
        """Return the request, but for its limit of tokens."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "temperature": sampling.temperature,
            "seed": sampling.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if calls and way == "tools":
            body |= {"tools": [function_of(call, loose=True) for call in calls], "tool_choice": "required"}
        elif calls and way == "schema":
            form = {"name": "call", "schema": _schema(calls)}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        elif calls:
            body["stop"] = ["</tool_call>"]
        if "stream" in self._without:
            del body["stream_options"]
        return {field: value for field, value in body.items() if field not in self._without}

    def _unserved(self, error: Refused) -> RemoteModelError:
        """Return the error of a request that the server refuses in every form."""
        listed: list[str] | None = None
        if error.status == 404:
            with suppress(RemoteModelError):
                listed = self.server.models()
        if listed and not _among(self.model, listed):
            return RemoteModelError(f"{self.server.url} has no model {self.model}; it has: {_some(listed)}")
        return RemoteModelError(self.server.told(error))


class _Enough:
    """Passes streamed text on, and ends an answer that goes on and on after its first valid call."""

    def __init__(self, calls: Sequence[CallSpec], on_text: Callable[[str], None]) -> None:
        self._calls, self._on_text = calls, on_text
        self._said, self._after = "", 0

    def __call__(self, piece: str) -> bool:
        """Take the next piece; True when enough was said."""
        self._on_text(piece)
        self._said += piece
        if not self._after and "}" in piece and first_valid(calls_in(self._said), self._calls)[0]:
            self._after = 1
        self._after += bool(self._after)
        return self._after > PIECES_AFTER


class _AfterThought:
    """Passes streamed text on, but for a thought at its beginning."""

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self._on_text = on_text
        self._held = ""
        self._open = False

    def __call__(self, piece: str) -> bool:
        """Take the next piece; never enough."""
        if self._open:
            self._on_text(piece)
            return False
        self._held += piece
        start = self._held.lstrip()
        if start.startswith("<think"):
            _, closed, after = start.partition("</think>")
            start = after.lstrip() if closed else ""
        elif "<think".startswith(start[:6]):
            start = ""  # the beginning of a mark, perhaps
        if start:
            self._open = True
            self._on_text(start)
        return False

    def end(self) -> None:
        """Pass on what was held back as the beginning of a mark and is none."""
        if not self._open and (rest := without_thought(self._held)):
            self._on_text(rest)


def _calls(answer: Answer) -> list[ToolCall]:
    """Return the calls of an answer: those that the server told apart, else those in the text."""
    apart = [(name, read_json(arguments or "{}")) for name, arguments in answer.calls]
    found = [ToolCall(name, arguments) for name, arguments in apart if isinstance(arguments, dict)]
    return found or calls_in(answer.text)


def _as_answer(answer: Answer, allowed: Sequence[CallSpec]) -> Found | None:
    """Take plain talk as the answer where one is allowed: some models cannot be brought to write a call."""
    said = without_thought(answer.text)
    call, _ = first_valid([ToolCall("finish", {"answer": said})], allowed)
    return None if call is None or said.startswith(("{", "<", "[")) else (call, call.text(), "")


def _schema(calls: Sequence[CallSpec]) -> dict[str, Any]:
    """Return the JSON schema of one of the calls."""
    branches = [
        {
            "type": "object",
            "properties": {"name": {"const": call.name}, "arguments": loosened(call.parameters)},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for call in calls
    ]
    return branches[0] if len(branches) == 1 else {"anyOf": branches}


def _linked(messages: Sequence[Message]) -> Messages:
    """Return the conversation with calls and results as OpenAI links them, by ids."""
    made: Messages = []
    for i, message in enumerate(messages):
        call = parse_call(message.content)[0] if message.role == "assistant" else None
        answered = i + 1 < len(messages) and messages[i + 1].role == "tool"
        if call is not None and answered:
            function = {"name": safe_name(call.name), "arguments": json.dumps(dict(call.arguments))}
            linked = [{"id": f"call_{i}", "type": "function", "function": function}]
            made.append({"role": "assistant", "content": "", "tool_calls": linked})
        elif message.role == "tool" and made and "tool_calls" in made[-1]:
            made.append({"role": "tool", "tool_call_id": f"call_{i - 1}", "content": message.content})
        else:
            role = "user" if message.role == "tool" else message.role
            _add(made, role, message.content or _NO_CALL)
    return made


def _plain(messages: Sequence[Message]) -> Messages:
    """Return the conversation as texts of a system, a user and an assistant, who take turns."""
    made: Messages = []
    for message in messages:
        if message.role == "tool":
            _add(made, "user", f"<tool_response>{message.content}</tool_response>")
        else:
            _add(made, message.role, message.content or _NO_CALL)
    return made


def _instructed(messages: Messages, way: Way, calls: Sequence[CallSpec]) -> Messages:
    """Return the conversation with what its answer must be: many servers show the model no schemas."""
    form = '{"name": NAME, "arguments": {...}}'
    lines = [
        "Answer with exactly one call and nothing else, written as",
        f"<tool_call>{form}</tool_call>" if way == "text" else form,
        "Allowed now, by name and JSON schema of the arguments:",
        *(f"{call.name}: {json.dumps(loosened(call.parameters), ensure_ascii=False)}" for call in calls),
    ]
    made = list(messages)
    _add(made, "user", "\n".join(lines))
    return made


def _add(messages: Messages, role: str, text: str) -> None:
    """Append a message, or more text to the last one where it is of the same role: templates want turns."""
    if messages and messages[-1]["role"] == role and "tool_calls" not in messages[-1]:
        messages[-1] = {"role": role, "content": f"{messages[-1]['content']}\n\n{text}"}
    else:
        messages.append({"role": role, "content": text})


def _without_system(messages: Messages) -> Messages:
    """Return the conversation with its system message at the head of the user's first."""
    if not messages or messages[0]["role"] != "system":
        return messages
    made: Messages = [{"role": "user", "content": messages[0]["content"]}]
    for message in messages[1:]:
        if message["role"] == "user":
            _add(made, "user", message["content"])
        else:
            made.append(message)
    return made


def _among(model: str, listed: Sequence[str]) -> bool:
    """Say whether a server has ``model``; Ollama's names may go without their ``:latest``."""
    return model in listed or f"{model}:latest" in listed


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
