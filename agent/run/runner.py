"""The durable driver: goals and conversations whose every step is committed before the next.

A :class:`LiveSession` is a run in the database, with a person to ask, files to deliver and a lock that
keeps other processes away. After a crash ``resume`` reads the events and decides again; a model turn that
was not committed is simply asked for again. Several goals go side by side in one thread
(:func:`~.session.drive`).

Limits: a call that runs in process is only as interruptible as its body; Ctrl-C during it is a lost
outcome like any other. While a goal's tool works, the other goals wait.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from ...errors import UsageError, UserError
from ...llm.message import Model, Sampling
from ...tools.base import Replay
from ...tools.registry import Registry
from ..goals.load import Goal
from ..record.events import STOPPED, Event, PersonAnswered, PersonAsked, RunInterrupted, RunStarted
from ..record.journal import DatabaseJournal, Paused
from ..record.record import Record
from ..record.result import RunResult, summarise
from ..record.state import State
from ..record.store import RunStore, new_run_id
from .approvals import Approvals, approval_of, approval_text, settled
from .loop import Act
from .memory import Memory, NoMemory, RunMemory
from .session import UNCERTAIN, Session, drive, may_write
from .workbench import Workbench, check_length, goal_tools, opening, prompting_of
from .workspace import deliver, fingerprints, prepare, workspace_of

log = logging.getLogger(__name__)
AskPerson = Callable[[str, PersonAsked], PersonAnswered]
"""Puts a question of a run (its id, the question) to the person and returns the answer."""

WAITING = "waiting for a person"
"""How the cause of a run begins that goes on when its question is answered."""


class Interrupted(UserError):
    """The person stopped the program; ``runs`` can be resumed."""

    exit_code = 130

    def __init__(self, runs: Sequence[str]) -> None:
        self.runs = tuple(runs)
        how = "; ".join(f"autogpt resume {run}" for run in runs)
        super().__init__(f"interrupted; to go on: {how}" if how else "interrupted")


@dataclass(eq=False)
class LiveSession(Session):
    """A run in the database that this process owns until ``close``."""

    journal: DatabaseJournal
    prepared: dict[str, str] = field(kw_only=True)
    """Hashes of the workspace's files that may be written, as they were prepared."""
    approvals: Approvals = field(kw_only=True)
    ask: AskPerson | None = field(kw_only=True)

    def interrupt(self, cause: str) -> None:
        """Record that the run stops for now; where a full disk prevents it, it resumes all the same."""
        with contextlib.suppress(UserError):
            self.append(RunInterrupted(cause=cause))

    def stop(self) -> None:
        """Record that the person wants no answer to the last message of a conversation any more.

        A call that was still to come will not be made, and one under way may have had its effect; while an
        approval is asked for, the next message decides about the call.
        """
        state = State.of(self.events)
        with contextlib.suppress(UserError):
            if state.pending and not state.waiting:
                act = Act(*state.pending)
                lost = self._lost_intent(act)
                if lost is not None and lost.replay != Replay.PURE:
                    self.append(self.bench.outcome(act, "uncertain", UNCERTAIN))
                else:
                    self.append(self.bench.outcome(act, "refused", "refused: the person stopped it"))
            self.append(RunInterrupted(cause=STOPPED))

    def answer(self, answer: PersonAnswered) -> None:
        """Commit a person's answer to what the run waits for; UsageError if it waits for none."""
        self.append(settled(self.events, answer, self.approvals))

    def permit(self, act: Act, reason: str) -> str | PersonAsked | None:
        """Look for an approval, and ask for one if a person can be reached now or later."""
        if self.approvals.allows(self.started.folder, act.tool):
            return None
        answer = approval_of(act, self.events)
        if answer is not None:
            return None if answer.decision != "no" else answer.text or "the user said no"
        if self.ask is None and not self.parks("approval"):
            return reason
        return PersonAsked(kind="approval", text=approval_text(act, reason), call_id=act.call_id)

    def answer_to(self, asked: PersonAsked) -> PersonAnswered | None:
        """Ask the person who is there."""
        return None if self.ask is None else settled(self.events, self.ask(self.id, asked), self.approvals)

    def parks(self, kind: Literal["question", "approval"]) -> bool:
        """Wait with a question, which ``autogpt approve`` answers, and for approvals if the goal says so."""
        return kind == "question" or self.goal.on_approval == "park"

    def deliver(self) -> list[str]:
        """Copy what the run wrote into the goal's folder; what somebody else changed there stays as it is."""
        started = self.started
        folder, before = Path(started.folder), started.destinations
        return deliver(self.workspace, folder, may_write(self.goal), before, self.prepared, self.id)

    def close(self) -> None:
        """Release the run's lock and what the model keeps for it."""
        self.journal.close()
        super().close()


class Runner:
    """Runs goals with one model, durably.

    ``ask`` puts questions and approvals to a person; without it runs are unattended. ``on_event`` gets each
    event after it is committed, ``on_text`` the model's text as it appears; both get the run's id first.
    With a ``memory`` the model can ``remember`` and ``recall``, and runs leave episodes and lessons in it.
    """

    session: type[LiveSession] = LiveSession
    """The class that carries runs on."""

    def __init__(
        self,
        store: RunStore,
        model: Model,
        registry: Registry,
        *,
        ask: AskPerson | None = None,
        on_event: Callable[[str, Event], None] | None = None,
        on_text: Callable[[str, str], None] | None = None,
        sampling: Sampling | None = None,
        plan: bool = True,
        memory: Memory | None = None,
    ) -> None:
        self.store = store
        self.model = model
        self.registry = registry
        self.ask = ask
        self.on_event = on_event
        self.on_text = on_text
        self.sampling = sampling or Sampling()
        self.plan = plan
        self.memory = memory
        self.approvals = Approvals(store.home)

    def run(self, goal: Goal) -> RunResult:
        """Run one goal to its end. Raises :class:`Interrupted` on Ctrl-C and UserError as it comes."""
        return self.run_all([goal])[0]

    def run_all(self, goals: Iterable[Goal], parallel: int = 1) -> list[RunResult]:
        """Run goals, at most ``parallel`` at once; return their results in the order of the goals.

        Among several, a goal that cannot be opened has a result that says why; alone it raises UserError.
        """
        goals = list(goals)
        for goal in goals:
            goal.input_paths()  # a missing input should show before anything runs
        return self._drive([partial(self.start, goal) for goal in goals], parallel)

    def resume(self, run: str) -> RunResult:
        """Finish the run with this exact id; an ended one gives its result again."""
        events = self.store.load(run)
        if Record(events).ended:
            return summarise(events, self.store.database.where)
        return self._drive([partial(self.reopen, run)], 1)[0]

    def start(self, goal: Goal, mode: Literal["goal", "chat"] = "goal") -> LiveSession:
        """Open a new run: its first event is committed and its workspace made.

        Raises UsageError for an unknown tool or a goal that is too long for the model.
        """
        tools, sources = goal_tools(goal, self.registry, prompting_of(self.model))
        run = new_run_id()
        base = goal.base.resolve()
        started = opening(
            run,
            goal.model_dump(mode="json"),
            self.model,
            tools,
            sources,
            mode=mode,
            unattended=self.ask is None,
            seed=self.sampling.seed,
            best_of=self.sampling.best_of,
            plan=self.plan,
            memory=self.memory is not None,
        )
        if mode == "goal":
            check_length(started, self.model)
        folder = {"folder": str(base), "destinations": fingerprints(base, may_write(goal))}
        workspace = workspace_of(goal, base, self.store.folder(run))
        journal = self.store.create(started.model_copy(update=folder), workspace=workspace)
        if self.on_event:
            self.on_event(run, journal.events[0])
        return self._session(goal, journal, base)

    def reopen(self, run: str) -> LiveSession:
        """Take over an existing run where its events left it."""
        journal = self.store.open(run)
        try:
            started = journal.events[0] if journal.events else None
            if not isinstance(started, RunStarted):
                raise UserError(f"run {run}: its first event is missing; it cannot be resumed")
            self._same_model(started)
            goal = Goal.model_validate(started.goal).at(Path(started.folder))
        except BaseException:
            journal.close()
            raise
        return self._session(goal, journal, Path(started.folder))

    def result(self, session: LiveSession) -> RunResult:
        """Return the run in numbers, as its events stand."""
        result = summarise(session.events, self.store.database.where)
        asked = State.of(session.events).waiting
        if asked and result.status in ("running", "interrupted"):
            return result.model_copy(update={"status": "needs_person", "cause": f"{WAITING}: {asked.text}"})
        return result

    def _session(self, goal: Goal, journal: DatabaseJournal, base: Path) -> LiveSession:
        """Bind the run to its tools and its workspace, which is prepared if it was not."""
        try:
            tools, sources = goal_tools(goal, self.registry)
            record = Record(journal.events)
            missing = [name for name in record.specs if name not in tools]
            if missing:
                raise UsageError(
                    f"run {journal.run} needs {', '.join(missing)}, which is not registered here"
                )
            known = {name: tools[name] for name in record.specs}
            if record.started.hidden_tools:
                known |= tools
            workspace = workspace_of(goal, base, journal.folder)
            prepared = prepare(goal, workspace, journal.folder)
        except BaseException:
            journal.close()
            raise
        return self.session(
            goal,
            journal,
            Workbench(known, workspace, goal.text(), journal.value, sources),
            RunMemory(self.memory or NoMemory(), str(base)),
            self.model,
            self.sampling,
            self.on_event,
            prepared=prepared,
            approvals=self.approvals,
            ask=self.ask,
        )

    def _same_model(self, started: RunStarted) -> None:
        """Refuse a model whose tokens mean something else than the recorded ones."""
        if started.tokenizer_hash and started.tokenizer_hash != self.model.tokenizer_hash:
            raise UsageError(
                f"run {started.run} was begun with the model {started.model}, whose tokens {self.model.name} "
                f"cannot read; resume with --model {started.model}"
            )
        if started.model_hash != self.model.fingerprint:
            log.warning("run %s began with other weights of %s", started.run, started.model)

    def _drive(self, openers: Sequence[Callable[[], LiveSession]], parallel: int) -> list[RunResult]:
        """Carry all runs to their ends, or as far as they go without a person."""
        active: dict[int, LiveSession] = {}
        results: dict[int, RunResult] = {}

        def unopened(number: int, error: UserError) -> None:
            results[number] = RunResult(id=f"goal {number + 1}", run="", status="error", cause=str(error))

        on_unopened = unopened if len(openers) > 1 else None
        try:
            for number, session in drive(
                openers, self.model, active, parallel, on_text=self.on_text, on_unopened=on_unopened
            ):
                results[number] = self.result(session)
                session.close()
        except (KeyboardInterrupt, Paused) as error:
            raise interrupted(list(active.values()), error) from error.__cause__
        finally:
            for session in active.values():
                session.close()
        return [results[number] for number in sorted(results)]


def interrupted(sessions: Sequence[LiveSession], error: KeyboardInterrupt | Paused) -> UserError:
    """Record in each run that it stops for now, and return the error that says how to go on."""
    for session in sessions:
        session.interrupt(str(error) if isinstance(error, Paused) else "stopped by the user")
    return error if isinstance(error, Paused) else Interrupted([session.id for session in sessions])
