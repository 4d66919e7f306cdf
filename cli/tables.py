"""Tables for people: outcomes of several goals, runs, tools, models; aligned text when piped.

One function draws all of them, so that width, colour and piping behave alike everywhere. On a
terminal long cells are cut to the window; piped, nothing is cut and columns are separated by tabs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import chain

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..agent.record.result import RunResult
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
