"""KTO on rated answers: people's ratings first, then attempts as good or bad answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..dataset import write_replay
from ..preferences import attempt_thumbs
from . import Method, OnStep, Say

if TYPE_CHECKING:
    from ....llm.training.trainer import Report
    from ..trainer import Trainer
    from ..work import Figures, Work

LEAST_RATED = 32
"""Ratings from which ``auto`` learns from them; a fifth as many are then held out, enough to have a say."""
LEAST_OF_KIND = 5
"""Of these, at least this many up and this many down."""


class Kto(Method):
    """Kahneman-Tversky optimisation (Ethayarajh et al., 2024, arXiv:2402.01306)."""

    name = "kto"
    unit = "rated answers"
    feedback = "ratings ('autogpt rate')"
    rate = 8e-5
    epochs = 4.0
    least_share = 0.5  # fifty ratings need many steps, and tasks suffer less with more replay (`LOG.md`)
    gate_goals = 400  # ratings decide; tasks need only be no worse
    priority = 2

    def suits(self, figures: Figures, parent: str) -> bool:
        """It wants ratings of both kinds, and a model that did not just learn from some."""
        enough = figures.thumbs >= LEAST_RATED
        both = min(figures.thumbs_up, figures.thumbs_down) >= LEAST_OF_KIND
        return enough and both and parent != self.name

    def given(self, figures: Figures) -> int:
        """Return the number of ratings."""
        return figures.thumbs

    def gather(self, work: Work) -> int:
        """Write rated answers and replayed samples."""
        write_replay(work)
        rated = [*work.feedback_rated.read(), *attempt_thumbs(work.attempts.read())]
        work.rated.write(rated)
        return len(rated)

    def train(self, trainer: Trainer, work: Work, on_step: OnStep, say: Say) -> Report:
        """Train on the rated answers."""
        options, replay = work.state.options, work.replay.path
        return trainer.prefer(
            "kto", work.rated.read(), [replay] if replay.is_file() else [], on_step, options.dp_epsilon,
            replay_share=self.replay_share(options), **self.config(work),
        )  # fmt: skip
