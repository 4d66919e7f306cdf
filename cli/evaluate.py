"""``autogpt eval`` and ``autogpt gate``: measure a model on a suite; compare two such reports.

A suite of goals runs through the rollout driver with batched model calls; one of scripted sessions
(its records have ``turns``) is held message by message. The gate pairs the goals of two reports by their
ids, in the order of the current model's; reports of different suites or seeds are refused. With
``--planned`` it looks early as well, and a report of the first goals of the suite may already decide.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..agent.evaluate import statistics as gate
from ..agent.goals.load import load_conversations, load_goals
from ..agent.goals.source import find_source, read_text
from ..agent.open import check_best_of, open_model, open_registry, tool_names
from ..errors import UsageError
from ..llm.message import Model
from ..settings import Settings
from ..tools.registry import Registry
from .parser import settings_of
from .tables import progress_line, show_table
from .view import clean

if TYPE_CHECKING:
    from ..agent.evaluate.suite import Evaluation

PARALLEL = 16
"""Goals in one batch; more gains little, and each keeps its own cache."""


def evaluate_suite(args: argparse.Namespace) -> int:
    """Run the suite and report; exit code 0 however many goals were achieved."""
    from ..agent.evaluate.suite import write_report

    settings = settings_of(args)
    for name in ("limit", "samples", "parallel"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1")
    if args.json:
        _check_writable(Path(args.json))
    found = _evaluation(args, settings)
    show(found)
    if args.json:
        write_report(found, Path(args.json))
        print(f"wrote {args.json}", file=sys.stderr)
    return 0


def _evaluation(args: argparse.Namespace, settings: Settings) -> Evaluation:
    from ..agent.evaluate.suite import converse

    registry = open_registry()
    suite = Path(args.suite).name
    if holds_sessions(args.suite):
        if one_by_one := _of_goals(args):
            raise UsageError(f"{one_by_one}: {suite} holds conversations; each is held once, alone")
        sessions = load_conversations(args.suite)[: args.limit]
        model = _model(settings)
        check_best_of(args.best_of, model)
        messages = sum(len(session.turns) for session in sessions)
        with _counter(suite, messages) as count:
            return converse(suite, sessions, model, registry, lambda row: count(row.status), args.best_of)
    goals = load_goals(args.suite, tool_names(registry))[: args.limit]
    model = _model(settings)
    check_best_of(args.best_of, model)
    return _goals(args, suite, goals, model, registry)


def _of_goals(args: argparse.Namespace) -> str:
    """Return the first flag that only suites of goals take, or an empty string."""
    plain = {"seed": 0, "samples": 1, "parallel": None, "no_plan": False, "no_memory": False, "memory": None}
    named = (name for name, value in plain.items() if getattr(args, name) != value)
    return next((f"--{name.replace('_', '-')}" for name in named), "")


def _goals(
    args: argparse.Namespace, suite: str, goals: list[Any], model: Model, registry: Registry
) -> Evaluation:
    from ..agent.evaluate.suite import evaluate
    from ..agent.run.memories import SuiteMemories

    with _counter(suite, len(goals) * args.samples) as count:
        return evaluate(
            suite,
            goals,
            model,
            registry,
            seed=args.seed,
            samples=args.samples,
            parallel=args.parallel or PARALLEL,
            best_of=args.best_of,
            plan=not args.no_plan,
            memories=None if args.no_memory else SuiteMemories(_told(args.memory)),
            on_done=lambda episode: count(episode.result.status if episode.result else ""),
        )


def _told(file: str | None) -> list[str]:
    """Return the lines of the file that ``--memory`` names: what every goal's memory holds beforehand."""
    if file is None:
        return []
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--memory: {file} cannot be read: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _model(settings: Settings) -> Model:
    with progress_line() as say:
        say(f"loading {settings.model}", None)
        return open_model(settings)


@contextmanager
def _counter(suite: str, total: int) -> Iterator[Callable[[str], None]]:
    """Yield a function that counts ended goals by status and shows how far the suite is."""
    done = achieved = 0
    with progress_line() as say:
        say(suite, 0.0)

        def count(status: str) -> None:
            nonlocal done, achieved
            done += 1
            achieved += status == "achieved"
            say(suite, done / total, f"{done} of {total}, {achieved / done:.0%} achieved")

        yield count


def show(found: Evaluation) -> None:
    """Print the report: one line per category, then the whole."""
    report = found.as_json()
    groups = report["by_category"]
    rows = [_row(name, group) for name, group in groups.items()] if len(groups) > 1 else []
    show_table(("category", "goals", "achieved", "95 %"), [*rows, _row("all", report)], flexible=0)
    line = [f"model {found.model}", f"invalid calls {report['invalid_calls']}"]
    if report["answered"]:
        line.append(f"{report['answered']} answered, not checked")
    if report["seconds_median"] is not None:
        line.append(f"median {report['seconds_median']:.2f} s a goal")
    if report["plan_followed"] is not None:
        line.append(f"plan followed {report['plan_followed']:.0%}")
    if "mean_score" in report:
        low, high = report["mean_score95"]
        line.append(f"mean score {report['mean_score']:.3f} ({low:.3f} to {high:.3f})")
    print(" · ".join(line))


def _row(name: str, group: dict[str, Any]) -> tuple[str, ...]:
    low, high = group["wilson95"]
    return name, str(group["n"]), f"{group['pass_rate']:.1%}", f"{low:.1%} to {high:.1%}"


def holds_sessions(suite: str) -> bool:
    """Say whether the suite's first record is a scripted session."""
    path = find_source(suite)
    if path is None or path.is_dir():
        return False
    first = next((line for line in read_text(path).splitlines() if line.strip()), "")
    try:
        record = json.loads(first)
    except ValueError:
        return False
    return isinstance(record, dict) and "turns" in record


def _check_writable(path: Path) -> None:
    """Raise UsageError now, not after an hour of work, where the report could not be written."""
    if not path.parent.is_dir():
        raise UsageError(f"--json: no such folder: {path.parent}")


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
