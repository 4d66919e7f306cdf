"""Commands that only look: ``tools list``, ``validate``, ``doctor``, ``prompts show`` and ``version``."""

from __future__ import annotations

import argparse
import json
import sys

from ..agent.goals.load import adapt, load_goals
from ..agent.goals.load import validate as validate_goals
from ..agent.open import open_registry, tool_names, with_model
from ..errors import UsageError
from ..settings import load
from .tables import show_table


def tools(args: argparse.Namespace) -> int:
    """List the tools with what each may do."""
    registry = open_registry()
    chosen = registry.select(None)
    if args.json:
        for name, tool in chosen.items():
            spec = {
                "name": name,
                "description": tool.description,
                "parameters": dict(tool.parameters),
                "effect": str(tool.effect),
                "replay": str(tool.replay),
                "source": registry.source(name),
            }
            print(json.dumps(spec, ensure_ascii=False))
        return 0
    rows = [
        (name, str(tool.effect), registry.source(name), tool.description) for name, tool in chosen.items()
    ]
    show_table(("tool", "effect", "source", "what it does"), rows)
    return 0


def validate(args: argparse.Namespace) -> int:
    """Print every mistake of the goal files; exit code 2 if there is one."""
    known = tool_names(open_registry())
    mistakes = 0
    for name in args.files:
        try:
            problems = [str(problem) for problem in validate_goals(name, known)]
        except UsageError as error:
            problems = [str(error)]
        for problem in problems:
            print(problem, file=sys.stderr)
        if not problems:
            print(f"{name}: fine")
        mistakes += len(problems)
    return 2 if mistakes else 0


def version(args: argparse.Namespace) -> int:
    """Print the version."""
    from .. import __version__

    print(f"autogpt {__version__}")
    return 0


def doctor(args: argparse.Namespace) -> int:
    """Say what works on this machine and what is missing; exit code 1 if something is."""
    from .doctor import examine

    findings = examine(load())
    if args.json:
        print(json.dumps([vars(finding) for finding in findings], ensure_ascii=False))
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.fine else 'MISSING'} {finding.what}: {finding.detail}")
    return 0 if all(finding.fine for finding in findings) else 1


def prompts(args: argparse.Namespace) -> int:
    """Show what the model reads first for a goal, part by part, with token counts."""
    from .first_prompt import first_prompt

    settings = with_model(load(model=args.model))
    goal = load_goals(args.goal)[0]
    parts = first_prompt(adapt(goal, args.inputs), settings)
    for part in parts:
        tokens = "" if not part.tokens else f", {part.tokens} tokens"
        print(f"--- {part.name}{tokens}")
        print(part.text)
    if any(part.tokens is None for part in parts):
        print("(no token counts: the model is not on this machine; autogpt model fetch)", file=sys.stderr)
    return 0
