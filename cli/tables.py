"""Tables and progress for people: outcomes, runs, tools, models; sizes and times as they read them.

One function draws all of them, so that width, colour and piping behave alike everywhere. On a
terminal long cells are cut to the window; piped, nothing is cut and columns are separated by tabs.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..agent.record.result import RunResult
from ..errors import UsageError
from .alive import process as alive
from .report import VERDICTS
from .view import answer_text, clean, one_line

Cell = str | Text
LEAST = 4
"""Columns of the screen that every column keeps while the first has more."""
LEAST_FLEXIBLE = 12
"""Columns of the screen below which the flexible column is no longer the one to give way."""


def show_table(heads: Sequence[str], rows: Iterable[Sequence[Cell]], flexible: int = -1) -> None:
    """Print a table; the column ``flexible`` gives way first when the window is narrow."""
    console = Console()
    if not console.is_terminal:
        for row in chain([heads], rows):
            print("\t".join(str(cell) for cell in row))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    rows = list(rows)
    for head, width in zip(heads, _widths([heads, *rows], flexible, console.width), strict=True):
        table.add_column(head, no_wrap=True, overflow="ellipsis", width=width)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _widths(rows: Sequence[Sequence[Cell]], flexible: int, room: int) -> list[int]:
    """Return the widths of columns that fit ``room`` with two blanks between them.

    The flexible column gives way first, then whichever is widest; the first, which names the row
    and is what people copy, gives way last.
    """
    lines = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    widths = [max(cell.cell_len for cell in column) for column in zip(*lines, strict=True)]
    over = sum(widths) + 2 * (len(widths) - 1) - room
    spare = max(0, min(over, widths[flexible] - LEAST_FLEXIBLE))
    widths[flexible] -= spare
    for _ in range(over - spare):
        widest = max(range(1, len(widths)), key=widths.__getitem__, default=0)
        widest = widest if widths[widest] > LEAST else 0
        widths[widest] = max(1, widths[widest] - 1)
    return widths


def show_outcomes(results: Sequence[RunResult]) -> None:
    """Print one line per goal and how many were achieved."""
    rows = []
    for result in results:
        word, style = VERDICTS.get(result.status, (result.status, ""))
        answer = "" if result.answer is None else one_line(answer_text(result.answer))
        rows.append(
            (Text(word, style=style), clean(result.id), f"{result.seconds.get('total', 0):.1f} s", answer)
        )
    print()
    show_table(("outcome", "goal", "time", "answer"), rows)
    achieved = sum(result.status == "achieved" for result in results)
    answered = sum(result.status == "answered" for result in results)
    unchecked = f", {answered} answered and not checked" if answered else ""
    print(f"{achieved} of {len(results)} achieved{unchecked}")


def when(moment: float) -> str:
    """Return a moment (seconds since the epoch) as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


EVERY = 10.0
"""Seconds between plain lines about the same thing."""


class Say(Protocol):
    """Says what is being done, which share is done (0 to 1, None if unknown), and a detail."""

    def __call__(self, text: str, share: float | None, detail: str = "") -> None: ...


@contextmanager
def progress_line() -> Iterator[Say]:
    """Yield the function that shows progress."""
    if not sys.stderr.isatty():
        yield _plain()
        alive.touch()
        return
    alive.rest()
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def say(text: str, share: float | None, detail: str = "") -> None:
            total = None if share is None else 1.0
            bar.update(task, description=f"{text} {detail}".strip(), total=total, completed=share or 0.0)

        yield say


def _plain() -> Say:
    said: dict[str, float] = {}

    def say(text: str, share: float | None, detail: str = "") -> None:
        now = time.monotonic()
        if now - said.get(text, now - EVERY) >= EVERY or share == 1.0:
            said[text] = now
            alive.touch(text)
            line = text if share is None else f"{text}: {share:.0%}"
            print(f"{line} {detail}".rstrip(), file=sys.stderr, flush=True)

    return say


def size(count: int) -> str:
    """Return a number of bytes as people read it."""
    return (
        f"{count / 1e3:.0f} kB"
        if count < 1e6
        else f"{count / 1e6:.1f} MB"
        if count < 1e9
        else f"{count / 1e9:.1f} GB"
    )


UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}


def duration(text: str, flag: str, unit: str) -> float:
    """Return the seconds that ``30m``, ``2h``, ``7d`` or a bare number of ``unit`` say. Raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", text.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"{flag} {text!r}: a time such as 90s, 30m, 2h or 7d is wanted")
    return float(match[1]) * UNITS[match[2] or unit]
