"""Our engine in the comparison: the session kept, goals batched, every feature switchable.

Options (each False switches one off, for the ablation): ``drafts`` (n-gram copies), ``forced`` (tokens
that the grammar forces are appended unasked), ``kept`` (keys and values of a session live from turn to
turn), ``shared`` (goals share the computed system prompt).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autogpt.llm.engine.sequence import SAMPLED

from .recording import GoalRecord, TurnRecord
from .subject import LIMIT, Place, Played

if TYPE_CHECKING:
    from autogpt.llm.engine.batch import Batch
    from autogpt.llm.engine.engine import Engine

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
PIECE = 16
"""Rows of a forward in which the gate's logits are computed: few, since decoding's kernels are judged."""


class Ours:
    """:class:`autogpt.llm.engine.engine.Engine` behind the comparison's interface."""

    def __init__(self, place: Place) -> None:
        from autogpt.llm.nn.load import load_model
        from autogpt.llm.nn.precision import PROBE_TEXT, settle_precision
        from autogpt.llm.text.grammar import GrammarCompiler
        from autogpt.llm.text.tokenizer import ChatTokenizer

        tokenizer = ChatTokenizer(Path(place.folder))
        loaded = load_model(place.folder, "cpu", place.width, place.adapter, light=True)
        loaded, forward = settle_precision(loaded, tokenizer.plain(PROBE_TEXT), None)
        self._threads, self._loaded, self._forward = place.threads, loaded, forward
        self._compiler = GrammarCompiler(tokenizer, loaded.vocabulary)
        self.configure(place.options)
        # of the head only the rows that the grammar allows are read, so it is left out
        head = loaded.config.hidden_size * loaded.config.vocab_size
        self._decoder = parameters(loaded.config) - head
        self.weight_bytes = self._decoder * BYTES[place.width]

    def configure(self, options: dict[str, Any]) -> None:
        """See the module's text for the options; ``threads`` besides."""
        import torch

        from autogpt.llm.engine.engine import Engine

        torch.set_num_threads(int(options.get("threads", self._threads)))
        self._kept, self._shared = options.get("kept", True), options.get("shared", True)
        speculate = bool(options.get("drafts", True))
        forced = bool(options.get("forced", True))
        self._new_engine = partial(
            Engine, self._loaded, speculate=speculate, forced=forced, forward=self._forward
        )
        self._engine: Engine = self._new_engine()

    def play(self, goals: Sequence[tuple[int, GoalRecord]], turns: int, together: int) -> list[Played]:
        """Play goals, ``together`` at once; each goes on when its answer is there, whatever the others do."""
        ready, played = deque(goals), list[Played]()
        at: dict[int, tuple[int, GoalRecord, int]] = {}
        begun = self._engine.stats.forwards
        batch = self._engine.batch()
        while ready or batch:
            while ready and len(at) < together:
                if not (self._shared or at):
                    self._engine.clear()
                index, goal = ready.popleft()
                self._ask(batch, at, index, goal, 0)
            for place, answer in batch.finished():
                index, goal, number = at.pop(place)
                played.append(
                    Played(index, number, answer.seconds, tuple(answer.ids), answer.prompt_tokens,
                           answer.prompt_tokens - answer.cached_tokens, answer.forwards, answer.complete,
                           len(answer.origins) - max(0, answer.origins.rfind(SAMPLED)))
                )  # fmt: skip
                if number + 1 < min(turns, len(goal.turns)):
                    self._ask(batch, at, index, goal, number + 1)
                else:
                    self._engine.close(f"goal-{index}")
        # in a batch nobody's share of a forward can be told
        shared = (self._engine.stats.forwards - begun) / max(1, len(played))
        return [replace(turn, forwards=shared) for turn in played] if together > 1 else played

    def _ask(
        self,
        batch: Batch,
        at: dict[int, tuple[int, GoalRecord, int]],
        index: int,
        goal: GoalRecord,
        number: int,
    ) -> None:
        """Let a goal's turn join the batch; compiling its grammar counts in the turn's time."""
        from autogpt.llm.engine.engine import Request
        from autogpt.llm.message import Sampling

        if not self._kept:
            self._engine.clear()
        turn = goal.turns[number]
        begun = time.perf_counter()
        grammar = self._compiler.compile(turn.calls)
        place = batch.add(Request(f"goal-{index}", turn.prompt, grammar, Sampling(max_tokens=LIMIT)), begun)
        at[place] = index, goal, number

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[float, float]:
        """Compute prompts and sample nothing; return seconds and multiplications with decoder weights."""
        from autogpt.llm.engine.engine import Request
        from autogpt.llm.message import Sampling

        rows = self._engine.stats.rows
        begun = time.perf_counter()
        nothing = Sampling(max_tokens=0)
        self._engine.generate([Request(f"prompt-{i}", ids, None, nothing) for i, ids in enumerate(prompts)])
        return time.perf_counter() - begun, float(self._decoder) * (self._engine.stats.rows - rows)

    def fork(self, turn: TurnRecord, count: int) -> tuple[float, int]:
        """Compute the prompt once, then sample all candidates in one batch."""
        from autogpt.llm.engine.engine import Request
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
        import torch

        cache, rows = self._forward.new_cache(), []
        wanted = set(places)
        with torch.inference_mode():
            for start in range(0, len(ids), PIECE):
                hidden = self._forward.hidden([(cache, ids[start : start + PIECE])], every=True)
                inside = [i for i in range(len(hidden)) if start + i in wanted]
                if inside:
                    rows.append(self._forward.head(hidden[inside]).numpy())
        return np.concatenate(rows)

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
