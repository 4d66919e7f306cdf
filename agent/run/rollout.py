"""The in-memory driver: many goals at once, their model calls batched; for evaluation and RL.

Each goal gets a scratch workspace; journals are lists. A goal's next model call joins the batch of
those under way (:mod:`autogpt.llm.message`). Nobody is there to ask: a call that is not granted is refused,
and a question ends a goal (in a conversation it waits for the next message). Nothing survives the process,
nothing is delivered: use ``runner`` for real work.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...errors import ToolError
from ...llm.message import Flow, Model, Sampling, Turn, flow_of
from ...llm.models.local import ContextOverflow
from ...llm.schema import GrammarError
from ...tools.policy import decide_call
from ...tools.registry import Registry
from ..goals.checks import reward, run_checks
from ..goals.load import Goal
from ..record.events import CheckResult, Event, PersonAsked, RunEnded, RunStarted
from ..record.result import RunResult, resolved_answer, stub_calls, summarise
from ..record.state import State
from .compaction import fold
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
from .memory import NoMemory, RunMemory
from .steps import Workbench, model_turn, opening
from .toolset import goal_tools

UNFIT = (ContextOverflow, GrammarError)
"""What a model that cannot take a prompt raises."""


@dataclass
class Episode:
    """One goal under way: its events and its workbench."""

    goal: Goal
    events: list[Event]
    bench: Workbench
    workspace: Path
    memory: RunMemory | None = None
    result: RunResult | None = None
    sampling: Sampling = field(default_factory=Sampling)
    asked: Think | None = None
    """What the model is answering."""

    @property
    def started(self) -> RunStarted:
        """The first event."""
        first = self.events[0]
        assert isinstance(first, RunStarted)
        return first

    @property
    def name(self) -> str:
        """The run's identifier, also the model's session."""
        return self.started.run


class Rollout:
    """Runs goals with one model. ``parallel`` bounds how many are under way together.

    ``memory`` gives each goal what it may recall from and keep things in; without it there is none.
    """

    def __init__(
        self,
        model: Model,
        registry: Registry,
        *,
        parallel: int = 16,
        seed: int = 0,
        temperature: float = 0.0,
        best_of: int = 1,
        plan: bool = True,
        memory: Callable[[Goal], RunMemory | None] | None = None,
    ) -> None:
        self.model = model
        self.registry = registry
        self.parallel = parallel
        self.seed = seed
        self.temperature = temperature
        self.best_of = best_of
        self.plan = plan
        self.memory = memory
        self._count = 0

    def run(self, goals: Iterable[Goal], on_done: Callable[[Episode], None] | None = None) -> list[Episode]:
        """Run all goals and return their episodes in the order of the goals."""
        finished: dict[int, Episode] = {}
        for number, episode in self.stream(goals):
            finished[number] = episode
            if on_done:
                on_done(episode)
        return [finished[number] for number in sorted(finished)]

    def stream(self, goals: Iterable[Goal]) -> Iterator[tuple[int, Episode]]:
        """Yield (index of the goal, episode) as goals end."""
        waiting = enumerate(goals)
        active: dict[int, Episode] = {}
        flow = flow_of(self.model)
        due: list[int] = []
        try:
            while True:
                while len(active) < self.parallel and (item := next(waiting, None)) is not None:
                    active[item[0]] = self.open(item[1])
                    due.append(item[0])
                if not active:
                    return
                # a free place is filled before the model goes on
                number = due.pop(0) if due else None
                if number is None:
                    due = self._ready(flow, active)
                    continue
                think = self.advance(active[number])
                if think is None:
                    episode = active.pop(number)
                    self.close(episode)
                    yield number, episode
                elif not self._put(flow, active[number], number, think):
                    due.append(number)
        finally:
            for episode in active.values():
                self.close(episode)

    def close(self, episode: Episode) -> None:
        """Forget an episode's session and remove its workspace; its events stay."""
        self.model.close_session(episode.name)
        shutil.rmtree(episode.workspace, ignore_errors=True)

    def open(self, goal: Goal, mode: Literal["eval", "chat"] = "eval") -> Episode:
        """Start an episode: its workspace with the inputs, its first event.

        A goal that would work in place works on copies here. Raises UsageError for a missing input.
        """
        tools, sources = goal_tools(goal, self.registry)
        self._count += 1
        run = f"rollout-{self.seed}-{self._count}"
        workspace = Path(tempfile.mkdtemp(prefix=f"autogpt-{run}-"))
        try:
            goal.fill_workspace(workspace)
        except BaseException:
            shutil.rmtree(workspace, ignore_errors=True)
            raise
        memory = self.memory(goal) if self.memory else None
        started = opening(
            run,
            {**goal.model_dump(mode="json"), "workspace": None},
            self.model,
            tools,
            sources,
            mode=mode,
            seed=self.seed,
            best_of=self.best_of,
            plan=self.plan,
            memory=memory is not None,
        )
        bench = Workbench(tools, workspace, goal.text())
        sampling = Sampling(temperature=self.temperature, seed=self.seed, best_of=self.best_of)
        return Episode(goal, [started], bench, workspace, memory, sampling=sampling)

    def _put(self, flow: Flow, episode: Episode, number: int, think: Think) -> bool:
        """Have the model answer; False if it cannot take the prompt, which costs the goal, not the suite."""
        try:
            flow.put(number, think.prompt(episode.name, episode.sampling))
        except UNFIT as error:
            episode.events.append(model_turn(think, Turn(None, "", invalid=str(error))))
            return False
        episode.asked = think
        return True

    def _ready(self, flow: Flow, active: Mapping[int, Episode]) -> list[int]:
        """Wait for turns of the model and append them; return whose they are."""
        try:
            turns = flow.ready()
        except UNFIT as error:
            if len(active) > 1:
                raise
            turns = [(number, Turn(None, "", invalid=str(error))) for number in active]
        for number, turn in turns:
            episode = active[number]
            assert episode.asked is not None
            episode.events.append(model_turn(episode.asked, turn))
        return [number for number, _ in turns]

    def think(self, episode: Episode, think: Think) -> None:
        """Ask the model for one turn, as in a conversation, and append it.

        A prompt that the model cannot take costs its goal, not the suite: it is an invalid turn.
        """
        try:
            turn = self.model.respond([think.prompt(episode.name, episode.sampling)])[0]
        except UNFIT as error:
            turn = Turn(None, "", invalid=str(error))
        episode.events.append(model_turn(think, turn))

    def advance(self, episode: Episode) -> Think | None:
        """Carry out what needs no model; return the next Think, or None when there is none.

        Then the episode has ended, or a conversation waits for the next message.
        """
        chat = episode.started.mode == "chat"
        while True:
            match decide(episode.events, episode.bench.tools):
                case Think() as think:
                    return think
                case Act() as act:
                    self._act(episode, act)
                case Recall() | Remember() as request:
                    memory = episode.memory or RunMemory(NoMemory())
                    episode.events.append(memory.answer(request, episode.events))
                case Fold(upto=upto):
                    memory = episode.memory or RunMemory(NoMemory())
                    episode.events.extend(fold(upto, tuple(episode.events), memory))
                case Ask(kind=kind, text=text):
                    if State.of(episode.events).waiting is None:
                        episode.events.append(PersonAsked(kind=kind, text=text))
                    if not chat:
                        _end(episode, "needs_person", f"the model asked: {text}", None)
                    return None
                case Stop() if chat:
                    return None
                case Stop(status="finished", answer=answer):
                    _finish(episode, answer)
                    return None
                case Stop() as stop:
                    status = "limit" if stop.status == "limit" else "not_met"
                    _end(episode, status, stop.cause, None)
                    return None

    def _act(self, episode: Episode, act: Act) -> None:
        bench, events = episode.bench, episode.events
        if act.tool not in bench.tools:  # a model that was neither masked nor checked
            events.append(bench.outcome(act, "failed", f"error: there is no tool {act.tool}"))
            return
        tool = bench.tools[act.tool]
        try:
            targets = tool.targets(bench.arguments(act, events))
        except ToolError as error:
            events.append(bench.outcome(act, "failed", f"error: {error}"))
            return
        decision = decide_call(tool, targets, episode.goal.grants)
        events.append(bench.intent(act, events))
        if decision.allowed:
            events.append(bench.perform(act, events))
        else:
            events.append(bench.outcome(act, "refused", f"refused: {decision.reason}"))


def _finish(episode: Episode, answer: Any) -> None:
    value = resolved_answer(answer, episode.bench.values(episode.events))
    verdicts = run_checks(episode.goal, value, episode.workspace, stub_calls(episode.events))
    for verdict in verdicts:
        episode.events.append(CheckResult(**vars(verdict)))
    met = all(verdict.passed for verdict in verdicts)
    status = "achieved" if met else "not_met"
    _end(episode, status, "finished" if met else "a check failed", value, reward(verdicts))


def _end(episode: Episode, status: Any, cause: str, answer: Any, points: float | None = None) -> None:
    if points is None and episode.goal.check and status != "achieved":
        points = 0.0
    episode.events.append(RunEnded(status=status, cause=cause, answer=answer, reward=points))
    episode.result = summarise(episode.events)
