"""Which device, number format and thread count this machine should use.

Machines differ more than one would guess: bf16 products halve the time on chips with AMX and take
ten times as long on chips with AVX2 alone. So the processor is asked for its abilities first, then
a timing of well under a second decides between fp32 and bf16 on the shapes that decoding uses: one
row (a token), 16 rows (a batch) and 256 rows (a prompt). The answer is kept per chip in a small
file. A GPU is not timed: bf16 where it has it, else fp16 (CUDA) or fp32 (MPS).
"""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import UsageError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MATRICES, _WIDTH = 6, 1536
"""Weights of the timing: six squares of 1536, 57 MB in fp32, more than most caches hold."""
_TURN = {1: 12.0, 16: 4.0, 256: 1.0}
"""How often a typical turn runs each number of rows; weighs the timings."""
_GAIN = 1.15
"""bf16 must be faster by this factor: it costs precision."""


@dataclass(frozen=True)
class Choice:
    """What to compute with."""

    device: str
    dtype: str
    threads: int


def probe_device(device: str = "auto", dtype: str = "auto", cache_dir: Path | None = None) -> Choice:
    """Return the choice for this machine; explicit ``device`` and ``dtype`` are obeyed.

    ``cache_dir`` keeps the timing's verdict between processes. Raises
    :class:`~autogpt.errors.UsageError` for a name that is unknown or a device that is absent.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}: use auto, {', '.join(DTYPES)}")
    device = _device(device)
    threads = min(torch.get_num_threads(), physical_cores())
    if dtype == "auto":
        if device.startswith("cuda"):
            dtype = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        elif device == "cpu":
            dtype = _cpu_dtype(threads, cache_dir)
        else:
            dtype = "float32"
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


def _cpu_dtype(threads: int, cache_dir: Path | None) -> str:
    """Choose between fp32 and bf16, from the file if this chip was timed before."""
    if not _has_bf16():
        return "float32"
    path = cache_dir / "probe.json" if cache_dir is not None else None
    key = f"{chip()} | {threads} threads | torch {torch.__version__}"
    known: dict[str, dict[str, object]] = {}
    if path is not None and path.exists():
        try:
            known = json.loads(path.read_text())
            return str(known[key]["dtype"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
    fp32, bf16 = _time(torch.float32), _time(torch.bfloat16)
    dtype = "bfloat16" if bf16 * _GAIN < fp32 else "float32"
    if path is not None:
        entry = {"dtype": dtype, "fp32_ms": round(fp32 * 1e3, 2), "bf16_ms": round(bf16 * 1e3, 2)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({**known, key: entry}, indent=1))
        except OSError:
            pass  # a file that cannot be kept only costs the timing again
    return dtype


def _time(dtype: torch.dtype) -> float:
    """Return the seconds of a typical turn's products, stopping early when they are hopeless."""
    weights = [torch.full((_WIDTH, _WIDTH), 0.5, dtype=dtype) for _ in range(_MATRICES)]
    total = 0.0
    with torch.inference_mode():
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
                for matrix in weights:
                    torch.nn.functional.linear(x, matrix)
                times.append(time.perf_counter() - begin)
            total += min(times) * weight
    return total


