"""What a person says about a run afterwards: ratings, corrections, and whether it may be learned from.

Each is an event of the run, in a conversation of the message before it, so that it travels with the
record. The same person may change a rating; the last counts, and the command says what it replaces.
A correction holds the whole turn as it should have been, next to the one that was: a preference pair.
"""

from __future__ import annotations

import getpass
import json
import math
import os
from collections.abc import Sequence

from ...errors import UsageError
from ...llm.message import CallSpec, ToolCall, why_invalid
from ...tools.handles import text_form
from ..record.events import Correction, Event, ModelTurn, Rating
from ..record.result import resolved_answer
from ..record.rewards import last_ratings, last_span

WORDS = {"good": 1.0, "bad": 0.0}
MOST = 600
"""Characters of an answer, as the model's grammar bounds them."""


def parse_value(text: str) -> float:
    """Return the rating that ``good``, ``bad`` or a number from 0 to 1 says; raises UsageError."""
    try:
        value = WORDS[text.strip().lower()] if text.strip().lower() in WORDS else float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise UsageError(f"rating {text!r}: 'good', 'bad', 'judge' or a number from 0 to 1 is wanted")
    return value


def who() -> str:
    """Return the name of the person at this machine."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # no such user in the system's list, as in some containers
        return str(os.getuid())


def earlier(events: Sequence[Event], by: str) -> Rating | None:
    """Return the rating that one by ``by`` replaces now: that of the same run, or of its last message."""
    current = [events[place] for place in last_span(events)]
    return last_ratings(current, "person").get(by)


def told(value: float, before: Rating | None) -> str:
    """Return the line that says what was kept, and what it stands in place of."""
    if before is not None and before.value != value:
        return f"rated {value:g}; it was {before.value:g} before, the last one counts"
    return f"rated {value:g}"


def answered(events: Sequence[Event]) -> int | None:
    """Return the place of the turn that gave the last answer of the run or of its last message.

    A goal that ended without one may be rated too: then it is its last turn.
    """
    turns = [place for place in last_span(events) if isinstance(events[place], ModelTurn)]
    finished = [place for place in turns if _answer(events[place]) is not None]
    return next(reversed(finished or turns), None)


def answer_of(events: Sequence[Event], values: dict[str, object]) -> tuple[int, str] | None:
    """Return the turn that gave the last answer, and the answer as a person reads it."""
    place = answered(events)
    answer = None if place is None else _answer(events[place])
    return None if place is None or answer is None else (place, text_form(resolved_answer(answer, values)))


def _answer(event: Event) -> object:
    if isinstance(event, ModelTurn) and event.call and event.call["name"] == "finish":
        return event.call["arguments"]["answer"]
    return None


def correction(events: Sequence[Event], place: int, answer: str, by: str) -> Correction:
    """Return the event that puts ``answer`` in place of what the turn at ``place`` answered.

    Raises UsageError for an answer that the model could not have given.
    """
    turn = events[place]
    assert isinstance(turn, ModelTurn)
    answer = answer.strip()
    if not answer or answer.startswith("$"):
        raise UsageError("a corrected answer is a text, and does not begin with $")
    if len(answer) > MOST:
        raise UsageError(f"the answer has {len(answer)} characters, {MOST} is the most that a model may say")
    return _corrected(turn, place, ToolCall("finish", {"answer": answer}), by)


def called(events: Sequence[Event]) -> tuple[int, str] | None:
    """Return the last turn of the run, or of its last message, that called a tool, and that call in short."""
    for place in reversed(last_span(events)):
        turn = events[place]
        if isinstance(turn, ModelTurn) and turn.call and turn.call["name"] not in ("finish", "ask"):
            return place, f"{turn.call['name']} {json.dumps(turn.call['arguments'], ensure_ascii=False)}"
    return None


def corrected_call(
    events: Sequence[Event], place: int, text: str, allowed: Sequence[CallSpec], by: str
) -> Correction:
    """Return the event that puts the call ``text`` (``NAME {ARGUMENTS}``) in place of the one at ``place``.

    ``allowed``: the calls that the model had to choose from. Raises UsageError for any other.
    """
    turn = events[place]
    assert isinstance(turn, ModelTurn)
    name, _, rest = text.strip().partition(" ")
    try:
        arguments = json.loads(rest or "{}")
    except ValueError as error:
        raise UsageError(f"a call is its NAME and arguments as JSON, not {text!r}: {error}") from error
    if not isinstance(arguments, dict):
        raise UsageError(f"the arguments of a call are a JSON object, not {rest!r}")
    call = ToolCall(name, arguments)
    if why := why_invalid(call, allowed):
        raise UsageError(f"the model could not have made this call: {why}")
    return _corrected(turn, place, call, by)


def _corrected(turn: ModelTurn, place: int, call: ToolCall, by: str) -> Correction:
    thought = turn.text.partition("<tool_call>")[0] if "<tool_call>" in turn.text else ""
    chosen = thought + call.text()
    if chosen == turn.text.strip():
        raise UsageError("the correction is what was given; nothing is kept")
    return Correction(turn=place, rejected=turn.text, chosen=chosen, by=by)
