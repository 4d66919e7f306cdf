"""What ``autogpt data make`` does: play the experts' episodes and write them as training files."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..agent.goals.load import load_conversations, load_goals
from ..errors import UsageError
from ..llm.registry import ModelRegistry
from ..settings import load
from .evaluate import holds_sessions
from .progress import progress_line


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
    if not source.is_dir():
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
