"""The device: which one to use, in which number format and with how many threads; copies to and from it.

Processors differ widely: compared with fp32, bf16 products take a fifth of the time on chips with AMX
and ten times as long on chips with only AVX2. So the processor's features are checked first, then a
timing of about a second compares fp32 with the reduced precisions of :mod:`.low_precision` at the row
counts of an agent's turn: 1 (a token), 8 (a draft) and 300 (new text of a prompt). That is done on one
thread and in processor time, which other work on the machine hardly changes: threads that wait for each
other on a busy processor can take ten times as long. The candidates are timed in turn, the best of
several rounds counts. Whether all threads beat one is timed on the clock, and believed only where the
processor was ours meanwhile; a result of a busy machine serves this process alone, others are kept per
chip in ``probe.json``. A GPU is not timed: bf16 where supported, else fp16 (CUDA) or fp32 (MPS).
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from ...files import read_object
from .low_precision import PRECISIONS, Dense, Linear, available, has_bf16

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NAMES = (*DTYPES, "int8")
_MATRICES, _WIDTH = 6, 1536
"""Weights of the timing: six squares of 1536, 57 MB in fp32, more than most caches hold."""
_TURN = {1: 12.0, 8: 6.0, 300: 1.0}
"""Forwards of each row count in a typical turn: the weights of the timings."""
_GAIN = 1.15
"""Speed-up over fp32 that bf16 and int8 must reach, since they cost accuracy."""
_GAIN_FLOAT16 = 1.03
"""The same for fp16 weights with fp32 arithmetic: hardly less accurate, and faster only for few rows."""
_ROUNDS = 5
"""Rounds of timing, of which the best counts."""
_LONGEST = 1.5
"""Seconds after which no further round begins."""
_QUIET = 0.9
"""Share of the clock that a single thread gets on a processor that nobody else uses."""
_VERSION = 4
"""Part of the file's keys: raised when the timings change their meaning, so that old ones are ignored."""


@dataclass(frozen=True)
class DeviceChoice:
    """What to compute with."""

    device: str
    dtype: str
    threads: int
    precisions: tuple[str, ...] = ()
    """Candidates for the linear layers, the fastest first; see :mod:`.low_precision`."""
    verify: bool = True
    """Whether a candidate must prove accurate on the model; False: the user named it."""


def probe_device(device: str = "auto", dtype: str = "auto", cache_dir: Path | None = None) -> DeviceChoice:
    """Return the choice for this machine; an explicit ``device`` or ``dtype`` is respected.

    ``cache_dir`` keeps the timings between processes. Raises
    :class:`~autogpt.errors.UsageError` for a name that is unknown or a device that is absent.
    """
    if dtype != "auto" and dtype not in NAMES:
        raise UsageError(f"unknown dtype {dtype!r}: use auto, {', '.join(NAMES)}")
    device = _device(device)
    threads = min(torch.get_num_threads(), physical_cores())
    if device == "cpu":
        if dtype == "auto":
            return _timed(threads, cache_dir)
        if dtype in PRECISIONS and (dtype != "bfloat16" or has_bf16()):  # its linear layers; the rest in fp32
            return DeviceChoice(device, "float32", threads, (dtype,), verify=False)
        return DeviceChoice(device, dtype, threads)
    if dtype == "int8":
        raise UsageError(f"dtype int8 is for the CPU, not for {device}: use auto")
    if dtype == "auto":
        dtype = "float32"
        if device.startswith("cuda"):
            dtype = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return DeviceChoice(device, dtype, threads)


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


_measured: dict[str, tuple[dict[str, float], bool]] = {}
"""What :func:`measure` found in this process, by key."""


def _timed(threads: int, cache_dir: Path | None) -> DeviceChoice:
    """Choose threads and precisions for this processor, from the file if this chip was timed before."""
    path = cache_dir / "probe.json" if cache_dir is not None else None
    key = f"{chip()} | {threads} threads | torch {torch.__version__} | {_VERSION}"
    known = read_measurements(path)
    try:
        return _decide({name: float(ms) for name, ms in known[key].items()}, threads)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # not timed yet
    if key not in _measured:
        _measured[key] = measure(threads)
    times, quiet = _measured[key]
    if quiet:
        write_measurements(path, {**known, key: {name: round(ms, 2) for name, ms in times.items()}})
    return _decide(times, threads)


def measure(threads: int) -> tuple[dict[str, float], bool]:
    """Return the milliseconds of a typical turn's matrix products, and whether the machine was quiet.

    Per precision on one thread, in processor time; ``one thread`` and ``all threads`` are fp32's on the
    clock (equal if the machine was busy).
    """
    before = torch.get_num_threads()
    ways = {name: layers for name in ("float32", *available()) if (layers := _layers(name))}
    cpu: dict[str, dict[int, float]] = {name: {} for name in ways}
    clock: dict[str, dict[int, float]] = {"one thread": {}, "all threads": {}}
    spent = used = 0.0
    began = time.perf_counter()
    try:
        with torch.inference_mode():
            for number in range(_ROUNDS):
                if number > 1 and time.perf_counter() - began > _LONGEST:
                    break
                torch.set_num_threads(1)
                for rows, name in product(_TURN, ways):
                    wall, own = _time(ways[name], rows)
                    spent, used = spent + wall, used + own
                    _note(cpu[name], rows, own)
                    if name == "float32":
                        _note(clock["one thread"], rows, wall)
                torch.set_num_threads(threads)
                for rows in _TURN:
                    _note(clock["all threads"], rows, _time(ways["float32"], rows)[0])
    finally:
        torch.set_num_threads(before)
    quiet = used > _QUIET * spent
    if not quiet:
        clock["all threads"] = clock["one thread"]
    return {
        name: 1e3 * sum(_TURN[rows] * s for rows, s in found.items()) for name, found in (cpu | clock).items()
    }, quiet


def _note(best: dict[int, float], rows: int, seconds: float) -> None:
    best[rows] = min(seconds, best.get(rows, seconds))


def _layers(name: str) -> list[Linear]:
    """Return the layers to time; none if this build of torch lacks the kernels."""
    dense = [Dense(torch.full((_WIDTH, _WIDTH), 0.5)) for _ in range(_MATRICES)]
    try:
        layers: list[Linear] = (
            [PRECISIONS[name].linear(part) for part in dense] if name in PRECISIONS else [*dense]
        )
        for layer in layers:
            layer.prepare()
    except RuntimeError:
        return []
    return layers


def _time(layers: Sequence[Linear], rows: int) -> tuple[float, float]:
    """Return the seconds of one pass over all layers after a first product, which wakes the threads.

    On the clock, and of this thread's processor time.
    """
    x = torch.full((rows, _WIDTH), 0.5)
    layers[0](x)
    wall, own = time.perf_counter(), time.thread_time()
    for layer in layers:
        layer(x)
    return time.perf_counter() - wall, time.thread_time() - own


def _decide(times: Mapping[str, float], threads: int) -> DeviceChoice:
    """Turn timings into a choice. Raises KeyError when fp32 was not timed."""
    plain = times["float32"]
    if times["one thread"] * _GAIN < times["all threads"]:
        threads = 1  # two threads on one core, or ones that wait for each other more than they help
    costs = {name: ms * (_GAIN_FLOAT16 if name == "float16" else _GAIN) for name, ms in times.items()}
    names = [name for name in available() if costs.get(name, float("inf")) < plain]
    return DeviceChoice("cpu", "float32", threads, tuple(sorted(names, key=costs.__getitem__)))


def read_measurements(path: Path | None) -> dict[str, Any]:
    """Return what :func:`write_measurements` wrote; empty if there is no readable file."""
    return {} if path is None else read_object(path)


def write_measurements(path: Path | None, found: dict[str, Any]) -> None:
    """Keep measurements for later processes; if that fails they are only made again."""
    if path is None:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1), "utf-8")


def to_device(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Return ``numbers`` as int64 on ``device``."""
    return send(torch.tensor(numbers, dtype=torch.int64), device)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to ``device``; to CUDA from pinned memory, so that the CPU does not wait."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def fetch(*tensors: Tensor) -> list[Tensor]:
    """Copy tensors of one device to the CPU, waiting for a GPU once."""
    if tensors[0].device.type != "cuda":
        return [tensor.cpu() for tensor in tensors]
    found = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors]
    for here, there in zip(found, tensors, strict=True):
        here.copy_(there, non_blocking=True)
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return found
