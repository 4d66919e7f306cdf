"""JSON schemas of calls: references written out, and a bound on everything that a model may say.

Under a grammar a model can only stop where the schema lets it, so an unbounded string is a call that may
never end. Two functions, for the two ends of a call:

- :func:`tool_schema` takes the schema of code that was not written for us (type hints, LangChain, a goal's
  stub) and returns one that a grammar can express: one object of named arguments, without references and
  without keywords that no grammar knows. What is left out is checked by the tool itself when it runs.
- :func:`bound_schema` adds every bound that is missing and drops annotations; grammars are compiled from its
  result, which is narrower than the original: whatever it accepts, the original accepts too.

Limits: recursive schemas are refused, ``allOf`` is merged keyword by keyword, and an object of free keys
gets at most eight short ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .errors import UsageError

MAX_LENGTH = 400
"""Characters of a free string."""
MAX_ITEMS = 20
MAX_KEYS = 8
"""Entries of an object whose keys the schema leaves open."""
INTEGER = 9_000_000_000_000_000_000
"""Largest whole number: 64-bit ids fit, and grammars count in 64 bits."""
WHOLE = 999_999_999_999_999
"""Largest whole number where fractions are allowed too: fifteen digits, exact in a double."""
FRACTION_LIMIT = 999_999_999
STEP = 1e-10
"""Numbers with a fraction have at most ten decimals, the finest step that llguidance takes."""

Json = dict[str, Any]
_KEY_PATTERN = "^[A-Za-z0-9_. -]{1,60}$"
_NOISE = frozenset({"title", "$defs", "definitions", "$schema", "default", "examples", "example"})
_ANNOTATIONS = frozenset(
    {*_NOISE, "description", "$id", "$comment", "deprecated", "readOnly", "writeOnly", "uniqueItems"}
)
_LIMITS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
_TYPES_OF = {
    "properties": "object",
    "additionalProperties": "object",
    "items": "array",
    "prefixItems": "array",
    "pattern": "string",
    "maxLength": "string",
    "minLength": "string",
}
UNKNOWN = frozenset(
    {"not", "if", "then", "else", "contains", "minContains", "maxContains", "propertyNames", "dependencies"}
    | {"dependentRequired", "dependentSchemas", "unevaluatedItems", "unevaluatedProperties"}
)
"""Keywords that grammars cannot follow."""
FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid")
)
"""Formats of strings that grammars know."""


class GrammarError(UsageError):
    """A schema or a call text that the grammar cannot take; the message says which and why."""


def tool_schema(schema: Mapping[str, Any], tool: str) -> Json:
    """Return ``schema`` as one object of named, bounded arguments that a grammar can express.

    Raises GrammarError, which names ``tool``, for a schema that refers to itself or is no object.
    """
    try:
        result = _one_object(_written_out(schema, schema, ()))
    except GrammarError as error:
        raise GrammarError(f"tool {tool}: {error}") from None
    for node, key in list(_unknown(result)):
        del node[key]
    _limit(result)
    result.setdefault("type", "object")
    result.setdefault("properties", {})
    result["additionalProperties"] = False
    return result


def bound_schema(schema: Mapping[str, Any]) -> Json:
    """Return ``schema`` with a bound on everything; raises GrammarError when it is recursive."""
    return _bound(_written_out(schema, schema, ()))


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise GrammarError if ``schema`` has no bounded form, or says what no grammar can follow."""
    bound_schema(schema)
    for node, key in _unknown(schema):
        what = f"{key}: {node[key]}" if key in ("format", "pattern") else key
        raise GrammarError(f"schema: no grammar can follow `{what}`; leave it out and check it in the tool")


def _written_out(schema: Any, root: Mapping[str, Any], inside: tuple[str, ...]) -> Any:
    """Return a copy without references; ``inside`` holds those being followed."""
    if not isinstance(schema, Mapping):
        return schema  # true or false
    pointer = schema.get("$ref")
    if isinstance(pointer, str):
        if pointer in inside:
            raise GrammarError(f"schema: {pointer} refers to itself; recursive schemas have no bound")
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return _written_out({**_resolve(pointer, root), **rest}, root, (*inside, pointer))
    copy: Json = {}
    for key, value in schema.items():
        if key in _NOISE:
            continue
        if key in ("properties", "patternProperties") and isinstance(value, Mapping):
            copy[key] = {name: _written_out(item, root, inside) for name, item in value.items()}
        elif key in ("anyOf", "oneOf", "allOf", "prefixItems") and isinstance(value, Sequence):
            copy[key] = [_written_out(item, root, inside) for item in value]
        elif key == "items" and isinstance(value, list):  # a tuple, as drafts before 2020 write it
            copy["prefixItems"] = [_written_out(item, root, inside) for item in value]
            copy["items"] = _written_out(schema.get("additionalItems", True), root, inside)
        elif key in ("items", "additionalProperties"):
            copy[key] = _written_out(value, root, inside)
        elif key != "additionalItems":
            copy[key] = value
    return copy


def _resolve(pointer: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a local JSON pointer."""
    node: Any = root
    for part in pointer.removeprefix("#").strip("/").split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        if not pointer.startswith("#") or not isinstance(node, Mapping) or (key and key not in node):
            raise GrammarError(f"schema: the reference {pointer} leads nowhere")
        node = node[key] if key else node
    if not isinstance(node, Mapping):
        raise GrammarError(f"schema: the reference {pointer} is no schema")
    return node


def _one_object(schema: Json) -> Json:
    """Return the root as an object: of a union at the root, all arguments that any branch takes."""
    if "allOf" in schema:
        schema = _merge(schema)
    branches = schema.get("anyOf") or schema.get("oneOf") or []
    branches = [branch for branch in branches if branch != {"type": "null"}]
    if branches and "properties" not in schema:
        taken: dict[str, list[Any]] = {}
        for branch in map(_one_object, branches):
            for name, item in branch.get("properties", {}).items():
                if item not in taken.setdefault(name, []):
                    taken[name].append(item)
        needed = [set(branch.get("required", ())) for branch in branches]
        schema = {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf")}
        schema["properties"] = {
            name: items[0] if len(items) == 1 else {"anyOf": items} for name, items in taken.items()
        }
        schema["required"] = [name for name in taken if all(name in names for names in needed)]
    if schema.get("type", "object") != "object":
        raise GrammarError(f"arguments must be one object with names, not {schema['type']}")
    return schema


def _unknown(schema: Any) -> Iterator[tuple[Any, str]]:
    """Yield (mapping, key) for everything that no grammar can follow."""
    if not isinstance(schema, Mapping):
        return
    for key, value in schema.items():
        odd = value not in FORMATS if key == "format" else key == "pattern" and not _regular(value)
        if odd or key in UNKNOWN:
            yield schema, key
    keys = schema.get("patternProperties", {})
    yield from ((keys, pattern) for pattern in keys if not _regular(pattern))
    for child in _children(schema):
        yield from _unknown(child)


def _limit(schema: Any) -> None:
    """Bound free strings, arrays and numbers in place, loosely: models without a grammar read this too."""
    if not isinstance(schema, dict):
        return
    for child in _children(schema):
        _limit(child)
    if "enum" in schema or "const" in schema or "type" not in schema:
        return
    kinds = _types(schema)
    if "string" in kinds and not {"pattern", "format"} & set(schema):
        schema.setdefault("maxLength", MAX_LENGTH)
    if "array" in kinds and "prefixItems" not in schema:
        schema.setdefault("maxItems", MAX_ITEMS)
    if "integer" in kinds or "number" in kinds:
        limit = WHOLE if "number" in kinds else INTEGER
        if not {"minimum", "exclusiveMinimum"} & set(schema):
            schema["minimum"] = -limit
        if not {"maximum", "exclusiveMaximum"} & set(schema):
            schema["maximum"] = limit


def _children(schema: Mapping[str, Any]) -> list[Any]:
    found = [child for key in ("properties", "patternProperties") for child in schema.get(key, {}).values()]
    found += [child for key in ("anyOf", "oneOf", "allOf", "prefixItems") for child in schema.get(key, ())]
    return [*found, *(schema[key] for key in ("items", "additionalProperties") if key in schema)]


def _regular(pattern: str) -> bool:
    """Return whether a pattern is a regular expression without looking around or back."""
    try:
        re.compile(pattern)
    except re.error:
        return "\\p" in pattern  # classes of characters that Python's dialect lacks
    return re.search(r"\(\?<?[=!]|\(\?P=|\\[1-9]", pattern) is None


def _types(schema: Mapping[str, Any]) -> list[str]:
    declared = schema.get("type")
    if declared is not None:
        return [declared] if isinstance(declared, str) else list(declared)
    return sorted({kind for key, kind in _TYPES_OF.items() if key in schema})


def _bound(schema: Mapping[str, Any] | bool) -> Json:
    """Return a bounded copy of a schema without references."""
    if isinstance(schema, bool):
        if schema:
            return _anything()
        raise GrammarError("a schema of false allows no value; leave the property out instead")
    if "allOf" in schema:
        return _bound(_merge(schema))
    copy = {key: value for key, value in schema.items() if key not in _ANNOTATIONS}
    if "enum" in copy or "const" in copy:
        return copy
    for key in ("anyOf", "oneOf"):
        if key in copy:
            copy[key] = [_bound(branch) for branch in copy[key]]
    kinds = _types(copy)
    if not kinds and "anyOf" not in copy and "oneOf" not in copy:
        return copy if copy else _anything()
    if kinds:
        copy["type"] = kinds[0] if len(kinds) == 1 else kinds
    for kind in kinds:
        _bound_type(kind, copy)
    if kinds == ["number"] and not _LIMITS & set(schema):
        return {"anyOf": [{"type": "integer", "minimum": -WHOLE, "maximum": WHOLE}, copy]}
    return copy


def _bound_type(kind: str, copy: Json) -> None:
    """Add to ``copy``, in place, the bounds that values of type ``kind`` lack."""
    if kind == "string" and not _finite_pattern(copy.get("pattern")):
        copy.setdefault("maxLength", max(MAX_LENGTH, copy.get("minLength", 0)))
    elif kind == "array":
        copy.setdefault("maxItems", max(MAX_ITEMS, copy.get("minItems", 0)))
        copy.setdefault("items", True)
        if copy["items"] is not False:
            copy["items"] = _bound(copy["items"])
        if "prefixItems" in copy:
            copy["prefixItems"] = [_bound(child) for child in copy["prefixItems"]]
    elif kind in ("integer", "number"):
        _bound_number(copy, INTEGER if kind == "integer" else FRACTION_LIMIT)
        if kind == "number":
            copy.setdefault("multipleOf", STEP)
    elif kind == "object":
        _bound_object(copy)


def _bound_number(copy: Json, limit: int) -> None:
    """Add the missing limits in place: ``limit`` either way, or that far from the one given."""
    low: float | None = copy.get("minimum", copy.get("exclusiveMinimum"))
    high: float | None = copy.get("maximum", copy.get("exclusiveMaximum"))
    if low is None:
        copy["minimum"] = -limit if high is None or high > -limit else high - limit
    if high is None:
        copy["maximum"] = limit if low is None or low < limit else low + limit


def _bound_object(copy: Json) -> None:
    """Close an object in place; one without declared properties becomes a small free map."""
    extra = copy.pop("additionalProperties", "properties" not in copy)
    copy["additionalProperties"] = False
    patterns = dict(copy.get("patternProperties", {}))
    if copy.get("properties") or (extra is False and not patterns):
        copy.pop("patternProperties", None)
        copy["properties"] = {name: _bound(item) for name, item in copy.get("properties", {}).items()}
        return
    value = next(iter(patterns.values()), extra)
    copy.pop("properties", None)
    copy["patternProperties"] = {next(iter(patterns), _KEY_PATTERN): _bound(value)}
    copy.setdefault("maxProperties", MAX_KEYS)


def _anything() -> Json:
    """Return the schema for "any value": a scalar, or a short list of scalars."""
    text = {"type": "string", "maxLength": MAX_LENGTH}
    whole = {"type": "integer", "minimum": -WHOLE, "maximum": WHOLE}
    number = {"type": "number", "minimum": -FRACTION_LIMIT, "maximum": FRACTION_LIMIT, "multipleOf": STEP}
    scalars = [text, whole, number, {"type": "boolean"}, {"type": "null"}]
    return {"anyOf": [*scalars, {"type": "array", "items": {"anyOf": scalars}, "maxItems": MAX_ITEMS}]}


def _merge(schema: Mapping[str, Any]) -> Json:
    """Return one schema for ``allOf``: properties and required add up, other keywords join."""
    merged: Json = {key: value for key, value in schema.items() if key != "allOf"}
    for part in schema["allOf"]:
        for key, value in part.items():
            if key == "properties":
                merged[key] = {**merged.get(key, {}), **value}
            elif key == "required":
                merged[key] = [*merged.get(key, []), *value]
            elif key not in merged or key in _ANNOTATIONS or merged[key] == value:
                merged[key] = value
            elif key != "additionalProperties":
                raise GrammarError(f"schema: the parts of an allOf disagree on {key}")
    return merged


def _finite_pattern(pattern: str | None) -> bool:
    """Return whether a regular expression plainly bounds the length of what it matches."""
    if pattern is None or not (pattern.startswith("^") and pattern.endswith("$")):
        return False
    skeleton = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "x", pattern)
    return not re.search(r"[*+]|\{\d+,\}|\|(?![^()]*\))", skeleton)
