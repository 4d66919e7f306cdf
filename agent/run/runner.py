"""The durable driver: goals and conversations whose every step is committed before the next.

For a call: commit the intent, run it in process, commit the outcome. After a crash ``resume`` reads
the events and decides again; a call whose outcome was lost is run again when it is pure, verified
first when it is idempotent, and reported as uncertain, never repeated, when it is neither. A model
turn that was not committed is simply asked for again. Several goals go side by side in one thread:
a goal's model call joins the batch of those under way (:mod:`autogpt.llm.message`).

Limits: a call that runs in process is only as interruptible as its body; Ctrl-C during it is a lost
outcome like any other. While a goal's tool works, the goals beside it wait.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from ...errors import ToolError, UsageError, UserError
from ...llm.message import Flow, Model, Sampling, Turn, flow_of
from ...tools.policy import Verdict, decide_call
from ...tools.registry import Registry
from ..goals.load import Goal, Grants
from ..record.events import (
    Event,
    PersonAnswered,
    PersonAsked,
    RunEnded,
    RunInterrupted,
    RunStarted,
    ToolIntent,
    ToolOutcome,
)
from ..record.journal import PARKED, DatabaseJournal, Paused
from ..record.result import RunResult, summarise
from ..record.state import State
from ..record.store import RunStore, new_run_id
from .active import ActiveRun, may_write
from .approvals import Approvals, approval_of, approval_text, settled
from .compaction import fold
from .deliver import fingerprints
from .loop import (
    Act,
    Ask,
    Fold,
    Recall,
    Remember,
    Stop,
    Think,
    decide,
)
from .memory import Memory, NoMemory, RunMemory
from .steps import Workbench, model_turn, opening
from .toolset import goal_tools
from .workspace import prepare, workspace_of

log = logging.getLogger(__name__)
AskPerson = Callable[[str, PersonAsked], PersonAnswered]
"""Puts a question of a run (its id, the question) to the person and returns the answer."""

UNCERTAIN = (
    "uncertain: the program stopped during this call, so whether it had its effect is unknown; "
    "it was not repeated"
)
WAITING = "waiting for a person"
"""How the cause of a run begins that goes on when its question is answered."""


class Interrupted(UserError):
    """The person stopped the program; ``runs`` can be resumed."""

    exit_code = 130

    def __init__(self, runs: Sequence[str]) -> None:
        self.runs = tuple(runs)
        how = "; ".join(f"autogpt resume {run}" for run in runs)
        super().__init__(f"interrupted; to go on: {how}" if how else "interrupted")


class Runner:
    """Runs goals with one model, durably.

    ``ask`` puts questions and approvals to a person; without it runs are unattended. ``on_event``
    hears of each event after it is committed, ``on_text`` of the model's text as it appears; both
    get the run's id first. With a ``memory`` the model can ``remember`` and ``recall``, and runs leave
    episodes and lessons in it.
    """

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
        """Run goals, at most ``parallel`` at once; return their results in the order of the goals."""
        goals = list(goals)
        for goal in goals:
            goal.input_paths()  # a missing input should show before anything runs
        openers = [lambda goal=goal: self.start(goal) for goal in goals]
        return self._drive_all(openers, parallel)

    def resume(self, run: str) -> RunResult:
        """Finish the run with this exact id; an ended one gives its result again."""
        events = self.store.load(run)
        if any(isinstance(event, RunEnded) for event in events):
            return summarise(events, self.store.database.where)
        return self._drive_all([lambda: self.reopen(run)], 1)[0]

    def start(self, goal: Goal, mode: Literal["goal", "chat"] = "goal") -> ActiveRun:
        """Open a new run: its first event is committed and its workspace made."""
        tools, sources = goal_tools(goal, self.registry)
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
        ).model_copy(
            update={"folder": str(base), "destinations": fingerprints(base, may_write(goal))},
        )
        workspace = workspace_of(goal, base, self.store.folder(run))
        journal = self.store.create(started, workspace=workspace)
        if self.on_event:
            self.on_event(run, journal.events[0])
        return self._active(goal, journal, base)

    def reopen(self, run: str) -> ActiveRun:
        """Take over an existing run where its events left it."""
        journal = self.store.open(run)
        try:
            started = journal.events[0] if journal.events else None
            if not isinstance(started, RunStarted):
                raise UserError(f"run {run}: its first event is missing; it cannot be resumed")
            self._same_model(started)
            goal = Goal.model_validate(started.goal)
            goal._base = Path(started.folder)
        except BaseException:
            journal.close()
            raise
        return self._active(goal, journal, Path(started.folder))

    def advance(self, run: ActiveRun) -> Think | None:
        """Carry out all that needs no model; return the next Think, or None and ``run.stopped``."""
        while True:
            match decide(run.events, run.bench.tools):
                case Think() as think:
                    run.stopped = None
                    return think
                case Act() as act:
                    self._act(run, act)
                case Recall() | Remember() as request:
                    run.append(run.memory.answer(request, run.events))
                case Fold(upto=upto):
                    for event in fold(upto, tuple(run.events), run.memory):
                        run.append(event)
                case Ask() as ask:
                    if not self._ask(run, ask):
                        return None
                case Stop() as stop:
                    run.stopped = stop
                    if run.started.mode != "chat":
                        run.stop(stop)
                    return None

    def think(self, run: ActiveRun, think: Think) -> None:
        """Ask the model for one turn, as in a conversation, and commit it."""
        on_text = self.on_text
        heard = (lambda _, piece: on_text(run.id, piece)) if on_text else None
        run.append(model_turn(think, self.model.respond([think.prompt(run.id, self.sampling)], heard)[0]))

    def close(self, run: ActiveRun) -> None:
        """Let go of the run and of what the model keeps for it."""
        run.journal.close()
        self.model.close_session(run.id)

    def result(self, run: ActiveRun) -> RunResult:
        """Return the run in numbers, as its events stand."""
        result = summarise(run.events, self.store.database.where)
        if State.of(run.events).waiting and result.status in ("running", "interrupted"):
            waits = {"status": "needs_person", "cause": f"{WAITING}: {_question(run)}"}
            return result.model_copy(update=waits)
        return result

    def _active(self, goal: Goal, journal: DatabaseJournal, base: Path) -> ActiveRun:
        """Bind the run to its tools and its workspace, which is prepared if it was not."""
        try:
            tools, _ = goal_tools(goal, self.registry)
            first = journal.events[0]
            assert isinstance(first, RunStarted)
            missing = [spec.name for spec in first.tools if spec.name not in tools]
            if missing:
                raise UsageError(
                    f"run {journal.run} needs {', '.join(missing)}, which is not registered here"
                )
            known = {spec.name: tools[spec.name] for spec in first.tools}
            workspace = workspace_of(goal, base, journal.folder)
            prepared = prepare(goal, workspace, journal.folder)
        except BaseException:
            journal.close()
            raise
        bench = Workbench(known, workspace, goal.text(), journal.load_blob)
        memory = RunMemory(self.memory or NoMemory(), str(base))
        return ActiveRun(goal, journal, bench, memory, prepared, self.on_event)

    def _same_model(self, started: RunStarted) -> None:
        """Refuse a model whose tokens mean something else than the recorded ones."""
        if started.tokenizer_hash and started.tokenizer_hash != self.model.tokenizer_hash:
            raise UsageError(
                f"run {started.run} was begun with the model {started.model}, whose tokens {self.model.name} "
                f"cannot read; resume with --model {started.model}"
            )
        if started.model_hash != self.model.fingerprint:
            log.warning("run %s began with other weights of %s", started.run, started.model)

    def _drive_all(self, openers: Sequence[Callable[[], ActiveRun]], parallel: int) -> list[RunResult]:
        """Carry all runs to their ends; a run's next model call joins the batch of those under way."""
        waiting = deque(enumerate(openers))
        active: dict[int, ActiveRun] = {}
        results: dict[int, RunResult] = {}
        on_text = self.on_text
        heard = (lambda number, piece: on_text(active[number].id, piece)) if on_text else None
        flow = flow_of(self.model, heard)
        due: list[int] = []
        try:
            while True:
                while waiting and len(active) < max(1, parallel):
                    number, opener = waiting.popleft()
                    try:
                        active[number] = opener()
                        due.append(number)
                    except Paused:
                        raise
                    except UserError as error:
                        if len(openers) == 1:
                            raise
                        results[number] = _not_opened(number, error)
                if not active:
                    break
                # a free place is filled before the model goes on
                if not due:
                    due = self._ready(flow, active)
                    continue
                number = due.pop(0)
                think = self.advance(active[number])
                if think is None:
                    results[number] = self.result(active[number])
                    self.close(active.pop(number))
                elif not self._put(flow, active[number], number, think, len(openers) == 1):
                    due.append(number)
        except KeyboardInterrupt:
            for run in active.values():
                run.interrupt("stopped by the user")
            raise Interrupted([run.id for run in active.values()]) from None
        except Paused as error:
            for run in active.values():
                run.interrupt(str(error))
            raise
        finally:
            for run in active.values():
                self.close(run)
        return [results[number] for number in sorted(results)]

    def _put(self, flow: Flow, run: ActiveRun, number: int, think: Think, alone: bool) -> bool:
        """Have the model answer; False if it cannot take the prompt, which among several costs the goal."""
        try:
            flow.put(number, think.prompt(run.id, self.sampling))
        except UserError as error:
            if alone:
                raise
            run.append(model_turn(think, Turn(None, "", invalid=str(error))))
            return False
        run.asked = think
        return True

    def _ready(self, flow: Flow, active: Mapping[int, ActiveRun]) -> list[int]:
        """Wait for turns of the model and commit them; return whose they are."""
        turns = flow.ready()
        for number, turn in turns:
            run = active[number]
            assert run.asked is not None
            run.append(model_turn(run.asked, turn))
        return [number for number, _ in turns]

    def _act(self, run: ActiveRun, act: Act) -> None:
        """Carry out one call: permission, intent, effect, outcome; each committed before the next."""
        if act.tool not in run.bench.tools:  # a model that was neither masked nor checked
            run.append(run.bench.outcome(act, "failed", f"error: there is no tool {act.tool}"))
            return
        try:
            refusal = self._refusal(run, act)
        except ToolError as error:
            run.append(run.bench.outcome(act, "failed", f"error: {error}"))
            return
        if isinstance(refusal, PersonAsked):
            run.append(refusal)
            return
        if refusal is not None:
            run.append(run.bench.outcome(act, "refused", f"refused: {refusal}"))
            return
        lost = run.lost_intent(act)
        if lost is None:
            run.append(run.bench.intent(act, run.events))
            run.append(run.bench.perform(act, run.events))
        else:
            run.append(self._recovered(run, act, lost))

    def _recovered(self, run: ActiveRun, act: Act, lost: ToolIntent) -> ToolOutcome:
        """Return the outcome of a call that a crash cut off, by its class."""
        same = run.bench.intent(act, run.events).arguments_hash == lost.arguments_hash
        if lost.replay not in ("pure", "idempotent") or not same:
            return run.bench.outcome(act, "uncertain", UNCERTAIN)
        return run.bench.perform(act, run.events, verify=lost.replay == "idempotent")

    def _refusal(self, run: ActiveRun, act: Act) -> str | PersonAsked | None:
        """Return why the call may not run, the approval to ask for, or None when it may run.

        Raises ToolError when the call's targets make no sense (the model reads why).
        """
        tool = run.bench.tools[act.tool]
        targets = tool.targets(run.bench.arguments(act, run.events))
        decision = decide_call(tool, targets, run.goal.grants or _default_grants(run.goal))
        if decision.allowed:
            return None
        if decision.verdict is Verdict.REFUSE:
            return decision.reason
        if self.approvals.allows(run.started.folder, act.tool):
            return None
        answer = approval_of(act, run.events)
        if answer is not None:
            return None if answer.decision != "no" else answer.text or "the user said no"
        if self.ask is None and run.goal.on_approval != "park":
            return decision.reason
        return PersonAsked(kind="approval", text=approval_text(act, decision.reason), call_id=act.call_id)

    def _ask(self, run: ActiveRun, ask: Ask) -> bool:
        """Put a question to the person; False when the run must wait or end without the answer."""
        asked = State.of(run.events).waiting
        if asked is None:
            asked = run.append(PersonAsked(kind=ask.kind, text=ask.text, call_id=ask.call_id))
        if self.ask is not None:
            self.answer(run, self.ask(run.id, asked))
            return True
        run.stopped = Stop("idle", f"{WAITING}: {ask.text}")
        if run.started.mode == "chat":
            return False
        if run.goal.on_approval == "park":
            run.append(RunInterrupted(cause=PARKED))
        elif asked.kind == "approval":
            self.answer(run, PersonAnswered(text="nobody was there to approve", decision="no"))
            return True
        else:
            run.end("needs_person", f"the model asked: {ask.text}")
        return False

    def answer(self, run: ActiveRun, answer: PersonAnswered) -> None:
        """Commit a person's answer to what the run waits for; UsageError if it waits for none."""
        run.append(settled(run.events, answer, self.approvals))


def _question(run: ActiveRun) -> str:
    asked = State.of(run.events).waiting
    return asked.text if asked else ""


def _not_opened(number: int, error: UserError) -> RunResult:
    """Return the result of a goal that could not begin; the goals beside it go on."""
    return RunResult(id=f"goal {number + 1}", run="", status="error", cause=str(error))


def _default_grants(goal: Goal) -> Grants | None:
    """Without grants a goal may write in its own workspace, but not in a folder used in place."""
    return None if goal.workspace is None else Grants()
