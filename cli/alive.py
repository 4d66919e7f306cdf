"""Signs of life on standard error: a line at once, and one whenever nothing was shown for a while.

The first line comes before any heavy import, so that a command answers within 0.3 s although loading its
libraries and its model takes seconds. Nothing runs unless :meth:`Alive.start` was called, which only a
process of its own does: a program or test that calls ``main([...])`` gets no such lines.
"""

from __future__ import annotations

import sys
import threading
import time

PATIENCE = 4.0
"""Seconds without output after which a line says that work goes on."""


class Alive:
    """Watches one process: reports call :meth:`touch` when they show something."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self.what = "working"
        self._shown = time.monotonic()
        self.resting = True
        self._transient = False

    def start(self, what: str = "") -> None:
        """Begin to watch; say ``what`` now, on a terminal only until :meth:`clear`."""
        self._transient = bool(what) and sys.stderr.isatty()
        if what:
            print(f"autogpt: {what}", end="" if self._transient else "\n", file=sys.stderr, flush=True)
        self.what = what or self.what
        self.resting, self._shown = False, time.monotonic()
        threading.Thread(target=self._watch, name="alive", daemon=True).start()

    def clear(self) -> None:
        """Take the first line off a terminal again: what follows speaks for itself."""
        if self._transient:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._transient = False

    def touch(self, what: str = "working") -> None:
        """Note that something was shown, and what the next wait is for."""
        self.what, self._shown, self.resting = what, time.monotonic(), False

    def rest(self) -> None:
        """Say nothing until the next :meth:`touch`: a person is asked, or the screen moves by itself."""
        self.resting = True

    def _watch(self) -> None:
        said = self._shown
        while True:
            time.sleep(self.patience / 8)
            now = time.monotonic()
            if not self.resting and now - max(said, self._shown) >= self.patience:
                said = now
                print(f"autogpt: {self.what}, {now - self._shown:.0f} s", file=sys.stderr, flush=True)


process = Alive()
"""The watch over this process."""
