"""A batch that stays open: requests join it while others are being answered.

Goals side by side are rarely at the same place: one answer takes four forwards, another twenty. In a
batch that is asked and answered as a whole, those that are done wait for the longest. Here each is handed
out when it is complete, and its goal's next turn joins the forwards that are going on (continuous
batching; Yu et al., "Orca", OSDI 2022).

Limits: between two calls of :meth:`Batch.finished` nothing is computed, so what the caller does then,
such as a tool's work, holds up the batch. A batch that is given up midway leaves its sessions usable.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from ...errors import DefectError
from .sequence import Generated, Request, Sequence

if TYPE_CHECKING:
    from .engine import Engine, OnToken

__all__ = ["Batch"]


class Batch:
    """Requests under way in one engine. True while there are any; see the module's text."""

    def __init__(self, engine: Engine, on_token: OnToken | None = None) -> None:
        self._engine = engine
        self._added = 0
        self.on_token = on_token
        self.waiting: deque[tuple[int, Request]] = deque()
        self.active: list[Sequence] = []
        self._ended: list[tuple[int, Generated]] = []
        self._began: dict[int, float] = {}

    def __bool__(self) -> bool:
        return bool(self.waiting or self.active or self._ended)

    def add(self, request: Request, began: float | None = None) -> int:
        """Let ``request`` join; return its number. DefectError if its session is being answered.

        Its answer's ``seconds`` count from now, or from ``began`` on the performance counter.
        """
        under_way = [sequence.request for sequence in self.active] + [other for _, other in self.waiting]
        if any(other.session == request.session for other in under_way):
            raise DefectError("two requests of one batch name the same session")
        number, self._added = self._added, self._added + 1
        self._began[number] = time.perf_counter() if began is None else began
        self.waiting.append((number, request))
        return number

    def finished(self) -> list[tuple[int, Generated]]:
        """Compute until at least one request is answered; return the answered ones by number.

        Empty if none is under way.
        """
        while not self._ended and (self.waiting or self.active):
            self._engine.advance(self)
        ended, self._ended = self._ended, []
        return ended

    def end(self, number: int, out: Generated) -> None:
        """Take note of an answer (the engine's part)."""
        out.seconds = time.perf_counter() - self._began.pop(number)
        self._ended.append((number, out))
