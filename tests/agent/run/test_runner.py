"""The durable driver: whole goals and conversations on real tools, a real database and real files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from support.calls import finish, of, plan, write

from autogpt.agent.goals.load import Goal
from autogpt.agent.record.events import (
    Event,
    ModelTurn,
    PersonAnswered,
    PersonAsked,
    RunEnded,
    RunInterrupted,
    ToolIntent,
    ToolOutcome,
)
from autogpt.agent.record.journal import Paused
from autogpt.agent.record.result import RunResult
from autogpt.agent.record.store import RunStore
from autogpt.agent.run.approvals import approve
from autogpt.agent.run.chat import ChatSession
from autogpt.agent.run.replay import replay
from autogpt.agent.run.runner import Interrupted, Runner
from autogpt.errors import UsageError
from autogpt.llm.message import Prompt, ToolCall, Turn
from autogpt.llm.models.scripted import ScriptedModel
from autogpt.text import Prompting
from autogpt.tools.registry import Registry, builtins, tool

Line = ToolCall | Callable[[Prompt], Any]


def by_place(lines: Sequence[Line]) -> ScriptedModel:
    """A script whose next line depends on the conversation, so that a new process finds its place."""

    def line(prompt: Prompt) -> Any:
        said = lines[sum(message.role == "assistant" for message in prompt.messages)]
        return said(prompt) if callable(said) else said

    return ScriptedModel([line] * 50)


def interrupt(_: Prompt) -> Any:
    raise KeyboardInterrupt


class World:
    """A home, a goal's folder, and a way to run goals in them."""

    def __init__(self, root: Path) -> None:
        self.store = RunStore(root / "home")
        self.folder = root / "goal"
        self.folder.mkdir()
        self.heard: list[str] = []

    def goal(self, text: str = "do it", **fields: Any) -> Goal:
        return Goal.model_validate({"goal": text, **fields}).at(self.folder)

    def runner(self, lines: Sequence[Line], registry: Registry | None = None, **options: Any) -> Runner:
        def hear(run: str, event: Event) -> None:
            self.heard.append(type(event).__name__)

        return Runner(self.store, by_place(lines), registry or builtins(), on_event=hear, **options)

    def run(self, lines: Sequence[Line], **fields: Any) -> RunResult:
        return self.runner(lines).run(self.goal(**fields))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_goal_runs_to_a_checked_recorded_and_delivered_end(world: World) -> None:
    (world.folder / "n.txt").write_text("Nordfracht\n")
    lines = [plan("files.read", "files.write"), ToolCall("files.read", {"path": "n.txt"}),
             write("late.txt", "The name is {$2}"), finish("$2")]  # fmt: skip
    result = world.run(
        lines,
        id="late",
        inputs=["n.txt"],
        grants={"read": ["."], "write": ["late.txt"]},
        check=[
            {"answer": {"equals": "Nordfracht"}},
            {"file": {"path": "late.txt", "contains": "Nordfracht"}},
        ],
    )
    assert (result.status, result.exit_code, result.reward) == ("achieved", 0, 1.0)
    assert (result.id, result.answer, result.delivered) == ("late", "Nordfracht\n", ["late.txt"])
    assert (result.steps, result.tool_calls, result.invalid_calls) == (4, 2, 0)
    assert [check["passed"] for check in result.checks] == [True, True]
    assert (world.folder / "late.txt").read_text() == "The name is Nordfracht\n"
    events = world.store.load(result.run)
    assert world.heard == [type(event).__name__ for event in events]
    assert world.store.info(result.run).status == "achieved"
    assert replay(events, builtins().select()).same


def test_a_failed_check_is_not_met_and_a_limit_is_said(world: World) -> None:
    failed = world.run([finish()], check=[{"answer": {"equals": "other"}}])
    assert (failed.status, failed.exit_code, failed.reward) == ("not_met", 3, 0.0)
    steps = [plan("files.list"), *[ToolCall("files.list", {"pattern": f"{n}*"}) for n in range(9)]]
    limited = world.run(steps, limits={"steps": 4}, files={"a.txt": "a"})
    assert (limited.status, limited.exit_code, limited.steps) == ("limit", 4, 4)
    assert limited.cause == "the limit of 4 steps was reached"


def test_goals_run_side_by_side_with_batched_model_calls(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [plan("files.write"), write("o.txt", "x"), finish()]
    runner = world.runner(lines)
    batches: list[int] = []
    respond = runner.model.respond

    def counting(prompts: Sequence[Prompt], on_text: Any = None) -> list[Turn]:
        batches.append(len(prompts))
        return respond(prompts, on_text)

    monkeypatch.setattr(runner.model, "respond", counting)
    goals = [world.goal(f"goal {n}", id=f"g{n}") for n in range(5)]
    results = runner.run_all(goals, parallel=3)
    assert [result.id for result in results] == [f"g{n}" for n in range(5)]
    assert {result.status for result in results} == {"answered"}
    assert batches == [3, 3, 3, 2, 2, 2]


def test_a_missing_input_stops_before_anything_runs(world: World) -> None:
    runner = world.runner([finish()])
    with pytest.raises(UsageError, match=r"no such file: gone\.csv"):
        runner.run_all([world.goal(), world.goal(inputs=["gone.csv"])])
    assert world.store.list_runs() == []


def test_ctrl_c_leaves_a_run_that_another_process_finishes(world: World) -> None:
    lines: list[Line] = [plan("files.write"), write("a.txt", "1"), interrupt]
    with pytest.raises(Interrupted) as caught:
        world.run(lines)
    run = caught.value.runs[0]
    assert caught.value.exit_code == 130
    assert str(caught.value) == f"interrupted; to go on: autogpt resume {run}"
    assert isinstance(world.store.load(run)[-1], RunInterrupted)
    assert world.store.last_resumable() == run

    result = World.runner(world, [*lines[:2], finish()]).resume(run)
    assert (result.status, result.tool_calls) == ("answered", 1)
    assert world.runner([]).resume(run).status == "answered"  # an ended run gives its result again


def test_ctrl_c_in_a_callers_tool_is_uncertain_and_never_repeated(world: World) -> None:
    sent: list[str] = []

    @tool
    def send(text: str) -> str:
        """Send a text."""
        sent.append(text)
        if len(sent) == 1:
            raise KeyboardInterrupt
        return "sent"

    registry = builtins()
    registry.register(send)
    lines = [plan("send"), ToolCall("send", {"text": "hello"}), finish()]
    with pytest.raises(Interrupted) as caught:
        world.runner(lines, registry).run(world.goal())
    run = caught.value.runs[0]
    with pytest.raises(UsageError, match="needs send, which is not registered here"):
        world.runner(lines).resume(run)
    assert world.runner(lines, registry).resume(run).status == "answered"
    (outcome,) = of(ToolOutcome, world.store.load(run))
    assert outcome.state == "uncertain" and "not repeated" in outcome.preview
    assert sent == ["hello"]


def test_a_full_disk_pauses_and_resumes(world: World) -> None:
    calls: list[str] = []

    @tool(replay="pure")
    def fill() -> str:
        """Leave no room in the database, the first time."""
        calls.append("fill")
        if len(calls) > 1:
            return "y"
        with world.store.database.read() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        return "x" * 3000

    registry = builtins()
    registry.register(fill)
    lines = [plan("fill"), *[ToolCall("fill", {})] * 2, finish()]
    with pytest.raises(Paused, match=r"paused: disk full while journalling .*autogpt.db; free space and run"):
        world.runner(lines, registry).run(world.goal())
    world.store.database.close()
    assert world.runner(lines, registry).resume(world.store.resolve_run("last")).status == "answered"


def test_delivery_never_overwrites_what_changed_meanwhile(world: World) -> None:
    out = world.folder / "out.txt"
    out.write_text("old")

    def edit(prompt: Prompt) -> ToolCall:
        out.write_text("edited by the user meanwhile")
        return finish()

    lines: list[Line] = [plan("files.write"), write("out.txt", "new"), edit]
    result = world.run(lines, grants={"write": ["out.txt"]})
    name = f"out.autogpt-{result.run}.txt"
    assert result.delivered == [name]
    assert out.read_text() == "edited by the user meanwhile"
    assert (world.folder / name).read_text() == "new"

    out.write_text("old again")
    lines = [plan("files.write"), write("out.txt", "new"), finish()]
    result = world.run(lines, grants={"write": ["out.txt"]})
    assert (result.delivered, out.read_text()) == (["out.txt"], "new")


def test_in_place_works_on_the_folder_itself(world: World) -> None:
    (world.folder / "sub").mkdir()
    (world.folder / "sub" / "here.txt").write_text("x")
    lines = [
        plan("files.move"),
        ToolCall("files.move", {"source": "sub/here.txt", "target": "there.txt"}),
        finish(),
    ]
    refused = world.run(lines, workspace=".", inputs=["sub/here.txt"])  # the user's own files need a grant
    assert [event.state for event in of(ToolOutcome, world.store.load(refused.run))][-1] == "refused"
    assert (world.folder / "sub" / "here.txt").exists()
    grants = {"write": ["sub", "*.txt"]}
    result = world.run(lines, workspace=".", inputs=["sub/here.txt"], grants=grants)
    assert (result.status, result.delivered) == ("answered", ["there.txt"])
    assert sorted(path.name for path in world.folder.rglob("*")) == ["sub", "there.txt"]


def test_an_ungranted_call_is_refused_unattended_and_the_run_goes_on(world: World) -> None:
    lines = [plan("files.write"), write("secret.txt", "x"), finish()]
    result = world.run(lines, grants={"write": ["late.txt"]})
    assert (result.status, result.steps) == ("not_met", 3)
    (outcome,) = of(ToolOutcome, world.store.load(result.run))
    assert (outcome.state, outcome.preview) == (
        "refused", "refused: writing secret.txt is not granted (granted: late.txt)",
    )  # fmt: skip
    assert of(ToolIntent, world.store.load(result.run)) == []


WRITES = [plan("files.write"), write("a.txt", "1"), write("b.txt", "2"), finish()]


@pytest.mark.parametrize(
    ("decision", "asked", "states"),
    [("once", 2, ["done", "done"]), ("run", 1, ["done", "done"]), ("always", 1, ["done", "done"])],
)
def test_a_person_may_allow_calls(world: World, decision: str, asked: int, states: list[str]) -> None:
    questions: list[str] = []

    def ask(run: str, question: PersonAsked) -> PersonAnswered:
        questions.append(question.text)
        return PersonAnswered(text="", decision=decision)

    goal = world.goal(grants={"write": ["late.txt"]})
    result = world.runner(WRITES, ask=ask).run(goal)
    assert [event.state for event in of(ToolOutcome, world.store.load(result.run))] == states
    assert len(questions) == asked
    assert questions[0].startswith(
        "allow files.write(path='a.txt', content='1')? writing a.txt is not granted"
    )
    assert replay(world.store.load(result.run), builtins().select()).same
    world.runner(WRITES, ask=ask).run(goal)
    assert len(questions) == asked * (1 if decision == "always" else 2)


def test_a_no_is_read_by_the_model_with_its_reason(world: World) -> None:
    def ask(run: str, question: PersonAsked) -> PersonAnswered:
        return PersonAnswered(text="not that file", decision="no")

    runner = world.runner([*WRITES[:2], finish()], ask=ask)
    runner.run(world.goal(grants={"write": ["late.txt"]}))
    assert isinstance(runner.model, ScriptedModel)
    last = runner.model.prompts[-1]
    assert "refused: not that file" in last.messages[-1].content


def test_a_parked_run_waits_for_its_approval_and_goes_on(world: World) -> None:
    goal = world.goal(grants={"write": ["late.txt"]}, on_approval="park")
    result = world.runner(WRITES).run(goal)
    assert (result.status, result.exit_code) == ("needs_person", 5)
    assert world.store.info(result.run).status == "waiting"
    assert world.runner(WRITES).resume(result.run).status == "needs_person"  # still nobody answered

    with pytest.raises(UsageError, match="waits for an approval: once, run, always, no"):
        approve(world.store, result.run, PersonAnswered(text="yes"))
    approve(world.store, result.run, PersonAnswered(text="", decision="run"))
    with pytest.raises(UsageError, match="waits for no answer"):
        approve(world.store, result.run, PersonAnswered(text="", decision="run"))
    result = world.runner(WRITES).resume(result.run)
    assert (result.status, result.tool_calls) == ("not_met", 2)
    assert result.cause == "late.txt was not written; the run wrote a.txt, b.txt"


def test_a_question_needs_a_person(world: World) -> None:
    lines = [ToolCall("ask", {"question": "Which month?"}), finish()]
    result = world.run(lines)
    assert (result.status, result.exit_code, result.cause) == (
        "needs_person",
        5,
        "waiting for a person: Which month?",
    )
    runner = world.runner(lines, ask=lambda run, asked: PersonAnswered(text="March"))
    assert runner.run(world.goal()).status == "answered"
    assert isinstance(runner.model, ScriptedModel)
    assert "March" in runner.model.prompts[-1].messages[-1].content


def test_a_conversation_is_one_run_that_another_process_continues(world: World, tmp_path: Path) -> None:
    extra = tmp_path / "n.txt"
    extra.write_text("42")
    lines: list[Line] = [
        finish("hello"),
        plan("files.read"), ToolCall("files.read", {"path": "n.txt"}), finish("$2"),
        ToolCall("ask", {"question": "Which one?"}), finish("that one"),
    ]  # fmt: skip
    session = ChatSession(world.runner(lines))
    assert session.say("hi").text == "hello"
    with pytest.raises(UsageError, match="message is empty"):
        session.say("  ")
    session.close(end=False)

    again = ChatSession(world.runner(lines), run=session.run)
    reply = again.say("what number?", [extra])
    assert (reply.status, reply.answer) == ("answered", "42")
    extra.write_text("43")
    with pytest.raises(UsageError, match=r"already has another n\.txt"):
        again.say("and now?", [extra])
    assert again.say("take it").status == "question"
    assert again.say("the first").text == "that one"
    again.close()
    events = world.store.load(session.run)
    assert replay(events, builtins().select()).same
    assert len(of(RunEnded, events)) == 1
    with pytest.raises(UsageError, match="not a conversation that can go on"):
        ChatSession(world.runner(lines), run=session.run)


def test_an_answer_that_was_stopped_is_wanted_no_more_even_after_a_crash(
    world: World, tmp_path: Path
) -> None:
    lines: list[Line] = [finish("hello"), interrupt]
    session = ChatSession(world.runner(lines))
    session.say("hi")
    with pytest.raises(Interrupted):
        session.say("write me a novel")
    shutil.copytree(world.store.home, tmp_path / "left")  # what a kill would leave
    store = RunStore(tmp_path / "left")
    model = by_place([finish("hello"), finish("a short one")])
    again = ChatSession(Runner(store, model, builtins()), run=session.run)
    heard = len(again.events)
    assert (again.continue_().status, len(again.events)) == ("failed", heard), "nothing was begun"
    assert again.say("just a poem").text == "a short one"
    again.close()
    assert replay(store.load(session.run), builtins().select()).same


@pytest.mark.parametrize(("again", "state"), [("pure", "refused"), ("opaque", "uncertain")])
def test_a_call_that_was_stopped_is_not_made_for_the_next_message(
    world: World, again: Literal["pure", "opaque"], state: str
) -> None:
    made: list[str] = []

    @tool(replay=again)
    def send(text: str) -> str:
        """Send a text."""
        made.append(text)
        raise KeyboardInterrupt

    lines: list[Line] = [plan("send"), ToolCall("send", {"text": "a"}), finish("as you like")]
    registry = builtins()
    registry.register(send)
    session = ChatSession(world.runner(lines, registry))
    with pytest.raises(Interrupted):
        session.say("send it")
    assert session.say("no, leave it").text == "as you like" and made == ["a"]
    assert [outcome.state for outcome in of(ToolOutcome, session.events)] == [state]
    session.close()


def test_limits_of_a_conversation_count_per_message(world: World) -> None:
    session = ChatSession(world.runner([finish()] * 10), world.goal(limits={"steps": 1}))
    assert [session.say("hi").status for _ in range(4)] == ["answered"] * 4
    session.close()


def test_a_run_is_not_resumed_with_a_model_of_other_tokens(world: World) -> None:
    class Tokens(ScriptedModel):
        tokenizer_hash = "abc"
        prompting: Prompting = "names"

    with pytest.raises(Interrupted) as caught:
        Runner(world.store, Tokens([interrupt]), builtins()).run(world.goal())
    with pytest.raises(UsageError, match="whose tokens scripted cannot read; resume with --model scripted"):
        world.runner([finish()]).resume(caught.value.runs[0])


def test_replay_finds_the_first_difference(world: World) -> None:
    lines = [plan("files.write"), write("a.txt", "1"), finish()]
    events = world.store.load(world.run(lines).run)
    tools = builtins().select()
    assert replay(events, tools).same
    turn = next(n for n, event in enumerate(events) if isinstance(event, ModelTurn))
    changed = [*events]
    changed[turn] = events[turn].model_copy(update={"allowed": ["finish"]})
    found = replay(changed, tools).difference
    assert found and found.seq == turn and "recorded a model turn with finish allowed" in str(found)
