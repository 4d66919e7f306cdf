"""The roles of a table's columns, and what people would call them.

A column's role decides which questions make sense: a key is looked up but never added up, a year is
"after" and not "above", a group is counted. Roles come from cells and names, by rules that would rather
leave a column out than ask nonsense about it: names that nobody could say, two columns of one name,
long texts and empty columns are left out.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ...tools.base import ToolContext

Role = Literal["key", "label", "group", "measure", "year", "date"]
Cell = str | int | float | None

LONGEST_NAME = 40
LONGEST_CELL = 50
_ID = re.compile(r"(^|[ _.-])(id|ids|no|nr|num|number|key|code|zip|postcode|phone|index|rank|#)$", re.I)
_DATE = re.compile(r"(1\d|20)\d\d-(0[1-9]|1[0-2])-([0-2]\d|3[01])")


@dataclass(frozen=True)
class Field:
    """One column that may be asked about."""

    name: str
    """As queries name it."""
    role: Role
    cells: tuple[Cell, ...]
    """In the order of the rows."""
    side: int = 0
    """Which table of a join it comes from: 0 or 1."""

    @property
    def whole(self) -> bool:
        """Whether no cell is empty."""
        return None not in self.cells

    @property
    def text(self) -> bool:
        """Whether cells are text."""
        return any(isinstance(cell, str) for cell in self.cells)

    @property
    def distinct(self) -> bool:
        """Whether no two cells are the same, without regard to case."""
        return len({str(cell).casefold() for cell in self.cells}) == len(self.cells)


@dataclass(frozen=True)
class View:
    """One table, or two joined ones, as questions see it."""

    query: Mapping[str, str]
    """The part of the arguments that says where to look: ``table`` and perhaps ``join``."""
    title: str
    """The table's name in its file, the file's stem where it has none."""
    fields: tuple[Field, ...]
    rows: int
    source: str | None
    """The table's name in a file of several, which questions then say."""
    context: ToolContext = field(compare=False)
    """Where the tables are loaded."""
    inputs: tuple[str, ...] = ()
    """Files of the folder that a goal needs."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Files that a goal brings itself: name to text."""

    def of(self, *roles: Role) -> list[Field]:
        """Return the fields of these roles."""
        return [item for item in self.fields if item.role in roles]

    @property
    def joined(self) -> bool:
        """Whether two tables are joined."""
        return "join" in self.query


def role_of(name: str, kind: str, cells: Sequence[Cell], title: str) -> Role | None:
    """Return the role of a column of ``kind`` (integer, real, text), or None to leave it out."""
    present = [cell for cell in cells if cell is not None]
    if len(present) < max(3, 0.6 * len(cells)) or not _sayable(name):
        return None
    counts = Counter(str(cell).casefold() for cell in present)
    if kind == "text":
        return _text_role(present, counts)
    if len(counts) < 3:
        return None
    if kind == "integer":
        own = singular(words_of(title).split(" ")[-1]) == words_of(name)
        whole = [int(cell) for cell in present]
        counted = len(counts) == len(cells) and max(whole) - min(whole) == len(whole) - 1
        if _ID.search(name) or own or counted:
            return "key" if len(counts) == len(cells) else None
        if re.search(r"year", name, re.I) and all(1000 <= value <= 2200 for value in whole):
            return "year"
    return "measure"


def _text_role(present: Sequence[Cell], counts: Counter[str]) -> Role | None:
    texts = [str(cell) for cell in present]
    if any(len(text) > LONGEST_CELL or "\n" in text for text in texts) or len(counts) < 2:
        return None
    if all(_DATE.fullmatch(text) for text in texts):
        return "date" if len(counts) > 2 else None
    if len(counts) == len(present):
        return "label"
    return "group" if len(counts) <= max(12, len(present) // 3) else "label"


def _sayable(name: str) -> bool:
    """Whether a person could say the name: not made up for an empty header, some letters, not long."""
    made_up = re.fullmatch(r"column_\d+", name)
    return not made_up and len(name) <= LONGEST_NAME and len(re.findall(r"[^\W\d_]", name)) > 0


def twins(names: Sequence[str]) -> set[str]:
    """Return the names that stood twice in a header: the first, and those numbered by the reader."""
    known = {name.lower(): name for name in names}
    found: set[str] = set()
    for name in names:
        match = re.fullmatch(r"(.+)_([2-9]|\d\d)", name)
        if match and match[1].lower() in known:
            found |= {name, known[match[1].lower()]}
    return found


def words_of(name: str) -> str:
    """Return a name as words: ``daysLate`` and ``days_late`` are both "days late"."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"[_\s]+", " ", name)).strip()
    return " ".join(word if word.isupper() and len(word) < 6 else word.lower() for word in spaced.split())


def called(name: str, rng: random.Random) -> str:
    """Return how a question calls a column: as words, sometimes as it is spelt, quoted where odd."""
    words = words_of(name)
    if re.search(r"[^\w %#&/().'-]", name) or not words[:1].isalpha():
        return f'"{name}"'
    return name if rng.random() < 0.25 else words


def singular(word: str) -> str:
    """Return the singular of a regular English plural, the word itself where it is none."""
    if re.search(r"[^aeiou]ies$", word):
        return word[:-3] + "y"
    if re.search(r"(ss|x|ch|sh)es$", word):
        return word[:-2]
    return word[:-1] if re.search(r"[^su]s$", word) and len(word) > 3 else word


def rows_of(title: str, rng: random.Random) -> tuple[str, str]:
    """Return (singular, plural) for the rows of a table: its own noun where it is one."""
    words = words_of(title)
    single = singular(words)
    if re.fullmatch(r"[a-z]+( [a-z]+)?", words) and single != words and rng.random() < 0.7:
        return single, words
    return rng.choice((("row", "rows"), ("entry", "entries"), ("record", "records"), ("line", "lines")))


def measure_like(item: Field) -> bool:
    """Whether extremes of the field have a meaning: numbers, years and dates."""
    return item.role in ("measure", "year", "date")


def sorted_cells(item: Field) -> list[Any]:
    """Return the cells that are there, in order."""
    return sorted(cell for cell in item.cells if cell is not None)
