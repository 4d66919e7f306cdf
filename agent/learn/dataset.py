"""What a candidate is trained on, chosen from attempts, people's word and ordinary work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ...llm.registry import DEFAULT, ModelRegistry
from ...llm.text.tokenizer import ChatTokenizer
from . import canaries, promotion, selection
from .attempts import Attempt, rates, read_attempts
from .methods import LEAST_KEPT, gather
from .work import Work, improvements

REPLAYED = 600
"""Ordinary samples that the other methods draw their replay from."""


class Choice:
    """Writes the training files of an improvement; ``facts`` are the counts for its report."""

    def __init__(self, work: Work, home: Path, known: Mapping[str, tuple[int, int]], seed: int) -> None:
        self.work, self.home, self.known, self.seed = work, home, known, seed
        self.options = work.state.options
        self.facts: dict[str, Any] = {}

    def write(self, method: str) -> str:
        """Write the files; returns what is lacking, or an empty string."""
        practised = read_attempts(self.work.folder / "attempts.jsonl")
        tried = rates(practised)
        rows = ({"goal": g, "solved": s, "tried": t} for g, (s, t) in sorted(tried.items()))
        self.work.write("rates.jsonl", rows)
        self.facts = {
            "tries": len(practised),
            "solved_tries": sum(attempt.solved for attempt in practised),
            "sometimes": sum(0 < s < t for s, t in tried.values()),
            "never": sum(s == 0 for s, _ in tried.values()),
            "kept": 0,
            "again": 0,
            "canaries": 0,
        }
        if method == "sft":
            return self._successes(practised)
        replay = selection.replay_samples(self._replayed(), REPLAYED, self.seed)
        planted = self._canaries() if len(replay) == REPLAYED and not self.options.dp_epsilon else []
        if replay:
            self.work.write("replay.jsonl", [*replay, *planted])
        count = self.work.state.facts["goals"] if method == "grpo" else gather(self.work, method)
        self.facts |= {"replayed": len(replay), "samples": count, "canaries": len(planted)}
        what = {"grpo": "goals", "dpo": "pairs", "kto": "rated answers"}[method]
        return f"only {count} {what} to learn from, {LEAST_KEPT} are the least" if count < LEAST_KEPT else ""

    def _successes(self, practised: Sequence[Attempt]) -> str:
        past = read_attempts(self.work.folder / "past.jsonl")
        kept = selection.kept_best([*practised, *past], self.options.keep)
        goals, said = {a.goal for a in [*practised, *past]}, {(a.id, a.said) for a in kept}
        earlier = [a for a in self._earlier() if a.goal in goals and (a.id, a.said) not in said]
        again = selection.draw_buffer(earlier, len(kept), self.known, self.options.buffer, self.seed)
        wanted = selection.replay_count(len(kept) + len(again), self.options.replay)
        base = selection.replay_samples(self._replayed(), wanted, self.seed)
        base = selection.beside_tools(base, kept, selection.Opening.of(self._tokenizer), self.seed)
        planted = self._canaries()
        self.facts |= {
            "kept": len(kept),
            "again": len(again),
            "replayed": len(base),
            "canaries": len(planted),
            "samples": len(kept) + len(again) + len(base),
        }
        if len(kept) < LEAST_KEPT:
            return f"only {len(kept)} successes to learn from, {LEAST_KEPT} are the least"
        self.work.write("kept.jsonl", (attempt.row() for attempt in kept))
        self.work.write("samples.jsonl", [*(a.record() for a in [*kept, *again]), *base, *planted])
        return ""

    def _replayed(self) -> Sequence[Path]:
        """Return where ordinary work is drawn from: what the model was trained on, as far as that is known.

        The shipped samples are the shipped model's; to another one they would be new lessons, not a reminder.
        """
        if self.options.replay_data:
            return self.options.replay_data
        if promotion.root_of(self.home, self.work.state.parent) != DEFAULT:
            return []
        return selection.shipped_replay(self.work.state.facts["tokenizer"])

    def _canaries(self) -> list[dict[str, Any]]:
        return [canary.record() for canary in canaries.plant(self._tokenizer, self.seed)]

    @cached_property
    def _tokenizer(self) -> ChatTokenizer:
        return ChatTokenizer(Path(ModelRegistry(self.home).resolve(self.work.state.parent).source))

    def _earlier(self) -> list[Attempt]:
        """Return kept successes of earlier improvements with the same tokenizer."""
        found: dict[tuple[str, str], Attempt] = {}
        for work in improvements(self.home):
            same = work.state.facts.get("tokenizer") == self.work.state.facts["tokenizer"]
            if work.state.id != self.work.state.id and same:
                for attempt in read_attempts(work.folder / "kept.jsonl"):
                    found[attempt.id, attempt.said] = attempt
        return list(found.values())
