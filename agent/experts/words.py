"""Arithmetic: word problems from MAWPS and GSM8K, and our own wordings, done with the calculator.

The equation that a data set records becomes the calculator's expression; GSM8K's marked calculations
become one call each, which may take earlier results by handle. What a planned step is for says what is
computed from what, before the call is written: numbers with the words behind them, or the worked solution's
line without its results. Kept only when the checked answer is reached.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

from ...errors import ToolError
from ...tools.calculator.calculator import calculate
from ..goals.load import Goal
from .data import is_train, read_records
from .expert import Task, call, finish, plan

_MARKED = re.compile(r"<<([^=<>]+)=([^<>]+)>>")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_RESULT = re.compile(r"\s*=?\s*\$?\s*<<[^<>]*>>\s*\$?-?[\d,.]*\d")
_LONGEST = 80
"""Characters of what a step is for; the call's schema allows no more."""


def _task(question: str, expressions: list[str], answer: str, reasons: list[str]) -> Task:
    goal = Goal.model_validate({"goal": question, "check": [{"answer": {"number": float(answer)}}]})
    steps = [plan(*[("calculator", cut(reason)) for reason in reasons[:6]])]
    steps += [call("calculator", expression=expression) for expression in expressions]
    return Task("words", goal, [*steps, finish(f"${len(expressions)}")])


def cut(text: str) -> str:
    """Return a text in one line of at most 80 characters, ended at a word."""
    text = " ".join(text.split()).strip(" .")
    return text if len(text) <= _LONGEST else text[:_LONGEST].rpartition(" ")[0]


def worded(expression: str, question: str) -> str:
    """Return an expression with the words that stand behind its numbers in the question.

    ``9 + 12`` of "After 9 customers left he still had 12 customers." is ``9 customers + 12 customers``.
    """

    def named(match: re.Match[str]) -> str:
        number = match[0].removesuffix(".0")
        found = re.search(rf"(\$ ?)?(?<![\d.,]){re.escape(number)}(?![\d.,]*\d) *([a-z]+)?", question)
        if found is None:
            return number
        word = found[2] if found[2] and found[2] not in _NO_NOUNS else ""
        return f"{number} {'dollars' if found[1] else word}".strip()

    return _NUMBER.sub(named, expression)


_NO_NOUNS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at but by can cost did each for from had has have he her his if in into is it left "
        "less more new of off old on only or other out per she than that the their then they times to was "
        "were which while will with",
    )
)


def reasons(solution: str) -> list[str]:
    """Return, for each marked calculation of a worked solution, its line without the results."""
    return [_RESULT.sub("", line) for line in solution.splitlines() for _ in _MARKED.findall(line)]


def _problems(source: str, rng: random.Random) -> list[dict[str, Any]]:
    """Return the training problems of ``source``, shuffled."""
    records = [record for record in read_records(f"{source}_train") if is_train(source, record["question"])]
    rng.shuffle(records)
    return records


def mawps(rng: random.Random) -> Iterator[Task]:
    """Yield word problems with an equation of one to three operators."""
    records = _problems("mawps", rng)
    for record in records:
        equation = record["equation"].strip()
        if len(equation.split()) <= 7:
            why = [worded(equation, record["question"])]
            yield _task(record["question"], [equation], record["answer"], why)


def gsm8k(rng: random.Random, limit: int) -> Iterator[Task]:
    """Yield problems of at most four marked calculations."""
    records = _problems("gsm8k", rng)
    made = 0
    for record in records:
        marked = _MARKED.findall(record["solution"])
        if not 1 <= len(marked) <= 4 or len(record["question"]) > 400 or made >= limit:
            continue
        made += 1
        yield _task(
            record["question"],
            [left.strip() for left, _ in marked],
            record["answer"].replace(",", ""),
            reasons(record["solution"]),
        )


def chained(rng: random.Random, limit: int) -> Iterator[Task]:
    """Yield problems of two or three calculations, in which earlier results are handles."""
    records = _problems("gsm8k", rng)
    made = 0
    for record in records:
        marked = _MARKED.findall(record["solution"])
        if not 2 <= len(marked) <= 3 or len(record["question"]) > 300 or made >= limit:
            continue
        expressions = chain(record["question"], marked)
        if "$" in "".join(expressions):
            made += 1
            answer = record["answer"].replace(",", "")
            yield _task(record["question"], expressions, answer, reasons(record["solution"]))


def chain(question: str, marked: list[tuple[str, str]]) -> list[str]:
    """Write the handle of an earlier result wherever it is used, unless the question has that number too."""
    handles: dict[str, str] = {}
    expressions = []
    for number, (left, result) in enumerate(marked, start=1):
        expressions.append(_NUMBER.sub(lambda match: handles.get(match[0], match[0]), left.strip()))
        if not re.search(rf"(?<![\d.]){re.escape(result)}(?![\d.])", question):
            handles[result] = f"${number}"
    return expressions


NAMES = ("Mia", "Omar", "Lena", "Ravi", "Nora", "Jonas", "Aisha", "Peter", "Sofia", "Ken", "Ivan", "Clara",
         "Hugo", "Yuki", "Paul", "Zoe", "Tariq", "Emma", "Felix", "Ines")  # fmt: skip
THINGS = ("apples", "books", "marbles", "stickers", "coins", "cards", "eggs", "pencils", "flowers", "tickets",
          "cookies", "bottles", "boxes", "stamps", "shells", "balloons", "candles", "buttons")  # fmt: skip
_SUMS = (
    ("{n} has {a} {t}. {m} gives {n} {b} more. How many {t} does {n} have now?", "{a} + {b}"),
    ("{n} picked {a} {t} in the morning and {b} in the afternoon. How many {t} is that in all?", "{a} + {b}"),
    ("There are {a} red {t} and {b} blue {t}. How many {t} are there altogether?", "{a} + {b}"),
    ("{n} had {c} {t} and gave {a} of them to {m}. How many {t} are left?", "{c} - {a}"),
    ("A shop had {c} {t} and sold {b}. How many {t} remain?", "{c} - {b}"),
    ("{n} has {c} {t}, {m} has {a}. How many more {t} does {n} have than {m}?", "{c} - {a}"),
    ("{n} needs {c} {t} but only has {b}. How many more are needed?", "{c} - {b}"),
    ("Each box holds {a} {t}. How many {t} are in {d} boxes?", "{a} * {d}"),
    ("{n} buys {d} packs of {a} {t} each. How many {t} does {n} have?", "{a} * {d}"),
    ("One ticket costs {a} dollars. How much do {d} tickets cost?", "{a} * {d}"),
    ("{n} reads {a} pages a day. How many pages does {n} read in {d} days?", "{a} * {d}"),
    ("{n} shares {p} {t} equally among {d} friends. How many does each get?", "{p} / {d}"),
    ("{p} {t} are packed into {d} equal boxes. How many {t} are in each box?", "{p} / {d}"),
    ("A car drives {p} miles in {d} hours. How many miles per hour is that?", "{p} / {d}"),
    ("{n} earned {p} dollars in {d} hours. How much is that per hour?", "{p} / {d}"),
    ("What is {a} plus {b}?", "{a} + {b}"),
    ("What is {c} minus {a}?", "{c} - {a}"),
    ("What is {a} times {d}?", "{a} * {d}"),
    ("Divide {p} by {d}.", "{p} / {d}"),
    ("Add {a}, {b} and {c}.", "{a} + {b} + {c}"),
    ("What is {q}% of {c}?", "{q}% of {c}"),
    ("How much is {q} percent of {c}?", "{q}% of {c}"),
    ("A {t} set costs {c} dollars. It is {q}% off. What is the new price?", "{c} - {q}%"),
    ("A price of {c} rises by {q}%. What is it now?", "{c} + {q}%"),
    ("Convert {a} km to miles.", "{a} km in miles"),
    ("How many minutes are {d} hours?", "{d} hours in minutes"),
    ("How many pounds are {a} kg?", "{a} kg in pounds"),
    ("How many days are there between 2024-0{x}-1{y} and 2025-0{y}-2{x}?",
     "days between 2024-0{x}-1{y} and 2025-0{y}-2{x}"),
    ("Calculate ({a} + {b}) * {d}.", "({a} + {b}) * {d}"),
    ("Compute {a} * {b} - {c}.", "{a} * {b} - {c}"),
    ("What is the square root of {s}?", "sqrt({s})"),
)  # fmt: skip


def templated(rng: random.Random, count: int) -> Iterator[Task]:
    """Yield about ``count`` problems of our own wording, with numbers of many sizes."""
    for _ in range(count):
        text, expression = rng.choice(_SUMS)
        n, m = rng.sample(NAMES, 2)
        top = rng.choice((10, 30, 100, 1000))
        a, b, d = rng.randint(2, top), rng.randint(2, top), rng.randint(2, 12)
        values = {
            "n": n, "m": m, "t": rng.choice(THINGS), "a": a, "b": b, "c": a + b + rng.randint(1, top), "d": d,
            "p": d * rng.randint(2, top), "q": rng.choice((5, 10, 12, 15, 20, 25, 30, 40, 7.5)),
            "x": rng.randint(1, 9), "y": rng.randint(1, 9), "s": rng.randint(2, 40) ** 2,
        }  # fmt: skip
        expression = expression.format(**values)
        try:
            answer, _ = calculate(expression)
        except ToolError:  # a date that does not exist
            continue
        question = text.format(**values)
        yield _task(question, [expression], str(answer), [worded(expression, question)])
