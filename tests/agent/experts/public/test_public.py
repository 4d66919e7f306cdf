"""Episodes from public data: requests to services, plain instructions, goals in Chinese."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from typing import Any

from autogpt.agent.experts import sql, stubs
from autogpt.agent.experts.data import is_train, read_records
from autogpt.agent.experts.expert import Recorder, Task
from autogpt.agent.experts.make import TYPED, mixture
from autogpt.agent.experts.public import chinese, instructions, services
from autogpt.llm.text.tokenizer import ChatTokenizer
from autogpt.tools.registry import builtins

_CHINESE = re.compile("[\u4e00-\u9fff]")


def _kept(tokenizer: ChatTokenizer, tasks: Iterable[Task]) -> list[dict[str, Any]]:
    recorder = Recorder(tokenizer, builtins(), prompting="typed")
    kept = list(recorder.samples(map(sql.in_sql, tasks), max_tokens=6000))
    assert not recorder.refused
    return kept


def _text(tokenizer: ChatTokenizer, sample: dict[str, Any]) -> str:
    return tokenizer.decode(sample["ids"])


def test_a_request_holds_each_argument_of_its_call() -> None:
    tasks = list(services.requests(random.Random(1), 8))
    assert len(tasks) > 3
    for task in tasks:
        made = task.calls[1]
        small = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
        for value in made.arguments.values():
            spoken = {str(value).casefold(), small.get(value, "") if isinstance(value, int) else ""} - {""}
            assert any(word in task.goal.goal.casefold() for word in spoken), (task.goal.goal, value)
        assert made.name in {stub.name for stub in task.goal.stubs}


def test_what_is_missing_is_asked_first_and_the_answer_goes_into_the_call(tokenizer: ChatTokenizer) -> None:
    tasks = list(services.asked_first(random.Random(2), 4))
    assert tasks
    for task, sample in zip(tasks, _kept(tokenizer, tasks), strict=True):
        questions = [made for made in task.calls if made.name == "ask"]
        assert len(questions) == len(task.answers) >= 1
        text = _text(tokenizer, sample)
        assert text.index(task.answers[0]) < text.index('"name":"plan"')
        assert not _learned_text(tokenizer, sample, task.answers[0])


def _learned_text(tokenizer: ChatTokenizer, sample: dict[str, Any], text: str) -> bool:
    learned = [i for i, mark in zip(sample["ids"], sample["mask"], strict=True) if mark]
    return text in tokenizer.decode(learned)


def test_facts_are_asked_plainly_and_answered_at_once(tokenizer: ChatTokenizer) -> None:
    tasks = list(instructions.facts(random.Random(5), 6))
    assert tasks and len(_kept(tokenizer, tasks)) == len(tasks)
    for task in tasks:
        assert [made.name for made in task.calls] == ["finish"] and "capital" not in task.goal.goal


def test_where_no_tool_fits_nothing_is_called(tokenizer: ChatTokenizer) -> None:
    tasks = list(services.none_fits(random.Random(3), 5))
    assert tasks
    assert len(_kept(tokenizer, tasks)) == len(tasks)
    assert all([made.name for made in task.calls] == ["finish"] for task in tasks)
    assert all(task.goal.stubs for task in tasks)


def test_services_that_measure_are_not_trained_on() -> None:
    known = services.functions()
    assert known
    assert all(is_train("sgd", service) for service, _ in known)
    held = [r for r in read_records("sgd_train") if not all(is_train("sgd", s) for s in r["services"])]
    spoken = {m["text"].strip() for r in held for m in r["messages"] if m["role"] == "user"}
    assert held
    said = {text for request in services.recorded(known, random.Random(0)) for text in request.said}
    long = {text for text in said & spoken if len(text) > 40}
    assert said
    assert not long


def test_parameters_carry_their_types_choices_and_descriptions() -> None:
    schemas = [s for function in services.functions().values() for s in function.properties.values()]
    assert {"string", "integer", "boolean"} <= {schema["type"] for schema in schemas}
    assert any("enum" in schema for schema in schemas)
    assert any("default" in schema for schema in schemas)
    assert all(schema["description"] for schema in schemas)
    kinds = {s["type"] for function in stubs.apis().values() for s in function.properties.values()}
    assert {"string", "integer"} <= kinds


def test_a_request_made_from_a_description_is_carried_out(tokenizer: ChatTokenizer) -> None:
    tasks = list(stubs.requests(random.Random(4), 10))
    assert len(_kept(tokenizer, tasks)) == len(tasks) > 5
    for task in tasks:
        for value in task.calls[1].arguments.values():
            assert isinstance(value, bool) or str(value) in task.goal.goal


def test_names_are_masked_in_a_part_of_the_goals() -> None:
    known = {stubs.snake_case(name) for name in stubs.apis()}
    tasks = list(stubs.requests(random.Random(5), 40))
    masked = [task for task in tasks if stubs.snake_case(task.calls[1].name) not in known]
    assert 0.1 < len(masked) / len(tasks) < 0.6


def test_instructions_are_answered_without_a_tool(tokenizer: ChatTokenizer) -> None:
    tasks = list(instructions.instructions(random.Random(6), 8))
    assert len({task.goal.goal for task in tasks}) == len(tasks) > 4
    assert len(_kept(tokenizer, tasks)) == len(tasks)
    assert all([made.name for made in task.calls] == ["finish"] for task in tasks)


def test_chinese_goals_over_tables_and_notes_reach_their_answers(tokenizer: ChatTokenizer) -> None:
    tasks = list(chinese.tables(random.Random(7), 24))
    assert len(_kept(tokenizer, tasks)) == len(tasks)
    assert all(_CHINESE.search(task.goal.goal) for task in tasks)
    assert {made.name for task in tasks for made in task.calls} >= {"tables.query", "files.read"}


def test_chinese_talk_is_answered_in_chinese() -> None:
    tasks = list(chinese.talk(random.Random(8), 40))
    answers = [str(task.calls[0].arguments["answer"]) for task in tasks]
    assert sum(bool(_CHINESE.search(answer)) for answer in answers) > 25
    assert all(_CHINESE.search(task.goal.goal) for task in tasks)


def test_the_recipes_of_bigger_models_show_typed_tools(tokenizer: ChatTokenizer) -> None:
    for recipe in TYPED:
        tasks = [task for task in mixture(1, 0.004, recipe) if task.goal.stubs]
        samples = Recorder(tokenizer, builtins(), prompting="typed").samples(tasks, max_tokens=9000)
        texts = [_text(tokenizer, sample) for sample in samples]
        assert len(texts) > 5
        assert all(re.search(r"\(\w+\??: (str|int|float|bool|\")", text) for text in texts)
