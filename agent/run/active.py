"""A run under way in this process: its goal, its journal, its workbench, and how it ends.

Ending has three steps, each safe to be killed in: the goal's checks (recorded verdicts stand when it
is resumed), delivery (doing it again changes nothing), and ``run.ended``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from ...errors import UserError
from ..goals.checks import CheckVerdict, reward, run_checks
from ..goals.load import Goal
from ..record.events import CheckResult, Event, RunEnded, RunInterrupted, RunStarted, ToolIntent
from ..record.journal import DatabaseJournal
from ..record.result import resolved_answer, stub_calls
from .deliver import deliver
from .loop import Act, Stop, Think
from .memory import RunMemory
from .steps import Workbench
from .verdict import verdict_of

_E = TypeVar("_E", bound=Event)


@dataclass
class ActiveRun:
    """A run that this process owns. Made by ``Runner.start`` and ``Runner.reopen``."""

    goal: Goal
    journal: DatabaseJournal
    bench: Workbench
    memory: RunMemory
    prepared: dict[str, str]
    """Hashes of the workspace's files that may be written, as they were prepared."""
    on_event: Callable[[str, Event], None] | None = None
    stopped: Stop | None = None
    """Why there is nothing to do now: it ended, or waits for a person or a message."""
    asked: Think | None = None
    """What the model is answering, where several runs go side by side."""

    @property
    def id(self) -> str:
        """The run's id, which is also the model's session."""
        return self.journal.run

    @property
    def events(self) -> Sequence[Event]:
        """The run's events so far."""
        return self.journal.events

    @property
    def started(self) -> RunStarted:
        """The run's first event."""
        first = self.journal.events[0]
        assert isinstance(first, RunStarted)
        return first

    @property
    def workspace(self) -> Path:
        """Where the run works."""
        return self.bench.context.workspace

    def append(self, event: _E) -> _E:
        """Commit an event, then tell whoever listens."""
        kept = self.journal.append(event)
        if self.on_event:
            self.on_event(self.id, kept)
        return kept

    def interrupt(self, cause: str) -> None:
        """Record that the run stops for now; where a full disk prevents it, it resumes all the same."""
        with contextlib.suppress(UserError):
            self.append(RunInterrupted(cause=cause))

    def lost_intent(self, act: Act) -> ToolIntent | None:
        """Return the committed intent of ``act``, which ``decide`` asks for as it has no outcome."""
        for event in reversed(self.events):
            if isinstance(event, ToolIntent) and event.call_id == act.call_id:
                return event
        return None

    def value(self, answer: Any) -> Any:
        """Return an answer with its handles replaced; one that names no handle of ours stays text."""
        return resolved_answer(answer, self.bench.values(self.events))

    def stop(self, stop: Stop) -> None:
        """Carry out a ``Stop`` of a goal: check and deliver if the model finished, then end."""
        match stop.status:
            case "finished":
                self._finish(stop.answer)
            case "limit":
                self.end("limit", stop.cause)
            case "failed":
                self.end("not_met", stop.cause)

    def _finish(self, answer: Any) -> None:
        value = self.value(answer)
        verdicts = [
            CheckVerdict(event.index, event.kind, event.passed, event.detail, event.score)
            for event in self.events
            if isinstance(event, CheckResult)
        ]
        if len(verdicts) < len(self.goal.check):
            found = run_checks(self.goal, value, self.workspace, stub_calls(self.events))
            for fresh in found[len(verdicts) :]:
                verdicts.append(fresh)
                self.append(CheckResult(**vars(fresh)))
        delivered = deliver(
            self.workspace,
            Path(self.started.folder),
            may_write(self.goal),
            self.started.destinations,
            self.prepared,
            self.id,
        )
        grants = may_write(self.goal)
        verdict = verdict_of(self.events, value, verdicts, self.workspace, grants, delivered)
        self.end(verdict.status, verdict.cause, value, reward(verdicts), delivered)

    def end(
        self,
        status: Literal["achieved", "answered", "error", "not_met", "limit", "needs_person"],
        cause: str,
        answer: Any = None,
        points: float | None = None,
        delivered: Sequence[str] = (),
    ) -> None:
        """Append ``run.ended``. A goal with checks that did not get to them is worth nothing."""
        if points is None and self.goal.check and status != "achieved":
            points = 0.0
        if self.started.memory:
            for event in self.memory.conclude(self.events, status, answer):
                self.append(event)
        ended = RunEnded(status=status, cause=cause, answer=answer, reward=points, delivered=list(delivered))
        self.append(ended)


def may_write(goal: Goal) -> list[str]:
    """Return the write grants of a goal: what is delivered when it ends."""
    return goal.grants.write if goal.grants else []
