"""Learning from preferences: DPO from pairs, KTO from single rated answers.

A pair holds two continuations of one situation, one better than the other; DPO raises the probability of the
better one against that of the worse. KTO needs no pairs: each rated answer is moved up or down against the
mean drift of the policy, which is estimated from answers given in situations other than their own. Both
measure against a reference policy (``losses``). Tool results and tokens that the grammar forced carry no
loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from pydantic import Field

from ...errors import UsageError
from . import losses
from .adapter_run import AdapterRun, Means, ReplayConfig, digest, open_run, optimise
from .data import Sample
from .logprobs import Row, Scores, row_sums
from .trainer import Progress, Report

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pair:
    """One situation and two continuations of it; a mask is True where the model chose the token."""

    context: tuple[int, ...]
    """Ids before the turns."""
    chosen: tuple[int, ...]
    chosen_mask: tuple[bool, ...]
    rejected: tuple[int, ...]
    rejected_mask: tuple[bool, ...]


@dataclass(frozen=True)
class Rated:
    """One continuation with a thumb. ``weight``: how often it is drawn, against 1 for others."""

    context: tuple[int, ...]
    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    good: bool
    weight: float = 1.0


class PreferenceConfig(ReplayConfig):
    """How to learn from preferences."""

    batch: int = Field(default=8, gt=0)
    """Pairs or rated answers per optimiser step."""
    beta: float = Field(default=0.1, gt=0)
    """How much a departure from the reference costs: larger keeps nearer to it."""


def _row(context: Sequence[int], ids: Sequence[int], mask: Sequence[bool]) -> Row:
    return Row([*context, *ids], [*[False] * len(context), *map(bool, mask)])


def _check(what: str, number: int, context: Sequence[int], ids: Sequence[int], mask: Sequence[bool]) -> None:
    """Refuse a continuation that cannot carry loss."""
    if len(ids) != len(mask):
        raise UsageError(f"{what} {number}: {len(ids)} ids but {len(mask)} mask values")
    if not context:
        raise UsageError(f"{what} {number}: no context: nothing stands before the first token")
    if not any(mask):
        raise UsageError(f"{what} {number}: no token carries loss: the model chose none of them")


def pair_rows(pairs: Sequence[Pair], longest: int) -> list[tuple[Row, Row]]:
    """Return the rows (chosen, rejected) of the pairs that are short enough.

    Raises:
        UsageError: a pair cannot be learned from, or all are too long.
    """
    for number, pair in enumerate(pairs):
        _check("pair", number, pair.context, pair.chosen, pair.chosen_mask)
        _check("pair", number, pair.context, pair.rejected, pair.rejected_mask)
    lengths = [len(pair.context) + max(len(pair.chosen), len(pair.rejected)) for pair in pairs]
    kept = [pairs[i] for i in _fitting(lengths, longest, "pairs")]
    return [
        (_row(p.context, p.chosen, p.chosen_mask), _row(p.context, p.rejected, p.rejected_mask)) for p in kept
    ]


class _Pairs:
    """The objective of DPO; an item is a pair."""

    temperature = 1.0

    def __init__(self, run: AdapterRun, pairs: Sequence[tuple[Row, Row]], beta: float) -> None:
        self._pairs, self._beta, self._size = pairs, beta, 0
        self._reference = run.reference_sums([row for pair in pairs for row in pair])

    def prepare(self, items: Sequence[int], figures: dict[str, float]) -> Sequence[int]:
        """Learn from these."""
        self._size = len(items)
        return items

    def rows(self, item: int) -> Sequence[Row]:
        """Return the chosen and the rejected row of a pair."""
        return self._pairs[item]

    def loss(self, items: Sequence[int], scores: Scores, means: Means) -> Tensor:
        """Return the pairs' part of the step's mean loss."""
        import torch

        sums = torch.stack([values.sum() for values in scores.logprobs])
        reference = sums.new_tensor([self._reference[2 * i + member] for i in items for member in (0, 1)])
        better, worse = (self._beta * (sums - reference).detach()).view(-1, 2).unbind(1)
        means.add("rewards/chosen", better)
        means.add("rewards/rejected", worse)
        means.add("rewards/accuracies", (better > worse).float())
        each = losses.dpo(sums[::2], sums[1::2], reference[::2], reference[1::2], self._beta)
        return each.sum() / self._size


class _Thumbs:
    """The objective of KTO; an item is a rated answer.

    The drift is estimated once a step, over all of its answers. An answer's situation is paired with the
    answer of the item before it.
    """

    temperature = 1.0

    def __init__(self, run: AdapterRun, rated: Sequence[Rated], beta: float) -> None:
        self._run, self._beta = run, beta
        self._size, self._drift = 0, 0.0
        self._good = [one.good for one in rated]
        self._rows = [_row(one.context, one.ids, one.mask) for one in rated]
        self._crossed = [
            _row(one.context, rated[i - 1].ids, rated[i - 1].mask) for i, one in enumerate(rated)
        ]
        good = sum(self._good)
        self._weights = losses.kto_weights(good, len(rated) - good)
        self._reference = run.reference_sums([*self._rows, *self._crossed])

    def prepare(self, items: Sequence[int], figures: dict[str, float]) -> Sequence[int]:
        """Estimate how far the policy has drifted from the reference, on these."""
        run, count = self._run, len(self._rows)
        now = row_sums(run.core, [self._crossed[i] for i in items], run.config.micro_tokens, run.autocast)
        self._drift = fmean(n - self._reference[count + i] for n, i in zip(now, items, strict=True))
        self._size = len(items)
        figures["kl"] = max(0.0, self._drift)
        return items

    def rows(self, item: int) -> Sequence[Row]:
        """Return the one row of a rated answer."""
        return (self._rows[item],)

    def loss(self, items: Sequence[int], scores: Scores, means: Means) -> Tensor:
        """Return the answers' part of the step's mean loss."""
        import torch

        sums = torch.stack([values.sum() for values in scores.logprobs])
        reference = sums.new_tensor([self._reference[i] for i in items])
        good = torch.tensor([self._good[i] for i in items], device=sums.device)
        means.add("rewards/chosen", self._beta * (sums - reference)[good])
        means.add("rewards/rejected", self._beta * (sums - reference)[~good])
        each = losses.kto(sums, reference, good, self._drift, self._beta, self._weights)
        return each.sum() / self._size


def _fitting(lengths: Sequence[int], longest: int, what: str) -> list[int]:
    """Return which items are short enough; refuses none."""
    kept = [i for i, length in enumerate(lengths) if length <= longest]
    if not kept:
        raise UsageError(f"no {what} of at most {longest} tokens among {len(lengths)}: nothing to learn from")
    return kept


def train_dpo(
    config: PreferenceConfig,
    pairs: Sequence[Pair],
    replay: Sequence[Sample] = (),
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Train an adapter on pairs, or go on with the run that ``config.out`` holds.

    Args:
        pairs: those with a member of over ``config.longest`` tokens are left out.
        replay: samples of ordinary fine-tuning to mix in.
        progress: called after each step; default prints to the terminal.

    Raises:
        UsageError: a pair cannot be learned from, or the checkpoint belongs to another run.
        ModelUnavailable: the base is missing or damaged.
    """
    rows = pair_rows(pairs, config.longest)
    config = config.model_copy(update={"batch": min(config.batch, len(rows))})
    run = open_run(config, "dpo", digest(pairs, replay), config.batch, _facts(config, replay))
    objective = _Pairs(run, rows, config.beta)
    return optimise(run, config, objective, len(rows), config.batch, replay, progress)


def train_kto(
    config: PreferenceConfig,
    rated: Sequence[Rated],
    replay: Sequence[Sample] = (),
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Train an adapter on rated answers, or go on with the run that ``config.out`` holds.

    The rarer kind of thumb weighs more, so that both kinds weigh the same in all (Ethayarajh et al.,
    eq. 8), at most five times.

    Raises:
        UsageError: an answer cannot be learned from, there are fewer than two, or the checkpoint
            belongs to another run.
        ModelUnavailable: the base is missing or damaged.
    """
    for number, one in enumerate(rated):
        _check("rated answer", number, one.context, one.ids, one.mask)
        if not 0 < one.weight <= 100:
            raise UsageError(f"rated answer {number}: weight {one.weight} is not above 0 and at most 100")
    lengths = [len(one.context) + len(one.ids) for one in rated]
    rated = [rated[i] for i in _fitting(lengths, config.longest, "rated answers")]
    if len(rated) < 2:
        raise UsageError("one rated answer: KTO compares answers, so it needs two or more")
    sha = digest(rated, replay)
    rated = _by_weight(rated)
    config = config.model_copy(update={"batch": max(2, min(config.batch, len(rated)))})
    run = open_run(config, "kto", sha, config.batch, _facts(config, replay))
    objective = _Thumbs(run, rated, config.beta)
    return optimise(run, config, objective, len(rated), config.batch, replay, progress)


def _facts(config: PreferenceConfig, replay: Sequence[Sample]) -> dict[str, object]:
    """Return what the card says of the method."""
    return {"beta": config.beta, "replay_share": config.replay_share if replay else 0.0}


def _by_weight(rated: Sequence[Rated]) -> list[Rated]:
    """Return each answer as often as its weight says, to the nearest in all, at least once in all."""
    drawn: list[Rated] = []
    carried = 0.5
    for one in rated:
        carried += one.weight
        drawn += [one] * int(carried)
        carried -= int(carried)
    return drawn if len(drawn) >= 2 else list(rated)
