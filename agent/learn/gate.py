"""The promotion gate: the candidate and the current model on the same held-out goals, look by look.

Results are kept under ``home/improve/gate``, by the model's fingerprint and the goal's own hash: runs are
greedy, so the same model gives the same result, and neither a kill nor the next round plays a goal again.
Both models play a stretch of the goals, the gate looks, and a clear case ends there.

Goals are single. A model that practised them forgot to follow up in conversations (17 points of a suite,
`LOG.md`), and no goal of the gate saw it. So before a promotion, and only then because it takes a minute or
two per model, both models hold the sessions that ship with the gate. A session's score is the share of its
messages that were achieved; sessions are what is compared.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...files import sha256_of
from ...llm.message import Model
from ...tools.registry import Registry
from ..evaluate import statistics
from ..evaluate.attempts import roll
from ..evaluate.statistics import Pair, RankTest, Row, Verdict
from ..evaluate.suite import converse
from ..goals.compare import as_text
from ..goals.load import Conversation, Goal, load_conversations
from .goal_split import OWN
from .samples import calls_in
from .work import Record, rows

if TYPE_CHECKING:
    from ...llm.training import logprobs
    from ...llm.training.preference import Rated

LEAST_RATED = 8
"""Held-out ratings from which they have a say."""
LOWER = -0.03
"""Where tasks do not decide, the interval of their difference may reach down to this."""
OWN_ALPHA = 0.02
"""Level of the test on the user's own held-out goals, two-sided."""
ANSWER = 300
"""Characters of an answer that are kept for the page."""
SESSIONS = Path(__file__).parent / "held_out" / "sessions.jsonl.zst"
CONVERSATIONS = "conversations"

Played = Callable[[str, int, int], None]
"""Told which model plays, and how many of how many goals are played."""


@dataclass(frozen=True)
class Side:
    """One of the two models. ``fingerprint`` names its results; ``load`` is called when some are missing."""

    name: str
    fingerprint: str
    load: Callable[[], Model]


@dataclass(frozen=True)
class Gate:
    """Both models, and what they play with; ``folder`` keeps their results."""

    current: Side
    candidate: Side
    registry: Registry
    folder: Path
    parallel: int
    on_done: Played

    def play(
        self, goals: Sequence[Goal], planned: int, looks: Sequence[float] = statistics.LOOKS
    ) -> tuple[list[Pair], Verdict]:
        """Play up to ``planned`` goals and decide at ``looks``, rising shares of them."""
        pairs: list[Pair] = []
        for share in looks:
            stretch = goals[len(pairs) : min(planned, math.ceil(share * planned))]
            before, after = (self._results(stretch, side) for side in (self.current, self.candidate))
            pairs += [
                Pair(goal.id, goal.category or "all", float(mine["achieved"]), float(theirs["achieved"]))
                for goal, mine, theirs in zip(stretch, before, after, strict=True)
            ]
            verdict = statistics.judge(pairs, planned, looks)
            own = own_gain(pairs)
            if verdict.decision == "keep" and own and no_worse(verdict, pairs):
                verdict = replace(verdict, decision="promote", reason=own, seen=len(pairs))
            if verdict.decision == "promote" or (verdict.decision == "keep" and not own):
                break
        return pairs, verdict

    def converse(self, sessions: Sequence[Conversation]) -> list[Pair]:
        """Hold the sessions with both models; returns a pair per session."""
        before, after = (self._scores(sessions, side) for side in (self.current, self.candidate))
        return [
            Pair(session.id, CONVERSATIONS, mine, theirs)
            for session, mine, theirs in zip(sessions, before, after, strict=True)
        ]

    def changed(self, goals: Sequence[Goal], most: int) -> dict[str, list[Record]]:
        """Return up to ``most`` goals each that only the candidate achieved, and only the current model."""
        found: dict[str, list[Record]] = {"won": [], "lost": []}
        before, after = (self._results(goals, side) for side in (self.current, self.candidate))
        for goal, mine, theirs in zip(goals, before, after, strict=True):
            side = found["won" if theirs["achieved"] else "lost"]
            if mine["achieved"] != theirs["achieved"] and len(side) < most:
                side.append({"category": goal.category, "goal": goal.goal, "before": mine, "after": theirs})
        return found

    def _results(self, goals: Sequence[Goal], side: Side) -> list[Record]:
        """Return what a model did on the goals (achieved, status, answer, said); plays the missing ones."""
        file = rows(self.folder / f"{side.fingerprint[:32]}.jsonl")
        known = {row["goal"]: row for row in file.read() if "achieved" in row}
        keys = [goal_key(goal) for goal in goals]
        missing = [goal for goal, key in zip(goals, keys, strict=True) if key not in known]
        if missing:
            attempts = roll(
                missing, 1, side.load(), 0, registry=self.registry, temperature=0.0, parallel=self.parallel
            )
            for count, (place, _, episode) in enumerate(attempts, start=1):
                result = episode.result
                assert result is not None
                row = {
                    "goal": goal_key(missing[place]),
                    "achieved": result.status == "achieved",
                    "status": result.status,
                    "answer": as_text(result.answer)[:ANSWER],
                    "said": calls_in(episode.events)[: 4 * ANSWER],
                }
                file.add(row)
                known[row["goal"]] = row
                self.on_done(side.name, len(goals) - len(missing) + count, len(goals))
        return [{key: value for key, value in known[one].items() if key != "goal"} for one in keys]

    def _scores(self, sessions: Sequence[Conversation], side: Side) -> list[float]:
        """Return a model's score in each session; holds the missing ones."""
        file = rows(self.folder / f"talk-{side.fingerprint[:32]}.jsonl")
        known = {row["session"]: float(row["score"]) for row in file.read()}
        keys = [_hash(session.model_dump_json()) for session in sessions]
        missing = [(key, one) for key, one in zip(keys, sessions, strict=True) if key not in known]
        model = side.load() if missing else None
        for number, (key, session) in enumerate(missing, start=1):
            assert model is not None
            said = converse("gate", [session], model, self.registry).rows
            known[key] = sum(row.status in ("achieved", "answered") for row in said) / len(said)
            file.add({"session": key, "score": known[key]})
            self.on_done(
                f"{side.name}, {CONVERSATIONS}", len(sessions) - len(missing) + number, len(sessions)
            )
        return [known[key] for key in keys]


def shipped_sessions() -> list[Conversation]:
    """Return the sessions that ship for judging."""
    return load_conversations(SESSIONS)


def size(usual: int, planned: int | None, available: int) -> int:
    """Return how many goals a gate plays at most: ``planned`` by a person, else the method's ``usual``."""
    return min(max(planned or usual, statistics.MIN_GOALS), available)


def goal_key(goal: Goal) -> str:
    """Return what a result is kept under: a hash of all that the goal says, and of its inputs' contents."""
    inputs = [sha256_of(path) if path.is_file() else str(path) for path in goal.input_paths()]
    record = [goal.model_dump(mode="json", exclude={"category", "inputs"}), inputs]
    return _hash(json.dumps(record, sort_keys=True))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def moved(held: Sequence[Rated], change: Callable[[Sequence[logprobs.Row]], Sequence[float]]) -> RankTest:
    """Return whether good answers gained more than bad ones; ``change``: log-probability, new less old.

    Changes are taken per token and compared with each other, because any training makes answers likelier or
    less likely as a whole.
    """
    from ...llm.training.logprobs import Row as TokenRow

    rated = [
        TokenRow([*one.context, *one.ids], [*[False] * len(one.context), *map(bool, one.mask)])
        for one in held
    ]
    changes = [value / max(1, sum(one.mask)) for value, one in zip(change(rated), held, strict=True)]
    return statistics.rank_test(changes, [one.good for one in held])


def own_gain(pairs: Sequence[Pair]) -> str:
    """Return the reason to promote for a gain on the user's own held-out goals; empty if chance explains it.

    They are too few to move the whole gate. Equal models pass this test in less than 1 % of gates (half of
    :data:`OWN_ALPHA`), which adds to the gate's own 2.5 %.
    """
    differences = [pair.candidate - pair.current for pair in pairs if pair.category.startswith(OWN)]
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    p = statistics.mcnemar(wins, losses)
    if wins <= losses or p >= OWN_ALPHA:
        return ""
    return f"better on your own goals ({wins} won, {losses} lost, p = {p:.2g}), others no worse"


def no_worse(verdict: Verdict, pairs: Sequence[Pair]) -> bool:
    """Return whether tasks are no worse: nothing fell by more than noise, and little can have fallen."""
    fell = verdict.losses > verdict.wins and verdict.p < 0.05
    return not fell and not statistics.fallen_categories(pairs) and _lowest(pairs) >= LOWER


def _lowest(pairs: Sequence[Pair]) -> float:
    return statistics.bootstrap([pair.candidate - pair.current for pair in pairs])[0]


def with_feedback(verdict: Verdict, pairs: Sequence[Pair], feedback: RankTest) -> Verdict:
    """Return the verdict on a candidate that was trained on people's feedback.

    It is promoted when held-out ratings moved its way (p < 0.05) and tasks are not worse: no category fell
    by more than its noise, and the interval of the whole difference does not reach below :data:`LOWER`.
    """
    if verdict.decision == "promote" or (verdict.losses > verdict.wins and verdict.p < 0.05):
        return verdict
    if feedback.wins > feedback.losses and feedback.p < 0.05 and no_worse(verdict, pairs):
        share = feedback.wins / (feedback.wins + feedback.losses)
        reason = (
            f"held-out ratings moved its way ({share:.0%} of pairs, p = {feedback.p:.2g}), tasks no worse"
        )
        return replace(verdict, decision="promote", reason=reason)
    low = _lowest(pairs)
    why = f"tasks may be worse ({low * 100:+.1f} points)" if low < LOWER else "held-out ratings did not move"
    return replace(verdict, reason=why, worse=statistics.fallen_categories(pairs))


def guarded(verdict: Verdict, row: Row) -> Verdict:
    """Return the verdict, turned to ``keep`` if conversations (``row``) fell by more than chance explains."""
    if not row.worse:
        return verdict
    what = f"{row.current:.0%} to {row.candidate:.0%} of {row.n} sessions' messages"
    reason = f"{CONVERSATIONS} got worse: {what}"
    return replace(verdict, decision="keep", reason=reason, worse=(*verdict.worse, CONVERSATIONS))
