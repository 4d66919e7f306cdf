"""What ``autogpt practice DIR`` does: a suite of checkable goals from a user's own files."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ..agent.goals.source import SUITE_SUFFIXES
from ..agent.practice.generate import practise
from ..errors import UsageError
from ..files import replace_file


def practice(args: argparse.Namespace) -> int:
    """Write the suite and say what is in it."""
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
        replace_file(out, text, mode=0o644)
        print(f"wrote {out}")
    for line in made.lines():
        print(line, file=sys.stderr if out is None else sys.stdout)
    return 0
