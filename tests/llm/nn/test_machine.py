"""Memory and processor, read from a made-up /proc and /sys."""

from __future__ import annotations

from pathlib import Path

import pytest

from autogpt.llm.nn.machine import Memory, features, memory, processors

MB = 1 << 20


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(
        tmp_path,
        "proc/meminfo",
        f"MemTotal: {8000 * 1024} kB\nMemFree: 5 kB\nMemAvailable: {3000 * 1024} kB\n",
    )
    return tmp_path


def test_a_bare_machine_has_what_its_kernel_says(root: Path) -> None:
    assert memory(root) == Memory(8000 * MB, 3000 * MB)


def test_the_tightest_control_group_counts_and_its_idle_cache_gives_way(root: Path) -> None:
    write(root, "proc/self/cgroup", "0::/app/worker\n")
    write(root, "sys/fs/cgroup/app/worker/memory.max", "max\n")
    write(root, "sys/fs/cgroup/app/worker/memory.current", f"{100 * MB}\n")
    assert memory(root) == Memory(8000 * MB, 3000 * MB), "no limit there"
    write(root, "sys/fs/cgroup/app/memory.max", f"{2000 * MB}\n")
    write(root, "sys/fs/cgroup/app/memory.current", f"{1500 * MB}\n")
    assert memory(root) == Memory(2000 * MB, 500 * MB)
    write(root, "sys/fs/cgroup/app/memory.stat", f"anon 5\ninactive_file {700 * MB}\n")
    assert memory(root) == Memory(2000 * MB, 1200 * MB)


def test_control_groups_of_version_one_and_paths_of_the_host_are_read(root: Path) -> None:
    write(root, "proc/self/cgroup", "9:cpu:/x\n4:memory:/docker/abc\n")
    write(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{1000 * MB}\n")
    write(root, "sys/fs/cgroup/memory/memory.usage_in_bytes", f"{1200 * MB}\n")
    assert memory(root) == Memory(1000 * MB, 0)


def test_a_system_that_says_nothing_is_unknown(tmp_path: Path) -> None:
    assert memory(tmp_path) == Memory(None, None) and features(tmp_path) == ""


@pytest.mark.parametrize(
    ("flags", "best"),
    [
        ("fpu avx2 avx512f avx512_bf16 amx_bf16", "AMX"),
        ("avx2 avx512f avx512_bf16", "AVX-512 bf16"),
        ("fpu avx2", "AVX2"),
        ("fpu", ""),
    ],
)
def test_the_best_feature_is_named(tmp_path: Path, flags: str, best: str) -> None:
    write(tmp_path, "proc/cpuinfo", f"processor\t: 0\nflags\t\t: {flags}\n")
    assert features(tmp_path) == best


def test_this_machine_has_processors_and_memory() -> None:
    assert processors() >= 1
    total = memory().total
    assert total is None or total > 100 * MB
