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
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from autogpt.agent.episodes.tables import wikisql
from autogpt.agent.evaluate import wilson
from autogpt.agent.goal import Goal, load_goals
from autogpt.agent.rollout import Episode, Rollout
from autogpt.agent.setup import open_brain, open_registry, with_model
from autogpt.errors import UsageError
from autogpt.llm.brain import LocalModel, OnText
from autogpt.llm.message import Prompt, Sampling, Turn
from autogpt.llm.training.value import Outcome, fit_value, write_value
from autogpt.llm.value import FILE, ValueHead, sureness
from autogpt.settings import load

SUITE = Path(__file__).parent / "suites" / "tables.jsonl"
ATTEMPTS = 8
GROUP = 4
"""Goals whose attempts are decoded together."""
TEMPERATURE = 0.7


class Watched:
    """A brain that keeps the state after each of its turns, by session."""

    def __init__(self, model: LocalModel) -> None:
        self.model = model
        self.name, self.fingerprint, self.tokenizer_hash = model.name, model.fingerprint, model.tokenizer_hash
        self.context = model.context
        self.tokenizer = model.tokenizer
        self.seen: dict[str, list[tuple[torch.Tensor, Turn]]] = {}

    def respond(self, prompts: Sequence[Prompt], on_text: OnText | None = None) -> list[Turn]:
        """Answer, then look at the states."""
        turns = self.model.respond(prompts, on_text)
        valid = [i for i, turn in enumerate(turns) if turn.ids and turn.invalid is None]
        if valid:
            states = self.model.states([prompts[i] for i in valid], [turns[i] for i in valid])
            for i, state in zip(valid, states, strict=True):
                self.seen.setdefault(prompts[i].session, []).append((state.half().cpu(), turns[i]))
        return turns

    def close_session(self, session: str) -> None:
        """Forget a session; what was seen stays."""
        self.model.close_session(session)


def training_goals(count: int, seed: int = 977) -> list[Goal]:
    """Return ``count`` goals of WikiSQL's training questions, as the episodes are, without their queries."""
    goals = []
    for task in wikisql(random.Random(seed)):
        assert isinstance(task.goal, Goal)
        goals.append(task.goal)
        if len(goals) == count:
            break
    return goals


def attempts(brain: Watched, goals: Sequence[Goal], count: int, seed: int) -> Iterator[tuple[int, Episode]]:
    """Yield (goal's number, episode) of ``count`` sampled attempts at each goal, side by side."""
    rollout = Rollout(brain, open_registry(), parallel=GROUP * count, seed=seed)
    numbered = [(n, k) for n in range(len(goals)) for k in range(count)]
    opened: dict[str, int] = {}

    class Seeded(Rollout):
        def open(self, goal: Goal, mode: Any = "eval") -> Episode:
            episode = super().open(goal, mode)
            place, k = numbered[len(opened)]
            opened[episode.name] = place
            episode.sampling = Sampling(temperature=TEMPERATURE, seed=seed * 1000 + k)
            return episode

    rollout = Seeded(brain, rollout.registry, parallel=rollout.parallel, seed=seed)
    for _, episode in rollout.stream(goals[n] for n, _ in numbered):
        yield opened[episode.name], episode


def collect(work: Path, brain: Watched, goals: Sequence[Goal], name: str, until: float) -> None:
    """Write parts ``name-N.pt`` of attempts until all goals are done or the time is over."""
    step = 8
    for start in range(0, len(goals), step):
        part = work / f"{name}-{start:05d}.pt"
        if part.exists():
            continue
        if time.time() > until:
            print(f"{name}: stopped at {start} of {len(goals)} goals; run again to go on", file=sys.stderr)
            return
        began = time.time()
        rows: list[dict[str, Any]] = []
        chunk = goals[start : start + step]
        for number, episode in attempts(brain, chunk, ATTEMPTS, start + 1):
            assert episode.result is not None
            seen = brain.seen.pop(episode.name, [])
            rows.append(
                {
                    "goal": chunk[number].id,
                    "won": episode.result.status == "achieved",
                    "states": torch.stack([state for state, _ in seen]) if seen else None,
                    "sure": [sureness(turn) for _, turn in seen],
                    "calls": [turn.call.text() if turn.call else "" for _, turn in seen],
                }
            )
        beside = part.with_suffix(".tmp")
        torch.save(rows, beside)
        beside.replace(part)
        won = sum(row["won"] for row in rows) / max(1, len(rows))
        print(
            f"{part.name}: {won:.1%} of {len(rows)}, {time.time() - began:.0f} s", file=sys.stderr, flush=True
        )


def parts(work: Path, name: str) -> list[dict[str, Any]]:
    """Return the attempts of all parts called ``name``, in the order of their goals."""
    rows = [row for file in sorted(work.glob(f"{name}-*.pt")) for row in torch.load(file)]
    if not rows:
        raise UsageError(f"{work}: no attempts called {name} yet; collect them first")
    return rows


def outcomes(rows: Sequence[dict[str, Any]]) -> list[Outcome]:
    """Return every turn of the attempts with what the head reads there."""
    found = []
    for row in rows:
        if row["states"] is not None:
            inputs = torch.cat([row["states"].float(), torch.tensor(row["sure"])], 1)
            found += [Outcome(row["goal"], one, row["won"], step) for step, one in enumerate(inputs)]
    return found


def fit(work: Path, model: LocalModel) -> dict[str, Any]:
    """Fit the head, write it into ``work`` and return its figures."""
    head, report = fit_value(outcomes(parts(work, "train")), model.fingerprint)
    write_value(head, report, work)
    return {**report.facts(), "chance said: what came": report.reliability()}


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
            "mcnemar_p": round(_sign_test(gained, lost), 4),
        }
    return found


def _sign_test(gained: int, lost: int) -> float:
    """Return the two-sided exact p value of McNemar's test on discordant pairs."""
    n = gained + lost
    tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1)) / 2**n
    return min(1.0, 2 * tail)


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
    model = open_brain(with_model(load(model=args.model)))
    assert isinstance(model, LocalModel)
    work = args.work or Path(f"value-{model.fingerprint[:8]}")
    work.mkdir(parents=True, exist_ok=True)
    found: Any = None
    if args.what == "collect":
        collect(work, Watched(model), training_goals(args.goals), "train", until)
    elif args.what == "fit":
        found = fit(work, model)
    elif args.what == "measure":
        found = measure(work, model, load_goals(SUITE)[: args.goals], until)
    else:
        collect(work, Watched(model), load_goals(SUITE)[: args.goals], "held", until)
        head = ValueHead.load(work / FILE, model.fingerprint, int(model.loaded.config.hidden_size))
        found = choices(parts(work, "held"), head)
    if found is not None:
        text = json.dumps(found, indent=1)
        (work / f"{args.what}.json").write_text(text + "\n", encoding="utf-8")
        print(text)


if __name__ == "__main__":
    main()
