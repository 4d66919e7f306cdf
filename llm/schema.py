"""Every free string, array, object and number in a call's schema gets a bound.

Under a grammar a model can only stop where the schema lets it, so an unbounded string is a call
that may never end. :func:`bound_schema` adds what is missing, inlines references, closes objects
and drops annotations; :func:`check_bounded` is the independent check that nothing was forgotten.
The result is narrower than the original: whatever it accepts, the original accepts too.
Models without grammars are judged afterwards, against the original (:func:`why_invalid`).

Limits: recursive schemas are refused, ``allOf`` is merged keyword by keyword, and an object of free
keys gets at most eight short ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import UsageError
from .message import CallSpec, ToolCall

MAX_LENGTH = 400
"""Characters of a free string."""
MAX_ITEMS = 20
MAX_KEYS = 8
"""Entries of an object whose keys the schema leaves open."""
WHOLE = 999_999_999_999_999
"""Largest whole number: fifteen digits, exact in a double."""
FRACTION_LIMIT = 999_999_999
STEP = 0.000001
"""Numbers with a fraction have at most six decimals, so fifteen significant digits in all."""

Json = dict[str, Any]
_KEY_PATTERN = "^[A-Za-z0-9_. -]{1,60}$"
_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "example", "$schema", "$id", "$comment", "deprecated"}
    | {"readOnly", "writeOnly", "$defs", "definitions", "uniqueItems"}
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


class GrammarError(UsageError):
    """A schema or a call text that the grammar cannot take; the message says which and why."""


def bound_schema(schema: Mapping[str, Any]) -> Json:
    """Return ``schema`` with a bound on everything; raises GrammarError when it is recursive."""
    return _bound(schema, schema, ())


def check_bounded(schema: Mapping[str, Any], where: str = "schema") -> None:
    """Raise GrammarError naming the first place in ``schema`` that has no bound."""
    if not schema or "$ref" in schema:
        raise GrammarError(f"{where}: anything is allowed here; give it a type or an enum")
    if "enum" in schema or "const" in schema:
        return
    for key in ("anyOf", "oneOf"):
        for i, branch in enumerate(schema.get(key, ())):
            check_bounded(branch, f"{where}.{key}[{i}]")
    for kind in _types(schema):
        _check_type(kind, schema, where)
    for name, child in _children(schema):
        check_bounded(child, f"{where}.{name}")


def why_invalid(call: ToolCall, calls: Sequence[CallSpec]) -> str | None:
    """Return why ``call`` is not one of ``calls`` with arguments of its schema; None if it is.

    Meant for the model to read: one line that names the argument.
    """
    import jsonschema

    spec = next((spec for spec in calls if spec.name == call.name), None)
    if spec is None:
        allowed = ", ".join(spec.name for spec in calls) or "nothing"
        return f"{call.name} is not allowed now; allowed: {allowed}"
    validator = jsonschema.Draft202012Validator(dict(spec.parameters))
    errors = sorted(validator.iter_errors(dict(call.arguments)), key=lambda error: list(map(str, error.path)))
    if not errors:
        return None
    worst = jsonschema.exceptions.best_match(errors) or errors[0]
    where = "".join(f"[{json.dumps(part)}]" for part in worst.absolute_path)
    return f"{call.name}: arguments{where}: {worst.message[:200]}"


def _check_type(kind: str, schema: Mapping[str, Any], where: str) -> None:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if kind == "string" and "maxLength" not in schema and not _finite_pattern(schema.get("pattern")):
        raise GrammarError(f"{where}: a free string needs maxLength")
    if kind == "array" and "maxItems" not in schema:
        raise GrammarError(f"{where}: an array needs maxItems")
    if kind in ("integer", "number") and (low is None or high is None):
        raise GrammarError(f"{where}: a number needs minimum and maximum")
    if kind == "number" and "multipleOf" not in schema:
        raise GrammarError(f"{where}: a number with a fraction needs multipleOf")
    if kind == "object" and schema.get("additionalProperties") is not False:
        raise GrammarError(f"{where}: an object needs additionalProperties: false")
    if kind == "object" and "patternProperties" in schema and "maxProperties" not in schema:
        raise GrammarError(f"{where}: an object of free keys needs maxProperties")


def _children(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for group in ("properties", "patternProperties"):
        for name, child in schema.get(group, {}).items():
            yield name, child
    for i, child in enumerate(schema.get("prefixItems", ())):
        yield f"prefixItems[{i}]", child
    if isinstance(schema.get("items"), Mapping):
        yield "items", schema["items"]


def _types(schema: Mapping[str, Any]) -> list[str]:
    declared = schema.get("type")
    if declared is not None:
        return [declared] if isinstance(declared, str) else list(declared)
    return sorted({kind for key, kind in _TYPES_OF.items() if key in schema})


def _bound(schema: Mapping[str, Any] | bool, root: Mapping[str, Any], seen: tuple[str, ...]) -> Json:
    """Return a bounded copy; ``seen`` holds the references being followed."""
    if isinstance(schema, bool):
        if schema:
            return _anything()
        raise GrammarError("a schema of false allows no value; leave the property out instead")
    if "$ref" in schema:
        pointer = schema["$ref"]
        if pointer in seen:
            raise GrammarError(f"schema: {pointer} contains itself; recursive schemas have no bound")
        return _bound(_resolve(pointer, root), root, (*seen, pointer))
    if "allOf" in schema:
        return _bound(_merge(schema, root), root, seen)
    copy = {key: value for key, value in schema.items() if key not in _ANNOTATIONS}
    if "enum" in copy or "const" in copy:
        return copy
    for key in ("anyOf", "oneOf"):
        if key in copy:
            copy[key] = [_bound(branch, root, seen) for branch in copy[key]]
    kinds = _types(copy)
    if not kinds and "anyOf" not in copy and "oneOf" not in copy:
        return copy if copy else _anything()
    if kinds:
        copy["type"] = kinds[0] if len(kinds) == 1 else kinds
    for kind in kinds:
        _bound_type(kind, copy, root, seen)
    if kinds == ["number"] and not _LIMITS & set(schema):
        return {"anyOf": [{"type": "integer", "minimum": -WHOLE, "maximum": WHOLE}, copy]}
    return copy


def _bound_type(kind: str, copy: Json, root: Mapping[str, Any], seen: tuple[str, ...]) -> None:
    """Add to ``copy``, in place, the bounds that values of type ``kind`` lack."""
    if kind == "string" and not _finite_pattern(copy.get("pattern")):
        copy.setdefault("maxLength", max(MAX_LENGTH, copy.get("minLength", 0)))
    elif kind == "array":
        copy.setdefault("maxItems", max(MAX_ITEMS, copy.get("minItems", 0)))
        copy.setdefault("items", True)
        if copy["items"] is not False:
            copy["items"] = _bound(copy["items"], root, seen)
        if "prefixItems" in copy:
            copy["prefixItems"] = [_bound(child, root, seen) for child in copy["prefixItems"]]
    elif kind in ("integer", "number"):
        _bound_number(copy, WHOLE if kind == "integer" else FRACTION_LIMIT)
        if kind == "number":
            copy.setdefault("multipleOf", STEP)
    elif kind == "object":
        _bound_object(copy, root, seen)


def _bound_number(copy: Json, limit: int) -> None:
    """Add the missing limits in place: ``limit`` either way, or that far from the one given."""
    low: float | None = copy.get("minimum", copy.get("exclusiveMinimum"))
    high: float | None = copy.get("maximum", copy.get("exclusiveMaximum"))
    if low is None:
        copy["minimum"] = -limit if high is None or high > -limit else high - limit
    if high is None:
        copy["maximum"] = limit if low is None or low < limit else low + limit


def _bound_object(copy: Json, root: Mapping[str, Any], seen: tuple[str, ...]) -> None:
    """Close an object in place; one without declared properties becomes a small free map."""
    extra = copy.pop("additionalProperties", "properties" not in copy)
    copy["additionalProperties"] = False
    patterns = dict(copy.get("patternProperties", {}))
    if copy.get("properties") or (extra is False and not patterns):
        copy.pop("patternProperties", None)
        copy["properties"] = {k: _bound(v, root, seen) for k, v in copy.get("properties", {}).items()}
        return
    value = next(iter(patterns.values()), extra)
    copy.pop("properties", None)
    copy["patternProperties"] = {next(iter(patterns), _KEY_PATTERN): _bound(value, root, seen)}
    copy.setdefault("maxProperties", MAX_KEYS)


def _anything() -> Json:
    """Return the schema that stands for "any value": a scalar, or a short list of texts."""
    text = {"type": "string", "maxLength": MAX_LENGTH}
    whole = {"type": "integer", "minimum": -WHOLE, "maximum": WHOLE}
    number = {"type": "number", "minimum": -FRACTION_LIMIT, "maximum": FRACTION_LIMIT, "multipleOf": STEP}
    scalars = [text, whole, number, {"type": "boolean"}, {"type": "null"}]
    return {"anyOf": [*scalars, {"type": "array", "items": {"anyOf": scalars}, "maxItems": MAX_ITEMS}]}


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


def _merge(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Json:
    """Return one schema for ``allOf``: properties and required add up, other keywords join."""
    merged: Json = {key: value for key, value in schema.items() if key != "allOf"}
    for part in schema["allOf"]:
        for _ in range(8):
            if "$ref" not in part:
                break
            part = _resolve(part["$ref"], root)
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
    """Say whether a regular expression plainly bounds the length of what it matches."""
    if pattern is None or not (pattern.startswith("^") and pattern.endswith("$")):
        return False
    skeleton = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "x", pattern)
    return not re.search(r"[*+]|\{\d+,\}|\|(?![^()]*\))", skeleton)
