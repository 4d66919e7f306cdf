"""Fitting a value head: the model's states at the ends of turns, and whether the runs succeeded.

Goals, never samples, are dealt into five folds: each is predicted by heads that were fitted on the other
four. These predictions choose the strength of regularisation and one temperature (Guo et al. 2017), and
the report is of them, which flatters it by no more than those two numbers can; the head that is kept is
fitted on all. The report has the area under the ROC curve over all turns and within single goals (what
ranking candidates needs), the Brier score, the expected calibration error over ten equal bins, and the
bins themselves; it goes into the card.

Limits: what it learns holds for goals like those it saw, played by the same weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from ..engine.engine import Engine
from ..engine.value_head import FILE, ValueHead, inputs_of
from ..message import Turn
from ..nn.forward import can_fuse
from .card import add_scores

LEAST_GOALS = 30
"""Goals below which folds say nothing."""
BINS = 10
FOLDS = 5
PENALTIES = (0.003, 0.01, 0.03, 0.1)
"""Strengths of regularisation to choose from."""
_STEPS = 50


@dataclass(frozen=True)
class Outcome:
    """A turn of a run: what the head will read there, and how the run ended."""

    goal: str
    """Turns of one goal stay on one side of the split."""
    inputs: Tensor
    """``[width + SURENESS]``, of :func:`~..value.inputs_of`."""
    won: bool
    step: int = 0
    """Which turn of its run, from 0; candidates of like steps are compared."""


@dataclass(frozen=True)
class Report:
    """How well a head predicts on goals that it was not fitted on."""

    goals: int
    turns: int
    auc: float
    within: float
    """The area under the curve among attempts at one goal, over all such pairs; 0.5 where there are none."""
    brier: float
    ece: float
    bins: tuple[tuple[float, float, int], ...]
    """Per bin that is not empty: mean chance said, share that succeeded, turns."""

    def facts(self) -> dict[str, Any]:
        """Return the figures for a card."""
        figures = {"auc": self.auc, "auc within a goal": self.within, "brier": self.brier, "ece": self.ece}
        return {"goals": self.goals, "turns": self.turns, **{k: round(v, 4) for k, v in figures.items()}}

    def reliability(self) -> dict[str, str]:
        """Return the bins for a card: chance said, to what came and how often."""
        return {f"{said:.2f}": f"{came:.2f} (n={count})" for said, came, count in self.bins}


def states_of(engine: Engine, runs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Tensor]:
    """Return, per run (its ids, the places behind its turns), the states ``[turns, width]`` there.

    The engine computes each run once, from the longest beginning that an earlier one left.
    """
    if not can_fuse(engine.loaded.config):
        raise UsageError(f"{engine.loaded.name}: a value head needs a model that our own forward computes")
    found = []
    for ids, ends in runs:
        rows = [engine.last_states([("value", ids[:end])]) for end in ends]
        engine.close("value")
        found.append(torch.cat(rows).float().cpu())
    return found


def outcomes_of(goal: str, states: Tensor, turns: Sequence[Turn], won: bool) -> list[Outcome]:
    """Return the turns of one run as outcomes."""
    rows = inputs_of(states, turns)
    return [Outcome(goal, row, won, step) for step, row in enumerate(rows)]


def fit_value(outcomes: Sequence[Outcome], fingerprint: str) -> tuple[ValueHead, Report]:
    """Fit and calibrate a head for the model with ``fingerprint``; the report is of goals it had not seen.

    Raises UsageError when there are too few goals, or when all runs ended alike.
    """
    goals = {outcome.goal for outcome in outcomes}
    if len(goals) < LEAST_GOALS:
        raise UsageError(
            f"a value head needs {LEAST_GOALS} goals or more, each tried several times, not {len(goals)}"
        )
    table = _Table.of(outcomes)
    folds = torch.tensor([_fold(outcome.goal) for outcome in outcomes])
    if any(len(set(table.won[folds != fold].tolist())) < 2 for fold in range(FOLDS)):
        raise UsageError("a value head needs runs that succeeded and runs that failed, over more goals")
    unseen = {penalty: _crossed(table, folds, fingerprint, penalty) for penalty in PENALTIES}
    best = {penalty: _temperature(logits, table.won) for penalty, logits in unseen.items()}
    penalty = min(unseen, key=lambda key: _loss(unseen[key] / best[key], table.won))
    temperature = best[penalty]
    head = replace(_fitted(table, fingerprint, penalty), temperature=temperature)
    return head, assess((unseen[penalty] / temperature).sigmoid(), table.won, table.groups)


def write_value(head: ValueHead, report: Report, folder: Path) -> Path:
    """Put the head beside the adapter in ``folder`` and its figures into the card there."""
    path = folder / FILE
    head.save(path)
    add_scores(
        folder, {"value head": report.facts(), "value head, chance said and what came": report.reliability()}
    )
    return path


def _fold(goal: str) -> int:
    """Return which fold a goal is in; the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"value:{goal}".encode()).digest()[:8], "big") % FOLDS


@dataclass(frozen=True)
class _Table:
    """Outcomes as tensors."""

    inputs: Tensor
    won: Tensor
    groups: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> _Table:
        won = torch.tensor([float(outcome.won) for outcome in outcomes])
        groups = tuple((outcome.goal, outcome.step) for outcome in outcomes)
        return cls(torch.stack([outcome.inputs.float() for outcome in outcomes]), won, groups)


def _fitted(table: _Table, fingerprint: str, penalty: float) -> ValueHead:
    """Fit one head: the mean logistic loss and ``penalty`` times the weights' squares, by L-BFGS."""
    mean, scale = table.inputs.mean(0), table.inputs.std(0).clamp_min(1e-3)
    x = (table.inputs - mean) / scale
    weight, bias = torch.zeros(len(mean), requires_grad=True), torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimiser.zero_grad()
        missed = torch.nn.functional.binary_cross_entropy_with_logits(x @ weight + bias, table.won)
        whole = missed + penalty * weight.square().sum()
        whole.backward()  # type: ignore[no-untyped-call]
        return float(whole.detach())

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return ValueHead(fingerprint, mean, scale, weight.detach(), float(bias.detach()))


def _loss(logits: Tensor, won: Tensor) -> float:
    return float(torch.nn.functional.binary_cross_entropy_with_logits(logits, won))


def _crossed(table: _Table, folds: Tensor, fingerprint: str, penalty: float) -> Tensor:
    """Return the log odds ``[n]`` that heads fitted on the other folds give."""
    logits = torch.zeros(len(folds))
    for fold in range(FOLDS):
        inside = folds == fold
        if inside.any():
            rest = _Table(table.inputs[~inside], table.won[~inside], ())
            logits[inside] = _fitted(rest, fingerprint, penalty).logits(table.inputs[inside])
    return logits


def _temperature(logits: Tensor, won: Tensor) -> float:
    """Return the temperature, of a fine grid, under which the loss is least."""
    return float(min(torch.logspace(-1, 1, 81), key=lambda t: _loss(logits / t, won)))


def assess(chances: Tensor, won: Tensor, groups: Sequence[object] = ()) -> Report:
    """Return how well ``chances [n]`` foretell ``won [n]``; ``groups`` say whose they are."""
    pairs, right = 0, 0.0
    places: dict[object, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group, []).append(place)
    for members in places.values():
        good = [float(chances[i]) for i in members if won[i]]
        bad = [float(chances[i]) for i in members if not won[i]]
        pairs += len(good) * len(bad)
        right += sum((g > b) + 0.5 * (g == b) for g in good for b in bad)
    bins = []
    error = 0.0
    for number in range(BINS):
        inside = ((chances * BINS).long().clamp(max=BINS - 1) == number).nonzero().flatten()
        if len(inside):
            said, came = float(chances[inside].mean()), float(won[inside].mean())
            bins.append((said, came, len(inside)))
            error += len(inside) / len(won) * abs(said - came)
    return Report(
        goals=len({group[0] if isinstance(group, tuple) else group for group in groups}),
        turns=len(won),
        auc=auc(chances, won),
        within=right / pairs if pairs else 0.5,
        brier=float(((chances - won) ** 2).mean()),
        ece=error,
        bins=tuple(bins),
    )


def auc(scores: Tensor, won: Tensor) -> float:
    """Return the area under the ROC curve (Mann and Whitney's U), ties counting half; 0.5 for one class."""
    order = scores.sort()
    ranks = torch.empty(len(scores), dtype=torch.float64)
    _, inverse, counts = torch.unique_consecutive(order.values, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    ranks[order.indices] = (ends - (counts.double() - 1) / 2)[inverse]
    good = won > 0.5
    n, m = int(good.sum()), int((~good).sum())
    if not n or not m:
        return 0.5
    return float((ranks[good].sum() - n * (n + 1) / 2) / (n * m))
