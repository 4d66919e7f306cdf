"""The losses of DPO, KTO and GRPO, as functions of log-probabilities; nothing here knows a model.

Every log-probability is a natural logarithm under the policy (with gradient) or under a reference or an
earlier policy (without). Sequence losses take the sum over a sequence's own tokens (those that the model
chose), token losses take one value for each such token. The tests compare values and gradients with TRL's.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_LEAST_SPREAD = 0.25
"""Rewards are divided by their group's deviation, but by no less than this: small differences stay small."""
_MOST_WEIGHT = 5.0


def dpo(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> Tensor:
    """Return DPO's loss of each pair, ``[pairs]`` (Rafailov et al., 2023, arXiv:2305.18290, eq. 7).

    ``-log sigmoid(beta * ((chosen - reference_chosen) - (rejected - reference_rejected)))``
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * ((chosen - reference_chosen) - (rejected - reference_rejected)))


def kto(
    policy: Tensor,
    reference: Tensor,
    good: Tensor,
    drift: float,
    beta: float,
    weights: tuple[float, float] = (1.0, 1.0),
) -> Tensor:
    """Return KTO's loss of each answer, ``[answers]`` (Ethayarajh et al., 2024, arXiv:2402.01306, eq. 7).

    ``weight * (1 - sigmoid(beta * (r - z)))`` for a good answer and ``weight * (1 - sigmoid(beta *
    (z - r)))`` for a bad one, where ``r = policy - reference`` and ``z`` is the drift, at least 0.

    Args:
        good: True where the answer was rated good.
        drift: the policy's divergence from the reference (nats), estimated as the mean log-ratio of answers
            given in situations other than their own.
        weights: of good and of bad answers, see :func:`kto_weights`.
    """
    import torch

    ratio = policy - reference - max(0.0, drift)
    weight = torch.where(good, ratio.new_tensor(weights[0]), ratio.new_tensor(weights[1]))
    return weight * (1 - (beta * torch.where(good, ratio, -ratio)).sigmoid())


def kto_weights(good: int, bad: int) -> tuple[float, float]:
    """Return the weights with which so many good and bad answers balance (eq. 8); none is over 5."""
    return (
        min(_MOST_WEIGHT, max(1.0, bad / max(1, good))),
        min(_MOST_WEIGHT, max(1.0, good / max(1, bad))),
    )


def advantages(rewards: Sequence[float]) -> list[float]:
    """Return each reward minus its group's mean, in deviations of the group (at least 0.25).

    Shao et al., 2024, arXiv:2402.03300, section 4.1.2; the bound on the deviation is ours.
    """
    mean, deviation = fmean(rewards), pstdev(rewards)
    return [(reward - mean) / max(deviation, _LEAST_SPREAD) for reward in rewards]


def importance(ours: Tensor, engines: Tensor, truncate: float) -> Tensor:
    """Return ``exp(ours - engines)`` of two log-probabilities, truncated to ``[1 / truncate, truncate]``."""
    return (ours - engines).exp().clamp(1 / truncate, truncate)


def divergence(policy: Tensor, reference: Tensor) -> Tensor:
    """Return the estimate of KL(policy, reference) at each token: the k3 estimator, never negative.

    Shao et al., 2024, arXiv:2402.03300, eq. 4: ``q / p - log(q / p) - 1``, with ``q`` the reference.
    """
    ratio = reference - policy
    return ratio.exp() - ratio - 1


def grpo(
    policy: Tensor,
    old: Tensor,
    advantage: Tensor,
    clip: float,
    clip_high: float,
    reference: Tensor | None = None,
    kl: float = 0.0,
) -> Tensor:
    """Return GRPO's loss of each token, ``[tokens]`` (Shao et al., 2024, arXiv:2402.03300, eq. 3).

    ``-min(ratio * advantage, clamp(ratio, 1 - clip, 1 + clip_high) * advantage) + kl * divergence`` with
    ``ratio = exp(policy - old)``. Two things are as in DAPO (Yu et al., 2025, arXiv:2503.14476): the upper
    bound of the ratio is a number of its own ("clip-higher"), and the caller averages over the tokens of
    the whole step, so that a long attempt weighs more than a short one, where eq. 3 averages within each
    attempt first.

    Args:
        old: under the policy that the attempts were scored with, when their round began.
        advantage: of each token's attempt.
        reference: under the reference policy; needed where ``kl`` is not 0.
    """
    import torch

    ratio = (policy - old).exp()
    loss = -torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip_high) * advantage)
    if kl:
        assert reference is not None
        loss = loss + kl * divergence(policy, reference)
    return loss


def clipped(policy: Tensor, old: Tensor, advantage: Tensor, clip: float, clip_high: float) -> Tensor:
    """Say of each token whether :func:`grpo` clips its ratio, so that it has no gradient but the KL's."""
    ratio = (policy - old).exp()
    return ((ratio < 1 - clip) & (advantage < 0)) | ((ratio > 1 + clip_high) & (advantage > 0))
