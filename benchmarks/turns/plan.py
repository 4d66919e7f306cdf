"""What a run does, in order, and what it keeps: every answer is written to the state file at once.

The state is one JSON object, ``{key: answer}``, so that an interrupted run goes on where it stopped
(``--resume``), and an engine that fails costs its own rows only.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .children import Child, Children, Failed
from .gate import gate
from .subject import Place

WIDTHS = {
    "ours": ("float32", "bfloat16", "float16", "int8"),
    "generate": ("float32", "bfloat16"),
    "llama": ("f32", "f16", "bf16", "q8_0"),
    "xllama": ("f16", "q8_0"),
}
GIVEN = "given"
"""The width of a GGUF file that the caller brings: whatever is in it."""
EIGHT = {"ours": "int8", "llama": "q8_0", "xllama": "q8_0"}
"""The 8-bit width of each engine: compared whether or not it is the best that passes the gate."""
UNJUDGED = frozenset({"xllama"})
"""Engines that give no logits."""
WAYS: dict[str, tuple[dict[str, Any], ...]] = {
    "ours": ({},),
    "generate": ({},),
    "llama": (
        {"grammar": "llguidance"},
        {"grammar": "llguidance", "drafts": True},
        {"grammar": "own"},
        {"grammar": "own", "drafts": True},
        {"grammar": "package"},
    ),
    "xllama": ({}, {"threads": 1}, {"drafts": True}),
}
"""Ways of running an engine that are tried on a few turns; the fastest is taken."""
ABLATIONS: dict[str, dict[str, Any]] = {
    "all on": {}, "no drafts": {"drafts": False}, "no forced tokens": {"forced": False},
    "no kept cache": {"kept": False}, "no shared prefix": {"shared": False}, "one thread": {"threads": 1},
}  # fmt: skip


class Run:
    """One run of the benchmark."""

    def __init__(
        self,
        base: Place,
        state: Path | None,
        resume: bool,
        quick: bool,
        widths: Mapping[str, Sequence[str]] = WIDTHS,
    ) -> None:
        self.base = base
        self.widths = widths
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
    wanted = {width for engine in ("llama", "xllama") if engine in engines for width in run.widths[engine]}
    missing = [w for w in sorted(wanted) if not (Path(run.base.scratch) / f"model-{w}.gguf").exists()]
    if missing:
        with Child(run.place("generate", "float32")) as child:
            child.ask("gguf", widths=missing)


def judge(run: Run, engines: Sequence[str], goals: int, trial: dict[str, Any], gated: bool = True) -> None:
    """Hold every engine's logits in every width against transformers in fp32; time it on a few turns.

    Where nothing is ``gated``, and for an engine without logits, the times alone are taken. Written are
    ``gate ENGINE WIDTH`` and, for each way of running it, ``trial LABEL``.
    """
    folder = Path(run.base.scratch)
    reference, path = folder / "reference.npy", folder / "logits.npy"
    for engine in engines:
        for width in run.widths[engine]:
            children = Children()

            def verdict(place: Place, children: Children = children) -> dict[str, Any]:
                if not reference.exists():
                    with Child(run.place("generate", "float32")) as child:
                        child.ask("logits", goals=goals, path=str(reference))
                children.of(place).ask("logits", goals=goals, path=str(path))
                with np.load(reference.with_suffix(".may.npz")) as packed:
                    may = [packed[name] for name in packed.files]
                return gate(np.load(reference, mmap_mode="r"), np.load(path), may).as_json()

            def timed(place: Place, way: dict[str, Any], children: Children = children) -> dict[str, Any]:
                child = children.of(place)
                child.ask("load")  # else what is done once in a process counts against the first way
                return {"seconds": min(child.ask("play", **trial, options=way)["wall"] for _ in range(2))}

            place = run.place(engine, width)
            found: dict[str, Any] | None = {"passed": True}
            if gated and engine not in UNJUDGED:
                found = run.step(f"gate {engine} {width}", partial(verdict, place))
            if found is not None and (found["passed"] or width in (EIGHT.get(engine), GIVEN)):
                for way in WAYS[engine]:
                    label = run.place(engine, width, **way).label
                    run.step(f"trial {label}", partial(timed, place, way))
            children.close()


def choose(run: Run, engines: Sequence[str]) -> dict[str, list[Place]]:
    """Return for each engine its fastest width and way that passed the gate, and the 8-bit one besides."""
    chosen: dict[str, list[Place]] = {}
    for engine in engines:
        timed: list[tuple[float, bool, Place]] = []
        for width in run.widths[engine]:
            for way in WAYS[engine]:
                place = run.place(engine, width, **way)
                seconds = run.kept.get(f"trial {place.label}", {}).get("seconds")
                if seconds is not None:
                    passed = run.kept.get(f"gate {engine} {width}", {}).get("passed", True)
                    timed.append((seconds, passed or width == GIVEN, place))
        timed.sort(key=lambda item: item[0])
        best = [place for _, passed, place in timed if passed][:1]
        eight = [place for _, _, place in timed if place.width == EIGHT.get(engine)][:1]
        chosen[engine] = best + [place for place in eight if place not in best]
    return chosen


def compare(
    run: Run, children: Children, places: Sequence[Place], count: int, share: int, turns: int
) -> None:
    """Play ``count`` goals with every engine, ``share`` at a time; the engines take turns in going first."""
    for number, start in enumerate(range(0, count, share)):
        goals = list(range(start, min(count, start + share)))
        for place in list(places) if number % 2 == 0 else list(reversed(places)):

            def work(place: Place = place, goals: list[int] = goals) -> dict[str, Any]:
                child = children.of(place)
                run.kept[f"about {place.label}"] = child.ask("load")
                return child.ask("play", goals=goals, turns=turns)

            run.step(f"single {place.label} {goals[0]}-{goals[-1]}", work)


def variants(
    run: Run, children: Children, ours: Sequence[Place], rivals: Sequence[Place], goals: int, turns: int
) -> None:
    """Several goals at once, a fork of eight, and every feature of ours switched off in turn."""

    def step(key: str, place: Place, do: str, **task: Any) -> None:
        run.step(f"{key} {place.label}", lambda: children.of(place).ask(do, **task))

    some = {"goals": list(range(goals)), "turns": turns}
    for together in (1, 4, 16):
        for place in ours:
            step(f"together {together}", place, "play", **some, together=together)
    for place in [*ours, *rivals]:
        step("fork 8", place, "fork", goal=1, turn=2, count=8)
    for place in ours:
        step("prefill 16", place, "prefill", goals=list(range(goals)))
    few = {"goals": list(range(max(2, goals // 2))), "turns": turns}
    for name, options in ABLATIONS.items():
        step(f"ablation {name}", ours[0], "play", **few, options=options)
    if ours[0].width != "float32":
        step("ablation plain weights", run.place("ours", "float32"), "play", **few)


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
