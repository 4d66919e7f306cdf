"""Playing the gate: the candidate and the current model on the same held-out goals, look by look.

What a model did on a goal is kept under ``home/improve/gate``, by the model's fingerprint and the goal's
own hash: runs are greedy, so the same model gives the same result, and neither a kill nor the next round
plays it again. Both play a stretch of the goals, the gate looks, and a clear case ends there.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...files import sha256_of
from ...llm.message import Model
from ...tools.registry import Registry
from ..evaluate import statistics as gate
from ..goals.compare import as_text
from ..goals.load import Goal
from ..run.rollout import Episode, Rollout
from .attempts import said_in
from .goal_split import OWN
from .work import Lines, read_lines

if TYPE_CHECKING:
    from ...llm.training.logprobs import Row
    from ...llm.training.preference import Rated

LEAST_SAID = 8
"""Held-out ratings from which they have a say."""
SAID_GOALS = 400
"""Goals at which tasks are compared where ratings decide."""
DEALS = 2000
"""Random deals of the permutation test."""
LOWER = -0.03
"""What the interval of the tasks' difference may reach down to where they do not decide."""
OWN_ALPHA = 0.02
"""Level of the test on the user's own held-out goals, two-sided."""
ANSWER = 300
"""Characters of an answer that are kept for the page."""

Loader = Callable[[], Model]
Played = Callable[[str, int, int], None]
"""Hears whose turn it is, and how many of how many goals are played."""


@dataclass(frozen=True)
class Side:
    """One of the two models. ``fingerprint`` names its results; ``load`` is called when some are missing."""

    name: str
    fingerprint: str
    load: Loader


@dataclass(frozen=True)
class Result:
    """What a model did on a goal."""

    achieved: bool
    status: str
    answer: str
    said: str


class Results:
    """The results of one model, on disk as they come."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.path = folder / f"{fingerprint[:32]}.jsonl"
        self._known = {row["goal"]: row for row in read_lines(self.path) if "achieved" in row}

    def get(self, goal: Goal) -> Result | None:
        """Return what is known of a goal."""
        row = self._known.get(goal_key(goal))
        if row is None:
            return None
        return Result(bool(row["achieved"]), row["status"], row["answer"], row["said"])

    def play(
        self, goals: Sequence[Goal], side: Side, registry: Registry, parallel: int, on_done: Played
    ) -> None:
        """Play the goals that are not known yet."""
        missing = [goal for goal in goals if self.get(goal) is None]
        if not missing:
            return
        rollout = Rollout(side.load(), registry, parallel=parallel)
        with Lines(self.path) as lines:
            for count, (_, episode) in enumerate(rollout.stream(missing), start=1):
                row = _row(episode)
                lines.add(row)
                self._known[row["goal"]] = row
                on_done(side.name, len(goals) - len(missing) + count, len(goals))


def at_most(method: str, planned: int | None, available: int) -> int:
    """Return how many goals a candidate made by ``method`` is judged on, ``planned`` where a person says."""
    usual = SAID_GOALS if method in ("dpo", "kto") else gate.DEFAULT_N
    return min(max(planned or usual, gate.MIN_GOALS), available)


def goal_key(goal: Goal) -> str:
    """Return what a result is kept under: everything that the goal says, and its inputs' contents."""
    inputs = [sha256_of(path) if path.is_file() else str(path) for path in goal.input_paths()]
    record = [goal.model_dump(mode="json", exclude={"category", "inputs"}), inputs]
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:32]


def play(
    goals: Sequence[Goal],
    current: Side,
    candidate: Side,
    registry: Registry,
    folder: Path,
    planned: int,
    parallel: int,
    on_done: Played,
    looks: Sequence[float] = gate.LOOKS,
) -> tuple[list[gate.Pair], gate.Verdict]:
    """Play up to ``planned`` goals and judge at ``looks``; ``folder`` keeps the results."""
    goals = goals[:planned]
    mine, theirs = Results(folder, current.fingerprint), Results(folder, candidate.fingerprint)
    pairs: list[gate.Pair] = []
    for share in looks:
        size = math.ceil(share * planned)
        stretch = goals[len(pairs) : size]
        mine.play(stretch, current, registry, parallel, on_done)
        theirs.play(stretch, candidate, registry, parallel, on_done)
        pairs += [_pair(goal, mine, theirs) for goal in stretch]
        verdict = gate.judge(pairs, planned, looks)
        own = own_gain(pairs)
        if verdict.decision == "keep" and own and no_worse(verdict, pairs):
            verdict = replace(verdict, decision="promote", reason=own, seen=len(pairs))
        if verdict.decision == "promote" or (verdict.decision == "keep" and not own):
            break
    return pairs, verdict


@dataclass(frozen=True)
class SaidResult:
    """How held-out rated answers moved: every good one is compared with every bad one."""

    wins: int
    """Pairs in which the good answer gained more than the bad one."""
    losses: int
    p: float
    """Two-sided permutation test of this (Mann and Whitney's U): thumbs dealt out at random."""


def moved(held: Sequence[Rated], change: Callable[[Sequence[Row]], Sequence[float]]) -> SaidResult:
    """Return how the answers moved; ``change`` gives rows' log-probability less that of the old model.

    Changes are taken per token and compared with each other, for any training makes answers likelier or
    less likely as a whole.
    """
    from ...llm.training.logprobs import Row

    rows = [
        Row([*one.context, *one.ids], [*[False] * len(one.context), *map(bool, one.mask)]) for one in held
    ]
    per_token = [value / max(1, sum(one.mask)) for value, one in zip(change(rows), held, strict=True)]
    changes = np.array(per_token)
    good = np.array([one.good for one in held])
    signs = np.sign(changes[:, None] - changes[None, :])

    def lead(thumbs: NDArray[np.bool_]) -> float:
        return float(signs[thumbs][:, ~thumbs].sum())

    rng = np.random.default_rng(0)
    found = lead(good)
    dealt = [abs(lead(rng.permutation(good))) for _ in range(DEALS)]
    p = (1 + sum(value >= abs(found) for value in dealt)) / (1 + DEALS)
    between = signs[good][:, ~good]
    return SaidResult(int((between > 0).sum()), int((between < 0).sum()), p)


def own_gain(pairs: Sequence[gate.Pair]) -> str:
    """Return what a gain on the user's own held-out goals says, empty where chance explains it.

    They are too few to move the whole of the gate. Equal models pass this test in less than 1 % of gates
    (half of :data:`OWN_ALPHA`), which adds to the 2.5 % of the gate itself.
    """
    differences = [pair.candidate - pair.current for pair in pairs if pair.category.startswith(OWN)]
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    p = gate.mcnemar(wins, losses)
    if wins <= losses or p >= OWN_ALPHA:
        return ""
    return f"better on your own goals ({wins} won, {losses} lost, p = {p:.2g}), others no worse"


def no_worse(verdict: gate.Verdict, pairs: Sequence[gate.Pair]) -> bool:
    """Return whether tasks are no worse: nothing fell by more than noise, and little can have fallen."""
    low, _ = gate.interval([pair.candidate - pair.current for pair in pairs])
    fell = verdict.losses > verdict.wins and verdict.p < 0.05
    return not fell and not gate.fallen_categories(pairs) and low >= LOWER


def with_said(verdict: gate.Verdict, pairs: Sequence[gate.Pair], said: SaidResult) -> gate.Verdict:
    """Return the verdict on a candidate that was trained on what people said.

    It is promoted when held-out ratings moved its way (p < 0.05) and tasks are not worse: no category fell
    by more than its noise, and the interval of the whole difference does not reach below :data:`LOWER`.
    """
    if verdict.decision == "promote" or (verdict.losses > verdict.wins and verdict.p < 0.05):
        return verdict
    fallen = gate.fallen_categories(pairs)
    low, _ = gate.interval([pair.candidate - pair.current for pair in pairs])
    if said.wins > said.losses and said.p < 0.05 and not fallen and low >= LOWER:
        share = said.wins / (said.wins + said.losses)
        reason = f"held-out ratings moved its way ({share:.0%} of pairs, p = {said.p:.2g}), tasks no worse"
        return replace(verdict, decision="promote", reason=reason)
    why = f"tasks may be worse ({low * 100:+.1f} points)" if low < LOWER else "held-out ratings did not move"
    return replace(verdict, reason=why, worse=fallen)


def changed(
    goals: Sequence[Goal], folder: Path, current: str, candidate: str, most: int
) -> dict[str, list[dict[str, Any]]]:
    """Return examples that only the candidate achieved, and that only the current model did."""
    mine, theirs = Results(folder, current), Results(folder, candidate)
    found: dict[str, list[dict[str, Any]]] = {"won": [], "lost": []}
    for goal in goals:
        before, after = mine.get(goal), theirs.get(goal)
        if before is None or after is None or before.achieved == after.achieved:
            continue
        side = found["won" if after.achieved else "lost"]
        if len(side) < most:
            row = {"category": goal.category, "goal": goal.goal}
            side.append({**row, "before": vars(before), "after": vars(after)})
    return found


def _pair(goal: Goal, mine: Results, theirs: Results) -> gate.Pair:
    before, after = mine.get(goal), theirs.get(goal)
    assert before is not None and after is not None
    return gate.Pair(goal.id, goal.category or "all", float(before.achieved), float(after.achieved))


def _row(episode: Episode) -> dict[str, Any]:
    assert episode.result is not None
    return {
        "goal": goal_key(episode.goal),
        "achieved": episode.result.status == "achieved",
        "status": episode.result.status,
        "answer": as_text(episode.result.answer)[:ANSWER],
        "said": said_in(episode.events)[: 4 * ANSWER],
    }
