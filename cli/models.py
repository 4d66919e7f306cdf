"""``autogpt model list | show | fetch | use | judge | rollback`` and ``autogpt train``.

Training and fetching are functions of ``llm``; here they get their settings and a progress line.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import ModelUnavailable, UsageError
from ..llm.fetch import BUILT_IN, is_fetched
from ..llm.registry import ModelRegistry, Resolved, Version, default_model
from ..settings import Settings, bound_spinning, load
from .tables import progress_line, show_table, size


def list_models(args: argparse.Namespace) -> int:
    """List the models: what each is good for, what it takes, whether it is here, and which is in use."""
    settings = load()
    registry = ModelRegistry(settings.home)
    current = settings.model or registry.current()
    listed = [_listed(registry, version, current) for version in registry.list()]
    if current not in {row["reference"] for row in listed} and not current.startswith(OTHER_KINDS):
        listed.append(_in_use_by_path(registry, current))
    if args.json:
        for row in listed:
            print(json.dumps(row, ensure_ascii=False))
        return 0
    rows = [
        (
            "*" if row["in_use"] else "",
            row["reference"],
            row["good_for"],
            size(row["disk"]) if row["disk"] else "-",
            f"{row['memory'] / 1e9:.1f} GB" if row["memory"] else "?",
            row["licence"] or "?",
            "ready" if row["ready"] else "not here",
        )
        for row in listed
    ]
    show_table(("", "model", "good for", "disk", "memory", "licence", "state"), rows, flexible=2)
    if any(not row["ready"] and row["reference"] in BUILT_IN for row in listed):
        print("to bring one here: autogpt model fetch NAME")
    return 0


OTHER_KINDS = ("langchain:", "scripted:", "openai:")
"""Beginnings of names of models that have no files here."""


def _listed(registry: ModelRegistry, version: Version, current: str) -> dict[str, Any]:
    """Return all that is said of a registered model."""
    about = BUILT_IN.get(version.base or version.name)
    shipped = version.version == "shipped"
    trained = f"{version.name}, trained {version.created[:10]}".rstrip(", ")
    own = registry.folder(version)
    disk = sum(file.stat().st_size for file in own.rglob("*") if file.is_file()) if own.is_dir() else 0
    found = _resolved(registry, version.reference)
    needed = about.memory if about else registry.memory_needed(found) if found else None
    return {
        **asdict(version),
        "reference": version.reference,
        "title": about.title if about else "",
        "good_for": about.good_for if about and shipped else trained,
        "licence": about.licence if about else "",
        "disk": disk + (about.disk if about and shipped else 0),
        "memory": needed,
        "ready": found is not None,
        "fetch": f"autogpt model fetch {about.name}" if about and about.folder else "",
        "in_use": version.reference == current,
    }


def _in_use_by_path(registry: ModelRegistry, reference: str) -> dict[str, Any]:
    """Return what is said of a model in use that is a folder, a file or a hub name."""
    found = _resolved(registry, reference)
    source = None if found is None or not isinstance(found.source, Path) else found.source
    files = [] if source is None else [source] if source.is_file() else list(source.rglob("*"))
    disk = sum(file.stat().st_size for file in files if file.is_file())
    return {
        "reference": reference,
        "good_for": "in use, not known to us",
        "licence": "",
        "disk": disk,
        "memory": registry.memory_needed(found) if found else None,
        "ready": found is not None,
        "in_use": True,
    }


def _resolved(registry: ModelRegistry, reference: str) -> Resolved | None:
    try:
        return registry.resolve(reference)
    except ModelUnavailable:
        return None


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
    """Fetch a built-in model, or the embedder minilm; soon when it is there already."""
    settings = load()
    registry = ModelRegistry(settings.home)
    choice = default_model()
    brought = Path(args.brought).expanduser() if args.brought else None
    name = args.what or ("small" if brought and brought.suffix == ".whl" else choice.name)
    if name not in FETCHED:
        near = difflib.get_close_matches(name, FETCHED, 1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(FETCHED)}"
        ships = "nano ships with the package, there is nothing to fetch; " if name == "nano" else ""
        raise UsageError(f"model fetch {name}: {ships or 'no such model to fetch; '}{hint}")
    if not args.what:
        print(f"{name} is the default on this machine: {choice.why}")
    print(f"{'embedder' if name == 'minilm' else name} ready in {_fetch(name, settings, brought)}")
    if name == "minilm":
        return 0
    if registry.current() != name:
        print(f"in use is {registry.current()}; to change that: autogpt model use {name}")
    print(others(registry, name))
    return 0


FETCHED = (*(name for name, model in BUILT_IN.items() if model.folder), "minilm")


def _fetch(name: str, settings: Settings, brought: Path | None) -> Path:
    """Bring a model to this machine; returns its file or folder."""
    with progress_line() as say:
        if name == "minilm":
            from ..memory.embedding.fetch import fetch_minilm

            return fetch_minilm(settings.home, say, brought)
        if name == "small":
            from ..llm.fetch.small import fetch_small

            return fetch_small(settings.home, brought, say)
        from ..llm.fetch.parts import fetch_gguf

        return fetch_gguf(BUILT_IN[name], settings.home, brought, say)


def others(registry: ModelRegistry, name: str) -> str:
    """Return a line about the built-in models besides ``name``, and how to have them."""
    said = []
    for other, model in BUILT_IN.items():
        if other == name or not model.folder:
            continue
        how = "here" if is_fetched(registry.home, other) else f"autogpt model fetch {other}"
        said.append(f"{other} ({model.good_for}; {model.memory / 1e9:.1f} GB of memory; {how})")
    return f"others: {', '.join(said)}"


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
