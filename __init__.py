"""AutoGPT: an autonomous agent that owns its model.

>>> from autogpt import AutoGPT, Goal, tool
>>> AutoGPT().run("Which supplier had the most late deliveries?", inputs=["deliveries.csv"]).answer

Names load on first use, so that ``import autogpt`` costs nothing and touches nothing.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from .agent.api import AutoGPT
    from .agent.api import langchain as langchain
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
    if name == "langchain":
        return importlib.import_module(".langchain", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module 'autogpt' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


class _LangChain:
    """Finds ``autogpt.langchain``, which is ``agent/api/langchain.py``.

    A ``langchain.py`` beside this file would hide LangChain itself from whoever has this folder on
    ``sys.path``, as ``python -m pytest`` in a clone does.
    """

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return the module's spec, None for any other name."""
        return ModuleSpec(name, cast(Any, cls())) if name == f"{__name__}.langchain" else None

    def create_module(self, spec: ModuleSpec) -> Any:
        """Return the module under its own name, so that there is one of it."""
        return importlib.import_module(".agent.api.langchain", __name__)

    def exec_module(self, module: object) -> None:
        """Nothing is left to do."""


sys.meta_path.append(_LangChain)
