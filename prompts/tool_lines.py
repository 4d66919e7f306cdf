"""How a tool is described to a model: by the names of its arguments, or by a typed signature.

``names`` is what the first models were trained on. ``typed`` gives types, choices and defaults in Python's
notation and, below, what is known of each argument, so that a tool can be used unseen. Which form a model
gets depends on how it was trained (:mod:`autogpt.prompts`).

Limits: nested objects are shown to a depth of three; of long enumerations only the first entries are shown,
since the grammar (or the check of the call) holds the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Form = Literal["names", "typed"]

_TYPES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
_CHOICES = 12
"""Entries of an enumeration that are shown."""
_DEPTH = 3
_DESCRIPTION = 240
"""Most characters of a tool's description in the typed form."""
_ARGUMENT = 140
"""Most characters of an argument's description."""


@dataclass(frozen=True)
class Shown:
    """A tool's line as templates write it: ``signature: description``."""

    signature: str
    description: str

    @property
    def text(self) -> str:
        """The whole line (more than one where arguments are described)."""
        return f"{self.signature}: {self.description}"


@dataclass(frozen=True)
class ToolLine:
    """A tool as a prompt can show it."""

    name: str
    parameters: Mapping[str, Any]
    description: str

    @property
    def signature(self) -> str:
        """``name(a, b?)``; a question mark says that an argument may be left out."""
        required = set(self.parameters.get("required", ()))
        names = [key if key in required else f"{key}?" for key in self.parameters.get("properties", {})]
        return f"{self.name}({', '.join(names)})"

    def shown(self, form: Form) -> Shown:
        """Return the tool in ``form``."""
        if form == "names":
            return Shown(self.signature, self.description)
        properties: Mapping[str, Any] = self.parameters.get("properties", {})
        required = set(self.parameters.get("required", ()))
        arguments = [_argument(name, schema, name in required) for name, schema in properties.items()]
        lines = [_clip(self.description, _DESCRIPTION)]
        for name, schema in properties.items():
            if isinstance(schema, Mapping) and (about := str(schema.get("description") or "").strip()):
                lines.append(f"  {name}: {_clip(about, _ARGUMENT)}")
        return Shown(f"{self.name}({', '.join(arguments)})", "\n".join(lines))


def _argument(name: str, schema: Any, required: bool) -> str:
    """Return ``name: type``, with ``?`` after the name or a default where it may be left out."""
    default = schema.get("default") if isinstance(schema, Mapping) else None
    mark = "" if required or default is not None else "?"
    ending = "" if required or default is None else f" = {json.dumps(default, ensure_ascii=False)}"
    return f"{name}{mark}: {_type(schema, _DEPTH)}{ending}"


def _type(schema: Any, depth: int) -> str:
    """Return a JSON schema as a type in Python's notation, choices as literals."""
    if not isinstance(schema, Mapping) or not depth:
        return "Any"
    if "const" in schema:
        return json.dumps(schema["const"], ensure_ascii=False)
    if "enum" in schema:
        return _choices(schema["enum"])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " | ".join(dict.fromkeys(_type(one, depth) for one in schema[key]))
    kind = schema.get("type")
    if isinstance(kind, list):
        return " | ".join(dict.fromkeys(_type({**schema, "type": one}, depth) for one in kind))
    if kind == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(_type(one, depth - 1) for one in schema['prefixItems'])}]"
        return f"list[{_type(schema.get('items', {}), depth - 1)}]"
    if kind == "object" or "properties" in schema:
        return _object(schema, depth)
    return _TYPES.get(str(kind), "Any")


def _object(schema: Mapping[str, Any], depth: int) -> str:
    needed = set(schema.get("required", ()))
    properties: Mapping[str, Any] = schema.get("properties") or {}
    inner = [
        f"{name}{'' if name in needed else '?'}: {_type(one, depth - 1)}" for name, one in properties.items()
    ]
    return f"{{{', '.join(inner)}}}" if inner else "dict"


def _choices(values: Sequence[Any]) -> str:
    shown = [json.dumps(value, ensure_ascii=False) for value in values[:_CHOICES]]
    return " | ".join(shown + ["..."] * (len(values) > _CHOICES))


def _clip(text: str, longest: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"
