"""What there is to learn from, before anything is trained: for an improvement, and for ``--dry-run``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ...llm.text.tokenizer import ChatTokenizer
from ...memory.experience import Learnable
from ...settings import Settings
from ..evaluate import statistics as gate
from ..goals.load import Goal
from ..record.rewards import Prices
from ..record.store import RunStore
from .attempts import Attempt
from .collect import LEAST_GOALS, collect
from .goal_split import Drawn, alike_to, draw, gate_order
from .machine import Subject
from .preferences import Said, read_said
from .selection import past_attempts


@dataclass(frozen=True)
class Survey:
    """What was found."""

    tokenizer: str
    """Its hash: what samples must have been made with."""
    drawn: Drawn
    past: list[Attempt]
    """Past runs that may be trained on."""
    refused: Counter[str]
    """Runs that may not, by reason."""
    judging: list[Goal]
    """Every goal that may be played in the gate, in the order of play."""
    runs: list[Learnable]
    """All runs that may be learned from, on either side of the split."""
    said: Said
    """What people said, as preference data."""
    goal_gap: str
    """What is missing of goals, if anything."""

    def gaps(self, method: str) -> list[str]:
        """Return what is missing for a method; empty where an improvement can begin."""
        gaps = []
        people = len(self.said.pairs) if method == "dpo" else len(self.said.rated) if method == "kto" else 0
        if self.goal_gap and people < LEAST_GOALS:
            gaps.append(self.goal_gap)
            if method in ("dpo", "kto"):
                what = "corrections ('/fix', '/fix-call')" if method == "dpo" else "ratings ('autogpt rate')"
                gaps.append(f"or {LEAST_GOALS - people} more {what} (of {LEAST_GOALS})")
        if len(self.judging) < gate.MIN_GOALS:
            least = gate.MIN_GOALS
            gaps.append(f"a gate takes at least {least} held-out goals, here are {len(self.judging)}")
        return gaps


def survey(
    settings: Settings,
    store: RunStore,
    subject: Subject,
    goals: Sequence[Goal] = (),
    gate_goals: Sequence[Goal] | None = None,
    seed: int = 0,
) -> Survey:
    """Read what is new in the journals, split goals, and say what is missing."""
    experience = collect(store, settings)
    drawn = draw(store, experience, goals, gate_goals)
    leaking = {train for train, _ in experience.leaks()}
    learnable = experience.learnable()
    runs = [run for run in learnable if not run.held_out and run.goal not in leaking]
    judging = gate_order(drawn, gate_goals, seed)
    barred = alike_to([run.wording for run in runs], [goal.goal for goal in judging])
    runs = [run for number, run in enumerate(runs) if number not in barred]
    trained = {run.run for run in runs}
    tokenizer = ChatTokenizer(subject.base)
    past, refused = past_attempts(store, runs, tokenizer, Prices.of(settings))
    refused["alike to a goal that judges"] += len(barred)
    everything = [run for run in learnable if run.held_out or run.run in trained]
    said = read_said(store, everything, tokenizer)
    gap = ""
    distinct = {goal.id for goal in drawn.train} | {attempt.id for attempt in past}
    if len(distinct) < LEAST_GOALS:
        gap = (
            f"{LEAST_GOALS - len(distinct)} more goals to train on (of {LEAST_GOALS}): run goal files with a "
            "`check`, name a suite of them by --goals ('autogpt practice' makes one), or rate runs"
        )
    return Survey(tokenizer.fingerprint, drawn, past, +refused, judging, learnable, said, gap)
