"""Prompts that are answered as they come: a goal's next turn need not wait for the goals beside it.

A driver of several goals opens a flow on its model, puts each goal's prompt in when it is due and takes
the turns that are ready. A model that decodes here (:class:`~.models.local.LocalModel`) lets prompts
join the batch that is under way; any other is asked round by round, for all that wait together.

Limit: one prompt a session at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .message import Model, Prompt, Turn

OnText = Callable[[int, str], None]
"""Hears text as it appears: the number under which its prompt was put, and the new piece."""


class Flow(Protocol):
    """Prompts under way, each under a number that its caller chose."""

    def put(self, number: int, prompt: Prompt) -> None:
        """Have ``prompt`` answered; UserError if this model cannot take it."""
        ...

    def ready(self) -> list[tuple[int, Turn]]:
        """Wait until at least one prompt is answered; return the answered. Empty if none is under way."""
        ...


class Rounds:
    """A flow for models that answer several prompts only together.

    A prompt that such a model cannot take shows when it is asked: :meth:`ready` raises what it raises.
    """

    def __init__(self, model: Model, on_text: OnText | None = None) -> None:
        self._model, self._on_text = model, on_text
        self._waiting: list[tuple[int, Prompt]] = []

    def put(self, number: int, prompt: Prompt) -> None:
        """Have ``prompt`` answered in the next round."""
        self._waiting.append((number, prompt))

    def ready(self) -> list[tuple[int, Turn]]:
        """Answer all that wait."""
        asked, self._waiting = self._waiting, []
        if not asked:
            return []
        on_text = self._on_text
        heard = None if on_text is None else lambda i, piece: on_text(asked[i][0], piece)
        turns = self._model.respond([prompt for _, prompt in asked], heard)
        return [(number, turn) for (number, _), turn in zip(asked, turns, strict=True)]


def flow_of(model: Model, on_text: OnText | None = None) -> Flow:
    """Open the model's own flow, or one in rounds."""
    own: Callable[[OnText | None], Flow] | None = getattr(model, "flow", None)
    return Rounds(model, on_text) if own is None else own(on_text)
