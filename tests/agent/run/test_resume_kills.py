"""A sample of ``benchmarks/prove_kills.py``: real processes, real SIGKILL, an observer outside."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from support.paths import BENCHMARKS


@pytest.fixture(scope="module")
def proof() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("prove_kills")
    finally:
        sys.path.remove(str(BENCHMARKS))


KILLS = [
    [("before", 1)],  # nothing is recorded yet
    [("after", 1)],  # the run exists, its workspace does not
    [("file", 25)],  # while the workspace is being prepared
    [("after tool.intent", 2)],  # a write is intended
    [("before tool.outcome", 2)],  # it is done, its outcome not recorded
    [("effect", 1)],  # a post is intended and did not happen
    [("effect", 2)],  # a post happened, its outcome is lost
    [("effect", 4)],  # a payment happened, its outcome is lost
    [("before tool.outcome", 4)],  # a move is done, its outcome is lost
    [("before check.result", 2)],  # between two checks
    [("before run.ended", 1)],  # files are delivered, the end is not recorded
    [("after run.ended", 1)],  # all is recorded
    [("effect", 2), ("effect", 2), ("before", 2), ("file", 15)],  # again and again
    [("time", 25.0), ("time", 25.0)],
]


@pytest.mark.parametrize("kills", KILLS, ids=lambda kills: "+".join(f"{kind}{at:g}" for kind, at in kills))
def test_no_promise_breaks_when_a_process_is_killed(
    proof: ModuleType, tmp_path: Path, kills: list[tuple[str, float]]
) -> None:
    bench = proof.trial(tmp_path / "trial", [proof.Kill(*kill) for kill in kills])
    if kills[0][0] != "time":
        assert bench.kills == len(kills)
    expected = {"effect1": 1, "effect2": 1, "effect4": 0}.get(f"{kills[0][0]}{kills[0][1]:g}")
    if expected is not None and len(kills) == 1:
        assert bench.verify() == expected  # calls reported as uncertain


def test_the_observer_notices_a_runner_that_repeats(proof: ModuleType, tmp_path: Path) -> None:
    assert proof.control(tmp_path)
