"""A conversation: one durable run in which each message of the user is an event.

Between messages the run is idle. A process may end there, or be killed anywhere, and a later one
continues with ``ChatSession(runner, run=...)``. Limits count per message. The next message answers a
question of the model that ``Runner.ask`` does not. A message too long for the model is left out of the
conversation, and the next one is answered without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...errors import UsageError
from ...text import is_unicode
from ...tools.handles import text_form
from ..goals.load import Goal
from ..record.events import (
    Consent,
    Event,
    PersonAnswered,
    PersonSaid,
    Rating,
    RunEnded,
    RunInterrupted,
)
from ..record.journal import Paused
from ..record.record import Record
from ..record.result import RunResult
from ..record.state import State
from .calls import allowed_calls
from .feedback import answer_of, called, corrected_call, correction, rate, who
from .runner import Interrupted, LiveSession, Runner
from .session import drive
from .workspace import add_inputs


@dataclass(frozen=True)
class Reply:
    """What came back on a message."""

    answer: Any
    """The exact value; for a question, its text."""
    status: Literal["answered", "question", "limit", "failed"]
    cause: str = ""

    @property
    def text(self) -> str:
        """The answer as a person reads it."""
        return text_form(self.answer) if self.answer is not None else self.cause


class ChatSession:
    """A conversation with the model of ``runner``, begun from ``goal`` or continued by run id.

    ``goal`` gives tools, grants, limits (per message), inputs and a workspace; its text is not
    shown to the model. Raises UsageError when ``run`` is no conversation or has ended.
    """

    def __init__(self, runner: Runner, goal: Goal | None = None, *, run: str | None = None) -> None:
        self._runner = runner
        if run is None:
            self._run: LiveSession = runner.start(goal or Goal(goal="a conversation"), mode="chat")
        else:
            self._run = runner.reopen(run)
            if self._run.started.mode != "chat" or Record(self._run.events).ended:
                self._run.close()
                raise UsageError(f"run {run} is not a conversation that can go on")

    @property
    def run(self) -> str:
        """The run's id."""
        return self._run.id

    @property
    def workspace(self) -> Path:
        """Where the conversation's files are."""
        return self._run.workspace

    @property
    def folder(self) -> str:
        """The folder in which the conversation began; memory of projects goes by it."""
        return self._run.started.folder

    @property
    def events(self) -> Sequence[Event]:
        """What happened so far; the first is ``run.started``."""
        return self._run.events

    def rate(self, value: float, text: str = "", by: str = "") -> str:
        """Keep a person's rating (0 to 1) of the last answer; return the line that says what counts now.

        ``by`` names the person. Raises UsageError for a value outside 0 to 1, or before any answer.
        """
        return rate(self._run, Rating(value=value, text=text, by=by), self._run.memory)

    @property
    def answer(self) -> tuple[int, str] | None:
        """The last message's answer: the place of its turn among the events, and its text."""
        return answer_of(self.events, self._run.bench.values(self.events))

    def correct(self, answer: str, by: str = "") -> None:
        """Keep ``answer`` as what the last answer should have been, for training.

        Raises UsageError when there is no answer yet, or the model could not have given this one.
        """
        last = self.answer
        if last is None:
            raise UsageError("there is no answer to correct yet")
        self._run.append(correction(self.events, last[0], answer, by))

    @property
    def call(self) -> tuple[int, str] | None:
        """The last message's last tool call: the place of its turn, and the call as a person reads it."""
        return called(self.events)

    def correct_call(self, text: str, by: str = "") -> None:
        """Keep ``text`` as what that call should have been: ``NAME {ARGUMENTS}``.

        Raises UsageError when there was no call, or the model could not have made this one then.
        """
        last = self.call
        if last is None:
            raise UsageError("no tool was called for the last message")
        before = State.of(self.events[: last[0]])
        allowed = allowed_calls(before, self._run.bench.tools)
        self._run.append(corrected_call(self.events, last[0], text, allowed, by))

    def consent(self, learn: bool, by: str = "") -> None:
        """Keep whether a model may learn from this conversation."""
        self._run.append(Consent(learn=learn, by=by))

    def say(self, text: str, inputs: Sequence[Path] = ()) -> Reply:
        """Send a message (with further input files) and return the reply.

        Raises UsageError for an empty message or a bad input, :class:`Interrupted` on Ctrl-C; the
        conversation can then go on with another message.
        """
        if not text.strip():
            raise UsageError("the message is empty")
        if not is_unicode(text):
            raise UsageError("the message is not valid UTF-8 text")
        waiting = State.of(self._run.events).waiting
        if waiting is not None:  # a message is no approval, so it turns one down
            decision = "no" if waiting.kind == "approval" else None
            self._run.answer(PersonAnswered(text=text, decision=decision, by=who()))
        else:
            names = add_inputs(self.workspace, inputs)
            self._run.append(PersonSaid(text=text, inputs=names, by=who()))
        return self.continue_()

    def continue_(self) -> Reply:
        """Work until the model has answered the last message (also after a crash).

        Ctrl-C raises :class:`Interrupted` and is recorded: that message is not answered any more, here or
        after a crash, and the next one is waited for.
        """
        runner = self._runner
        try:
            for _ in drive([lambda: self._run], runner.model, {}, on_text=runner.on_text):
                pass
        except (KeyboardInterrupt, Paused) as error:
            if isinstance(error, Paused):
                self._run.interrupt(str(error))
            else:
                self._run.stop()
            runner.model.close_session(self.run)  # a generation may have been cut off
            raise error if isinstance(error, Paused) else Interrupted([self.run]) from error.__cause__
        return self._reply()

    def result(self) -> RunResult:
        """Return the whole conversation so far in numbers."""
        return self._runner.result(self._run)

    def close(self, *, end: bool = True) -> None:
        """Release the conversation: for good with ``end``, else another process can continue it."""
        try:
            if end:
                self._run.append(RunEnded(status="answered", cause="the conversation ended"))
            else:
                self._run.append(RunInterrupted(cause="left by the user"))
        finally:
            self._run.close()

    def _reply(self) -> Reply:
        state, stopped = State.of(self._run.events), self._run.stopped
        if state.waiting is not None:
            return Reply(state.waiting.text, "question")
        if state.finished:
            return Reply(self._run.value(state.answer), "answered")
        cause = stopped.cause if stopped else ""
        if state.prompt_refused:
            cause += "; the message was left out of the conversation"
        return Reply(None, "limit" if stopped and stopped.status == "limit" else "failed", cause)
