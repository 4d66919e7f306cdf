"""The allowed calls as a GBNF grammar, llama.cpp's own.

One call in compact JSON between the markers, arguments in the schema's order, as our grammar has it, so
that llama.cpp is asked for the same text. Its grammars cannot say everything: bounds of numbers are left
out, and lengths inside lists too (its parser refuses nested repetitions). The package's own converter is
not used: it puts required arguments first and allows white space, which costs tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from autogpt.llm.message import CallSpec
from autogpt.schemas import bound_schema

_BASE = r"""
char ::= [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt/] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F])
whole ::= "-"? ("0" | [1-9] [0-9]{0,15})
real ::= whole ("." [0-9]{1,16})?
any-value ::= "null" | "true" | "false" | real | "\"" char* "\""
"""
_LONGEST = 1900
"""llama.cpp refuses a repetition of more than 2000 rules."""


def call_grammar(calls: Sequence[CallSpec], opened: int, closed: int) -> str:
    """Return the grammar of one of ``calls``; ``opened`` and ``closed`` are the markers' token ids."""
    rules = _Rules()
    names = []
    for number, call in enumerate(calls):
        head = f'{{"name":{json.dumps(call.name, ensure_ascii=False)},"arguments":'
        arguments = rules.of(bound_schema(call.parameters), f"a{number}")
        names.append(f"call{number}")
        rules.add(f"call{number}", f'{_literal(head)} {arguments} "}}"')
    rules.add("root", f"<[{opened}]> ({' | '.join(names)}) <[{closed}]>")
    return rules.text()


class _Rules:
    """Grammar rules under construction."""

    def __init__(self) -> None:
        self._rules: dict[str, str] = {}

    def add(self, name: str, body: str) -> str:
        """Keep a rule; return its name."""
        self._rules[name] = body
        return name

    def text(self) -> str:
        """Return the whole grammar."""
        lines = [f"{name} ::= {body}" for name, body in self._rules.items()]
        return "\n".join(lines) + _BASE

    def of(self, schema: Mapping[str, Any] | bool, name: str, nested: bool = False) -> str:
        """Return an expression for values of ``schema``."""
        if isinstance(schema, bool):
            return "any-value"
        for key in ("const", "enum"):
            if key in schema:
                values = [schema[key]] if key == "const" else schema[key]
                texts = (json.dumps(v, ensure_ascii=False, separators=(",", ":")) for v in values)
                return self.add(name, " | ".join(_literal(text) for text in texts))
        branches = schema.get("anyOf") or schema.get("oneOf")
        kinds = schema.get("type")
        if branches is None and isinstance(kinds, list):
            branches = [{**schema, "type": kind} for kind in kinds]
        if branches:
            options = [self.of(branch, f"{name}-{i}", nested) for i, branch in enumerate(branches)]
            return self.add(name, " | ".join(options))
        match kinds:
            case "string":
                return self.add(name, _string(schema, nested))
            case "object":
                return self.add(name, self._object(schema, name, nested))
            case "array" if "prefixItems" in schema:
                parts = enumerate(schema["prefixItems"])
                items = [self.of(part, f"{name}-{i}", nested) for i, part in parts]
                joined = ' "," '.join(items)
                return self.add(name, f'"[" {joined} "]"')
            case "array":
                item = self.of(schema.get("items", {}), f"{name}-i", nested=True)
                least, most = int(schema.get("minItems", 0)), int(schema.get("maxItems", 20))
                more = f'("," {item}){{{max(0, least - 1)},{max(0, most - 1)}}}'
                inner = f"{item} {more}" if most > 1 else item
                return self.add(name, f'"[" {inner if least else f"({inner})?"} "]"')
        plain = {"integer": "whole", "number": "real", "boolean": '("true" | "false")', "null": '"null"'}
        return plain.get(str(kinds), "any-value")

    def _object(self, schema: Mapping[str, Any], name: str, nested: bool) -> str:
        """Arguments in the schema's order; ``rest`` rules say what may follow when some are optional."""
        fields = list(schema.get("properties", {}).items())
        required = set(schema.get("required", []))
        parts = []
        for number, (key, inner) in enumerate(fields):
            value = self.of(inner, f"{name}-{number}", nested)
            parts.append((f"{_literal(json.dumps(key, ensure_ascii=False) + ':')} {value}", key in required))
        # from the end: what may stand from field i on, after a comma is due (late) or not (first)
        late = first = '""'
        for number in reversed(range(len(parts))):
            body, needed = parts[number]
            here_late = f'"," {body} {late}' if needed else f'("," {body} {late} | {late})'
            here_first = f"{body} {late}" if needed else f"({body} {late} | {first})"
            late = self.add(f"{name}-l{number}", here_late)
            first = self.add(f"{name}-f{number}", here_first)
        return f'"{{" {first} "}}"'


def _string(schema: Mapping[str, Any], nested: bool) -> str:
    """A JSON string; a pattern is rewritten where it is of the simple kind that our tools use."""
    pattern = schema.get("pattern")
    if pattern is not None:
        return f'"\\"" {_pattern(str(pattern), nested)} "\\""'
    most = schema.get("maxLength", 400)
    many = "char*" if nested or most > _LONGEST else f"char{{{int(schema.get('minLength', 0))},{int(most)}}}"
    return f'"\\"" {many} "\\""'


_ATOM = re.compile(r"(\[\^?(?:\\.|[^\]])+\]|\(\.\|\\n\)|\.|\\.|[\w ,:;@#%&=~/-])(\{\d+,?\d*\}|[*+?])?")


def _pattern(pattern: str, nested: bool) -> str:
    """Rewrite a pattern of single characters and classes, each with its repetition."""
    rest = pattern.removeprefix("^").removesuffix("$")
    words = []
    while rest:
        found = _ATOM.match(rest)
        if found is None:
            return "char*"
        atom, times = found.group(1), found.group(2) or ""
        if atom in (".", r"(.|\n)"):
            atom = "char"
        elif atom.startswith("[^"):
            atom = atom[:-1] + r'"\\\x00-\x1F]'
        elif not atom.startswith("["):
            atom = _literal(atom[-1])
        words.append(atom + ("*" if nested and times.startswith("{") else times))
        rest = rest[found.end() :]
    return " ".join(words) or '""'


def _literal(text: str) -> str:
    """Quote a text for GBNF."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'
