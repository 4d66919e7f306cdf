"""What a run was worth and what may be learned: ``rate``, ``experience``, ``practice``, ``data make``."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from ..agent.goals.load import load_conversations, load_goals
from ..agent.goals.source import SUITE_SUFFIXES
from ..agent.learn.collect import collect, missing, runs_of
from ..agent.learn.promotion import check_canary_release
from ..agent.open import open_model, open_store, with_memory
from ..agent.record.events import Rating
from ..agent.run.feedback import parse_value, rate_run, who
from ..errors import UsageError
from ..files import replace_file
from ..llm.registry import ModelRegistry
from ..settings import load
from .evaluate import holds_sessions
from .memory import say_models
from .parser import settings_of
from .tables import progress_line, show_table


def rate(args: argparse.Namespace) -> int:
    """Rate a run, or a conversation's last answer; the value ``judge`` asks a model for its opinion."""
    judged = args.value.strip().lower() == "judge"
    value = 0.0 if judged else parse_value(args.value)
    settings = settings_of(args)
    store = open_store(settings)
    run = store.resolve_run(args.run)
    rating = Rating(value=value, text=args.why, by=who())
    if judged:
        from ..agent.learn.judge import opinion

        rating = opinion(open_model(settings), store.load(run))
    with with_memory(settings, store) as memory:
        print(f"{run}: {rate_run(store, run, rating, memory)}")
    if noticed := check_canary_release(settings, store):
        print(f"autogpt: {noticed}", file=sys.stderr)
    return 0


def stats(args: argparse.Namespace) -> int:
    """Show what there is to learn from, and what is missing."""
    settings = load()
    found = collect(open_store(settings), settings).stats()
    gaps = missing(found)
    if args.json:
        print(json.dumps({**asdict(found), "missing": gaps}, ensure_ascii=False))
        return 0
    rows = [
        ("runs", f"{found.runs}, {found.learnable} to learn from"),
        *((f"  {reason}", str(count)) for reason, count in sorted(found.reasons.items())),
        ("samples", f"{found.samples} turns, {found.distinct} distinct"),
        *((f"  reward from {source}", str(count)) for source, count in sorted(found.sources.items())),
        *((f"  tokenizer {name[:12]}", str(count)) for name, count in sorted(found.tokenizers.items())),
        (
            "goals",
            f"{found.goals}: {found.train_goals} to train on, {found.goals - found.train_goals} held out",
        ),
        ("  solved at least once", str(found.solved)),
        ("  solved sometimes", str(found.sometimes)),
        ("  too like a held-out goal", f"{found.leaks} pairs, not trained on"),
        ("corrections", str(found.corrections)),
    ]
    show_table(("experience", ""), rows)
    for gap in gaps:
        print(f"missing: {gap}")
    return 0


def forget(args: argparse.Namespace) -> int:
    """Let no model learn from a run, or from any run of a user: the samples go, the runs stay."""
    from ..agent.learn.forget import forget

    if (args.run is None) == (args.user is None):
        raise UsageError("name a run, or --user NAME for all runs that this user began or said something in")
    settings = load()
    store = open_store(settings)
    wanted = [store.resolve_run(args.run)] if args.user is None else runs_of(store, args.user)
    if not wanted:
        raise UsageError(f"no run here was begun, rated or spoken in by {args.user!r}")
    done = forget(store, settings, wanted, who())
    for run in done.runs:
        print(f"{run}: no model learns from it; 'autogpt runs remove {run}' deletes the run as well")
    for run, why in done.left.items():
        print(f"run {run} is as it was: {why}", file=sys.stderr)
    say_models(done.models)
    return 1 if done.left else 0


def allow(args: argparse.Namespace) -> int:
    """Let models learn from a run, also where the setting says otherwise."""
    from ..agent.learn.forget import consent

    settings = load()
    store = open_store(settings)
    run = store.resolve_run(args.run)
    found = consent(store, settings, run, True, who())
    print(f"{run}: {len(found.samples)} samples" + (f" ({found.reason})" if found.reason else ""))
    return 0


def practice(args: argparse.Namespace) -> int:
    """Write a suite of checkable goals about the user's own files, and say what is in it."""
    from ..agent.practice.generate import practise

    if args.count < 1:
        raise UsageError("--count must be at least 1")
    out = None if args.out is None else Path(args.out)
    if out is not None and out.suffix != SUITE_SUFFIXES[0]:
        raise UsageError(f"--out: {out} must end with {SUITE_SUFFIXES[0]}, as suites do")
    if out is not None and not out.parent.is_dir():
        raise UsageError(f"--out: no such folder: {out.parent}")
    made = practise(Path(args.folder), args.count, args.seed, out)
    text = "".join(json.dumps(goal, ensure_ascii=False) + "\n" for goal in made.goals)
    if out is None:
        sys.stdout.write(text)
    else:
        replace_file(out, text, mode=0o666)  # like any file of the user
        print(f"wrote {out}")
    for line in made.lines():
        print(line, file=sys.stderr if out is None else sys.stdout)
    return 0


def make_episodes(args: argparse.Namespace) -> int:
    """Write ``train.jsonl.zst`` and ``valid.jsonl.zst`` into a folder and say what is in them."""
    try:
        from ..agent.experts.make import make, size
    except ModuleNotFoundError as missing:
        if not str(missing.name).startswith("autogpt."):
            raise
        raise UsageError(
            "data make: not in the installed package: run it in a checkout of the repository"
        ) from None
    if not args.scale > 0:
        raise UsageError("--scale must be above 0")
    source = Path(ModelRegistry(load().home).resolve(args.model).source)
    if not source.exists():
        raise UsageError(f"{args.model}: not a model on this machine; its tokenizer is needed")
    folder = Path(args.out)
    expected = size(args.recipe) * args.scale
    without = [text for suite in args.without for text in _texts(suite)]
    with progress_line() as say:
        report = make(
            folder,
            source,
            seed=args.seed,
            scale=args.scale,
            recipe=args.recipe,
            without=without,
            progress=lambda count: say("episodes", min(0.99, count / expected), f"{count} kept"),
        )
    for line in report.lines():
        print(line)
    print(f"wrote {folder / 'train.jsonl.zst'} and {folder / 'valid.jsonl.zst'}")
    return 0


def _texts(suite: str) -> list[str]:
    """Return what a suite's goals or messages say."""
    if holds_sessions(suite):
        return [turn.say for session in load_conversations(suite) for turn in session.turns]
    return [goal.goal for goal in load_goals(suite)]
