"""Tools that exist only for one goal and always give the same value.

Suites use them to see which calls a model makes (the ``calls`` check); a goal file can use one to
hand the model a fixed answer. They change nothing, so they run again after a crash.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..labels import Label
from ..schemas import tool_schema
from .base import Tool, ToolContext, ToolResult

_PREVIEW = 600


class StubTool(Tool):
    """Value: ``returns``, whatever the arguments."""

    def __init__(self, name: str, description: str, parameters: Mapping[str, Any], returns: Any) -> None:
        self.name = name
        self.description = description
        self.parameters = tool_schema(parameters, name)
        self.returns = returns

    def run(self, args: Mapping[str, Any], ctx: ToolContext) -> ToolResult:
        """Return the fixed value."""
        return ToolResult(self.returns, shown(self.returns), label=Label.UNTRUSTED)


def shown(value: Any) -> str:
    """Return a bounded preview of any JSON value: text as it is, all else as compact JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if not text.strip():
        return "(empty)"
    return text if len(text) <= _PREVIEW else f"{text[:_PREVIEW]}... ({len(text)} chars)"
