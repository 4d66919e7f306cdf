"""Compacting a long conversation: its oldest exchanges go from the prompt into memory, by an exact ledger.

A conversation that would outgrow its budget is compacted before the next message is answered. Each compacted
exchange (a message, the work, the answer) becomes an entry of memory that a recall can bring back, and the
ledger, one event, says which events were compacted, how many tokens of the prompt they had, and under which
entry they can be found, or why there is none. The journal keeps every event, so nothing is lost, and as
the loop asks for a compaction from the events alone, replay stays pure.

Counts are exact for models that own their tokens: a turn records the length of its prompt. Other models
record none and are never compacted; nor is a single exchange that is too long by itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from ...labels import Label, merge
from ...memory.entry import Draft, Kind
from ...text import clip
from ..record.events import (
    ConversationFolded,
    Event,
    FoldedExchange,
    MemoryRecalled,
    MemoryWritten,
    ModelTurn,
    PersonSaid,
    RunStarted,
    ToolOutcome,
)
from ..record.state import CORE_CALLS, State
from .memory import RunMemory

SAID, ANSWERED = 240, 400
"""Characters of a message and of an answer that the memory keeps; the journal has them whole."""


def compact(
    upto: int, events: Sequence[Event], memory: RunMemory
) -> Iterator[MemoryWritten | ConversationFolded]:
    """Yield the events that compact all before event ``upto``: what the memory keeps, then the ledger."""
    state = State.of(events)
    starts = [start for start in state.messages if start < upto]
    rows = []
    for start, end in zip(starts, [*starts[1:], upto], strict=True):
        kept = memory.write(_draft(state.started, events, start, end, memory.folder), by_driver=True)
        yield kept
        rows.append(
            FoldedExchange(
                first=start,
                last=end - 1,
                tokens=state.messages[end] - state.messages[start],
                entry=kept.entry,
                reason=kept.reason,
            )
        )
    yield ConversationFolded(
        at=time.time(),
        upto=upto,
        exchanges=rows,
        tokens=sum(row.tokens for row in rows),
        left=state.context - sum(row.tokens for row in rows),
    )


def _draft(started: RunStarted, events: Sequence[Event], start: int, end: int, namespace: str) -> Draft:
    """Return what the memory is asked to keep of the exchange ``events[start:end]``."""
    part = events[start:end]
    said = next(event.text for event in part if isinstance(event, PersonSaid))
    turns = [event.call for event in part if isinstance(event, ModelTurn) and event.call]
    answers = [call["arguments"]["answer"] for call in turns if call["name"] == "finish"]
    tools = [call["name"] for call in turns if call["name"] not in CORE_CALLS]
    outcomes = [event for event in part if isinstance(event, ToolOutcome)]
    values = {event.handle: event.preview for event in outcomes if event.handle}
    answer = str(values.get(answers[-1], answers[-1])) if answers else "none"
    done = f" ({', '.join(dict.fromkeys(tools))})" if tools else ""
    text = f"You asked: {clip(said, SAID)} Answer{done}: {clip(answer, ANSWERED)}"
    seen = [event for event in part if isinstance(event, MemoryRecalled)]
    recalled = tuple(entry.id for event in seen for entry in event.entries)
    label = merge([Label.TRUSTED, *(one.label for one in outcomes), *(one.label for one in seen)])
    return Draft(Kind.EPISODE, text, namespace, label, started.run, start, recalled=recalled)
