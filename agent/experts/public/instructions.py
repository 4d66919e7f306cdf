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
    "task1318_country_national_dish": 1, "task1146_country_capital": 1,
}  # fmt: skip
"""Of Super-NaturalInstructions, with weights: stories and advice, which are long, weigh more."""
_SETS = ("common_gen", "cosmos_qa", "social_i_qa", "quartz", "qasc", "adversarial_qa", "ropes")
_LONGEST = 1000
"""Characters of a goal, at most."""
_ANSWER = 600
"""Characters of an answer, at most."""


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
