"""From the rows of a forward to tokens: which logits to compute, and the choice among them.

The output head is a fifth of a small model. So it is computed only for rows where something is
chosen, for all rows with many allowed tokens in one product, and for a row with few of them over
these alone, when its turn comes (behind a wrong guess it never does). On a device that computes
while the processor goes on, waiting is what costs: there all rows are decided together.
"""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..nn.forward import Forward
from ..nn.transfer import fetch, send, ship
from .sampling import NotFinite, choose, finite, uniform
from .sequence import Choice, Sequence


@dataclass(eq=False)
class Work:
    """A sequence's part of one forward."""

    sequence: Sequence
    rows: list[int]
    """Ids to compute, those of the draft last."""
    choices: list[Choice] = field(default_factory=list)
    """Empty while a prompt is not yet done."""
    drafted: int = 0
    """How many of the rows are a draft."""
    first: int = 0
    """The row of the first choice among those that the forward returns."""


class Chooser:
    """Chooses from the hidden rows of one forward."""

    def __init__(
        self,
        forward: Forward,
        device: torch.device,
        hidden: Tensor,
        batch: Ids[Work],
        at_once: bool | None = None,
    ) -> None:
        """Prepare the logits. ``at_once`` (None: on any device but a processor) decides all rows
        together, so that the processor waits for the device once a forward.
        """
        self._forward = forward
        self._device = device
        self._hidden = hidden
        self._decided: dict[int, tuple[int, float]] = {}
        at_once = device.type != "cpu" if at_once is None else at_once
        choices = [(work, choice) for work in batch for choice in work.choices]
        wide = [(w, c) for w, c in choices if at_once or c.allowed is None or c.allowed.dtype == np.bool_]
        rows = [work.first + choice.offset for work, choice in wide]
        self._wide = {row: place for place, row in enumerate(rows)}
        self._logits = hidden
        if rows:
            self._logits = forward.head(hidden if len(rows) == len(hidden) else hidden[ship(rows, device)])
        if rows and at_once:
            self._decide(wide)

    def choose(self, work: Work, choice: Choice) -> tuple[int, float]:
        """Return ``(token, log-probability)``; raises :class:`~.sampling.NotFinite`."""
        row = work.first + choice.offset
        if row in self._decided:
            token, logprob = self._decided[row]
            return token, finite(logprob)
        sampling, allowed = work.sequence.request.sampling, choice.allowed
        draw = _draw(work, len(work.sequence.log))
        place = self._wide.get(row)
        if place is None:
            assert allowed is not None
            ids = torch.from_numpy(allowed).to(self._device)
            index, logprob = choose(self._forward.head(self._hidden[row : row + 1], ids)[0], sampling, draw)
            return int(allowed[index]), logprob
        logits = self._logits[place]
        if allowed is not None:
            logits = logits.masked_fill(torch.from_numpy(~allowed).to(self._device), float("-inf"))
        return choose(logits, sampling, draw)

    def _decide(self, wide: Ids[tuple[Work, Choice]]) -> None:
        """Choose greedily for all rows on the device; rows that are drawn come to the processor."""
        banned = np.zeros(self._logits.shape, np.bool_)
        for place, (_, choice) in enumerate(wide):
            if choice.allowed is not None:
                banned[place] = True
                banned[place, choice.allowed] = False
        logits = self._logits.masked_fill(send(torch.from_numpy(banned), self._device), float("-inf"))
        drawn = [
            place for place, (work, _) in enumerate(wide) if work.sequence.request.sampling.temperature > 0
        ]
        values, tokens = torch.log_softmax(logits, -1).max(-1)
        best = torch.stack([tokens.to(values.dtype), values])  # fp32 holds any id below 2^24 exactly
        if drawn:
            best, logits = fetch(best, logits[ship(drawn, self._device)])
        found = best.T.tolist()
        for place, (work, choice) in enumerate(wide):
            self._decided[work.first + choice.offset] = int(found[place][0]), found[place][1]
        for row_logits, place in zip(logits, drawn, strict=False):
            work, choice = wide[place]
            draw = _draw(work, len(work.sequence.log) + choice.offset)
            try:
                chosen = choose(row_logits, work.sequence.request.sampling, draw)
            except NotFinite:  # said when this choice is reached, which behind a wrong guess is never
                chosen = 0, float("nan")
            self._decided[work.first + choice.offset] = chosen


def _draw(work: Work, position: int) -> float:
    """Return the number that decides the choice at ``position`` (unused when greedy)."""
    request = work.sequence.request
    if request.sampling.temperature <= 0:
        return 0.0
    return uniform(request.sampling.seed, request.session, position)
