"""Time per turn with and without the kept KV cache, on one recorded run of twelve turns.

First a run is recorded: the model itself says eleven tool calls and an answer, each chosen under the
grammar (which tool comes when is fixed, and arguments are kept distinct, so that every model gives
twelve turns). Then the same twelve prompts are answered again, greedily, in two ways: with the session
kept, so that a turn computes only what is new; and with everything forgotten before each turn. The
two ways take turns in going first. Times are of the whole call: rendering, prompt, decoding, parsing.

    python benchmarks/turn_cache.py [--model small] [--rounds 3] [--json FILE]

Limits: one run on one chip, one goal at a time; other work on the machine disturbs it. The recorded
turns are as short as an agent's usually are; with longer answers the ratio is smaller.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from autogpt import settings
from autogpt.agent.goals.load import Goal
from autogpt.agent.run.rollout import Rollout
from autogpt.llm.message import CallSpec, Prompt, Turn
from autogpt.llm.models.local import LocalModel
from autogpt.llm.nn.device import chip
from autogpt.llm.registry import ModelRegistry
from autogpt.tools.registry import builtins

SCRIPT = ["tables.query", "calculator"] * 5 + ["files.list", "finish"]
NAMES = ("ada", "ben", "cleo", "dan", "eva", "finn")
ROWS = "".join(f"{name},{n * 37 % 90 + 5},{n % 4}\n" for n, name in enumerate(NAMES))
GOAL = {
    "goal": "Look at the first rows of the sales, compute with them, and say how many rows there are.",
    "files": {"sales.csv": f"name,units,region\n{ROWS}", "note.txt": "as of March"},
    "limits": {"steps": 30, "tokens": 1_000_000, "seconds": 100_000},
}


class Guided:
    """A local model that says the script's calls, each with arguments that no other turn has."""

    def __init__(self, model: LocalModel) -> None:
        self.model = model
        self.name, self.fingerprint, self.tokenizer_hash = model.name, model.fingerprint, model.tokenizer_hash
        self.prompting = model.prompting
        self.prompts: list[Prompt] = []
        self.turns: list[Turn] = []

    def respond(
        self, prompts: Sequence[Prompt], on_text: Callable[[int, str], None] | None = None
    ) -> list[Turn]:
        """Answer with the script's next call and keep the prompt."""
        (prompt,) = prompts
        number = len(self.turns)
        spec = next(call for call in prompt.calls if call.name == SCRIPT[number])
        narrow = CallSpec(spec.name, _distinct(spec, number), spec.description)
        asked = Prompt("record", prompt.messages, (narrow,), prompt.sampling)
        turns = self.model.respond([asked], on_text)
        self.prompts.append(asked)
        self.turns.extend(turns)
        return turns

    def close_session(self, session: str) -> None:
        """Forget the recording's session."""
        self.model.close_session("record")


def _distinct(spec: CallSpec, number: int) -> dict[str, Any]:
    """Return the call's schema with one argument bound to the turn."""
    schema = dict(spec.parameters)
    if spec.name == "calculator":
        pattern = f"^{number + 11} [-+*] [0-9]{{2}} [-+*] [0-9]{{2}}$"
        own = {"expression": {"type": "string", "pattern": pattern}}
        return {**schema, "properties": own}
    if spec.name == "tables.query":
        shown = schema["properties"]
        select = {**shown["select"], "minItems": 1, "maxItems": 2}
        own = {"table": shown["table"], "select": select, "limit": {"const": number + 1}}
        return {"type": "object", "properties": own, "required": list(own), "additionalProperties": False}
    if spec.name == "finish":
        return {**schema, "properties": {"answer": {"type": "string", "pattern": "^There are [0-9] rows$"}}}
    return schema


def record(model: LocalModel) -> Guided:
    """Run the goal once; the prompts and turns are what is timed."""
    opened = Guided(model)
    (episode,) = Rollout(opened, builtins(), parallel=1, plan=False).run([Goal.model_validate(GOAL)])
    if len(opened.turns) != len(SCRIPT) or any(turn.call is None for turn in opened.turns):
        raise SystemExit(f"the recording has {len(opened.turns)} turns: {episode.result}")
    return opened


def replay(model: LocalModel, prompts: Sequence[Prompt], kept: bool) -> tuple[list[float], list[Turn]]:
    """Answer all prompts in order; return seconds and turns."""
    seconds, turns = [], []
    model.engine.clear()
    for prompt in prompts:
        if not kept:
            model.engine.clear()
        if sys.stderr.isatty():
            print(f"turn {len(turns) + 1}, {'kept' if kept else 'forgotten'}  ", end="\r", file=sys.stderr)
        begun = time.perf_counter()
        turns += model.respond([prompt])
        seconds.append(time.perf_counter() - begun)
    return seconds, turns


def measure(model: LocalModel, rounds: int) -> dict[str, Any]:
    """Return times, counts and ratios of ``rounds`` replays each way."""
    opened = record(model)
    times: dict[bool, list[list[float]]] = {True: [], False: []}
    turns: dict[bool, list[Turn]] = {}
    other = 0
    for number in range(rounds):
        for kept in (True, False) if number % 2 == 0 else (False, True):
            seconds, turns[kept] = replay(model, opened.prompts, kept)
            times[kept].append(seconds)
            other += sum(a.ids != b.ids for a, b in zip(turns[kept], opened.turns, strict=True))
    middle = {
        kept: [statistics.median(column) for column in zip(*rows, strict=True)]
        for kept, rows in times.items()
    }
    computed = {
        kept: [turn.prompt_tokens - turn.cached_tokens for turn in said] for kept, said in turns.items()
    }
    later = [cold / warm for warm, cold in zip(middle[True][1:], middle[False][1:], strict=True)]
    return {
        "chip": torch.cuda.get_device_name() if model.loaded.device.startswith("cuda") else chip(),
        "device": model.loaded.device, "dtype": str(model.loaded.dtype), "threads": torch.get_num_threads(),
        "torch": torch.__version__, "model": model.name, "rounds": rounds,
        "seen": [turn.prompt_tokens for turn in turns[True]],
        "generated": [len(turn.ids) for turn in turns[True]],
        "computed_kept": computed[True], "computed_cold": computed[False],
        "seconds_kept": middle[True], "seconds_cold": middle[False],
        "total_kept": sum(middle[True]), "total_cold": sum(middle[False]),
        "ratio_median": statistics.median(later), "ratio_last": later[-1],
        "turns_that_differ": other,
    }  # fmt: skip


def show(found: dict[str, Any]) -> None:
    """Print the measurement as a table."""
    print(
        f"{found['chip']}, {found['device']} {found['dtype']}, {found['threads']} threads, "
        f"torch {found['torch']}, model {found['model']}, median of {found['rounds']} rounds"
    )
    print("turn    seen  computed: kept  forgotten  generated  seconds: kept  forgotten   ratio")
    columns = ("seen", "computed_kept", "computed_cold", "generated", "seconds_kept", "seconds_cold")
    for number, row in enumerate(zip(*(found[name] for name in columns), strict=True), 1):
        seen, kept, cold, generated, warm, slow = row
        print(
            f"{number:4} {seen:7} {kept:15} {cold:10} {generated:10} {warm:14.3f} {slow:10.3f} "
            f"{slow / warm:7.2f}"
        )
    kept, cold, seen = (sum(found[name]) for name in ("computed_kept", "computed_cold", "seen"))
    print(f"prompt tokens computed: {kept} kept, {cold} forgotten, of {seen} seen")
    print(
        f"all turns: {found['total_kept']:.2f} s kept, {found['total_cold']:.2f} s forgotten; "
        f"ratio of turns 2 to 12: median {found['ratio_median']:.2f}, last {found['ratio_last']:.2f}"
    )
    if found["turns_that_differ"]:
        print(f"note: {found['turns_that_differ']} replayed turns differ from the recording (rounding)")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="small", help="registered name or model folder (default: small)")
    parser.add_argument("--rounds", type=int, default=3, help="replays each way (default: 3)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurement here too")
    chosen = parser.parse_args()
    config = settings.load()
    source = ModelRegistry(config.home).resolve(chosen.model)
    model = LocalModel.load(source.source, adapter=source.adapter, device=chosen.device, dtype=chosen.dtype,
                            cache_dir=config.cache, name=chosen.model)  # fmt: skip
    found = measure(model, max(1, chosen.rounds))
    show(found)
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
