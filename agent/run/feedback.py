"""What is said about a run afterwards: ratings and corrections.

Each is an event of the run, in a conversation of the message before it, so that it travels with the
record. However a rating is given (``/good``, ``autogpt rate``, Python, a model as judge), :func:`rate`
keeps it. The same person may change a rating; the last one counts. A correction holds the whole turn as it
should have been, next to the one that was: a preference pair.
"""

from __future__ import annotations

import getpass
import json
import math
import os
import re
from collections.abc import Sequence
from typing import Protocol

from ...errors import UsageError
from ...llm.message import CallSpec, ToolCall, why_invalid
from ...memory.experience import GOOD
from ...tools.handles import text_form
from ..record.events import Correction, Event, ModelTurn, Rating, RunStarted
from ..record.result import resolved_answer
from ..record.rewards import last_ratings, last_span, source_of
from ..record.store import RunStore
from .calls import text_opening
from .memory import Memory, NoMemory, RunMemory

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


class Recorded(Protocol):
    """A run that this process holds: its events so far, and how one more is committed."""

    @property
    def events(self) -> Sequence[Event]:
        """All events, oldest first; the first is ``run.started``."""
        ...

    def append(self, event: Rating) -> Rating:
        """Commit an event."""
        ...


def rate(run: Recorded, rating: Rating, memory: RunMemory) -> str:
    """Keep ``rating`` of the run, or of a conversation's last message; return the line that says so.

    Recalled entries that the answer used are credited or debited, once for the same opinion of the same
    rater. Raises UsageError for a value outside 0 to 1, and where there is nothing to rate yet.
    """
    if not 0.0 <= rating.value <= 1.0:
        raise UsageError(f"rating {rating.value:g}: a number from 0 to 1 is wanted")
    if answered(run.events) is None:
        raise UsageError("there is no answer to rate yet")
    current = [run.events[place] for place in last_span(run.events)]
    before = last_ratings(current, source_of(rating)).get(rating.by)
    if before is None or is_good(before) != is_good(rating):
        memory.credit(run.events, is_good(rating))
    run.append(rating)
    told = f"rated {rating.value:g}" + (f" by {rating.by}" if rating.source == "judge" else "")
    if before is not None and before.value != rating.value:
        told += f"; it was {before.value:g} before, the last one counts"
    return told


def rate_run(store: RunStore, run: str, rating: Rating, memory: Memory | None) -> str:
    """:func:`rate` the run with this exact id, which no process holds."""
    with store.open(run) as journal:
        started = journal.events[0]
        folder = started.folder if isinstance(started, RunStarted) else ""
        return rate(journal, rating, RunMemory(memory or NoMemory(), folder))


def is_good(rating: Rating) -> bool:
    """Return whether the rating is of something that went well rather than badly."""
    return rating.value >= GOOD


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
    if not re.match(text_opening(), answer):
        raise UsageError("a corrected answer is a text, and no result such as $2")
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
