"""When two answers are the same: one small set of rules for checks, suites and rewards.

Text is compared after Unicode NFKC, stripping, case folding and single inner white space; whatever
reads as a number is compared as one (30, "30", "30.0", "1,200"), within a relative 1e-6. Lists are
multisets, a scalar is a list of one, and a table of one column is that column. Limits: units,
currency signs and spelt-out numbers are text ("$5" is not 5).
"""

from __future__ import annotations

import json
import math
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

RELATIVE = 1e-6
"""Relative difference up to which two numbers are the same."""

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:e[-+]?\d+)?")


def normal_text(text: str) -> str:
    """Return ``text`` as it is compared: NFKC, stripped, case-folded, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def as_number(value: Any) -> float | None:
    """Return the number that ``value`` is or reads as, else None. Booleans are no numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        text = normal_text(value).replace("\u2212", "-")
        if not _NUMBER.fullmatch(text) or not any(character.isdigit() for character in text):
            return None
        value = text.replace(",", "")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def same(one: Any, other: Any) -> bool:
    """Return whether two scalars are the same answer."""
    left, right = as_number(one), as_number(other)
    if left is not None and right is not None:
        return math.isclose(left, right, rel_tol=RELATIVE, abs_tol=1e-12)
    return normal_text(as_text(one)) == normal_text(as_text(other))


def same_value(one: Any, other: Any) -> bool:
    """Return whether two JSON values are the same; lists in order, mappings by key."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_value(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_value, one, other))
    if isinstance(one, dict | list) or isinstance(other, dict | list):
        return False
    return same(one, other)


def same_items(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Return whether two lists of scalars are the same multiset."""
    if len(one) != len(other):
        return False
    left, right = Counter(map(_key, one)), Counter(map(_key, other))
    if left == right:
        return True
    rest = list((right - left).elements())
    for item in (left - right).elements():  # what is left over may still agree as numbers
        match = next((index for index, value in enumerate(rest) if same(item, value)), None)
        if match is None:
            return False
        rest.pop(match)
    return True


def _key(value: Any) -> float | str:
    number = as_number(value)
    return normal_text(as_text(value)) if number is None else number


def unwrap(value: Any) -> Any:
    """Return the scalar inside lists, rows and tables of one; anything else as it is."""
    items = as_items(value)
    return items[0] if len(items) == 1 and not isinstance(items[0], dict | list) else value


def as_items(value: Any) -> list[Any]:
    """Return a value as a list of scalars: a table's only column, a list, or a list of one."""
    if isinstance(value, dict) and isinstance(value.get("rows"), list):
        value = value["rows"]
    if not isinstance(value, list):
        return [value]
    flat: list[Any] = []
    for item in value:
        if isinstance(item, dict) and len(item) == 1:
            flat += item.values()
        elif isinstance(item, list) and len(item) == 1:
            flat += item
        else:
            flat.append(item)
    return flat


def as_text(value: Any) -> str:
    """Return a value as the text a person would read: numbers without ``.0``, lists with commas."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        return ", ".join(map(as_text, value))
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def same_command(one: str, other: str) -> bool:
    """Return whether two command lines have the same words, however quoted and spaced."""
    try:
        return shlex.split(one) == shlex.split(other)
    except ValueError:  # unbalanced quotes: only the text is left to compare
        return one.split() == other.split()


def token_f1(text: str, reference: str) -> float:
    """Return the F1 of shared words, 0 to 1, without case, punctuation and articles (as SQuAD)."""
    words, wanted = _words(text), _words(reference)
    if not words or not wanted:
        return float(words == wanted)
    shared = (Counter(words) & Counter(wanted)).total()
    return 2 * shared / (len(words) + len(wanted))


def _words(text: str) -> list[str]:
    bare = "".join(" " if unicodedata.category(c)[0] == "P" else c for c in normal_text(text))
    return [word for word in bare.split() if word not in ("a", "an", "the")]
