"""Our engine in the comparison: the session kept, goals batched, every feature switchable.

Options (each False switches one off, for the ablation): ``drafts`` (n-gram copies), ``forced`` (tokens
that the grammar forces are appended unasked), ``kept`` (keys and values of a session live from turn to
turn), ``shared`` (goals share the computed system prompt).
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .recording import GoalRecord, TurnRecord
from .subject import LIMIT, Place, Played


class Ours:
    """:class:`autogpt.llm.engine.Engine` behind the comparison's interface."""

    def __init__(self, place: Place) -> None:
        import torch

        from autogpt.llm.brain import LocalModel
        from autogpt.llm.engine import Engine

        self._model = LocalModel.load(place.folder, adapter=place.adapter, device="cpu", dtype=place.width)
        torch.set_num_threads(place.threads)
        self._kept = place.options.get("kept", True)
        self._shared = place.options.get("shared", True)
        wanted: dict[str, Any] = {}
        if place.options.get("drafts") is False:
            wanted["drafts"] = "none"
        if place.options.get("forced") is False:
            wanted["forced"] = False
        known = inspect.signature(Engine.__init__).parameters
        if lacking := sorted(set(wanted) - set(known)):
            raise SystemExit(f"this engine cannot switch off: {', '.join(lacking)}")
        self._new_engine: Callable[[], Engine] = lambda: Engine(self._model.loaded, **wanted)
        self._engine = self._new_engine()
        self._compiler = self._model.compiler
        config = self._model.loaded.config
        per = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}[place.width]
        self.weight_bytes = parameters(config) * per

    def play(self, goals: Sequence[tuple[int, GoalRecord]], turns: int, together: int) -> list[Played]:
        """Play goals in groups; within a group every goal's turn n is in one batch."""
        played: list[Played] = []
        for start in range(0, len(goals), together):
            group = goals[start : start + together]
            if not self._shared:
                self._engine.clear()
            longest = min(turns, max(len(goal.turns) for _, goal in group))
            for number in range(longest):
                due = [(index, goal.turns[number]) for index, goal in group if number < len(goal.turns)]
                played += self._round(number, due)
            for index, _ in group:
                self._engine.close(f"goal-{index}")
        return played

    def _round(self, number: int, due: Sequence[tuple[int, TurnRecord]]) -> list[Played]:
        from autogpt.llm.engine import Request
        from autogpt.llm.message import Sampling

        if not self._kept:
            self._engine.clear()
        forwards = self._engine.stats.forwards
        begun = time.perf_counter()
        sampling = Sampling(max_tokens=LIMIT)
        requests = [
            Request(f"goal-{index}", turn.prompt, self._compiler.compile(turn.calls), sampling)
            for index, turn in due
        ]
        compiled = time.perf_counter() - begun
        answers = self._engine.generate(requests)
        done = self._engine.stats.forwards - forwards
        return [
            Played(index, number, compiled + answer.seconds, tuple(answer.ids), answer.prompt_tokens,
                   answer.prompt_tokens - answer.cached_tokens, done / len(due), answer.complete)
            for (index, _), answer in zip(due, answers, strict=True)
        ]  # fmt: skip

    def fork(self, turn: TurnRecord, count: int) -> tuple[float, int]:
        """Compute the prompt once, then sample all candidates in one batch."""
        from autogpt.llm.engine import Request
        from autogpt.llm.message import Sampling

        grammar = self._compiler.compile(turn.calls)
        begun = time.perf_counter()
        requests = [
            Request(f"fork-{seed}", turn.prompt, grammar, Sampling(1.0, seed=seed, max_tokens=LIMIT))
            for seed in range(count)
        ]
        answers = self._engine.generate(requests)
        seconds = time.perf_counter() - begun
        for seed in range(count):
            self._engine.close(f"fork-{seed}")
        return seconds, sum(len(answer.ids) for answer in answers)

    def logits(self, ids: Sequence[int], places: Sequence[int]) -> NDArray[np.float32]:
        """See :class:`.subject.Subject`."""
        found: NDArray[np.float32] = self._engine.logits(list(ids))[list(places)].numpy()
        return found

    def forget(self) -> None:
        """Start with a new engine: one that was played to has drafts from the answers it gave."""
        self._engine = self._new_engine()


def parameters(config: Any) -> int:
    """Return how many weights a one-row forward multiplies: the linears and the output head."""
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    layer = config.hidden_size * dim * (2 * heads + 2 * groups)
    layer += 3 * config.hidden_size * config.intermediate_size
    return int(layer * config.num_hidden_layers + config.hidden_size * config.vocab_size)
