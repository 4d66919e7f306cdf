"""What ``autogpt gate`` does: two reports of ``autogpt eval`` in, a table and a verdict out.

Goals are paired by their ids, in the order of the current model's report. Reports of different suites
or seeds are not comparable and refused. With ``--planned`` the gate looks early as well, and a report of
the first goals of the suite may already decide.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..agent.evaluate import statistics as gate
from ..errors import UsageError
from .tables import show_table
from .view import clean


@dataclass(frozen=True)
class EvalReport:
    """What the gate needs of a report: per goal its category and which of its samples were achieved."""

    file: str
    suite: str
    model: str
    seed: int | None
    goals: dict[str, tuple[str, list[bool]]]
    """By goal id, in the order of the report."""


def compare(args: argparse.Namespace) -> int:
    """Print the table and the verdict; exit code 0 for promote, 1 otherwise."""
    current, candidate = read_report(Path(args.current)), read_report(Path(args.candidate))
    pairs = pair(current, candidate)
    planned = len(pairs) if args.planned is None else args.planned
    if planned < gate.MIN_GOALS:
        raise UsageError(
            f"a gate takes at least {gate.MIN_GOALS} goals, here are {planned}: evaluate both models on more "
            f"(a gain of {gate.GAIN * 100:g} points takes about {gate.DEFAULT_N})"
        )
    verdict = gate.judge(pairs, planned, gate.LOOKS if args.planned else (1.0,))
    rows = gate.table(pairs[: verdict.seen or len(pairs)])
    if args.json:
        data = {"current": current.model, "candidate": candidate.model, **asdict(verdict)}
        data["rows"] = [{**asdict(row), "difference": row.difference} for row in rows]
        print(json.dumps(data, ensure_ascii=False))
    else:
        _show(current, candidate, verdict, rows)
    return 0 if verdict.decision == "promote" else 1


def _show(
    current: EvalReport, candidate: EvalReport, verdict: gate.Verdict, rows: Sequence[gate.Row]
) -> None:
    print(clean(f"current {current.model}, candidate {candidate.model}, suite {current.suite}"))
    show_gate(rows, verdict)
    if verdict.decision == "keep" and verdict.planned < gate.DEFAULT_N:
        print(
            f"a gain of {gate.GAIN * 100:g} points is mostly seen with {gate.DEFAULT_N} goals",
            file=sys.stderr,
        )


def show_gate(rows: Sequence[gate.Row], verdict: gate.Verdict) -> None:
    """Print the table of both models by category, and what was decided."""
    lines = [
        (
            clean(row.category),
            str(row.n),
            f"{row.current:.1%}",
            f"{row.candidate:.1%}",
            f"{row.difference * 100:+.1f} ({row.low * 100:+.1f} to {row.high * 100:+.1f})",
            gate.row_verdict(row, verdict.decision),
        )
        for row in rows
    ]
    show_table(("category", "goals", "current", "candidate", "difference, 95 %", "verdict"), lines, 0)
    print(
        f"{verdict.decision}: {verdict.reason} ({verdict.wins} goals won, {verdict.losses} lost, "
        f"p = {verdict.p:.3g}, after {verdict.seen} of {verdict.planned} goals)"
    )


def pair(current: EvalReport, candidate: EvalReport) -> list[gate.Pair]:
    """Return the goals of both reports; raises UsageError where they cannot be compared."""
    if current.suite != candidate.suite:
        raise UsageError(
            f"{current.file} is of the suite {current.suite}, {candidate.file} of {candidate.suite}: "
            "a gate takes the same goals for both models"
        )
    if None not in (current.seed, candidate.seed) and current.seed != candidate.seed:
        raise UsageError(
            f"{current.file} was sampled with seed {current.seed}, {candidate.file} with {candidate.seed}: "
            "evaluate one of them again with the other's --seed"
        )
    pairs = []
    for goal, (category, achieved) in current.goals.items():
        if goal not in candidate.goals:
            continue
        other = candidate.goals[goal][1]
        if len(other) != len(achieved):
            raise UsageError(
                f"goal {goal} has {len(achieved)} samples in {current.file} and {len(other)} in "
                f"{candidate.file}: evaluate both with the same --samples"
            )
        pairs.append(gate.Pair(goal, category, sum(achieved) / len(achieved), sum(other) / len(other)))
    alone = len(current.goals) + len(candidate.goals) - 2 * len(pairs)
    if alone:
        print(f"autogpt: warning: {alone} goals are in one report only and do not count", file=sys.stderr)
    return pairs


def read_report(path: Path) -> EvalReport:
    """Read a report of ``autogpt eval --json``; raises UsageError naming what is wrong with it."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        goals: dict[str, tuple[str, list[bool]]] = {}
        for row in data["rows"]:
            _, achieved = goals.setdefault(str(row["id"]), (str(row.get("category") or "all"), []))
            achieved.append(row["status"] == "achieved")
        seed: Any = data.get("seed")
        return EvalReport(str(path), str(data["suite"]), str(data["model"]), seed, goals)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: not a report of 'autogpt eval --json'") from error
