"""Learning from rewards: direction, groups, weights, rounds, the KL anchor, collapse, resumption."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from autogpt.errors import UsageError
from autogpt.llm.training import monitor
from autogpt.llm.training.monitor import Collapse, CollapseMonitor
from autogpt.llm.training.rl import GrpoConfig, Trajectory, train_grpo

GOOD, BAD = (7, 8, 9), (20, 21, 22)
TOOL = (40, 41)
MASK = (True, True, True, False, False, True)
Make = Callable[..., GrpoConfig]


@pytest.fixture
def make(tiny_base: Path, tiny_adapter: Path, tmp_path: Path) -> Make:
    """Makes the settings of a run in a folder of the test's own."""

    def made(out: str = "out", **more: Any) -> GrpoConfig:
        usual = {
            "steps": 2, "learning_rate": 1e-3, "goals_per_step": 2, "group": 4, "dtype": "float32",
            "device": "cpu", "resample": 1,
        }  # fmt: skip
        return GrpoConfig(
            base=tiny_base, init=tiny_adapter, out=tmp_path / out, name="new", warmup=0.0, **{**usual, **more}
        )

    return made


def context(goal: str) -> tuple[int, ...]:
    rng = random.Random(goal)
    return (*range(50, 60), *(rng.randrange(60, 90) for _ in range(6)))


class Engine:
    """Stands for the driver: half of the attempts at a goal say the good words, half the bad."""

    def __init__(self, score: Any, base: Path, dead: Sequence[str] = (), shift: float = 0.0) -> None:
        self.score, self.adapter, self.dead, self.shift = score, base, dead, shift
        self.asked: list[tuple[str, ...]] = []

    def publish(self, folder: Path) -> None:
        self.adapter = folder

    def roll(self, goals: Sequence[str], attempts: int) -> list[list[Trajectory]]:
        self.asked.append(tuple(goals))
        return [[self.attempt(goal, i % 2 == 0) for i in range(attempts)] for goal in goals]

    def attempt(self, goal: str, good: bool) -> Trajectory:
        head, said = context(goal), (*(GOOD if good else BAD), *TOOL, 3)
        flags = [tuple(j == i for j in range(len(said))) for i in range(len(said))]
        # The engine's numbers, off by ``shift``; what the first publication holds, to stay simple.
        logs = [
            self.score(self.adapter, head, said, flag) + self.shift if own else 0.0
            for flag, own in zip(flags, MASK, strict=True)
        ]
        reward = 0.3 if goal in self.dead else float(good)
        return Trajectory((*head, *said), ((False,) * len(head) + MASK), (*(0.0,) * len(head), *logs), reward)


def test_rewarded_attempts_get_likelier_and_a_tools_tokens_do_not_count(
    make: Make, tiny_adapter: Path, tiny_score: Any
) -> None:
    engine = Engine(tiny_score, tiny_adapter)
    report = train_grpo(make(), ["a", "b"], engine.roll, engine.publish, progress=lambda _: None)
    assert (report.steps, report.samples, report.tokens) == (2, 16, 64)  # 4 of 6 tokens carry loss
    for goal in ("a", "b"):
        good, bad = (
            tiny_score(report.folder, context(goal), (*said, *TOOL, 3), MASK)
            - tiny_score(tiny_adapter, context(goal), (*said, *TOOL, 3), MASK)
            for said in (GOOD, BAD)
        )
        assert good > 0.02 > -0.02 > bad


def test_dead_groups_are_replaced_and_a_round_without_any_difference_changes_nothing(
    make: Make, tiny_adapter: Path, tiny_score: Any
) -> None:
    goals = ["dead", "live", "spare"]
    engine = Engine(tiny_score, tiny_adapter, dead=["dead"])
    settings = make(steps=1, goals_per_step=3)
    train_grpo(settings, goals, engine.roll, engine.publish, progress=lambda _: None)
    assert len(engine.asked) == 1  # all goals are in the round, none is spare
    engine = Engine(tiny_score, tiny_adapter, dead=["dead", "live"])
    steps: list[Any] = []
    settings = make("two", steps=1, goals_per_step=2, seed=3)
    train_grpo(settings, goals, engine.roll, engine.publish, progress=steps.append)
    assert 1 <= len(engine.asked) <= 2 and len(set(sum(engine.asked, ()))) == len(sum(engine.asked, ()))
    engine = Engine(tiny_score, tiny_adapter, dead=goals)
    report = train_grpo(make("none"), goals, engine.roll, engine.publish, progress=steps.append)
    assert report.samples == 0 and report.steps == 2
    same = [
        tiny_score(folder, context("live"), GOOD, (True,) * 3) for folder in (report.folder, tiny_adapter)
    ]
    assert same[0] == pytest.approx(same[1], abs=1e-5)


def test_the_mismatch_of_engine_and_trainer_is_reported(
    make: Make, tiny_adapter: Path, tiny_score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[dict[str, float]] = []
    see = CollapseMonitor.see

    def noted(self: CollapseMonitor, signs: Mapping[str, float]) -> None:
        notes.append(dict(signs))
        see(self, signs)

    monkeypatch.setattr(CollapseMonitor, "see", noted)
    for shift, mean in ((0.0, 0.0), (0.25, 0.25)):
        engine = Engine(tiny_score, tiny_adapter, shift=shift)
        settings = make(str(shift), steps=1)
        train_grpo(settings, ["a", "b"], engine.roll, engine.publish, progress=lambda _: None)
        # The published adapter is rounded to fp16, so equal is equal to that.
        assert notes[-1]["mismatch_mean"] == pytest.approx(mean, abs=0.01)
        assert notes[-1]["mismatch_most"] == pytest.approx(mean, abs=0.05)
        assert {"reward", "dead_groups", "kl", "entropy", "clip_ratio/region_mean"} <= set(notes[-1])


def test_divergence_is_priced_from_the_current_model_on(
    make: Make, tiny_adapter: Path, tiny_score: Any
) -> None:
    moved = {}
    for kl in (0.0, 30.0):
        engine = Engine(tiny_score, tiny_adapter)
        settings = make(str(kl), steps=8, kl=kl, learning_rate=5e-3)
        report = train_grpo(settings, ["a", "b"], engine.roll, engine.publish, progress=lambda _: None)
        moved[kl] = sum(
            abs(
                tiny_score(report.folder, context("a"), GOOD, flag)
                - tiny_score(tiny_adapter, context("a"), GOOD, flag)
            )
            for flag in ((True, False, False), (False, True, False))
        )
    assert moved[30.0] < moved[0.0] / 2


def test_a_killed_run_makes_its_round_again_and_ends_with_the_same_weights(
    make: Make, tiny_adapter: Path, tiny_score: Any, tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    goals = ["a", "b", "c"]

    def go(settings: GrpoConfig, progress: Callable[[Any], None]) -> Any:
        engine = Engine(lambda *_: -1.0, tiny_adapter)
        return train_grpo(settings, goals, engine.roll, engine.publish, progress=progress)

    def die(shown: Any) -> None:
        if shown.step == 2:
            raise Killed

    go(make("a", steps=3), lambda _: None)
    broken = make("b", steps=3, checkpoint_minutes=0)
    with pytest.raises(Killed):
        go(broken, die)
    rest: list[int] = []
    go(broken, lambda shown: rest.append(shown.step))
    assert rest == [2, 3]
    one, two = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["weights"] for name in ("a", "b")
    )
    assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))


def test_attempts_that_never_earn_anything_stop_the_run(make: Make, tiny_adapter: Path) -> None:
    def roll(goals: Sequence[str], attempts: int) -> list[list[Trajectory]]:
        row = (*context("a"), 5, 6)
        one = Trajectory(row, (False,) * 16 + (True, True), (0.0,) * 18, 0.0)
        return [[one] * attempts for _ in goals]

    with pytest.raises(Collapse, match="no attempt earned a reward in 5 steps"):
        train_grpo(make(steps=9), ["a"], roll, lambda _: None, progress=lambda _: None)
    with pytest.raises(UsageError, match="no goals"):
        train_grpo(make("x"), [], roll, lambda _: None)
    with pytest.raises(UsageError, match="1 groups of attempts came for 2 goals"):
        train_grpo(make("y"), ["a", "b"], lambda goals, n: roll(goals[:1], n), lambda _: None)


@pytest.mark.parametrize(
    ("name", "usual", "bad"),
    [
        ("entropy", 0.4, 0.01),
        ("entropy", 0.4, 3.0),
        ("length", 60, 10),
        ("length", 60, 400),
        ("repetition", 0.1, 0.9),
    ],
)
def test_signs_of_collapse(tmp_path: Path, name: str, usual: float, bad: float) -> None:
    sentinel = CollapseMonitor(tmp_path / "collapse.json")
    for _ in range(monitor.SETTLE):
        sentinel.see({name: usual})
    for value in (bad, bad, usual, bad, bad):
        sentinel.see({name: value})  # never three in a row
    again = CollapseMonitor(tmp_path / "collapse.json")  # a resumed run is held to the same
    again.see({name: bad})
    again.see({name: bad})
    with pytest.raises(Collapse, match=f"{name} is .* current model is kept"):
        again.see({name: bad})


def test_a_loss_that_is_no_number_stops_at_once(tmp_path: Path) -> None:
    with pytest.raises(Collapse, match="nan"):
        CollapseMonitor(tmp_path / "collapse.json").see({"loss": float("nan")})


def test_repetition_counts_the_models_own_words() -> None:
    assert monitor.repetition([1, 2, 3, 4, 5, 6, 7], [True] * 7) == 0
    assert monitor.repetition([1] * 12, [True] * 12) == pytest.approx(8 / 9)
    assert monitor.repetition([1] * 12, [False] * 12) == 0
