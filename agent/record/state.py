"""What a list of events means: the state of a run, computed from its journal.

``State.of(events)`` is the only place that interprets events for the loop. It is pure and takes one pass
over the events, so the loop computes it for every decision and keeps nothing in between.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ...tools.base import Facts, merge_facts
from .events import (
    STOPPED,
    ConversationFolded,
    Event,
    MemoryRecalled,
    MemoryWritten,
    ModelTurn,
    PersonAnswered,
    PersonAsked,
    PersonSaid,
    RecalledEntry,
    RunEnded,
    RunInterrupted,
    RunStarted,
    ToolIntent,
    ToolOutcome,
    ToolSpec,
    ToolsShown,
)
from .record import Record

CORE_CALLS = ("plan", "finish", "ask", "remember", "recall", "find_tools")


@dataclass(frozen=True)
class PlanStep:
    """One step of a plan: the tool it will use and what for."""

    tool: str
    purpose: str


@dataclass
class State:
    """A run as its events leave it. ``turn_*`` fields count since the last message of the user."""

    started: RunStarted
    facts: Facts = field(default_factory=dict)
    handles: list[str] = field(default_factory=list)
    """Every handle so far; the next one is numbered after them."""
    offered: list[str] = field(default_factory=list)
    """The handles that a call may take as a value: all but those of the driver's table descriptions,
    which the model reads but never passes on."""
    plan: tuple[PlanStep, ...] = ()
    """The plan in force; empty before the first plan of a goal or message."""
    planned_tools: tuple[str, ...] = ()
    """Every tool that a plan of this goal or message has named, in order of first mention."""
    plans: int = 0
    inspected: set[str] = field(default_factory=set)
    """Keys of the driver's inspections that have an outcome."""
    unread: dict[str, str] = field(default_factory=dict)
    """Inputs whose inspection failed and that no call has read since, with the error."""
    empty_results: int = 0
    """Table queries of the model that returned no rows, since the last message of the user."""
    pending: tuple[str, str, dict[str, Any]] | None = None
    """A call of the model without outcome: (call id, tool, arguments)."""
    question: str | None = None
    """A question of the model that has no answer yet."""
    waiting: PersonAsked | None = None
    """The question or approval that was put to a person and has no answer yet."""
    answer: Any = None
    finished: bool = False
    stopped: bool = False
    """Whether the person stopped the answer to the last message of a conversation."""
    outcomes: list[ToolOutcome] = field(default_factory=list)
    """Outcomes of the model's calls since the last message of the user."""
    failures: int = 0
    """Calls in a row that failed or were refused, since the last plan."""
    repeated: bool = False
    """The last call was made before with the same arguments and the same result."""
    repeats: int = 0
    """How many calls were such repetitions."""
    invalid_row: int = 0
    """Invalid calls in a row."""
    prompt_refused: str = ""
    """Why the model cannot take the prompt of this goal or message; empty while it can."""
    doubts: int = 0
    """Turns in a row whose chance of success, by the value head, was below the goal's limit."""
    refused: set[str] = field(default_factory=set)
    """Tools of which a call was refused since the last message of the user."""
    turns: int = 0
    """Model turns since the last message of the user."""
    turns_total: int = 0
    tokens: int = 0
    """Tokens computed: generated ones, and those of prompts that were not in the cache."""
    seconds: float = 0.0
    said: str = ""
    """The goal, or in a conversation the user's last message."""
    looked_back: bool = False
    """Whether the driver has recalled what may help with the goal or message."""
    recalls: int = 0
    """Recalls of the model's own since the last message."""
    remembered: int = 0
    """What the model asked to keep since the last message."""
    memory_call: tuple[str, str] | None = None
    """A call of the model to its memory without outcome: (``remember`` or ``recall``, its text)."""
    tools: dict[str, ToolSpec] = field(default_factory=dict)
    """The tools that the prompt describes: only these may be planned and called."""
    tool_query: str | None = None
    """What the model wants a tool for, until it was looked for."""
    searches: int = 0
    """How often the model has looked for tools since the last message of the user."""
    fitted: bool = False
    """Whether the tools that fit the last message of a conversation were looked for."""
    shown: dict[int, RecalledEntry] = field(default_factory=dict)
    """Entries of memory that the prompt shows."""
    messages: dict[int, int] = field(default_factory=dict)
    """Per message of the user in the prompt: its event and the tokens of the prompt before it."""
    context: int = 0
    """Tokens of the prompt when the model had answered last; 0 where none are counted."""
    folded: int = 0
    """The event that the prompt begins with since the last compaction; 0 before the first."""
    ended: RunEnded | None = None
    inputs: list[str] = field(default_factory=list)
    _before: tuple[set[str], set[int]] = field(default_factory=lambda: (set(), set()))
    """What had been inspected and shown before the messages that a refusal would leave out."""
    _seen: dict[str, str] = field(default_factory=dict)
    _calls: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def of(cls, events: Sequence[Event]) -> State:
        """Return the state after ``events``; raises ValueError unless the first is ``run.started``."""
        started = Record(events).started
        state = cls(started, inputs=input_names(started.goal))
        if started.mode != "chat":
            state.said = str(started.goal.get("goal", ""))
        for number, event in enumerate(events[1:], start=1):
            if isinstance(event, PersonSaid):
                state.messages[number] = state.context or started.system_tokens
            elif isinstance(event, ConversationFolded):
                state._fold(event, events)
            state._apply(event)
            if started.mode == "chat" and isinstance(event, ModelTurn) and event.prompt_refused:
                state._leave_out(left_out(events[: number + 1]))
        state.tools = {spec.name: spec for spec in described(events)}
        return state

    @property
    def hidden_tools(self) -> int:
        """How many tools of the run the prompt does not describe."""
        return self.started.hidden_tools + len(self.started.tools) - len(self.tools)

    def _apply(self, event: Event) -> None:
        match event:
            case ModelTurn():
                self._model_turn(event)
            case ToolIntent(by="model"):
                self.pending = (event.call_id, event.tool, event.arguments)
            case ToolOutcome():
                self._outcome(event)
            case MemoryRecalled():
                self._recalled(event)
            case ToolsShown():
                self._tools_shown(event)
            case MemoryWritten(by="model"):
                self.memory_call = None
                self.remembered += 1
            case PersonSaid():
                self._new_message(event)
            case PersonAsked():
                self.waiting = event
            case PersonAnswered():
                self.waiting = None
                self.question = None
                self.stopped = False
            case RunInterrupted(cause=cause) if cause == STOPPED:
                self.stopped = True
            case RunEnded():
                self.ended = event

    def _model_turn(self, turn: ModelTurn) -> None:
        self.turns += 1
        self.turns_total += 1
        if turn.prompt_refused:
            self.prompt_refused = turn.invalid or "refused"
        if turn.prompt_tokens:
            self.context = turn.prompt_tokens + len(turn.ids) + 1  # the line break after an answer
        self.tokens += len(turn.ids) + max(0, turn.prompt_tokens - turn.cached_tokens)
        self.seconds += turn.seconds
        self.repeated = False
        hopeless = turn.value is not None and turn.value < (self.started.limits.get("chance") or 0.0)
        self.doubts = self.doubts + 1 if hopeless else 0
        if turn.call is None:
            self.invalid_row += 1
            return
        self.invalid_row = 0
        name, arguments = turn.call["name"], turn.call["arguments"]
        if name == "plan":
            self.plan = tuple(PlanStep(s["tool"], s["for"]) for s in arguments["steps"])
            named = [*self.planned_tools, *(step.tool for step in self.plan)]
            self.planned_tools = tuple(dict.fromkeys(named))
            self.plans += 1
            self.failures = 0
        elif name == "finish":
            self.finished, self.answer = True, arguments["answer"]
        elif name == "ask":
            self.question = arguments["question"]
        elif name in ("remember", "recall"):
            self.memory_call = (name, arguments["text" if name == "remember" else "query"])
        elif name == "find_tools":
            self.tool_query = arguments["query"]
        else:
            self.pending = (f"c{self.turns_total}", name, arguments)
        if name not in CORE_CALLS:
            self._calls[f"c{self.turns_total}"] = name, arguments

    def _outcome(self, outcome: ToolOutcome) -> None:
        self.seconds += outcome.seconds
        self.facts = merge_facts(self.facts, outcome.facts)
        if outcome.handle:
            self.handles.append(outcome.handle)
            if outcome.by != "driver" or outcome.tool != "tables.describe":
                self.offered.append(outcome.handle)
        if outcome.by == "driver":
            self.inspected.add(outcome.call_id)
            path = outcome.call_id.removeprefix("d:")
            if outcome.state == "failed" and path in self.inputs:
                self.unread[path] = outcome.preview
            return
        self.pending = None
        self.outcomes.append(outcome)
        if outcome.state == "refused":
            self.refused.add(outcome.tool)
        self.failures = 0 if outcome.state == "done" else self.failures + 1
        if is_empty_result(outcome):
            self.empty_results += 1
        name, arguments = self._calls.get(outcome.call_id, ("", {}))
        if outcome.state == "done":
            for path in [path for path in self.unread if path in arguments.values()]:
                del self.unread[path]
        key = name + json.dumps(arguments, sort_keys=True) if name else ""
        self.repeated = bool(key) and self._seen.get(key) == outcome.preview
        self.repeats += self.repeated
        self._seen[key] = outcome.preview

    def _recalled(self, event: MemoryRecalled) -> None:
        self.shown.update((entry.id, entry) for entry in event.entries)
        self.seconds += event.seconds
        if event.by == "driver":
            self.looked_back = True
        else:
            self.memory_call = None
            self.recalls += 1

    def _tools_shown(self, event: ToolsShown) -> None:
        self.seconds += event.seconds
        if event.by == "driver":
            self.fitted = True
        else:
            self.tool_query = None
            self.searches += 1

    def _fold(self, event: ConversationFolded, events: Sequence[Event]) -> None:
        """Forget what the prompt does not show any more."""
        self.folded, self.context = event.upto, event.left
        kept = {start: before for start, before in self.messages.items() if start >= event.upto}
        self.messages = {start: before - event.tokens for start, before in kept.items()}
        seen = [one for one in events[event.upto :] if isinstance(one, MemoryRecalled)]
        self.shown = {entry.id: entry for one in seen for entry in one.entries}

    def _leave_out(self, gone: set[int]) -> None:
        """Forget what was said at the places ``gone``, which later prompts do not show."""
        for start in sorted(gone & self.messages.keys(), reverse=True):
            self.context = self.messages.pop(start)
        inspected, shown = self._before
        self.inspected &= inspected  # the next message is to see the inputs
        self.shown = {id: entry for id, entry in self.shown.items() if id in shown}

    def _new_message(self, message: PersonSaid) -> None:
        self.prompt_refused = ""
        if self.turns:
            self._before = (set(self.inspected), set(self.shown))
        self.plan, self.planned_tools, self.plans = (), (), 0
        self.finished, self.stopped, self.answer, self.outcomes = False, False, None, []
        self.question, self.waiting = None, None
        self.failures = self.repeats = self.turns = self.invalid_row = self.doubts = 0
        self.tokens, self.seconds = 0, 0.0
        self.repeated = False
        self.empty_results = 0
        if self.said:  # what failed before the first message concerns it
            self.unread.clear()
        self.said, self.looked_back, self.memory_call = message.text, False, None
        self.recalls = self.remembered = self.searches = 0
        self.tool_query, self.fitted = None, False
        self._seen.clear()  # asking again in a new message is no loop
        self.refused.clear()
        self.inputs.extend(path for path in message.inputs if path not in self.inputs)


def is_empty_result(outcome: ToolOutcome) -> bool:
    """Return whether a table query succeeded without returning any rows."""
    return outcome.tool in ("tables.query", "tables.sql") and outcome.state == "done" and outcome.value == []


def input_names(goal: dict[str, Any]) -> list[str]:
    """Return the workspace paths of a goal's inputs: copied files by name, inline files by path.

    In a workspace that is used in place, inputs stay where they are below it.
    """
    given = [str(path).replace("\\", "/") for path in goal.get("inputs") or []]
    place = goal.get("workspace")
    if place is None:
        names = [path.rsplit("/", 1)[-1] for path in given]
    else:
        names = [posixpath.relpath(path, place) for path in given]
    return [*names, *(goal.get("files") or {})]


def described(events: Sequence[Event]) -> list[ToolSpec]:
    """Return the tools that the prompt describes, in the order in which it does.

    Those are the tools of the start, and those shown since whose exchange is still in the prompt.
    """
    started = Record(events).started
    if not started.hidden_tools:
        return started.tools
    begin = max((event.upto for event in events if isinstance(event, ConversationFolded)), default=1)
    gone = left_out(events)
    found = {spec.name: spec for spec in started.tools}
    for number, event in enumerate(events):
        if isinstance(event, ToolsShown) and number >= begin and number not in gone:
            found.update((spec.name, spec) for spec in event.tools)
    return list(found.values())


def left_out(events: Sequence[Event]) -> set[int]:
    """Return the places of messages that the model could not take, and of all that came of them.

    A message that went without a turn of the model goes with the next one.
    """
    found: set[int] = set()
    start, begun = None, True
    for number, event in enumerate(events):
        if isinstance(event, PersonSaid):
            start, begun = number if begun else start, False
        elif isinstance(event, ModelTurn):
            begun = True
            if event.prompt_refused and start is not None:
                found.update(range(start, number + 1))
    return found
