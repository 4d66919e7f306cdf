"""What models share that are reached over a network and know nothing of our grammars.

Retries of what may pass, names and schemas that servers accept, and the reading of a call from whatever
such a model writes: after a thought, in a code fence, among several, in somebody else's markup.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ...errors import UserError
from ..message import CallSpec, ToolCall, why_invalid

ATTEMPTS = 4
"""Attempts at a remote call before giving up; the waits between them add up to about 7 seconds."""
PARALLEL = 8
"""Most concurrent remote calls."""
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""HTTP statuses of failures that may pass."""
LONGEST_WAIT = 30.0
"""Seconds that are waited before another attempt, whatever the server asks for."""
_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL)
_UNKNOWN = ("pattern", "multipleOf", "format", "uniqueItems")
"""Keywords that not every server's own grammar can follow; answers are checked against them here."""
_LONGEST_COUNTED = 1000
"""Characters that a server's grammar can count to; llama.cpp refuses more than 2,000 repetitions."""
_log = logging.getLogger(__name__)


class RemoteModelError(UserError):
    """A model behind a network could not answer: refused, or unreachable after bounded retries."""


def retrying(wait: float, may_pass: Callable[[BaseException], bool], stop: threading.Event) -> Any:
    """Return a function that calls what it is given, with its arguments, again while ``may_pass`` agrees.

    The waits double from ``wait`` seconds; an error's ``retry_after`` lengthens them. Setting ``stop`` ends
    both waiting and retrying.
    """
    import tenacity

    growing = tenacity.wait_exponential(multiplier=wait, max=8 * wait)

    def pause(state: Any) -> float:
        asked = getattr(state.outcome.exception(), "retry_after", 0.0) or 0.0
        return max(float(growing(state)), min(asked, LONGEST_WAIT))

    return tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=pause,
        retry=tenacity.retry_if_exception(lambda error: may_pass(error) and not stop.is_set()),
        before_sleep=tenacity.before_sleep_log(_log, logging.WARNING),
        sleep=tenacity.sleep_using_event(stop),
        reraise=True,
    )


def safe_name(name: str) -> str:
    """Return a name that providers accept: letters, digits, ``_`` and ``-``."""
    return re.sub(r"[^A-Za-z0-9_-]", "__", name)[:64]


def function_of(call: CallSpec, loose: bool = False) -> dict[str, Any]:
    """Return a call as a tool in OpenAI's form; ``loose`` leaves out what servers' grammars may refuse."""
    parameters = loosened(call.parameters) if loose else dict(call.parameters)
    function = {
        "name": safe_name(call.name),
        "description": call.description or call.name,
        "parameters": {"type": "object", "properties": {}, **parameters},
    }
    return {"type": "function", "function": function}


def loosened(schema: Any) -> Any:
    """Return a schema without the keywords that not every server's grammar can follow.

    Names of properties are no keywords, so those stay whatever they are called.
    """
    if isinstance(schema, list):
        return [loosened(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    kept = {}
    for key, value in schema.items():
        if key == "properties" and isinstance(value, Mapping):
            kept[key] = {name: loosened(part) for name, part in value.items()}
        elif key in ("enum", "const", "default", "examples"):
            kept[key] = value
        elif key not in _UNKNOWN and not (key == "maxLength" and value > _LONGEST_COUNTED):
            kept[key] = loosened(value)
    return kept


def without_thought(text: str) -> str:
    """Return ``text`` without what stands between ``<think>`` and ``</think>``, even if that never ends.

    Some chat templates open the thought in the prompt, so that only its end is in the answer.
    """
    _, closed, after = text.rpartition("</think>")
    return _THOUGHT.sub("", after if closed else text).strip()


def calls_in(text: str) -> list[ToolCall]:
    """Return all calls that ``text`` holds, in order: JSON objects with a name and arguments."""
    return list(_calls_in(without_thought(text)))


def _calls_in(text: str) -> Iterator[ToolCall]:
    decoder = json.JSONDecoder(strict=False)
    at = text.find("{")
    while at >= 0:
        try:
            found, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            found, end = None, at + 1
        calls = list(_calls_of(found))
        yield from calls
        at = text.find("{", end)


def _calls_of(found: Any) -> Iterator[ToolCall]:
    """Yield the calls that a JSON value is or lists, in the forms that models write."""
    if isinstance(found, list):
        for part in found:
            yield from _calls_of(part)
    if not isinstance(found, dict):
        return
    for key in ("tool_calls", "function", "tool_call", "call"):
        if isinstance(found.get(key), dict | list):
            yield from _calls_of(found[key])
            return
    name = found.get("name")
    arguments = next((found[key] for key in ("arguments", "parameters", "args") if key in found), None)
    if isinstance(arguments, str):
        arguments = read_json(arguments)
    if isinstance(name, str) and isinstance(arguments, dict):
        yield ToolCall(name, arguments)


def read_json(text: str) -> Any:
    """Return the value that ``text`` is as JSON, line breaks inside strings allowed; None if it is none."""
    try:
        return json.JSONDecoder(strict=False).decode(text)
    except (ValueError, RecursionError):
        return None


def first_valid(said: Sequence[ToolCall], allowed: Sequence[CallSpec]) -> tuple[ToolCall | None, str]:
    """Return the first valid one of the calls, under its own name; else None and what ails the first."""
    names = {safe_name(spec.name): spec.name for spec in allowed}
    reasons = []
    for call in said:
        named = ToolCall(names.get(call.name, call.name), call.arguments)
        wrong = why_invalid(named, allowed)
        if wrong is None:
            return named, ""
        reasons.append(wrong)
    return None, reasons[0] if reasons else "there is no call in the answer"


def error_line(error: BaseException) -> str:
    """Return an error as one line."""
    said = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
