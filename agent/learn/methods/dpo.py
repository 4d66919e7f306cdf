"""DPO on pairs: people's corrections first, then pairs of attempts at one goal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..dataset import write_replay
from ..preferences import attempt_pairs
from . import Method, OnStep, Say

if TYPE_CHECKING:
    from ....llm.training.trainer import Report
    from ..trainer import Trainer
    from ..work import Figures, Work

LEAST_PAIRS = 20
"""Corrections from which ``auto`` learns from them."""


class Dpo(Method):
    """Direct preference optimisation (Rafailov et al., 2023, arXiv:2305.18290)."""

    name = "dpo"
    unit = "pairs"
    feedback = "corrections ('/fix', '/fix-call')"
    private = True
    gate_goals = 400  # ratings decide; tasks need only be no worse
    priority = 3

    def suits(self, figures: Figures, parent: str) -> bool:
        """It wants corrections, and a model that did not just learn from some."""
        return figures.pairs >= LEAST_PAIRS and parent != self.name

    def given(self, figures: Figures) -> int:
        """Return the number of corrections."""
        return figures.pairs

    def gather(self, work: Work) -> int:
        """Write pairs and replayed samples."""
        write_replay(work)
        pairs = [*work.feedback_pairs.read(), *attempt_pairs(work.attempts.read())]
        work.pairs.write(pairs)
        return len(pairs)

    def train(self, trainer: Trainer, work: Work, on_step: OnStep, say: Say) -> Report:
        """Train on the pairs."""
        options, replay = work.state.options, work.replay.path
        return trainer.prefer(
            "dpo", work.pairs.read(), [replay] if replay.is_file() else [], on_step, options.dp_epsilon,
            replay_share=self.replay_share(options), **self.config(work),
        )  # fmt: skip
