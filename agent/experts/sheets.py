"""Made-up tables (sales, stock, staff, trips, ...) and the working out of what an expert does with them.

Names and numbers are drawn at random; what a query or a computation gives comes from running it, so
that checks hold the exact outcome. Values go from call to call as handles.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from ...llm.message import ToolCall
from ...tools.calculator.calculator import calculate
from ...tools.handles import resolve, text_form
from .expert import call
from .files import PEOPLE
from .tables import retitled, run_query, simple_name, table_csv

Query = dict[str, Any]
Check = dict[str, Any]
STATISTICS = {
    "avg": ("average", "mean"),
    "sum": ("total", "sum of"),
    "max": ("highest", "maximum"),
    "min": ("lowest", "minimum"),
}
"""Aggregates and what people call them."""


@dataclass(frozen=True)
class Sheet:
    """A made-up table: its file name, and how its columns are called."""

    name: str
    table: dict[str, Any]
    entity: str
    """The column that names a row's subject."""
    group: str
    """A text column with few values."""
    numbers: tuple[str, ...]


_KINDS: tuple[tuple[str, str, tuple[str, ...], str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("sales", "product", ("lamp", "chair", "desk", "sofa", "shelf", "mirror", "rug", "clock", "vase",
                          "stool"),
     "region", ("north", "south", "east", "west"), ("units", "price")),
    ("stock", "article", ("bolt", "nut", "washer", "hinge", "screw", "bracket", "nail", "spring", "gasket",
                          "valve"),
     "warehouse", ("Alpha", "Beta", "Gamma"), ("quantity", "weight")),
    ("staff", "employee", tuple(person.split()[0] for person in PEOPLE),
     "department", ("Finance", "Support", "Research", "Legal"), ("salary", "age", "overtime")),
    ("trips", "driver", ("Kowalski", "Jensen", "Moreau", "Okafor", "Tanaka", "Weber", "Rossi", "Lind"),
     "vehicle", ("van", "truck", "bike"), ("distance", "fuel")),
    ("orders", "customer", ("Acme", "Borealis", "Cirrus", "Dynamo", "Everest", "Fjord", "Granite", "Helix"),
     "status", ("paid", "open", "late"), ("amount", "items")),
    ("harvest", "field", ("Hill", "River", "Oak", "Mill", "Stone", "Lake", "Pine", "Sun"),
     "crop", ("wheat", "barley", "corn", "oats"), ("tons", "hectares")),
    ("matches", "team", ("Lions", "Sharks", "Eagles", "Wolves", "Bears", "Hawks", "Tigers", "Foxes"),
     "stadium", ("Park", "Arena", "Dome"), ("goals", "visitors")),
    ("projects", "task", ("design", "coding", "testing", "review", "launch", "training", "research",
                          "support"),
     "owner", ("Kim", "Lee", "Sara", "Tom"), ("hours", "cost")),
    ("library", "title", ("Dune", "Emma", "Ulysses", "Beloved", "Walden", "Persuasion", "Solaris",
                          "Middlemarch"),
     "genre", ("novel", "science", "poetry"), ("pages", "loans")),
)  # fmt: skip


def sheet(rng: random.Random) -> Sheet:
    """Return a random table of 5 to 20 rows."""
    name, entity, names, group, groups, numbers = rng.choice(_KINDS)
    rows = []
    for number in range(rng.randint(5, 20)):
        subject = names[number % len(names)] if rng.random() < 0.5 else rng.choice(names)
        values = [rng.randint(1, 900) for _ in numbers]
        rows.append([subject, rng.choice(groups), *values])
    header = [entity, group, *numbers]
    types = ["text", "text", *["integer"] * len(numbers)]
    table: dict[str, Any] = {"header": header, "types": types, "rows": rows, "title": name}
    if rng.random() < 0.25:
        table = {**retitled(table), "title": name}
        entity, group, *rest = table["header"]
        numbers = tuple(rest)
    suffix = rng.choice(("", "", "_2024", "_list", "_data", "s_may"))
    return Sheet(f"{name}{suffix}", table, entity, group, numbers)


def target_name(rng: random.Random) -> str:
    """Return the name of a file to write."""
    return (
        rng.choice(
            ("answer", "result", "total", "out", "value", "winner", "summary", "final", "report", "best")
        )
        + ".txt"
    )


def sheet_files(*items: Sheet) -> dict[str, str]:
    """Return the sheets as CSV files of a workspace."""
    return {f"{item.name}.csv": table_csv(item.table) for item in items}


class Work:
    """Works out the expert's calls and what they give, so that checks hold the exact outcome.

    ``base`` is how many handles exist before the first call.
    """

    def __init__(self, base: int) -> None:
        self.base = base
        self.values: dict[str, Any] = {}
        self.calls: list[ToolCall] = []

    def add(self, made: ToolCall, value: Any) -> str:
        """Add a call that gives ``value``; return its handle."""
        self.calls.append(made)
        handle = f"${self.base + len(self.calls)}"
        self.values[handle] = value
        return handle

    def query(self, item: Sheet, query: Query) -> str:
        """Add a query of a sheet."""
        made = call("tables.query", table=simple_name(item.name), **query)
        return self.add(made, run_query(query, item.table))

    def compute(self, expression: str) -> str:
        """Add a computation; handles in the expression stand for numbers."""
        exact = resolve({"e": expression}, self.values, ("e",))["e"]
        return self.add(call("calculator", expression=expression), calculate(exact)[0])

    def write(self, path: str, content: str) -> str:
        """Add the writing of a file."""
        return self.add(call("files.write", path=path, content=content), path)

    def file_check(self, path: str, content: str) -> Check:
        """Return the check that the file holds what ``content`` (a handle) stands for."""
        text = text_form(resolve({"c": content}, self.values)["c"])
        return {"file": {"path": path, "equals": text}}
