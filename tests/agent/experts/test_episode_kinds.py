"""Episodes of what once failed: tools to be left alone, exact copies, chains, runs without a plan, talk."""

from __future__ import annotations

import random
from typing import Any

from autogpt.agent.experts import conversations, files, stubs, words
from autogpt.agent.experts import small_talk as chat
from autogpt.agent.experts.data import is_train, read_records
from autogpt.agent.experts.expert import Recorder, Task, call, finish, plan, unplanned
from autogpt.agent.goals.load import Goal
from autogpt.llm.text.tokenizer import ChatTokenizer
from autogpt.tools.registry import builtins


def _text(tokenizer: ChatTokenizer, sample: dict[str, Any], value: int | None = None) -> str:
    chosen = [i for i, mark in zip(sample["ids"], sample["mask"], strict=True) if value in (None, mark)]
    return tokenizer.decode(chosen)


def test_a_tool_beside_the_task_must_not_be_called(tokenizer: ChatTokenizer) -> None:
    (task,) = stubs.beside(chat.own(random.Random(4), 1), random.Random(4))
    tool = task.goal.stubs[0]
    properties: Any = tool.parameters["properties"]
    arguments: dict[str, Any] = {
        name: 1 if spec["type"] in ("integer", "number") else True if spec["type"] == "boolean" else "x"
        for name, spec in properties.items()
    }
    wrong = Task("chat", task.goal, [plan((tool.name, "x")), call(tool.name, **arguments), finish("$1")])
    recorder = Recorder(tokenizer, builtins())
    kept = list(recorder.samples([task, wrong]))
    assert len(kept) == 1
    assert f"{tool.name}(" in _text(tokenizer, kept[0])
    assert list(recorder.refused) == ["chat: not_met: a check failed"]


def test_tools_beside_a_task_come_from_the_part_that_is_trained_on() -> None:
    known = {r["api_name"]: is_train("sealtools", r["api_name"]) for r in read_records("sealtools_apis")}
    plain = {stubs.snake_case(name): trained for name, trained in known.items()}
    shown = [tool.name for task in stubs.beside(chat.own(random.Random(1), 60), random.Random(1))
             for tool in task.goal.stubs]  # fmt: skip
    assert len(shown) > 60
    named = [name for name in shown if name in known or name in plain]
    assert len(named) > 20
    assert all({**plain, **known}[name] for name in named)


def test_numbers_lines_and_joins_are_exact() -> None:
    """Long numbers stand in a file as the check wants them; joins take texts by handle; counts vary."""
    made = [files.long_value(random.Random(seed)) for seed in range(40)]
    digits = []
    for task in made:
        (check,) = task.goal.model_dump(mode="json")["check"]
        value = (check.get("answer") or check["file"])["equals"]
        digits.append(sum(letter.isdigit() for letter in value))
        assert any(value in text for text in (task.goal.files or {}).values())
    assert max(digits) >= 12
    assert min(digits) >= 7
    assert any("+" in str(task.goal.check) for task in made)
    for seed in range(10):
        write = files.join(random.Random(seed)).calls[-2]
        assert "{$2}\n{$3}" in write.arguments["content"]
    counts = {int(files.count_matches(random.Random(n)).calls[-1].arguments["answer"]) for n in range(40)}
    assert len(counts) > 6


def test_chained_problems_take_earlier_results_by_handle() -> None:
    marked = [("6*2", "12"), ("12*2", "24"), ("24/3+5", "13")]
    assert words.chain("A pan, 6 pots, 5 lids", marked) == ["6*2", "$1*2", "$2/3+5"]
    assert words.chain("of 12 pans", marked) == ["6*2", "12*2", "$2/3+5"]
    for task in words.chained(random.Random(0), 5):
        assert any("$" in made.arguments["expression"] for made in task.calls[1:-1])


def _masked(tokenizer: ChatTokenizer) -> Recorder:
    recorder = Recorder(tokenizer, builtins())
    recorder.rng.randrange = lambda *_: 1  # type: ignore[method-assign]
    return recorder


def test_a_task_is_played_without_its_plan(tokenizer: ChatTokenizer) -> None:
    task = next(task for task in files.chores(random.Random(1), 20) if len(task.calls) == 3)
    bare = unplanned(task)
    assert [made.name for made in bare.calls] == [made.name for made in task.calls[1:]]
    (planned,), (sample,) = (_masked(tokenizer).samples([one], 100_000) for one in (task, bare))
    assert '"plan"' in _text(tokenizer, planned)
    assert '"plan"' not in _text(tokenizer, sample)
    assert _text(tokenizer, sample, 1).startswith("files")
    talk = next(conversations.sessions(random.Random(0), 1))
    assert not any(made.name == "plan" for _, calls in unplanned(talk).turns for made in calls)


def test_what_carries_no_loss_moves_with_the_plan() -> None:
    calls = [plan(("calculator", "x")), *(call("calculator", expression=text) for text in "12")]
    task = Task("words", Goal.model_validate({"goal": "x"}), [*calls, finish("$2")], unlearned=(1,))
    assert unplanned(task).unlearned == (0,)
    assert unplanned(unplanned(task)).unlearned == (0,)


def test_the_talk_of_a_chatty_session_calls_nothing() -> None:
    for task in conversations.chatty(random.Random(3), 20):
        assert [made.name for made in task.turns[0][1]] == ["finish"]
        assert task.goal.files
