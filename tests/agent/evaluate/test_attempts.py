"""Several attempts at a goal: which are made, and what tells their draws apart."""

from __future__ import annotations

from support.pupil import Pupil, goals

from autogpt.agent.evaluate.attempts import roll, seed_of
from autogpt.tools.registry import builtins


def made(k: int | list[list[int]], seed: int = 1) -> dict[tuple[int, int], object]:
    """The answer of each attempt, by goal and number."""
    rolled = roll(goals(3), k, Pupil(0.5, "pupil"), seed, registry=builtins(), temperature=1.0, parallel=2)
    return {(place, number): episode.result and episode.result.answer for place, number, episode in rolled}


def test_every_goal_is_attempted_as_often_as_asked() -> None:
    assert set(made(2)) == {(place, number) for place in range(3) for number in range(2)}
    assert set(made([[0, 3], [], [1]])) == {(0, 0), (0, 3), (2, 1)}


def test_attempts_at_a_goal_differ_and_a_seed_repeats_them() -> None:
    first = made(16)
    assert all(len({first[place, number] for number in range(16)}) == 2 for place in range(3))
    assert made(16) == first != made(16, seed=2)


def test_seeds_depend_on_every_part() -> None:
    seeds = {seed_of(0, "a", 1), seed_of(0, "a", 2), seed_of(0, "b", 1), seed_of(1, "a", 1)}
    assert len(seeds) == 4 and seed_of(0, "a", 1) in seeds and all(0 <= seed < 1 << 31 for seed in seeds)
