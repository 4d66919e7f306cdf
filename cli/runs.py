"""What ``autogpt runs list | show | replay | export`` do. All of them only read."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ..agent.open import open_registry, open_store
from ..agent.record.result import summarise
from ..agent.record.store import RunStore
from ..errors import UsageError, UserError
from ..settings import load
from .report import VERDICTS, PlainReport, tree
from .tables import show_table, when
from .view import RunView, clean, one_line


def list_runs(args: argparse.Namespace) -> int:
    """Print the newest runs, one line each."""
    if args.limit < 1:
        raise UsageError("--limit must be at least 1")
    infos = open_store(load()).list_runs(args.limit)
    if args.json:
        for info in infos:
            print(json.dumps({**asdict(info), "resumable": info.resumable}, ensure_ascii=False))
        return 0
    if not infos:
        print('no runs yet; autogpt run "..." makes one')
        return 0
    rows = []
    for info in infos:
        word, style = VERDICTS.get(info.status, (info.status, "cyan"))
        goal = "(conversation)" if info.mode == "chat" else one_line(clean(info.goal))
        rows.append((info.run, when(info.started), Text(word, style=style), info.model, goal))
    show_table(("run", "started", "outcome", "model", "goal"), rows)
    return 0


def show(args: argparse.Namespace) -> int:
    """Print one run as it went: a tree on a terminal, plain lines when piped."""
    store, run = _find(args)
    events = store.load(run)
    if args.json:
        print(summarise(events, store.database.where).model_dump_json())
        return 0
    console = Console()
    if console.is_terminal:
        console.print(tree(RunView.of(events)))
        return 0
    report = PlainReport()
    for event in events:
        report.on_event(run, event)
    return 0


def export(args: argparse.Namespace) -> int:
    """Write one run's events as JSON lines."""
    store, run = _find(args)
    if args.out is None:
        for line in store.export(run):
            sys.stdout.write(line + "\n")
        return 0
    try:
        with Path(args.out).open("w", encoding="utf-8") as stream:
            stream.writelines(line + "\n" for line in store.export(run))
    except OSError as error:
        raise UserError(f"{args.out}: cannot be written: {error.strerror}") from error
    print(f"wrote {args.out}", file=sys.stderr)
    return 0


def remove(args: argparse.Namespace) -> int:
    """Delete a run for good, clear the database file of it, and say which models have seen it."""
    from ..agent.learn.forget import forget_runs
    from ..memory.experience import Experience
    from ..memory.upkeep.forgetting import scrub
    from .memory_upkeep import say_models

    store, run = _find(args)
    models = Experience(store.database).models_that_saw([run])
    forget_runs(store.home, [run])  # first: while an improvement is under way nothing may be half gone
    store.remove(run)
    scrub(store.database)
    print(f"removed {run}")
    say_models(models)
    return 0


def _find(args: argparse.Namespace) -> tuple[RunStore, str]:
    store = open_store(load())
    return store, store.resolve_run(args.run or "last")


def replay(args: argparse.Namespace) -> int:
    """Decide every recorded step again; exit code 3 when the record and the loop disagree."""
    from ..agent.run.replay import replay as replay_run

    store, run = _find(args)
    found = replay_run(store.load(run), open_registry().select(None))
    if args.json:
        print(json.dumps({"run": run, "same": found.same, **asdict(found)}, ensure_ascii=False))
        return 0 if found.same else 3
    for note in found.notes:
        print(f"note: {note}")
    if found.difference:
        print(f"differs at {clean(str(found.difference))}")
    print(f"{run}: {found.compared} decisions compared, {'all the same' if found.same else 'one differs'}")
    return 0 if found.same else 3
