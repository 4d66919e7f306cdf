"""Does it learn? Experiments with ``autogpt improve``, each resumable, each in a home of its own.

    python benchmarks/improve.py weak      three rounds from an adapter made of 500 episodes
    python benchmarks/improve.py shipped   one round from the shipped model
    python benchmarks/improve.py domain    40 goals over two tools that no training has seen
    python benchmarks/improve.py replay    two rounds with a prioritised buffer of experience, and without
    python benchmarks/improve.py ratings   50 ratings by a hidden preference, learnt by KTO

Rewards only: attempts are scored by their checks or by the simulated person; gold queries and answers train
nothing. Practice goals are questions of the training split of WikiSQL, and with ``--practise-on`` tasks by
the makers of training episodes too; the shipped gate judges. What is printed at the end is measured on
``benchmarks/suites``, which neither training nor gate has seen. ``--out`` keeps everything; the same command
goes on after a kill. Needs ``AUTOGPT_DATA`` and the fetched base.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from learning import harbour, preferences
from learning.errands import errands
from learning.pupils import MORE, achieved, first_model, home, played, put_in_use, show, weak_adapter
from makers.common import answer, goal, read
from makers.public import table_file, with_tables

from autogpt.agent.experts.expert import Task
from autogpt.agent.experts.make import FAMILIES
from autogpt.agent.goals.load import Goal
from autogpt.agent.learn.goal_split import shipped_gate
from autogpt.agent.learn.improve import ImproveOptions, ImproveReport, improve
from autogpt.agent.learn.work import Work, improvements
from autogpt.llm.registry import ModelRegistry
from autogpt.settings import Settings, bound_spinning, load

Record = dict[str, Any]


def table_goals(data: Path, count: int, seed: int) -> list[Goal]:
    """Return questions over tables of the training split, with the published answer as the check."""
    questions = random.Random(seed).sample(list(read(data, "wikisql_train")), count)
    found = []
    for number, (item, table) in enumerate(with_tables(data, questions), start=1):
        name, text = table_file(table)
        check = answer(items=item["answer"])
        record = goal("practice", number, "tables", item["question"], {name: text}, check)
        found.append(Goal.model_validate(record))
    return found


def mixed_goals(data: Path, count: int, seed: int) -> list[Goal]:
    """Return goals as a person's days have them: half table questions, a quarter word problems, and chores.

    Their checks are what is kept of the makers' tasks; the expert's calls are thrown away.
    """
    rng = random.Random(seed)
    quarter, eighth = count // 4, count // 8
    tasks = [
        *itertools.islice(FAMILIES["mawps"](rng, quarter), quarter),
        *FAMILIES["files"](rng, eighth),
        *FAMILIES["workflows"](rng, eighth),
    ]
    return [*table_goals(data, count - 2 * quarter, seed), *checked(tasks)]


def chore_goals(data: Path, count: int, seed: int) -> list[Goal]:
    """Return workflows from the makers of training tasks; only their checks are kept.

    The suite's workflows are made elsewhere, of other tables and wordings.
    """
    rng = random.Random(seed)
    third = count // 3
    tasks = [*FAMILIES["workflows"](rng, count - third), *FAMILIES["mixed"](rng, third)]
    return checked(tasks)


def errand_goals(data: Path, count: int, seed: int) -> list[Goal]:
    """Return errands, half of all; the rest are table questions and word problems, so that these hold."""
    quarter = count // 4
    problems = itertools.islice(FAMILIES["mawps"](random.Random(seed), quarter), quarter)
    return [
        *errands(data, count - 2 * quarter, seed),
        *table_goals(data, quarter, seed),
        *checked(list(problems)),
    ]


def checked(tasks: Sequence[Task]) -> list[Goal]:
    """Return the makers' goals that check themselves; the expert's calls are left out."""
    single = [task for task in tasks if not task.turns and task.goal.check]
    return [
        task.goal.model_copy(update={"id": f"{task.kind}-{number:04d}", "category": task.kind})
        for number, task in enumerate(single, start=1)
    ]


def rounds(
    settings: Settings,
    goals: Sequence[Goal],
    options: ImproveOptions,
    gate_goals: Sequence[Goal] | None = None,
) -> None:
    """Improve as often as ``options`` say, going on where an earlier call was killed."""
    done = settings.home / "rounds.jsonl"
    ended = [json.loads(line) for line in done.read_text().splitlines()] if done.is_file() else []

    def note(report: ImproveReport) -> None:
        found = report.as_json()
        line = {name: found[name] for name in ("decision", "reason", "version", "facts", "seconds")}
        with done.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=str) + "\n")
        minutes = sum(report.seconds.values()) / 60
        print(f"round {report.id}: {report.decision} ({report.reason}), {minutes:.0f} min", flush=True)

    left = options.rounds - len(ended)
    if left > 0:
        options = options.model_copy(update={"rounds": left})
        improve(settings, options, goals=goals, gate_goals=gate_goals, say=say, on_round=note)


def say(text: str, share: float | None, detail: str) -> None:
    """Show progress on one line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r{text} {'' if share is None else f'{share:.0%}'} {detail:40}", end="", file=sys.stderr)


def tables_experiment(
    settings: Settings, args: argparse.Namespace, options: ImproveOptions, goals: Sequence[Goal]
) -> list[Record]:
    """Improve round by round, and measure every candidate on the suites, also one that its gate kept out."""
    suites = {"tables": args.goals, "words": args.goals // 3, "files": args.goals // 4,
              "workflows": args.workflows or args.goals // 6}  # fmt: skip
    first = first_model(settings)
    before = achieved(settings, first, suites)
    rounds(settings, goals, options)
    trained = [work for work in improvements(settings.home) if work.trained.is_dir()]
    return [
        show(
            f"{first} against round {number}, {work.state.decision}",
            before,
            achieved(settings, candidate(settings, work, number), suites),
        )
        for number, work in enumerate(trained, start=1)
    ]


def candidate(settings: Settings, work: Work, number: int) -> str:
    """Return the reference of what a round trained, whether it was promoted or not."""
    registry, name = ModelRegistry(settings.home), f"round-{number}"
    known = [version.reference for version in registry.list() if version.name == name]
    if known:
        return known[0]
    return registry.add(name, work.trained, base="small").reference


def weak(args: argparse.Namespace, settings: Settings, data: Path) -> list[Record]:
    """Three rounds from the weak adapter."""
    adapter = weak_adapter(args.out / "weak-adapter", settings)
    own = home(args.out / f"weak-{args.practise_on}-{args.seed}", settings)
    put_in_use(own, "weak", adapter)
    # Replayed is what the weak adapter was trained on: other episodes would bring new gold queries.
    options = options_of(args, rounds=args.rounds or 3, replay_data=(adapter.parent / "weak.jsonl",))
    return tables_experiment(own, args, options, GOALS[args.practise_on](data, args.practice, args.seed))


def shipped(args: argparse.Namespace, settings: Settings, data: Path) -> list[Record]:
    """One round from the shipped model."""
    own = home(args.out / f"shipped-{args.practise_on}-{args.seed}", settings)
    options = options_of(args, rounds=args.rounds or 1)
    goals = GOALS[args.practise_on](data, args.practice, 100 + args.seed)
    return tables_experiment(own, args, options, goals)


def replay(args: argparse.Namespace, settings: Settings, data: Path) -> list[Record]:
    """Two rounds from the weak adapter under each kind of buffer, with the same budget and goals."""
    adapter = weak_adapter(args.out / "weak-adapter", settings)
    tables = []
    for kind in ("prioritised", "none", "uniform"):
        own = home(args.out / f"replay-{kind}-{args.seed}", settings)
        put_in_use(own, "weak", adapter)
        options = options_of(args, rounds=args.rounds or 2, buffer=kind,
                             replay_data=(adapter.parent / "weak.jsonl",))  # fmt: skip
        print(f"buffer: {kind}")
        tables += tables_experiment(own, args, options, table_goals(data, args.practice, 200 + args.seed))
    return tables


def domain(args: argparse.Namespace, settings: Settings, data: Path) -> list[Record]:
    """40 goals over two unfamiliar tools, measured on 100 others; the gate plays others and ordinary ones."""
    own = home(args.out / f"domain-{args.seed}", settings)
    harbour.install(own.home / "plugin")
    train, held_out = harbour.goals(40, args.seed, taught=True), harbour.goals(100, 1000 + args.seed)
    first = first_model(own)
    before = played(own, first, held_out)
    options = options_of(args, rounds=args.rounds or 1, attempts=max(args.attempts or 0, 8))
    judging = [*harbour.goals(100, 2000 + args.seed), *shipped_gate()[:100]]
    rounds(own, train, options, judging)
    current = ModelRegistry(own.home).current()
    return [show(f"harbour, {first} against {current}", before, played(own, current, held_out))]


def ratings(args: argparse.Namespace, settings: Settings, data: Path) -> list[Record]:
    """50 ratings by a person with a hidden preference, and nothing else."""
    own = home(args.out / f"ratings-{args.taste}-{args.seed}", settings)
    options = options_of(args, method="kto", rounds=1)
    return preferences.experiment(own, args.seed, options, args.goals, args.taste)


def options_of(args: argparse.Namespace, **more: Any) -> ImproveOptions:
    """Return the options of an improvement."""
    common = {"method": args.method, "budget_minutes": args.minutes, "attempts": args.attempts,
              "planned": args.planned, "seed": args.seed, "parallel": args.parallel,
              "learning_rate": args.rate, "epochs": args.epochs, "replay": args.replay}  # fmt: skip
    return ImproveOptions(**{**common, **more})


GOALS: Mapping[str, Callable[[Path, int, int], list[Goal]]] = {
    "tables": table_goals, "mixed": mixed_goals, "chores": chore_goals, "errands": errand_goals,
}  # fmt: skip
"""What can be practised on."""
PARTS: Mapping[str, Callable[[argparse.Namespace, Settings, Path], list[Record]]] = {
    "weak": weak, "shipped": shipped, "domain": domain, "replay": replay, "ratings": ratings,
}  # fmt: skip


def main() -> None:
    """Run one experiment and write its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("benchmark-improve"))
    parser.add_argument("--minutes", type=float, help="budget of a round")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--method", default="sft", choices=("auto", "sft", "dpo", "kto", "grpo"))
    parser.add_argument("--practice", type=int, default=400, help="goals to practise on")
    parser.add_argument("--practise-on", choices=list(GOALS), default="tables", help="weak and shipped")
    parser.add_argument("--attempts", type=int, help="at each goal; by default 4, grpo 8")
    parser.add_argument("--planned", type=int, help="goals of the gate")
    parser.add_argument("--goals", type=int, default=300, help="of the tables suite; others fewer")
    parser.add_argument("--workflows", type=int,
                        help=f"at most {100 + MORE}; over 100: drawn anew by the suite's makers")  # fmt: skip
    parser.add_argument("--taste", choices=list(preferences.LIKED), default="cheerful",
                        help="what the person of the ratings likes")  # fmt: skip
    parser.add_argument("--rate", type=float, help="peak learning rate; by default the method's")
    parser.add_argument("--epochs", type=float, help="by default the method's")
    parser.add_argument("--replay", type=float, default=0.2, help="share of ordinary samples")
    parser.add_argument("--parallel", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.workflows is not None and not 0 < args.workflows <= 100 + MORE:
        parser.error(f"--workflows {args.workflows}: not from 1 to {100 + MORE}")
    bound_spinning()
    settings = load(parallel=args.parallel)
    if settings.data is None:
        sys.exit("improve: set AUTOGPT_DATA to the folder of data sets (DATA.md says what it holds)")
    args.out.mkdir(parents=True, exist_ok=True)
    tables = PARTS[args.part](args, settings, settings.data)
    (args.out / f"{args.part}-{args.seed}.json").write_text(json.dumps(tables, indent=1, default=str))


if __name__ == "__main__":
    main()
