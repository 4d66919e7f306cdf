"""Draws structured queries over a view, each with the sentence that asks for it.

One function per kind: look up, list, count, compute, the extreme one, the top few, the commonest,
the best group. A query is only a draft here; whether its answer is worth asking for is decided by
``generate``, which runs it with the tool itself. What can be seen from the cells alone (ties at the top,
a value that two columns hold) is refused here, because the tool's answer would hide it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from . import phrasing
from .conditions import Condition, answering, rows_met, spelt, together
from .fields import Field, View, called, measure_like

Query = dict[str, Any]


@dataclass(frozen=True)
class Draft:
    """A query with its question."""

    kind: str
    query: Query
    """Arguments of ``tables.query``."""
    question: str
    whole_table: bool = False
    """Whether the answer may come from every row: a mean over all is a question, a list of all is not."""


def draft(view: View, rng: random.Random) -> Draft | None:
    """Return a question over ``view``, or None when what was drawn does not suit it."""
    kind = rng.choices(tuple(_MAKERS), [weight for _, weight in _MAKERS.values()])[0]
    made = _MAKERS[kind][0](view, rng)
    if made is None or (view.joined and not _both_sides(view, made.query)):
        return None
    return made


def _both_sides(view: View, query: Query) -> bool:
    """Whether a query over a join needs both tables."""
    said = [*query["select"], *(str(item[0]) for item in query.get("where", ())), query.get("group_by", ""),
            query.get("order_by", "")]  # fmt: skip
    used = {item.side for item in view.fields for text in said if _names(text, item.name)}
    return used == {0, 1}


def _names(text: str, column: str) -> bool:
    return text in (column, f"{column} asc", f"{column} desc") or f"({column})" in text


def _conditions(view: View, rng: random.Random, share: float, avoid: str) -> list[Condition]:
    """Return no condition, one or two; a join always has one, on its other table."""
    if not view.joined and rng.random() > share:
        return []
    return answering(view, rng, 2 if rng.random() < 0.3 else 1, (avoid,))


def _where(conditions: list[Condition]) -> Query:
    return {"where": [list(item.triple) for item in conditions]} if conditions else {}


def _made(
    view: View,
    rng: random.Random,
    kind: str,
    query: Query,
    conditions: list[Condition],
    texts: Any,
    **slots: Any,
) -> Draft:
    """Put a query into words; ``conditions`` become one phrase after the noun that the slots name."""
    slots["where"] = " " + together(conditions, rng) if conditions else ""
    question = phrasing.sentence(view, rng, texts, **slots)
    return Draft(kind, {**view.query, **query}, question, whole_table=not conditions)


def _named(view: View, rng: random.Random) -> Field | None:
    """Return a field that names rows: a label or a key."""
    fields = [item for item in view.of("label", "key") if item.whole]
    return rng.choice(fields) if fields else None


def _measured(view: View, rng: random.Random) -> Field | None:
    fields = [item for item in view.fields if measure_like(item)]
    return rng.choice(fields) if fields else None


def _look_up(view: View, rng: random.Random) -> Draft | None:
    subject = _named(view, rng)
    targets = [item for item in view.fields if subject and item.name != subject.name]
    if subject is None or not targets:
        return None
    target, row = rng.choice(targets), rng.randrange(view.rows)
    value = subject.cells[row]
    if target.cells[row] is None or subject.cells.count(value) != 1:
        return None
    places = sum(any(cell == value for cell in item.cells) for item in view.fields)
    texts = phrasing.LOOK_UP_BARE if places == 1 and subject.text and rng.random() < 0.6 else phrasing.LOOK_UP
    query = {"select": [target.name], "where": [[subject.name, "=", value]]}
    question = phrasing.sentence(
        view, rng, texts, t=called(target.name, rng), s=called(subject.name, rng), v=spelt(value, rng)
    )
    return Draft("lookup", {**view.query, **query}, question)


def _list(view: View, rng: random.Random) -> Draft | None:
    subject = _named(view, rng)
    if subject is None or not subject.distinct:
        return None
    conditions = answering(view, rng, 2 if rng.random() < 0.35 else 1, (subject.name,))
    if not conditions:
        return None
    query = {"select": [subject.name], **_where(conditions)}
    return _made(view, rng, "list", query, conditions, phrasing.LIST, a=called(subject.name, rng))


def _count(view: View, rng: random.Random) -> Draft | None:
    conditions = answering(view, rng, 2 if rng.random() < 0.35 else 1)
    if not conditions:
        return None
    query = {"select": ["count(*)"], **_where(conditions)}
    return _made(view, rng, "count", query, conditions, phrasing.COUNT)


def _compute(view: View, rng: random.Random) -> Draft | None:
    function = rng.choice(("avg", "sum", "max", "min"))
    fields = view.of("measure") if function in ("avg", "sum") else view.of("measure", "year", "date")
    if not fields:
        return None
    item = rng.choice(fields)
    conditions = _conditions(view, rng, 0.65, item.name)
    query = {"select": [f"{function}({item.name})"], **_where(conditions)}
    texts = phrasing.COMPUTE[function] if item.role == "measure" else phrasing.WHEN[function]
    return _made(view, rng, "compute", query, conditions, texts, n=called(item.name, rng))


def _extreme(view: View, rng: random.Random, count: int = 1) -> Draft | None:
    subject, item = _named(view, rng), _measured(view, rng)
    if subject is None or item is None or not subject.distinct or subject.name == item.name:
        return None
    way = rng.choice(("desc", "asc"))
    conditions = _conditions(view, rng, 0.35, item.name)
    values = _kept(view, conditions, item)
    if values is None or len(values) <= count + 1:
        return None
    values.sort(reverse=way == "desc")
    if values[count - 1] == values[count]:
        return None
    query = {"select": [subject.name], **_where(conditions), "order_by": f"{item.name} {way}", "limit": count}
    kind, texts = ("extreme", phrasing.EXTREME) if count == 1 else ("top", phrasing.TOP)
    top = rng.choice(phrasing.TOP_WORDS["measure" if item.role == "measure" else "when"][way])
    return _made(view, rng, kind, query, conditions, texts, a=called(subject.name, rng),
                 n=called(item.name, rng), top=top, k=count)  # fmt: skip


def _top(view: View, rng: random.Random) -> Draft | None:
    return _extreme(view, rng, rng.randint(2, 5))


def _kept(view: View, conditions: list[Condition], item: Field) -> list[Any] | None:
    """Return the cells of a field in the rows that meet the conditions; None where one is empty."""
    cells = [item.cells[row] for row in rows_met(view, conditions)]
    return None if None in cells else cells


def _common(view: View, rng: random.Random) -> Draft | None:
    groups = [item for item in view.of("group") if item.whole]
    if not groups:
        return None
    item = rng.choice(groups)
    conditions = _conditions(view, rng, 0.4, item.name)
    values = _kept(view, conditions, item)
    way = rng.choice(("desc", "desc", "asc"))
    counts = Counter(str(value).casefold() for value in values or ())
    ranked = sorted(counts.values(), reverse=way == "desc")
    if len(ranked) < 2 or ranked[0] == ranked[1]:
        return None
    query = {"select": [item.name], **_where(conditions), "group_by": item.name,
             "order_by": f"count(*) {way}", "limit": 1}  # fmt: skip
    texts = phrasing.COMMON if way == "desc" else phrasing.RARE
    return _made(view, rng, "group", query, conditions, texts, g=called(item.name, rng))


def _best_group(view: View, rng: random.Random) -> Draft | None:
    groups, measures = [f for f in view.of("group") if f.whole], [f for f in view.of("measure") if f.whole]
    if not groups or not measures:
        return None
    group, item = rng.choice(groups), rng.choice(measures)
    function, way = rng.choice(("sum", "avg")), rng.choice(("desc", "desc", "asc"))
    conditions = _conditions(view, rng, 0.3, group.name)
    kept, values = _kept(view, conditions, group), _kept(view, conditions, item)
    if not kept or not values:
        return None
    totals: dict[str, list[float]] = {}
    for key, value in zip(kept, values, strict=True):
        totals.setdefault(str(key).casefold(), []).append(float(value))
    scores = [sum(found) / (len(found) if function == "avg" else 1) for found in totals.values()]
    scores.sort(reverse=way == "desc")
    if len(scores) < 2 or abs(scores[0] - scores[1]) <= 1e-6 * max(abs(scores[0]), 1.0):
        return None
    query = {"select": [group.name], **_where(conditions), "group_by": group.name,
             "order_by": f"{function}({item.name}) {way}", "limit": 1}  # fmt: skip
    return _made(view, rng, "group", query, conditions, phrasing.BEST_GROUP[function],
                 g=called(group.name, rng), n=called(item.name, rng),
                 top=rng.choice(phrasing.TOP_WORDS["measure"][way]))  # fmt: skip


Maker = Callable[[View, random.Random], Draft | None]
_MAKERS: Mapping[str, tuple[Maker, float]] = {
    "lookup": (_look_up, 3.0),
    "list": (_list, 3.0),
    "count": (_count, 3.0),
    "compute": (_compute, 3.0),
    "extreme": (_extreme, 2.0),
    "top": (_top, 1.0),
    "common": (_common, 1.0),
    "best group": (_best_group, 2.0),
}
"""How each kind is drawn, and how often."""
