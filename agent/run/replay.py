"""Replay: decide again over a recorded run, with the recorded results as answers.

A run replays when each recorded event is what ``decide`` asks for at that point: that is what makes
resume safe, and a change of the loop, the masks or a tool's narrowing shows here as the first
difference. Nothing is carried out and nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ... import prompts
from ...tools.base import Tool
from ..record.events import (
    ConversationFolded,
    Event,
    MemoryRecalled,
    MemoryWritten,
    ModelTurn,
    PersonAsked,
    RunEnded,
    RunStarted,
    ToolIntent,
    ToolOutcome,
    ToolsShown,
)
from ..record.record import Record
from .loop import Act, Ask, Compact, FindTools, Recall, Remember, Request, Stop, Think, decide


@dataclass(frozen=True)
class Difference:
    """Where a replay departs from the record. ``seq`` counts events from 0."""

    seq: int
    recorded: str
    replayed: str

    def __str__(self) -> str:
        return f"event {self.seq}: recorded {self.recorded}; now {self.replayed}"


@dataclass
class Replay:
    """What a replay found."""

    events: int
    compared: int = 0
    """Events that ``decide`` had to agree with."""
    difference: Difference | None = None
    """The first event that ``decide`` does not ask for; what follows it was not compared."""
    notes: list[str] = field(default_factory=list)
    """What changed since the run, and may explain differences."""

    @property
    def same(self) -> bool:
        """Whether the run replays."""
        return self.difference is None


def replay(events: Sequence[Event], tools: Mapping[str, Tool]) -> Replay:
    """Replay the run that ``events`` record. ``tools`` are the run's tools by name, in its order."""
    started = Record(events).started
    known = {spec.name: tools[spec.name] for spec in started.tools if spec.name in tools}
    found = Replay(len(events), notes=_notes(started, known))
    known |= {name: tools[name] for name in Record(events).specs if name in tools}
    for seq in range(1, len(events)):
        event, before = events[seq], events[:seq]
        if not _is_decided(event, before):
            continue
        request = decide(before, known)
        found.compared += 1
        if not _agrees(event, request):
            found.difference = Difference(seq, _shown(event), _shown(request))
            break
    return found


def _notes(started: RunStarted, known: Mapping[str, Tool]) -> list[str]:
    notes = []
    lines = [prompts.ToolLine(name, tool.parameters, tool.description) for name, tool in known.items()]
    if len(lines) == len(started.tools) and started.prompt_hash != prompts.texts_hash(
        lines, started.prompting
    ):
        notes.append("the prompts have changed since this run")
    for spec in started.tools:
        if spec.name not in known:
            notes.append(f"the tool {spec.name} is not registered here")
        elif dict(known[spec.name].parameters) != spec.parameters:
            notes.append(f"the parameters of {spec.name} have changed since this run")
    return notes


def _is_decided(event: Event, before: Sequence[Event]) -> bool:
    """Whether ``event`` is what a driver appends on a request (not a person's or a check's)."""
    if isinstance(event, ToolOutcome):  # with an intent, the intent was what decide asked for
        return not any(isinstance(old, ToolIntent) and old.call_id == event.call_id for old in before)
    if isinstance(event, MemoryWritten):  # what the run leaves behind at its end, nobody asked for
        return event.by == "model"
    asked_for = ModelTurn | ToolIntent | ToolsShown | MemoryRecalled | ConversationFolded
    return isinstance(event, asked_for | PersonAsked | RunEnded)


def _agrees(event: Event, request: Request) -> bool:
    match event, request:
        case ToolOutcome(), Act():  # of a call that never ran
            return (event.call_id, event.tool) == (request.call_id, request.tool)
        case PersonAsked(kind="approval"), Act():
            return event.call_id == request.call_id
        case RunEnded(status="needs_person"), Ask():
            return True
        case RunEnded(), Stop() if event.status in _ENDS.get(request.status, ()):
            return True
        case RunEnded(status="achieved" | "answered"), _:
            return event.cause == "the conversation ended"
    return _shown(event) == _shown(request)


_ENDS = {
    "finished": ("achieved", "answered", "not_met"),
    "idle": ("achieved", "answered", "not_met"),
    "limit": ("limit",),
    "failed": ("not_met",),
}
"""How a run may end that the loop stopped, by the loop's word for it."""


def _shown(what: Event | Request) -> str:
    """Return an event, or the request that brings it about, as a person reads it; both read alike."""
    match what:
        case ModelTurn():
            return f"a model turn with {', '.join(what.allowed)} allowed"
        case Think():
            return f"a model turn with {', '.join(spec.name for spec in what.calls)} allowed"
        case ToolIntent() | Act():
            return f"the {what.by}'s call {what.tool} {what.arguments} ({what.call_id})"
        case ToolOutcome():
            return f"an outcome of {what.tool} ({what.call_id})"
        case MemoryRecalled() | Recall():
            return f"the {what.by}'s recall of {what.query!r}"
        case ToolsShown() | FindTools():
            return f"the {what.by}'s search for tools on {what.query!r}"
        case ConversationFolded() | Compact():
            return f"a compaction up to event {what.upto}"
        case MemoryWritten() | Remember():
            return f"the memory of {what.text!r}"
        case PersonAsked() | Ask():
            return f"the {what.kind} {what.text!r}"
        case RunEnded() | Stop():
            return f"the end: {what.status} ({what.cause})"
    return type(what).__name__
