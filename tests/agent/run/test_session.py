"""Live runs and rollouts are one session: the same goal gives the same record, whatever drives it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.calls import finish, plan, write

from autogpt.agent.goals.load import Goal
from autogpt.agent.record.events import Event, ToolIntent, ToolOutcome, dump_event
from autogpt.agent.record.record import Record
from autogpt.agent.record.store import RunStore
from autogpt.agent.run.chat import ChatSession
from autogpt.agent.run.memories import HomeMemory
from autogpt.agent.run.memory import RunMemory
from autogpt.agent.run.replay import replay
from autogpt.agent.run.rollout import Rollout
from autogpt.agent.run.runner import Runner
from autogpt.errors import UserError
from autogpt.llm.message import Prompt, ToolCall, Turn
from autogpt.llm.models.scripted import Line, ScriptedModel
from autogpt.llm.models.token_budget import ContextOverflow
from autogpt.tools.registry import builtins

TOO_LONG = "the conversation has 9000 tokens, the model small takes at most 8191"


class Narrow(ScriptedModel):
    """Takes no conversation with the word LONG, and then refuses the whole round, as remote models do."""

    def __init__(self, lines: Sequence[Line]) -> None:
        def line(prompt: Prompt) -> Any:
            said = lines[sum(message.role == "assistant" for message in prompt.messages)]
            return said(prompt) if callable(said) else said

        super().__init__([line] * 50)

    def respond(
        self, prompts: Sequence[Prompt], on_text: Callable[[int, str], None] | None = None
    ) -> list[Turn]:
        if any("LONG" in message.content for prompt in prompts for message in prompt.messages):
            raise ContextOverflow(TOO_LONG)
        return super().respond(prompts, on_text)


VARIES = {"at", "seconds", "run", "folder", "mode", "workspace", "entry", "unattended", "system_tokens"}


def comparable(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Return the events without what must differ: times, ids and places."""

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: bare(item) for key, item in value.items() if key not in VARIES}
        return [bare(item) for item in value] if isinstance(value, list) else value

    return [bare(dump_event(event)) for event in events]


class Both:
    """Runs goals live and as rollouts."""

    def __init__(self, root: Path) -> None:
        self.store = RunStore(root / "home")
        self.folder = root / "goal"
        self.folder.mkdir()
        self.memories = [HomeMemory(root / name, background=False) for name in ("live", "rolled")]

    def goal(self, text: str = "do it", **fields: Any) -> Goal:
        return Goal.model_validate({"goal": text, **fields}).at(self.folder)

    def live(self, lines: Sequence[Line], *goals: Goal, memory: bool = False) -> list[Sequence[Event]]:
        kept = self.memories[0] if memory else None
        runner = Runner(self.store, Narrow(lines), builtins(), memory=kept)
        return [self.store.load(result.run) for result in runner.run_all(goals, parallel=3)]

    def rolled(self, lines: Sequence[Line], *goals: Goal, memory: bool = False) -> list[Sequence[Event]]:
        kept = RunMemory(self.memories[1], str(self.folder))
        rollout = Rollout(
            Narrow(lines), builtins(), parallel=3, memory=(lambda goal: kept) if memory else None
        )
        return [episode.events for episode in rollout.run(goals)]

    def same(self, lines: Sequence[Line], *goals: Goal, memory: bool = False) -> list[Record]:
        """Return the records of the rollouts, after a look that the live ones are alike."""
        rolled = self.rolled(lines, *goals, memory=memory)
        for live, other in zip(self.live(lines, *goals, memory=memory), rolled, strict=True):
            assert comparable(live) == comparable(other)
            assert replay(live, builtins().select()).same and replay(other, builtins().select()).same
        return [Record(events) for events in rolled]


@pytest.fixture
def both(tmp_path: Path) -> Both:
    return Both(tmp_path)


def test_the_same_goal_gives_the_same_record(both: Both) -> None:
    checks = [{"answer": {"equals": "done"}}, {"file": {"path": "a.txt", "exists": True}}]
    (record,) = both.same([plan("files.write"), write("a.txt"), finish()], both.goal(check=checks))
    assert record.ended is not None and (record.ended.status, record.ended.reward) == ("achieved", 1.0)


def test_a_refused_call_has_an_outcome_and_no_intent_in_both(both: Both) -> None:
    lines = [plan("files.write"), write("secret.txt"), finish()]
    (record,) = both.same(lines, both.goal(grants={"write": ["late.txt"]}))
    assert [outcome.state for outcome in record.outcomes] == ["refused"]
    assert record.of(ToolIntent) == []


def test_a_folder_used_in_place_needs_a_grant_to_be_written_in_both(both: Both) -> None:
    (both.folder / "here.txt").write_text("x")
    move = ToolCall("files.move", {"source": "here.txt", "target": "there.txt"})
    lines = [plan("files.move"), move, finish()]
    goal = both.goal(workspace=".", inputs=["here.txt"])
    states = [
        [event.state for event in events if isinstance(event, ToolOutcome)][-1]
        for drive in (both.live, both.rolled)
        for events in drive(lines, goal)
    ]
    assert states == ["refused", "refused"]
    assert (both.folder / "here.txt").exists()


def test_a_prompt_that_the_model_refuses_costs_its_own_goal_in_both(both: Both) -> None:
    goals = [both.goal("one"), both.goal("LONG"), both.goal("two")]
    records = both.same([plan("files.list"), ToolCall("files.list", {}), finish()], *goals)
    ends = [record.ended for record in records]
    assert [end and end.status for end in ends][1] == "not_met"
    assert [len(record.turns) for record in records] == [3, 1, 3]
    assert ends[1] is not None and ends[1].cause == TOO_LONG


def test_alone_it_is_treated_as_among_several(both: Both) -> None:
    (alone,) = both.same([finish()], both.goal("LONG"))
    _, among = both.same([finish()], both.goal("one"), both.goal("LONG"))
    assert comparable(alone.events) == comparable(among.events)
    assert [turn.invalid for turn in alone.turns] == [TOO_LONG]


def test_another_error_of_a_model_still_ends_the_command(both: Both) -> None:
    def unreachable(_: Prompt) -> ToolCall:
        raise UserError("langchain:here did not answer")

    for drive in (both.live, both.rolled):
        with pytest.raises(UserError, match="did not answer"):
            drive([unreachable], both.goal("one"), both.goal("two"))


def test_a_run_leaves_the_same_in_memory_in_both(both: Both) -> None:
    compute = ToolCall("calculator", {"expression": "6+7"})
    wrong = [plan("calculator"), compute, finish("$1")]
    (record,) = both.same(wrong, both.goal(check=[{"answer": {"number": 42}}]), memory=True)
    live, rolled = ([entry.text for entry in memory.store.entries()] for memory in both.memories)
    assert live == rolled and len(live) == 2
    assert record.ended is not None and record.ended.status == "not_met"


# --- conversations --------------------------------------------------------------------------------


def seen(model: ScriptedModel) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in model.prompts[-1].messages[1:]]


def test_a_message_too_long_for_the_model_is_refused_and_later_ones_are_answered(both: Both) -> None:
    model = Narrow([finish()] * 9)
    session = ChatSession(Runner(both.store, model, builtins()))
    assert session.say("hello").text == "done"
    refused = session.say("LONG " * 9000)
    assert (refused.status, refused.cause) == (
        "failed", f"{TOO_LONG}; the message was left out of the conversation",
    )  # fmt: skip
    assert session.say("and now?").text == "done"
    assert seen(model) == [("user", "Goal: hello"), ("assistant", finish().text()), ("user", "and now?")]
    session.close()
    events = both.store.load(session.run)
    assert replay(events, builtins().select()).same
    assert [turn.prompt_refused for turn in Record(events).turns] == [False, True, False]


def test_a_refused_first_message_leaves_the_inputs_to_the_next(both: Both) -> None:
    model = Narrow([finish()] * 9)
    session = ChatSession(Runner(both.store, model, builtins()), both.goal(files={"t.csv": "n\n1\n2\n"}))
    assert session.say("LONG").status == "failed"
    assert session.say("how many?").text == "done"
    ((role, text),) = seen(model)
    assert role == "user" and "Goal: how many?" in text and "tables.describe t.csv" in text
    assert "LONG" not in text
    session.close()
    assert replay(both.store.load(session.run), builtins().select()).same


def test_a_conversation_that_was_stuck_goes_on_in_a_new_process(both: Both) -> None:
    """As it was recorded before refusals were: a long message, another, and no turn."""

    class Broken(ScriptedModel):
        def respond(self, prompts: Sequence[Prompt], on_text: Any = None) -> list[Turn]:
            raise RuntimeError("killed")

    stuck = ChatSession(Runner(both.store, Broken([]), builtins()))
    for text in ("LONG", "hello?"):
        with pytest.raises(RuntimeError):
            stuck.say(text)
    stuck.close(end=False)
    model = Narrow([finish()] * 9)
    session = ChatSession(Runner(both.store, model, builtins()), run=stuck.run)
    assert session.continue_().status == "failed"
    assert session.say("hello").text == "done"
    assert seen(model) == [("user", "Goal: hello")]
    session.close()


def test_a_long_answer_to_a_question_takes_the_whole_message_out(both: Both) -> None:
    model = Narrow([ToolCall("ask", {"question": "which?"}), finish()])
    session = ChatSession(Runner(both.store, model, builtins()))
    assert session.say("fix it").status == "question"
    assert session.say("the LONG one").status == "failed"
    assert session.say("fix the red one").status == "question"
    assert seen(model) == [("user", "Goal: fix the red one")]
    session.close()
