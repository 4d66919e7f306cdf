"""``autogpt runs list | show | replay | export | remove``: the record of what happened."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ..agent.open import open_registry, open_store
from ..agent.record.result import summarise
from ..agent.record.store import RunInfo, RunStore
from ..errors import UsageError, UserError
from ..settings import load
from ..text import clip
from .report import VERDICTS, PlainReport, tree
from .tables import duration, show_table, size, when
from .view import RunView, clean, one_line

GOAL_WIDTH = 200
"""Characters of a goal in the list; `runs show` has all of it."""


def list_runs(args: argparse.Namespace) -> int:
    """Print the newest runs, one line each."""
    if args.limit < 1:
        raise UsageError("--limit must be at least 1")
    store = open_store(load())
    infos = store.list_runs(args.limit)
    if args.json:
        for info in infos:
            more = {"resumable": info.resumable, "bytes": disk_use(store.folder(info.run))}
            print(json.dumps({**asdict(info), **more}, ensure_ascii=False))
        return 0
    if not infos:
        print('no runs yet; autogpt run "..." makes one')
        return 0
    show_runs(store, infos)
    return 0


def show_runs(store: RunStore, infos: Sequence[RunInfo]) -> None:
    """Print a table of runs, a long goal cut."""
    rows = []
    for info in infos:
        word, style = VERDICTS.get(info.status, (info.status, "cyan"))
        goal = "(conversation)" if info.mode == "chat" else clip(one_line(clean(info.goal)), GOAL_WIDTH)
        took = size(disk_use(store.folder(info.run)))
        rows.append((info.run, when(info.started), Text(word, style=style), info.model, took, goal))
    show_table(("run", "started", "outcome", "model", "size", "goal"), rows)


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
    """Delete a run, or all that are untouched since ``--older-than``, and say which models have seen them."""
    from ..agent.learn.forget import remove
    from .memory import say_models

    if (args.run is None) == (args.older_than is None):
        raise UsageError("name a run, or --older-than TIME (such as 30d) for all untouched since then")
    store = open_store(load())
    if args.run is not None:
        runs = [store.resolve_run(args.run)]
    else:
        runs = _older(store, time.time() - duration(args.older_than, "--older-than", "d"))
        if not runs:
            print(f"no run is older than {args.older_than}")
            return 0
    freed = sum(disk_use(store.folder(run)) for run in runs)
    done = remove(store, runs)
    for run, why in done.left.items():
        freed -= disk_use(store.folder(run))
        print(f"run {run} stays: {why}", file=sys.stderr)
    what = done.runs[0] if args.run is not None else f"{len(done.runs)} runs"
    print(f"removed {what}, {size(freed)} of files")
    say_models(done.models)
    return 1 if done.left else 0


def _older(store: RunStore, moment: float) -> list[str]:
    """Return the runs that nobody holds, in which nothing has happened since ``moment``."""
    ended = [info for info in store.list_runs(limit=None) if info.status != "running"]
    last = ((info.run, info.ended or store.load(info.run)[-1].at) for info in ended if info.started < moment)
    return [run for run, at in last if at < moment]


def disk_use(folder: Path) -> int:
    """Return the bytes of the files below ``folder``; links are not followed."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # it went meanwhile
                total += os.lstat(os.path.join(place, name)).st_size
    return total


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
