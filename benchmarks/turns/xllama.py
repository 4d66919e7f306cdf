"""llama.cpp in the comparison as its own server runs it, through the wheel ``xllamacpp``.

The same GGUF file, the same prompt ids, and our own grammar's text, which its llguidance compiles. It
keeps a slot's tokens from turn to turn by longest common prefix. Options: ``threads``, and ``drafts`` for
its own n-gram speculation. Forwards cannot be told, and it gives no logits, so the gate does not judge it;
its answers are counted against the recorded ones like everybody's. The wheel is built for AVX2, whatever
the chip has.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .recording import GoalRecord, TurnRecord
from .subject import LIMIT, Place, Played

CONTEXT = 4096
"""Tokens that its slot holds; the transcripts stay far below."""


class XLlama:
    """llama.cpp's server in this process, with one slot."""

    def __init__(self, place: Place) -> None:
        try:
            import xllamacpp
        except ImportError:
            raise SystemExit(
                "xllamacpp is not installed: pip install autogpt[gguf], or leave xllama out with --engines"
            ) from None
        from autogpt.llm.text.grammar import GrammarCompiler
        from autogpt.llm.text.tokenizer import ChatTokenizer

        self._package: Any = xllamacpp
        self._path = Path(place.scratch) / f"model-{place.width}.gguf"
        self._threads = place.threads
        self._compiler = GrammarCompiler(ChatTokenizer(Path(place.folder)))
        self._server: Any = None
        self._opened: tuple[int, bool] | None = None
        self.weight_bytes = self._path.stat().st_size
        self.configure(place.options)

    def configure(self, options: dict[str, Any]) -> None:
        """See the module's text for the options."""
        wanted = int(options.get("threads", self._threads)), bool(options.get("drafts", False))
        if wanted != self._opened:
            self._server = None  # the old one's memory goes first
            self._server, self._opened = self._serve(*wanted), wanted
        self.forget()

    def _serve(self, threads: int, drafts: bool) -> Any:
        package = self._package
        params = package.CommonParams()
        params.model.path = str(self._path)
        params.n_ctx, params.n_parallel, params.verbosity = CONTEXT, 1, -1
        params.cache_ram_mib = 0  # goals are played one after another; nothing comes back
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        if drafts:
            params.speculative.types = [package.common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
        return package.Server(params)

    def play(self, goals: Sequence[tuple[int, GoalRecord]], turns: int, together: int) -> list[Played]:
        """Play the goals one after another."""
        return [
            self._turn(index, number, turn)
            for index, goal in goals
            for number, turn in enumerate(goal.turns[:turns])
        ]

    def fork(self, turn: TurnRecord, count: int) -> tuple[float, int]:
        """Sample one candidate after another from the kept prefix."""
        begun = time.perf_counter()
        answers = [self._ask(turn, temperature=1.0, seed=seed) for seed in range(count)]
        return time.perf_counter() - begun, sum(answer["timings"]["predicted_n"] for answer in answers)

    def logits(self, ids: Sequence[int], places: Sequence[int]) -> NDArray[np.float32]:
        """It gives none."""
        raise SystemExit("xllamacpp gives no logits")

    def forget(self) -> None:
        """Empty the slot: a prompt that shares nothing takes the place of what is kept."""
        other = {"prompt": [self._compiler.tokenizer.eos_id], "n_predict": 1, "cache_prompt": False}
        self._server.handle_completions(other)

    def _turn(self, index: int, number: int, turn: TurnRecord) -> Played:
        begun = time.perf_counter()
        answer = self._ask(turn, temperature=0.0, seed=0)
        seconds = time.perf_counter() - begun
        said = tuple(entry["id"] for entry in answer["choices"][0]["logprobs"]["content"])
        done = bool(said) and said[-1] == self._compiler.tokenizer.eos_id
        computed = int(answer["timings"]["prompt_n"])
        return Played(index, number, seconds, said, len(turn.prompt), computed, float("nan"), done)

    def _ask(self, turn: TurnRecord, temperature: float, seed: int) -> dict[str, Any]:
        request = {
            "prompt": list(turn.prompt), "grammar": f"%llguidance {{}}\n{self._compiler.lark(turn.calls)}",
            "n_predict": LIMIT, "temperature": temperature, "seed": seed, "samplers": ["temperature"],
            "logprobs": 1, "cache_prompt": True,
        }  # fmt: skip
        answer: dict[str, Any] = self._server.handle_completions(request)
        if "error" in answer:
            raise RuntimeError(f"llama.cpp: {answer['error']['message']}")
        return answer
