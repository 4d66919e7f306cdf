"""Filters for practice questions: a condition as the query takes it, and two ways to say it.

What is said depends on the type: amounts are "above", years and dates "after", a month of dates is
"in March 2024". Each condition has the form of a clause ("days late is above 3") and of an attribute
("days late above 3"), so that several can stand in one sentence.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from .fields import Field, View, called, sorted_cells

_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
           "November", "December")  # fmt: skip
_SAID: dict[str, dict[str, tuple[str, ...]]] = {
    "measure": {
        ">": ("above {v}", "over {v}", "greater than {v}", "more than {v}", "beyond {v}"),
        ">=": ("at least {v}", "{v} or more", "no less than {v}", "not under {v}"),
        "<": ("below {v}", "under {v}", "less than {v}", "smaller than {v}"),
        "<=": ("at most {v}", "{v} or less", "no more than {v}", "not over {v}"),
    },
    "year": {
        ">": ("after {v}", "later than {v}"),
        ">=": ("{v} or later", "not before {v}"),
        "<": ("before {v}", "earlier than {v}"),
        "<=": ("{v} or earlier", "not after {v}"),
    },
}
_SAID["date"] = _SAID["year"]


@dataclass(frozen=True)
class Condition:
    """One filter: the query's triple, and how it is said."""

    triple: tuple[str, str, Any]
    clause: str
    """As after "where": ``status is late``."""
    attribute: str
    """As after "with": ``status late``."""
    side: int = 0


def draw(
    view: View, rng: random.Random, avoid: Collection[str] = (), side: int | None = None
) -> Condition | None:
    """Return a condition on a field not in ``avoid`` (of one ``side`` of a join), or None."""
    fields = [
        item
        for item in view.of("group", "label", "measure", "year", "date")
        if item.name not in avoid and (side is None or item.side == side)
    ]
    if not fields:
        return None
    weights = [{"group": 5.0, "label": 1.0, "measure": 3.0, "year": 3.0, "date": 3.0}[f.role] for f in fields]
    chosen = rng.choices(fields, weights)[0]
    if chosen.role in ("group", "label"):
        return _equal(chosen, rng)
    if chosen.role == "date" and rng.random() < 0.6:
        return _month(chosen, rng)
    return _compare(chosen, rng)


def _equal(item: Field, rng: random.Random) -> Condition | None:
    value = rng.choice([cell for cell in item.cells if cell is not None])
    column, said = called(item.name, rng), spelt(value, rng)
    if item.role == "group" and rng.random() < 0.1:
        return Condition(
            (item.name, "!=", value), f"{column} is not {said}", f"{column} other than {said}", item.side
        )
    return Condition((item.name, "=", value), f"{column} is {said}", f"{column} {said}", item.side)


def _month(item: Field, rng: random.Random) -> Condition | None:
    months = Counter(str(cell)[:7] for cell in item.cells if cell is not None)
    if len(months) < 2:
        return None
    month = rng.choice(sorted(months))
    year, number = month.split("-")
    said = f"in {_MONTHS[int(number) - 1]} {year}"
    column = called(item.name, rng)
    return Condition((item.name, "contains", month), f"{column} is {said}", f"{column} {said}", item.side)


def _compare(item: Field, rng: random.Random) -> Condition | None:
    """Compare with a bound that between a twentieth and seven tenths of the rows meet."""
    cells = sorted_cells(item)
    operator = rng.choice((">", ">", "<", ">=", "<="))
    share = rng.uniform(0.05, 0.7)
    place = int(len(cells) * (1 - share if operator[0] == ">" else share))
    bound = cells[min(place, len(cells) - 1)]
    if item.role == "measure":
        bound = _round(bound, cells, rng)
    column = called(item.name, rng)
    phrase = rng.choice(_SAID[item.role][operator]).format(v=bound)
    return Condition((item.name, operator, bound), f"{column} is {phrase}", f"{column} {phrase}", item.side)


def _round(value: Any, cells: Sequence[Any], rng: random.Random) -> Any:
    """Return a number that people would take for a bound, near ``value`` in the scale of ``cells``."""
    if rng.random() < 0.3:
        return value
    spread = float(cells[-1] - cells[0])
    unit = 10.0 ** (len(str(int(spread))) - 2) if spread >= 10 else 1.0 if spread >= 4 else 0.0
    if unit < 1 or not unit:
        return value
    rounded = round(value / unit) * unit
    return int(rounded) if float(rounded).is_integer() else rounded


def spelt(value: Any, rng: random.Random) -> str:
    """Return a cell as a question writes it: in quotes where it would not read as one name."""
    text = str(value)
    odd = not re.fullmatch(r"[\w .&/'-]+", text) or text.casefold() in ("yes", "no", "true", "false", "none")
    return f'"{text}"' if odd or rng.random() < 0.1 else text


def together(conditions: Sequence[Condition], rng: random.Random) -> str:
    """Return the conditions as one phrase after a noun: ``where a is b and c is above 3``."""
    if rng.random() < 0.5:
        return rng.choice(("where ", "for which ")) + " and ".join(item.clause for item in conditions)
    lead = rng.choice(("with ", "with ", "having "))
    return lead + " and ".join(item.attribute for item in conditions)


def answering(view: View, rng: random.Random, most: int, avoid: Collection[str] = ()) -> list[Condition]:
    """Return up to ``most`` conditions on different fields, none of which could be left out.

    Of a join the first is on its other table. Empty where nothing suits.
    """
    first = draw(view, rng, avoid, 1 if view.joined else None)
    if first is None:
        return []
    found = [first]
    while len(found) < most:
        another = draw(view, rng, {*avoid, *(item.triple[0] for item in found)})
        if another is None:
            break
        found.append(another)
    kept = len(rows_met(view, found))
    needless = any(len(rows_met(view, [c for c in found if c is not left])) == kept for left in found)
    return [] if needless else found


def rows_met(view: View, conditions: Sequence[Condition]) -> list[int]:
    """Return the numbers of the rows that meet all conditions."""
    columns = {item.name: item.cells for item in view.fields}
    tests = [(columns[c.triple[0]], c.triple[1], c.triple[2]) for c in conditions]
    return [row for row in range(view.rows) if all(meets(cells[row], o, v) for cells, o, v in tests)]


def meets(cell: Any, operator: str, value: Any) -> bool:
    """Whether a cell meets a condition, as the tool's SQL has it: text without regard to case."""
    if cell is None:
        return False
    if isinstance(cell, str):
        cell, value = cell.lower(), str(value).lower()
    match operator:
        case "=":
            return bool(cell == value)
        case "!=":
            return bool(cell != value)
        case "contains":
            return value in cell
        case ">" | ">=":
            return bool(cell > value or (operator == ">=" and cell == value))
        case _:
            return bool(cell < value or (operator == "<=" and cell == value))
