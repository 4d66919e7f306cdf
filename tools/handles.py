"""Values by reference: ``$2`` in an argument refers to the exact result of an earlier call.

A whole-string handle gives the value itself, of any JSON type. ``{$2}`` inside a longer string
gives its text. Bare ``$2`` inside a longer string means nothing, so that "$5 off" stays what it
is, except in the arguments that a tool names in ``Tool.expands`` (the calculator's expression),
where it becomes a number, a date or a list of numbers. All functions are pure.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from ..errors import ToolError

_WHOLE = re.compile(r"\s*\{?\$(\d{1,4})\}?\s*")
_BRACED = re.compile(r"\{\$(\d{1,4})\}")
_BARE = re.compile(r"\{\$(\d{1,4})\}|\$(\d{1,4})(?!\d|[.,]\d)")
_NUMBER = re.compile(r"[-+]?(\d[\d,]*)?\.?\d+([eE][-+]?\d+)?%?")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_MAX_LIST = 20000


def resolve(
    arguments: Mapping[str, Any], values: Mapping[str, Any], expand: Collection[str] = ()
) -> dict[str, Any]:
    """Return ``arguments`` with handles replaced by ``values`` (keys ``"$1"``, ``"$2"``, ...).

    ``expand`` names the arguments in which bare handles are written out as numbers. Raises
    ``ToolError`` for a handle that does not exist.
    """
    return {
        name: _expand(value, values) if name in expand and isinstance(value, str) else _replace(value, values)
        for name, value in arguments.items()
    }


def text_form(value: Any) -> str:
    """Return the text of a JSON value, as it goes into a file or an answer.

    Text as it is; 3.0 as ``3``; true and false as JSON; null as nothing; a list one item per
    line, its rows as CSV, its objects as JSON lines; an object as compact JSON.
    """
    if isinstance(value, list | tuple):
        return "\n".join(_line(item) for item in value)
    if isinstance(value, Mapping):
        return _json(value)
    return _scalar(value)


def _line(item: Any) -> str:
    if isinstance(item, list | tuple):
        if len(item) == 1:
            return _line(item[0])
        out = io.StringIO()
        csv.writer(out, lineterminator="").writerow([_line(cell) for cell in item])
        return out.getvalue()
    return text_form(item)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _scalar(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e16:
        return str(int(value))
    return str(value)


def _lookup(number: str, values: Mapping[str, Any]) -> Any:
    handle = f"${int(number)}"
    if handle not in values:
        known = ", ".join(list(values)[-12:]) or "none"
        raise ToolError(f"there is no {handle}; handles so far: {known}")
    return values[handle]


def _replace(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, str):
        whole = _WHOLE.fullmatch(value)
        if whole:
            return _lookup(whole[1], values)
        return _BRACED.sub(lambda match: text_form(_lookup(match[1], values)), value)
    if isinstance(value, Mapping):
        return {key: _replace(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace(item, values) for item in value]
    return value


def _expand(text: str, values: Mapping[str, Any]) -> str:
    def literal(match: re.Match[str]) -> str:
        number = match[1] or match[2]
        return _literal(f"${int(number)}", _lookup(number, values))

    return _BARE.sub(literal, text)


def _literal(handle: str, value: Any) -> str:
    """Write a value as a calculator literal: a number, a date or a list of numbers."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        return _atom(handle, value)
    items: list[Any] = []
    for row in value:
        cells = list(row.values()) if isinstance(row, Mapping) else row
        if isinstance(cells, list | tuple) and len(cells) != 1 and len(value) != 1:
            raise ToolError(f"{handle} has {len(cells)} columns; the calculator takes one column of numbers")
        items.extend(cells if isinstance(cells, list | tuple) else [cells])
    items = [item for item in items if item is not None and item != ""]
    if len(items) > _MAX_LIST:
        raise ToolError(f"{handle} holds {len(items)} values; the calculator takes at most {_MAX_LIST}")
    if len(items) == 1:
        return _atom(handle, items[0])
    return "[" + ", ".join(_atom(handle, item) for item in items) + "]"


def _atom(handle: str, value: Any) -> str:
    text = _scalar(value).strip()
    if not isinstance(value, bool) and _NUMBER.fullmatch(text):
        text = text.replace(",", "")
        return f"({text})" if text[0] in "+-" or "e" in text.lower() or text.endswith("%") else text
    if _DATE.fullmatch(text):
        return text
    shown = text if len(text) <= 40 else text[:40] + "..."
    raise ToolError(f'{handle} holds "{shown}", which is not a number')


def with_handles(schema: Mapping[str, Any], handles: tuple[str, ...]) -> Mapping[str, Any]:
    """Return an object schema whose properties also accept one of ``handles`` as a whole value.

    Free strings can spell a handle anyway and stay as they are.
    """
    properties = schema.get("properties", {})
    if not handles or not properties:
        return schema
    choice = {"type": "string", "enum": list(handles)}
    open_text = {name for name, item in properties.items() if _is_free_text(item)}
    widened = {
        name: item if name in open_text else {"anyOf": [item, choice]} for name, item in properties.items()
    }
    return {**schema, "properties": widened}


def _is_free_text(item: Mapping[str, Any]) -> bool:
    return item.get("type") == "string" and not {"enum", "const", "pattern", "format"} & set(item)
