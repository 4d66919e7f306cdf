"""``autogpt improve``: options in, a table and a verdict out, and a page with the whole story."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from ..agent.goals.load import Goal, load_goals
from ..agent.learn import promotion
from ..agent.learn.collect import collect
from ..agent.learn.dataset import survey
from ..agent.learn.gate import size
from ..agent.learn.improve import ImproveReport, following, improve, unfinished
from ..agent.learn.methods import SHARES, choose
from ..agent.learn.trainer import subject_of
from ..agent.learn.work import Options
from ..agent.open import open_registry, open_store, tool_names
from ..errors import UsageError
from ..settings import Settings, load
from .evaluate import show_gate
from .tables import duration, progress_line, show_table

WATCH = 60.0
"""Seconds between two looks for new runs."""
FRESH = 10
"""New rewarded runs after which a watching improve begins again."""


def run_improve(args: argparse.Namespace) -> int:
    """Improve the model in use, or say what would be done; exit code 0 however the gate decides."""
    settings = load(model=args.model, device=args.device, dtype=args.dtype)  # no model: the one in use then
    options = options_of(args)
    if args.watch and args.dry_run:
        raise UsageError("--watch goes on for ever, --dry-run does nothing: name one of the two")
    names = tool_names(open_registry())
    goals = [goal for suite in args.goals for goal in load_goals(suite, names)]
    if args.dry_run:
        return dry_run(settings, options, goals, args.json)
    if not args.watch:
        once(settings, options, goals, args.json)
        return 0
    seen = -1
    while True:
        now = _learnable(settings)
        if seen < 0 or now >= seen + FRESH:
            settings = once(settings, options, goals, args.json)
            seen = now
        time.sleep(WATCH)


def once(settings: Settings, options: Options, goals: list[Goal], as_json: bool) -> Settings:
    """Improve once, with all rounds; returns the settings that go on with what was promoted."""
    begun = unfinished(settings.home, subject_of(settings).reference)
    if begun is not None:
        print(
            f"going on with {begun.state.id} at `{begun.state.stage}`, with the goals and options "
            "that it began with",
            file=sys.stderr,
        )
    with progress_line() as say:
        reports = improve(
            settings, options, goals=goals, say=say, on_round=lambda report: show(report, as_json)
        )
    promoted = [report.version for report in reports if report.version]
    if (named := load().model) and promoted and promoted[-1] != named:
        print(f"note: a setting names the model {named}, which comes first", file=sys.stderr)
    for report in reports:
        settings = following(settings, report)
    return settings


def options_of(args: argparse.Namespace) -> Options:
    """Return the options that the arguments name. Raises UsageError."""
    from pydantic import ValidationError

    wanted = {
        "method": args.method,
        "budget_minutes": None if args.budget is None else minutes(args.budget),
        "attempts": args.attempts,
        "rounds": args.rounds,
        "planned": args.planned,
        "seed": args.seed,
        "dp_epsilon": args.dp_epsilon,
        "full": args.full or None,
    }
    try:
        return Options(**{key: value for key, value in wanted.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).removesuffix("_minutes").replace("_", "-")
        raise UsageError(f"--{name}: {first['msg']}, got {first['input']!r}") from error


def minutes(text: str) -> float:
    """Return the minutes that ``30m``, ``2h``, ``90s`` or ``45`` say. Raises UsageError."""
    return duration(text, "--budget", "m") / 60


def show(report: ImproveReport, as_json: bool = False) -> None:
    """Print how a round ended."""
    if as_json:
        print(json.dumps(report.as_json(), ensure_ascii=False), flush=True)
        return
    figures = report.figures
    if figures.tries is not None:
        print(
            f"practised {figures.goals} goals: {figures.solved_tries} of {figures.tries} tries achieved, "
            f"{figures.sometimes} goals sometimes, {figures.never} never; trained on {figures.kept} "
            f"successes, {figures.again} earlier ones and {figures.replayed} of ordinary work"
        )
    if figures.verdict:
        show_gate(figures.rows, figures.verdict)
    if report.decision == "promoted":
        print(f"promoted: {report.version} is in use; 'autogpt model rollback' goes back to {report.parent}")
        if figures.canary_release:
            runs = f"its first {promotion.RUNS} live runs"
            print(f"{runs} are on trial: when they go worse, {report.parent} returns")
    elif report.decision == "kept":
        print(f"kept {report.parent}: {report.reason}")
    else:
        print(f"nothing was trained: {report.reason}")
    print(f"page: {report.page}")


def dry_run(settings: Settings, options: Options, goals: list[Goal], as_json: bool) -> int:
    """Say what there is and what would happen; nothing is written but what was read from the journals."""
    subject = subject_of(settings)
    found = survey(settings, open_store(settings), subject, goals, seed=options.seed)
    solved = sum(attempt.solved for attempt in found.past)
    counts = found.figures
    method = choose(options, counts, promotion.method_of(settings.home, subject.reference))
    planned = size(method.gate_goals, options.planned, len(found.judging))
    gaps = method.needs(counts)
    told: dict[str, Any] = {
        "model": subject.reference,
        "becomes": subject.relation(options.full),
        "goals to practise": counts.goals,
        "past runs to learn from": f"{counts.past_runs}, {solved} achieved",
        "corrections and ratings": f"{counts.pairs} pairs, {counts.thumbs_up} up, {counts.thumbs_down} down",
        **{f"  refused: {why}": n for why, n in counts.refused.items()},
        **{f"  not practised: {why}": count for why, count in counts.dropped.items()},
        "own held-out goals": counts.own_held_out,
        "gate": f"up to {planned} of {len(found.judging)} held-out goals, both models",
    }
    if options.budget_minutes:
        told["budget"] = ", ".join(
            f"{stage} {method.share(stage) * options.budget_minutes:.0f} min" for stage in SHARES
        )
    told["method"] = method.name
    told["would"] = "do nothing" if gaps else "practise, train, play the gate"
    if as_json:
        print(json.dumps({**told, "missing": gaps}, ensure_ascii=False))
        return 0
    show_table(("improve", ""), [(key, str(value)) for key, value in told.items()])
    for gap in gaps:
        print(f"missing: {gap}")
    return 0


def _learnable(settings: Settings) -> int:
    return collect(open_store(settings), settings).stats().learnable
