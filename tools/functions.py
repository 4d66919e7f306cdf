"""Tools from ordinary code: ``@tool`` on a typed, documented function, and any LangChain tool.

    @tool
    def postage(grams: int, express: bool = False) -> float:
        \"\"\"Price of a letter in euros.\"\"\"

The schema comes from the type hints (through pydantic), the description from the docstring's first
line, and what arguments mean from its ``Args:`` section or ``Annotated[..., "text"]``. Such a tool
is its program's own: it runs in that process, what it returns is labelled untrusted, and by default
it is *opaque*: after a crash it is never repeated, but reported as uncertain. Say
``replay="pure"`` for a function that only computes. The default effect, ``read``, needs no grant.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import to_jsonable_python

from ..errors import ToolError, UsageError
from ..labels import Label
from ..schemas import tool_schema
from .base import Effect, Facts, Replay, Tool, ToolContext, ToolResult
from .handles import with_handles
from .stubs import shown

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

P = ParamSpec("P")
R = TypeVar("R")


class _Outside(Tool):
    """What functions and LangChain tools share: their result is data of unknown origin."""

    def narrow(self, facts: Facts, handles: tuple[str, ...]) -> Mapping[str, Any] | None:
        """Let every argument be a handle."""
        return with_handles(self.parameters, handles)

    @staticmethod
    def result(value: Any) -> ToolResult:
        """Wrap what the code returned; things that JSON has no form for become text."""
        value = to_jsonable_python(value, fallback=str, inf_nan_mode="strings")
        return ToolResult(value, shown(value), label=Label.UNTRUSTED)


class FunctionTool(_Outside):
    """A function as a tool. Calling the object calls the function, so decorating changes nothing."""

    def __init__(
        self, function: Callable[..., Any], name: str = "", effect: str = "read", replay: str = "opaque"
    ) -> None:
        self.function = function
        self.name = name or function.__name__
        self.description = _first_line(function)
        if inspect.iscoroutinefunction(function):
            raise UsageError(f"tool {self.name}: an async function cannot be a tool; wrap it in a plain one")
        if not self.description:
            raise UsageError(f"tool {self.name}: it needs a docstring; the model reads its first line")
        try:
            self.effect = Effect(effect)
            self.replay = Replay(replay)
        except ValueError as error:
            raise UsageError(f"tool {self.name}: {error}") from None
        self._model, self._context = _model_of(function, self.name)
        self.parameters = tool_schema(self._model.model_json_schema(), self.name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def run(self, args: Mapping[str, Any], ctx: ToolContext) -> ToolResult:
        """Check the arguments against the type hints and call the function."""
        try:
            checked = self._model.model_validate(dict(args))
        except ValidationError as error:
            raise ToolError(_mistakes(self.name, error)) from None
        given = {key: getattr(checked, key) for key in checked.model_fields_set}
        if self._context:
            given[self._context] = ctx
        return self.result(self.function(**given))


class LangChainTool(_Outside):
    """A LangChain tool as a tool of ours; opaque, since nothing is known of what it does."""

    replay = Replay.OPAQUE

    def __init__(self, base: BaseTool) -> None:
        self.base = base
        self.name = re.sub(r"[^A-Za-z0-9_.-]", "_", base.name)[:64]
        self.description = (base.description or base.name).strip().splitlines()[0]
        self.parameters = tool_schema(_langchain_schema(base), self.name)

    def run(self, args: Mapping[str, Any], ctx: ToolContext) -> ToolResult:
        """Invoke the tool; what it raises for the model, the model reads."""
        from langchain_core.tools import ToolException

        try:
            return self.result(_invoke(self.base, dict(args)))
        except ToolException as error:
            raise ToolError(str(error)) from None
        except ValidationError as error:
            raise ToolError(_mistakes(self.name, error)) from None


def _langchain_schema(base: BaseTool) -> dict[str, Any]:
    """Return the schema of a LangChain tool's arguments."""
    from langchain_core.tools import Tool as SingleInputTool

    if isinstance(base, SingleInputTool) and base.args_schema is None:  # else it is that of its internals
        return {"type": "object", "properties": base.args, "required": list(base.args)}
    schema: Any = base.tool_call_schema
    return dict(schema) if isinstance(schema, dict) else schema.model_json_schema()


def _invoke(base: BaseTool, args: dict[str, Any]) -> Any:
    """Call a LangChain tool; one without a synchronous form (all of MCP's) in an event loop of its own."""
    asynchronous = getattr(base, "coroutine", None) is not None and getattr(base, "func", None) is None
    if not asynchronous:
        return base.invoke(args)
    with ThreadPoolExecutor(1) as pool:  # the caller's thread may have a running loop already
        return pool.submit(asyncio.run, base.ainvoke(args)).result()


@overload
def tool(function: Callable[P, R]) -> FunctionTool: ...
@overload
def tool(
    *, name: str = "", effect: str = "read", replay: str = "opaque"
) -> Callable[[Callable[..., Any]], FunctionTool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    *,
    name: str = "",
    effect: str = "read",
    replay: str = "opaque",
) -> FunctionTool | Callable[[Callable[..., Any]], FunctionTool]:
    """Make a tool from a function, with or without arguments: ``@tool`` or ``@tool(name="x")``.

    ``effect`` is what the policy asks a grant for (read, write, run, net); ``replay`` what happens
    when a crash lost the outcome (pure, idempotent, opaque).
    """
    if function is not None:
        return FunctionTool(function, name, effect, replay)
    return lambda decorated: FunctionTool(decorated, name, effect, replay)


def as_tool(thing: object) -> Tool:
    """Return a tool for a Tool, a Tool class, a function or a LangChain tool; else ``UsageError``."""
    if isinstance(thing, Tool):
        return thing
    if isinstance(thing, type) and issubclass(thing, Tool):
        return thing()
    langchain = sys.modules.get("langchain_core.tools")
    if langchain is not None and isinstance(thing, langchain.BaseTool):
        return LangChainTool(thing)
    if inspect.isroutine(thing):
        return FunctionTool(thing)
    raise UsageError(
        f"{type(thing).__name__} is not a tool: pass a documented function, a Tool or a LangChain tool"
    )


def _first_line(function: Callable[..., Any]) -> str:
    text = inspect.getdoc(function) or ""
    return text.strip().splitlines()[0].strip() if text.strip() else ""


def _model_of(function: Callable[..., Any], name: str) -> tuple[type[BaseModel], str]:
    """Return (model of the arguments, name of the argument that wants the ToolContext or "")."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise UsageError(f"tool {name}: types must be defined at the top of a module: {error}") from None
    texts = _documented(inspect.getdoc(function) or "")
    fields: dict[str, Any] = {}
    context = ""
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise UsageError(f"tool {name}: *args, **kwargs and positional-only arguments have no schema")
        if parameter.name not in hints:
            raise UsageError(f"tool {name}: argument {parameter.name} needs a type hint")
        hint = hints[parameter.name]
        if hint is ToolContext:
            context = parameter.name
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        said = next((text for text in getattr(hint, "__metadata__", ()) if isinstance(text, str)), None)
        description = said or texts.get(parameter.name)
        fields[parameter.name] = (hint, Field(default, description=description))
    try:
        model: type[BaseModel] = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
        model.model_json_schema()
    except (PydanticUserError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"tool {name}: the type hints have no JSON form: {reason}") from None
    return model, context


def _documented(text: str) -> dict[str, str]:
    """Read ``name: what it is`` lines of a docstring's ``Args:`` section."""
    _, _, section = text.partition("Args:\n")
    lines = section.split("\n\n")[0].splitlines()
    found = (re.match(r"\s+(\w+)(?:\s*\([^)]*\))?:\s*(.+)", line) for line in lines)
    return {match[1]: match[2].strip() for match in found if match}


def _mistakes(name: str, error: ValidationError) -> str:
    parts = [
        f"{'.'.join(map(str, item['loc'])) or 'arguments'}: {item['msg']}"
        for item in error.errors(include_url=False)
    ]
    return f"{name}: " + "; ".join(parts[:3])
