"""What a value head is worth: best-of-8 with it against greedy and against the surest candidate.

    python benchmarks/value.py collect --goals 400       attempts at training goals, with their states
    python benchmarks/value.py fit                       the head, its calibration, beside the attempts
    python benchmarks/value.py measure --limit 250       held-out goals: greedy, surest of 8, head of 8

Everything lies in one folder per model version (``--work``, default ``value-<fingerprint>``), in parts, so
that each command goes on where it was stopped (``--minutes`` stops it by itself). Training goals are
WikiSQL's training questions (``AUTOGPT_DATA``), held-out ones ``suites/tables.jsonl``. Only checks tell
what succeeded; the data's own queries are never shown to the head.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from autogpt.agent.episodes.tables import wikisql
from autogpt.agent.goal import Goal, load_goals
from autogpt.agent.rollout import Episode, Rollout
from autogpt.agent.setup import open_brain, open_registry, with_model
from autogpt.llm.brain import LocalModel, OnText
from autogpt.llm.message import Prompt, Sampling, Turn
from autogpt.llm.value import sureness
from autogpt.settings import load

SUITE = Path(__file__).parent / "suites" / "tables.jsonl"
ATTEMPTS = 8
GROUP = 2
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


def main() -> None:
    """Parse and do."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["collect", "held-out"])
    parser.add_argument("--model", default="small")
    parser.add_argument("--work", type=Path, help="folder of the parts")
    parser.add_argument("--goals", type=int, default=400)
    parser.add_argument("--minutes", type=float, default=9.0)
    args = parser.parse_args()
    until = time.time() + 60 * args.minutes
    model = open_brain(with_model(load(model=args.model)))
    assert isinstance(model, LocalModel)
    work = args.work or Path(f"value-{model.fingerprint[:8]}")
    work.mkdir(parents=True, exist_ok=True)
    brain = Watched(model)
    if args.what == "collect":
        collect(work, brain, training_goals(args.goals), "train", until)
    else:
        collect(work, brain, load_goals(SUITE)[: args.goals], "held", until)


if __name__ == "__main__":
    main()
