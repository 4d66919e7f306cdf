"""The calculator: exact arithmetic by a small recursive-descent parser over fractions, no ``eval``.

Understands + - * / // ^ ( ), ``mod``, thousands separators (1,200), lists ([1, 2, 3] or a handle
such as $2 that the runner wrote out), and the functions in ``_FUNCTIONS``. Percent: ``15%`` is
0.15; ``15% of 80`` is 12; ``80 + 10%`` adds a tenth *of the left side* (88), likewise minus; a %
that is followed by a number is the remainder (7 % 3). ``round`` rounds halves away from zero.
Conversions and dates are in ``units.py``. Values are exact fractions; a result is an integer when
it is one, else a float of 12 significant digits. Sizes are capped so that nothing hangs.

    expr    = term (("+" | "-") term)*            term  = unary (("*" | "/" | "//" | "%" | "of") unary)*
    unary   = ("-" | "+") unary | power           power = postfix ("^" unary)?
    postfix = atom "%"?                           atom  = number | "(" expr ")" | list | function
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from statistics import median
from typing import Any

from ...errors import ToolError
from ...labels import Label
from ..base import Tool, ToolContext, ToolResult
from ..handles import text_form
from .units import convert_text, date_text

Value = Fraction | list[Fraction]

_MAX_BITS = 4096
_MAX_TEXT = 400_000
_MAX_DEPTH = 40
_WORDS = {
    "average": "mean", "avg": "mean", "total": "sum", "minimum": "min", "maximum": "max", "ceiling": "ceil",
}  # fmt: skip
_FUNCTIONS = {
    "round", "floor", "ceil", "abs", "sqrt", "min", "max", "sum", "mean", "median", "count", "percent",
}  # fmt: skip
_TOKEN = re.compile(r"\s*(?:(\d[\d,]*\.?\d*(?:[eE][-+]?\d+)?|\.\d+)|([A-Za-z_]+)|(//|[-+*/%^(),\[\]]))")
_ASKED = re.compile(r"(?:what is|what's|how much is|calculate|compute)\s+", re.IGNORECASE)
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "\u00a0": " "})


def tools() -> list[Tool]:
    """Return the family's one tool."""
    return [Calculator()]


class Calculator(Tool):
    """Value: an int, a float, an ISO date or the name of a weekday."""

    name = "calculator"
    description = "Compute numbers, percent, units, dates: 15% of $1, mean($2), 5 km in miles."
    parameters: Mapping[str, Any] = {
        "type": "object",
        "properties": {"expression": {"type": "string", "minLength": 1, "maxLength": 200}},
        "required": ["expression"],
        "additionalProperties": False,
    }
    expands = ("expression",)

    def run(self, args: Mapping[str, Any], ctx: ToolContext) -> ToolResult:
        """Work out ``expression``; the preview is ``42`` or ``3.1 miles``."""
        value, unit = calculate(args["expression"])
        return ToolResult(value, f"{text_form(value)}{unit and ' ' + unit}", label=Label.STRUCTURED)


def calculate(expression: object) -> tuple[int | float | str, str]:
    """Return (result, unit or ""); raise ``ToolError`` for what cannot be read or worked out."""
    text = text_form(expression).translate(_SIGNS).replace("**", "^").strip().rstrip("=?").strip()
    if asked := _ASKED.match(text):
        text = text[asked.end() :]
    if not text:
        raise ToolError("the expression is empty")
    if len(text) > _MAX_TEXT:
        raise ToolError("the expression is too long")
    if len(text) <= 1000:
        found = date_text(text)
        if found is not None:
            return found, ""
        converted = convert_text(text, evaluate)
        if converted is not None:
            return _plain(converted[0]), converted[1]
    if re.search(r"(?<!\d)\d{4}-\d\d-\d\d(?!\d)", text):
        raise ToolError("cannot read that about a date; write 2024-01-31 + 30 days, or days between A and B")
    return _plain(evaluate(text)), ""


def evaluate(text: str) -> Fraction:
    """Return the exact value of an arithmetic expression."""
    parser = _Parser(text)
    value = parser.expr()
    if parser.token.text:
        raise parser.unexpected()
    return _one(value)


def _plain(value: Fraction) -> int | float:
    if value.denominator == 1:
        return value.numerator
    try:
        number = float(f"{float(value):.12g}")
    except OverflowError:
        raise ToolError("the result is too large") from None
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


def _one(value: Value) -> Fraction:
    if isinstance(value, Fraction):
        return value
    if len(value) == 1:
        return value[0]
    raise ToolError(f"a list of {len(value)} numbers stands where one is needed; use sum, mean, max, ...")


def _sized(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise ToolError("the numbers become too large")
    return value


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int
    """Counted from 1."""


class _Parser:
    """One pass over one expression; positions are kept for error messages."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.depth = 0
        self.tokens = self._split()
        self.at = 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.at]

    def unexpected(self) -> ToolError:
        """Return the error for the token at hand."""
        shown = self.text if len(self.text) <= 80 else self.text[:77] + "..."
        if not self.token.text:
            return ToolError(f'cannot read "{shown}": it ends too early')
        token = self.token
        return ToolError(f'cannot read "{shown}": unexpected {token.text} at position {token.position}')

    def _split(self) -> list[_Token]:
        """Cut the text into tokens. Between the brackets of a function or list a comma separates;
        elsewhere it groups thousands."""
        tokens: list[_Token] = []
        brackets: list[bool] = []
        at, text = 0, re.sub(r"[$€£]\s*(?=[\d.])", lambda match: " " * len(match[0]), self.text)
        while at < len(text):
            match = _TOKEN.match(text, at)
            if not match:
                if not text[at:].strip():
                    break
                at += len(text[at:]) - len(text[at:].lstrip())
                self.tokens, self.at = [_Token("sign", text[at], at + 1)], 0
                raise self.unexpected()
            number, word, sign = match.groups()
            start = match.end() - len(number or word or sign)
            if number:
                grouped = re.match(r"\d{1,3}(,\d{3})+(?![\d,])", number)
                if "," in number and (any(brackets[-1:]) or not grouped):
                    number = number[: number.index(",")]
                tokens.append(_Token("number", number, start + 1))
                at = start + len(number)
                continue
            if sign in ("(", "["):
                called = bool(tokens) and tokens[-1].kind == "word" and tokens[-1].text in _FUNCTIONS
                brackets.append(sign == "[" or called or any(brackets[-1:]))
            elif sign in (")", "]") and brackets:
                brackets.pop()
            text_of = _WORDS.get(word.lower(), word.lower()) if word else sign
            tokens.append(_Token("word" if word else "sign", text_of, start + 1))
            at = match.end()
        return [*tokens, _Token("end", "", len(text) + 1)]

    def accept(self, *texts: str) -> str:
        """Take the token at hand if it is one of ``texts``; return it, or an empty string."""
        text = self.token.text
        if text and text in texts:
            self.at += 1
            return text
        return ""

    def expect(self, text: str) -> None:
        """Take exactly ``text``."""
        if not self.accept(text):
            raise self.unexpected()

    def expr(self) -> Value:
        """Sums. ``a + b%`` takes the percent of ``a``."""
        left = self.term()
        while sign := self.accept("+", "-"):
            start = self.at
            right = _one(self.term())
            if self._was_percent(start):
                right *= _one(left)
            left = _sized(_one(left) + (right if sign == "+" else -right))
        return left

    def _was_percent(self, start: int) -> bool:
        taken = self.tokens[start : self.at]
        return len(taken) == 2 and taken[0].kind == "number" and taken[1].text == "%"

    def term(self) -> Value:
        """Products, quotients, remainders and ``of``."""
        left = self.unary()
        while sign := self.accept("*", "/", "//", "%", "mod", "of", "x"):
            right = _one(self.unary())
            if sign in ("*", "of", "x"):
                left = _sized(_one(left) * right)
            elif right == 0:
                raise ToolError("division by zero")
            elif sign == "/":
                left = _sized(_one(left) / right)
            else:
                left = Fraction(_one(left) // right) if sign == "//" else _one(left) % right
        return left

    def unary(self) -> Value:
        """A sign before a power: -2^2 is -4."""
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise ToolError("the expression is nested too deeply")
        sign = self.accept("-", "+")
        value = self.unary() if sign else self.power()
        self.depth -= 1
        return -_one(value) if sign == "-" else value

    def power(self) -> Value:
        """Powers bind to the right: 2^3^2 is 2^9."""
        base = self.postfix()
        if self.accept("^"):
            return _power(_one(base), _one(self.unary()))
        return base

    def postfix(self) -> Value:
        """A percent sign that no operand follows."""
        value = self.atom()
        following = self.tokens[min(self.at + 1, len(self.tokens) - 1)]
        operand = following.kind == "number" or following.text in _FUNCTIONS or following.text in ("(", "[")
        if self.token.text == "%" and not operand:
            self.at += 1
            return _one(value) / 100
        return value

    def atom(self) -> Value:
        """A number, a bracket, a list or a function."""
        token = self.token
        if token.kind == "number":
            self.at += 1
            return _number(token.text)
        if self.accept("("):
            value = self.expr()
            self.expect(")")
            return value
        if self.accept("["):
            return self.items("]")
        if token.text in _FUNCTIONS:
            self.at += 1
            self.accept("of")
            if self.accept("("):
                return _call(token.text, self.items(")"))
            return _call(token.text, _listed(self.atom()))
        raise self.unexpected()

    def items(self, close: str) -> list[Fraction]:
        """Values separated by commas up to ``close``; lists are joined."""
        found: list[Fraction] = []
        if self.accept(close):
            return found
        while True:
            found.extend(_listed(self.expr()))
            if self.accept(close):
                return found
            self.expect(",")


def _listed(value: Value) -> list[Fraction]:
    return [value] if isinstance(value, Fraction) else value


def _number(text: str) -> Fraction:
    text = text.replace(",", "")
    _, _, exponent = text.lower().partition("e")
    if exponent and abs(int(exponent)) > 400:
        raise ToolError(f"{text} is too large or too small")
    return _sized(Fraction(text))


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if base == 0 and exponent < 0:
        raise ToolError("division by zero")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits > 1 and abs(exponent) * bits > _MAX_BITS:
        raise ToolError("the numbers become too large")
    if exponent.denominator == 1:
        return Fraction(base ** (exponent.numerator % 2 if bits <= 1 and base else exponent.numerator))
    if base < 0:
        raise ToolError("a root of a negative number is not real")
    root = _root(base, exponent.denominator) if exponent.denominator <= 64 else None
    if root is not None:
        return Fraction(root**exponent.numerator)
    with localcontext() as context:
        context.prec = 40
        power = Decimal(exponent.numerator) / exponent.denominator
        return _sized(Fraction((Decimal(base.numerator) / base.denominator) ** power))


def _root(base: Fraction, degree: int) -> Fraction | None:
    """Return the exact root if it is rational."""
    parts = []
    for number in (base.numerator, base.denominator):
        if degree == 2:
            guess = math.isqrt(number)
        elif number.bit_length() <= 900:
            guess = round(number ** (1 / degree))
        else:
            return None
        if guess**degree != number:
            return None
        parts.append(guess)
    return Fraction(parts[0], parts[1])


def _round(value: Fraction, digits: int) -> Fraction:
    scale = Fraction(10) ** digits
    size = (abs(value) * scale + Fraction(1, 2)) // 1
    return (-size if value < 0 else size) / scale


def _call(name: str, given: list[Fraction]) -> Fraction:
    if name == "count":
        return Fraction(len(given))
    if name == "sum":
        return _sized(sum(given, Fraction(0)))
    if not given:
        raise ToolError(f"{name} needs at least one number")
    if name in ("min", "max", "mean", "median"):
        if name == "mean":
            return _sized(sum(given, Fraction(0)) / len(given))
        return min(given) if name == "min" else max(given) if name == "max" else Fraction(median(given))
    return _of_one(name, given)


def _of_one(name: str, given: list[Fraction]) -> Fraction:
    """Functions of one number (two for ``round`` and ``percent``)."""
    wanted = {"round": (1, 2), "percent": (2,)}.get(name, (1,))
    if len(given) not in wanted:
        raise ToolError(f"{name} takes {' or '.join(map(str, wanted))} numbers, not {len(given)}")
    value = given[0]
    if name == "percent":
        if given[1] == 0:
            raise ToolError("division by zero")
        return value / given[1] * 100
    if name == "round":
        digits = given[1] if len(given) == 2 else Fraction(0)
        if digits.denominator != 1 or abs(digits) > 30:
            raise ToolError("round takes a whole number of digits up to 30")
        return _round(value, digits.numerator)
    if name == "sqrt":
        return _power(value, Fraction(1, 2))
    if name == "abs":
        return abs(value)
    return Fraction(math.floor(value) if name == "floor" else math.ceil(value))
