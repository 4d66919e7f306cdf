"""The real tiny GPT that ships: trained weights, the real engine, grammar, loop and journal, end to end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from autogpt.agent.goals.load import Goal
from autogpt.agent.record.events import ModelTurn
from autogpt.agent.record.store import RunStore
from autogpt.agent.run.loop import Think, decide
from autogpt.agent.run.replay import replay
from autogpt.agent.run.rollout import Rollout
from autogpt.agent.run.runner import Runner
from autogpt.agent.run.workbench import goal_tools
from autogpt.llm.message import Prompt, Sampling, why_invalid
from autogpt.llm.models.local import LocalModel
from autogpt.llm.registry import NANO
from autogpt.tools.registry import builtins

GOALS: list[dict[str, Any]] = [
    {"goal": "which town has the most people?", "files": {"towns.csv": "town,people\nA,3\nB,9\nC,5\n"}},
    {"goal": "What is 12 times 7?"},
    {"goal": "Copy a.txt to b.txt.", "files": {"a.txt": "one\ntwo\n"}},
    {"goal": "hello"},
]


@pytest.fixture(scope="module")
def nano() -> LocalModel:
    return LocalModel.load(str(NANO), device="cpu", dtype="float32")


def test_it_loads_in_a_moment(nano: LocalModel) -> None:
    """Beyond importing torch, which the fixture has done."""
    begun = time.process_time()
    LocalModel.load(str(NANO), device="cpu", dtype="float32")
    assert time.process_time() - begun < 2.0


def test_every_complete_call_is_valid_and_a_batch_changes_nothing(nano: LocalModel) -> None:
    goals = [Goal.model_validate({**goal, "limits": {"steps": 4}}) for goal in GOALS]
    together = Rollout(nano, builtins(), parallel=4).run(goals)
    for goal, episode in zip(goals, together, strict=True):
        alone = Rollout(nano, builtins(), parallel=1).run([goal])[0]
        turns = [event for event in episode.events if isinstance(event, ModelTurn)]
        assert turns, "nano was never asked"
        for turn in turns:
            assert turn.invalid is None or "cut" in turn.invalid
            assert len(turn.ids) == len(turn.forced) == len(turn.logprobs)
        assert [event.text for event in alone.events if isinstance(event, ModelTurn)] == [
            turn.text for turn in turns
        ]


def test_it_has_learned_the_frame_of_a_run(nano: LocalModel) -> None:
    """Trained, not random: asked about a table it plans a query, and greets without a plan."""
    episodes = Rollout(nano, builtins(), parallel=2).run(
        [Goal.model_validate({**goal, "limits": {"steps": 2}}) for goal in (GOALS[0], GOALS[3])]
    )
    first = [next(e for e in episode.events if isinstance(e, ModelTurn)) for episode in episodes]
    assert first[0].call and first[0].call["name"] == "plan"
    assert first[0].call["arguments"]["steps"][0]["tool"] == "tables.query"
    assert first[1].call and first[1].call["name"] == "finish"


def test_sampling_is_repeatable_and_valid(nano: LocalModel) -> None:
    rollout = Rollout(nano, builtins(), parallel=1)
    think = rollout.open(Goal.model_validate(GOALS[0])).advance()
    assert think is not None
    hot = Sampling(temperature=1.5, seed=7)
    turns = [nano.respond([Prompt("s", think.conversation, think.calls, hot)])[0] for _ in range(2)]
    assert turns[0].ids == turns[1].ids
    for seed in range(12):
        turn = nano.respond([Prompt("t", think.conversation, think.calls, Sampling(1.5, seed=seed))])[0]
        if turn.call is None:
            assert "cut" in str(turn.invalid)
        else:
            assert why_invalid(turn.call, think.calls) is None


def test_a_durable_run_replays_to_the_same_tokens(nano: LocalModel, tmp_path: Path) -> None:
    goal = Goal.model_validate({**GOALS[0], "limits": {"steps": 4}})
    store = RunStore(tmp_path)
    result = Runner(store, nano, builtins()).run(goal)
    events = store.load(result.run)
    tools, _ = goal_tools(goal, builtins())
    assert replay(events, tools).same
    for seq, event in enumerate(events):
        if isinstance(event, ModelTurn):
            think = decide(events[:seq], tools)
            assert isinstance(think, Think)
            assert list(nano.respond([think.prompt("again", Sampling())])[0].ids) == event.ids
