"""What a value head is worth: best-of-8 with it against greedy and against the surest candidate.

    python benchmarks/value.py collect --goals 200    eight attempts at each training goal, with states
    python benchmarks/value.py fit                    the head and its calibration, beside the attempts
    python benchmarks/value.py choose --goals 100     held-out goals: which of eight attempts to believe
    python benchmarks/value.py measure --goals 250    held-out goals: greedy, surest of 8, head of 8 a turn

Everything lies in one folder per model version (``--work``, default ``value-<fingerprint>``), in parts, so
that each command goes on where it was stopped (``--minutes`` stops it by itself). Training goals are
WikiSQL's training questions (``AUTOGPT_DATA``), held-out ones ``suites/tables.jsonl``. Only checks tell
what succeeded; the data's own queries are never shown to the head.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from autogpt.agent.evaluate.statistics import mcnemar, wilson
from autogpt.agent.experts.tables import wikisql
from autogpt.agent.goals.load import Goal, load_goals
from autogpt.agent.learn.value_head import ATTEMPTS, collect, outcomes, read_parts
from autogpt.agent.open import open_model, open_registry, with_model
from autogpt.agent.run.rollout import Rollout
from autogpt.llm.engine.value_head import FILE, ValueHead
from autogpt.llm.models.local import LocalModel
from autogpt.llm.training.fit_value_head import fit_value, write_value
from autogpt.settings import load

SUITE = Path(__file__).parent / "suites" / "tables.jsonl"


def training_goals(count: int, seed: int = 977) -> list[Goal]:
    """Return ``count`` goals of WikiSQL's training questions, as the episodes are, without their queries."""
    goals = []
    for task in wikisql(random.Random(seed)):
        assert isinstance(task.goal, Goal)
        goals.append(task.goal)
        if len(goals) == count:
            break
    return goals


def fit(work: Path, model: LocalModel) -> dict[str, Any]:
    """Fit the head, write it into ``work`` and return its figures."""
    rows = read_parts(sorted((work / "train").glob("*.pt")))
    head, report = fit_value(outcomes(rows), model.fingerprint)
    write_value(head, report, work)
    return {**report.facts(), "attempts": len(rows), "chance said: what came": report.reliability()}


def choices(rows: Sequence[dict[str, Any]], head: ValueHead) -> dict[str, float]:
    """Return how often one attempt of several succeeds, by the rule that chooses it, in the mean over goals.

    Attempts, not turns, are chosen here: what the head says after the last turn, alone or added up over
    attempts that made the same calls.
    """
    goals: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        goals.setdefault(row["goal"], []).append(row)
    won: dict[str, float] = {}
    for group in goals.values():
        chance: list[float] = []
        for row in group:
            ends = outcomes([row])[-1:]
            said = head.logits(ends[0].inputs[None]).sigmoid() if ends else torch.zeros(1)
            chance.append(float(said))
        sure = [sum(s[2] for s in row["sure"]) / max(1.0, sum(s[3] for s in row["sure"])) for row in group]
        made = [str(row["calls"][1:-1]) for row in group]
        alike = [sum(made[j] == made[i] for j in range(len(group))) for i in range(len(group))]
        voted = [sum(chance[j] for j in range(len(group)) if made[j] == made[i]) for i in range(len(group))]
        for rule, score in {
            "surest": sure,
            "most alike": alike,
            "head": chance,
            "head, added up": voted,
        }.items():
            best = max(range(len(group)), key=lambda i: (score[i], sure[i]))
            won[rule] = won.get(rule, 0.0) + group[best]["won"]
        won["any attempt"] = won.get("any attempt", 0.0) + sum(row["won"] for row in group) / len(group)
        won["at least one"] = won.get("at least one", 0.0) + any(row["won"] for row in group)
    return {rule: round(count / len(goals), 4) for rule, count in won.items()}


def measure(work: Path, model: LocalModel, goals: Sequence[Goal], until: float) -> dict[str, Any]:
    """Run the held-out goals greedily, with the surest of 8 and with the head's choice of 8, in parts."""
    head = ValueHead.load(work / FILE, model.fingerprint, int(model.loaded.config.hidden_size))
    rules: dict[str, tuple[int, ValueHead | None]] = {
        "greedy": (1, None), "head of 8": (ATTEMPTS, head), "surest of 8": (ATTEMPTS, None)
    }  # fmt: skip
    kept = work / "measured.json"
    done: dict[str, dict[str, bool]] = json.loads(kept.read_text()) if kept.exists() else {}
    for start in range(0, len(goals), 16):
        for rule, (count, value) in rules.items():
            results = done.setdefault(rule, {})
            todo = [goal for goal in goals[start : start + 16] if goal.id not in results]
            if not todo or time.time() > until:
                continue
            model.value = value
            rollout = Rollout(model, open_registry(), parallel=4 if count > 1 else 16, best_of=count)
            for episode in rollout.run(todo):
                assert episode.result is not None
                results[episode.goal.id] = episode.result.status == "achieved"
            kept.write_text(json.dumps(done))
            print(
                f"{rule}: {len(results)} goals, {sum(results.values()) / len(results):.1%}",
                file=sys.stderr,
                flush=True,
            )
    return compared(done)


def compared(done: dict[str, dict[str, bool]]) -> dict[str, Any]:
    """Return each rule's rate over the goals that all have run, and its exact test against greedy."""
    shared = set.intersection(*(set(results) for results in done.values())) if done else set()
    found: dict[str, Any] = {"goals": len(shared)}
    for rule, results in done.items():
        passed = sum(results[name] for name in shared)
        low, high = wilson(passed, len(shared))
        gained = sum(results[name] and not done["greedy"][name] for name in shared)
        lost = sum(done["greedy"][name] and not results[name] for name in shared)
        found[rule] = {
            "rate": round(passed / max(1, len(shared)), 4),
            "wilson95": [round(low, 4), round(high, 4)],
            "gained": gained,
            "lost": lost,
            "mcnemar_p": round(mcnemar(gained, lost), 4),
        }
    return found


def told(done: int, tried: int, won: int) -> None:
    """Say how far the attempts are."""
    print(f"{done} goals tried; of the last {tried} attempts {won} achieved", file=sys.stderr, flush=True)


def main() -> None:
    """Parse and do."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["collect", "fit", "choose", "measure"])
    parser.add_argument("--model", default="small")
    parser.add_argument("--work", type=Path, help="folder of the parts")
    parser.add_argument("--goals", type=int, default=200, help="training goals, or held-out ones")
    parser.add_argument("--minutes", type=float, default=9.0)
    args = parser.parse_args()
    until = time.time() + 60 * args.minutes
    model = open_model(with_model(load(model=args.model)))
    assert isinstance(model, LocalModel)
    work = args.work or Path(f"value-{model.fingerprint[:8]}")
    work.mkdir(parents=True, exist_ok=True)
    found: Any = None
    if args.what == "collect":
        collect(work / "train", model, training_goals(args.goals), until=until, on_part=told)
    elif args.what == "fit":
        found = fit(work, model)
    elif args.what == "measure":
        found = measure(work, model, load_goals(SUITE)[: args.goals], until)
    else:
        parts = collect(work / "held", model, load_goals(SUITE)[: args.goals], until=until, on_part=told)
        head = ValueHead.load(work / FILE, model.fingerprint, int(model.loaded.config.hidden_size))
        found = choices(read_parts(parts), head)
    if found is not None:
        text = json.dumps(found, indent=1)
        (work / f"{args.what}.json").write_text(text + "\n", encoding="utf-8")
        print(text)


if __name__ == "__main__":
    main()
