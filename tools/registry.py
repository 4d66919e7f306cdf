"""Which tools there are: built-ins, plugins, and what calling code passes in, under unique names.

A plugin is an installed package with an entry point in the group ``autogpt.tools``; the entry point
names a Tool, a Tool class, a function under ``@tool``, or a callable without arguments that returns
a list of such things. A plugin that fails is a warning that names its package, never the end of a
run. Order is kept (built-ins first), because prompts show tools in it. Plugins run in this process
for now, so installing one is trusting it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points

from ..errors import AutoGPTError, UsageError
from ..schemas import GrammarError, check_schema
from .base import Tool
from .functions import FunctionTool, as_tool, tool

__all__ = ["GROUP", "RESERVED", "Registry", "builtins", "load_plugins", "tool"]

GROUP = "autogpt.tools"
RESERVED = frozenset({"plan", "finish", "ask", "remember", "recall", "find_tools"})
"""Calls of the loop itself; a tool may not take their names."""
BUILT_IN = "built-in"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")


class Registry:
    """Tools by name, in the order of registration, each with its source."""

    def __init__(self) -> None:
        self._tools: dict[str, Tool] = {}
        self._sources: dict[str, str] = {}

    def register(self, thing: object, source: str = "caller") -> Tool:
        """Add a tool (or what :func:`as_tool` makes one of) and return it.

        ``source`` is ``built-in``, ``plugin PACKAGE`` or ``caller``. A name that is taken, reserved
        or malformed is a ``UsageError``, and so is a schema that no grammar can follow.
        """
        made = as_tool(thing)
        name = made.name
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} cannot name a tool: use letters, digits, _ . - (at most 64)")
        if name in RESERVED:
            raise UsageError(f"a tool cannot be called {name}: that is one of the agent's own calls")
        if name in self._tools:
            raise UsageError(f"there are two tools called {name} ({self._sources[name]} and {source})")
        try:
            check_schema(made.parameters)
        except GrammarError as error:
            raise UsageError(f"tool {name}: {error}") from error
        self._tools[name] = made
        self._sources[name] = source
        return made

    def lookup(self, name: str) -> Tool:
        """Return the tool called ``name``; ``UsageError`` with the nearest names if there is none."""
        if name not in self._tools:
            raise UsageError(f"unknown tool {name}; {self._hint(name)}")
        return self._tools[name]

    def source(self, name: str) -> str:
        """Return where a tool came from."""
        self.lookup(name)
        return self._sources[name]

    def select(self, names: Iterable[str] | None = None) -> dict[str, Tool]:
        """Return the tools for names and families (``tables`` is every ``tables.*``); None is all.

        The order is the registry's, whatever the order of ``names``.
        """
        if names is None:
            return dict(self._tools)
        wanted: set[str] = set()
        for name in names:
            found = [known for known in self._tools if known == name or known.startswith(name + ".")]
            if not found:
                raise UsageError(f"unknown tool {name}; {self._hint(name)}")
            wanted.update(found)
        return {name: found for name, found in self._tools.items() if name in wanted}

    def families(self) -> list[str]:
        """Return the names before the dot, in order."""
        return list(dict.fromkeys(name.split(".")[0] for name in self._tools if "." in name))

    def _hint(self, name: str) -> str:
        known = [*self._tools, *self.families()]
        near = difflib.get_close_matches(name, known, 3, 0.5)
        return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(self._tools)}"

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())


def builtins() -> Registry:
    """Return a new registry with the built-in tools."""
    from . import files
    from .calculator import calculator
    from .tables import tools as tables

    registry = Registry()
    for made in [*tables.tools(), *files.tools(), *calculator.tools()]:
        registry.register(made, BUILT_IN)
    return registry


def load_plugins(registry: Registry, found: Sequence[EntryPoint] | None = None) -> list[str]:
    """Register the tools of installed plugins; return one warning for each that failed.

    ``found`` replaces the search for entry points.
    """
    warnings = []
    for point in entry_points(group=GROUP) if found is None else found:
        package = point.dist.name if point.dist is not None else point.value.split(":")[0]
        try:
            for made in _tools_of(point.load()):
                registry.register(made, f"plugin {package}")
        except Exception as error:  # a stranger's code may fail in any way; the others must load
            reason = str(error) if isinstance(error, AutoGPTError) else f"{type(error).__name__}: {error}"
            warnings.append(f"plugin {package} ({point.name}) was left out: {reason}")
    return warnings


def _tools_of(thing: object) -> list[object]:
    """Return what an entry point offers; a plain function is a factory, not a tool."""
    if isinstance(thing, Tool) or (isinstance(thing, type) and issubclass(thing, Tool)):
        return [thing]
    if callable(thing) and not isinstance(thing, FunctionTool):
        thing = thing()
    return list(thing) if isinstance(thing, list | tuple) else [thing]
