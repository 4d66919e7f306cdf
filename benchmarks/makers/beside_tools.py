"""Ordinary talk, facts and instructions while tools are offered that have nothing to do with them.

Right is an answer in words without a call to any of the tools: not empty, not an echo, not only a question
back, in the language of the message, and for a fact with the fact in it. English: small talk of CLINC150's
``valid`` file, capitals (Super-NaturalInstructions), the seed instructions of Self-Instruct. Chinese: first
messages of ChatterBot's and KdConv's held-out parts. The tools are Seal-Tools' held-out ones, one to five a
goal, and none that shares a word with the message.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

from autogpt.agent.experts.data import is_train
from autogpt.agent.experts.stubs import snake_case

from .common import Record, answer, read
from .unseen_tools import seal_stub

TALK = (
    "greeting", "goodbye", "thank you", "what are your hobbies", "where are you from", "are you a bot",
    "how old are you", "meaning of life", "what can i ask you", "tell joke", "do you have pets", "fun fact",
)  # fmt: skip
"""CLINC150's intents that any assistant answers by itself."""
SAYS = r"(^|[.!?。！？\n])\s*[^.!?。！？\n]*{sign}[^.!?。！？\n]*([.!。！\n]|$)"
"""A sentence that is no question; ``{sign}`` is a character that it must have."""


def beside_tools(data: Path, seed: int = 34) -> list[Record]:
    """100 English goals (40 talk, 30 facts, 30 instructions) and 50 Chinese ones."""
    rng = random.Random(seed)
    tools = [api for api in read(data, "sealtools_apis") if not is_train("sealtools", api["api_name"])]
    drawn: list[tuple[str, str, str]] = []
    for source, count in ((_talk, 40), (_facts, 30), (_instructions, 30), (_talk_zh, 20), (_subjects_zh, 30)):
        drawn += rng.sample(sorted(set(source(data))), count)
    rng.shuffle(drawn)
    made: list[Record] = []
    for number, (category, text, pattern) in enumerate(drawn, start=1):
        words = set(re.findall(r"[a-z]{4,}", text.lower()))
        apart = [api for api in tools if words.isdisjoint(_words(api))]
        stubs = [seal_stub(api) for api in rng.sample(apart, rng.randint(1, 5))]
        echo = r"^(?!\W*" + r"\W+".join(map(re.escape, re.findall(r"\w+", text))) + r"\W*$)"
        checks = [{"calls": []}, answer(matches=pattern), answer(matches=echo)]
        made.append(
            {
                "id": f"beside-{number:04d}",
                "category": category,
                "goal": text,
                "stubs": stubs,
                "check": checks,
            }
        )
    return made


def _words(api: Record) -> set[str]:
    return set(re.findall(r"[a-z]{4,}", f"{snake_case(api['api_name'])} {api['api_description']}".lower()))


def _talk(data: Path) -> Iterator[tuple[str, str, str]]:
    known = {record["text"] for record in read(data, "clinc150_train")}
    for record in read(data, "clinc150_valid"):
        if record["intent"] in TALK and record["text"] not in known:
            yield "talk", record["text"], SAYS.format(sign=r"\w")


def _facts(data: Path) -> Iterator[tuple[str, str, str]]:
    for record in read(data, "superni_train"):
        country, capital = record["input"], record["outputs"][0]
        plain = re.fullmatch(r"[A-Z][a-z]+", capital) and re.fullmatch(r"[A-Z][A-Za-z ]+", country)
        if record["task"] == "task1146_country_capital" and plain and capital not in (country, "Bras"):  # cut
            yield "fact", f"What is the capital of {country}?", rf"\b{capital}\b"


def _instructions(data: Path) -> Iterator[tuple[str, str, str]]:
    for record in read(data, "seed_instructions"):
        given = record["instances"][0]["input"].strip()
        if len(given) <= 120 and "code" not in record["instruction"].lower():
            text = f"{record['instruction'].strip()}\n{given}".strip()
            yield "instruction", text, SAYS.format(sign=r"\w")


def _talk_zh(data: Path) -> Iterator[tuple[str, str, str]]:
    for record in read(data, "chatterbot_chat"):
        said = record["turns"][0].strip()
        if record["lang"] == "zh" and len(said) > 2 and not is_train("chatterbot_zh", record["turns"][0]):
            yield "talk, Chinese", said, SAYS.format(sign="[\u4e00-\u9fff]")


def _subjects_zh(data: Path) -> Iterator[tuple[str, str, str]]:
    for record in read(data, "kdconv_zh"):
        said = record["messages"][0]["text"].strip()
        if not is_train("kdconv", record["name"]) and len(said) < 60:
            yield "subject, Chinese", said, SAYS.format(sign="[\u4e00-\u9fff]")
