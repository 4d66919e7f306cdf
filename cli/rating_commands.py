"""What ``autogpt rate`` does: a person's rating or a judge model's opinion becomes an event of the run."""

from __future__ import annotations

import argparse
import sys

from ..agent.learn.judge import opinion
from ..agent.learn.promotion import check_canary_release
from ..agent.open import open_model, open_store
from ..agent.record.events import Rating
from ..agent.run.feedback import answered, earlier, parse_value, told, who
from ..errors import UsageError
from ..settings import load


def rate(args: argparse.Namespace) -> int:
    """Keep a rating of a run, or of a conversation's last answer; by a model where it is ``judge``."""
    judged = args.value.strip().lower() == "judge"
    value = 0.0 if judged else parse_value(args.value)
    settings = load(model=args.model, device=args.device, dtype=args.dtype)
    store = open_store(settings)
    run = store.resolve_run(args.run)
    with store.open(run) as journal:
        if answered(journal.events) is None:
            raise UsageError(f"run {run} has no answer yet; there is nothing to rate")
        if judged:
            rating, before = opinion(open_model(settings), journal.events), None
        else:
            rating, before = Rating(value=value, text=args.why, by=who()), earlier(journal.events, who())
        journal.append(rating)
    print(f"{run}: {told(rating.value, before)}{f' by {rating.by}' if judged else ''}")
    if noticed := check_canary_release(settings, store):
        print(f"autogpt: {noticed}", file=sys.stderr)
    return 0
