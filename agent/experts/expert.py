"""The expert: plays a task's calls through the real loop and turns the episode into a sample.

Ids come from the serving grammar (:func:`autogpt.llm.text.grammar.teacher_ids`), so that what the model is
trained on is what it will see: forced tokens carry no loss. In one episode of ``STATIC_SHARE`` the
whole call carries loss, written as plain text, so that the framing is known without our grammar.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...llm.message import Prompt, ToolCall, Turn
from ...llm.text.grammar import GrammarCompiler, teacher_ids
from ...llm.text.tokenizer import ChatTokenizer
from ...text import Prompting
from ...tools.registry import Registry
from ...tools.tables.read import TABLE_SUFFIXES
from ..goals.load import Goal
from ..learn.samples import encode_run
from ..record.events import ModelTurn, PersonSaid
from ..record.state import input_names
from ..record.transcript import messages
from ..run.memory import RunMemory
from ..run.rollout import Episode, Rollout

STATIC_SHARE = 6
"""In one episode of this many, whole calls carry loss."""


FIRST = "rollout-0-1"
"""The session of the first episode of a new rollout."""


@dataclass
class Task:
    """A goal with the expert's calls; for a conversation, one list of calls per message."""

    kind: str
    goal: Goal
    calls: list[ToolCall] = field(default_factory=list)
    turns: list[tuple[str, list[ToolCall]]] = field(default_factory=list)
    """``(what the user says, the expert's calls)``; used instead of ``calls`` when not empty."""
    answers: list[str] = field(default_factory=list)
    """What the person says to each ``ask``, in order; without, a question ends the task."""
    unlearned: tuple[int, ...] = ()
    """Indices of calls that are mistakes on purpose (recovered from later); they carry no loss."""
    plan: bool = True
    """Whether the run begins with a plan; without, :func:`unplanned` has taken the expert's plans out."""
    memory: RunMemory | None = None
    """What the task recalls from and keeps things in; without it those calls are not offered."""
    may_miss: bool = False
    """The task has no check that could fail (chat); keep it when it ended as intended."""


def plan(*steps: tuple[str, str]) -> ToolCall:
    """Return a ``plan`` call with ``(tool, purpose)`` steps."""
    return ToolCall("plan", {"steps": [{"tool": tool, "for": purpose} for tool, purpose in steps]})


def finish(answer: str) -> ToolCall:
    """Return a ``finish`` call."""
    return ToolCall("finish", {"answer": answer})


def call(name: str, /, **arguments: Any) -> ToolCall:
    """Return a tool call."""
    return ToolCall(name, arguments)


def handles_before(goal: Goal) -> int:
    """Return how many handles the driver's inspections take before the model's first call."""
    names = input_names(goal.model_dump(mode="json"))
    tables = sum(name.lower().endswith(TABLE_SUFFIXES) for name in names)
    return tables + (tables < len(names))


def unplanned(task: Task) -> Task:
    """Return the same task for a run without a plan (``--no-plan``): its first call is a tool's."""

    def bare(calls: list[ToolCall]) -> list[ToolCall]:
        return [made for made in calls if made.name != "plan"]

    plans = [number for number, made in enumerate(task.calls) if made.name == "plan"]
    return replace(
        task,
        plan=False,
        calls=bare(task.calls),
        turns=[(text, bare(calls)) for text, calls in task.turns],
        unlearned=tuple(n - sum(before < n for before in plans) for n in task.unlearned if n not in plans),
    )


class Expert:
    """A model that plays each session's calls and writes them as the grammar would."""

    name = "expert"
    fingerprint = ""

    def __init__(self, tokenizer: ChatTokenizer, prompting: Prompting = "names") -> None:
        self.tokenizer = tokenizer
        self.prompting: Prompting = prompting
        self.tokenizer_hash = tokenizer.fingerprint
        self.compiler = GrammarCompiler(tokenizer, tokenizer.vocab_size)
        self._calls: dict[str, list[ToolCall]] = {}

    def assign(self, session: str, calls: Sequence[ToolCall]) -> None:
        """Set what the expert will say in ``session``."""
        self._calls[session] = list(calls)

    def respond(
        self, prompts: Sequence[Prompt], on_text: Callable[[int, str], None] | None = None
    ) -> list[Turn]:
        """Play the next call of each session."""
        return [self._play(prompt) for prompt in prompts]

    def _play(self, prompt: Prompt) -> Turn:
        script = self._calls.get(prompt.session) or []
        if not script:
            return Turn(None, "", invalid="the expert has nothing more to say")
        said = script.pop(0)
        if said.name not in {spec.name for spec in prompt.calls}:
            script.clear()
            return Turn(None, said.text(), invalid=f"{said.name} is not allowed now")
        grammar = self.compiler.compile(prompt.calls)
        try:
            ids, forced = teacher_ids(grammar, said.text())
        except ValueError as error:
            script.clear()
            return Turn(None, said.text(), invalid=f"the grammar refuses {said.name}: {error}")
        origins = "".join("f" if mark else "s" for mark in forced)
        return Turn(said, said.text(), tuple(ids), origins, (0.0,) * len(ids))

    def close_session(self, session: str) -> None:
        """Forget the session's script."""
        self._calls.pop(session, None)


class Recorder:
    """Plays tasks and yields samples; ``refused`` counts why others were dropped."""

    def __init__(
        self, tokenizer: ChatTokenizer, registry: Registry, seed: int = 0, prompting: Prompting = "names"
    ) -> None:
        self.expert = Expert(tokenizer, prompting)
        self.tokenizer = tokenizer
        self.registry = registry
        self.rng = random.Random(seed)
        self.refused: Counter[str] = Counter()

    def samples(self, tasks: Iterable[Task], max_tokens: int = 1400) -> Iterator[dict[str, Any]]:
        """Yield one training sample per task that succeeded and fits ``max_tokens``."""
        for task in tasks:
            episode = self.play(task)
            why = _why_not(task, episode)
            if why:
                self.refused[f"{task.kind}: {why}"] += 1
                continue
            sample = self.encode(task, episode)
            if len(sample["ids"]) > max_tokens:
                self.refused[f"{task.kind}: too long"] += 1
                continue
            yield sample

    def play(self, task: Task) -> Episode:
        """Play a task's calls and return the episode, whether it succeeded or not."""
        rollout = Rollout(
            self.expert, self.registry, parallel=1, plan=task.plan, memory=lambda goal: task.memory
        )
        if task.turns:
            return self._converse(rollout, task)
        self.expert.assign(FIRST, task.calls)
        return self._answered(rollout, task) if task.answers else rollout.run([task.goal])[0]

    def _answered(self, rollout: Rollout, task: Task) -> Episode:
        """Play a task in which a person answers what is asked."""
        episode = rollout.open(task.goal)
        episode.answers.extend(task.answers)
        try:
            rollout.work(episode)
        finally:
            episode.close()
        return episode

    def _converse(self, rollout: Rollout, task: Task) -> Episode:
        episode = rollout.open(task.goal, mode="chat")
        inputs = input_names(task.goal.model_dump(mode="json"))
        try:
            for number, (text, calls) in enumerate(task.turns):
                episode.append(PersonSaid(text=text, inputs=inputs if number == 0 else []))
                self.expert.assign(episode.name, calls)
                rollout.work(episode)
        finally:
            episode.close()
        return episode

    def encode(self, task: Task, episode: Episode) -> dict[str, Any]:
        """Return the training record of an episode."""
        if self.rng.randrange(STATIC_SHARE):
            return encode_run(self.tokenizer, episode.events, task.unlearned).record(task.kind)
        conversation = tuple(type(m)(m.role, m.content) for m in messages(episode.events))
        encoded = self.tokenizer.encode_messages(conversation, continue_assistant=False)
        mask = [int(value) for value in encoded.mask]
        if task.unlearned:
            mask = self._mask_unlearned(mask, task.unlearned)
        prefix = len(self.tokenizer.encode_messages(conversation[:1], continue_assistant=False).ids)
        return {"ids": list(encoded.ids), "mask": mask, "prefix": prefix, "kind": task.kind}

    @staticmethod
    def _mask_unlearned(mask: list[int], unlearned: tuple[int, ...]) -> list[int]:
        result, run, inside = [], -1, False
        for value in mask:
            run += value and not inside
            inside = bool(value)
            result.append(0 if run in unlearned else value)
        return result


def _why_not(task: Task, episode: Episode) -> str | None:
    """Return why an episode is no training data, or None when it is."""
    for event in episode.events:
        if isinstance(event, ModelTurn) and event.call is None:
            return event.invalid or "invalid"
    if task.turns or task.may_miss:
        return None
    result = episode.result
    if result is None or result.status not in ("achieved", "answered"):
        return "not achieved" if result is None else f"{result.status}: {result.cause}"[:60]
    return None
