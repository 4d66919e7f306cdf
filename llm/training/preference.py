"""Learning from preferences: DPO from pairs, KTO from single answers with a thumb.

A pair holds two continuations of one situation, one better than the other; DPO (Rafailov et al.,
2023, arXiv:2305.18290) raises the probability of the better one against that of the worse, both
measured against a reference policy: ``-log sigmoid(beta * (d_chosen - d_rejected))`` with ``d`` the
log-ratio of policy and reference over the tokens that the model chose. KTO (Ethayarajh et al., 2024,
arXiv:2402.01306) needs no pairs: each rated answer is moved up or down against the mean drift of the
policy, which is estimated from answers set after other situations than their own.

The losses are TRL's; rows, masks, steps and runs are ours (``trl_common``). Tool results and tokens
that the grammar forced carry no loss in either member of a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from ...errors import UsageError
from .console import Progress
from .data import Sample
from .logprobs import Row, pad, row_sums
from .pace import Report
from .policy import MixedConfig, PolicyRun, digest, open_run
from .trl_common import train


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


class PreferenceConfig(MixedConfig):
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
    """Pairs as TRL's DPO loss reads them."""

    def __init__(self, rows: Sequence[tuple[Row, Row]], device: str) -> None:
        self.count = len(rows)
        self.drift, self.temperature = 0.0, 1.0
        self.current: Sequence[Row] = ()
        self._device = device
        self._rows = rows
        self._reference: list[float] = []

    def rows(self, item: int) -> Sequence[Row]:
        """Both members of a pair."""
        return self._rows[item]

    def referred(self) -> Sequence[Row]:
        """All members, pair by pair."""
        return [row for pair in self._rows for row in pair]

    def refer(self, sums: Sequence[float]) -> None:
        """Keep the reference's sums."""
        self._reference = list(sums)

    def before(self, items: Sequence[int]) -> Sequence[int]:
        """These, as they are."""
        return items

    def batch(self, items: Sequence[int]) -> dict[str, Any]:
        """First the chosen, then the rejected."""
        import torch

        rows = [self._rows[i][member] for member in (0, 1) for i in items]
        chosen, rejected = ([self._reference[2 * i + member] for i in items] for member in (0, 1))
        return {
            **pad(rows, self._device),
            "ref_chosen_logps": torch.tensor(chosen, device=self._device),
            "ref_rejected_logps": torch.tensor(rejected, device=self._device),
        }


class _Thumbs:
    """Rated answers as TRL's KTO loss reads them.

    The drift of a step is estimated over the whole step, not over each micro-batch: TRL averages
    what ``_compute_kl_logps`` returns less ``ref_KL_logps``, and here these are the step's mean and zero.
    """

    def __init__(self, rated: Sequence[Rated], run: PolicyRun) -> None:
        self.count = len(rated)
        self.drift, self.temperature = 0.0, 1.0
        self.current: Sequence[Row] = ()
        self._run = run
        self._good = [one.good for one in rated]
        self._rows = [_row(one.context, one.ids, one.mask) for one in rated]
        # Each situation with the answer of the one before it.
        others = [rated[i - 1] for i in range(len(rated))]
        self._crossed = [
            _row(one.context, other.ids, other.mask) for one, other in zip(rated, others, strict=True)
        ]
        self._reference: list[float] = []

    def rows(self, item: int) -> Sequence[Row]:
        """The one row of a rated answer."""
        return (self._rows[item],)

    def referred(self) -> Sequence[Row]:
        """All answers, then all answers after other situations."""
        return [*self._rows, *self._crossed]

    def refer(self, sums: Sequence[float]) -> None:
        """Keep the reference's sums."""
        self._reference = list(sums)

    def before(self, items: Sequence[int]) -> Sequence[int]:
        """Estimate the drift of the policy from the reference on these."""
        run = self._run
        crossed = [self._crossed[i] for i in items]
        now = row_sums(run.core, crossed, run.config.micro_tokens, run.autocast)
        then = [self._reference[self.count + i] for i in items]
        self.drift = sum(n - t for n, t in zip(now, then, strict=True)) / len(items)
        return items

    def batch(self, items: Sequence[int]) -> dict[str, Any]:
        """Rows, labels, and the drift where TRL looks for it."""
        import torch

        device = self._run.device
        return {
            **pad([self._rows[i] for i in items], device),
            "label": torch.tensor([self._good[i] for i in items], device=device),
            "ref_logps": torch.tensor([self._reference[i] for i in items], device=device),
            "ref_KL_logps": torch.zeros(1, device=device),
        }


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
    facts = {"beta": config.beta, "replay_share": config.replay_share if replay else 0.0}
    run = open_run(config, "dpo", digest(pairs, replay), replay, config.batch, facts)
    return train(run, _Pairs(rows, run.device), "DPO", config.batch, progress, beta=config.beta)


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
    facts = {"beta": config.beta, "replay_share": config.replay_share if replay else 0.0}
    sha = digest(rated, replay)
    rated = _by_weight(rated)
    config = config.model_copy(update={"batch": max(2, min(config.batch, len(rated)))})
    run = open_run(config, "kto", sha, replay, config.batch, facts)
    good = sum(one.good for one in rated)
    bad = len(rated) - good
    return train(
        run,
        _Thumbs(rated, run),
        "KTO",
        config.batch,
        progress,
        beta=config.beta,
        desirable_weight=min(5.0, max(1.0, bad / max(1, good))),
        undesirable_weight=min(5.0, max(1.0, good / max(1, bad))),
    )


def _by_weight(rated: Sequence[Rated]) -> list[Rated]:
    """Return each answer as often as its weight says, to the nearest in all, at least once in all."""
    drawn: list[Rated] = []
    carried = 0.5
    for one in rated:
        carried += one.weight
        drawn += [one] * int(carried)
        carried -= int(carried)
    return drawn if len(drawn) >= 2 else list(rated)
