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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..llm.message import Brain
from ..llm.training.checkpoint import file_sha256
from ..tools.registry import Registry
from . import gate
from .attempts import said_in
from .compare import as_text
from .goal import Goal
from .improve_state import Lines, read_lines
from .rollout import Episode, Rollout

ANSWER = 300
"""Characters of an answer that are kept for the page."""

Loader = Callable[[], Brain]
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


def goal_key(goal: Goal) -> str:
    """Return what a result is kept under: everything that the goal says, and its inputs' contents."""
    inputs = [file_sha256(path) if path.is_file() else str(path) for path in goal.input_paths()]
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
) -> tuple[list[gate.Pair], gate.Verdict]:
    """Play up to ``planned`` goals and judge; ``folder`` keeps the results."""
    goals = goals[:planned]
    mine, theirs = Results(folder, current.fingerprint), Results(folder, candidate.fingerprint)
    pairs: list[gate.Pair] = []
    for share in gate.LOOKS:
        size = math.ceil(share * planned)
        stretch = goals[len(pairs) : size]
        mine.play(stretch, current, registry, parallel, on_done)
        theirs.play(stretch, candidate, registry, parallel, on_done)
        pairs += [_pair(goal, mine, theirs) for goal in stretch]
        verdict = gate.judge(pairs, planned)
        if verdict.decision != "more":
            break
    return pairs, verdict


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
