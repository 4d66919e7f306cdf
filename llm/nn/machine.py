"""Memory and processor of this machine, as the system tells them; loads nothing heavy."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

FEATURES = {
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX-512 bf16",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
    "asimd": "NEON",
}
"""What speeds up matrix products: the flag of /proc/cpuinfo and its name, the most telling first."""


@dataclass(frozen=True)
class Memory:
    """In bytes; None where the system does not say (``available`` is known on Linux only)."""

    total: int | None
    """What this process may have at most: the machine's memory, or the limit of its control group."""
    available: int | None
    """What it can have now without anything being swapped out."""


def memory(root: Path = Path("/")) -> Memory:
    """Return this machine's memory; ``root`` is where ``proc`` and ``sys`` are.

    Linux control groups limit a process more tightly than the machine (containers): the tightest of those
    that it is in counts, version 2 or 1.
    """
    known = {}
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if value.split()[:1]:
            known[name] = int(value.split()[0]) * 1024
    total, available = known.get("MemTotal"), known.get("MemAvailable")
    if total is None:
        names = ("SC_PAGE_SIZE", "SC_PHYS_PAGES")
        if root == Path("/") and set(names) <= set(os.sysconf_names):
            total = os.sysconf(names[0]) * os.sysconf(names[1])
        return Memory(total, None)
    for limit, used in _groups(root):
        total = min(total, limit)
        available = None if available is None else min(available, max(0, limit - used))
    return Memory(total, available)


def _groups(root: Path) -> list[tuple[int, int]]:
    """Return limit and use of each control group around this process that limits memory."""
    found = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        place = top / path.strip("/")
        # in a container the path is often the host's: its own group is then the top
        while True:
            limit, used = (_text(place / name).strip() for name in names[:2])
            if limit.isdigit() and used.isdigit():
                found.append((int(limit), int(used) - _cached(place / "memory.stat", names[2])))
            if place == top:
                break
            place = place.parent
    return found


def _cached(stat: Path, name: str) -> int:
    """Return the bytes of files in memory that nobody uses now: they count as used, yet give way at once."""
    for line in _text(stat).splitlines():
        if line.startswith(f"{name} "):
            return int(line.split()[1])
    return 0


def features(root: Path = Path("/")) -> str:
    """Return the best of the processor's features for matrix products, empty where it is unknown."""
    for line in _text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            flags = set(value.split())
            return next((said for flag, said in FEATURES.items() if flag in flags), "")
    return ""


def processors() -> int:
    """Return how many processors this process may use, hyper-threads counted."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
