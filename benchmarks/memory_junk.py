"""How much junk a memory gathers: mixed runs of experts in one home, then the audit.

    AUTOGPT_DATA=... python benchmarks/memory_junk.py [--runs 1000] [--seed 31]

The runs are those that training is made of (things told, asked for, changed, computed with; tables, files
and workflows too; conversations), played by their experts through the durable driver, so every
entry went through the real gate, with episodes and lessons written as users' runs write them. One run in
five tells, in the same words or others, what was told before, and one in ten fails its check. An entry
fails the audit as a duplicate, as recalled text, without provenance, or where another contradicts it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from autogpt.agent.experts import facts
from autogpt.agent.experts import remembering as memory
from autogpt.agent.experts.expert import Task, call, finish
from autogpt.agent.goals.load import Goal
from autogpt.agent.record.store import RunStore
from autogpt.agent.run.chat import ChatSession
from autogpt.agent.run.memories import HomeMemory
from autogpt.agent.run.runner import Runner
from autogpt.llm.models.scripted import ScriptedModel
from autogpt.memory.upkeep.upkeep import audit
from autogpt.tools.registry import builtins


def again(rng: random.Random, told: list[facts.Fact]) -> Task:
    """Tell something that was told before, or give a new value to it."""
    fact = rng.choice(told)
    fact = facts.updated(fact, rng) if rng.random() < 0.3 else fact
    calls = [call("remember", text=fact.sentence), finish("Noted.")]
    return Task("memory", Goal(goal=facts.told(fact, rng)), calls)


def failing(task: Task, rng: random.Random) -> Task:
    """Return the task with a check that what is done cannot pass."""
    body = task.goal.model_dump(mode="json", exclude={"id"})
    wrong = {"answer": {"equals": f"not this {rng.random()}"}}
    task.goal = Goal.model_validate({**body, "check": [*body["check"], wrong]})
    return task


def play(runner: Runner, task: Task) -> str:
    """Play a task as a user's run or conversation; return how it ended."""
    if not task.turns:
        runner.model = ScriptedModel(task.calls)
        return runner.run(task.goal).status
    session = ChatSession(runner, task.goal)
    for text, calls in task.turns:
        runner.model = ScriptedModel(calls)
        session.say(text)
    session.close()
    return "talked"


def measure(runs: int, seed: int) -> dict[str, object]:
    """Play ``runs`` runs and audit what the memory holds then."""
    rng = random.Random(seed)
    told = [facts.fact(rng) for _ in range(60)]
    tasks = memory.chores(rng, runs)
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="autogpt-junk-") as folder:
        home = HomeMemory(Path(folder), background=False)
        runner = Runner(RunStore(Path(folder)), ScriptedModel([]), builtins(), memory=home)
        begun = time.perf_counter()
        for number in range(runs):
            task = again(rng, told) if rng.random() < 0.2 else next(tasks)
            if rng.random() < 0.1 and not task.turns:
                task = failing(task, rng)
            ends[play(runner, task)] += 1
            if sys.stderr.isatty():
                print(f"\r{number + 1} runs", end="", file=sys.stderr)
        seconds = time.perf_counter() - begun
        found = audit(home.store, home.vectors.serving.embedder.id if home.vectors else None)
        kinds = Counter(str(entry.kind) for entry in home.store.entries(live=None))
        home.close()
    return {
        "runs": runs,
        "ended": dict(ends),
        "entries": dict(kinds),
        "share that fails the audit": round(found.share, 4),
        "faults": found.by_fault(),
        "seconds a run": round(seconds / runs, 3),
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=31)
    args = parser.parse_args()
    print(json.dumps(measure(args.runs, args.seed), indent=1))


if __name__ == "__main__":
    main()
