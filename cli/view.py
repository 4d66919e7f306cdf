"""What a person sees of a run: its events reduced to a goal, a plan that fills in, and a verdict.

Every view (terminal tree, plain lines, the REPL, ``runs show``) reads this one record, so that a run
looks the same live and years later. Text from tools and files is untrusted: control characters are
taken out here, once, so that no result can move the cursor or change the title of a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field
from typing import Any

from ..agent.record.events import (
    SAID_LATER,
    CheckResult,
    ConversationFolded,
    Event,
    MemoryRecalled,
    MemoryWritten,
    ModelTurn,
    PersonAnswered,
    PersonAsked,
    PersonSaid,
    RunEnded,
    RunInterrupted,
    RunStarted,
    ToolIntent,
    ToolOutcome,
    ToolsShown,
)
from ..agent.run.workspace import original, undelivered

CALL_WIDTH = 160
"""Characters of a call that are worth a look; the rest is in the journal."""


@dataclass
class CallView:
    """One call: what was asked for, and what came back."""

    call_id: str
    tool: str
    arguments: str
    state: str = "running"
    """``running``, ``done``, ``failed``, ``refused`` or ``uncertain``."""
    handle: str | None = None
    preview: str = ""
    seconds: float = 0.0


@dataclass
class StepView:
    """One step of the plan with the calls that served it; ``purpose`` is empty for unplanned calls."""

    tool: str
    purpose: str
    calls: list[CallView] = field(default_factory=list)
    dropped: bool = False
    """A later plan replaced it before it began."""

    @property
    def state(self) -> str:
        """``waiting``, or the state of its last call."""
        return self.calls[-1].state if self.calls else "dropped" if self.dropped else "waiting"


@dataclass(frozen=True)
class Use:
    """What the model did: its time, its turns, tokens read (of these kept), written (of these forced)."""

    seconds: float = 0.0
    turns: int = 0
    read: int = 0
    cached: int = 0
    written: int = 0
    forced: int = 0

    def __add__(self, other: Use) -> Use:
        return Use(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def __str__(self) -> str:
        parts = [f"{self.turns} turn{'s' * (self.turns != 1)}"]
        if self.read:
            parts.append(f"{self.read} tokens read ({self.cached} kept)")
        if self.written:
            parts.append(f"{self.written} written ({self.forced} forced)")
        return " · ".join(parts)


@dataclass
class RunView:
    """A run as far as its events go; ``apply`` adds one."""

    run: str = ""
    goal: str = ""
    model: str = ""
    mode: str = "goal"
    said: int = 0
    """Messages of the person so far, in a conversation."""
    inputs: list[CallView] = field(default_factory=list)
    steps: list[StepView] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Invalid calls, questions and answers, interruptions."""
    checks: list[CheckResult] = field(default_factory=list)
    status: str = ""
    cause: str = ""
    answer: Any = None
    delivered: list[str] = field(default_factory=list)
    undelivered: list[str] = field(default_factory=list)
    """What the run changed in its own copies of files alone, one line each."""
    recorded: dict[str, Any] = field(default_factory=dict)
    """The goal as it was recorded."""
    writes: set[str] = field(default_factory=set)
    """Ids of the calls that may write."""
    changed: dict[str, Any] = field(default_factory=dict)
    """What those calls say of files in the run's workspace; None: moved away."""
    began: float = 0.0
    ended: float = 0.0
    use: Use = Use()
    """Of the goal, or of a conversation's last message."""
    spent: Use = Use()
    """Of a conversation's earlier messages."""
    asked: str = ""
    """Arguments of the last call that the model made."""
    values: dict[str, Any] = field(default_factory=dict)
    """Small results by handle, to show what an answer such as ``$2`` means."""

    @classmethod
    def of(cls, events: Iterable[Event]) -> RunView:
        """Return the view of a whole record."""
        view = cls()
        for event in events:
            view.apply(event)
        return view

    def apply(self, event: Event) -> None:
        """Take one event in."""
        if self.status == "interrupted":  # nobody worked meanwhile, but for the step just recorded
            worked = event.seconds if isinstance(event, ModelTurn | ToolOutcome) else 0.0
            self.began += max(0.0, event.at - self.ended - worked)
        self.ended = event.at or self.ended
        if not isinstance(event, (RunInterrupted, RunEnded, *SAID_LATER)):
            self.status = ""  # an interrupted run goes on
        match event:
            case RunStarted():
                self.run, self.model, self.mode = event.run, event.model, event.mode
                self.recorded = event.goal
                self.goal, self.began = clean(str(event.goal.get("goal", ""))), event.at
            case PersonSaid():
                self._next_message(event)
            case ModelTurn():
                self._model_turn(event)
            case ToolIntent():
                if event.effect == "write":
                    self.writes.add(event.call_id)
                self._intent(event)
            case ToolOutcome():
                if event.call_id in self.writes:
                    self.changed |= event.facts.get("files", {})
                self._outcome(event)
            case PersonAsked():
                self.notes.append(f"asks: {clean(event.text)}")
            case PersonAnswered():
                self.notes.append(f"told: {clean(event.text or event.decision or '')}")
            case ToolsShown() if event.tools:
                self.notes.append(f"found tools: {clean(', '.join(spec.name for spec in event.tools))}")
            case MemoryRecalled():
                self.notes += [f"recalled [{entry.id}] {clean(entry.text)}" for entry in event.entries]
            case ConversationFolded():
                self.notes.append(compacted(event))
            case MemoryWritten() if event.kind != "episode":
                self.notes.append(kept(event))
            case CheckResult():
                self.checks.append(event)
            case RunInterrupted():
                self.status, self.cause = "interrupted", clean(event.cause)
            case RunEnded():
                self.status, self.cause = event.status, clean(event.cause)
                self.answer = self.answer if event.answer is None else event.answer
                self.delivered = [delivery(name, self.run) for name in event.delivered]
                if self.mode == "goal":
                    there = [original(name, self.run) or name for name in event.delivered]
                    left = undelivered(self.recorded, self.changed, there, finished=event.answer is not None)
                    self.undelivered = list(map(clean, left))

    def _next_message(self, event: PersonSaid) -> None:
        self.goal, self.began, self.said = clean(event.text), event.at, self.said + 1
        self.inputs, self.steps, self.notes, self.answer = [], [], [], None
        self.spent = self.spent + self.use
        self.use = Use()

    def _model_turn(self, turn: ModelTurn) -> None:
        self.use = self.use + Use(
            turn.seconds, 1, turn.prompt_tokens, turn.cached_tokens, len(turn.ids), sum(turn.forced)
        )
        if turn.call is None:
            self.notes.append(f"invalid call: {clean(turn.invalid or turn.text)}")
        elif turn.call["name"] == "plan":
            for step in self.steps:
                step.dropped = step.dropped or not step.calls
            planned = turn.call["arguments"].get("steps", [])
            self.steps += [StepView(clean(str(s["tool"])), clean(str(s["for"]))) for s in planned]
        elif turn.call["name"] == "finish":
            answer = turn.call["arguments"].get("answer")
            self.answer = self.values.get(answer, answer) if isinstance(answer, str) else answer
        else:
            self.asked = brief(turn.call["arguments"])

    def _intent(self, intent: ToolIntent) -> None:
        call = CallView(intent.call_id, intent.tool, brief(intent.arguments))
        if intent.by == "driver":
            self.inputs.append(call)
            return
        waiting = [step for step in self.steps if step.tool == intent.tool and step.state == "waiting"]
        tried = [step for step in self.steps if step.tool == intent.tool and step.state == "failed"]
        if not (tried or waiting):
            self.steps.append(StepView(intent.tool, ""))
        (tried[-1:] or waiting[:1] or self.steps[-1:])[0].calls.append(call)

    def _outcome(self, outcome: ToolOutcome) -> None:
        everything = [*self.inputs, *(call for step in self.steps for call in step.calls)]
        call = next((call for call in reversed(everything) if call.call_id == outcome.call_id), None)
        if call is None:
            call = CallView(outcome.call_id, outcome.tool, self.asked)  # refused: it has no intent
            self.steps.append(StepView(outcome.tool, "", [call]))
        call.state, call.handle, call.seconds = outcome.state, outcome.handle, outcome.seconds
        call.preview = clean(outcome.preview)
        for said in ("error: ", "refused: ", "uncertain: "):  # the state says it already
            call.preview = call.preview.removeprefix(said)
        if outcome.handle and outcome.blob is None:
            self.values[outcome.handle] = outcome.value

    @property
    def figures(self) -> str:
        """The line of time and tokens: what passed on the clock, then what the model did."""
        return f"{max(0.0, self.ended - self.began):.1f} s · {self.use}"

    @property
    def totals(self) -> str:
        """Time of the model and tokens of the whole run."""
        total = self.spent + self.use
        return f"{total.seconds:.1f} s of the model · {total}"


def delivery(name: str, run: str) -> str:
    """Return a delivered file as people read it; if its place was taken, that is said."""
    taken = original(name, run)
    return clean(f"{name} ({taken} changed meanwhile and was left as it is)" if taken else name)


def kept(event: MemoryWritten) -> str:
    """Return what became of something to be remembered, as people read it."""
    what = "" if event.kind == "fact" else f"{event.kind} "
    if event.verdict == "refused":
        return clean(f"{what}not kept ({event.reason}): {event.text}")
    instead = f", in place of [{event.replaced}]" if event.replaced else ""
    return clean(f"kept {what}[{event.entry}]{instead}: {event.text}")


def compacted(event: ConversationFolded) -> str:
    """Return what a compaction did, as people read it."""
    ids = [f"[{row.entry}]" for row in event.exchanges if row.entry is not None]
    where = f"in memory {' '.join(ids)}" if ids else "in the journal alone"
    count = len(event.exchanges)
    return f"compacted the oldest {count} message{'s' * (count != 1)}, {event.tokens} tokens; {where}"


def clean(text: str) -> str:
    """Return ``text`` without control characters, new lines kept."""
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text.expandtabs(4))


def one_line(text: str) -> str:
    """Return the lines of ``text`` joined by a mark, for one row of a screen."""
    return " ⏎ ".join(line.strip() for line in text.splitlines() if line.strip())


def brief(arguments: Mapping[str, Any]) -> str:
    """Return a call's arguments as ``name=value``, shortened."""
    parts = []
    for name, value in arguments.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        parts.append(f"{name}={text}")
    joined = one_line(clean(" ".join(parts)))
    return joined if len(joined) <= CALL_WIDTH else joined[: CALL_WIDTH - 1] + "…"


def answer_text(answer: Any) -> str:
    """Return an answer as people read it: plain values plain, a column as a list, else JSON."""
    if isinstance(answer, dict) and isinstance(answer.get("rows"), list):
        answer = answer["rows"]
    if isinstance(answer, list) and answer and all(isinstance(row, list) and len(row) == 1 for row in answer):
        answer = [row[0] for row in answer]
    if isinstance(answer, list) and all(not isinstance(item, list | dict) for item in answer):
        return clean(", ".join(answer_text(item) for item in answer))
    if isinstance(answer, str):
        return clean(answer)
    return clean(json.dumps(answer, ensure_ascii=False))
