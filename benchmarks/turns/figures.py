"""Single figures of the benchmark: the machine's limits, times to load, host time, whole goals.

Each function runs in a fresh worker process and returns plain numbers.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from .subject import Place

_TOKENS = 64
"""One-token forwards over which host time is taken."""


def machine(place: Place) -> dict[str, Any]:
    """Return what the machine gives with the engines' threads: bytes and operations a second.

    Bandwidth is that of summing 512 MB, matrix rates those of the shapes that a prompt of 256 tokens
    has in this model: the best of several tries, since other work only ever takes away.
    """
    import torch

    from autogpt.llm.nn.device import chip
    from autogpt.llm.nn.low_precision import has_bf16

    torch.set_num_threads(place.threads)
    large = torch.ones(128 * 1024 * 1024)
    read = _best(large.sum, 5)
    rates = {}
    for name in ("float32", "bfloat16"):
        dtype = getattr(torch, name)
        a, b = torch.ones(512, 1536, dtype=dtype), torch.ones(1536, 1536, dtype=dtype)
        ways: list[Callable[[], Any]] = [lambda a=a, b=b: torch.nn.functional.linear(a, b)]
        if name == "bfloat16" and has_bf16():  # as our engine multiplies: with weights laid out for it
            packed = torch.ops.mkldnn._reorder_linear_weight(b)
            ways.append(lambda a=a, p=packed: torch.ops.mkldnn._linear_pointwise(a, p, None, "none", [], ""))
        rates[name] = 2.0 * 512 * 1536 * 1536 / min(_best(way, 12) for way in ways)
    return {
        "chip": chip(),
        "threads": place.threads,
        "torch": torch.__version__,
        "bandwidth": large.numel() * 4 / read,
        "matrix_rate": rates,
    }


def _best(work: Callable[[], Any], times: int) -> float:
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return min(found)


def loading(place: Place) -> dict[str, Any]:
    """Return the seconds of loading the model after torch was imported, in this fresh process."""
    import torch

    from autogpt.llm.models.local import LocalModel

    torch.ones(1)
    begun = time.perf_counter()
    LocalModel.load(place.folder, adapter=place.adapter, device="cpu", dtype=place.width)
    return {"seconds": time.perf_counter() - begun}


def host(place: Place) -> dict[str, Any]:
    """Return what the engine adds to a forward at batch 1: microseconds beside the tensor work.

    The same one-token steps are timed through the engine (free text, no drafts) and as bare calls of
    the forward, its head and the choice; the difference of the medians is the host's part. Sessions are
    forgotten at once: two that live share their prompt and read it in a pass of its own.
    """
    import torch

    from autogpt.llm.engine.engine import Engine, Request
    from autogpt.llm.message import Sampling
    from autogpt.llm.nn.load import load_model
    from autogpt.llm.nn.precision import PROBE_TEXT, settle_precision
    from autogpt.llm.text.tokenizer import ChatTokenizer

    tokenizer = ChatTokenizer(Path(place.folder))
    loaded = load_model(place.folder, "cpu", place.width, place.adapter, light=True)
    loaded, forward = settle_precision(loaded, tokenizer.plain(PROBE_TEXT), None)
    torch.set_num_threads(place.threads)
    engine = Engine(loaded, speculate=False, forward=forward)
    prompt = list(tokenizer.plain("Once upon a time there was a small house by the river. " * 8))
    whole, bare = [], []
    with torch.inference_mode():
        for number in range(7):
            request = Request(f"host-{number}", prompt, sampling=Sampling(max_tokens=_TOKENS))
            steps: list[float] = []
            engine.generate([request], lambda _, __, steps=steps: steps.append(time.perf_counter()))
            engine.forget(f"host-{number}")
            whole += [b - a for a, b in pairwise(steps)]
            cache = forward.new_cache()
            forward.hidden([(cache, prompt)])
            token = 1
            for _ in range(_TOKENS):
                begun = time.perf_counter()
                logits = forward.head(forward.hidden([(cache, [token])]))
                value, best = torch.log_softmax(logits[0], -1).max(-1)
                token, _ = int(best), float(value)
                bare.append(time.perf_counter() - begun)
    engine_us, bare_us = statistics.median(whole) * 1e6, statistics.median(bare) * 1e6
    return {"engine_us": engine_us, "bare_us": bare_us, "host_us": engine_us - bare_us}


def table_goals(place: Place, limit: int) -> dict[str, Any]:
    """Return the times from opening a run to the checked answer, of public table goals, one at a time."""
    from autogpt.agent.evaluate.suite import evaluate
    from autogpt.agent.goals.load import load_goals
    from autogpt.llm.models.local import LocalModel
    from autogpt.tools.registry import builtins

    model = LocalModel.load(place.folder, adapter=place.adapter, device="cpu", dtype=place.width)
    suite = Path(__file__).resolve().parent.parent / "suites" / "tables.jsonl"
    goals = load_goals(str(suite))[: limit + 1]
    evaluate("tables", goals[:1], model, builtins(), parallel=1)  # the process is warm from here
    rows = evaluate("tables", goals[1:], model, builtins(), parallel=1).rows
    times = [row.seconds["total"] for row in rows]
    achieved = sum(row.status == "achieved" for row in rows)
    middle = statistics.median(times)
    return {"median": middle, "slowest": max(times), "goals": len(times), "achieved": achieved}


def shell_goals(place: Place, home: str, count: int) -> dict[str, Any]:
    """Return the seconds of ``autogpt run`` from the shell, a fresh process for each of ``count`` goals.

    The runs have a home of their own, with the models of ``home`` linked in. Its first run is not
    counted: it leaves the probe's verdict, and the snapshot of the system prompt where there is one.
    """
    suite = Path(__file__).resolve().parent.parent / "suites" / "tables.jsonl"
    lines = suite.read_text(encoding="utf-8").splitlines()[: count + 1]
    times = []
    with tempfile.TemporaryDirectory(prefix="autogpt-shell-") as folder:
        (Path(folder) / "models").symlink_to(Path(home) / "models")
        environment = {**os.environ, "AUTOGPT_HOME": folder}
        goal = Path(folder) / "goal.jsonl"
        for line in lines:
            goal.write_text(line + "\n", encoding="utf-8")
            command = [sys.executable, "-m", "autogpt", "run", str(goal), "--model", place.options["name"]]
            begun = time.perf_counter()
            done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
            times.append(time.perf_counter() - begun)
            if done.returncode not in (0, 3, 4):
                raise RuntimeError(f"autogpt run failed: {(done.stderr.strip().splitlines() or [''])[-1]}")
    return {"median": statistics.median(times[1:]), "first": times[0], "goals": count}
