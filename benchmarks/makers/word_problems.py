"""Word problems of sets that training does not use: SVAMP of one and two steps, GSM8K's test part.

``benchmarks/data/word_problems.jsonl.zst`` holds them (question, answer, steps, source), taken from
github.com/arkilpatel/SVAMP (SVAMP.json, MIT; Patel et al., 2021) and github.com/openai/grade-school-math
(the first 500 of test.jsonl, MIT; Cobbe et al., 2021). SVAMP varies the wording so that a pattern learned
from MAWPS does not help; one step is one operator in its equation. Left out: where its equation goes below
nothing on the way (more trees died than there were).
"""

from __future__ import annotations

import random
import re
from pathlib import Path

from .common import Record, answer, goal, read

PROBLEMS = Path(__file__).parents[1] / "data"


def word_problems(data: Path, count: int = 200, seed: int = 33) -> list[Record]:
    """Half of one step (SVAMP), half of several (SVAMP with two operators and GSM8K alike).

    A problem whose text, numbers apart, is also in the training data is left out.
    """
    rng = random.Random(seed)
    known = {_bare(item["question"]) for name in ("mawps_train", "gsm8k_train") for item in read(data, name)}
    by: dict[str, list[Record]] = {"one step": [], "two steps": [], "many steps": []}
    for item in read(PROBLEMS, "word_problems"):
        if _bare(item["question"]) not in known:
            by[item["kind"]].append(item)
    shares = {"one step": count // 2, "two steps": count // 4, "many steps": count // 4}
    drawn = [item for kind, share in shares.items() for item in rng.sample(by[kind], share)]
    rng.shuffle(drawn)
    return [
        goal(
            "problem",
            number,
            item["kind"],
            item["question"],
            {},
            answer(number=item["answer"], tolerance=0.005),
        )
        for number, item in enumerate(drawn, start=1)
    ]


def _bare(text: str) -> str:
    """Return a text without numbers, case, marks and spaces."""
    return re.sub(r"[\W\d_]+", "", text.casefold())
