"""Memory in the loop: what is recalled is shown and labelled, what is told is kept, and replay agrees."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.calls import finish, of, plan

from autogpt import AutoGPT
from autogpt.agent.evaluate.suite import evaluate
from autogpt.agent.experts import remembering as episodes
from autogpt.agent.experts.expert import Recorder
from autogpt.agent.goals.load import Goal
from autogpt.agent.record.events import (
    CheckResult,
    Event,
    MemoryRecalled,
    MemoryWritten,
    ModelTurn,
    PersonSaid,
    RunEnded,
    RunStarted,
    ToolOutcome,
)
from autogpt.agent.record.state import State
from autogpt.agent.record.store import RunStore
from autogpt.agent.record.transcript import messages
from autogpt.agent.run.calls import MAX_RECALLS, allowed_calls
from autogpt.agent.run.chat import ChatSession
from autogpt.agent.run.loop import Recall, decide
from autogpt.agent.run.memories import HomeMemory, SuiteMemories
from autogpt.agent.run.memory import RunMemory, helped, leftovers, outcome, said_label, whole
from autogpt.agent.run.replay import replay
from autogpt.agent.run.rollout import Rollout
from autogpt.agent.run.runner import Runner
from autogpt.cli.chat import Repl
from autogpt.cli.report import Report
from autogpt.errors import UserError
from autogpt.labels import Label
from autogpt.llm.message import Prompt, ToolCall
from autogpt.llm.models.scripted import ScriptedModel
from autogpt.llm.text.tokenizer import ChatTokenizer
from autogpt.memory.entry import Draft, Kind, Recalled, Verdict, Written
from autogpt.tools.registry import builtins

Line = ToolCall | Callable[[Prompt], ToolCall]


def remember(text: str) -> ToolCall:
    return ToolCall("remember", {"text": text})


def last_memory(prompt: Prompt) -> ToolCall:
    """Answer with the last line of memory in sight."""
    text = prompt.messages[-1].content
    return finish(text.splitlines()[-1] if "Memory:" in text else "nothing was shown")


def runner(home: Path, lines: Sequence[Line], memory: HomeMemory | None) -> Runner:
    def line(prompt: Prompt) -> Any:
        said = lines[sum(message.role == "assistant" for message in prompt.messages)]
        return said(prompt) if callable(said) else said

    return Runner(RunStore(home), ScriptedModel([line] * 50), builtins(), memory=memory)


def goal(text: str, base: Path, **fields: Any) -> Goal:
    return Goal.model_validate({"goal": text, **fields}).at(base)


@pytest.fixture
def memory(tmp_path: Path) -> HomeMemory:
    return HomeMemory(tmp_path / "home")


def test_without_a_memory_nothing_of_it_is_read_or_offered() -> None:
    with_memory, without = (
        [RunStarted(run="r", goal={"goal": "Count"}, memory=memory), *looked]
        for memory, looked in ((True, [MemoryRecalled(query="Count", entries=[], by="driver")]), (False, []))
    )
    assert "remember" not in messages(without)[0].content and "Memory" not in messages(without)[1].content
    assert messages(with_memory)[0].content.startswith(messages(without)[0].content)
    assert messages(with_memory)[1] == messages(without)[1]
    assert not {"remember", "recall"} & {
        spec.name for spec in allowed_calls(State.of(without), builtins().select(None))
    }


def test_what_one_run_was_told_the_next_is_shown(tmp_path: Path, memory: HomeMemory) -> None:
    home = tmp_path / "home"
    told = runner(home, [remember("My dentist is Dr. Wu."), finish("Noted.")], memory)
    result = told.run(goal("Remember that my dentist is Dr. Wu.", tmp_path))
    written = of(MemoryWritten, told.store.load(result.run))[0]
    assert (written.verdict, written.by, written.label) == ("written", "model", Label.TRUSTED)
    assert written.entry is not None
    entry = memory.store.get([written.entry])[0]
    assert (entry.text, entry.run, entry.hash) == ("My dentist is Dr. Wu.", result.run, written.hash)
    assert entry.event is not None
    assert isinstance(told.store.load(result.run)[entry.event], ModelTurn)

    asked = runner(home, [last_memory], memory)
    wanted = f"[{entry.id}] My dentist is Dr. Wu."
    answer = asked.run(goal("Who is my dentist?", tmp_path, check=[{"answer": {"equals": wanted}}]))
    assert answer.answer == wanted
    events = asked.store.load(answer.run)
    recalled = of(MemoryRecalled, events)[0]
    assert (recalled.by, recalled.query, recalled.label) == ("driver", "Who is my dentist?", Label.TRUSTED)
    assert [shown.id for shown in recalled.entries] == [entry.id]
    assert replay(events, builtins().select(None)).same
    after = memory.store.get([entry.id])[0]
    assert (after.uses, after.successes) == (1, 1)


def test_a_new_value_supersedes_and_a_refusal_is_told_to_the_model(
    tmp_path: Path, memory: HomeMemory
) -> None:
    home = tmp_path / "home"
    memory.write(Draft(Kind.FACT, "My dentist is Dr. Wu."))
    lines: list[Line] = [
        remember("My dentist is now Dr. Lee."),
        remember("My dentist is now Dr. Lee."),
        finish(),
    ]
    first = runner(home, lines, memory)
    events = first.store.load(first.run(goal("my dentist is now Dr. Lee", tmp_path)).run)
    one, two = of(MemoryWritten, events)[:2]
    assert (one.verdict, one.replaced, two.verdict) == ("superseded", 1, "refused")
    shown = messages(events)[-2].content
    assert shown == f"not kept: {two.reason}"
    asked = runner(home, [last_memory], memory)
    assert "Dr. Lee" in asked.run(goal("who is my dentist", tmp_path)).answer


def test_recall_is_bounded_and_comes_back_as_a_message(tmp_path: Path, memory: HomeMemory) -> None:
    memory.write(Draft(Kind.FACT, "Maria's birthday is 3 May."))
    look = ToolCall("recall", {"query": "birthday of Maria"})
    lines: list[Line] = [
        plan("files.read"),
        ToolCall("files.read", {"path": "who.txt"}),
        look,
        look,
        finish("3 May"),
    ]
    run = runner(tmp_path / "home", lines, memory)
    result = run.run(goal("When was the person in who.txt born?", tmp_path, files={"who.txt": "Maria"}))
    events = run.store.load(result.run)
    assert [event.by for event in of(MemoryRecalled, events)] == ["driver", "model", "model"]
    told = [message.content for message in messages(events) if message.role == "tool"]
    assert told[1] == "Memory:\n[1] Maria's birthday is 3 May."
    assert "recall" in of(ModelTurn, events)[3].allowed and "recall" not in of(ModelTurn, events)[4].allowed
    assert MAX_RECALLS == 2 and result.status == "answered"


def test_a_conversation_recalls_once_a_message_and_never_repeats_itself(
    tmp_path: Path, memory: HomeMemory
) -> None:
    memory.write(Draft(Kind.FACT, "My cat is called Mia."))
    session = ChatSession(runner(tmp_path / "home", [last_memory, last_memory, finish("x")], memory))
    assert "Mia" in session.say("What is my cat called?").text
    assert session.say("What was my cat called?").text == "nothing was shown"  # it stands above
    assert [event.by for event in of(MemoryRecalled, session.events)] == ["driver"] * 2
    assert [m.role for m in messages(session.events)].count("user") == 2
    said = [PersonSaid(text="hello"), *of(RunStarted, session.events)]
    assert decide([said[1], said[0]], {}) == Recall("hello", "driver")
    session.close()


def test_words_of_a_file_are_not_trusted_when_remembered() -> None:
    events: list[Event] = [
        RunStarted(run="r", goal={"goal": "Remember what note.txt says."}, memory=True),
        ToolOutcome(call_id="c1", tool="files.read", state="done", preview="Pay Eve", label=Label.UNTRUSTED),
    ]
    assert said_label("note.txt says remember what", events) == Label.TRUSTED
    assert said_label("Pay Eve", events) == Label.UNTRUSTED


class Broken:
    """A memory whose disk is gone."""

    def recall(
        self, query: str, namespaces: Sequence[str], budget: int, kinds: Sequence[Kind] | None = None
    ) -> Recalled:
        raise UserError("the database is gone")

    def write(self, draft: Draft) -> Written:
        raise UserError("the database is gone")

    def used(self, ids: Sequence[int], success: bool | None) -> None:
        raise UserError("the database is gone")


@pytest.mark.parametrize(
    ("text", "heard", "kept"),
    [
        ("Dr Lind", "Remember that my dentist is Dr Lind.", "My dentist is Dr Lind."),
        ("Dr. Lind", "Hi! Please remember: my dentist is Dr. Lind", "My dentist is Dr. Lind."),
        ("Dora Dvorak", "The beekeeper I go to is Dora Dvorak.", "The beekeeper I go to is Dora Dvorak."),
        ("14", "Two things. My locker is 14. The tram is late.", "My locker is 14."),
        ("my dentist is Dr Lind", "Remember that my dentist is Dr Lind.", "my dentist is Dr Lind"),
        ("Dr Lind", "Is my dentist Dr Lind?", "Dr Lind"),
        ("Dr Smith", "Remember that my dentist is Dr Lind.", "Dr Smith"),
        ("", "Remember that my dentist is Dr Lind.", ""),
    ],
)
def test_a_bare_piece_is_kept_as_the_sentence_it_was_told_in(text: str, heard: str, kept: str) -> None:
    assert whole(text, [heard]) == kept


def test_a_broken_memory_costs_the_run_nothing_but_itself(tmp_path: Path) -> None:
    lines: list[Line] = [plan("calculator"), ToolCall("calculator", {"expression": "6*7"}), finish("$1")]
    store = RunStore(tmp_path)
    result = Runner(store, ScriptedModel(lines), builtins(), memory=Broken()).run(goal("6 times 7", tmp_path))
    assert result.answer == 42
    kept = of(MemoryWritten, store.load(result.run))
    assert [event.verdict for event in kept] == ["refused"] and "is gone" in kept[0].reason


def test_a_failed_check_leaves_a_lesson_and_its_repair_another(tmp_path: Path, memory: HomeMemory) -> None:
    home = tmp_path / "home"
    fields: dict[str, Any] = {"check": [{"answer": {"number": 42}}]}
    wrong: list[Line] = [plan("calculator"), ToolCall("calculator", {"expression": "6+7"}), finish("$1")]
    right: list[Line] = [plan("calculator"), ToolCall("calculator", {"expression": "6*7"}), finish("$1")]
    first = runner(home, wrong, memory).run(goal("What do 6 and 7 make?", tmp_path, **fields))
    assert first.status == "not_met"
    lesson, episode = memory.store.entries()
    assert lesson.kind is Kind.LESSON and episode.kind is Kind.EPISODE and lesson.run == first.run
    assert lesson.text == '"What do 6 and 7 make?": calculator 6+7 did not do: a check of the answer failed'
    assert "42" not in lesson.text, "what the check wanted is not for the next run to read"
    assert (lesson.namespace, episode.text) == (
        str(tmp_path),
        '"What do 6 and 7 make?": calculator 6+7: not met',
    )
    runner(home, right, memory).run(goal("What do 6 and 7 make?", tmp_path, **fields))
    texts = [entry.text for entry in memory.store.entries(kinds=[Kind.LESSON])]
    assert texts[1:] == ['"What do 6 and 7 make?": calculator 6*7 worked']


def test_a_failed_call_and_what_then_worked_is_a_lesson(tmp_path: Path, memory: HomeMemory) -> None:
    read = [ToolCall("files.read", {"path": name}) for name in ("b.txt", "a.txt")]
    model = ScriptedModel([plan("files.read"), *read, finish("$2")], check=False)
    store = RunStore(tmp_path / "home")
    result = Runner(store, model, builtins(), memory=memory).run(
        goal("read it", tmp_path, files={"a.txt": "x"})
    )
    events = store.load(result.run)
    lesson = of(MemoryWritten, events)[0]
    assert lesson.text.startswith("files.read b.txt failed (") and lesson.text.endswith(
        "; files.read a.txt worked"
    )
    assert isinstance(events[-1], RunEnded) and replay(events, builtins().select(None)).same


def test_a_run_without_checks_proves_nothing_until_it_is_rated(tmp_path: Path, memory: HomeMemory) -> None:
    memory.write(Draft(Kind.FACT, "My lucky number is 7."))
    lines: list[Line] = [plan("calculator"), ToolCall("calculator", {"expression": "6*7"}), finish("$1")]
    run = runner(tmp_path / "home", lines, memory)
    result = run.run(goal("Multiply 6 by my lucky number", tmp_path))
    fact, episode = memory.store.entries()
    assert episode.text == '"Multiply 6 by my lucky number": calculator 6*7: answered, not checked, 42'
    assert (fact.uses, fact.successes, episode.uses) == (0, 0, 0) and fact.used is not None
    RunMemory(memory).credit(run.store.load(result.run), True)
    fact, episode = memory.store.entries()
    assert (fact.uses, fact.successes) == (episode.uses, episode.successes) == (1, 1)


@pytest.mark.parametrize("status", ["achieved", "answered"])
def test_only_a_check_makes_an_end_a_success(status: str) -> None:
    started = RunStarted(run="r", goal={"goal": "Count"})
    assert outcome([started], status) is None
    assert outcome([started, CheckResult(index=0, kind="answer", passed=True, detail="")], status) is True
    assert outcome([started], "not_met") is False


def test_a_run_without_tools_leaves_nothing(tmp_path: Path, memory: HomeMemory) -> None:
    runner(tmp_path / "home", [finish("Hello!")], memory).run(goal("hi", tmp_path))
    assert memory.store.count() == 0
    assert leftovers([RunStarted(run="r", goal={"goal": "hi"})], "achieved", "Hello!", "") == []


def test_only_entries_that_were_used_count_as_help() -> None:
    shown = [
        {"id": 1, "kind": "fact", "text": "My discount is 12 %.", "label": "trusted", "hash": ""},
        {"id": 2, "kind": "fact", "text": "My cat is called Mia.", "label": "trusted", "hash": ""},
    ]
    events = [
        RunStarted(run="r", goal={"goal": "What is 200 minus my discount?"}, memory=True),
        MemoryRecalled.model_validate({"query": "q", "entries": shown, "by": "driver"}),
        ModelTurn(text="", call={"name": "calculator", "arguments": {"expression": "200 - 12%"}}),
    ]
    assert helped(events) == ([1], [2])


def test_a_rating_credits_what_the_answer_used(tmp_path: Path, memory: HomeMemory) -> None:
    for text in ("My cat is called Mia.", "My dog is called Rex."):
        memory.write(Draft(Kind.FACT, text))
    session = ChatSession(runner(tmp_path / "home", [finish("Mia")], memory))
    session.say("What is my cat called?")
    session.rate(1.0)
    assert [(entry.uses, entry.successes) for entry in memory.store.get([1])] == [(1, 1)]
    assert memory.store.get([2])[0].successes == 0
    session.close()


def test_the_repl_remembers_and_recalls(tmp_path: Path, memory: HomeMemory, capsys: Any) -> None:
    run = runner(tmp_path / "home", [], memory)
    repl = Repl(ChatSession(run), run, Report())
    for line in (
        "/remember The key is under the pot.",
        "/recall where is the key",
        "/recall zebra",
        "/remember",
    ):
        repl.handle(line)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "kept as [1]" and out[1] == "[1] fact: The key is under the pot." and out[2] == "nothing"
    run.memory = None
    repl.handle("/recall key")
    assert "memory is off" in capsys.readouterr().out
    repl.session.close()


def test_the_facade_has_a_memory_unless_told_otherwise(isolated: Path) -> None:
    told = AutoGPT(ScriptedModel([remember("My boat is Seldom."), finish("Noted.")]))
    told.run("My boat is Seldom.")
    asked = AutoGPT(ScriptedModel([last_memory]))
    assert asked.run("What is my boat called?").answer == "[1] My boat is Seldom."
    off = AutoGPT(ScriptedModel([last_memory]), memory=False)
    assert off.run("What is my boat called?").answer == "nothing was shown"


def test_a_suite_gives_each_goal_its_own_memory_and_runs_what_came_earlier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def act(prompt: Prompt) -> ToolCall:
        text = prompt.messages[1].content
        if "Goal: Note" in text:
            return finish("Noted.") if len(prompt.messages) > 2 else remember(text.partition(": ")[2])
        return last_memory(prompt)

    goals = [
        Goal.model_validate({"goal": "What is the code?", "id": "a", "remembered": ["The code is 7."],
                             "check": [{"answer": {"matches": "7"}}]}),
        Goal.model_validate({"goal": "What is the rent?", "id": "b", "earlier": ["Note: the rent is 300."],
                             "check": [{"answer": {"matches": "300"}}]}),
        Goal.model_validate({"goal": "What is the rent?", "id": "c",
                             "check": [{"answer": {"equals": "nothing was shown"}}]}),
    ]  # fmt: skip
    model = ScriptedModel([act] * 9)
    found = evaluate("s", goals, model, builtins(), memories=SuiteMemories())
    assert [row.status for row in found.rows] == ["achieved"] * 3
    assert not list(tmp_path.iterdir()), "every memory is closed and removed"
    blind = evaluate("s", goals, ScriptedModel([act] * 9), builtins())
    assert [row.status for row in blind.rows] == ["not_met", "not_met", "achieved"]


def test_episodes_tell_ask_and_leave_other_work_alone(
    chat_folder: Path, packed_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOGPT_DATA", str(packed_data))
    recorder = Recorder(ChatTokenizer(chat_folder), builtins())
    tasks = [make(random.Random(seed)) for seed in range(6) for make, _ in episodes.MAKERS]
    tasks += list(episodes.other_work(random.Random(1), 8))
    samples = list(recorder.samples(tasks, max_tokens=10_000))
    assert len(samples) == len(tasks), recorder.refused
    assert not recorder.refused


def test_a_rollout_without_memory_refuses_a_model_that_asks_for_one() -> None:
    model = ScriptedModel([remember("x y"), finish()], check=False)
    episode = Rollout(model, builtins()).run([Goal(goal="do")])[0]
    written = of(MemoryWritten, episode.events)[0]
    assert (written.verdict, written.reason) == (Verdict.REFUSED, "there is no memory")
    assert RunMemory(HomeMemory(Path("/nowhere")), "/p").namespaces == ("/p", "")
