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

from ...errors import AutoGPTError
from ..message import Sampling


class NotFinite(AutoGPTError):
    """The model's logits hold NaN or no finite maximum."""


Allowed = NDArray[np.int64] | NDArray[np.bool_]
"""What may come next: the ids in rising order when they are few, else a flag for every id."""
FEW = 8
"""Ids are listed when they are fewer than 1/8 of the vocabulary."""


def read_mask(bitmask: NDArray[np.int32], vocabulary: int) -> Allowed:
    """Return the ids below ``vocabulary`` whose bits are set (least significant first)."""
    words = bitmask[: -(-vocabulary // 32)].view(np.uint32)
    if vocabulary % 32:
        words = words.copy()
        words[-1] &= (1 << vocabulary % 32) - 1
    if int(np.bitwise_count(words).sum()) * FEW >= vocabulary:
        return np.unpackbits(words.view(np.uint8), count=vocabulary, bitorder="little").view(np.bool_)
    used = np.flatnonzero(words)
    places = np.flatnonzero(np.unpackbits(words[used].view(np.uint8), bitorder="little"))
    ids: NDArray[np.int64] = used[places >> 5] * 32 + (places & 31)
    return ids


def permits(allowed: Allowed, token: int) -> bool:
    """Say whether ``token`` is among ``allowed``."""
    if allowed.dtype == np.bool_:
        return bool(allowed[token])
    place = int(np.searchsorted(allowed, token))
    return place < len(allowed) and int(allowed[place]) == token


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
    return index, finite(logprob)


def finite(logprob: float) -> float:
    """Return the log-probability of a choice; raises :class:`NotFinite` when the logits were not."""
    if logprob != logprob or logprob == float("-inf"):
        raise NotFinite("the model's logits are not finite")
    return logprob


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
