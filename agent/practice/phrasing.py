"""The English of practice questions: several sentences per kind, filled from names and cells.

``{rows}`` and ``{row}`` are what the table's rows are called, ``{where}`` is the conditions' phrase
with a blank before it (or nothing), ``{s} {t} {a} {g} {n}`` are columns, ``{v}`` is a cell. The
sentences differ from those of the training episodes on purpose: practice should not teach a form.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from .fields import View, rows_of

LOOK_UP = (
    "What {t} goes with {s} {v}?",
    "Tell me the {t} for {s} {v}.",
    "I need the {t} of {s} {v}.",
    "For {s} {v}, which {t} is given?",
    "Look up {s} {v} and give me its {t}.",
    "What is recorded as {t} for the {row} whose {s} is {v}?",
)
LOOK_UP_BARE = (
    "What {t} does {v} have?",
    "{v}: what is the {t}?",
    "Which {t} is listed for {v}?",
    "Please look up the {t} of {v}.",
    "Can you find {v} and tell me its {t}?",
)
LIST = (
    "Give me the {a} of all {rows}{where}.",
    "Which {a} values belong to {rows}{where}?",
    "I want every {a} from the {rows}{where}.",
    "Go through the {rows}{where} and list each {a}.",
    "Collect the {a} of each {row}{where}.",
    "What are the {a} entries of the {rows}{where}?",
)
COUNT = (
    "How many {rows} are there{where}?",
    "Give me the number of {rows}{where}.",
    "Tell me how many {rows} I have{where}.",
    "What number of {rows} do we have{where}?",
    "Please count all {rows}{where}.",
    "The {rows}{where}: how many is that?",
)
COMPUTE = {
    "avg": (
        "On average, how big is the {n} of the {rows}{where}?",
        "Work out the mean {n} over all {rows}{where}.",
        "What does the {n} come to on average for {rows}{where}?",
        "Give me the average of {n} across {rows}{where}.",
    ),
    "sum": (
        "What do the {n} figures of all {rows}{where} add up to?",
        "Sum the {n} over every {row}{where}.",
        "Taken together, how much {n} do the {rows}{where} have?",
        "I need the {n} total of the {rows}{where}.",
    ),
    "max": (
        "How high does the {n} go among {rows}{where}?",
        "What is the top {n} of any {row}{where}?",
        "Find the biggest {n} in the {rows}{where}.",
        "Among all {rows}{where}, what is the {n} at its highest?",
    ),
    "min": (
        "How low does the {n} get among {rows}{where}?",
        "What is the least {n} of any {row}{where}?",
        "Find the smallest {n} in the {rows}{where}.",
        "Among all {rows}{where}, what is the {n} at its lowest?",
    ),
}
WHEN = {
    "max": ("What is the latest {n} of any {row}{where}?", "Find the most recent {n} in the {rows}{where}."),
    "min": (
        "What is the earliest {n} of any {row}{where}?",
        "Find the first {n} in time among {rows}{where}.",
    ),
}
EXTREME = (
    "Of the {rows}{where}, the one with the {top} {n}: what is its {a}?",
    "Find the {row} that has the {top} {n}{among} and give me its {a}.",
    "Whose {n} is {top}{among}? Answer with the {a}.",
    "Looking at {n}, which {a} is {top}{among}?",
    "Sort by {n}: which {a} has the {top} value{among}?",
)
TOP = (
    "Which {k} {a} values have the {top} {n}{among}?",
    "Name the {a} of the {k} {rows} with the {top} {n}{among}.",
    "I want the {k} {a} entries whose {n} is {top}{among}.",
    "By {n}, what are the {k} {top} ones{among}? List the {a}.",
)
TOP_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "measure": {
        "desc": ("highest", "largest", "greatest", "biggest"),
        "asc": ("lowest", "smallest"),
    },
    "when": {"desc": ("latest", "most recent"), "asc": ("earliest", "oldest")},
}
COMMON = (
    "Which {g} comes up in the most {rows}{where}?",
    "What {g} do we see most frequently in the {rows}{where}?",
    "Group the {rows}{where} by {g}: which group is the largest?",
    "Counting {rows}{where} for each {g}, which one comes first?",
)
RARE = (
    "Which {g} comes up in the fewest {rows}{where}?",
    "What {g} do we see least frequently in the {rows}{where}?",
    "Group the {rows}{where} by {g}: which group is the smallest?",
)
BEST_GROUP = {
    "sum": (
        "Add up {n} for each {g}{among}: which {g} ends up with the {top} sum?",
        "Totalling the {n} of the {rows}{where} by {g}, which {g} has the {top} total?",
        "Per {g}, sum the {n} of all {rows}{where}. Give the {g} with the {top} sum.",
    ),
    "avg": (
        "Which {g} has the {top} mean {n}{among}?",
        "Average the {n} per {g}{among}: which {g} has the {top} average?",
        "Taking the mean {n} of the {rows}{where} per {g}, which {g} has the {top}?",
    ),
}


def sentence(view: View, rng: random.Random, texts: Sequence[str], **slots: object) -> str:
    """Return one of ``texts`` filled in, about a third of the time with the file's name.

    Where several tables stand in one place, the table is always named.
    """
    row, rows = rows_of(view.title, rng)
    if row in slots.values():  # "the order of an order"
        row, rows = rows_of("", rng)
    where = str(slots.pop("where", ""))
    among = f" among the {rows}{where}" if where else ""
    text = rng.choice(texts).format(row=row, rows=rows, where=where, among=among, **slots)
    if text.split(" ", 1)[0] in _ORDERS and rng.random() < 0.2:
        text = "Please " + _lower(text)
    name = _place(view, rng)
    if name:
        lead, tail = f"{rng.choice(('In', 'According to', 'Using'))} {name}, ", f" (see {name}){text[-1]}"
        text = lead + _lower(text) if rng.random() < 0.6 else text[:-1] + tail
    return _lower(text.rstrip(".?")) if rng.random() < 0.12 else text


def _place(view: View, rng: random.Random) -> str:
    if view.joined:
        return ""
    if view.source is not None:
        return f"the {view.source} table"
    return PurePosixPath([*view.inputs, *view.files][0]).name if rng.random() < 0.35 else ""


def _lower(text: str) -> str:
    """Return a sentence with a small first letter, unless it begins with a name."""
    first = text.split(" ", 1)[0]
    known = first.isalpha() and first != "I" and (first.istitle() or first.islower())
    return text[:1].lower() + text[1:] if known and first.lower() in _STARTS else text


_ORDERS = frozenset(
    ("Tell", "Look", "Give", "Go", "Collect", "Work", "Sum", "Find", "Name", "Add", "Average")
)
_STARTS = frozenset(
    re.findall(
        r"\w+",
        "what tell for look which please can give go collect how work sum taken taking find among of whose "
        "looking sort name by group counting add totalling per average on the count",
    )
)
