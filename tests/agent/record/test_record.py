"""A run's events as one record."""

from __future__ import annotations

import pytest

from autogpt.agent.record.events import Event, ModelTurn, PersonSaid, RunEnded, RunStarted, ToolOutcome
from autogpt.agent.record.record import Record

TURNS = [ModelTurn(text=text, call=None) for text in ("one", "two")]
OUTCOME = ToolOutcome(call_id="c1", tool="calculator", state="done")


def test_a_record_finds_its_events_and_sees_later_ones() -> None:
    events: list[Event] = [RunStarted(run="r", goal={}), TURNS[0], OUTCOME, TURNS[1]]
    record = Record(events)
    assert record.started.run == "r" and record.ended is None
    assert record.turns == TURNS and record.outcomes == [OUTCOME]
    assert record.last(ModelTurn) == TURNS[1] and record.last(PersonSaid) is None
    events.append(RunEnded(status="achieved", cause="finished"))
    assert record.ended is not None and record.ended.cause == "finished"


@pytest.mark.parametrize("events", [[], [OUTCOME]])
def test_a_record_without_a_beginning_is_none(events: list[Event]) -> None:
    with pytest.raises(ValueError, match=r"begins with run\.started"):
        assert Record(events).started
