"""Batches that stay open, and what drives goals through them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import tiny_loaded
from transformers import LlamaConfig

from autogpt.agent.goals.load import Goal
from autogpt.agent.record.store import RunStore
from autogpt.agent.run.rollout import Rollout
from autogpt.agent.run.runner import Runner
from autogpt.errors import DefectError, UsageError
from autogpt.llm.engine.engine import Engine, Request
from autogpt.llm.message import CallSpec, Message, Prompt, Rounds, Sampling, ToolCall, Turn, flow_of
from autogpt.llm.models.local import ContextOverflow, LocalModel
from autogpt.llm.models.scripted import ScriptedModel
from autogpt.llm.nn.load import LoadedModel
from autogpt.llm.registry import NANO
from autogpt.tools.registry import builtins

V = 211
ANSWER = {
    "type": "object",
    "properties": {"answer": {"type": "string", "maxLength": 9}},
    "required": ["answer"],
}
CALLS = (CallSpec("finish", ANSWER),)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    config = LlamaConfig(
        vocab_size=V, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.2,
    )  # fmt: skip
    return tiny_loaded(config, 11)


@pytest.fixture(scope="module")
def nano() -> LocalModel:
    return LocalModel.load(str(NANO), device="cpu", dtype="float32")


def ids(length: int, seed: int) -> list[int]:
    return torch.randint(3, V, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def request(session: str, given: Sequence[int], count: int, temperature: float = 0.0) -> Request:
    return Request(session, given, sampling=Sampling(temperature, seed=5, max_tokens=count))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_requests_that_join_are_answered_as_if_alone(loaded: LoadedModel, temperature: float) -> None:
    engine, system = Engine(loaded), ids(60, 0)
    turns = {f"s{i}": [3 + 4 * i, 9, 5 + i] for i in range(4)}  # tokens of each session's turns
    batch, asked, order = engine.batch(), dict[int, Request](), list[str]()

    def ask(session: str, given: Sequence[int]) -> None:
        wanted = request(session, given, turns[session].pop(0), temperature)
        asked[batch.add(wanted)] = wanted

    for i, session in enumerate(turns):
        ask(session, [*system, *ids(7 + i, i)])
    said: list[tuple[Request, list[int]]] = []
    while batch:
        for number, answer in batch.finished():
            wanted = asked.pop(number)
            said.append((wanted, answer.ids))
            order.append(wanted.session)
            assert answer.error is None and answer.seconds > 0
            if turns[wanted.session]:
                ask(wanted.session, [*wanted.ids, *answer.ids, *ids(6, len(said))])
    assert not asked and batch.finished() == []
    # s0's second answer does not wait for s3's first
    assert order.index("s0", order.index("s0") + 1) < order.index("s3")
    for wanted, answer_ids in said:
        assert Engine(loaded).generate([wanted])[0].ids == answer_ids


def test_a_session_is_answered_once_at_a_time(loaded: LoadedModel) -> None:
    batch = Engine(loaded).batch()
    batch.add(request("a", ids(9, 1), 4))
    with pytest.raises(DefectError):
        batch.add(request("a", ids(9, 1), 4))
    ((number, answer),) = batch.finished()
    assert number == 0 and len(answer.ids) == 4
    assert batch.add(request("a", [*ids(9, 1), *answer.ids, 7], 2)) == 1


def test_a_refused_request_ends_at_once_and_others_go_on(loaded: LoadedModel) -> None:
    batch = Engine(loaded).batch()
    batch.add(request("long", ids(600, 1), 4))
    batch.add(request("good", ids(9, 1), 4))
    found: dict[int, Any] = {}
    while batch:
        found.update(batch.finished())
    assert "600 tokens" in found[0].error and len(found[1].ids) == 4


def test_what_another_batch_decodes_is_not_evicted(loaded: LoadedModel) -> None:
    engine = Engine(loaded, cache_bytes=1)
    expected = Engine(loaded).generate([request("a", ids(30, 1), 12)])[0].ids
    batch = engine.batch()
    batch.add(request("a", ids(30, 1), 12))
    batch.step()
    engine.generate([request("b", ids(200, 2), 30)])
    ((_, answer),) = batch.finished()
    assert answer.ids == expected and answer.forwards <= 12


def test_a_local_model_lets_prompts_join(nano: LocalModel) -> None:
    talk = (Message("system", "Answer."), Message("user", "go"))
    heard: dict[int, str] = {}

    def hear(number: int, piece: str) -> None:
        heard[number] = heard.get(number, "") + piece

    def prompt(session: str, seed: int, best_of: int = 1) -> Prompt:
        return Prompt(session, talk, CALLS, Sampling(1.0, seed=seed, max_tokens=60, best_of=best_of))

    flow = flow_of(nano, hear)
    flow.put(7, prompt("flow-a", 1))
    flow.put(3, prompt("flow-b", 2, best_of=3))
    found: dict[int, Turn] = {}
    joined = False
    while ready := flow.ready():
        found.update(ready)
        if not joined:
            flow.put(9, prompt("flow-c", 4))
            joined = True
    assert set(found) == {7, 3, 9}
    assert {number: turn.text for number, turn in found.items()} == heard
    for number, (session, seed) in {7: ("flow-a", 1), 9: ("flow-c", 4)}.items():
        nano.close_session(session)
        assert nano.respond([prompt(session, seed)])[0].ids == found[number].ids
    with pytest.raises(ContextOverflow):
        flow.put(1, Prompt("flow-d", (Message("user", "7 " * 9000),), CALLS))


def test_a_model_without_a_flow_is_asked_in_rounds() -> None:
    sizes: list[int] = []

    class Counting(ScriptedModel):
        def respond(self, prompts: Sequence[Prompt], on_text: Any = None) -> list[Turn]:
            sizes.append(len(prompts))
            return super().respond(prompts, on_text)

    heard: list[tuple[int, str]] = []
    flow = flow_of(
        Counting([ToolCall("finish", {"answer": "ok"})], check=False), lambda *got: heard.append(got)
    )
    assert isinstance(flow, Rounds) and flow.ready() == []
    for number in (5, 2):
        flow.put(number, Prompt(f"s{number}", (), ()))
    turns = flow.ready()
    assert [number for number, _ in turns] == [5, 2] and sizes == [2]
    assert [number for number, _ in heard] == [5, 2] and flow.ready() == []


def test_goals_side_by_side_end_as_each_alone(nano: LocalModel) -> None:
    goals = [Goal.model_validate({"goal": f"hello {n}", "limits": {"steps": 2 + n % 3}}) for n in range(5)]
    together = Rollout(nano, builtins(), parallel=4).run(goals)
    for goal, episode in zip(goals, together, strict=True):
        alone = Rollout(nano, builtins(), parallel=1).run([goal])[0]
        assert [_said(event) for event in alone.events] == [_said(event) for event in episode.events]


def _said(event: Any) -> tuple[str, Any]:
    return type(event).__name__, getattr(event, "text", None)


def test_a_goal_too_long_for_the_model_is_refused_before_it_is_opened(
    tmp_path: Path, nano: LocalModel
) -> None:
    runner = Runner(RunStore(tmp_path / "home"), nano, builtins())
    long = Goal.model_validate({"goal": "add up " + "7 " * 9000})
    short = Goal.model_validate({"goal": "hello", "limits": {"steps": 1}})
    with pytest.raises(UsageError, match=r"the goal has 18003 tokens, the model nano takes at most 4095,"):
        runner.run(long)
    assert runner.store.list_runs() == []
    results = runner.run_all([long, short], parallel=2)
    assert results[0].status == "error" and "the goal has 18003 tokens" in results[0].cause
    assert results[1].status in ("answered", "limit", "not_met") and results[1].invalid_calls == 0


@pytest.mark.parametrize("parallel", [1, 2])
def test_a_prompt_that_outgrows_the_model_costs_its_goal(
    tmp_path: Path, nano: LocalModel, parallel: int
) -> None:
    runner = Runner(RunStore(tmp_path / "home"), nano, builtins())
    tables = {f"t{n}.csv": "\n".join(["x" * 50 + str(k) for k in range(40)]) for n in range(30)}
    long = Goal.model_validate({"goal": "what is in these?", "files": tables})
    short = Goal.model_validate({"goal": "hello", "limits": {"steps": 1}})
    results = runner.run_all([long, short][:parallel], parallel)
    assert results[0].status == "not_met" and results[0].invalid_calls == 1
    assert "tokens, the model nano takes at most 4095" in results[0].cause
    assert all(result.invalid_calls == 0 for result in results[1:])
