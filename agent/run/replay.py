"""The replay driver: decide again over a recorded run, with the recorded results as answers.

A run replays when each recorded event is what ``decide`` asks for at that point: that is what makes
resume safe, and a change of the loop, the masks or a tool's narrowing shows here as the first
difference. With a model the model is asked again as well, and its calls are compared; nothing is
carried out and nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ... import prompts
from ...llm.message import Model, Sampling
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
)
from .loop import (
    Act,
    Ask,
    Fold,
    Recall,
    Remember,
    Request,
    Stop,
    Think,
    decide,
)


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
    asked: int = 0
    """Model turns asked again (with a model)."""
    turns: list[Difference] = field(default_factory=list)
    """Model turns whose call differs now (with a model)."""
    notes: list[str] = field(default_factory=list)
    """What changed since the run, and may explain differences."""

    @property
    def same(self) -> bool:
        """Whether the run replays."""
        return self.difference is None and not self.turns


def replay(
    events: Sequence[Event],
    tools: Mapping[str, Tool],
    model: Model | None = None,
    sampling: Sampling | None = None,
) -> Replay:
    """Replay the run that ``events`` record. ``tools`` are the run's tools by name, in its order."""
    started = events[0]
    if not isinstance(started, RunStarted):
        raise ValueError("a run begins with run.started")
    found = Replay(len(events), notes=_notes(started, tools, model))
    known = {spec.name: tools[spec.name] for spec in started.tools if spec.name in tools}
    session = f"replay-{started.run}"
    for seq in range(1, len(events)):
        event, before = events[seq], events[:seq]
        if not _is_decided(event, before):
            continue
        request = decide(before, known)
        found.compared += 1
        if not _agrees(event, request):
            found.difference = Difference(seq, _shown(event), _shown(request))
            break
        if model is not None and isinstance(event, ModelTurn) and isinstance(request, Think):
            found.asked += 1
            turn = model.respond([request.prompt(session, sampling or Sampling(seed=started.seed))])[0]
            now = (
                None
                if turn.call is None
                else {"name": turn.call.name, "arguments": dict(turn.call.arguments)}
            )
            if now != event.call:
                found.turns.append(Difference(seq, event.text[:300], turn.text[:300]))
    if model is not None:
        model.close_session(session)
    return found


def _notes(started: RunStarted, tools: Mapping[str, Tool], model: Model | None) -> list[str]:
    notes = []
    known = [(spec.name, tools[spec.name]) for spec in started.tools if spec.name in tools]
    lines = [prompts.ToolLine(name, tool.parameters, tool.description) for name, tool in known]
    if len(lines) == len(started.tools) and started.prompt_hash != prompts.texts_hash(lines):
        notes.append("the prompts have changed since this run")
    for spec in started.tools:
        if spec.name not in tools:
            notes.append(f"the tool {spec.name} is not registered here")
        elif dict(tools[spec.name].parameters) != spec.parameters:
            notes.append(f"the parameters of {spec.name} have changed since this run")
    if model is not None and model.fingerprint != started.model_hash:
        notes.append(f"the run was made by other weights: {started.model}")
    return notes


def _is_decided(event: Event, before: Sequence[Event]) -> bool:
    """Whether ``event`` is what a driver appends on a request (not a person's or a check's)."""
    if isinstance(event, ToolOutcome):  # with an intent, the intent was what decide asked for
        return not any(isinstance(old, ToolIntent) and old.call_id == event.call_id for old in before)
    if isinstance(event, MemoryWritten):  # what the run leaves behind at its end, nobody asked for
        return event.by == "model"
    if isinstance(event, MemoryRecalled | ConversationFolded):
        return True
    return isinstance(event, ModelTurn | ToolIntent | PersonAsked | RunEnded)


def _agrees(event: Event, request: Request) -> bool:
    match event, request:
        case ModelTurn(), Think(calls=calls):
            return event.allowed == [spec.name for spec in calls]
        case ToolIntent(), Act():
            same = (event.call_id, event.tool, event.arguments) == (
                request.call_id, request.tool, request.arguments,
            )  # fmt: skip
            return same and event.by == request.by
        case ToolOutcome(), Act():
            return (event.call_id, event.tool) == (request.call_id, request.tool)
        case MemoryRecalled(), Recall():
            return (event.query, event.by) == (request.query, request.by)
        case ConversationFolded(), Fold():
            return event.upto == request.upto
        case MemoryWritten(), Remember():
            return event.text == request.text
        case PersonAsked(kind="approval"), Act():
            return event.call_id == request.call_id
        case PersonAsked(), Ask():
            return (event.kind, event.text) == (request.kind, request.text)
        case RunEnded(status="needs_person"), Ask():
            return True
        case RunEnded(status="limit"), Stop(status="limit"):
            return True
        case RunEnded(), Stop(status="finished" | "idle"):
            return event.status in ("achieved", "answered", "not_met")
        case RunEnded(status="not_met"), Stop(status="failed"):
            return True
        case RunEnded(status="achieved" | "answered"), _:
            return event.cause == "the conversation ended"
    return False


def _shown(what: Event | Request) -> str:
    match what:
        case ModelTurn():
            return f"a model turn with {', '.join(what.allowed)} allowed"
        case Think():
            return f"a model turn with {', '.join(spec.name for spec in what.calls)} allowed"
        case ToolIntent() | Act():
            return f"the call {what.tool} {what.arguments} ({what.call_id})"
        case ToolOutcome():
            return f"an outcome of {what.tool} ({what.call_id})"
        case MemoryRecalled() | Recall():
            return f"a recall of {what.query!r}"
        case ConversationFolded() | Fold():
            return f"a fold up to event {what.upto}"
        case MemoryWritten() | Remember():
            return f"the memory of {what.text!r}"
        case PersonAsked() | Ask():
            return f"the {what.kind} {what.text!r}"
        case RunEnded() | Stop():
            return f"the end: {what.status} ({what.cause})"
    return type(what).__name__
