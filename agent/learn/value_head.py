"""Attempts to fit a value head on: the model's states after each turn, and whether the run succeeded.

Attempts are kept in parts, so a second call resumes where the first was stopped. Only outcomes are read,
never gold answers.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ...files import replace_file
from ...llm.engine.value_head import sureness
from ...llm.message import Prompt, Turn
from ...llm.models.local import LocalModel, OnText
from ...llm.training.fit_value_head import Outcome
from ..evaluate.attempts import roll, seed_of
from ..goals.load import Goal
from ..open import open_registry
from ..run.rollout import Episode

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
        self.context, self.prompting = model.context, model.prompting
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
        """Close a session; what was seen stays."""
        self.model.close_session(session)


def collect(
    work: Path,
    model: LocalModel,
    goals: Sequence[Goal],
    *,
    attempts: int = ATTEMPTS,
    until: float | None = None,
    on_part: Callable[[int, int, int], None] | None = None,
) -> list[Path]:
    """Make attempts at goals and write what was seen in parts under ``work``; returns the parts.

    A part that exists is not made again. ``until`` is a moment of ``time.time`` after which no part is
    begun; ``on_part`` is called after each new one: goals done, attempts in it, and how many succeeded.
    """
    opened, registry = Watched(model), open_registry()
    found = []
    for start in range(0, len(goals), STEP):
        chunk = goals[start : start + STEP]
        part = work / f"{start:05d}-{_digest([goal.id for goal in chunk], attempts)}.pt"
        if not part.exists():
            if until is not None and time.time() > until:
                break
            rolled = roll(
                chunk, attempts, opened, seed_of("value head", start), registry=registry,
                temperature=TEMPERATURE, parallel=GROUP * attempts,
            )  # fmt: skip
            rows = [row_of(episode, opened) for _, _, episode in rolled]
            data = io.BytesIO()
            torch.save(rows, data)
            replace_file(part, data.getvalue())
            if on_part:
                on_part(start + len(chunk), len(rows), sum(row["won"] for row in rows))
        found.append(part)
    return found


def _digest(ids: Sequence[str], attempts: int) -> str:
    return hashlib.sha256(json.dumps([ids, attempts]).encode()).hexdigest()[:10]


def row_of(episode: Episode, model: Watched) -> Row:
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
    """Return every turn of the attempts with the head's input there."""
    found = []
    for row in rows:
        if row["states"] is not None:
            inputs = torch.cat([row["states"].float(), torch.tensor(row["sure"])], 1)
            found += [Outcome(row["goal"], one, row["won"], step) for step, one in enumerate(inputs)]
    return found
