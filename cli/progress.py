"""Progress of work that has no events: fetching, loading, evaluating.

On a terminal a bar that disappears when the work is done; elsewhere a plain line now and then, on
standard error, so that nothing over a few seconds is silent.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

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
        return
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
            line = text if share is None else f"{text}: {share:.0%}"
            print(f"{line} {detail}".rstrip(), file=sys.stderr, flush=True)

    return say
