"""llama.cpp in the comparison, through llama-cpp-python, as fast as it goes.

The same weights as a GGUF file, the keys and values kept from turn to turn by longest common prefix,
the same number of threads. Options, tried on a few turns, of which the fastest is taken:

- ``grammar``: ``own`` (llama.cpp's GBNF, applied as its server does: the best token is checked, and the
  whole vocabulary only when it is refused), ``llguidance`` (our grammar's masks), or ``package``
  (``Llama.generate`` as the package ships it, without drafts);
- ``drafts``: True for the package's prompt lookup, verified in one decode.

It has no batching over sessions here: several goals are played one after another, and a fork samples one
candidate after another from the kept prefix.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .gbnf import call_grammar
from .recording import GoalRecord, TurnRecord
from .subject import LIMIT, Place, Played, allowed, shared

CONTEXT = 4096
"""Tokens that its context holds; the transcripts stay far below."""

Choose = Callable[[NDArray[np.float32]], int]


class Llama:
    """A llama.cpp context with one kept sequence."""

    def __init__(self, place: Place) -> None:
        try:
            import llama_cpp  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise SystemExit(
                "llama-cpp-python is not installed: pip install -r requirements/bench.in (it is compiled), "
                "or leave llama out with --engines ours,generate"
            ) from None
        from autogpt.llm.text.grammar import GrammarCompiler
        from autogpt.llm.text.tokenizer import CALL_CLOSE, CALL_OPEN, ChatTokenizer

        self._c = llama_cpp
        path = Path(place.scratch) / f"model-{place.width}.gguf"
        self._llm: Any = llama_cpp.Llama(
            model_path=str(path),
            n_ctx=CONTEXT,
            n_threads=place.threads,
            n_threads_batch=place.threads,
            verbose=False,
        )
        tokenizer = ChatTokenizer(Path(place.folder))
        self._end = tokenizer.eos_id
        self._marks = tokenizer.frame(CALL_OPEN)[0], tokenizer.frame(CALL_CLOSE)[0]
        self._width = self._llm.n_vocab()
        self._compiler = GrammarCompiler(tokenizer, self._width)
        self._gbnf: dict[int, str] = {}
        self._ids: list[int] = []
        self.weight_bytes = path.stat().st_size
        self.configure(place.options)

    def configure(self, options: dict[str, Any]) -> None:
        """See the module's text for the options."""
        self._grammar = str(options.get("grammar", "own"))
        lookup = self._c.llama_speculative.LlamaPromptLookupDecoding(max_ngram_size=2, num_pred_tokens=10)
        self._lookup = lookup if options.get("drafts") else None
        self.forget()

    def play(self, goals: Sequence[tuple[int, GoalRecord]], turns: int, together: int) -> list[Played]:
        """Play the goals one after another."""
        one = self._packaged if self._grammar == "package" else self._turn
        return [
            one(index, number, turn)
            for index, goal in goals
            for number, turn in enumerate(goal.turns[:turns])
        ]

    def fork(self, turn: TurnRecord, count: int) -> tuple[float, int]:
        """Compute the prompt once, then sample one candidate after another."""
        begun = time.perf_counter()
        tokens = 0
        for seed in range(count):
            choose = self._masked(turn, np.random.default_rng(seed))
            tokens += len(self._answer(turn.prompt, choose)[0])
        return time.perf_counter() - begun, tokens

    def logits(self, ids: Sequence[int], places: Sequence[int]) -> NDArray[np.float32]:
        """See :class:`.subject.Subject`."""
        self.forget()
        wanted = set(places)
        rows = []
        for start in range(0, len(ids), 512):
            part = list(ids[start : start + 512])
            inside = [i for i in range(len(part)) if start + i in wanted]
            self._decode(part, inside or [len(part) - 1])
            rows += [self._row(i).copy() for i in inside]
        return np.stack(rows)

    def forget(self) -> None:
        """Empty the context."""
        self._keep(0)
        self._llm.n_tokens = 0

    def _turn(self, index: int, number: int, turn: TurnRecord) -> Played:
        begun = time.perf_counter()
        choose = self._own(turn) if self._grammar == "own" else self._masked(turn, None)
        said, computed, forwards = self._answer(turn.prompt, choose)
        seconds = time.perf_counter() - begun
        done = bool(said) and said[-1] == self._end
        return Played(index, number, seconds, tuple(said), len(turn.prompt), computed, forwards, done)

    def _answer(self, prompt: Sequence[int], choose: Choose) -> tuple[list[int], int, int]:
        """Continue the prompt until the end token: its ids, prompt tokens computed, decodes."""
        keep = shared(self._ids, prompt)
        self._keep(keep)
        rest = list(prompt[keep:])
        forwards = 0
        while rest:
            part, rest = rest[:512], rest[512:]
            self._decode(part, [len(part) - 1])
            forwards += 1
        said: list[int] = [choose(self._row(len(part) - 1))]
        while said[-1] != self._end and len(said) < LIMIT:
            draft = self._draft([*prompt, *said])
            rows = [said[-1], *draft]
            self._decode(rows, range(len(rows)))
            forwards += 1
            for place in range(len(rows)):
                said.append(choose(self._row(place)))
                if said[-1] == self._end or place == len(draft) or draft[place] != said[-1]:
                    break
            self._keep(len(prompt) + len(said) - 1)
        return said, len(prompt) - keep, forwards

    def _draft(self, ids: list[int]) -> list[int]:
        if self._lookup is None:
            return []
        found: list[int] = self._lookup(np.array(ids, dtype=np.intc)).tolist()
        return found

    def _own(self, turn: TurnRecord) -> Choose:
        """Return greedy choice under llama.cpp's own grammar, checked for the best token first."""
        key = hash(tuple((call.name, repr(call.parameters)) for call in turn.calls))
        if key not in self._gbnf:
            self._gbnf[key] = call_grammar(turn.calls, *self._marks)
        source, c = self._gbnf[key], self._c
        vocab = c.llama_model_get_vocab(self._llm.model)
        sampler = c.llama_sampler_init_grammar(vocab, source.encode(), b"root")
        if not sampler:
            raise SystemExit(f"llama.cpp refuses the grammar:\n{source}")
        state = _Freed(sampler, c.llama_sampler_free)
        entry = np.dtype([("id", np.intc), ("logit", np.single), ("p", np.single)], align=True)

        def choose(row: NDArray[np.float32]) -> int:
            best = int(row.argmax())
            data = np.zeros(1, entry)
            data["id"], data["logit"] = best, row[best]
            if not np.isfinite(self._filtered(state.handle, data)[0]):
                data = np.zeros(self._width, entry)
                data["id"], data["logit"] = np.arange(self._width), row
                best = int(self._filtered(state.handle, data).argmax())
            c.llama_sampler_accept(state.handle, best)
            return best

        return choose

    def _filtered(self, sampler: Any, data: NDArray[Any]) -> NDArray[np.float32]:
        """Apply a sampler to candidates; return their logits."""
        c = self._c
        pointer = data.ctypes.data_as(ctypes.POINTER(c.llama_token_data))
        array = c.llama_token_data_array(data=pointer, size=len(data), selected=-1, sorted=False)
        c.llama_sampler_apply(sampler, ctypes.byref(array))
        logits: NDArray[np.float32] = data["logit"]
        return logits

    def _masked(self, turn: TurnRecord, random: np.random.Generator | None) -> Choose:
        """Return choice under llguidance's masks: greedy, or drawn at temperature 1."""
        matcher = self._compiler.compile(turn.calls).matcher()

        def choose(row: NDArray[np.float32]) -> int:
            best = int(row.argmax())
            if random is not None or not matcher.validate([best]):
                ids = allowed(matcher.bitmask())
                noise = 0.0 if random is None else random.gumbel(size=len(ids))
                best = int(ids[(row[ids] + noise).argmax()])
            matcher.consume(best)
            return best

        return choose

    def _packaged(self, index: int, number: int, turn: TurnRecord) -> Played:
        """Answer with ``Llama.generate`` and its grammar as they come."""
        llm = self._llm
        before = shared(llm._input_ids.tolist(), turn.prompt)
        begun = time.perf_counter()
        source = call_grammar(turn.calls, *self._marks)
        grammar = self._c.LlamaGrammar.from_string(source, verbose=False)
        said: list[int] = []
        for token in llm.generate(list(turn.prompt), temp=0.0, grammar=grammar):
            said.append(int(token))
            if token == self._end or len(said) >= LIMIT:
                break
        seconds = time.perf_counter() - begun
        done = bool(said) and said[-1] == self._end
        computed = len(turn.prompt) - before
        return Played(index, number, seconds, tuple(said), len(turn.prompt), computed, float("nan"), done)

    def _keep(self, length: int) -> None:
        """Cut the context to ``length`` tokens."""
        memory = self._c.llama_get_memory(self._llm.ctx)
        self._c.llama_memory_seq_rm(memory, 0, length, -1)
        del self._ids[length:]

    def _decode(self, ids: Sequence[int], wanted: Sequence[int]) -> None:
        """Run ids after what is there, with logits for the places ``wanted``."""
        batch = self._llm._batch.batch
        start = len(self._ids)
        batch.n_tokens = len(ids)
        for place, token in enumerate(ids):
            batch.token[place], batch.pos[place] = token, start + place
            batch.seq_id[place][0], batch.n_seq_id[place], batch.logits[place] = 0, 1, 0
        for place in wanted:
            batch.logits[place] = 1
        if code := self._c.llama_decode(self._llm.ctx, batch):
            raise RuntimeError(f"llama_decode returned {code}")
        self._ids.extend(ids)

    def _row(self, place: int) -> NDArray[np.float32]:
        """Return the logits of a place of the last batch (a view, valid until the next decode)."""
        pointer = self._c.llama_get_logits_ith(self._llm.ctx, place)
        return np.ctypeslib.as_array(pointer, shape=(self._width,))


class _Freed:
    """A C handle that is freed with this object."""

    def __init__(self, handle: Any, free: Callable[[Any], None]) -> None:
        self.handle, self._free = handle, free

    def __del__(self) -> None:
        self._free(self.handle)
