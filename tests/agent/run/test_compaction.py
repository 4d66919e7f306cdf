"""Folding long conversations: an exact ledger, everything findable again, and replay agrees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from autogpt.agent.record.events import (
    ConversationFolded,
    MemoryRecalled,
    MemoryWritten,
    RunStarted,
    dump_event,
    parse_event,
)
from autogpt.agent.record.state import State
from autogpt.agent.record.store import RunStore
from autogpt.agent.record.transcript import messages
from autogpt.agent.run import loop
from autogpt.agent.run.chat import ChatSession
from autogpt.agent.run.memories import HomeMemory
from autogpt.agent.run.replay import replay
from autogpt.agent.run.runner import Runner
from autogpt.cli.view import RunView
from autogpt.llm.message import Prompt, ToolCall, Turn
from autogpt.llm.text.tokenizer import ChatTokenizer
from autogpt.text import Prompting
from autogpt.tools.registry import builtins

BUDGET = 1000
"""Tokens of this tokenizer, half of them the system text."""
TALK = (
    "apples ripen late",
    "buses stop uphill",
    "candles burn down",
    "doors creak loudly",
    "eels swim home",
    "forks lie left",
    "geese fly south",
    "hills look blue",
    "islands drift apart",
    "jackets hang there",
)


class Counting:
    """A model that answers from a function, with the token ids of a real tokenizer."""

    name, fingerprint, tokenizer_hash, context = "counting", "", "", 4000
    prompting: Prompting = "names"

    def __init__(self, folder: Path, say: Callable[[Prompt], ToolCall]) -> None:
        self.tokenizer, self.say = ChatTokenizer(folder), say

    def respond(
        self, prompts: Sequence[Prompt], on_text: Callable[[int, str], None] | None = None
    ) -> list[Turn]:
        turns = []
        for prompt in prompts:
            call = self.say(prompt)
            whole = self.tokenizer.encode_messages(prompt.messages, continue_assistant=True).ids
            ids = self.tokenizer.assistant_ids(call.text())
            turns.append(Turn(call, call.text(), ids, "s" * len(ids), prompt_tokens=len(whole)))
        return turns

    def close_session(self, session: str) -> None:
        pass


def say(prompt: Prompt) -> ToolCall:
    """Answer a question about something told before with what is in sight of it."""
    text = prompt.messages[-1].content
    if "Memory:" in text:
        return ToolCall("finish", {"answer": text.partition("Memory:\n")[2].splitlines()[0]})
    return ToolCall("finish", {"answer": f"noted {len(prompt.messages)}"})


@pytest.fixture
def runner(tmp_path: Path, chat_folder: Path) -> Runner:
    memory = HomeMemory(tmp_path / "home")
    return Runner(RunStore(tmp_path / "home"), Counting(chat_folder, say), builtins(), memory=memory)


@pytest.fixture
def session(runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ChatSession:
    monkeypatch.setattr(loop, "CONVERSATION", BUDGET)
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    made = ChatSession(runner)
    made.say("The zebra is called Otto. " + "filler words here " * 8, inputs=[tmp_path / "t.csv"])
    for words in TALK[:5]:
        made.say(f"{words} " * 5)
    return made


def test_the_ledger_is_exact_and_names_every_event(session: ChatSession, chat_folder: Path) -> None:
    events = session.events
    folds = [event for event in events if isinstance(event, ConversationFolded)]
    assert folds
    at = events.index(folds[0])
    before, rows = events[: folds[0].upto], folds[0].exchanges
    tokenizer = ChatTokenizer(chat_folder)
    started = events[0]
    assert isinstance(started, RunStarted)
    length = [
        len(tokenizer.encode_messages(messages(events[:place])[:n]).ids)
        for place, n in ((folds[0].upto, None),)
    ]
    assert folds[0].tokens == sum(row.tokens for row in rows) == length[0] - started.system_tokens
    assert [row.first for row in rows][1:] == [row.last + 1 for row in rows][:-1] and rows[-1].last == len(
        before
    ) - 1
    written = {event.entry for event in events[:at] if isinstance(event, MemoryWritten)}
    assert {row.entry for row in rows} == written and None not in written
    assert parse_event(dump_event(folds[0])) == folds[0]
    assert State.of(events).context <= BUDGET + 400


def test_the_prompt_begins_anew_with_the_kept_messages_and_the_inputs(session: ChatSession) -> None:
    prompt = messages(session.events)
    text = prompt[1].content
    assert text.startswith("Goal: ") and "tables.describe t.csv: table t" in text
    assert "zebra" not in "".join(message.content for message in prompt)
    folds = [event for event in session.events if isinstance(event, ConversationFolded)]
    notes = RunView.of(session.events[: session.events.index(folds[-1]) + 1]).notes
    assert notes[-1].startswith("compacted the oldest ") and " tokens; in memory [" in notes[-1]


def test_what_was_folded_comes_back_when_it_is_asked_for(session: ChatSession) -> None:
    answer = session.say("What is the zebra called?").text
    assert "You asked: The zebra is called Otto." in answer
    recalled = [event for event in session.events if isinstance(event, MemoryRecalled)][-1]
    assert recalled.entries[0].kind == "episode"
    assert replay(session.events, builtins().select(None)).same


def test_a_conversation_that_goes_on_later_folds_as_it_would_have(
    session: ChatSession, runner: Runner
) -> None:
    session.close(end=False)
    again = ChatSession(runner, run=session.run)
    count = sum(isinstance(event, ConversationFolded) for event in again.events)
    for words in TALK[5:9]:
        again.say(f"{words} " * 5)
    assert sum(isinstance(event, ConversationFolded) for event in again.events) > count
    assert replay(again.events, builtins().select(None)).same
    again.close()


def test_without_a_memory_the_ledger_says_that_only_the_journal_has_it(
    tmp_path: Path, chat_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CONVERSATION", BUDGET)
    session = ChatSession(Runner(RunStore(tmp_path), Counting(chat_folder, say), builtins()))
    for words in TALK[:6]:
        session.say(f"{words} " * 8)
    fold = next(event for event in session.events if isinstance(event, ConversationFolded))
    assert {row.reason for row in fold.exchanges} == {"there is no memory"}
    seen = session.events[: session.events.index(fold) + 1]
    assert RunView.of(seen).notes[-1].endswith("tokens; in the journal alone")
    session.close()
