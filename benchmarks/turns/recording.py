"""Transcripts of the shipped model: what it was asked turn by turn, what it was allowed, what it said.

Recorded are sessions of at least six turns: the scripted conversations of ``benchmarks/suites``,
conversations of several questions about one table of the public suite, and workflows. For every turn
the exact prompt ids, the calls that were allowed (with the schemas as narrowed then), the generated
ids and which of them the grammar forced are kept. A prompt extends the one before, so the file keeps
what is new, and each call's schema once; it is JSON under zstandard.

Limits: replaying asks the recorded prompts whatever an engine answered, so an engine that answers
otherwise is timed on its own answer and then led back to the recorded conversation.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autogpt.llm.message import CallSpec, Prompt, Turn

SUITES = Path(__file__).resolve().parent.parent / "suites"
LEAST, MOST = 6, 12
"""A goal needs this many turns to be kept, and is cut after that many."""


@dataclass(frozen=True)
class TurnRecord:
    """One turn: the prompt, what was allowed, what was said."""

    prompt: tuple[int, ...]
    calls: tuple[CallSpec, ...]
    said: tuple[int, ...]
    forced: tuple[bool, ...]


@dataclass(frozen=True)
class GoalRecord:
    """One goal or conversation."""

    name: str
    turns: tuple[TurnRecord, ...]


@dataclass(frozen=True)
class Transcripts:
    """All recorded goals of one model."""

    model: str
    fingerprint: str
    tokenizer: str
    goals: tuple[GoalRecord, ...]

    @property
    def turns(self) -> int:
        """Return how many turns there are in all."""
        return sum(len(goal.turns) for goal in self.goals)


@dataclass
class Recorder:
    """A local model that remembers what it was asked and what it said, by session."""

    model: Any
    heard: dict[str, list[TurnRecord]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.name, self.fingerprint = self.model.name, self.model.fingerprint
        self.tokenizer_hash, self.prompting = self.model.tokenizer_hash, self.model.prompting

    def respond(
        self, prompts: Sequence[Prompt], on_text: Callable[[int, str], None] | None = None
    ) -> list[Turn]:
        """Answer as the model does, and keep it."""
        turns: list[Turn] = self.model.respond(prompts, on_text)
        for prompt, turn in zip(prompts, turns, strict=True):
            ids = self.model.tokenizer.encode_messages(prompt.messages, continue_assistant=True).ids
            if turn.call is not None:
                kept = TurnRecord(tuple(ids), prompt.calls, turn.ids, turn.forced)
                self.heard[prompt.session].append(kept)
        return turns

    def close_session(self, session: str) -> None:
        """End a session; what was heard stays."""
        self.model.close_session(session)


def record(model: Any, count: int = 24, say: Callable[[str], None] = print) -> Transcripts:
    """Let ``model`` (a LocalModel) work until ``count`` goals of enough turns are there.

    Half of them are scripted conversations, a third sessions on public tables, the rest workflows.
    """
    from autogpt.agent.run.rollout import Rollout
    from autogpt.tools.registry import builtins

    tables, scripted = count // 3, count // 2
    shares = (
        (_conversations(), scripted),
        (_table_sessions(), tables),
        (_workflows(), count - tables - scripted),
    )
    goals: list[GoalRecord] = []
    for number, (source, share) in enumerate(shares):
        found = 0
        while found < share and (item := next(source, None)) is not None:
            recorder = Recorder(model)
            _hold(item, Rollout(recorder, builtins(), parallel=1, seed=number))
            name = getattr(item, "id", "") or f"goal-{len(goals)}"
            turns = next(iter(recorder.heard.values()), [])[:MOST]
            if len(turns) >= LEAST:
                goals.append(GoalRecord(name, tuple(turns)))
                found += 1
                say(f"recorded {name}: {len(turns)} turns ({len(goals)} of {count})")
    return Transcripts(model.name, model.fingerprint, model.tokenizer_hash, tuple(goals))


def _hold(item: Any, rollout: Any) -> None:
    """Run one goal, or hold one conversation."""
    from autogpt.agent.evaluate.suite import converse
    from autogpt.agent.goals.load import Conversation

    if isinstance(item, Conversation):
        converse("transcripts", [item], rollout.model, rollout.registry)
    else:
        rollout.run([item])


def _conversations() -> Iterator[Any]:
    from autogpt.agent.goals.load import load_conversations

    yield from load_conversations(str(SUITES / "conversations.jsonl"))


def _workflows() -> Iterator[Any]:
    from autogpt.agent.goals.load import load_goals

    yield from load_goals(str(SUITES / "workflows.jsonl"))


def _table_sessions() -> Iterator[Any]:
    """Yield conversations of three or more questions about one public table."""
    from autogpt.agent.goals.load import Conversation

    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in (SUITES / "tables.jsonl").read_text(encoding="utf-8").splitlines():
        goal = json.loads(line)
        groups[json.dumps(goal["files"], sort_keys=True)].append(goal)
    for goals in groups.values():
        if len(goals) >= 3:
            turns = [{"say": goal["goal"], "check": goal["check"]} for goal in goals]
            session = {"id": f"{goals[0]['id']}-session", "files": goals[0]["files"], "turns": turns}
            yield Conversation.model_validate(session)


def retold(records: Transcripts, told: Any, compiler: Any) -> Transcripts:
    """Return conversations that were recorded with the tokenizer ``told`` in the tokens of ``compiler``'s.

    Texts between framing tokens are tokenised anew, each by itself, and an answer gets the tokens that the
    grammar would have produced, so a prompt still extends the prompt and the answer before it.
    """
    from autogpt.llm.text import tokenizer as chat
    from autogpt.llm.text.grammar import teacher_ids

    tokenizer = compiler.tokenizer
    marks = (chat.START, chat.CALL_OPEN, chat.CALL_CLOSE, chat.RESULT_OPEN, chat.RESULT_CLOSE, chat.END)
    framing = {told.frame(mark)[0]: tokenizer.frame(mark) for mark in marks}

    def again(ids: Sequence[int]) -> tuple[int, ...]:
        made: list[int] = []
        for framed, group in itertools.groupby(ids, told.is_added):
            if framed:
                made += (new for token in group for new in framing[token])
            else:
                made += tokenizer.plain(told.decode(list(group)))
        return tuple(made)

    goals = []
    for goal in records.goals:
        old: tuple[int, ...] = ()
        new: tuple[int, ...] = ()
        turns = []
        for turn in goal.turns:
            follows = turn.prompt[: len(old)] == old
            prompt = new + again(turn.prompt[len(old) :]) if follows else again(turn.prompt)
            said, forced = teacher_ids(compiler.compile(turn.calls), told.decode(turn.said))
            turns.append(TurnRecord(prompt, turn.calls, tuple(said), tuple(forced)))
            old, new = turn.prompt + turn.said, prompt + tuple(said)
        goals.append(GoalRecord(goal.name, tuple(turns)))
    return Transcripts(records.model, records.fingerprint, tokenizer.fingerprint, tuple(goals))


def save(transcripts: Transcripts, path: Path) -> int:
    """Write the transcripts; return the size of the file in bytes."""
    import zstandard

    calls: dict[str, int] = {}
    goals = []
    for goal in transcripts.goals:
        before: tuple[int, ...] = ()
        turns = []
        for turn in goal.turns:
            keep = next(
                (i for i, (a, b) in enumerate(zip(before, turn.prompt, strict=False)) if a != b),
                min(len(before), len(turn.prompt)),
            )
            texts = [json.dumps([c.name, c.description, dict(c.parameters)]) for c in turn.calls]
            numbers = [calls.setdefault(text, len(calls)) for text in texts]
            new = list(turn.prompt[keep:])
            turns.append([keep, new, numbers, list(turn.said), [int(mark) for mark in turn.forced]])
            before = turn.prompt + turn.said
        goals.append({"name": goal.name, "turns": turns})
    about = {"model": transcripts.model, "fingerprint": transcripts.fingerprint}
    data = {**about, "tokenizer": transcripts.tokenizer, "calls": list(calls), "goals": goals}
    raw = json.dumps(data, separators=(",", ":")).encode()
    packed: bytes = zstandard.ZstdCompressor(level=19).compress(raw)
    path.write_bytes(packed)
    return len(packed)


def load(path: Path) -> Transcripts:
    """Read transcripts; raises OSError or ValueError for a file that is none."""
    import zstandard

    raw = zstandard.ZstdDecompressor().decompress(path.read_bytes(), max_output_size=1 << 30)
    data = json.loads(raw)
    specs = [CallSpec(name, schema, about) for name, about, schema in map(json.loads, data["calls"])]
    goals = []
    for goal in data["goals"]:
        before: tuple[int, ...] = ()
        turns = []
        for keep, new, numbers, said, marks in goal["turns"]:
            prompt = before[:keep] + tuple(new)
            calls = tuple(specs[number] for number in numbers)
            turns.append(TurnRecord(prompt, calls, tuple(said), tuple(map(bool, marks))))
            before = prompt + tuple(said)
        goals.append(GoalRecord(goal["name"], tuple(turns)))
    return Transcripts(data["model"], data["fingerprint"], data["tokenizer"], tuple(goals))
