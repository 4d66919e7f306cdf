"""Trying goals to fit a value head on: what the model's states were, and which attempts succeeded.

``autogpt model judge SUITE`` tries each goal several times, keeps the state after every turn in parts
under the home (so that a second call goes on where the first was stopped), fits the head to the verdicts
of the checks, and puts it where the model finds it. Only outcomes are read, never gold answers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from ...cli.tables import progress_line
from ...errors import UsageError
from ...llm.engine.value_head import sureness
from ...llm.message import Prompt, Sampling, Turn
from ...llm.models.local import LocalModel, OnText
from ...llm.nn.forward import can_fuse
from ...llm.training.fit_value_head import Outcome, fit_value, write_value
from ...settings import load
from ..goals.load import Goal, load_goals
from ..open import heads_folder, open_model, open_registry, tool_names, with_model
from ..run.rollout import Episode, Rollout

ATTEMPTS = 8
STEP = 8
"""Goals of one part."""
GROUP = 4
"""Goals whose attempts are decoded together."""
TEMPERATURE = 0.7
Row = dict[str, Any]
"""An attempt: its goal, whether it succeeded, and the state and sureness after each turn."""


class Watched:
    """A model that keeps the state after each of its turns, by session."""

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


class Attempts(Rollout):
    """Rolls goals out ``count`` times each, side by side, so that attempts at a goal share its prompt."""

    def __init__(self, model: Watched, goals: Sequence[Goal], count: int, seed: int) -> None:
        super().__init__(model, open_registry(), parallel=GROUP * count, seed=seed)
        self._plan = [(n, k) for n in range(len(goals)) for k in range(count)]
        self._goals = goals

    def open(self, goal: Goal, mode: Literal["eval", "chat"] = "eval") -> Episode:
        """Open the next attempt, each of a goal with a seed of its own."""
        attempt = self._plan[self._count][1]
        episode = super().open(goal, mode)
        sampling = Sampling(temperature=TEMPERATURE, seed=self.seed * 1000 + attempt)
        episode.sampling = sampling
        return episode

    def all(self) -> Iterator[Episode]:
        """Yield the episodes as they end."""
        for _, episode in self.stream(self._goals[n] for n, _ in self._plan):
            yield episode


def collect(
    work: Path,
    model: LocalModel,
    goals: Sequence[Goal],
    *,
    attempts: int = ATTEMPTS,
    until: float | None = None,
    on_part: Callable[[int, int, int], None] | None = None,
) -> list[Path]:
    """Try goals and write what was seen in parts under ``work``; return the parts that are there.

    A part that is there is not tried again. ``until`` is a moment of ``time.time`` after which no part is
    begun; ``on_part`` hears of each new one: goals done, attempts in it, and how many succeeded.
    """
    work.mkdir(parents=True, exist_ok=True)
    opened = Watched(model)
    found = []
    for start in range(0, len(goals), STEP):
        chunk = goals[start : start + STEP]
        part = work / f"{start:05d}-{_digest([goal.id for goal in chunk], attempts)}.pt"
        if not part.exists():
            if until is not None and time.time() > until:
                break
            rows = [_row(episode, opened) for episode in Attempts(opened, chunk, attempts, start + 1).all()]
            beside = part.with_suffix(f".{os.getpid()}.tmp")
            torch.save(rows, beside)
            beside.replace(part)
            if on_part:
                on_part(start + len(chunk), len(rows), sum(row["won"] for row in rows))
        found.append(part)
    return found


def _digest(ids: Sequence[str], attempts: int) -> str:
    return hashlib.sha256(json.dumps([ids, attempts]).encode()).hexdigest()[:10]


def _row(episode: Episode, model: Watched) -> Row:
    assert episode.result is not None
    seen = model.seen.pop(episode.name, [])
    return {
        "goal": episode.goal.id,
        "won": episode.result.status == "achieved",
        "states": torch.stack([state for state, _ in seen]) if seen else None,
        "sure": [sureness(turn) for _, turn in seen],
        "calls": [turn.call.text() if turn.call else "" for _, turn in seen],
    }


def read_parts(parts: Sequence[Path]) -> list[Row]:
    """Return the attempts of all parts."""
    return [row for part in parts for row in torch.load(part)]


def outcomes(rows: Sequence[Row]) -> list[Outcome]:
    """Return every turn of the attempts with what the head reads there."""
    found = []
    for row in rows:
        if row["states"] is not None:
            inputs = torch.cat([row["states"].float(), torch.tensor(row["sure"])], 1)
            found += [Outcome(row["goal"], one, row["won"], step) for step, one in enumerate(inputs)]
    return found


def judge(args: argparse.Namespace) -> int:
    """Fit a value head for a model on a suite of goals with checks, and say how good it is."""
    if args.attempts < 2:
        raise UsageError("--attempts must be at least 2")
    settings = with_model(load(model=args.model, device=args.device, dtype=args.dtype))
    goals = [goal for goal in load_goals(args.suite, tool_names(open_registry())) if goal.check][: args.limit]
    if not goals:
        raise UsageError(f"{args.suite}: no goal has a check, so nobody could say what succeeded")
    with progress_line() as say:
        say(f"loading {settings.model}", None)
        model = open_model(settings)
        if not isinstance(model, LocalModel) or not can_fuse(model.loaded.config):
            raise UsageError(f"{settings.model}: a value head needs a model that our own forward computes")
        folder = heads_folder(settings, model.fingerprint)

        def count(done: int, tried: int, won: int) -> None:
            say("attempts", done / len(goals), f"{done} of {len(goals)} goals, {won} of {tried} achieved")

        parts = collect(folder / "parts", model, goals, attempts=args.attempts, on_part=count)
    head, report = fit_value(outcomes(read_parts(parts)), model.fingerprint)
    path = write_value(head, report, folder)
    facts = report.facts()
    print(", ".join(f"{name} {value}" for name, value in facts.items()) + " (on goals held out)")
    print("chance said: what came; " + "; ".join(f"{a}: {b}" for a, b in report.reliability().items()))
    print(f"wrote {path}; --best-of N uses it with this model from now on")
    return 0
