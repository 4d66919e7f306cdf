"""Rejection sampling: fine-tuning on the best successes, with ordinary samples mixed in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..dataset import canary_records, earlier_successes, known_rates, replay, tokenizer_of
from ..samples import Opening, draw_buffer, rejection_sample, replay_count, show_tools
from . import LEAST, Method, OnStep, Say

if TYPE_CHECKING:
    from ....llm.training.trainer import Report
    from ..trainer import Trainer
    from ..work import Figures, Work


class RejectionSampling(Method):
    """Fine-tuning on the model's own successes. Also trains all weights, where ``full`` is asked for."""

    name = "sft"
    unit = "successes"
    rate = 3e-4
    full_rate = 2e-5
    private = True

    def suits(self, figures: Figures, parent: str) -> bool:
        """It learns from whatever there is."""
        return True

    def gather(self, work: Work) -> int:
        """Keep the best successes, draw earlier ones and ordinary samples, and plant canaries."""
        options, figures = work.state.options, work.state.figures
        attempts = [*work.attempts.read(), *work.past.read()]
        kept = rejection_sample(attempts, options.keep)
        goals, seen = {a.goal for a in attempts}, {(a.id, a.said) for a in kept}
        earlier = [a for a in earlier_successes(work) if a.goal in goals and (a.id, a.said) not in seen]
        again = draw_buffer(earlier, len(kept), known_rates(work), options.buffer, work.seed)
        ordinary = replay(work, replay_count(len(kept) + len(again), options.replay))
        ordinary = show_tools(ordinary, kept, Opening.of(tokenizer_of(work)), work.seed)
        planted = canary_records(work)
        figures.kept, figures.again, figures.replayed = len(kept), len(again), len(ordinary)
        figures.canaries, figures.samples = len(planted), len(kept) + len(again) + len(ordinary)
        if len(kept) >= LEAST:
            work.kept.write(kept)
            work.samples.write([*(a.record() for a in [*kept, *again]), *ordinary, *planted])
        return len(kept)

    def train(self, trainer: Trainer, work: Work, on_step: OnStep, say: Say) -> Report:
        """Fine-tune on the samples; few of them are trained on in smaller batches."""
        options = work.state.options
        batch = min(options.batch, max(4, (work.state.figures.samples or 0) // 12))
        return trainer.finetune(
            on_step, data=[work.samples.path], epsilon=options.dp_epsilon, batch=batch, full=options.full,
            **self.config(work),
        )  # fmt: skip
