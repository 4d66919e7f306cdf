"""``transformers.generate`` in the comparison, with the cache kept over turns.

One ``DynamicCache`` lives from turn to turn and from goal to goal; before each turn it is cropped to
what the new prompt shares with it, and ``generate`` computes the rest. The grammar is the same
llguidance grammar that our engine uses, as a logits processor, so the calls are the same. Options:
none. Several goals at once are played one after another: ``generate`` pads a batch on the left, which
moves every kept key, so batching it would mean to give up the cache. A fork is one batch
(``num_return_sequences``) on copies of the cache. Prompt lookup is left out: with a warm cache it is
refused or gives wrong text.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .ours import parameters
from .recording import GoalRecord, TurnRecord
from .subject import LIMIT, Place, Played, shared


class Masks:
    """A logits processor and stopping rule in one: llguidance's masks for each row of a batch."""

    def __init__(self, matchers: Sequence[Any], start: int) -> None:
        self._matchers = list(matchers)
        self._seen = start
        self.forwards = 0

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Forbid what the grammar does not allow next."""
        self.forwards += 1
        scores = scores.float()
        for row, matcher in enumerate(self._matchers):
            for token in ids[row, self._seen :].tolist():
                if not matcher.done():
                    matcher.consume(token)
            if matcher.done():
                continue
            bits = np.unpackbits(matcher.bitmask().view(np.uint8), bitorder="little")
            allowed = torch.from_numpy(bits[: scores.shape[-1]]).bool()
            scores[row].masked_fill_(~allowed, float("-inf"))
        self._seen = ids.shape[1]
        return scores


class Generate:
    """A transformers module driven by its own ``generate``."""

    def __init__(self, place: Place) -> None:
        from pathlib import Path

        from transformers import DynamicCache

        from autogpt.llm.nn.load import load_model
        from autogpt.llm.text.grammar import GrammarCompiler
        from autogpt.llm.text.tokenizer import ChatTokenizer

        loaded = load_model(place.folder, device="cpu", dtype="float32", adapter=place.adapter)
        torch.set_num_threads(place.threads)
        self._model: Any = loaded.model
        if place.width == "bfloat16":
            body: Any = self._model.to(torch.bfloat16).model
            body.rotary_emb = type(body.rotary_emb)(config=loaded.config)  # frequencies stay fp32
        elif place.width != "float32":
            raise SystemExit(f"generate has no width {place.width}: use float32 or bfloat16")
        self._tokenizer = ChatTokenizer(Path(place.folder))
        self._compiler = GrammarCompiler(self._tokenizer, loaded.vocabulary)
        self._new_cache = DynamicCache
        self._config = loaded.config
        self.weight_bytes = parameters(loaded.config) * (2 if place.width == "bfloat16" else 4)
        self._cache: Any = None
        self._ids: list[int] = []
        self.forget()

    def configure(self, options: dict[str, Any]) -> None:
        """There are no options."""
        self.forget()

    def play(self, goals: Sequence[tuple[int, GoalRecord]], turns: int, together: int) -> list[Played]:
        """Play the goals one after another."""
        return [
            self._turn(index, number, turn)
            for index, goal in goals
            for number, turn in enumerate(goal.turns[:turns])
        ]

    def _turn(self, index: int, number: int, turn: TurnRecord) -> Played:
        begun = time.perf_counter()
        matcher = self._compiler.compile(turn.calls).matcher()
        keep = self._crop(turn.prompt)
        masks = Masks([matcher], len(turn.prompt))
        out = self._generate(turn.prompt, masks, self._cache, do_sample=False)
        said = tuple(out[0, len(turn.prompt) :].tolist())
        self._ids = list(turn.prompt + said[:-1])
        seconds = time.perf_counter() - begun
        complete = bool(said) and said[-1] == self._tokenizer.eos_id
        computed = len(turn.prompt) - keep
        return Played(index, number, seconds, said, len(turn.prompt), computed, masks.forwards, complete)

    def fork(self, turn: TurnRecord, count: int) -> tuple[float, int]:
        """Compute the prompt once, copy its cache ``count`` times, sample a batch."""
        grammar = self._compiler.compile(turn.calls)
        begun = time.perf_counter()
        self.forget()
        with torch.inference_mode():
            self._model(
                input_ids=torch.tensor([turn.prompt[:-1]]), past_key_values=self._cache, logits_to_keep=1
            )
        self._cache.batch_repeat_interleave(count)
        masks = Masks([grammar.matcher() for _ in range(count)], len(turn.prompt))
        torch.manual_seed(0)
        out = self._generate(turn.prompt, masks, self._cache, rows=count, do_sample=True, top_k=0)
        seconds = time.perf_counter() - begun
        self.forget()
        rest = out[:, len(turn.prompt) :]
        tokens = sum(row.index(self._tokenizer.eos_id) + 1 if self._tokenizer.eos_id in row else len(row)
                     for row in rest.tolist())  # fmt: skip
        return seconds, tokens

    def logits(self, ids: Sequence[int], places: Sequence[int]) -> NDArray[np.float32]:
        """See :class:`.subject.Subject`."""
        with torch.inference_mode():
            hidden = self._model.model(input_ids=torch.tensor([list(ids)])).last_hidden_state
            found: NDArray[np.float32] = self._model.lm_head(hidden[0, list(places)]).float().numpy()
        return found

    def forget(self) -> None:
        """Start with an empty cache."""
        self._cache = self._new_cache(config=self._config)
        self._ids = []

    def _crop(self, prompt: Sequence[int]) -> int:
        """Cut the cache to what ``prompt`` shares with it; return that length."""
        keep = shared(self._ids, prompt)
        if not keep:
            self.forget()
        elif len(self._ids) > keep:
            self._cache.crop(keep - len(self._ids))
        self._ids = self._ids[:keep]
        return keep

    def _generate(
        self, prompt: Sequence[int], masks: Masks, cache: Any, rows: int = 1, **how: Any
    ) -> torch.Tensor:
        ids = torch.tensor([list(prompt)] * rows)
        found: torch.Tensor = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=cache,
            max_new_tokens=LIMIT,
            eos_token_id=self._tokenizer.eos_id,
            pad_token_id=self._tokenizer.eos_id,
            logits_processor=[masks],
            **how,
        )
        return found
