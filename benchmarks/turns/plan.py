"""What a run does, in order, and what it keeps: every answer is written to the state file at once.

The state is one JSON object, ``{key: answer}``, so that an interrupted run goes on where it stopped
(``--resume``), and an engine that fails costs its own rows only.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .children import Child, Failed
from .gate import gate
from .subject import Place

WIDTHS = {
    "ours": ("float32", "bfloat16", "int8"),
    "generate": ("float32", "bfloat16"),
    "llama": ("f32", "f16", "bf16", "q8_0"),
}
EIGHT = {"ours": "int8", "llama": "q8_0"}
"""The 8-bit width of each engine: compared whether or not it is the best that passes the gate."""
LLAMA_TRIALS: tuple[dict[str, Any], ...] = (
    {"grammar": "llguidance"},
    {"grammar": "llguidance", "drafts": True},
    {"grammar": "llguidance", "flash": True},
    {"grammar": "own"},
    {"grammar": "own", "drafts": True},
    {"grammar": "package"},
)
"""Ways of running llama.cpp that are tried on a few turns; the fastest is taken, of ``own`` and all."""


class Run:
    """One run of the benchmark."""

    def __init__(self, base: Place, state: Path | None, resume: bool, quick: bool) -> None:
        self.base = base
        self.quick = quick
        self._path = state
        self.kept: dict[str, Any] = {}
        if resume and state is not None and state.exists():
            self.kept = json.loads(state.read_text(encoding="utf-8"))
        self._begun = time.perf_counter()

    def step(self, key: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Return the kept answer of a step, or do it now; None (and a line) when it fails."""
        if key not in self.kept or "failed" in self.kept[key]:
            self.say(key)
            try:
                self.kept[key] = work()
            except Failed as error:
                self.kept[key] = {"failed": str(error)}
                self.say(f"  {error}")
            if self._path is not None:
                self._path.write_text(json.dumps(self.kept) + "\n", encoding="utf-8")
        found: dict[str, Any] = self.kept[key]
        return None if "failed" in found else found

    def say(self, text: str) -> None:
        """Say on standard error what is under way."""
        print(f"{time.perf_counter() - self._begun:6.0f} s  {text}", file=sys.stderr)

    def place(self, engine: str, width: str, **options: Any) -> Place:
        """Return where and how to run an engine."""
        return replace(self.base, engine=engine, width=width, options=options)

    def asked(self, key: str, place: Place, do: str, **task: Any) -> dict[str, Any] | None:
        """Have one task done by a process of its own."""

        def work() -> dict[str, Any]:
            with Child(place) as child:
                return child.ask(do, **task)

        return self.step(key, work)


def write_models(run: Run, engines: Sequence[str]) -> None:
    """Write the GGUF files, unless llama.cpp is left out."""
    if "llama" in engines:
        missing = [w for w in WIDTHS["llama"] if not (Path(run.base.scratch) / f"model-{w}.gguf").exists()]
        if missing:
            with Child(run.place("generate", "float32")) as child:
                child.ask("gguf", widths=missing)


def judge(run: Run, engines: Sequence[str], goals: int) -> None:
    """Measure the logits of every engine and width against transformers in fp32."""
    folder = Path(run.base.scratch)
    reference = folder / "reference.npy"
    wanted = [(engine, width) for engine in engines for width in WIDTHS[engine]]
    missing = [pair for pair in wanted if "failed" in run.kept.get(f"gate {' '.join(pair)}", {"failed": ""})]
    if missing:
        with Child(run.place("generate", "float32")) as child:
            run.say("reference logits")
            child.ask("logits", goals=goals, path=str(reference))
    for engine, width in wanted:

        def work(engine: str = engine, width: str = width) -> dict[str, Any]:
            path = folder / "logits.npy"
            with Child(run.place(engine, width)) as child:
                child.ask("logits", goals=goals, path=str(path))
            with np.load(reference.with_suffix(".may.npz")) as packed:
                may = [packed[name] for name in packed.files]
            return gate(np.load(reference, mmap_mode="r"), np.load(path), may).as_json()

        run.step(f"gate {engine} {width}", work)
    for path in folder.glob("*.np[yz]"):
        path.unlink()


def screen(run: Run, engines: Sequence[str], goals: Sequence[int], turns: int) -> dict[str, list[Place]]:
    """Time the widths that pass the gate on a few turns; return for each engine what goes on.

    That is the fastest, and the 8-bit one besides. For llama.cpp the ways of running it are tried at
    these widths, and the fastest way is taken.
    """
    chosen: dict[str, list[Place]] = {}
    for engine in engines:
        verdicts = {width: run.kept.get(f"gate {engine} {width}", {"failed": ""}) for width in WIDTHS[engine]}
        alive = [width for width, verdict in verdicts.items() if "failed" not in verdict]
        timed = {width: _trial(run, _default(run, engine, width), goals, turns) for width in alive}
        passed = [width for width in alive if verdicts[width]["passed"]]
        best = sorted(passed, key=lambda width: timed[width])[:1]
        eight = [width for width in alive if width == EIGHT.get(engine) and width not in best]
        places = []
        for width in [*best, *eight]:
            ways = LLAMA_TRIALS if engine == "llama" else ({},)
            options = [run.place(engine, width, **way) for way in ways]
            places.append(min(options, key=lambda place: _trial(run, place, goals, turns)))
        chosen[engine] = places
    return chosen


def _default(run: Run, engine: str, width: str) -> Place:
    return run.place(engine, width, **(LLAMA_TRIALS[0] if engine == "llama" else {}))


def _trial(run: Run, place: Place, goals: Sequence[int], turns: int) -> float:
    """Return the seconds of a short replay, infinite when it failed."""

    def work() -> dict[str, Any]:
        with Child(place) as child:
            child.ask("load")
            found = child.ask("play", goals=list(goals), turns=turns, together=1)
        return {"seconds": sum(turn["seconds"] for turn in found["played"])}

    found = run.step(f"trial {place.label}", work)
    return float("inf") if found is None else float(found["seconds"])


def compare(run: Run, places: Sequence[Place], count: int, share: int, turns: int) -> None:
    """Play ``count`` goals with every engine, ``share`` at a time; the engines take turns in going first."""
    children: dict[str, Child] = {}
    try:
        for number, start in enumerate(range(0, count, share)):
            goals = list(range(start, min(count, start + share)))
            order = list(places) if number % 2 == 0 else list(reversed(places))
            for place in order:

                def work(place: Place = place, goals: list[int] = goals) -> dict[str, Any]:
                    if place.label not in children:
                        children[place.label] = Child(place)
                        run.kept[f"about {place.label}"] = children[place.label].ask("load")
                    return children[place.label].ask("play", goals=goals, turns=turns, together=1)

                run.step(f"single {place.label} {goals[0]}-{goals[-1]}", work)
    finally:
        for child in children.values():
            child.close()


def variants(run: Run, ours: Sequence[Place], rivals: Sequence[Place], goals: int, turns: int) -> None:
    """Several goals at once, a fork of eight, and every feature of ours switched off in turn."""
    for place in ours:
        for together in (1, 4, 16):
            task = {"goals": list(range(min(goals, 16))), "turns": turns, "together": together}
            run.asked(f"together {together} {place.label}", place, "play", **task)
    for place in [*ours, *rivals]:
        run.asked(f"fork 8 {place.label}", place, "fork", goal=1, turn=2, count=8)
    task = {"goals": list(range(4 if run.quick else 8)), "turns": turns, "together": 1}
    for place in ours[:1]:
        run.asked(f"ablation all on {place.label}", place, "play", **task)
        for feature in ("drafts", "forced", "kept", "shared"):
            without = run.place("ours", place.width, **{feature: False})
            run.asked(f"ablation no {feature} {place.label}", without, "play", **task)
        run.asked(f"ablation one thread {place.label}", replace(place, threads=1), "play", **task)
        if place.width != "float32":
            run.asked(f"ablation float32 {place.label}", run.place("ours", "float32"), "play", **task)


def single_figures(run: Run, ours: Place, home: str, name: str, limit: int) -> None:
    """Measure loading, host time, and whole table goals warm and from the shell."""
    named = replace(ours, options={"name": name})
    for number in range(3):
        run.asked(f"loading {number}", ours, "figure", name="loading")
    if (nano := Path(__file__).resolve().parent.parent.parent / "llm" / "nano").is_dir():
        small = replace(ours, folder=str(nano), adapter=None, width="float32")
        for number in range(3):
            run.asked(f"loading nano {number}", small, "figure", name="loading")
        run.asked("host nano", small, "figure", name="host")
    run.asked("host", ours, "figure", name="host")
    run.asked("table goals", ours, "figure", name="table_goals", limit=limit)
    run.asked("shell goals", named, "figure", name="shell_goals", home=home, count=2 if run.quick else 5)
