"""How a training run shows itself and hears that it should stop.

On a terminal a progress bar, elsewhere a plain line every twenty steps. Ctrl-C and SIGTERM only
raise a flag; the run ends after its current step and saves, so that it can be resumed.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

_EVERY = 20
"""Steps between plain lines."""


@dataclass(frozen=True)
class Progress:
    """One step as shown: losses in nats per token, tokens of the samples' own parts per second."""

    step: int
    loss: float
    mean_loss: float
    eval_loss: float | None
    rate: float
    tokens_per_second: float
    done: float
    eta_seconds: float

    def line(self) -> str:
        """Return the step as one plain line."""
        held_out = f" eval {self.eval_loss:.4f}" if self.eval_loss is not None else ""
        return (
            f"step {self.step} loss {self.mean_loss:.4f} lr {self.rate:.1e} "
            f"{self.tokens_per_second:.0f} tokens/s {self.done:.1%} "
            f"eta {self.eta_seconds / 60:.1f} min{held_out}"
        )


def _plain(shown: Progress) -> None:
    if shown.step % _EVERY == 0 or shown.step <= 3 or shown.eval_loss is not None or shown.done >= 1:
        print(shown.line(), file=sys.stderr, flush=True)


def printer(title: str) -> Callable[[Progress], None]:
    """Return what shows progress: a bar on a terminal, plain lines otherwise (on stderr)."""
    print(title, file=sys.stderr, flush=True)
    if not sys.stderr.isatty():
        return _plain
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    bar = Bar(BarColumn(), TextColumn("{task.description}"), console=Console(stderr=True))
    task = bar.add_task("", total=1.0)
    bar.start()

    def show(shown: Progress) -> None:
        bar.update(task, completed=shown.done, description=shown.line())
        if shown.done >= 1:
            bar.stop()

    return show


class StopFlag:
    """A context in which SIGINT and SIGTERM set the flag; a second SIGINT interrupts as usual."""

    def __init__(self) -> None:
        self._raised = False
        self._before: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self._raised

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._raised = True
        print("stopping after this step; run again to go on", file=sys.stderr, flush=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
