"""What memory is worth: the memory suite with and without it, and other suites with a full, unrelated one.

    python benchmarks/memory_ablation.py [--model small | reader] [--part suite free shown] [--limit N]

Four figures. Success on ``suites/memory.jsonl`` with memory and without; success on goals that need none,
without memory and with one that holds forty unrelated things; and the time per goal of those, with over
without (recorded work: model, tools and memory; in turns, so that a busy machine slows both). ``reader``
is a scripted model that uses what it is shown and nothing else: it measures the memory, where the model
of the day is too weak to show it. ``shown`` needs no model: how often goals that need no memory would be
shown one of the forty, by suite.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from makers import memory as maker

from autogpt.agent.evaluate.suite import Evaluation, evaluate
from autogpt.agent.goals.load import Goal, load_goals
from autogpt.agent.open import open_model, open_registry, tool_names, with_model
from autogpt.agent.record.result import RunResult
from autogpt.agent.run.memories import SuiteMemories
from autogpt.agent.run.memory import BUDGET, KINDS
from autogpt.llm.message import Model, Prompt, ToolCall
from autogpt.llm.models.scripted import ScriptedModel
from autogpt.settings import load

SUITES = Path(__file__).parent / "suites"
FREE = ("tables", "words", "files", "chat", "workflows")
UNRELATED = 40
TURN = 8
"""Goals that are run without memory and with one before the next."""
HONEST = "I do not know: you have not told me."
_EMPTY = set(
    re.findall(
        r"\w+",
        "a an and the is are was were of in on at to for my our your i we you he she it do does did have has "
        "who whom what which where when how much many name please give me tell remind could need call day "
        "date place lies or be been set s t that this with",
    )
)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def lines_shown(text: str) -> list[str]:
    """Return the entries of memory that a message shows."""
    return [line.partition("] ")[2] for line in text.splitlines() if re.match(r"\[\d+\] ", line)]


def best_entry(question: str, shown: list[str]) -> str | None:
    """Return the last of the entries that share most words with the question; None where none does."""
    asked = set(_words(question)) - _EMPTY
    scored = [(len(asked & set(_words(line))), number, line) for number, line in enumerate(shown)]
    score, _, line = max(scored, default=(0, 0, ""))
    return line if score else None


def value_of(entry: str, question: str) -> str:
    """Return what an entry says of the thing asked for: the side of its verb that the question lacks."""
    asked = set(_words(question)) - _EMPTY
    sides = re.split(r" is (?:on |now )?| has been set to |: ", entry.rstrip("."), maxsplit=1)
    if len(sides) < 2:
        return entry.rstrip(".")
    head, tail = sides
    return head if asked & set(_words(tail)) and not asked & set(_words(head)) else tail


def plan(*tools: str) -> ToolCall:
    """Return a plan of these tools."""
    return ToolCall("plan", {"steps": [{"tool": tool, "for": "it"} for tool in tools]})


def read(prompt: Prompt) -> ToolCall:
    """Say what a reader would: keep what is told, answer with what is shown, admit what is not."""
    first = next(message.content for message in prompt.messages if message.role == "user")
    goal = first.partition("Goal: ")[2].splitlines()[0]
    turn = sum(message.role == "assistant" for message in prompt.messages)
    heard = [message.content for message in prompt.messages if message.role == "tool"]
    if heard and heard[-1].startswith(("kept", "not kept")):
        return ToolCall("finish", {"answer": "Noted."})
    if not re.search(r"\?|^(?:read|add|remind|my .*(?:please|name)|\w+\.txt names)", goal, re.I):
        said = re.sub(
            r"^(?:remember this|please keep in mind|take a note): |^that has changed\. ", "", goal, flags=re.I
        )
        return ToolCall("remember", {"text": said})
    entry = best_entry(goal, lines_shown(first))
    value = value_of(entry, goal) if entry else HONEST
    steps = _steps(goal, value, heard)
    return steps[turn] if turn < len(steps) else ToolCall("finish", {"answer": value})


def _steps(goal: str, value: str, heard: list[str]) -> list[ToolCall]:
    """Return the calls that a goal takes, as far as they are known from what was heard."""
    if found := re.search(r"Write it to (\S+\.txt)", goal):
        return [plan("files.write"), ToolCall("files.write", {"path": found[1], "content": value})]
    if "extension" in goal and (found := re.search(r"\w+\.txt", goal)):
        who = heard[0].partition(" = ")[2].splitlines()[0] if heard else ""
        steps = [plan("files.read"), ToolCall("files.read", {"path": found[0]})]
        steps.append(ToolCall("recall", {"query": f"extension of {who}"}))
        entry = best_entry(f"extension {who}", lines_shown(heard[-1])) if len(heard) > 1 else None
        return [
            *steps,
            ToolCall("finish", {"answer": value_of(entry, f"extension {who}") if entry else HONEST}),
        ]
    if "branch" in goal:
        query = {"table": "visits", "select": ["sum(visits)"], "where": [["branch", "=", value.split()[-1]]]}
        return [plan("tables.query"), ToolCall("tables.query", query), ToolCall("finish", {"answer": "$2"})]
    number = re.search(r"\d+", goal)
    if number and value.isdigit() and re.search("times|[Aa]dd|together", goal):
        sign = "*" if "times" in goal else "+"
        compute = ToolCall("calculator", {"expression": f"{value} {sign} {number[0]}"})
        return [plan("calculator"), compute, ToolCall("finish", {"answer": "$1"})]
    return []


def unrelated() -> list[str]:
    """Return what the memory of goals that need none is filled with."""
    rng, taken = random.Random(23), set[str]()
    return [maker._any(rng, taken).kept for _ in range(UNRELATED)]


def measure(model: str, limit: int | None, parts: Sequence[str]) -> dict[str, Any]:
    """Run what ``parts`` name and return the figures."""
    settings = with_model(load(model=None if model == "reader" else model))
    opened: Model = ScriptedModel([read] * 20, name="reader") if model == "reader" else open_model(settings)
    registry = open_registry()

    def run(name: str, goals: list[Goal], memories: SuiteMemories | None) -> Evaluation:
        print(f"{name}: {len(goals)} goals", file=sys.stderr, flush=True)
        return evaluate(name, goals, opened, registry, memories=memories)

    def goals_of(name: str) -> list[Goal]:
        return load_goals(SUITES / f"{name}.jsonl", tool_names(registry))[:limit]

    found: dict[str, Any] = {"model": opened.name}
    for name, memories in (("with memory", SuiteMemories()), ("without memory", None)):
        if "suite" in parts:
            report = run(name, goals_of("memory"), memories).as_json()
            found[name] = {
                key: report[key] for key in ("n", "passed", "pass_rate", "wilson95", "by_category")
            }
    if "shown" in parts:
        found["shown of forty unrelated"] = {name: shown(goals_of(name)) for name in FREE}
    if "free" in parts and model != "reader":
        free = [goal for name in FREE for goal in goals_of(name)]
        found |= beside(free, lambda goals, memories: run("free", goals, memories).rows)
    return found


def shown(goals: Sequence[Goal]) -> dict[str, float]:
    """Return how many of the goals would be shown an entry of a memory that has nothing for them."""
    memories = SuiteMemories(unrelated())
    memory = memories.of(goals[0])
    assert memory is not None
    found = [memory.memory.recall(goal.goal, memory.namespaces, BUDGET, KINDS).hits for goal in goals]
    memories.close(goals[0])
    count = len(goals)
    return {"goals": count, "share": sum(map(bool, found)) / count, "lines": sum(map(len, found)) / count}


def beside(
    goals: Sequence[Goal], run: Callable[[list[Goal], SuiteMemories | None], list[RunResult]]
) -> dict[str, Any]:
    """Run goals that need no memory without one and with a full one, a few at a time in turns."""
    without: list[RunResult] = []
    full: list[RunResult] = []
    for begin in range(0, len(goals), TURN):
        some = list(goals[begin : begin + TURN])
        kinds = [(without, None), (full, SuiteMemories(unrelated()))]
        for rows, memories in kinds if begin // TURN % 2 else kinds[::-1]:
            rows += run(some, memories)
    pairs = [(a.seconds["total"], b.seconds["total"]) for a, b in zip(without, full, strict=True)]
    passed = [sum(row.status == "achieved" for row in rows) for rows in (without, full)]
    return {
        "free": {"n": len(goals), "passed": passed[0], "with a full memory": passed[1]},
        "time per goal, with over without": {
            "mean": sum(b for _, b in pairs) / max(1e-9, sum(a for a, _ in pairs)),
            "median of goals": statistics.median(b / a for a, b in pairs if a),
            "memory, seconds a goal": statistics.fmean(row.seconds["memory"] for row in full),
        },
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="small", help="as for autogpt eval, or reader (default: small)")
    parser.add_argument("--part", nargs="+", choices=("suite", "free", "shown"), default=["suite", "free"])
    parser.add_argument("--limit", type=int, help="goals of each suite")
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    args = parser.parse_args()
    text = json.dumps(measure(args.model, args.limit, args.part), indent=1, ensure_ascii=False)
    if args.json:
        Path(args.json).write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
