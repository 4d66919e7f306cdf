"""The outcome of a run as one record: what ``--json`` prints and what suites report as rows.

Everything is derived from the events, so a result can be made again for any recorded run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from ...errors import ToolError
from ...tools.handles import resolve
from .events import (
    EXIT_CODES,
    SAID_LATER,
    CheckResult,
    Event,
    MemoryRecalled,
    MemoryWritten,
    ModelTurn,
    RunInterrupted,
    ToolOutcome,
)
from .record import Record


class RunResult(BaseModel):
    """One run, in numbers. Times are seconds; token counts are of the whole run."""

    id: str
    run: str
    status: str
    answer: Any = None
    reward: float | None = None
    checked: bool = False
    """Whether the goal's checks were carried out; without them nobody has looked at the answer."""
    checks: list[dict[str, Any]] = []
    steps: int = 0
    tool_calls: int = 0
    invalid_calls: int = 0
    tokens: dict[str, int] = {}
    """``prompt`` seen, of these ``cached``; ``generated``, of these ``forced``."""
    seconds: dict[str, float] = {}
    """``total`` (recorded work), of these ``model``, ``tools`` and ``memory``."""
    model: str = ""
    journal: str = ""
    cause: str = ""
    category: str | None = None
    plan_followed: bool | None = None
    """Whether the tools were called in the order of the plan in force; None without a plan."""
    delivered: list[str] = []

    @property
    def exit_code(self) -> int:
        """The process's exit code for this run."""
        return 130 if self.status == "interrupted" else EXIT_CODES.get(self.status, 1)


def summarise(events: Sequence[Event], journal: str = "") -> RunResult:
    """Return the result of the run that ``events`` record, ended or not."""
    record = Record(events)
    started, turns, outcomes, ended = record.started, record.turns, record.outcomes, record.ended
    status = ended.status if ended else "interrupted" if _interrupted(events) else "running"
    model_seconds = sum(turn.seconds for turn in turns)
    tool_seconds = sum(outcome.seconds for outcome in outcomes)
    kept = [event for event in events if isinstance(event, MemoryRecalled | MemoryWritten)]
    memory_seconds = sum(event.seconds for event in kept)
    verdicts = record.of(CheckResult)
    return RunResult(
        id=str(started.goal.get("id") or started.run),
        run=started.run,
        status=status,
        answer=ended.answer if ended else None,
        reward=ended.reward if ended else None,
        checked=bool(verdicts),
        checks=[verdict.model_dump(exclude={"at", "type"}) for verdict in verdicts],
        steps=len(turns),
        tool_calls=sum(1 for outcome in outcomes if outcome.by == "model"),
        invalid_calls=sum(1 for turn in turns if turn.call is None),
        tokens={
            "prompt": sum(turn.prompt_tokens for turn in turns),
            "cached": sum(turn.cached_tokens for turn in turns),
            "generated": sum(len(turn.ids) for turn in turns),
            "forced": sum(sum(turn.forced) for turn in turns),
        },
        seconds={
            "total": round(model_seconds + tool_seconds + memory_seconds, 3),
            "model": round(model_seconds, 3),
            "tools": round(tool_seconds, 3),
            "memory": round(memory_seconds, 3),
        },
        model=started.model,
        journal=journal,
        cause=ended.cause if ended else "",
        category=started.goal.get("category"),
        plan_followed=plan_followed(events),
        delivered=ended.delivered if ended else [],
    )


def plan_followed(events: Sequence[Event]) -> bool | None:
    """Return whether the model's calls are, in order, the tools of the plans that preceded them."""
    planned: list[str] = []
    called: list[str] = []
    for event in events:
        if isinstance(event, ModelTurn) and event.call and event.call["name"] == "plan":
            planned = called + [step["tool"] for step in event.call["arguments"]["steps"]]
        elif isinstance(event, ToolOutcome) and event.by == "model":
            called.append(event.tool)
    return called == planned if planned else None


def resolved_answer(answer: Any, values: Mapping[str, Any]) -> Any:
    """Return the answer with a handle replaced by its value, and handles inside a text filled in.

    An answer that names a handle which does not exist stays as it is.
    """
    try:
        return resolve({"answer": answer}, values)["answer"]
    except ToolError:
        return answer


def stub_calls(events: Sequence[Event]) -> list[tuple[str, dict[str, Any]]]:
    """Return the calls that were made to the goal's stubs, in order, handles replaced by values.

    Arguments that name a handle which does not exist stay as the model said them.
    """
    stubs = {spec.name for spec in Record(events).specs.values() if spec.source == "stub"}
    values: dict[str, Any] = {}
    made: list[tuple[str, dict[str, Any]]] = []
    for event in events:
        if isinstance(event, ToolOutcome) and event.handle and event.blob is None:
            values[event.handle] = event.value
        elif isinstance(event, ModelTurn) and event.call and event.call["name"] in stubs:
            arguments = event.call["arguments"]
            try:
                made.append((event.call["name"], resolve(arguments, values)))
            except ToolError:
                made.append((event.call["name"], arguments))
    return made


def _interrupted(events: Sequence[Event]) -> bool:
    worked = (event for event in reversed(events) if not isinstance(event, SAID_LATER))
    return isinstance(next(worked), RunInterrupted)
