"""The gate's last look: conversations may not get worse, whatever goals say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.paths import ROOT
from support.pupil import School, goals, study

from autogpt.agent.evaluate import statistics
from autogpt.agent.goals.load import Conversation, load_conversations
from autogpt.agent.learn import gate, goal_split
from autogpt.agent.learn.gate import Gate, Side
from autogpt.tools.registry import Registry


def test_the_shipped_sessions_are_none_of_the_suite() -> None:
    shipped = gate.shipped_sessions()
    suite = load_conversations(ROOT / "benchmarks" / "suites" / "conversations.jsonl")
    assert len(shipped) == len({one.id for one in shipped}) == 36
    assert all(len(one.turns) >= 3 and all(turn.check for turn in one.turns) for one in shipped)
    known = [(one.files, one.turns) for one in suite]  # some wordings recur, over other notes and numbers
    assert not any((one.files, one.turns) in known for one in shipped)


class Talker:
    """Stands for a model that achieves the first so many messages of every session."""

    def __init__(self, achieves: int) -> None:
        self.achieves = achieves


def held(suite: str, sessions: Sequence[Conversation], model: Any, registry: Any) -> Any:
    (session,) = sessions
    good = model.achieves
    return SimpleNamespace(
        rows=[
            SimpleNamespace(status="achieved" if n < good else "not_met") for n in range(len(session.turns))
        ]
    )


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[Conversation]:
    monkeypatch.setattr(gate, "converse", held)
    return gate.shipped_sessions()[:12]


def test_scores_are_shares_of_messages_and_kept(sessions: list[Conversation], tmp_path: Path) -> None:
    loaded: list[str] = []

    def side(name: str, achieves: int) -> Side:
        def load() -> Any:
            loaded.append(name)
            return Talker(achieves)

        return Side(name, f"{name} {achieves}", load)

    told: list[tuple[str, int, int]] = []

    def pairs() -> list[statistics.Pair]:
        sides = side("current", 2), side("candidate", 1)
        return Gate(*sides, Registry(), tmp_path, 1, lambda *seen: told.append(seen)).converse(sessions)

    first = pairs()
    assert [pair.current for pair in first] == [2 / len(one.turns) for one in sessions]
    assert all(pair.candidate == pair.current / 2 and pair.category == "conversations" for pair in first)
    assert loaded == ["current", "candidate"] and told[-1] == ("candidate, conversations", 12, 12)
    assert pairs() == first and len(loaded) == 2  # nothing is held twice


def test_only_a_fall_beyond_chance_keeps_the_old_model() -> None:
    promote = statistics.Verdict("promote", "better", 100, 100, 20, 2, 0.001, ())

    def row(worse: int, better: int) -> statistics.Row:
        after = [0.5] * worse + [1.0] * better + [0.75] * (36 - worse - better)
        pairs = [statistics.Pair(str(n), "conversations", 0.75, score) for n, score in enumerate(after)]
        return statistics.table(pairs)[0]

    assert gate.guarded(promote, row(6, 5)) is promote
    verdict = gate.guarded(promote, row(20, 3))
    assert (verdict.decision, verdict.worse) == ("keep", ("conversations",))
    assert "75% to 63% of 36 sessions' messages" in verdict.reason


@pytest.mark.usefixtures("nano_in_use")
@pytest.mark.parametrize(("achieves", "decision"), [(3, "promoted"), (1, "kept")])
def test_a_better_candidate_that_forgot_to_converse_is_kept_out(
    achieves: int,
    decision: str,
    sessions: list[Conversation],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Forgetful(School):
        def load(self, adapter: Path | None) -> Any:
            model = super().load(adapter)
            model.achieves = 3 if adapter is None else achieves
            return model

    monkeypatch.setattr(gate, "shipped_sessions", lambda: sessions)
    monkeypatch.setattr(goal_split, "shipped_gate", lambda: goals(40, 5000))
    report = study(Forgetful, goals=goals(40), gate_goals=None)
    assert report.decision == decision, report.reason
    (row,) = [row for row in report.rows if row.category == "conversations"]
    assert row.n == 12 and row.worse is (decision == "kept")
    assert ("conversations got worse" in report.reason) is (decision == "kept")
