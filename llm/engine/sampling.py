"""Choosing tokens from the hidden states of a forward, repeatably.

Greedy takes the largest logit. Sampling inverts the cumulative distribution at a number derived by hash
from (seed, session, position), so a token does not depend on the rest of the batch, and a run can be
repeated without saving a generator's state. Everything is computed in fp32 over the tokens that the
grammar allows, the cumulative sum in fp64.

The output head is a fifth of a small model's work, so :class:`Sampler` computes it only for rows where
something is chosen: for all rows with many allowed tokens in one product, and for a row with few of
them over these alone, when its turn comes (after a wrong guess it never does). On a GPU waiting is what
costs, so all rows are decided together there.
"""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from ...errors import AutoGPTError
from ..message import Sampling
from ..nn.device import fetch, send, to_device
from ..nn.forward import Forward
from .sequence import Decision, Sequence


class NotFinite(AutoGPTError):
    """The model's logits hold NaN or no finite maximum."""


@dataclass(eq=False)
class Work:
    """A sequence's part of one forward."""

    sequence: Sequence
    rows: list[int]
    """Ids to compute, those of the draft last."""
    choices: list[Decision] = field(default_factory=list)
    """Empty while the prompt is not complete."""
    drafted: int = 0
    """Number of draft rows."""
    first: int = 0
    """Index of the first decision's row among those that the forward returns."""


class Sampler:
    """Chooses tokens from the hidden rows of one forward."""

    def __init__(
        self,
        forward: Forward,
        device: torch.device,
        hidden: Tensor,
        batch: Ids[Work],
        at_once: bool | None = None,
    ) -> None:
        """Compute the logits of the rows with many allowed tokens.

        With ``at_once`` (None: on a GPU) all rows are decided together, so that the CPU waits for the
        device once per forward.
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
            self._logits = forward.head(
                hidden if len(rows) == len(hidden) else hidden[to_device(rows, device)]
            )
        if rows and at_once:
            self._decide(wide)

    def choose(self, work: Work, choice: Decision) -> tuple[int, float]:
        """Return ``(token, log-probability)``; raises :class:`NotFinite`."""
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

    def _decide(self, wide: Ids[tuple[Work, Decision]]) -> None:
        """Choose greedily for all rows on the device; the logits of sampled rows are copied to the CPU."""
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
            best, logits = fetch(best, logits[to_device(drawn, self._device)])
        found = best.T.tolist()
        for place, (work, choice) in enumerate(wide):
            self._decided[work.first + choice.offset] = int(found[place][0]), found[place][1]
        for row_logits, place in zip(logits, drawn, strict=False):
            work, choice = wide[place]
            draw = _draw(work, len(work.sequence.log) + choice.offset)
            try:
                chosen = choose(row_logits, work.sequence.request.sampling, draw)
            except NotFinite:  # reported when this choice is reached, which after a wrong guess it never is
                chosen = 0, float("nan")
            self._decided[work.first + choice.offset] = chosen


def _draw(work: Work, position: int) -> float:
    """Return the number that decides the choice at ``position`` (unused when greedy)."""
    request = work.sequence.request
    if request.sampling.temperature <= 0:
        return 0.0
    return uniform(request.sampling.seed, request.session, position)


def uniform(seed: int, session: str, position: int) -> float:
    """Return a number in [0, 1) determined by the three arguments."""
    digest = blake2b(f"{seed}\x1f{position}\x1f{session}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2.0**53


def choose(logits: Tensor, sampling: Sampling, draw: float) -> tuple[int, float]:
    """Pick an index of ``logits [n]`` (fp32): ``(index, natural-log probability)``.

    The log-probability is that of the distribution at the sampling temperature (1 if greedy).
    Raises :class:`NotFinite`.
    """
    if sampling.temperature > 0:
        logits = logits / sampling.temperature
    logs = torch.log_softmax(logits, -1)
    if sampling.temperature <= 0:
        value, best = logs.max(-1)
        index, logprob = int(best), float(value)
    else:
        index = _invert(logs.cpu(), draw)
        logprob = float(logs[index])
    return index, finite(logprob)


def finite(logprob: float) -> float:
    """Return the log-probability of a choice; raises :class:`NotFinite` when the logits were not."""
    if logprob != logprob or logprob == float("-inf"):
        raise NotFinite("the model's logits are not finite")
    return logprob


def _invert(logs: Tensor, draw: float) -> int:
    """Return the index where the cumulative distribution passes ``draw``."""
    weights = logs.double().exp()
    total = weights.cumsum(0)
    found = int(torch.searchsorted(total, draw * float(total[-1]), right=True))
    return min(found, int(weights.nonzero()[-1])) if bool(total[-1] > 0) else 0
