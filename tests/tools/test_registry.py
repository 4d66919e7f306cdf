"""The registry, plugins from entry points, functions and LangChain tools as tools, stubs."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from importlib.metadata import distributions
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import jsonschema
import pytest
from pydantic import BaseModel, SecretStr

from autogpt.errors import ToolError, UsageError
from autogpt.labels import Label
from autogpt.llm.message import CallSpec, ToolCall, why_invalid
from autogpt.llm.text.grammar import GrammarCompiler
from autogpt.llm.text.tokenizer import ChatTokenizer
from autogpt.schemas import tool_schema
from autogpt.tools.base import Effect, Replay, ToolContext
from autogpt.tools.functions import FunctionTool, as_tool, tool
from autogpt.tools.registry import RESERVED, Registry, builtins, load_plugins
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
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"grams": "heavy"}, "postage: grams"),
        ({}, "grams"),
        ({"grams": 1, "x": 2}, "x"),
    ]
    for args, message in mistakes:
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
    schema = {"type": "object", "properties": {"n": {"$ref": "#/$defs/Node"}}, **Node.model_json_schema()}
    with pytest.raises(UsageError, match=r"tool walk: .*Node refers to itself"):
        tool_schema(schema, "walk")


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    bark: str


def line_count(file: Path) -> int:
    """Number of lines of a file."""
    return 0


def digest(raw: bytes, where: IPv4Network, parts: tuple[str, int], color: set[str]) -> int:
    """Digest of all of it."""
    return 0


def booking(day: date, at: time, price: Decimal, key: UUID, secret: SecretStr, pet: Cat | Dog) -> int:
    """Number of a booking."""
    return 0


TEXT: dict[str, Any] = {"type": "string"}
FOREIGN: list[dict[str, Any]] = [
    {"type": "object", "properties": {"pair": {"type": "array", "items": [TEXT, {"type": "integer"}]}}},
    {"oneOf": [Cat.model_json_schema(), Dog.model_json_schema()]},
    {"allOf": [{"$ref": "#/definitions/a"}], "definitions": {"a": Cat.model_json_schema()}},
    {"properties": {"a": {**TEXT, "pattern": "^(?=.*x)y$"}, "b": {**TEXT, "pattern": "^("}}},
    {"properties": {"a": {"not": TEXT, "type": "integer"}}, "dependentRequired": {"a": ["b"]}},
    {"properties": {"a": {"type": "array", "contains": {"const": 1}, "items": {"type": "integer"}}}},
    {"properties": {"a": {"type": "object", "propertyNames": {"pattern": "^x"}}}, "if": {}, "then": {}},
    {"anyOf": [{"properties": {"a": TEXT}, "patternProperties": {"(?!x)": TEXT}}, {"type": "null"}]},
    {"properties": {"a": {"patternProperties": {"(?!x)": TEXT}}}, "anyOf": [{"required": ["a"]}]},
    {"properties": {"a": {**TEXT, "format": "password"}, "b": {}, "c": {"type": ["string", "null"]}}},
]


def test_what_registers_becomes_a_grammar(chat_folder: Path) -> None:
    stubs = [StubTool(f"stub{number}", "x", schema, 1) for number, schema in enumerate(FOREIGN)]
    registry, compiler = Registry(), GrammarCompiler(ChatTokenizer(chat_folder))
    for thing in (postage, line_count, digest, booking, *stubs):
        made = registry.register(thing)
        for handles in ((), ("$1",)):
            schema = made.narrow({}, handles)
            assert schema is not None
            compiler.compile([CallSpec(made.name, schema)])


def test_what_a_grammar_cannot_hold_is_left_to_the_tool() -> None:
    made = as_tool(line_count).parameters["properties"]["file"]
    assert made == {"type": "string", "maxLength": 400}  # a path is a string
    union = StubTool("pet", "x", FOREIGN[1], 1).parameters
    assert list(union["properties"]) == ["kind", "lives", "bark"] and union["required"] == ["kind"]


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"properties": {"a": {"not": {}}}}, "odd: schema: no grammar can follow `not`"),
        ({"properties": {"a": {**TEXT, "format": "path"}}}, "no grammar can follow `format: path`"),
        ({"properties": {"a": {**TEXT, "pattern": "(?!x)"}}}, r"no grammar can follow `pattern: \(\?!x\)`"),
        ({"properties": {"a": False}}, "a schema of false allows no value"),
    ],
)
def test_a_tool_whose_schema_cannot_become_a_grammar_is_refused(schema: dict[str, Any], said: str) -> None:
    made = StubTool("odd", "x", {}, 1)
    made.parameters = schema
    with pytest.raises(UsageError, match=said) as caught:
        Registry().register(made)
    assert "\n" not in str(caught.value)


def test_arguments_that_are_no_object_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"tool list: arguments must be one object with names, not array"):
        StubTool("list", "x", {"type": "array"}, 1)


def test_a_barcode_reaches_its_tool_whole(ctx: ToolContext) -> None:
    def product(barcode: int) -> str:
        """Name of the product with a barcode."""
        return f"product {barcode}"

    made = as_tool(product)
    call = ToolCall("product", {"barcode": 4006381333931})
    assert why_invalid(call, [CallSpec("product", made.narrow({}, ()) or {})]) is None
    assert made.run(call.arguments, ctx).value == "product 4006381333931"


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
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"count": -1}, "must not be negative"),
        ({"count": "many"}, "add_days: count"),
    ]
    for args, message in mistakes:
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
