"""AutoGPT: an autonomous agent that owns its model.

>>> from autogpt import AutoGPT, Goal, tool
>>> AutoGPT().run("Which supplier had the most late deliveries?", inputs=["deliveries.csv"]).answer

Names load on first use, so that ``import autogpt`` costs nothing and touches nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .agent.api import AutoGPT
    from .agent.goals.load import Goal
    from .errors import AutoGPTError, ToolError, UserError
    from .llm.models.scripted import ScriptedModel
    from .tools.registry import tool

__version__ = "0.1.0"
__all__ = ["AutoGPT", "Goal", "tool", "ScriptedModel", "AutoGPTError", "ToolError", "UserError"]

_HOMES = {
    "AutoGPT": "agent.api",
    "Goal": "agent.goals.model",
    "tool": "tools.registry",
    "ScriptedModel": "llm.models.scripted",
    "AutoGPTError": "errors",
    "ToolError": "errors",
    "UserError": "errors",
}


def __getattr__(name: str) -> Any:
    """Import the module that holds ``name`` and return it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'autogpt' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
