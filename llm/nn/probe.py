"""Which device, number format and thread count this machine should use.

Machines differ more than one would guess: bf16 products take a fifth of the time on chips with AMX and
ten times as long on chips with AVX2 alone. So the processor is asked for its abilities first, then a
timing of about a second compares fp32 with the narrower widths of :mod:`.packed` on the rows that
decoding uses: one (a token), 4 (a draft), 16 (a batch) and 256 (a prompt); and one thread against all.
All ways are timed in turn and the best of several rounds counts, because other work on the machine
only ever makes a timing longer. The answer is kept per chip in a small file. A GPU is not timed: bf16
where it has it, else fp16 (CUDA) or fp32 (MPS).
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import UsageError
from .kept import read_kept, write_kept
from .low_precision import WIDTHS, Dense, Linear, available, has_bf16

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NAMES = (*DTYPES, "int8")
_MATRICES, _WIDTH = 6, 1536
"""Weights of the timing: six squares of 1536, 57 MB in fp32, more than most caches hold."""
_TURN = {1: 10.0, 4: 4.0, 16: 2.0, 256: 1.0}
"""How often a typical turn runs each number of rows; weighs the timings."""
_GAIN = 1.15
"""bf16 and int8 must be faster than the others by this factor: they cost precision."""
_LITTLE = 1.03
"""fp16 weights with fp32 arithmetic cost hardly any; only few rows gain, so little shows over a turn."""
_ROUNDS = 5
"""The best of so many counts."""
_MEANING = 3
"""Counts up when timings mean something else, so that verdicts kept before are not read."""


@dataclass(frozen=True)
class Choice:
    """What to compute with."""

    device: str
    dtype: str
    threads: int
    widths: tuple[str, ...] = ()
    """Packed weights to use, the best first; see :mod:`.packed`."""
    gated: bool = True
    """The first of ``widths`` that passes the gate is used; False: the user named one."""


def probe_device(device: str = "auto", dtype: str = "auto", cache_dir: Path | None = None) -> Choice:
    """Return the choice for this machine; explicit ``device`` and ``dtype`` are obeyed.

    ``cache_dir`` keeps the timing's verdict between processes. Raises
    :class:`~autogpt.errors.UsageError` for a name that is unknown or a device that is absent.
    """
    if dtype != "auto" and dtype not in NAMES:
        raise UsageError(f"unknown dtype {dtype!r}: use auto, {', '.join(NAMES)}")
    device = _device(device)
    threads = min(torch.get_num_threads(), physical_cores())
    if device == "cpu":
        if dtype == "auto":
            return _timed(threads, cache_dir)
        if dtype in WIDTHS and (dtype != "bfloat16" or has_bf16()):  # narrow linear layers, the rest fp32
            return Choice(device, "float32", threads, (dtype,), gated=False)
        return Choice(device, dtype, threads)
    if dtype == "int8":
        raise UsageError(f"dtype int8 is for the CPU, not for {device}: use auto")
    if dtype == "auto":
        dtype = "float32"
        if device.startswith("cuda"):
            dtype = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return Choice(device, dtype, threads)


def _device(name: str) -> str:
    """Resolve ``auto`` and check that a named device is there."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    there = {"cuda": cuda, "mps": mps, "cpu": True}.get(name.split(":")[0])
    if there is None:
        raise UsageError(f"unknown device {name!r}: use auto, cpu, cuda, cuda:N or mps")
    if not there:
        raise UsageError(f"device {name!r} is not available on this machine: use --device cpu")
    return name


def physical_cores() -> int:
    """Return the cores this process may use, hyper-threads counted once."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = set()
    for number in usable:
        siblings = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text().strip())
        except OSError:
            cores.add(str(number))
    return max(1, len(cores))


def chip() -> str:
    """Return a name for the processor, for reports and for the probe's file."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _timed(threads: int, cache_dir: Path | None) -> Choice:
    """Choose dtype, threads and widths for this processor, from the file if this chip was timed before."""
    path = cache_dir / "probe.json" if cache_dir is not None else None
    key = f"{chip()} | {threads} threads | torch {torch.__version__} | {_MEANING}"
    known = read_kept(path)
    try:
        return _decide({name: float(ms) for name, ms in known[key].items()}, threads)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # not timed yet
    times = _measure(threads)
    write_kept(path, {**known, key: {name: round(ms, 2) for name, ms in times.items() if ms < float("inf")}})
    return _decide(times, threads)


def _measure(threads: int) -> dict[str, float]:
    """Return the milliseconds of a typical turn's products by way of computing, the best of some rounds."""
    before = torch.get_num_threads()
    ways = {name: layers for name in ("float32", *available()) if (layers := _layers(name))}
    runs = [(name, layers, threads) for name, layers in ways.items()]
    if threads > 1:
        runs.append(("one thread", ways["float32"], 1))
    best: dict[str, dict[int, float]] = {name: {} for name, _, _ in runs}
    try:
        with torch.inference_mode():
            for _ in range(_ROUNDS):
                for name, layers, count in runs:
                    torch.set_num_threads(count)
                    for rows in _TURN:
                        seconds = _time(layers, rows)
                        best[name][rows] = min(seconds, best[name].get(rows, seconds))
    finally:
        torch.set_num_threads(before)
    return {name: 1e3 * sum(_TURN[rows] * s for rows, s in found.items()) for name, found in best.items()}


def _layers(name: str) -> list[Linear]:
    """Return the layers of the timing, none where this build of torch has no such kernel."""
    dense = [Dense(torch.full((_WIDTH, _WIDTH), 0.5)) for _ in range(_MATRICES)]
    try:
        layers: list[Linear] = [WIDTHS[name].linear(part) for part in dense] if name in WIDTHS else [*dense]
        for layer in layers:
            layer.prepare()
    except RuntimeError:
        return []
    return layers


def _time(layers: Sequence[Linear], rows: int) -> float:
    """Return the seconds of one pass over all layers; one more goes before it, to wake the threads."""
    x = torch.full((rows, _WIDTH), 0.5)
    layers[0](x)
    begin = time.perf_counter()
    for layer in layers:
        layer(x)
    return time.perf_counter() - begin


def _decide(times: Mapping[str, float], threads: int) -> Choice:
    """Turn timings into a choice. Raises KeyError when fp32 was not timed."""
    plain = times["float32"]
    if times.get("one thread", float("inf")) * _GAIN < plain:
        threads = 1  # two threads that share one core, or wait for each other more than they help
    costs = {name: ms * (_LITTLE if name == "float16" else _GAIN) for name, ms in times.items()}
    names = [name for name in available() if costs.get(name, float("inf")) < plain]
    return Choice("cpu", "float32", threads, tuple(sorted(names, key=costs.__getitem__)))
