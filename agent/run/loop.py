"""The loop: a pure function from what happened to what comes next.

``decide(events, tools)`` returns one of eight requests: :class:`Think` (ask the model, with the calls
that are allowed now), :class:`Act` (run this call), :class:`Ask` (a person must answer),
:class:`Recall` or :class:`Remember` (in runs with a memory), :class:`FindTools` (where not all tools
are described), :class:`Compact` (compact a conversation that
has grown too long) or :class:`Stop`.
Drivers (``runner`` on disk, ``rollout`` in memory, ``replay`` over a record) carry requests out and
append what happened. Planning, limits and loop detection are read from the events;
nothing is remembered elsewhere, so resuming is deciding again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ...llm.message import CallSpec, Message, Prompt, Sampling
from ...tools.base import Tool
from ...tools.tables.read import TABLE_SUFFIXES
from ..record.events import STOPPED, Event, PersonSaid
from ..record.state import State
from ..record.transcript import messages
from .calls import allowed_calls, is_stuck

MAX_INVALID = 3
MAX_REPEATS = 3
MAX_DOUBTS = 3
"""Turns in a row with less than the chance that the goal's limits ask for: then there is no hope."""
UNSTUCK = 0.7
"""The temperature, at least, of a turn after a repeated call or several failed ones."""
CONVERSATION = 3000
"""Tokens of a conversation beyond which its oldest part is compacted: what small models still read well."""


@dataclass(frozen=True)
class Think:
    """Ask the model."""

    conversation: tuple[Message, ...]
    calls: tuple[CallSpec, ...]
    judged: bool = False
    """Whether the chance of success is wanted with the answer."""
    stuck: bool = False
    """Whether a call repeated an earlier one and its result, or several in a row have failed."""

    def prompt(self, session: str, sampling: Sampling) -> Prompt:
        """Return the request to a model; one that is stuck would greedily say the same again."""
        warmer = max(sampling.temperature, UNSTUCK) if self.stuck else sampling.temperature
        sampling = replace(sampling, judged=sampling.judged or self.judged, temperature=warmer)
        return Prompt(session, self.conversation, self.calls, sampling)


@dataclass(frozen=True)
class Act:
    """Run a call: the model's, or an inspection that needs no decision (``by="driver"``)."""

    call_id: str
    tool: str
    arguments: dict[str, Any]
    by: Literal["model", "driver"] = "model"


@dataclass(frozen=True)
class Ask:
    """A person must answer a question, or approve a call."""

    kind: Literal["question", "approval"]
    text: str
    call_id: str | None = None


@dataclass(frozen=True)
class Stop:
    """Nothing more to do. ``finished`` still has its checks before it; others end at once.

    ``idle`` is a conversation waiting for the next message.
    """

    status: Literal["finished", "idle", "limit", "failed", "ended"]
    cause: str
    answer: Any = None


@dataclass(frozen=True)
class Recall:
    """Look into the memory: for the model, or once per goal or message for the driver."""

    query: str
    by: Literal["model", "driver"] = "model"


@dataclass(frozen=True)
class Remember:
    """Ask the memory to keep what the model says."""

    text: str


@dataclass(frozen=True)
class FindTools:
    """Look for tools that are not described yet: for the model, or once per message for the driver."""

    query: str
    by: Literal["model", "driver"] = "model"


@dataclass(frozen=True)
class Compact:
    """Take the exchanges before event ``upto`` out of a conversation's prompt, into memory."""

    upto: int


Request = Think | Act | Ask | Recall | Remember | FindTools | Compact | Stop


def decide(events: Sequence[Event], tools: Mapping[str, Tool]) -> Request:
    """Return what to do next. ``tools`` are the run's tools by name, in registry order."""
    state = State.of(events)
    if state.ended:
        return Stop("ended", state.ended.cause, state.ended.answer)
    if state.finished:
        status: Literal["finished", "idle"] = "idle" if state.started.mode == "chat" else "finished"
        return Stop(status, "the model finished", state.answer)
    if state.prompt_refused:
        return Stop("failed", state.prompt_refused)
    if state.stopped:
        return Stop("idle", STOPPED)
    inspection = _inspection(state, tools)
    if inspection:
        return inspection
    if state.started.mode == "chat" and _waits_for_message(events):
        return Stop("idle", "waiting for a message")
    upto = _too_long(state)
    if upto:
        return Compact(upto)
    if state.started.mode == "chat" and state.hidden_tools and not state.fitted:
        return FindTools(state.said, "driver")
    if state.tool_query is not None:
        return FindTools(state.tool_query)
    if state.started.memory and not state.looked_back:
        return Recall(state.said, "driver")
    if state.memory_call:
        name, text = state.memory_call
        return Remember(text) if name == "remember" else Recall(text)
    if state.waiting:
        return Ask(state.waiting.kind, state.waiting.text, state.waiting.call_id)
    if state.question is not None:
        return Ask("question", state.question)
    if state.pending:
        return Act(*state.pending)
    exhausted = _exhausted(state)
    if exhausted:
        return exhausted
    judged = bool(state.started.limits.get("chance"))
    return Think(messages(events), allowed_calls(state, tools), judged, is_stuck(state) or state.repeats > 0)


def _waits_for_message(events: Sequence[Event]) -> bool:
    return not any(isinstance(event, PersonSaid) for event in events)


def _too_long(state: State) -> int:
    """Return from which message on a conversation fits its budget again, or 0 where it does now.

    Asked when a new message has come; that and the one before it always stay.
    """
    if state.started.mode != "chat" or state.looked_back or state.turns:
        return 0
    most = min(CONVERSATION, state.started.context * 3 // 4 or CONVERSATION)
    if state.context <= most:
        return 0
    starts = list(state.messages)[:-1]
    for start in starts[1:]:
        if state.context - state.messages[start] <= most // 2 or start == starts[-1]:
            return start
    return 0


def _inspection(state: State, tools: Mapping[str, Tool]) -> Act | None:
    """Look at the inputs before the model does: describe tables, list other files."""
    others = False
    for path in state.inputs:
        if "tables.describe" in tools and path.lower().endswith(TABLE_SUFFIXES):
            if f"d:{path}" not in state.inspected:
                return Act(f"d:{path}", "tables.describe", {"path": path}, "driver")
        else:
            others = True
    key = f"d:list{len(state.inputs)}"
    if others and "files.list" in tools and key not in state.inspected:
        return Act(key, "files.list", {}, "driver")
    return None


def _exhausted(state: State) -> Stop | None:
    limits = state.started.limits
    for name, used in (("steps", state.turns), ("tokens", state.tokens), ("seconds", state.seconds)):
        limit = limits.get(name)
        if limit is not None and used >= limit:
            return Stop("limit", f"the limit of {limit:g} {name} was reached")
    if state.doubts >= MAX_DOUBTS:
        bound = limits["chance"]
        return Stop("limit", f"its chance of success was below {bound:.0%} for {MAX_DOUBTS} turns in a row")
    if state.invalid_row >= MAX_INVALID:
        return Stop("failed", f"the model made {MAX_INVALID} invalid calls in a row")
    if state.repeats >= MAX_REPEATS:
        return Stop("failed", "the run repeats the same call with the same result")
    return None
