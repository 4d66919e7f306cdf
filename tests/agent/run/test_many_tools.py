"""Of many tools the model reads about those that fit, may plan only these, and can look for others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.calls import finish, of, plan

from autogpt.agent.goals.load import Goal
from autogpt.agent.record.events import Event, ModelTurn, PersonSaid, RunStarted, ToolsShown
from autogpt.agent.record.state import State
from autogpt.agent.record.store import RunStore
from autogpt.agent.run.chat import ChatSession
from autogpt.agent.run.replay import replay
from autogpt.agent.run.rollout import Episode, Rollout
from autogpt.agent.run.runner import Interrupted, Runner
from autogpt.agent.run.workbench import SHOWN
from autogpt.llm.message import Prompt, ToolCall
from autogpt.llm.models.scripted import ScriptedModel
from autogpt.tools.base import Tool, ToolContext, ToolResult
from autogpt.tools.registry import Registry, builtins

Line = ToolCall | Callable[[Prompt], Any]
SHIP = "book_ship", "Book a cabin on a ship."
RAIN = "get_forecast", "Tell how much rain and sun a place will get."


class Stranger(Tool):
    """A tool of somebody's, which returns its own name."""

    def __init__(self, name: str, description: str) -> None:
        self.name, self.description = name, description
        text = {"type": "string", "maxLength": 40, "description": "Where it is wanted."}
        self.parameters = {"type": "object", "properties": {"place": text}, "required": ["place"]}

    def run(self, args: Mapping[str, Any], ctx: ToolContext) -> ToolResult:
        return ToolResult(self.name, self.name)


def crowd(count: int, *more: tuple[str, str]) -> Registry:
    """The built-in tools, ``count`` that nobody wants, and ``more`` among them."""
    registry = builtins()
    for number in range(count):
        registry.register(Stranger(f"stamp_{number}", f"Sort stamps of album {number}."))
        if number == count // 2:
            for name, description in more:
                registry.register(Stranger(name, description))
    return registry


def run(registry: Registry, text: str, *lines: Line, **fields: Any) -> tuple[Episode, ScriptedModel]:
    model = ScriptedModel(lines)
    goal = Goal.model_validate({"goal": text, **fields})
    return Rollout(model, registry).run([goal])[0], model


def plannable(prompt: Prompt) -> list[str]:
    """The tools that the plan may name."""
    schema = next(spec.parameters for spec in prompt.calls if spec.name == "plan")
    names: list[str] = schema["properties"]["steps"]["items"]["properties"]["tool"]["enum"]
    return names


def text_of(prompt: Prompt) -> str:
    return "\n".join(message.content for message in prompt.messages)


def test_few_tools_are_all_shown_and_nothing_is_said_of_more() -> None:
    episode, model = run(crowd(SHOWN - 1, RAIN), "say hello", finish("hello"))
    own = [name for name in plannable(model.prompts[0]) if name not in builtins().select()]
    assert len(own) == SHOWN
    assert "find_tools" not in text_of(model.prompts[0])
    assert "find_tools" not in [spec.name for spec in model.prompts[0].calls]
    assert episode.started.hidden_tools == 0


def test_of_many_tools_those_that_fit_are_described_and_offered() -> None:
    call = ToolCall("get_forecast", {"place": "Graz"})
    registry = crowd(60, RAIN, SHIP)
    episode, model = run(registry, "Will it rain in Graz?", plan("get_forecast"), call, finish("$1"))
    first = model.prompts[0]
    offered = plannable(first)
    assert set(builtins().select()) <= set(offered), "built-in tools are always there"
    assert len(offered) == len(builtins().select()) + SHOWN
    assert "get_forecast" in offered and "get_forecast(place): " in first.messages[1].content
    hidden = [name for name in registry.select() if name not in offered]
    assert len(hidden) == 62 - SHOWN == episode.started.hidden_tools
    assert not any(f"{name}(" in text_of(first) for name in hidden)
    assert f"find_tools(query): {len(hidden)} more tools are not shown" in text_of(first)
    assert episode.result is not None and episode.result.answer == "get_forecast"
    assert replay(episode.events, registry.select()).same


def test_the_model_finds_a_tool_that_was_hidden_and_calls_it() -> None:
    lines = [
        ToolCall("find_tools", {"query": "a ship's cabin"}),
        plan("book_ship"),
        ToolCall("book_ship", {"place": "Oslo"}),
        finish("$1"),
    ]
    registry = crowd(60, SHIP)
    episode, model = run(registry, "Sort my stamps.", *lines)
    before, after = model.prompts[:2]
    assert "book_ship" not in plannable(before) and "book_ship" not in text_of(before)
    assert "book_ship" in plannable(after)
    (shown,) = of(ToolsShown, episode.events)
    assert shown.by == "model" and len(shown.tools) == SHOWN
    assert after.messages[: len(before.messages)] == before.messages
    assert after.messages[-1].role == "tool"
    assert after.messages[-1].content.startswith("Tools that can be planned now:\n")
    assert "\nbook_ship(place): Book a cabin on a ship." in after.messages[-1].content
    assert episode.result is not None and episode.result.answer == "book_ship"
    assert replay(episode.events, registry.select()).same


def test_a_tool_that_is_hidden_can_be_neither_planned_nor_called() -> None:
    episode, _ = run(crowd(60, SHIP), "Sort my stamps.", *[plan("book_ship")] * 3)
    assert all(turn.call is None for turn in of(ModelTurn, episode.events))
    episode, _ = run(crowd(60, SHIP), "Sort my stamps.", *[ToolCall("book_ship", {"place": "Oslo"})] * 3)
    assert all(turn.call is None for turn in of(ModelTurn, episode.events))


def test_searches_are_bounded() -> None:
    look = ToolCall("find_tools", {"query": "a ship"})
    _, model = run(crowd(60, SHIP), "Sort my stamps.", look, look, finish())
    offered = [[spec.name for spec in prompt.calls].count("find_tools") for prompt in model.prompts]
    assert offered == [1, 1, 0]


def test_tools_that_the_goal_names_are_always_shown() -> None:
    registry = crowd(60, SHIP, RAIN)
    _, model = run(registry, "Sort stamps with book_ship.", finish())
    assert "book_ship" in plannable(model.prompts[0])
    listed = ["book_ship", *(f"stamp_{number}" for number in range(30))]
    _, model = run(registry, "Will it rain?", finish(), tools=listed)
    assert plannable(model.prompts[0]) == [name for name in registry.select() if name in listed]


def test_a_goals_own_stubs_are_shown_like_tools_of_others_and_its_checks_see_the_calls() -> None:
    schema = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
    stubs = [
        {"name": f"stamp_{number}", "description": "Sort stamps.", "parameters": schema, "returns": "ok"}
        for number in range(40)
    ]
    stubs.append({"name": RAIN[0], "description": RAIN[1], "parameters": schema, "returns": "sun"})
    wanted = {"calls": [{"name": "get_forecast", "arguments": {"place": ["Graz"]}}]}
    lines = [
        ToolCall("find_tools", {"query": "rain"}),
        plan("get_forecast"),
        ToolCall("get_forecast", {"place": "Graz"}),
        finish("$1"),
    ]
    episode, model = run(builtins(), "Sort my stamps.", *lines, stubs=stubs, check=[wanted])
    assert "get_forecast" not in plannable(model.prompts[0])
    assert episode.result is not None and episode.result.status == "achieved"


def test_a_thousand_tools_do_not_fill_the_prompt() -> None:
    _, few = run(crowd(SHOWN - 1, RAIN), "Will it rain in Graz?", finish())
    episode, many = run(crowd(1000, RAIN), "Will it rain in Graz?", finish())
    assert "get_forecast" in plannable(many.prompts[0])
    assert len(text_of(many.prompts[0])) < len(text_of(few.prompts[0])) + 200
    assert len(episode.started.tools) == len(builtins().select()) + SHOWN


def test_a_record_of_before_shows_and_offers_all_its_tools() -> None:
    registry = crowd(20)
    specs = [
        {"name": name, "description": tool.description, "parameters": dict(tool.parameters),
         "effect": "read", "replay": "pure", "source": "caller"}
        for name, tool in registry.select().items()
    ]  # fmt: skip
    old = RunStarted.model_validate({"run": "r", "goal": {"goal": "g"}, "tools": specs, "rules": 2})
    assert list(State.of([old]).tools) == list(registry.select())
    assert State.of([old]).hidden_tools == 0


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "home")


def scripted(lines: Sequence[Line]) -> ScriptedModel:
    """A script whose next line depends on the conversation, so that a new process finds its place."""

    def line(prompt: Prompt) -> Any:
        said = lines[sum(message.role == "assistant" for message in prompt.messages)]
        return said(prompt) if callable(said) else said

    return ScriptedModel([line] * 20)


def interrupt(_: Prompt) -> Any:
    raise KeyboardInterrupt


def test_a_resumed_run_goes_on_with_the_tools_that_it_was_shown(store: RunStore, tmp_path: Path) -> None:
    look = ToolCall("find_tools", {"query": "a ship's cabin"})
    goal = Goal(goal="Sort my stamps.").at(tmp_path)
    with pytest.raises(Interrupted) as caught:
        Runner(store, scripted([look, interrupt]), crowd(60, SHIP)).run(goal)
    (name,) = caught.value.runs
    before = State.of(store.load(name)).tools
    assert "book_ship" in before
    model = scripted([look, plan("book_ship"), ToolCall("book_ship", {"place": "Oslo"}), finish("$1")])
    registry = crowd(80, SHIP, RAIN)  # others have come meanwhile
    assert Runner(store, model, registry).resume(name).answer == "book_ship"
    events = store.load(name)
    assert State.of(events).tools == before
    own = set(plannable(model.prompts[0])) - set(builtins().select())
    assert own == set(before) - set(builtins().select())
    assert replay(events, registry.select()).same


def test_a_search_that_a_crash_cut_off_is_made_again(store: RunStore, tmp_path: Path) -> None:
    look = ToolCall("find_tools", {"query": "a ship's cabin"})

    class Killed(BaseException):
        """The process is gone."""

    def stop(_: str, event: Event) -> None:
        if isinstance(event, ModelTurn):
            raise Killed

    runner = Runner(store, scripted([look]), crowd(60, SHIP), on_event=stop)
    with pytest.raises(Killed):
        runner.run(Goal(goal="Sort my stamps.").at(tmp_path))
    (summary,) = store.list_runs()
    assert not of(ToolsShown, store.load(summary.run))
    Runner(store, scripted([look, finish()]), crowd(60, SHIP)).resume(summary.run)
    (shown,) = of(ToolsShown, store.load(summary.run))
    assert "book_ship" in [spec.name for spec in shown.tools]


def test_each_message_of_a_conversation_is_given_what_fits_it(store: RunStore) -> None:
    registry = crowd(60, SHIP, RAIN)
    model = scripted([finish("hello"), finish("sun"), finish("booked"), finish("more")])
    session = ChatSession(Runner(store, model, registry))
    for message in ("Hello!", "Will it rain in Graz?", "Book me a ship's cabin.", "And rain in Oslo?"):
        session.say(message)
    session.close()
    _, rain, ship, again = model.prompts
    own = [set(plannable(prompt)) - set(builtins().select()) for prompt in model.prompts]
    assert "get_forecast" in own[1] and "\nWill it rain in Graz?" in rain.messages[-1].content
    assert rain.messages[-1].content.count("get_forecast(place): ") <= 1
    assert {"get_forecast", "book_ship"} <= own[2], "what the prompt shows can be planned"
    assert text_of(again).count("\nget_forecast(place): ") == 1, "a tool is described once"
    assert ship.messages[: len(rain.messages)] == rain.messages
    events = store.load(session.run)
    assert [event.query for event in of(ToolsShown, events)][1] == "Will it rain in Graz?"
    assert replay(events, registry.select()).same


def test_a_message_that_the_model_refused_takes_its_tools_with_it() -> None:
    registry = crowd(60, SHIP)
    rollout = Rollout(ScriptedModel([finish()] * 3), registry)
    episode = rollout.open(Goal(goal="a conversation"), mode="chat")
    started = episode.started
    tool = started.tools[0].model_copy(update={"name": "book_ship", "source": "caller"})
    events = [
        started,
        PersonSaid(text="a very long message"),
        ToolsShown(query="a very long message", tools=[tool], by="driver"),
    ]
    assert "book_ship" in State.of(events).tools
    refused = ModelTurn(text="", call=None, invalid="too long", prompt_refused=True)
    assert "book_ship" not in State.of([*events, refused]).tools
    episode.close()
