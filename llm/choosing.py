"""From the rows of a forward to tokens: which logits to compute, and the choice among them.

The output head is a fifth of a small model. So it is computed only for rows where something is
chosen, for all rows with many allowed tokens in one product, and for a row with few of them over
these alone, when its turn comes (behind a wrong guess it never does).
"""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .forward import Forward
from .sampling import choose, uniform
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

    def __init__(self, forward: Forward, device: torch.device, hidden: Tensor, batch: Ids[Work]) -> None:
        self._forward = forward
        self._device = device
        self._hidden = hidden
        rows = [
            work.first + choice.offset
            for work in batch
            for choice in work.choices
            if choice.allowed is None or choice.allowed.dtype == np.bool_
        ]
        self._wide = {row: place for place, row in enumerate(rows)}
        self._logits = hidden
        if rows:
            self._logits = forward.head(hidden if len(rows) == len(hidden) else hidden[rows])

    def choose(self, work: Work, choice: Choice) -> tuple[int, float]:
        """Return ``(token, log-probability)``; raises :class:`~.sampling.NotFinite`."""
        request = work.sequence.request
        sampling, allowed = request.sampling, choice.allowed
        draw = 0.0
        if sampling.temperature > 0:
            draw = uniform(sampling.seed, request.session, len(work.sequence.log))
        row = work.first + choice.offset
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
