"""Which tools a run has: what the goal names (all built-ins by default), plus its stubs.

The order is fixed: built-ins first, in registry order, then a goal's own tools, so that the first
part of the prompt is the same for all goals.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...tools.base import Tool
from ...tools.registry import Registry
from ...tools.stubs import StubTool
from ..goals.load import Goal


def goal_tools(goal: Goal, registry: Registry) -> tuple[dict[str, Tool], Mapping[str, str]]:
    """Return the goal's tools by name, and the source of each that is not built in.

    Raises UsageError for a tool that is not registered, with the nearest right names.
    """
    selected = registry.select(goal.tools)
    sources = {name: source for name in selected if (source := registry.source(name)) != "built-in"}
    builtin = {name: tool for name, tool in selected.items() if name not in sources}
    own = {name: tool for name, tool in selected.items() if name in sources}
    for stub in goal.stubs:
        own[stub.name] = StubTool(stub.name, stub.description, stub.parameters, stub.returns)
        sources[stub.name] = "stub"
    return builtin | own, sources
