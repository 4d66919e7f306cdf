"""Choosing a token from logits, repeatably.

Greedy takes the largest logit. Sampling inverts the cumulative distribution at a number drawn from
a hash of (seed, session, position), so a token depends on nothing else that happens to be in the
batch, and a run can be repeated without carrying a generator's state. Everything is computed in
fp32 over the tokens that the grammar allows, the cumulative sum in fp64.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import AutoGPTError
from .message import Sampling


class NotFinite(AutoGPTError):
    """The model's logits hold NaN or no finite maximum."""


def allowed_ids(bitmask: NDArray[np.int32], vocabulary: int) -> NDArray[np.int64]:
    """Return the ids whose bits are set in ``bitmask`` (``ceil(vocabulary / 32)`` words)."""
    bits = np.unpackbits(bitmask.view(np.uint8), bitorder="little")[:vocabulary]
    return np.flatnonzero(bits)


def uniform(seed: int, session: str, position: int) -> float:
    """Return a number in [0, 1) that these three determine."""
    digest = blake2b(f"{seed}\x1f{position}\x1f{session}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2.0**53


def choose(logits: Tensor, sampling: Sampling, draw: float) -> tuple[int, float]:
    """Pick an index of ``logits [n]`` (fp32): ``(index, natural-log probability)``.

    The log-probability is that of the distribution over all given logits at the sampling
    temperature (1 when greedy), before ``top_p`` and ``min_p`` cut it. Raises
    :class:`NotFinite`.
    """
    if sampling.temperature > 0:
        logits = logits / sampling.temperature
    logs = torch.log_softmax(logits, -1)
    if sampling.temperature <= 0:
        value, best = logs.max(-1)
        index, logprob = int(best), float(value)
    else:
        index = _invert(logs.cpu(), sampling, draw)
        logprob = float(logs[index])
    if logprob != logprob or logprob == float("-inf"):
        raise NotFinite("the model's logits are not finite")
    return index, logprob


def _invert(logs: Tensor, sampling: Sampling, draw: float) -> int:
    """Return the index where the cut cumulative distribution passes ``draw``."""
    weights = logs.double().exp()
    if sampling.min_p > 0:
        weights = weights.where(weights >= sampling.min_p * weights.max(), 0.0)
    if sampling.top_p < 1:
        ordered, order = weights.sort(descending=True, stable=True)
        before = ordered.cumsum(0) - ordered
        weights[order[before >= sampling.top_p * ordered.sum()]] = 0.0
    total = weights.cumsum(0)
    found = int(torch.searchsorted(total, draw * float(total[-1]), right=True))
    return min(found, int(weights.nonzero()[-1])) if bool(total[-1] > 0) else 0
