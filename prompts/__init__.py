"""Every text that a model reads from us, as short Jinja templates with typed parameters.

Templates are strict: a missing or unknown variable is an error. ``prompt_hash`` covers all of
them; it is kept in model cards and in ``run.started``, because a changed prompt asks for a new
evaluation. The system text and the core calls stay under 300 tokens (tested); what a run adds
comes after them, so that the first part is computed once for all goals.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import DefectError
from ..text import Prompting as Prompting
from .tool_lines import Form, Shown
from .tool_lines import ToolLine as ToolLine

_FOLDER = Path(__file__).parent
FORMS: Mapping[Prompting, Form] = {"names": "names", "typed": "typed", "teaching": "typed"}
"""The form in which each kind of prompt shows tools."""
_SYSTEM = {"names": "system.jinja", "typed": "system.jinja", "teaching": "teaching.jinja"}


@dataclass(frozen=True)
class Observation:
    """A result shown to the model: its handle (if it has one), what was called, the preview."""

    handle: str | None
    call: str
    text: str


@dataclass(frozen=True)
class MemoryLine:
    """A recalled entry as the prompt shows it: its id, by which an answer can cite it, and its text."""

    id: int
    text: str


@lru_cache(maxsize=1)
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(_FOLDER),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )


def _render(name: str, **values: Any) -> str:
    """Fill a template; a variable that it lacks or does not know is a DefectError."""
    wanted = _variables(name)
    if wanted != values.keys():
        odd = ", ".join(sorted(wanted ^ values.keys()))
        raise DefectError(f"prompts/{name}: these variables are missing or not known to it: {odd}")
    text: str = _environment().get_template(name).render(**values)
    return text.strip()


@lru_cache
def _variables(name: str) -> frozenset[str]:
    from jinja2 import meta

    environment = _environment()
    source, _, _ = environment.loader.get_source(environment, name)
    return frozenset(meta.find_undeclared_variables(environment.parse(source)))


def system(tools: Sequence[ToolLine], memory: bool = False, prompting: Prompting = "names") -> str:
    """Return the system message: who the agent is, the core calls, the built-in tools.

    The calls of ``memory`` stand last, so that runs with and without one share what comes before.
    """
    return _render(_SYSTEM[prompting], tools=_shown(tools, prompting), memory=memory)


def goal(
    text: str,
    tools: Sequence[ToolLine],
    observations: Sequence[Observation],
    remembered: Sequence[MemoryLine] = (),
    prompting: Prompting = "names",
) -> str:
    """Return the first user message: the goal, its own tools, what was recalled and inspected."""
    seen = recalled(remembered) if remembered else ""
    shown = _shown(tools, prompting)
    return _render("goal.jinja", goal=text, tools=shown, observations=observations, recalled=seen)


def _shown(tools: Sequence[ToolLine], prompting: Prompting) -> list[Shown]:
    return [tool.shown(FORMS[prompting]) for tool in tools]


def said(
    text: str,
    tools: Sequence[ToolLine],
    observations: Sequence[Observation],
    remembered: Sequence[MemoryLine] = (),
    prompting: Prompting = "names",
) -> str:
    """Return a later user message of a conversation: further tools, what was recalled, newly added inputs."""
    seen = recalled(remembered) if remembered else ""
    message = _render("said.jinja", text=text, observations=observations, recalled=seen)
    return "\n".join([*(tool.text for tool in _shown(tools, prompting)), message])


def more_tools(count: int) -> ToolLine:
    """Return the line of the core's ``find_tools``, where ``count`` tools are not shown."""
    schema = {"properties": {"query": {"type": "string"}}, "required": ["query"]}
    about = f"{count} more tools are not shown; look for one that can do what these cannot"
    return ToolLine("find_tools", schema, about)


def found(tools: Sequence[ToolLine], prompting: Prompting = "names") -> str:
    """Return what ``find_tools`` has found, as the model sees it."""
    if not tools:
        return "Tools: no other"
    return "\n".join(["Tools that can be planned now:", *(tool.text for tool in _shown(tools, prompting))])


def recalled(entries: Sequence[MemoryLine]) -> str:
    """Return recalled entries as the model sees them."""
    return _render("recalled.jinja", entries=entries) if entries else "Memory: nothing"


def observation(result: Observation) -> str:
    """Return a tool result as the model sees it."""
    return _render("observation.jinja", result=result)


@lru_cache
def prompt_hash(prompting: Prompting = "names") -> str:
    """Return one hash over the templates that models of this kind read."""
    others = set(_SYSTEM.values()) - {_SYSTEM[prompting]}
    digest = hashlib.sha256()
    for path in sorted(_FOLDER.glob("*.jinja")):
        if path.name not in others:
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def texts_hash(tools: Iterable[ToolLine], prompting: Prompting = "names") -> str:
    """Return one hash over all that a run's model reads from us: the templates and its tools' lines."""
    digest = hashlib.sha256(prompt_hash(prompting).encode())
    for tool in tools:
        shown = tool.shown(FORMS[prompting])
        digest.update(f"{shown.signature}\0{shown.description}\0".encode())
    return digest.hexdigest()[:16]
