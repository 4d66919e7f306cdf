"""What decides in an improvement beside the gate of tasks: methods, pairs, ratings, own goals, trials."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from support.pupil import goals, words

from autogpt.agent.evaluate import statistics
from autogpt.agent.learn import gate
from autogpt.agent.learn.improve import ImproveOptions
from autogpt.agent.learn.methods import choose
from autogpt.agent.learn.preferences import GAP, attempt_pairs
from autogpt.agent.learn.samples import Attempt, rejection_sample
from autogpt.agent.learn.work import Figures
from autogpt.errors import UsageError
from autogpt.llm.training.preference import Rated
from autogpt.memory.experience import is_solved


def attempt(goal: str, value: float, ids: tuple[int, ...], said: str = "") -> Attempt:
    mask = (False, *(True for _ in ids[1:]))
    return Attempt(
        goal, goal, 0, "words", "practice", "", value, value, ids, mask, (0.0,) * len(ids), 1, said
    )


def test_auto_takes_what_there_is_enough_for() -> None:
    def chosen(parent: str = "", **counts: int) -> str:
        return choose(ImproveOptions(), Figures(**counts), parent).name

    assert chosen() == "sft" and chosen("sft", goals=8) == "grpo"
    assert chosen(pairs=20) == "dpo" and chosen("dpo", pairs=20) == "sft"
    assert chosen("sft") == "sft"  # nothing to try
    assert chosen(thumbs=35, thumbs_up=25, thumbs_down=10) == "kto"
    assert chosen(thumbs=35, thumbs_up=34, thumbs_down=1) == "sft"
    with pytest.raises(UsageError, match="privacy"):
        choose(ImproveOptions(method="kto", dp_epsilon=3), Figures(), "")
    rated = Figures(thumbs=35, thumbs_up=25, thumbs_down=10)
    assert choose(ImproveOptions(dp_epsilon=3), rated, "").name == "sft"  # what can keep the budget
    with pytest.raises(UsageError, match="there are auto, sft, grpo, kto, dpo"):
        choose(ImproveOptions(method="ppo"), rated, "")


def test_pairs_part_at_the_first_token_that_differs() -> None:
    good, bad = attempt("g", 0.9, (1, 5, 6, 7)), attempt("g", 0.9 - GAP, (1, 5, 8))
    (pair,) = attempt_pairs([good, bad, attempt("h", 1.0, (1, 2))])
    assert (pair.context, pair.chosen, pair.rejected) == ((1, 5), (6, 7), (8,))
    assert attempt_pairs([good, attempt("g", 0.8, (1, 9))]) == []


def test_pairs_take_the_ways_that_most_tries_gave() -> None:
    tries = [
        attempt("g", 1.0, (1, 5), "lucky"),
        attempt("g", 1.0, (1, 6), "found twice"),
        attempt("g", 1.0, (1, 6), "found twice"),
        attempt("g", 0.0, (1, 7), "long way round"),
        attempt("g", 0.1, (1, 8), "usual mistake"),
        attempt("g", 0.1, (1, 8), "usual mistake"),
    ]
    (pair,) = attempt_pairs(tries)
    assert (pair.chosen, pair.rejected) == ((6,), (8,))


def test_held_out_ratings_have_a_say_only_where_tasks_are_no_worse() -> None:
    held = [Rated((1,), (2, 3), (True, True), number % 2 == 0) for number in range(20)]
    moved = gate.moved(held, lambda rows: [1.0 if n % 2 == 0 else -1.0 for n in range(len(rows))])
    assert (moved.wins, moved.losses) == (100, 0) and moved.p < 0.001
    still = gate.moved(held, lambda rows: [float(n % 4 < 2) for n in range(len(rows))])
    assert still.p > 0.05
    one_way = gate.moved([replace(one, good=True) for one in held], lambda rows: [1.0] * len(rows))
    assert (one_way.wins, one_way.losses, one_way.p) == (0, 0, 1.0)
    same = [statistics.Pair(str(n), "all", 1.0, 1.0) for n in range(100)]
    verdict = statistics.judge(same, 100, (1.0,))
    assert gate.with_feedback(verdict, same, moved).decision == "promote"
    assert gate.with_feedback(verdict, same, still).decision == "keep"
    worse = [statistics.Pair(str(n), "all", 1.0, float(n > 9)) for n in range(100)]
    assert gate.with_feedback(statistics.judge(worse, 100, (1.0,)), worse, moved).decision == "keep"


def test_fishers_test_is_exact() -> None:
    assert statistics.fisher(1, 4, 3, 4) == pytest.approx(17 / 70)  # Fisher's tea: 1 - 53/70
    assert statistics.fisher(10, 10, 50, 50) == 1.0


def test_a_gain_on_own_goals_promotes_where_the_rest_is_no_worse() -> None:
    own = [statistics.Pair(f"o{n}", "own harbour", 0.0, 1.0) for n in range(8)]
    same = [statistics.Pair(f"s{n}", "tables", float(n % 2), float(n % 2)) for n in range(200)]
    verdict = statistics.judge([*own, *same], 400)
    assert verdict.decision in ("keep", "more")  # eight goals do not move the whole
    assert "8 won, 0 lost" in gate.own_gain([*own, *same]) and gate.own_gain([*own[:6], *same]) == ""
    assert gate.no_worse(verdict, [*own, *same])
    worse = [statistics.Pair(f"w{n}", "words", 1.0, float(n > 15)) for n in range(40)]
    assert not gate.no_worse(verdict, [*own, *same, *worse])
    assert gate.own_gain(same) == ""


def test_own_goals_and_shipped_ones_are_played_in_turn(isolated: Path) -> None:
    from autogpt.agent.learn.goal_split import Drawn, gate_order

    order = gate_order(Drawn(held_out=goals(5)), None, 3)
    assert {goal.goal for goal in order[:10:2]} == set(words(5)) and len(order) == 1345
    seen = Counter(goal.category for goal in order[:200])  # a gate that ends early has seen every category
    assert min(seen[name] for name in ("tables", "words", "files", "workflows")) >= 10
    assert [g.id for g in order] == [g.id for g in gate_order(Drawn(held_out=goals(5)), None, 3)]
    assert order[10:] != gate_order(Drawn(held_out=goals(5)), None, 4)[10:]


def test_half_of_the_checks_is_no_success() -> None:
    half = attempt("g", 0.5, (1, 2))
    assert not half.solved and not is_solved(0.99, "checks") and is_solved(1.0, "checks")
    assert replace(half, earned="person").solved
    assert rejection_sample([half, attempt("g", 0.4, (1, 3))], 2) == []
