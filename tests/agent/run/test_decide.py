"""``decide`` over a real recorded run: pure, replayable, and what the model reads only grows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autogpt.agent.goals.load import Goal
from autogpt.agent.record.events import (
    Event,
    ModelTurn,
    RunEnded,
    RunStarted,
    ToolIntent,
    ToolOutcome,
    dump_event,
    parse_event,
)
from autogpt.agent.run.loop import Act, Stop, Think, decide
from autogpt.agent.run.replay import replay
from autogpt.agent.run.rollout import Rollout
from autogpt.llm.message import ToolCall
from autogpt.llm.models.scripted import ScriptedModel
from autogpt.tools.base import Tool
from autogpt.tools.registry import builtins

TOOLS: dict[str, Tool] = dict(builtins().select())


@pytest.fixture(scope="module")
def recorded() -> Sequence[Event]:
    """A real run with inspections, a repetition, a second plan and a failure."""
    steps: Sequence[ToolCall] = [
        ToolCall("plan", {"steps": [{"tool": "tables.query", "for": "sum"},
                                    {"tool": "calculator", "for": "x"}]}),
        ToolCall("tables.query", {"table": "t", "select": ["sum(n)"]}),
        ToolCall("tables.query", {"table": "t", "select": ["sum(n)"]}),
        ToolCall("plan", {"steps": [{"tool": "calculator", "for": "double"}]}),
        ToolCall("calculator", {"expression": "$3 *"}),
        ToolCall("calculator", {"expression": "$3 * 2"}),
        ToolCall("finish", {"answer": "$5"}),
    ]  # fmt: skip
    rollout = Rollout(ScriptedModel(steps), builtins())
    goal = Goal.model_validate({"goal": "twice the sum", "files": {"t.csv": "n\n1\n2\n", "x.txt": "x"}})
    events = rollout.run([goal])[0].events
    ended = events[-1]
    assert isinstance(ended, RunEnded)
    assert (ended.status, ended.answer) == ("answered", 6), ended
    return events


@given(data=st.data())
def test_decide_is_pure(recorded: Sequence[Event], data: st.DataObject) -> None:
    """The same events give the same request: again, from other objects, and read back from JSON."""
    size = data.draw(st.integers(1, len(recorded)))
    events = recorded[:size]
    before = [dump_event(event) for event in events]
    first = decide(events, TOOLS)
    copies = [parse_event(dump_event(event)) for event in events]
    assert decide(copies, dict(builtins().select())) == first == decide(tuple(events), TOOLS)
    assert [dump_event(event) for event in events] == before


def test_the_record_is_what_decide_asks_for(recorded: Sequence[Event]) -> None:
    for size in range(1, len(recorded)):
        request, event = decide(recorded[:size], TOOLS), recorded[size]
        if isinstance(event, ModelTurn):
            assert isinstance(request, Think)
            assert event.allowed == [call.name for call in request.calls]
        elif isinstance(event, ToolIntent | ToolOutcome):
            assert isinstance(request, Act)
            assert (request.call_id, request.tool) == (event.call_id, event.tool)
        else:
            assert isinstance(request, Stop)


def test_the_conversation_only_grows(recorded: Sequence[Event]) -> None:
    requests = [decide(recorded[:size], TOOLS) for size in range(1, len(recorded))]
    asked = [request.conversation for request in requests if isinstance(request, Think)]
    assert len(asked) == 7
    for shorter, longer in itertools.pairwise(asked):
        assert longer[: len(shorter)] == shorter
        assert len(longer) > len(shorter)


def test_a_run_begins_with_its_first_event(recorded: Sequence[Event]) -> None:
    assert isinstance(recorded[0], RunStarted)
    for events in ([], recorded[1:]):
        with pytest.raises(ValueError, match=r"begins with run\.started"):
            decide(events, TOOLS)


def test_a_record_of_before_the_rules_replays_by_its_own() -> None:
    """Until rules were kept, an empty result left ``finish`` free, and such a run ended achieved."""
    empty = ToolCall("tables.query", {"table": "t", "select": ["n"], "where": [["n", "=", 9]]})
    plan = ToolCall("plan", {"steps": [{"tool": "tables.query", "for": "n"}]})
    steps = [plan, empty, empty, ToolCall("finish", {"answer": "none"})]
    goal = Goal.model_validate({"goal": "which n is 9?", "files": {"t.csv": "n\n1\n"}})
    events = Rollout(ScriptedModel(steps), builtins()).run([goal])[0].events
    assert replay(events, TOOLS).same
    old = [events[0].model_copy(update={"rules": 0}), *events[1:]]
    found = replay(old, TOOLS).difference
    assert found is not None and "tables.query, finish, plan, ask allowed" in found.replayed

    turns = [number for number, event in enumerate(old) if isinstance(event, ModelTurn)]
    as_then = old[turns[2]].model_copy(update={"allowed": ["tables.query", "finish", "plan", "ask"]})
    ended = RunEnded(status="achieved", cause="finished", answer="none")
    assert replay([*old[: turns[2]], as_then, *old[turns[2] + 1 : -1], ended], TOOLS).same
