"""Which device, number format and thread count this machine should use.

Machines differ more than one would guess: bf16 products halve the time on chips with AMX and take
ten times as long on chips with AVX2 alone. So the processor is asked for its abilities first, then
a timing of about a second compares fp32, bf16 and fp32 with packed weights (:mod:`.packed`) on the
rows that decoding uses: one (a token), 4 (a draft), 16 (a batch) and 256 (a prompt); and one thread
against all. The answer is kept per chip in a small file. A GPU is not timed: bf16 where it has it,
else fp16 (CUDA) or fp32 (MPS).
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import UsageError
from .kept import read_kept, write_kept
from .packed import WIDTHS, Dense

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NAMES = (*DTYPES, "int8")
_MATRICES, _WIDTH = 6, 1536
"""Weights of the timing: six squares of 1536, 57 MB in fp32, more than most caches hold."""
_TURN = {1: 10.0, 4: 4.0, 16: 2.0, 256: 1.0}
"""How often a typical turn runs each number of rows; weighs the timings."""
_GAIN = 1.15
"""bf16 and int8 must be faster than fp32 by this factor: they cost precision."""
_LITTLE = 1.03
"""fp16 weights with fp32 arithmetic cost hardly any; only few rows gain, so little shows over a turn."""


@dataclass(frozen=True)
class Choice:
    """What to compute with."""

    device: str
    dtype: str
    threads: int
    widths: tuple[str, ...] = ()
    """Packed weights to use for few rows, the fastest first; see :mod:`.packed`."""
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
        if dtype in WIDTHS:  # narrow weights, fp32 arithmetic: the CPU has no faster way
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


def _has_bf16() -> bool:
    """Say whether the processor multiplies bf16 at all; without it the timing could take minutes."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    found = [getattr(torch.cpu, name, None) for name in names]
    return any(bool(ask()) for ask in found if ask is not None)


def _timed(threads: int, cache_dir: Path | None) -> Choice:
    """Choose dtype, threads and widths for this processor, from the file if this chip was timed before."""
    path = cache_dir / "probe.json" if cache_dir is not None else None
    key = f"{chip()} | {threads} threads | torch {torch.__version__} | 2"
    known = read_kept(path)
    try:
        return _decide({name: float(ms) for name, ms in known[key].items()}, threads)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # not timed yet
    times = _measure(threads)
    write_kept(path, {**known, key: {name: round(ms, 2) for name, ms in times.items() if ms < float("inf")}})
    return _decide(times, threads)


def _measure(threads: int) -> dict[str, float]:
    """Return the milliseconds of a typical turn's products by way of computing."""
    before = torch.get_num_threads()
    times = {}
    try:
        torch.set_num_threads(threads)
        for name in ("float32", *WIDTHS, *(["bfloat16"] if _has_bf16() else [])):
            times[name] = _time(name) * 1e3
        if threads > 1:
            torch.set_num_threads(1)
            times["one thread"] = _time("float32") * 1e3
    finally:
        torch.set_num_threads(before)
    return times


def _decide(times: Mapping[str, float], threads: int) -> Choice:
    """Turn timings into a choice. Raises KeyError when fp32 was not timed."""
    plain = times["float32"]
    if times.get("one thread", float("inf")) * _GAIN < plain:
        threads = 1  # two threads that share one core, or wait for each other more than they help
    gain = {"float16": _LITTLE}
    faster = sorted(
        (ms, name) for name, ms in times.items() if name in NAMES and ms * gain.get(name, _GAIN) < plain
    )
    if faster and faster[0][1] == "bfloat16":
        return Choice("cpu", "bfloat16", threads)
    return Choice("cpu", "float32", threads, tuple(name for _, name in faster if name in WIDTHS))


def _time(name: str) -> float:
    """Return the seconds of a typical turn's products, stopping early when they are hopeless."""
    dtype = torch.float32 if name in WIDTHS else DTYPES[name]
    weights = [torch.full((_WIDTH, _WIDTH), 0.5, dtype=dtype) for _ in range(_MATRICES)]
    total = 0.0
    with torch.inference_mode():
        try:
            dense = [Dense(weight) for weight in weights]
            layers = [WIDTHS[name](layer) for layer in dense] if name in WIDTHS else dense
            for layer in layers:
                layer.prepare()
        except RuntimeError:  # this build of torch has no such kernel
            return float("inf")
        small = torch.randn(64, 64).to(dtype)
        begin = time.perf_counter()
        for _ in range(20):
            small = (small @ small).clamp_(-1, 1)
        if time.perf_counter() - begin > 0.05:
            return float("inf")
        for rows, weight in _TURN.items():
            x = torch.full((rows, _WIDTH), 0.5, dtype=dtype)
            times = []
            for _ in range(2):
                begin = time.perf_counter()
                for layer in layers:
                    layer(x)
                times.append(time.perf_counter() - begin)
            total += min(times) * weight
    return total
