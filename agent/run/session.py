"""One run from start to end: ask the loop what comes next, do it, record what happened.

A :class:`Session` does so over any :class:`~..record.journal.Journal`, unattended: a call that is not granted
is refused, and a question ends the run (a conversation waits for the next message). Live runs add a person,
delivery and a lock (:mod:`.runner`), rollouts a scratch folder (:mod:`.rollout`). Both are carried on by
:func:`drive`, which batches the model calls of several sessions.

For a call: commit the intent, run it, commit the outcome. If a crash lost the outcome, a pure call is run
again, an idempotent one is verified first, and any other is reported as uncertain and never repeated.

A run ends in three steps, and a kill in any of them does no harm: the goal's checks (verdicts on record are
not reached again), delivery (repeating it changes nothing), and ``run.ended``.

A prompt that the model cannot take costs its own run and no other, whether it runs alone or not: the refusal
is recorded as a turn and, since asking again cannot help, the goal ends as not met with the model's reason
as its cause. In a conversation it costs the message, which later prompts leave out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from ...errors import ToolError, UserError
from ...llm.message import Flow, Model, Sampling, Turn, flow_of
from ...llm.models.token_budget import ContextOverflow
from ...schemas import GrammarError
from ...tools.policy import Verdict
from ..goals.checks import CheckVerdict, reward, run_checks
from ..goals.load import Goal
from ..record.events import (
    CheckResult,
    Event,
    PersonAnswered,
    PersonAsked,
    RunEnded,
    RunInterrupted,
    RunStarted,
    ToolIntent,
    ToolOutcome,
)
from ..record.journal import PARKED, Journal, Paused
from ..record.record import Record
from ..record.result import resolved_answer, stub_calls
from ..record.state import State
from .approvals import decide_for
from .compaction import compact
from .loop import Act, Ask, Compact, FindTools, Recall, Remember, Stop, Think, decide
from .memory import RunMemory
from .verdict import verdict_of
from .workbench import Workbench, model_turn

_E = TypeVar("_E", bound=Event)
_S = TypeVar("_S", bound="Session")

UNFIT = (ContextOverflow, GrammarError)
"""What a model raises that cannot take a prompt: it is too long, or its calls have no grammar."""
UNCERTAIN = (
    "uncertain: the program stopped during this call, so whether it had its effect is unknown; "
    "it was not repeated"
)


@dataclass(eq=False)
class Session:
    """One run under way in this process.

    Drivers with a person or a user's folder override :meth:`permit`, :meth:`answer_to`, :meth:`parks`,
    :meth:`deliver` and :meth:`close`.
    """

    goal: Goal
    journal: Journal
    bench: Workbench
    memory: RunMemory
    model: Model
    sampling: Sampling
    on_event: Callable[[str, Event], None] | None = None
    stopped: Stop | None = field(default=None, init=False)
    """Why there is nothing to do now: the run ended, or waits for a person or a message."""
    asked: Think | None = field(default=None, init=False)
    """What the model is answering."""

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
        return Record(self.events).started

    @property
    def workspace(self) -> Path:
        """Where the run works."""
        return self.bench.context.workspace

    def append(self, event: _E) -> _E:
        """Commit an event, then tell the listener."""
        kept = self.journal.append(event)
        if self.on_event:
            self.on_event(self.id, kept)
        return kept

    def value(self, answer: Any) -> Any:
        """Return an answer with its handles replaced; one that names no handle of the run stays text."""
        return resolved_answer(answer, self.bench.values(self.events))

    def advance(self) -> Think | None:
        """Carry out all that needs no model; return the next Think, or None and set ``stopped``."""
        while True:
            match decide(self.events, self.bench.tools):
                case Think() as think:
                    self.stopped = None
                    return think
                case Act() as act:
                    self._act(act)
                case Recall() | Remember() as request:
                    self.append(self.memory.answer(request, self.events))
                case FindTools() as wanted:
                    self.append(self.bench.find(wanted, self.events))
                case Compact(upto=upto):
                    for event in compact(upto, tuple(self.events), self.memory):
                        self.append(event)
                case Ask() as ask:
                    if not self._ask(ask):
                        return None
                case Stop() as stop:
                    self.stopped = stop
                    if self.started.mode != "chat":
                        self._stop(stop)
                    return None

    def record(self, turn: Turn) -> None:
        """Commit the model's answer to what it was asked."""
        assert self.asked is not None
        think, self.asked = self.asked, None
        self.append(model_turn(think, turn))

    def refuse(self, think: Think, error: UserError) -> None:
        """Record that the model cannot take the prompt of ``think``, and why."""
        turn = model_turn(think, Turn(None, "", invalid=str(error)))
        self.append(turn.model_copy(update={"prompt_refused": True}))
        self.asked = None

    def end(
        self,
        status: Literal["achieved", "answered", "error", "not_met", "limit", "needs_person"],
        cause: str,
        answer: Any = None,
        points: float | None = None,
        delivered: Sequence[str] = (),
    ) -> None:
        """Conclude the run's memory and append ``run.ended``.

        A goal with checks that were not reached is worth nothing.
        """
        if points is None and self.goal.check and status != "achieved":
            points = 0.0
        if self.started.memory:
            for event in self.memory.conclude(self.events, status, answer):
                self.append(event)
        ended = RunEnded(status=status, cause=cause, answer=answer, reward=points, delivered=list(delivered))
        self.append(ended)

    def close(self) -> None:
        """Release what is held for the run. Idempotent."""
        self.model.close_session(self.id)

    def permit(self, act: Act, reason: str) -> str | PersonAsked | None:
        """Return why a call that the grants do not cover may not run, or the approval to ask for."""
        return reason

    def answer_to(self, asked: PersonAsked) -> PersonAnswered | None:
        """Return a person's answer, None where nobody is there."""
        return None

    def parks(self, kind: Literal["question", "approval"]) -> bool:
        """Return whether the run waits for a person who is not there, instead of going on without."""
        return False

    def deliver(self) -> list[str]:
        """Put the files that the goal may write into its folder; return their paths."""
        return []

    def recovered(self, act: Act, lost: ToolIntent) -> ToolOutcome:
        """Return the outcome of a call that a crash cut off, by its replay class."""
        same = self.bench.intent(act, self.events).arguments_hash == lost.arguments_hash
        if lost.replay not in ("pure", "idempotent") or not same:
            return self.bench.outcome(act, "uncertain", UNCERTAIN)
        return self.bench.perform(act, self.events, verify=lost.replay == "idempotent")

    def _act(self, act: Act) -> None:
        """Carry out one call: permission, intent, effect, outcome; each committed before the next.

        A call that never runs has an outcome and no intent.
        """
        bench = self.bench
        if act.tool not in bench.tools:  # a model that was neither masked nor checked
            self.append(bench.outcome(act, "failed", f"error: there is no tool {act.tool}"))
            return
        try:
            refusal = self._refusal(act)
        except ToolError as error:  # the targets make no sense; the model reads why
            self.append(bench.outcome(act, "failed", f"error: {error}"))
            return
        if isinstance(refusal, PersonAsked):
            self.append(refusal)
        elif refusal is not None:
            self.append(bench.outcome(act, "refused", f"refused: {refusal}"))
        elif (lost := self._lost_intent(act)) is not None:
            self.append(self.recovered(act, lost))
        else:
            self.append(bench.intent(act, self.events))
            self.append(bench.perform(act, self.events))

    def _refusal(self, act: Act) -> str | PersonAsked | None:
        """Return why the call may not run, the approval to ask for, or None when it may run."""
        tool = self.bench.tools[act.tool]
        decision = decide_for(self.goal, tool, self.bench.arguments(act, self.events))
        if decision.allowed:
            return None
        if decision.verdict is Verdict.REFUSE:
            return decision.reason
        return self.permit(act, decision.reason)

    def _lost_intent(self, act: Act) -> ToolIntent | None:
        """Return the committed intent of ``act`` whose outcome was lost, None where there is none."""
        for event in reversed(self.events):
            if isinstance(event, ToolIntent | ToolOutcome) and event.call_id == act.call_id:
                return event if isinstance(event, ToolIntent) else None
        return None

    def _ask(self, ask: Ask) -> bool:
        """Put a question to the person; False when the run must wait or end without the answer."""
        asked = State.of(self.events).waiting
        if asked is None:
            asked = self.append(PersonAsked(kind=ask.kind, text=ask.text, call_id=ask.call_id))
        answer = self.answer_to(asked)
        if answer is not None:
            self.append(answer)
            return True
        self.stopped = Stop("idle", "waiting for a person")
        if self.started.mode == "chat":
            return False
        if self.parks(asked.kind):
            self.append(RunInterrupted(cause=PARKED))
        elif asked.kind == "approval":
            refused = PersonAnswered(text="nobody was there to approve", decision="no", call_id=asked.call_id)
            self.append(refused)
            return True
        else:
            self.end("needs_person", f"the model asked: {ask.text}")
        return False

    def _stop(self, stop: Stop) -> None:
        """Carry out a ``Stop`` of a goal."""
        match stop.status:
            case "finished":
                self._finish(stop.answer)
            case "limit":
                self.end("limit", stop.cause)
            case "failed":
                self.end("not_met", stop.cause)

    def _finish(self, answer: Any) -> None:
        """Check, deliver and end a run that the model finished."""
        value = self.value(answer)
        verdicts = [
            CheckVerdict(event.index, event.kind, event.passed, event.detail, event.score)
            for event in Record(self.events).of(CheckResult)
        ]
        if len(verdicts) < len(self.goal.check):
            found = run_checks(self.goal.check, value, self.workspace, stub_calls(self.events))
            for fresh in found[len(verdicts) :]:
                verdicts.append(fresh)
                self.append(CheckResult(**vars(fresh)))
        delivered = self.deliver()
        verdict = verdict_of(self.events, value, verdicts, self.workspace, may_write(self.goal), delivered)
        self.end(verdict.status, verdict.cause, value, reward(verdicts), delivered)


def may_write(goal: Goal) -> list[str]:
    """Return the write grants of a goal: what is delivered when it ends."""
    return goal.grants.write if goal.grants else []


def drive(
    openers: Iterable[Callable[[], _S]],
    model: Model,
    active: dict[int, _S],
    parallel: int = 1,
    *,
    on_text: Callable[[str, str], None] | None = None,
    on_unopened: Callable[[int, UserError], None] | None = None,
) -> Iterator[tuple[int, _S]]:
    """Carry sessions on, at most ``parallel`` at once; yield (number, session) as each has stopped.

    Openers are called in order, as places become free; a session's next model call joins the batch of those
    under way. ``active`` holds the sessions under way by number, one that is being yielded included: when
    this raises, the caller interrupts and closes them. ``on_text`` gets the model's text as it appears, with
    the run's id. ``on_unopened`` is told of an opener that raises UserError, and the others go on; without
    it that error is raised. :class:`~..record.journal.Paused` always is.
    """
    waiting = enumerate(openers)
    flow = flow_of(model, on_text and (lambda number, piece: on_text(active[number].id, piece)))
    due: deque[int] = deque()
    while True:
        while len(active) < max(1, parallel) and (item := next(waiting, None)) is not None:
            number, opener = item
            try:
                active[number] = opener()
                due.append(number)
            except Paused:
                raise
            except UserError as error:
                if on_unopened is None:
                    raise
                on_unopened(number, error)
        if not active:
            return
        # a free place is filled before the model goes on
        if not due:
            due.extend(_answered(flow, active))
            continue
        number = due.popleft()
        session = active[number]
        think = session.advance()
        if think is None:
            yield number, session
            del active[number]
        elif not _put(flow, number, session, think):
            due.append(number)


def _put(flow: Flow, number: int, session: Session, think: Think) -> bool:
    """Have the model answer ``think``; False if it cannot take the prompt."""
    session.asked = think
    try:
        flow.put(number, think.prompt(session.id, session.sampling))
    except UNFIT as error:
        session.refuse(think, error)
        return False
    return True


def _answered(flow: Flow, active: Mapping[int, Session]) -> list[int]:
    """Wait for the model's next turns, record them and return the numbers of their sessions.

    A model that answers in rounds refuses a whole round for one prompt that it cannot take. Then each is
    asked alone, so that only the one to blame is refused.
    """
    try:
        turns = flow.ready()
    except UNFIT as error:
        asked = {number: session.asked for number, session in active.items() if session.asked is not None}
        turns = []
        for number, think in asked.items():
            try:
                if len(asked) == 1:
                    raise error
                flow.put(number, think.prompt(active[number].id, active[number].sampling))
                turns += flow.ready()
            except UNFIT as own:
                active[number].refuse(think, own)
        for number, turn in turns:
            active[number].record(turn)
        return list(asked)
    for number, turn in turns:
        active[number].record(turn)
    return [number for number, _ in turns]
