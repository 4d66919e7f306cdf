"""Plain instructions that need no tool: what a model of chat can do already, and is to go on doing.

From Super-NaturalInstructions and P3 (T0's training prompts) come tasks whose texts may be passed on, from
MedQuAD long factual answers. The goal is the instruction with its input, the answer ends it. Question
generation, entity lists and copies of news, which dominate the sources, are left out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from ...goals.load import Goal
from ..data import read_records
from ..expert import Task, finish

_TASKS = {
    "task059_ropes_story_generation": 5, "task080_piqa_answer_generation": 5,
    "task105_story_cloze-rocstories_sentence_generation": 2, "task037_qasc_generate_related_fact": 1,
    "task203_mnli_sentence_generation": 1, "task189_snli_neutral_to_contradiction_text_modification": 1,
    "task582_naturalquestion_answer_generation": 1, "task898_freebase_qa_answer_generation": 1,
    "task820_protoqa_answer_generation": 1, "task393_plausible_result_generation": 1,
    "task1318_country_national_dish": 1,
}  # fmt: skip
"""Of Super-NaturalInstructions, with weights: stories and advice, which are long, weigh more."""
_SETS = ("common_gen", "cosmos_qa", "social_i_qa", "quartz", "qasc", "adversarial_qa", "ropes")
_LONGEST = 1000
"""Characters of a goal, at most."""
_ANSWER = 600
"""Characters of an answer, at most."""


_ASKED = {
    "task1147_country_currency": (
        "What is the currency of {}?", "Which currency do people use in {}?", "{}'s currency?",
        "With what money do I pay in {}?",
    ),
    "task1426_country_independence_year": (
        "When did {} become independent?", "In which year did {} gain independence?",
        "{}: year of independence?",
    ),
    "task1320_country_domain_tld": (
        "What is the internet domain of {}?", "How do web addresses of {} end?", "{}'s top-level domain?",
    ),
    "task1318_country_national_dish": ("What is the national dish of {}?", "What do people eat in {}?"),
    "task582_naturalquestion_answer_generation": ("{}", "{}?"),
    "task898_freebase_qa_answer_generation": ("{}",),
}  # fmt: skip
"""Questions that are asked plainly, with the input in them. Capitals are not among them: they measure."""


def facts(rng: random.Random, number: int) -> Iterator[Task]:
    """Yield up to ``number`` plain questions about the world with short answers, each once."""
    asked: dict[str, list[tuple[str, str]]] = {}
    for record in read_records("superni_train"):
        said, outputs = record["input"].strip(), record["outputs"]
        if record["task"] in _ASKED and outputs and len(said) < 140 and len(outputs[0]) < 80:
            asked.setdefault(record["task"], []).append((said, outputs[0].strip()))
    names, seen = sorted(asked), set[str]()
    for _ in range(20 * number):
        if len(seen) >= number or not names:
            return
        name = rng.choice(names)
        said, answer = rng.choice(asked[name])
        text = rng.choice(_ASKED[name]).format(said).replace("??", "?")
        if text not in seen and answer and not answer.startswith("$"):
            seen.add(text)
            yield Task("facts", Goal.model_validate({"goal": text}), [finish(answer)])


def instructions(rng: random.Random, number: int) -> Iterator[Task]:
    """Yield up to ``number`` instructions with their answers, each once."""
    tasks = {record["task"]: record["definition"] for record in read_records("superni_train_tasks")}
    pairs = [
        (f"{tasks[record['task']].strip()}\n{record['input'].strip()}", record["outputs"][0], record["task"])
        for record in read_records("superni_train")
        if record["task"] in _TASKS and record["outputs"]
    ]
    by_task: dict[str, list[tuple[str, str]]] = {}
    for text, answer, name in pairs:
        by_task.setdefault(name, []).append((text, answer))
    prompts = [(r["prompt"], r["completion"]) for r in read_records("p3_train") if r["dataset"] in _SETS]
    advice = [(r["question"], r["answer"].strip()) for r in read_records("medquad")]
    names = sorted(by_task)
    weights = [_TASKS[name] for name in names]
    seen: set[str] = set()
    for _ in range(20 * number):
        if len(seen) >= number:
            return
        draw = rng.random()
        if draw < 0.6 and names:
            text, answer = rng.choice(by_task[rng.choices(names, weights)[0]])
        else:
            text, answer = rng.choice(prompts if draw < 0.9 else advice)
        text, answer = text.strip(), answer.strip()
        if text in seen or not 10 < len(text) < _LONGEST or not 0 < len(answer) < _ANSWER:
            continue
        if answer.startswith("$"):  # which would stand for a result
            continue
        seen.add(text)
        goal = Goal.model_validate({"goal": text})
        yield Task("instructions", goal, [finish(answer)])
