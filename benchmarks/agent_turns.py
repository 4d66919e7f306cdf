"""Time per agent turn: our engine, ``transformers.generate`` and llama.cpp (two packages), in one run.

All get the same weights (a registered model, its adapter merged), the same threads and the same recorded
transcripts (``benchmarks/data/agent_turns.json.zst``, 24 goals of 6 to 12 turns, made with ``--record``).
Each engine lives in a process of its own; they take turns on the same goals, in alternating order. First
every width of every engine passes the gate on its logits or is left out (:mod:`turns.gate`), then each
engine goes on at its fastest width, and the 8-bit ones besides. Outputs are free and greedy under the
same grammar; after each turn the recorded conversation goes on whatever was answered, and answers that
differ from the recording are counted.

    python benchmarks/agent_turns.py [--quick] [--json FILE [--resume]] [--engines ours,generate,llama,xllama]
                                     [--parts gate,compare,variants,figures] [--busy N]
    python benchmarks/agent_turns.py --model FOLDER --gguf FILE      (llama.cpp plays the file as it is)
    python benchmarks/agent_turns.py --record FILE

llama.cpp comes as ``llama`` from ``pip install -r requirements/bench.in`` (compiled for this machine) and as
``xllama`` from ``pip install autogpt[gguf]`` (a wheel for AVX2); without them their rows are missing, and the
ratio is printed as unmeasured. Transcripts of a model with another tokenizer are told again in this model's
tokens. About ten minutes on a quiet machine, two with ``--quick``.

Limits: other work on the machine disturbs the times; ratios of processor time ("cpu s", per turn) bear it
best, though waiting threads count in it. llama.cpp and ``generate`` play several goals one after
another. The roofline takes bandwidth and matrix rate as measured in the same run; caches between turns
can beat it for very small models.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from turns import plan, recording, report
from turns.children import Children
from turns.subject import Place

from autogpt import settings
from autogpt.llm.registry import ModelRegistry

DATA = Path(__file__).resolve().parent / "data" / "agent_turns.json.zst"
COLUMNS = (
    "engine", "p50 s", "p95 s", "cpu s", "tokens/s", "forwards/token", "prompt computed", "seen",
    "roofline", "peak MB", "invalid", "differ",
)  # fmt: skip


ENGINES = ("ours", "generate", "llama", "xllama")
PARTS = ("gate", "compare", "variants", "figures")


def measure(
    run: plan.Run, engines: Sequence[str], home: str, name: str, parts: Sequence[str], goals: int = 0
) -> dict[str, list[Place]]:
    """Do the steps of the benchmark's ``parts``; return the places that are compared."""
    quick = run.quick
    run.asked("machine", run.base, "figure", name="machine")
    plan.write_models(run, engines)
    trial = {"goals": [0, 13], "turns": 2 if quick else 4}
    plan.judge(run, engines, 2 if quick else 4, trial, "gate" in parts)
    chosen = plan.choose(run, engines)
    places = [place for engine in engines for place in chosen[engine]]
    records = recording.load(Path(run.base.transcripts))
    count, turns = (4, 6) if quick else (len(records.goals), recording.MOST)
    count = min(goals or count, len(records.goals))
    ours = chosen.get("ours", [])
    rivals = [place for engine in engines if engine != "ours" for place in chosen[engine][:1]]
    with Children() as children:
        if "compare" in parts:
            plan.compare(run, children, places, count, share=1 if quick else 6, turns=turns)
        if ours and "variants" in parts:
            plan.variants(run, children, ours, rivals, goals=4 if quick else 16, turns=4 if quick else 6)
    if ours and "figures" in parts:
        plan.single_figures(run, ours[0], home, name, limit=5 if quick else 30)
    return chosen


def digest(run: plan.Run, chosen: dict[str, list[Place]]) -> dict[str, Any]:
    """Return everything that is worth reporting."""
    from turns.ours import parameters

    from autogpt.llm.text.tokenizer import ChatTokenizer

    kept, records = run.kept, recording.load(Path(run.base.transcripts))
    folder = Path(run.base.folder)
    tokenizer = ChatTokenizer(folder)
    active = parameters(_Config(json.loads((folder / "config.json").read_text(encoding="utf-8"))))
    decode = tokenizer.decode
    rows = {
        place.label: row
        for places in chosen.values()
        for place in places
        if (row := report.engine_row(kept, place, records, decode, active)) is not None
    }
    together = {
        place.label: {str(n): report.throughput(kept, place.label, n) for n in (1, 4, 16)}
        for place in chosen.get("ours", [])
    }
    prefill = {place.label: report.prefill_share(kept, place) for place in chosen.get("ours", [])}
    ablation = {
        key: report.summary(value["played"])
        for key, value in kept.items()
        if key.startswith("ablation") and "played" in value
    }
    own = [turn for place in chosen.get("ours", [])[:1]
           for turn in report.collect(kept, f"single {place.label} ")]  # fmt: skip
    plain = ("gate", "trial", "fork", "loading", "host", "table", "shell", "machine")
    return {
        "model": records.model, "goals": len(records.goals), "turns": records.turns,
        "engines": rows, "together": together, "prefill_share": prefill, "ablation": ablation,
        "run_ratio": report.run_ratio(report.as_recorded(own, records)),
        **{name: {k: v for k, v in kept.items() if k.startswith(name)} for name in plain},
        "failed": {key: value["failed"] for key, value in kept.items() if "failed" in value},
    }  # fmt: skip


class _Config:
    """A config.json with attributes."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.__dict__.update(data)


def show(found: dict[str, Any], chosen: dict[str, list[Place]]) -> None:
    """Print the report."""
    machine = found["machine"]["machine"]
    rates = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in machine["matrix_rate"].items())
    print(f"{machine['chip']}, {machine['threads']} threads, torch {machine['torch']}; reads "
          f"{machine['bandwidth'] / 1e9:.1f} GB/s, multiplies {rates}")  # fmt: skip
    print(f"model {found['model']}, {found['goals']} goals, {found['turns']} turns\n")
    gates = [
        [key.removeprefix("gate "), f"{v['error']:.4f}", f"{v['agreement']:.2%}", str(v["clear"]),
         "passes" if v["passed"] else "fails"]
        for key, v in found["gate"].items() if "failed" not in v
    ]  # fmt: skip
    print(report.table(("logits against fp32", "error/std", "agreement", "clear places", "gate"), gates))
    print()
    rows = [
        [label, f"{r['p50']:.3f}", f"{r['p95']:.3f}", f"{r['cpu']:.3f}", f"{r['tokens_per_second']:.0f}",
         f"{r['forwards_per_token']:.2f}", str(r["prompt_computed"]), str(r["prompt_seen"]),
         f"{r['roofline']:.0%}", f"{r['peak'] / 1e6:.0f}", str(r["invalid"]), f"{r['other']} of {r['turns']}"]
        for label, r in found["engines"].items()
    ]  # fmt: skip
    print(report.table(COLUMNS, rows))
    print()
    _ratios(found, chosen)
    _rest(found)
    for key, reason in found["failed"].items():
        print(f"failed: {key}: {reason}")


def _ratios(found: dict[str, Any], chosen: dict[str, list[Place]]) -> None:
    """Print how many times longer the rivals take."""
    rows = found["engines"]

    def ratio(rival: str, mine: str, what: str) -> None:
        if rival in rows and mine in rows:
            p50, total, cpu = (rows[rival][key] / rows[mine][key] for key in ("p50", "total", "cpu"))
            print(f"{what}: {rival} / {mine}: {p50:.2f} at the median, {total:.2f} over all turns, "
                  f"{cpu:.2f} in processor time")  # fmt: skip
        else:
            print(f"{what}: unmeasured")

    ours = [place.label for place in chosen.get("ours", [])]
    for engine, wanted in (("generate", 4.0), ("llama", 1.5), ("xllama", 1.5)):
        theirs = [place.label for place in chosen.get(engine, [])]
        ratio(theirs[0] if theirs else "", ours[0] if ours else "", f"{engine}, best widths, wanted {wanted}")
    eight = {
        engine: next((place.label for place in chosen.get(engine, []) if place.width == width), "?")
        for engine, width in plan.EIGHT.items()
    }
    ratio(eight["llama"], eight["ours"], "llama, 8 bit")
    print()


def _rest(found: dict[str, Any]) -> None:
    """Print variants, ablations and single figures."""
    for label, rates in found["together"].items():
        known = {n: rate for n, rate in rates.items() if rate}
        gains = ", ".join(f"{n} goals {rate:.2f} turns/s ({rate / known['1']:.2f}x)"
                          for n, rate in known.items() if "1" in known)  # fmt: skip
        share = found["prefill_share"][label]
        print(
            f"at once, {label}: {gains}"
            + (f"; 16 prompts at {share:.0%} of the matrix rate" if share else "")
        )
    for label, row in found["engines"].items():
        if not label.startswith("ours"):
            print(f"one after another, {label}: {row['turns'] / row['total']:.2f} turns/s")
    for key, fork in found["fork"].items():
        if "seconds" in fork:
            print(f"{key}: {fork['seconds']:.2f} s, {fork['tokens'] / fork['seconds']:.0f} tokens/s")
    whole = next((row for key, row in found["ablation"].items() if "all on" in key), None)
    if whole:
        rows = [
            [key.removeprefix("ablation "), f"{row['p50']:.3f}", f"{row['total'] / whole['total']:.2f}",
             f"{row['forwards_per_token']:.2f}", str(row["prompt_computed"])]
            for key, row in found["ablation"].items()
        ]  # fmt: skip
        print("\n" + report.table(("ablation", "p50 s", "time", "forwards/token", "prompt computed"), rows))
    print()
    if found["run_ratio"]:
        print(f"prompt tokens computed / there, median over goals: {found['run_ratio']:.3f} (wanted 1.02)")
    for key, value in {**found["loading"], **found["host"], **found["table"], **found["shell"]}.items():
        print(f"{key}: " + ", ".join(f"{name} {number:.3f}" for name, number in value.items()
                                     if isinstance(number, int | float)))  # fmt: skip


def record(base: Place, path: Path, name: str) -> int:
    """Record the transcripts anew."""
    from autogpt.llm.models.local import LocalModel

    model = LocalModel.load(base.folder, adapter=base.adapter, device="cpu", dtype="float32", name=name)
    found = recording.record(model, say=lambda text: print(text, file=sys.stderr))
    size = recording.save(found, path)
    print(f"wrote {path}: {len(found.goals)} goals, {found.turns} turns, {size / 1e3:.0f} kB")
    return 0


def in_tokens_of(base: Place, registry: ModelRegistry) -> Path:
    """Return transcripts in the tokens of ``base``: those that it names, or a copy that is told again."""
    from autogpt.llm.text.grammar import GrammarCompiler
    from autogpt.llm.text.tokenizer import ChatTokenizer

    path, tokenizer = Path(base.transcripts), ChatTokenizer(Path(base.folder))
    records = recording.load(path)
    if records.tokenizer == tokenizer.fingerprint:
        return path
    told = ChatTokenizer(Path(registry.resolve(records.model).source))
    again = Path(base.scratch) / "transcripts.json.zst"
    recording.save(recording.retold(records, told, GrammarCompiler(tokenizer)), again)
    return again


@contextmanager
def busy(cores: int) -> Iterator[None]:
    """Keep ``cores`` cores busy with processes that do nothing else."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--model", default="small", help="registered name (default: small)")
    parser.add_argument("--engines", default=",".join(ENGINES), help="which, by commas (default: all)")
    parser.add_argument("--gguf", type=Path, metavar="FILE", help="what llama.cpp plays, of the same model")
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="keep N cores busy meanwhile")
    parser.add_argument("--widths", default="", metavar="ENGINE:WIDTH,...",
                        help="consider only these, as ours:bfloat16,llama:f16 (default: all)")  # fmt: skip
    parser.add_argument("--threads", type=int, default=2, help="threads of every engine (default: 2)")
    parser.add_argument("--transcripts", type=Path, default=DATA)
    parser.add_argument("--record", type=Path, metavar="FILE", help="record transcripts and stop")
    parser.add_argument("--quick", action="store_true", help="four goals, fewer turns")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures here; steps, models beside it"
    )
    parser.add_argument(
        "--goals", type=int, default=0, metavar="N", help="compare on the first N (default: all)"
    )
    parser.add_argument("--parts", default=",".join(PARTS),
                        help="what to do after the gate, by commas: compare, variants, figures")  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="keep the steps done before (needs --json)")
    return parser


def main() -> int:
    """Measure and print."""
    parser = arguments()
    chosen = parser.parse_args()
    engines = [name for name in ENGINES if name in chosen.engines.split(",")]
    if not engines:
        parser.error(f"--engines names none of {', '.join(ENGINES)}")
    named = [item.partition(":")[::2] for item in chosen.widths.split(",") if item]
    widths = {engine: [w for w in every if not named or (engine, w) in named]
              for engine, every in plan.WIDTHS.items()}  # fmt: skip
    if chosen.gguf:
        widths |= {"llama": [plan.GIVEN], "xllama": [plan.GIVEN]}
    if any(not widths[engine] for engine in engines):
        parser.error(f"--widths leaves an engine none; there are {dict(plan.WIDTHS)}")
    if chosen.resume and not chosen.json:
        parser.error("--resume needs --json")
    home = settings.load().home
    source = ModelRegistry(home).resolve(chosen.model)
    adapter = None if source.adapter is None else str(source.adapter)
    with ExitStack() as stack:
        if chosen.json:  # beside the steps, so that a resumed run finds its models and reference again
            scratch = str(chosen.json.resolve().with_suffix(".scratch"))
            Path(scratch).mkdir(parents=True, exist_ok=True)
        else:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="autogpt-turns-"))
        base = Place("ours", str(source.source), adapter, "float32", chosen.threads, {},
                     str(chosen.transcripts.resolve()), scratch)  # fmt: skip
        if chosen.record:
            return record(base, chosen.record, chosen.model)
        if chosen.gguf:
            link = Path(scratch) / f"model-{plan.GIVEN}.gguf"
            link.unlink(missing_ok=True)
            link.symlink_to(chosen.gguf.resolve())
        base = replace(base, transcripts=str(in_tokens_of(base, ModelRegistry(home))))
        stack.enter_context(busy(chosen.busy))
        state = chosen.json.with_suffix(".steps.json") if chosen.json else None
        run = plan.Run(base, state, chosen.resume, chosen.quick, widths)
        places = measure(run, engines, str(home), chosen.model, chosen.parts.split(","), chosen.goals)
        found = digest(run, places)
    show(found, places)
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
