"""What ``autogpt eval`` does: a suite in, a table on the screen and a JSON report in a file.

A suite of goals runs through the rollout driver with batched model calls; one of scripted sessions
(its records have ``turns``) is held message by message.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..agent.evaluate.suite import Evaluation, converse, evaluate, write_report
from ..agent.goals.load import load_conversations, load_goals
from ..agent.goals.source import find_source, read_text
from ..agent.open import check_best_of, open_model, open_registry, tool_names, with_model
from ..agent.run.memories import SuiteMemories
from ..errors import UsageError
from ..llm.message import Model
from ..settings import Settings, load
from ..tools.registry import Registry
from .progress import progress_line
from .tables import show_table

PARALLEL = 16
"""Goals in one batch; more gains little, and each keeps its own cache."""


def evaluate_suite(args: argparse.Namespace) -> int:
    """Run the suite and report; exit code 0 however many goals were achieved."""
    settings = with_model(load(model=args.model, device=args.device, dtype=args.dtype))
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
