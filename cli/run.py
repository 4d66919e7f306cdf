"""What ``autogpt run``, ``resume`` and ``approve`` do, from parsed arguments to an exit code.

Each command opens what it needs (settings, store, model, tools), hands the work to the runner and
lets a report show it. Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ..agent.goals.load import adapt, load_goals
from ..agent.learn.promotion import check_canary_release
from ..agent.open import (
    check_best_of,
    open_model,
    open_registry,
    open_store,
    tool_names,
    with_memory,
)
from ..agent.record.events import Event, PersonAnswered, PersonAsked
from ..agent.record.record import Record
from ..agent.record.result import RunResult
from ..agent.record.state import State
from ..agent.record.store import RunStore
from ..agent.run import approvals
from ..agent.run.feedback import who
from ..agent.run.memory import Memory
from ..agent.run.runner import Runner
from ..errors import UsageError
from ..llm.message import Sampling
from ..settings import Settings
from .parser import settings_of
from .report import Report, ask_at_terminal, at_terminal, make_report
from .tables import show_outcomes

FILE_NAME = re.compile(r"[^\s?!]+\.[A-Za-z][A-Za-z0-9]{0,5}|[^\s?!]*/[^\s?!]*")
"""One word with a suffix or a slash: surely meant as a file."""


def run(args: argparse.Namespace) -> int:
    """Run the goals that the arguments name; return the largest exit code."""
    settings = settings_of(args, parallel=args.parallel, memory=False if args.no_memory else None)
    registry = open_registry()
    if FILE_NAME.fullmatch(args.goal) and not Path(args.goal).exists():
        raise UsageError(f"{args.goal}: no such file (a goal in words has more than one)")
    loaded = load_goals(args.goal, tool_names(registry))
    goals = [adapt(goal, args.inputs, args.workspace, args.write) for goal in loaded]
    for goal in goals:
        goal.input_paths()  # a missing input should show before a model is loaded
    store = open_store(settings)
    with make_report(args.json, settings.parallel) as report, with_memory(settings, store) as memory:
        with report.busy(f"loading {settings.model}"):
            model = open_model(settings)
        ask = ask_at_terminal(report) if at_terminal() and not args.json else None
        runner = Runner(
            store,
            model,
            registry,
            ask=ask,
            on_event=report.on_event,
            on_text=report.on_text,
            sampling=Sampling(seed=args.seed, best_of=check_best_of(args.best_of, model)),
            memory=memory,
        )
        results = runner.run_all(goals, settings.parallel)
    if told := check_canary_release(settings, store):
        print(f"autogpt: {told}", file=sys.stderr)
    return finish(results, args.json, store)


def finish(results: Sequence[RunResult], json: bool, store: RunStore) -> int:
    """Print what the command owes (JSON, or a table of several outcomes); return the exit code."""
    if json:
        for result in results:
            print(result.model_dump_json(), flush=True)
    elif len(results) > 1:
        show_outcomes(results)
    for result in results:
        if not result.run:
            print(f"autogpt: error: {result.id}: {result.cause}", file=sys.stderr)
        elif result.status == "needs_person" and (asked := State.of(store.load(result.run)).waiting):
            answers = '"YOUR ANSWER"' if asked.kind == "question" else "|".join(approvals.DECISIONS)
            print(f"to answer: autogpt approve {result.run} {answers}", file=sys.stderr)
    return max((result.exit_code for result in results), default=0)


def resume(args: argparse.Namespace) -> int:
    """Go on with an interrupted run (the newest one by default)."""
    settings = settings_of(args)
    store = open_store(settings)
    name = store.resolve_run(args.run) if args.run else store.last_resumable()
    info = store.info(name)
    if info.mode == "chat":
        from .chat import continue_chat

        return continue_chat(args, name)
    with make_report(args.json) as report, with_memory(settings, store) as memory:
        runner = _runner_for(name, args, settings, store, report, memory)
        result = runner.resume(name)
    if info.ended is not None:
        print(f"run {name} has ended already; 'autogpt runs show {name}' shows it", file=sys.stderr)
    if result.status == "needs_person" and not args.json:
        print(result.cause)
    return finish([result], args.json, store)


def approve(args: argparse.Namespace) -> int:
    """Answer what a parked run waits for, and go on with it."""
    settings = settings_of(args)
    store = open_store(settings)
    name = store.resolve_run(args.run)
    approvals.approve(store, name, _answer(store.load(name), args.answer, args.reason))
    with make_report(args.json) as report, with_memory(settings, store) as memory:
        runner = _runner_for(name, args, settings, store, report, memory)
        result = runner.resume(name)
    return finish([result], args.json, store)


def _answer(events: Sequence[Event], answer: str, reason: str) -> PersonAnswered:
    asked = Record(events).last(PersonAsked)
    if asked is not None and asked.kind == "question":
        return PersonAnswered(text=answer or reason, by=who())
    return PersonAnswered(text=reason, decision=answer or "once", by=who())


def _runner_for(
    name: str,
    args: argparse.Namespace,
    settings: Settings,
    store: RunStore,
    report: Report,
    memory: Memory | None,
) -> Runner:
    """Return a runner with the model that the run began with, unless another one is asked for."""
    model = args.model or store.info(name).model or settings.model
    with report.busy(f"loading {model}"):
        opened = open_model(settings.model_copy(update={"model": model}))
    ask = ask_at_terminal(report) if at_terminal() and not args.json else None
    events = store.load(name)
    started = Record(events).started
    report.catch_up(name, events)
    return Runner(
        store,
        opened,
        open_registry(),
        ask=ask,
        on_event=report.on_event,
        on_text=report.on_text,
        sampling=Sampling(seed=started.seed, best_of=check_best_of(started.best_of, opened)),
        memory=memory,
    )
