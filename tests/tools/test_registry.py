"""The registry, plugins from entry points, functions and LangChain tools as tools, stubs."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel

from autogpt.errors import ToolError, UsageError
from autogpt.labels import Label
from autogpt.tools.base import Effect, Replay, ToolContext
from autogpt.tools.functions import FunctionTool, as_tool, tool
from autogpt.tools.registry import RESERVED, Registry, builtins, load_plugins
from autogpt.tools.schema import bounded
from autogpt.tools.stubs import StubTool

FAMILIES = {
    "files": ["files.list", "files.read", "files.search", "files.write", "files.move"],
    "tables": ["tables.describe", "tables.query", "tables.sql"],
}


@dataclass
class Point:
    x: int
    where: Path


class Box(BaseModel):
    size: int


@tool
def postage(grams: int, zone: Literal["eu", "world"] = "eu", tags: list[str] | None = None) -> float:
    """Price of a letter in euros.

    More words that the model does not read.

    Args:
        grams: weight of the letter
    """
    return grams * (0.01 if zone == "eu" else 0.03) + len(tags or [])


@pytest.fixture
def ctx(tmp_path: Path) -> ToolContext:
    return ToolContext(tmp_path)


def test_builtins_have_everything_under_unique_names() -> None:
    registry = builtins()
    assert set(registry.select()) == {*FAMILIES["files"], *FAMILIES["tables"], "calculator"}
    assert {registry.source(made.name) for made in registry} == {"built-in"}
    for made in registry:
        jsonschema.Draft202012Validator.check_schema(dict(made.parameters))
        assert made.description and "\n" not in made.description


def test_builtin_arguments_are_all_bounded() -> None:
    def check(where: str, schema: Any) -> None:
        if isinstance(schema, list):
            for item in schema:
                check(where, item)
        if not isinstance(schema, dict):
            return
        kind = schema.get("type")
        if "enum" not in schema:
            assert kind != "string" or "maxLength" in schema or "pattern" in schema, where
            assert kind != "array" or "maxItems" in schema, where
            assert kind not in ("integer", "number") or "maximum" in schema, where
        for key, item in schema.items():
            check(f"{where}.{key}", item)

    for made in builtins():
        check(made.name, dict(made.parameters))


def test_selection_by_name_and_family_keeps_the_order() -> None:
    registry = builtins()
    assert list(registry.select(["calculator", "files"])) == [
        name for name in registry.select() if name.startswith("files.") or name == "calculator"
    ]
    assert list(registry.select(["tables.query"])) == ["tables.query"]
    assert list(registry.select([])) == []


@pytest.mark.parametrize(
    ("wrong", "near"), [("file", "files"), ("tables.qery", "tables.query"), ("calc", "calculator")]
)
def test_an_unknown_name_gets_the_nearest(wrong: str, near: str) -> None:
    registry = builtins()
    for attempt in (registry.lookup, lambda name: registry.select([name])):
        with pytest.raises(UsageError) as caught:
            attempt(wrong)
        assert f"unknown tool {wrong}" in str(caught.value)
        assert near in str(caught.value)


def test_a_name_can_be_taken_only_once() -> None:
    registry = builtins()
    registry.register(postage)
    assert registry.source("postage") == "caller"
    with pytest.raises(UsageError, match=r"two tools called postage \(caller and caller\)"):
        registry.register(postage)
    with pytest.raises(UsageError, match=r"two tools called calculator"):
        registry.register(StubTool("calculator", "x", {}, 1))


@pytest.mark.parametrize("name", ["", "two words", "1st", "a" * 65, *sorted(RESERVED)])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(UsageError):
        Registry().register(StubTool(name, "x", {}, 1))


PLUGIN = '''
from autogpt.tools.functions import tool
from autogpt.tools.stubs import StubTool

@tool(replay="pure")
def shout(text: str) -> str:
    """Write in capitals."""
    return text.upper()

def several():
    return [StubTool("one.a", "a", {}, 1), StubTool("one.b", "b", {}, 2)]

def breaks():
    raise RuntimeError("no licence")

taken = StubTool("calculator", "mine", {}, 0)
'''


def test_plugins_load_and_bad_ones_only_warn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shouter.py").write_text(PLUGIN)
    points = ["shout", "several", "breaks", "taken", "missing"]
    info = tmp_path / "shouter-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shouter\nVersion: 1.0\n")
    lines = "".join(f"{name} = shouter:{name}\n" for name in points)
    (info / "entry_points.txt").write_text(f"[autogpt.tools]\n{lines}gone = not_installed:x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = builtins()
    try:
        found = [point for dist in distributions(path=[str(tmp_path)]) for point in dist.entry_points]
        warnings = load_plugins(registry, found)
        assert registry.source("shout") == "plugin shouter"
        assert list(registry.select(["one"])) == ["one.a", "one.b"]
        assert registry.source("calculator") == "built-in"
    finally:
        sys.modules.pop("shouter", None)
    assert len(warnings) == 4
    assert all(warning.startswith("plugin shouter (") for warning in warnings)
    text = "\n".join(warnings)
    for reason in ("no licence", "two tools called calculator", "missing", "not_installed"):
        assert reason in text


def test_installed_plugins_are_found_by_group(tmp_path: Path) -> None:
    (tmp_path / "shouter.py").write_text(PLUGIN)
    info = tmp_path / "shouter-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shouter\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[autogpt.tools]\nshout = shouter:shout\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from autogpt.tools.registry import builtins, load_plugins\n"
        "registry = builtins(); print(load_plugins(registry), registry.source('shout'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] plugin shouter"


def test_a_function_becomes_a_tool_with_a_bounded_schema() -> None:
    assert (postage.name, postage.description) == ("postage", "Price of a letter in euros.")
    assert (postage.effect, postage.replay) == (Effect.READ, Replay.OPAQUE)
    properties = postage.parameters["properties"]
    assert postage.parameters["required"] == ["grams"]
    assert postage.parameters["additionalProperties"] is False
    assert properties["grams"]["description"] == "weight of the letter"
    assert {"minimum", "maximum"} <= set(properties["grams"])
    assert properties["zone"]["enum"] == ["eu", "world"]
    listed = next(item for item in properties["tags"]["anyOf"] if item["type"] == "array")
    assert "maxItems" in listed and "maxLength" in listed["items"]


def test_it_runs_checked_and_stays_callable(ctx: ToolContext) -> None:
    result = postage.run({"grams": 100, "zone": "world"}, ctx)
    assert (result.value, result.preview, result.label) == (3.0, "3.0", Label.UNTRUSTED)
    assert postage(100) == 1.0
    for args, message in [({"grams": "heavy"}, "postage: grams"), ({}, "grams"), ({"grams": 1, "x": 2}, "x")]:
        with pytest.raises(ToolError, match=message):
            postage.run(args, ctx)


def test_every_argument_of_a_function_may_be_a_handle() -> None:
    schema = postage.narrow({}, ("$1", "$2"))
    assert schema
    for wrong_or_right, valid in [("$2", True), (5, True), ("$3", False)]:
        found = list(jsonschema.Draft202012Validator(schema).iter_errors({"grams": wrong_or_right}))
        assert (not found) == valid


def test_decorator_arguments_context_and_results(ctx: ToolContext) -> None:
    @tool(name="shop.pack", effect="write", replay="pure")
    def pack(boxes: list[Box], label: Annotated[str, "what to print"], context: ToolContext) -> Point:
        """Pack boxes."""
        return Point(sum(box.size for box in boxes), context.workspace)

    assert (pack.name, pack.effect, pack.replay) == ("shop.pack", Effect.WRITE, Replay.PURE)
    assert set(pack.parameters["properties"]) == {"boxes", "label"}
    assert pack.parameters["properties"]["label"]["description"] == "what to print"
    assert "$ref" not in str(pack.parameters)
    value = pack.run({"boxes": [{"size": 2}, {"size": 3}], "label": "x"}, ctx).value
    assert value == {"x": 5, "where": str(ctx.workspace)}


def test_functions_that_cannot_be_tools_say_why() -> None:
    def bare(x: int) -> int:
        return x

    def untyped(x):  # type: ignore[no-untyped-def]
        """Do."""

    def stars(*x: int) -> None:
        """Do."""

    async def later(x: int) -> None:
        """Do."""

    def odd(x: threading.Lock) -> None:
        """Do."""

    class Local(BaseModel):
        x: int

    def local(x: Local) -> None:
        """Do."""

    def fine(x: int) -> None:
        """Do."""

    mistakes: list[tuple[Any, str]] = [
        (bare, "docstring"),
        (untyped, "argument x needs a type hint"),
        (stars, "args"),
        (later, "async"),
        (odd, "no JSON form"),
        (local, "top of a module: name 'Local'"),
    ]
    for function, message in mistakes:
        with pytest.raises(UsageError, match=message):
            FunctionTool(function)
    with pytest.raises(UsageError, match="tool fine: 'sometimes' is not a valid Replay"):
        tool(replay="sometimes")(fine)
    with pytest.raises(UsageError, match="int is not a tool"):
        as_tool(7)


def test_a_recursive_schema_is_refused() -> None:
    class Node(BaseModel):
        children: list[Node]

    Node.model_rebuild(_types_namespace={"Node": Node})
    with pytest.raises(UsageError, match="Node refers to itself"):
        bounded({"type": "object", "properties": {"n": {"$ref": "#/$defs/Node"}}, **Node.model_json_schema()})


def test_langchain_tools_register_and_run(ctx: ToolContext) -> None:
    langchain = pytest.importorskip("langchain_core.tools")

    @langchain.tool  # type: ignore[untyped-decorator]
    def add_days(count: int, note: str = "") -> dict[str, int]:
        """Add days.

        And more.
        """
        if count < 0:
            raise langchain.ToolException("count must not be negative")
        return {"days": count + 1}

    made = as_tool(add_days)
    assert (made.name, made.description, made.replay) == ("add_days", "Add days.", Replay.OPAQUE)
    assert made.parameters["required"] == ["count"]
    assert "maxLength" in made.parameters["properties"]["note"]
    result = made.run({"count": 2}, ctx)
    assert (result.value, result.preview, result.label) == ({"days": 3}, '{"days":3}', Label.UNTRUSTED)
    for args, message in [({"count": -1}, "must not be negative"), ({"count": "many"}, "add_days: count")]:
        with pytest.raises(ToolError, match=message):
            made.run(args, ctx)


def test_a_stub_always_gives_its_value(ctx: ToolContext) -> None:
    stub = StubTool("get_weather", "weather", {"properties": {"city": {"type": "string"}}}, {"sky": "blue"})
    assert stub.replay is Replay.PURE
    assert stub.run({"city": "Paris"}, ctx).value == {"sky": "blue"}
    assert stub.run({}, ctx).preview == '{"sky":"blue"}'
    assert "maxLength" in stub.parameters["properties"]["city"]
    long = StubTool("long", "x", {}, "word " * 1000).run({}, ctx).preview
    assert len(long) < 640 and long.endswith("(5000 chars)")
