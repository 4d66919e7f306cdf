"""What ``autogpt model judge`` does: a value head for a model, fitted on a suite of goals with checks."""

from __future__ import annotations

import argparse

from ..agent.goals.load import load_goals
from ..agent.learn.value_head import collect, outcomes, read_parts
from ..agent.open import heads_folder, open_model, open_registry, tool_names, with_model
from ..errors import UsageError
from ..llm.models.local import LocalModel
from ..llm.nn.forward import can_fuse
from ..llm.training.fit_value_head import fit_value, write_value
from ..settings import load
from .tables import progress_line


def judge(args: argparse.Namespace) -> int:
    """Fit a value head for a model on a suite of goals with checks, and say how good it is."""
    if args.attempts < 2:
        raise UsageError("--attempts must be at least 2")
    settings = with_model(load(model=args.model, device=args.device, dtype=args.dtype))
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
