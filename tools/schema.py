"""JSON schemas for tools that were not written for us: references written out, everything bounded.

A schema becomes a grammar that a model must follow token by token, so a string, array or number
without a bound could go on for ever. Bounds that are given are kept. Limits: a schema that refers
to itself is refused, because its grammar would have no bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UsageError

MAX_STRING = 400
MAX_ITEMS = 20
MAX_NUMBER = 10**12
_NOISE = frozenset({"title", "$defs", "definitions", "$schema", "default", "examples", "example"})


def bounded(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object schema with references written out, bounds added and no extra arguments."""
    definitions = {**schema.get("definitions", {}), **schema.get("$defs", {})}
    result = _walk(schema, definitions, ())
    result.setdefault("type", "object")
    result.setdefault("properties", {})
    result["additionalProperties"] = False
    return result


def _walk(
    schema: Mapping[str, Any], definitions: Mapping[str, Any], inside: tuple[str, ...]
) -> dict[str, Any]:
    reference = schema.get("$ref")
    if isinstance(reference, str):
        name = reference.rsplit("/", 1)[-1]
        if name in inside or name not in definitions:
            problem = "refers to itself" if name in inside else "is not defined"
            raise UsageError(f"a tool's schema cannot be used: {name} {problem}")
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return _walk({**definitions[name], **rest}, definitions, (*inside, name))
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NOISE:
            continue
        if key == "properties" and isinstance(value, Mapping):
            result[key] = {name: _walk(item, definitions, inside) for name, item in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, Mapping):
            result[key] = _walk(value, definitions, inside)
        elif key in ("anyOf", "oneOf", "allOf", "prefixItems") and isinstance(value, list):
            result[key] = [_walk(item, definitions, inside) for item in value]
        else:
            result[key] = value
    _bound(result)
    return result


def _bound(schema: dict[str, Any]) -> None:
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "enum" in schema or "const" in schema:
        return
    if "string" in kinds and not {"pattern", "format"} & set(schema):
        schema.setdefault("maxLength", MAX_STRING)
    if "array" in kinds and "prefixItems" not in schema:
        schema.setdefault("maxItems", MAX_ITEMS)
    if "integer" in kinds or "number" in kinds:
        if not {"minimum", "exclusiveMinimum"} & set(schema):
            schema["minimum"] = -MAX_NUMBER
        if not {"maximum", "exclusiveMaximum"} & set(schema):
            schema["maximum"] = MAX_NUMBER
