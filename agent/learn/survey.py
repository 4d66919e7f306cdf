"""What there is to learn from, before anything is trained: for an improvement, and for ``--dry-run``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ...llm.text.tokenizer import ChatTokenizer
from ...memory.experience import Learnable
from ...settings import Settings
from ..goals.load import Goal
from ..record.rewards import Prices
from ..record.store import RunStore
from .collect import LEAST_GOALS as LEAST_GOALS
from .collect import collect
from .goal_split import Drawn, alike_to, draw, gate_order
from .preferences import Feedback, read_feedback
from .samples import Attempt, past_attempts
from .trainer import Subject
from .work import Figures


@dataclass(frozen=True)
class Survey:
    """What was found."""

    tokenizer: str
    """Its hash: samples must have been made with it."""
    drawn: Drawn
    past: list[Attempt]
    """Past runs that may be trained on."""
    refused: Counter[str]
    """Runs and ratings that may not, by reason."""
    judging: list[Goal]
    """Every goal that may be played in the gate, in the order of play."""
    runs: list[Learnable]
    """All runs that may be learned from, on either side of the split."""
    feedback: Feedback

    def figures(self) -> Figures:
        """Return the counts of all this."""
        rated = self.feedback.rated
        up = sum(one.good for one in rated)
        return Figures(
            tokenizer=self.tokenizer,
            goals=len(self.drawn.train),
            own_held_out=len(self.drawn.held_out),
            judging=len(self.judging),
            distinct=len({goal.id for goal in self.drawn.train} | {attempt.id for attempt in self.past}),
            dropped=dict(self.drawn.dropped),
            past_runs=len(self.past),
            refused=dict(self.refused),
            pairs=len(self.feedback.pairs),
            thumbs=len(rated),
            thumbs_up=up,
            thumbs_down=len(rated) - up,
        )


def survey(
    settings: Settings,
    store: RunStore,
    subject: Subject,
    goals: Sequence[Goal] = (),
    gate_goals: Sequence[Goal] | None = None,
    seed: int = 0,
) -> Survey:
    """Read what is new in the journals, and split goals."""
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
    feedback = read_feedback(store, everything, tokenizer)
    refused += feedback.refused
    return Survey(tokenizer.fingerprint, drawn, past, +refused, judging, learnable, feedback)
