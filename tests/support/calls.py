"""The calls that scripted models make most, and how to read what a run recorded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from autogpt.agent.record.events import Event
from autogpt.llm.message import CallSpec, Message, ToolCall

AnEvent = TypeVar("AnEvent", bound=Event)


def plan(*tools: str) -> ToolCall:
    """Plan one step a tool."""
    return ToolCall("plan", {"steps": [{"tool": name, "for": "it"} for name in tools]})


def finish(answer: object = "done") -> ToolCall:
    """End with ``answer``."""
    return ToolCall("finish", {"answer": answer})


def write(path: str, content: str = "x") -> ToolCall:
    """Write a file."""
    return ToolCall("files.write", {"path": path, "content": content})


def of(kind: type[AnEvent], events: Iterable[Event]) -> list[AnEvent]:
    """Return the events of one type."""
    return [event for event in events if isinstance(event, kind)]


CALLS = (
    CallSpec(
        "files.read",
        {"type": "object", "properties": {"path": {"enum": ["a.txt", "b.txt"]}}, "required": ["path"]},
    ),
    CallSpec(
        "finish",
        {
            "type": "object",
            "properties": {"answer": {"type": "string", "maxLength": 12}},
            "required": ["answer"],
        },
    ),
)
"""What a model under test may answer :data:`GO` with."""
GO = (Message("system", "Answer with one call."), Message("user", "Read a.txt"))
