"""The gate: exact bounds, early ends, guarded categories, and its promise by simulation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.paths import BENCHMARKS

from autogpt.agent.evaluate import statistics as gate
from autogpt.agent.evaluate.statistics import Bounds, Pair, judge
from autogpt.cli.parser import main
from autogpt.errors import UsageError


def pairs(wins: int, losses: int, n: int, category: str = "tables") -> list[Pair]:
    """``n`` goals, evenly mixed, of which the candidate wins and loses so many."""
    kinds = ["win"] * wins + ["loss"] * losses + ["same"] * (n - wins - losses)
    mixed = [kinds[(i * 389) % n] for i in range(n)]
    scores = {"win": (0.0, 1.0), "loss": (1.0, 0.0), "same": (1.0, 1.0)}
    return [Pair(f"{category}{i}", category, *scores[kind]) for i, kind in enumerate(mixed)]


def test_mcnemar_is_exact() -> None:
    assert gate.mcnemar(0, 0) == 1.0
    assert gate.mcnemar(5, 5) == 1.0
    assert gate.mcnemar(10, 2) == pytest.approx(2 * (1 + 12 + 66) / 4096)
    assert gate.mcnemar(2, 10) == gate.mcnemar(10, 2)


def test_one_look_is_the_plain_exact_test() -> None:
    """15 of 20 is the least with a one-sided p below 2.5 % (0.0207; 14 of 20: 0.0577)."""
    assert Bounds().next(20, 1.0) == 15
    assert judge(pairs(15, 5, 199), 199, looks=(1.0,)).decision == "promote"
    assert judge(pairs(14, 6, 199), 199, looks=(1.0,)).decision == "keep"


def test_bounds_spend_no_more_than_alpha() -> None:
    """Walk over all paths of the wins: those that cross at any look weigh at most alpha."""
    bounds, looks = Bounds(), ((10, 0.25), (20, 0.5), (30, 0.75), (40, 1.0))
    crossed, alive, seen = 0.0, {0: 1.0}, 0
    for differing, share in looks:
        bound = bounds.next(differing, share)
        for _ in range(differing - seen):
            step: dict[int, float] = {}
            for wins, weight in alive.items():
                step[wins] = step.get(wins, 0.0) + weight / 2
                step[wins + 1] = step.get(wins + 1, 0.0) + weight / 2
            alive = step
        seen = differing
        crossed += sum(weight for wins, weight in alive.items() if wins >= bound)
        alive = {wins: weight for wins, weight in alive.items() if wins < bound}
    assert 0.015 < crossed <= gate.ALPHA / 2


def test_clear_cases_end_early() -> None:
    much = judge(pairs(300, 40, 1000), 1000)
    assert (much.decision, much.seen) == ("promote", 250)
    worse = judge(pairs(40, 300, 1000), 1000)
    assert (worse.decision, worse.seen, worse.reason) == ("keep", 250, "the candidate is worse")
    none = judge(pairs(95, 105, 1000), 1000)
    assert none.decision == "keep" and none.seen < 1000 and "would not be seen" in none.reason


def test_an_early_look_may_ask_for_more() -> None:
    some = pairs(60, 40, 500)
    assert judge(some, 1000).decision == "more"
    assert "500 goals are left" in judge(some, 1000).reason
    with pytest.raises(ValueError, match="at least 100"):
        judge(some, 99)


def test_a_category_that_falls_keeps_the_current_model() -> None:
    mixed = [*pairs(90, 20, 400), *pairs(3, 30, 100, "files")]
    mixed = [mixed[(i * 389) % 500] for i in range(500)]
    verdict = judge(mixed, 500)
    assert verdict.wins > verdict.losses and verdict.p < 0.01
    assert (verdict.decision, verdict.worse) == ("keep", ("files",))
    rows = {row.category: row for row in gate.table(mixed)}
    assert rows["files"].worse and not rows["tables"].worse
    assert rows["files"].difference == pytest.approx(-0.27)
    assert rows["files"].low < -0.27 < rows["files"].high < 0
    assert rows["all"].n == 500 and rows["all"].low > 0


def test_the_promise_by_simulation() -> None:
    """A small draw of benchmarks/prove_gate.py: margins are over three standard errors."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("prove_gate", BENCHMARKS / "prove_gate.py")
    assert spec and spec.loader
    proof = module_from_spec(spec)
    import sys

    sys.modules["prove_gate"] = proof
    spec.loader.exec_module(proof)
    assert proof.simulate(200, 0.0).promoted < 0.075
    assert proof.simulate(60, 0.05).promoted > 0.65
    assert proof.simulate(30, 0.15).goals < 500


def report(path: Path, achieved: list[bool], **changes: Any) -> str:
    rows = [
        {
            "id": f"g{i % 150}",
            "category": "even" if i % 2 else "odd",
            "status": "achieved" if ok else "not_met",
        }
        for i, ok in enumerate(achieved)
    ]
    path.write_text(json.dumps({"suite": "s.jsonl", "model": path.stem, "seed": 0, "rows": rows} | changes))
    return str(path)


def test_two_reports_give_a_table_and_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = report(tmp_path / "old.json", [i % 3 == 0 for i in range(150)])
    new = report(tmp_path / "new.json", [i % 3 != 2 for i in range(150)])
    assert main(["gate", old, new]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split("\t")[:4] == ["category", "goals", "current", "candidate"]
    assert lines[4].startswith("all\t150\t33.3%\t66.7%\t+33.3 (+")
    assert lines[5].startswith("promote: the candidate is better (50 goals won, 0 lost")
    assert main(["gate", new, old, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["decision"], found["losses"]) == ("keep", 50)
    assert main(["gate", old, old]) == 1
    assert main(["gate", old, new, "--planned", "600"]) == 0
    assert "after 150 of 600 goals" in capsys.readouterr().out


def test_samples_of_a_goal_count_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = report(tmp_path / "old.json", [False] * 300)
    new = report(tmp_path / "new.json", [i % 150 < 4 for i in range(300)])
    assert main(["gate", old, new]) == 1
    assert "4 goals won, 0 lost" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"suite": "t.jsonl"}, "same goals for both"),
        ({"seed": 3}, "new.json with 3"),
        ({"rows": [{"id": "g1", "status": "achieved"}]}, "at least 100 goals, here are 1"),
        ({"rows": [{"status": "achieved"}]}, "not a report"),
        ({"rows": [{"id": f"g{i % 75}", "status": "achieved"} for i in range(150)]}, "same --samples"),
    ],
)
def test_reports_that_cannot_be_compared_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: dict[str, Any], says: str
) -> None:
    old = report(tmp_path / "old.json", [True] * 150)
    new = report(tmp_path / "new.json", [True] * 150, **other)
    assert main(["gate", old, new]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert says in error and error.startswith("autogpt: error:")


def test_a_missing_report_is_a_usage_error(tmp_path: Path) -> None:
    from autogpt.cli.evaluate import read_report

    with pytest.raises(UsageError, match="cannot be read"):
        read_report(tmp_path / "none.json")
