"""Evaluation: a suite of goals through the rollout driver, reported as one table and one JSON object.

``evaluate`` answers "how often does this model achieve these goals?" with a Wilson interval, the mean
of scored checks with a bootstrap interval, invalid calls, times, and how often plans were followed.
``converse`` does the same for scripted sessions. Suites are stored in random order, so the first N
goals are a fair draw and the same for everybody; the seed is the sampling's.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...llm.message import Model
from ...tools.registry import Registry
from ..goals.checks import reward, run_checks
from ..goals.load import Conversation, Goal
from ..record.events import PersonAnswered, PersonSaid
from ..record.result import RunResult, summarise
from ..record.state import State, input_names
from ..run.memories import SuiteMemories
from ..run.rollout import Episode, Rollout
from .statistics import bootstrap, wilson


@dataclass(frozen=True)
class Evaluation:
    """The report of a suite; :meth:`as_json` is what ``--json`` writes."""

    suite: str
    model: str
    rows: list[RunResult]
    seed: int = 0
    """Of the sampling; models are compared under the same one."""

    @property
    def passed(self) -> int:
        """Number of goals achieved."""
        return sum(row.status == "achieved" for row in self.rows)

    def by_category(self) -> dict[str, dict[str, Any]]:
        """Return n, passed and rate per category, in order of first appearance."""
        groups: dict[str, list[RunResult]] = {}
        for row in self.rows:
            groups.setdefault(row.category or "all", []).append(row)
        return {name: _rates(rows) for name, rows in groups.items()}

    def as_json(self) -> dict[str, Any]:
        """Return the whole report. ``answered`` counts the goals that have no checks: they are not passed."""
        scores = [check["score"] for row in self.rows for check in row.checks if check["score"] is not None]
        plans = [row.plan_followed for row in self.rows if row.plan_followed is not None]
        seconds = [row.seconds["total"] for row in self.rows]
        report: dict[str, Any] = {
            "suite": self.suite,
            "model": self.model,
            "seed": self.seed,
            **_rates(self.rows),
            "answered": sum(row.status == "answered" for row in self.rows),
            "invalid_calls": sum(row.invalid_calls for row in self.rows),
            "tool_calls": sum(row.tool_calls for row in self.rows),
            "plan_followed": round(statistics.fmean(plans), 4) if plans else None,
            "seconds_median": round(statistics.median(seconds), 3) if seconds else None,
            "by_category": self.by_category(),
        }
        if scores:
            report["mean_score"] = round(statistics.fmean(scores), 4)
            report["mean_score95"] = [round(value, 4) for value in bootstrap(scores)]
        report["rows"] = [row.model_dump(mode="json") for row in self.rows]
        return report


def _rates(rows: Sequence[RunResult]) -> dict[str, Any]:
    passed = sum(row.status == "achieved" for row in rows)
    low, high = wilson(passed, len(rows))
    rate = passed / len(rows) if rows else 0.0
    return {
        "n": len(rows),
        "passed": passed,
        "pass_rate": round(rate, 4),
        "wilson95": [round(low, 4), round(high, 4)],
    }


def evaluate(
    suite: str,
    goals: Sequence[Goal],
    model: Model,
    registry: Registry,
    *,
    seed: int = 0,
    samples: int = 1,
    parallel: int = 16,
    best_of: int = 1,
    plan: bool = True,
    memories: SuiteMemories | None = None,
    on_done: Callable[[Episode], None] | None = None,
) -> Evaluation:
    """Run ``goals`` ``samples`` times each (greedy when once, else at temperature 0.7) and report.

    ``best_of`` candidates are written for each turn. ``plan=False`` lets runs start without a plan, to
    measure what planning gains. With ``memories`` each goal has its own memory, which its ``earlier``
    goals fill first; they are not judged.
    """
    rows: list[RunResult] = []
    for sample in range(samples):
        temperature = 0.0 if samples == 1 else 0.7
        rollout = Rollout(
            model,
            registry,
            parallel=parallel,
            seed=seed + sample,
            temperature=temperature,
            best_of=best_of,
            plan=plan,
            memory=memories.of if memories else None,
        )
        if memories:
            _run_earlier(rollout, goals, memories)
        for number, episode in sorted(_ended(rollout, goals, memories, on_done)):
            assert episode.result is not None, number
            rows.append(episode.result)
    return Evaluation(suite, model.name, rows, seed)


def _run_earlier(rollout: Rollout, goals: Sequence[Goal], memories: SuiteMemories) -> None:
    """Run what goals have ``earlier``: first what comes first for each of them, then what comes next."""
    for place in range(max((len(goal.earlier) for goal in goals), default=0)):
        with_more = [goal for goal in goals if len(goal.earlier) > place]
        before = [Goal(goal=goal.earlier[place], id=f"{goal.id}/{place + 1}") for goal in with_more]
        for goal, first in zip(with_more, before, strict=True):
            memories.share(goal, first)
        rollout.run(before)


def _ended(
    rollout: Rollout,
    goals: Sequence[Goal],
    memories: SuiteMemories | None,
    on_done: Callable[[Episode], None] | None,
) -> Iterator[tuple[int, Episode]]:
    try:
        for number, episode in rollout.stream(goals):
            if memories:
                memories.close(goals[number])
            if on_done:
                on_done(episode)
            yield number, episode
    finally:
        if memories:
            memories.close_all()


def converse(
    suite: str,
    sessions: Sequence[Conversation],
    model: Model,
    registry: Registry,
    on_done: Callable[[RunResult], None] | None = None,
    best_of: int = 1,
) -> Evaluation:
    """Run scripted sessions; every message is a row, its category the turn's number.

    A row is achieved when the message was answered and its checks passed; without checks it is answered.
    What comes later in the session does not count against it, nor does what went wrong before, as far as
    its checks allow.
    """
    rows: list[RunResult] = []
    for session in sessions:
        for row in _session(session, Rollout(model, registry, parallel=1, best_of=best_of)):
            rows.append(row)
            if on_done:
                on_done(row)
    return Evaluation(suite, model.name, rows)


def _session(session: Conversation, rollout: Rollout) -> list[RunResult]:
    goal = Goal(
        goal=session.id,
        id=session.id,
        inputs=session.inputs,
        files=session.files,
        tools=session.tools,
        limits=session.limits,
    )
    episode = rollout.open(goal, mode="chat")
    try:
        return [
            _message(episode, rollout, number, turn.say, goal.model_copy(update={"check": turn.check}))
            for number, turn in enumerate(session.turns)
        ]
    finally:
        episode.close()


def _message(episode: Episode, rollout: Rollout, number: int, text: str, goal: Goal) -> RunResult:
    """Say ``text`` and judge the answer by the checks of ``goal``; a waiting question takes it as answer."""
    begun = len(episode.events)
    if State.of(episode.events).waiting is not None:
        episode.append(PersonAnswered(text=text))
    else:
        inputs = input_names(goal.model_dump(mode="json")) if number == 0 else []
        episode.append(PersonSaid(text=text, inputs=inputs))
    rollout.work(episode)
    state = State.of(episode.events)
    value = episode.value(state.answer) if state.finished else None
    verdicts = run_checks(goal.check, value, episode.workspace)
    met = state.finished and all(verdict.passed for verdict in verdicts)
    good = "achieved" if verdicts else "answered"
    row = summarise([episode.events[0], *episode.events[begun:]])
    found = {
        "id": f"{goal.id}/{number + 1}",
        "status": good if met else "not_met",
        "checked": bool(verdicts),
        "answer": value,
        "reward": reward(verdicts) if state.finished else 0.0,
        "checks": [vars(verdict) for verdict in verdicts],
        "category": f"turn {number + 1}",
    }
    return row.model_copy(update=found)


def write_report(evaluation: Evaluation, path: Path) -> None:
    """Write the report as JSON."""
    path.write_text(json.dumps(evaluation.as_json(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
