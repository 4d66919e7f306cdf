"""One engine in its own process: reads tasks as JSON lines, answers as JSON lines.

Every engine gets a process of its own, so that threads, allocators and peak memory do not mix, and so
that engines can take turns within one run. Standard output belongs to the answers; what libraries print
goes to standard error.

    python -m turns.worker '{"engine": "ours", ...}'      (started by agent_turns.py)
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np

from . import figures, recording
from .gate import decisions, sample_goals
from .gguf_file import write_gguf
from .subject import Place, Subject


def open_subject(place: Place) -> Subject:
    """Load the engine that ``place`` names."""
    if place.engine == "ours":
        from .ours import Ours

        return Ours(place)
    if place.engine == "generate":
        from .generate import Generate

        return Generate(place)
    if place.engine == "xllama":
        from .xllama import XLlama

        return XLlama(place)
    from .llama import Llama

    return Llama(place)


def peak() -> int:
    """Return the most memory this process has had, in bytes (VmHWM; 0 where there is no /proc)."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


class Worker:
    """Carries out tasks for one place."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._subject: Subject | None = None
        self._transcripts = recording.load(Path(place.transcripts))

    def handle(self, task: dict[str, Any]) -> dict[str, Any]:
        """Carry out one task; see the methods of the same names."""
        method = getattr(self, f"do_{task.pop('do')}")
        return cast(dict[str, Any], method(**task))

    @property
    def subject(self) -> Subject:
        """The engine, loaded when first needed."""
        if self._subject is None:
            self._subject = open_subject(self._place)
        return self._subject

    def do_load(self) -> dict[str, Any]:
        """Load and warm up on one short turn."""
        first = min(self._transcripts.goals, key=lambda goal: len(goal.turns[0].prompt))
        self.subject.play([(-1, first)], 1, 1)
        self.subject.forget()
        return {"weight_bytes": self.subject.weight_bytes}

    def do_play(
        self, goals: list[int], turns: int, together: int = 1, options: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Play recorded goals from a cold cache, with other options if they are given."""
        self.subject.configure(self._place.options if options is None else options)
        chosen = [(index, self._transcripts.goals[index]) for index in goals]
        begun, processed = time.perf_counter(), time.process_time()
        played = self.subject.play(chosen, turns, together)
        cpu, wall = time.process_time() - processed, time.perf_counter() - begun
        return {"played": [asdict(turn) for turn in played], "cpu": cpu, "wall": wall, "peak": peak()}

    def do_prefill(self, goals: list[int]) -> dict[str, Any]:
        """Compute the first prompts of goals at once from a cold cache, the best of three; ours only."""
        from .ours import Ours

        subject = self.subject
        assert isinstance(subject, Ours)
        prompts = [self._transcripts.goals[index].turns[0].prompt for index in goals]
        found = []
        for _ in range(3):
            subject.configure(self._place.options)
            found.append(subject.prefill(prompts))
        seconds, products = min(found)
        return {"seconds": seconds, "products": products}

    def do_fork(self, goal: int, turn: int, count: int) -> dict[str, Any]:
        """Sample several answers to one turn from a cold cache."""
        self.subject.configure(self._place.options)
        seconds, tokens = self.subject.fork(self._transcripts.goals[goal].turns[turn], count)
        return {"seconds": seconds, "tokens": tokens}

    def do_logits(self, goals: int, path: str) -> dict[str, Any]:
        """Write the logits at the places where the recorded model had a choice."""
        from autogpt.llm.text.grammar import GrammarCompiler
        from autogpt.llm.text.tokenizer import ChatTokenizer

        subject = self.subject
        compiler = GrammarCompiler(ChatTokenizer(Path(self._place.folder)))
        rows, may = [], []
        for goal in sample_goals(self._transcripts.goals, goals):
            last = goal.turns[-1]
            ids = last.prompt + last.said
            places: list[int] = []
            for turn in goal.turns:
                if ids[: len(turn.prompt)] == turn.prompt:
                    for place, allowed in decisions(turn, compiler):
                        places.append(place)
                        may.append(allowed)
            rows.append(subject.logits(ids, places))
        np.savez(Path(path).with_suffix(".may.npz"), *may)
        np.save(f"{path}.part.npy", np.concatenate(rows))
        os.replace(f"{path}.part.npy", path)  # a run that is cut off leaves no half of it
        return {"places": len(may)}

    def do_gguf(self, widths: list[str]) -> dict[str, Any]:
        """Write the model as GGUF in these widths."""
        from autogpt.llm.nn.load import load_model

        place = self._place
        loaded = load_model(place.folder, device="cpu", dtype="float32", adapter=place.adapter)
        for width in widths:
            target = Path(place.scratch) / f"model-{width}.gguf"
            part = target.with_suffix(".part")
            write_gguf(loaded.model, loaded.config, Path(place.folder), part, width)
            part.replace(target)
        return {}

    def do_figure(self, name: str, **about: Any) -> dict[str, Any]:
        """Measure one of :mod:`.figures`."""
        return cast(dict[str, Any], getattr(figures, name)(self._place, **about))


def main() -> int:
    """Serve tasks until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker(Place(**json.loads(sys.argv[1])))
    for line in sys.stdin:
        try:
            answer = worker.handle(json.loads(line))
        except (Exception, SystemExit) as error:  # the parent says what failed and goes on
            reason = (str(error).strip().splitlines() or [""])[0]
            answer = {"error": f"{type(error).__name__}: {reason}"}
            if not isinstance(error, SystemExit):
                sys.excepthook(type(error), error, error.__traceback__)
        answers.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
