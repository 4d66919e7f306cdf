"""A batch that stays open: requests join it while others are being answered.

Parallel goals are rarely at the same point: one answer takes four forwards, another twenty. In a static
batch those that are done would wait for the longest. Here each is returned when it is complete, and its
goal's next turn joins the forwards under way (continuous batching; Yu et al., "Orca", OSDI 2022).

Limits: nothing is computed between two calls of :meth:`Batch.finished`, so whatever the caller does in
between, such as running a tool, holds up the batch. A batch abandoned midway leaves its sessions usable.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from ...errors import DefectError
from .sequence import Generated, OnToken, Request, Sequence


class Batch:
    """Requests under way; truthy while there are any. See the module's text."""

    def __init__(self, advance: Callable[[Batch], None], on_token: OnToken | None = None) -> None:
        """Use ``advance`` to compute one step: it admits, decodes and calls :meth:`end`."""
        self._advance = advance
        self._added = 0
        self.on_token = on_token
        self.waiting: deque[tuple[int, Request]] = deque()
        self.active: list[Sequence] = []
        self._ended: list[tuple[int, Generated]] = []
        self._began: dict[int, float] = {}

    def __bool__(self) -> bool:
        return bool(self.waiting or self.active or self._ended)

    def add(self, request: Request, began: float | None = None) -> int:
        """Add ``request`` and return its number; DefectError if its session is already in the batch.

        The answer's ``seconds`` count from now, or from ``began`` (of ``time.perf_counter``).
        """
        under_way = [sequence.request for sequence in self.active] + [other for _, other in self.waiting]
        if any(other.session == request.session for other in under_way):
            raise DefectError("two requests of one batch name the same session")
        number, self._added = self._added, self._added + 1
        self._began[number] = time.perf_counter() if began is None else began
        self.waiting.append((number, request))
        return number

    def step(self) -> None:
        """Compute one forward."""
        self._advance(self)

    def finished(self) -> list[tuple[int, Generated]]:
        """Compute until at least one request is answered; return answers with their numbers.

        Empty if none is under way.
        """
        while not self._ended and (self.waiting or self.active):
            self.step()
        ended, self._ended = self._ended, []
        return ended

    def end(self, number: int, out: Generated) -> None:
        """Record an answer (called by the engine)."""
        out.seconds = time.perf_counter() - self._began.pop(number)
        self._ended.append((number, out))
