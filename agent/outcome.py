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

from .report import VERDICTS
from .result import RunResult
from .run_view import answer_text, clean, one_line

Cell = str | Text


def show_table(heads: Sequence[str], rows: Iterable[Sequence[Cell]], flexible: int = -1) -> None:
    """Print a table; the column ``flexible`` gives way first when the window is narrow."""
    console = Console()
    if not console.is_terminal:
        for row in chain([heads], rows):
            print("\t".join(str(cell) for cell in row))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    wide = flexible % len(heads)
    for number, head in enumerate(heads):
        ratio = 1 if number == wide else None
        table.add_column(head, no_wrap=True, overflow="ellipsis", ratio=ratio)
    for row in rows:
        table.add_row(*row)
    console.print(table)


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
    print(f"{achieved} of {len(results)} achieved")


def when(moment: float) -> str:
    """Return a moment (seconds since the epoch) as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
