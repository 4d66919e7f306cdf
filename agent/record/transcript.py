"""From events to the conversation that the model reads.

The first user message holds the goal, what was recalled and what was inspected beforehand; then turns
and results alternate. Where a conversation was compacted it begins with the first message that was kept, and
what was inspected before is shown there again. Append-only: the messages of n events are a prefix of those
of n+1 (once the first turn has been taken, and between two compactions), so a kept KV cache always fits. A
message that the model could not take is left out, with all that came of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from ... import prompts
from ...llm.message import Message
from ...text import Prompting
from ...tools.tables.describe import FIRST_ROW
from .events import (
    ConversationFolded,
    Event,
    MemoryRecalled,
    MemoryWritten,
    ModelTurn,
    PersonAnswered,
    PersonSaid,
    ToolIntent,
    ToolOutcome,
    ToolSpec,
    ToolsShown,
)
from .record import Record
from .state import left_out

DATED = 3
"""The first rules (``RunStarted.rules``) whose teaching prompt says what day it is, by the run's start."""


def messages(events: Sequence[Event]) -> tuple[Message, ...]:
    """Return the conversation of a run so far."""
    started = Record(events).started
    own = [_line(spec) for spec in started.tools if spec.source != "built-in"]  # and those that fit a message
    shared = [_line(spec) for spec in started.tools if spec.source == "built-in"]
    kind = started.prompting
    more = [prompts.more_tools(started.hidden_tools)] if started.hidden_tools else []
    conversation = [_system(shared, started.memory, kind)]
    opening: str | None = None if started.mode == "chat" else str(started.goal.get("goal", ""))
    first = True
    seen: list[prompts.Observation] = []
    remembered: list[prompts.MemoryLine] = []
    calls: dict[str, str] = {}

    def flush() -> None:
        nonlocal opening, first
        if opening is None:
            return
        tools = [*own, *more] if first else own
        as_message = prompts.goal if first else prompts.said
        text = as_message(opening, tools, seen, remembered, kind)
        if first and kind == "teaching" and started.rules >= DATED:
            text = f"Today is {datetime.fromtimestamp(started.at):%A, %Y-%m-%d}.\n{text}"
        conversation.append(Message("user", text, parts=_parts(tools, kind, remembered)))
        opening, first = None, False
        for shown in (own, seen, remembered):
            shown.clear()

    begin = max((event.upto for event in events if isinstance(event, ConversationFolded)), default=1)
    gone = left_out(events)
    for number, event in enumerate(events[1:], start=1):
        if number in gone or (number < begin and not isinstance(event, ToolIntent | ToolOutcome)):
            continue
        match event:
            case PersonSaid():
                flush()
                opening = event.text
            case ToolIntent():
                short = " ".join(str(value) for value in event.arguments.values())
                calls[event.call_id] = f"{event.tool} {short}".strip()
            case ToolOutcome(by="driver"):
                call = calls.get(event.call_id, event.tool)
                seen.append(prompts.Observation(event.handle, call, _preview(event, kind)))
            case ModelTurn():
                flush()
                conversation.append(Message("assistant", event.text, tuple(event.ids) or None))
                if event.call is None:
                    conversation.append(Message("tool", f"invalid call: {event.invalid}"))
            case ToolsShown(by="driver"):
                own.extend(map(_line, event.tools))
            case MemoryRecalled(by="driver"):
                remembered.extend(_lines(event))
            case _ if number >= begin and (answer := _answer(event, kind)):
                conversation.append(answer)
    flush()
    return tuple(conversation)


def _system(shared: Sequence[prompts.ToolLine], memory: bool, kind: Prompting) -> Message:
    return Message("system", prompts.system(shared, memory, kind), parts=_parts(shared, kind))


def _answer(event: Event, kind: Prompting) -> Message | None:
    """Return what the model reads in answer to its call; None for an event that is no such answer."""
    match event:
        case ToolOutcome():
            result = prompts.Observation(event.handle, event.tool, _preview(event, kind))
            return Message("tool", prompts.observation(result))
        case ToolsShown():
            lines = [_line(spec) for spec in event.tools]
            return Message("tool", prompts.found(lines, kind), parts=_parts(lines, kind))
        case MemoryRecalled():
            text = prompts.recalled(_lines(event))
            return Message("tool", text, parts=(("memory", text),))
        case MemoryWritten(by="model"):
            return Message("tool", _kept(event))
        case PersonAnswered(decision=None):
            return Message("tool", event.text)
    return None


def _preview(outcome: ToolOutcome, kind: Prompting) -> str:
    """Return what the model reads of a result: one that names tools was trained without first rows."""
    if kind != "names" or outcome.tool != "tables.describe":
        return outcome.preview
    return "\n".join(line for line in outcome.preview.split("\n") if not line.startswith(FIRST_ROW))


def _parts(
    tools: Sequence[prompts.ToolLine],
    kind: Prompting,
    remembered: Sequence[prompts.MemoryLine] = (),
) -> tuple[tuple[Literal["tools", "memory"], str], ...]:
    """Name the tools' and the memory's text inside a message, for the token ledger."""
    found: list[tuple[Literal["tools", "memory"], str]] = []
    if tools:
        found.append(("tools", "\n".join(tool.shown(prompts.FORMS[kind]).text for tool in tools)))
    if remembered:
        found.append(("memory", prompts.recalled(remembered)))
    return tuple(found)


def _lines(event: MemoryRecalled) -> list[prompts.MemoryLine]:
    return [prompts.MemoryLine(entry.id, entry.text) for entry in event.entries]


def _kept(event: MemoryWritten) -> str:
    """Return what the model reads after ``remember``."""
    if event.verdict == "refused":
        return f"not kept: {event.reason}"
    return f"kept as [{event.entry}]"


def _line(spec: ToolSpec) -> prompts.ToolLine:
    return prompts.ToolLine(spec.name, spec.parameters, spec.description)
