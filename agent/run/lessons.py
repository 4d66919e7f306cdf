"""What a run leaves behind when it ends: an episode, and lessons from what failed.

An episode says what was wanted, what was done and how it came out. A lesson is written where a check
failed (what was wrong with what was done), where the same goal then was achieved after such a lesson had
been recalled (what worked), and where a call failed and a later one with the same tool did what it
should. All are drawn from the events alone and carry the event that is their source; the write gate
decides what is kept. A run that used no tool leaves nothing: there is nothing to learn from it.

Limits: one line each, long values cut; what made the difference between a failed and a good call is not
judged, only shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...labels import Label, merge
from ...memory.entry import Draft, Kind
from ...text import clip
from ..record.events import (
    CheckResult,
    Event,
    MemoryRecalled,
    ModelTurn,
    RunStarted,
    ToolIntent,
    ToolOutcome,
)
from ..record.state import CORE_CALLS, State

MAX_LESSONS = 3
"""Lessons of one run, so that a bad one cannot fill the memory."""
_GOAL, _CALL, _ERROR = 160, 120, 120
"""Characters that are kept of a goal, a call and an error."""


def leftovers(events: Sequence[Event], status: str, answer: Any, namespace: str) -> list[Draft]:
    """Return what the run that ends with ``status`` asks to be remembered, in ``namespace``."""
    started = events[0]
    assert isinstance(started, RunStarted)
    done = [event for event in events if isinstance(event, ToolOutcome) and event.by == "model"]
    if not done or started.mode == "chat":
        return []
    label = merge([*(event.label for event in done), Label.STRUCTURED])
    recalled = tuple(State.of(events).shown)

    def draft(kind: Kind, text: str, event: int) -> Draft:
        return Draft(kind, text, namespace, label, started.run, event, recalled=recalled)

    lessons = [*_of_checks(events, status), *_of_calls(events)][:MAX_LESSONS]
    episode = draft(Kind.EPISODE, _episode(events, status, answer), len(events) - 1)
    return [*(draft(Kind.LESSON, text, event) for event, text in lessons), episode]


def helped(events: Sequence[Event]) -> tuple[list[int], list[int]]:
    """Return the ids of recalled entries that the run used, and of those that it only saw.

    One was used when a word or number of it that the goal (or the last message) lacks occurs in a call
    that the model made since.
    """
    state = State.of(events)
    said = _tokens(state.said)
    begun = max(state.messages, default=0)
    calls = [event.call for event in events[begun:] if isinstance(event, ModelTurn) and event.call]
    made = _tokens(" ".join(_values(call["arguments"]) for call in calls)) - said
    used = [id for id, entry in state.shown.items() if (_tokens(entry.text) - said) & made]
    return used, [id for id in state.shown if id not in used]


def _episode(events: Sequence[Event], status: str, answer: Any) -> str:
    words = {"achieved": "achieved", "not_met": "not met", "limit": "a limit was reached"}
    text = f"{_goal(events)}: {_calls(events)}: {words.get(status, status)}"
    if answer is not None and status == "achieved":
        shown = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False, default=str)
        text += f", {clip(shown, _CALL)}"
    return text


def _of_checks(events: Sequence[Event], status: str) -> list[tuple[int, str]]:
    """Return a lesson of the first failed check, or of what worked where a check had failed before."""
    goal, calls = _goal(events), _calls(events)
    for number, event in enumerate(events):
        if isinstance(event, CheckResult) and not event.passed:
            # its detail names what was wanted: a model that recalled it would be judged by its memory
            return [(number, f"{goal}: {calls} did not do: a check of the {event.kind} failed")]
    for number, event in enumerate(events):
        if status == "achieved" and isinstance(event, MemoryRecalled):
            lessons = [entry.text for entry in event.entries if entry.kind == Kind.LESSON]
            if any(goal in text and "did not do" in text for text in lessons):
                return [(number, f"{goal}: {calls} worked")]
    return []


def _of_calls(events: Sequence[Event]) -> list[tuple[int, str]]:
    """Return a lesson for each failed call that was followed by a good one of the same tool."""
    intents = {event.call_id: event for event in events if isinstance(event, ToolIntent)}
    failed: dict[str, tuple[int, ToolOutcome]] = {}
    lessons = []
    for number, event in enumerate(events):
        if not isinstance(event, ToolOutcome) or event.by != "model":
            continue
        if event.state == "failed":
            failed[event.tool] = (number, event)
        elif event.state == "done" and event.tool in failed:
            place, bad = failed.pop(event.tool)
            if bad.call_id in intents and event.call_id in intents:
                wrong, right = (_shown(intents[one.call_id]) for one in (bad, event))
                error = clip(bad.preview.removeprefix("error: "), _ERROR)
                lessons.append((place, f"{wrong} failed ({error}); {right} worked"))
    return lessons


def _goal(events: Sequence[Event]) -> str:
    return f'"{clip(State.of(events).said, _GOAL)}"'


def _calls(events: Sequence[Event]) -> str:
    """Return the calls that were made, with the arguments of the last."""
    turns = [event.call for event in events if isinstance(event, ModelTurn) and event.call]
    made = [call for call in turns if call["name"] not in CORE_CALLS]
    names = [call["name"] for call in made[:-1]]
    last = made[-1]
    return ", ".join([*names, f"{last['name']} {clip(_values(last['arguments']), _CALL)}"])


def _shown(intent: ToolIntent) -> str:
    return f"{intent.tool} {clip(_values(intent.arguments), _CALL)}"


def _values(arguments: Mapping[str, Any]) -> str:
    texts = (v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in arguments.values())
    return " ".join(texts)



def _tokens(text: str) -> set[str]:
    """Return the words of a text that say something."""
    from ...memory.tables import STOP_WORDS

    return set(re.findall(r"\w+", text.casefold())) - STOP_WORDS
