"""The arguments of the commands that make data, train, measure and learn; part of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .flags import best_of_flag, command, json_flag, model_flags

if TYPE_CHECKING:
    from .flags import Group


def training(groups: Group) -> None:
    data = groups.add_parser("data", help="make training data", description="Make training data.")
    actions = data.add_subparsers(dest="action", metavar="ACTION", required=True)
    made = command(
        actions, "make", "data_commands:make_episodes",
        "play the experts' episodes (from AUTOGPT_DATA) and write the ones that succeed",
        "autogpt data make episodes --scale 0.1",
    )  # fmt: skip
    made.add_argument("out", metavar="OUT", help="folder for train.jsonl.zst and valid.jsonl.zst")
    made.add_argument("--scale", type=float, default=1.0, metavar="S", help="share of the whole (default: 1)")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="other episodes")
    made.add_argument(
        "--recipe", choices=["whole", "update", "recall", "replay"], default="whole",
        help="whole: to train from the base model (default); update: to mend an adapter; replay: what ships",
    )  # fmt: skip
    made.add_argument(
        "--without", metavar="SUITE", action="append", default=[],
        help="leave this suite's goals out (repeatable)",
    )  # fmt: skip
    made.add_argument("--model", "-m", metavar="NAME", default="small", help="whose tokens (default: small)")

    train = command(
        groups, "train", "models:train", "train a model as a recipe says; resumes after a kill",
        "autogpt train examples/train/small.yaml",
    )  # fmt: skip
    train.add_argument("config", metavar="CONFIG")
    train.add_argument("--steps", type=int, metavar="N", help="stop after this many optimiser steps in all")

    evaluate = command(
        groups, "eval", "evaluate:evaluate_suite", "run a suite of goals and report the pass rate",
        "autogpt eval benchmarks/suites/tables.jsonl --limit 100 --json out.json",
    )  # fmt: skip
    evaluate.add_argument("suite", metavar="SUITE", help=".jsonl, .jsonl.gz or .jsonl.zst")
    evaluate.add_argument("--limit", type=int, metavar="N", help="only the first N (suites are shuffled)")
    evaluate.add_argument("--seed", type=int, default=0, metavar="N", help="of --samples and --best-of")
    evaluate.add_argument(
        "--samples", type=int, default=1, metavar="K", help="attempts per goal (default: 1)"
    )
    best_of_flag(evaluate)
    evaluate.add_argument("--parallel", "-p", type=int, metavar="N", help="goals in one batch (default: 16)")
    evaluate.add_argument(
        "--no-plan", action="store_true", help="let runs start without a plan, to measure it"
    )
    evaluate.add_argument("--no-memory", action="store_true", help="without what goals have `remembered`")
    evaluate.add_argument("--memory", metavar="FILE", help="what every goal remembers, one thing a line")
    evaluate.add_argument("--json", metavar="FILE", help="write the whole report here")
    model_flags(evaluate)


def learning(groups: Group) -> None:
    practice = command(
        groups, "practice", "practice:practice",
        "make goals with checks from your own tables and texts, to measure and to learn from",
        "autogpt practice data/ --out practice.jsonl --count 200",
    )  # fmt: skip
    practice.add_argument("folder", metavar="DIR", help="CSV, TSV, JSON, XLSX, SQLite and text files")
    practice.add_argument("--out", "-o", metavar="FILE", help="suite to write (default: standard output)")
    practice.add_argument("--count", type=int, default=100, metavar="N", help="how many goals (default: 100)")
    practice.add_argument("--seed", type=int, default=0, metavar="N", help="other goals of the same files")
    _improving(groups)
    rate = command(
        groups, "rate", "rating_commands:rate", "say how good a run was, or a conversation's last answer",
        "autogpt rate 3f2a bad --why 'the wrong year'",
    )  # fmt: skip
    rate.add_argument("run", metavar="RUN", help="run id, a unique beginning, or last")
    rate.add_argument(
        "value", metavar="RATING", help="good, bad, a number from 0 to 1, or judge: what a model thinks"
    )
    rate.add_argument("--why", default="", metavar="TEXT", help="kept with the rating")
    model_flags(rate)
    seen = command(
        groups, "experience", ".agent.learn.learning:stats",
        "say what there is to learn from, and what is missing",
    )
    json_flag(seen)
    actions = seen.add_subparsers(dest="action", metavar="ACTION")
    for name, text in {
        "stats": "count runs, goals and samples (the default)",
        "forget": "let no model learn from a run",
        "allow": "let models learn from a run",
    }.items():
        action = command(actions, name, f".agent.learn.learning:{name}", text)
        if name == "stats":
            json_flag(action, again=True)
            continue
        action.add_argument("run", metavar="RUN", nargs="?" if name == "forget" else None, help="run id")
        if name == "forget":
            action.add_argument("--user", metavar="NAME", help="from all runs that NAME began or spoke in")
    gate = command(groups, "gate", "gate_commands:compare", "say whether a candidate model is really better",
                    "autogpt gate current.json candidate.json")  # fmt: skip
    gate.add_argument("current", metavar="CURRENT", help="report of autogpt eval --json")
    gate.add_argument("candidate", metavar="CANDIDATE", help="the same goals and seed under the other model")
    gate.add_argument("--planned", type=int, metavar="N", help="goals of the whole gate: look early as well")
    json_flag(gate)


class _Methods:
    """The names that ``--method`` takes; methods are imported only when one is named, or for help."""

    def __iter__(self) -> Iterator[str]:
        from ..agent.learn.methods import methods

        return iter(["auto", *methods()])


def _improving(groups: Group) -> None:
    better = command(
        groups, "improve", "learn:run",
        "learn from past runs and practice; a new model comes into use only when it is proven better",
        "autogpt improve --goals practice.jsonl --budget 30m",
    )  # fmt: skip
    better.add_argument("--goals", metavar="SUITE", action="append", default=[],
                        help="practise these goals with checks as well (repeatable)")  # fmt: skip
    better.add_argument(
        "--method", choices=_Methods(), default="auto", metavar="METHOD",
        help="%(choices)s. sft: the best successes; dpo: pairs, corrections first; kto: ratings; "
        "grpo: rewards of goals; auto (default): what there is enough for",
    )  # fmt: skip
    better.add_argument("--dp-epsilon", type=float, metavar="E",
                        help="keep within this privacy budget (sft and dpo)")  # fmt: skip
    better.add_argument("--full", action="store_true",
                        help="train all weights; the result is a whole model, no adapter (sft)")  # fmt: skip
    better.add_argument("--budget", metavar="TIME", help="for one round, as 30m or 2h (default: no limit)")
    better.add_argument("--attempts", type=int, metavar="K", help="tries at each goal (default: 4, grpo 8)")
    better.add_argument("--rounds", type=int, metavar="N", help="one after the other (default: 1)")
    better.add_argument(
        "--planned",
        type=int,
        metavar="N",
        help="goals of the gate at most, 100 at least (default: 1100; for dpo and kto 400)",
    )
    better.add_argument("--seed", type=int, metavar="N", help="of tries, samples and order (default: 0)")
    better.add_argument("--dry-run", action="store_true", help="say what there is and what would happen")
    better.add_argument("--watch", action="store_true", help="go on, whenever there are new runs")
    json_flag(better)
    model_flags(better)
