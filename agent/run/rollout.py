"""The in-memory driver: many goals at once, their model calls batched; for evaluation and RL.

Each goal gets a scratch workspace and its events are a list. Nobody is there to ask, nothing is delivered
and nothing survives the process: use :mod:`.runner` for real work. What the model reads, what it may do and
how a run ends is the same there (:mod:`.session`).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from ...llm.message import Model, Sampling
from ...tools.registry import Registry
from ..goals.load import Goal
from ..record.events import PersonAnswered, PersonAsked
from ..record.journal import MemoryJournal
from ..record.record import Record
from ..record.result import RunResult, summarise
from .memory import NoMemory, RunMemory
from .session import Session, drive
from .workbench import Workbench, goal_tools, opening, prompting_of


@dataclass(eq=False)
class Episode(Session):
    """One goal, or one conversation, in a scratch folder."""

    answers: list[str] = field(default_factory=list, kw_only=True)
    """What is said to each question, in order; when none is left, nobody is there."""

    def answer_to(self, asked: PersonAsked) -> PersonAnswered | None:
        """Return the next answer to a question."""
        known = asked.kind == "question" and self.answers
        return PersonAnswered(text=self.answers.pop(0)) if known else None

    @property
    def name(self) -> str:
        """The run's id, which is also the model's session."""
        return self.id

    @property
    def result(self) -> RunResult | None:
        """The run in numbers, None until it has ended."""
        return summarise(self.events) if Record(self.events).ended else None

    def close(self) -> None:
        """Forget the model's session and remove the workspace; the events stay."""
        super().close()
        shutil.rmtree(self.workspace, ignore_errors=True)


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
        active: dict[int, Episode] = {}
        openers = (partial(self.open, goal) for goal in goals)
        try:
            for number, episode in drive(openers, self.model, active, self.parallel):
                episode.close()
                yield number, episode
        finally:
            for episode in active.values():
                episode.close()

    def work(self, episode: Episode) -> None:
        """Carry a conversation on until it waits for the next message."""
        for _ in drive([lambda: episode], self.model, {}):
            pass

    def open(self, goal: Goal, mode: Literal["eval", "chat"] = "eval") -> Episode:
        """Start an episode: its workspace with the inputs, its first event.

        A goal that would work in place works on copies here. Raises UsageError for a missing input.
        """
        tools, sources = goal_tools(goal, self.registry, prompting_of(self.model))
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
        journal = MemoryJournal(run, [started])
        bench = Workbench(tools, workspace, goal.text(), journal.value, sources)
        sampling = Sampling(temperature=self.temperature, seed=self.seed, best_of=self.best_of)
        return Episode(goal, journal, bench, memory or RunMemory(NoMemory()), self.model, sampling)
