"""Questions with their answers: what the embedder and the judge learn from, and what measures them.

Three sources have known answers: FairytaleQA (question, passage), MedQuAD (question, answer page) and
KdConv (a turn of a Chinese dialogue, the facts that it used). FairytaleQA is tested on its own valid
part; of MedQuAD's questions and KdConv's dialogues one half, by a hash, only ever tests. Of the rest four
fifths teach the embedder and one fifth the judge, which must see vectors as they are for questions
that the embedder has not learnt. The other sources only teach the embedder: translations, dictionary
entries, commands and their descriptions, summaries, and sentences taken out of running text.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ..write_gate.wording import normal_hash

Pair = tuple[str, str]


@dataclass(frozen=True)
class Asked:
    """A question and the numbers of the texts of the collection that answer it."""

    question: str
    answers: frozenset[int]


@dataclass
class Collection:
    """All texts of the three sources in one store, and the questions put to it."""

    texts: list[str] = field(default_factory=list)
    test: dict[str, list[Asked]] = field(default_factory=dict)
    """By source: questions that nothing was trained on."""
    tune: dict[str, list[Asked]] = field(default_factory=dict)
    """By source: the judge's fifth."""


def read(data: Path, name: str) -> Iterator[dict[str, Any]]:
    """Yield the records of ``<name>.jsonl.zst``. Raises :class:`UsageError` when it is not there."""
    import zstandard

    path = data / f"{name}.jsonl.zst"
    try:
        with path.open("rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed) as stream:
            for line in io.TextIOWrapper(stream, encoding="utf-8"):
                yield json.loads(line)
    except (OSError, zstandard.ZstdError, ValueError) as problem:
        raise UsageError(
            f"{path}: cannot be read ({problem}); AUTOGPT_DATA names the folder with the data"
        ) from problem


def is_test(key: str) -> bool:
    """Return whether a MedQuAD question or a KdConv dialogue belongs to the half that only tests."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % 2 == 1


def for_judge(key: str) -> bool:
    """Return whether a training question belongs to the judge's fifth."""
    return int(hashlib.sha256(("x" + key).encode()).hexdigest()[:8], 16) % 5 == 0


def dialogue_key(dialogue: dict[str, Any]) -> str:
    """Return what a KdConv dialogue is split by."""
    return str(dialogue["name"]) + str(dialogue["messages"][0]["text"])


def collection(data: Path) -> Collection:
    """Return the texts, each once, and the questions of the test and of the judge's part."""
    made = Collection()
    numbers: dict[str, int] = {}

    def number(text: str) -> int:
        key = normal_hash(text)
        if key not in numbers:
            numbers[key] = len(made.texts)
            made.texts.append(text.strip())
        return numbers[key]

    asked: dict[tuple[str, str, str], set[int]] = {}
    for part in ("train", "valid"):
        for row in read(data, f"fairytaleqa_{part}"):
            place = number(row["passage"])
            if part == "valid" or for_judge(row["story"]):
                use = "test" if part == "valid" else "tune"
                asked.setdefault((use, "fairytaleqa", row["question"]), set()).add(place)
    for row in read(data, "medquad"):
        question, place = row["question"].strip(), number(row["answer"])
        if is_test(question) or for_judge(question):
            use = "test" if is_test(question) else "tune"
            asked.setdefault((use, "medquad", question), set()).add(place)
    turn = 0
    for dialogue in read(data, "kdconv_zh"):
        key = dialogue_key(dialogue)
        for message in dialogue["messages"]:
            if not (facts := message.get("facts")):
                continue
            places = {number(" ".join(fact)) for fact in facts}
            if is_test(key) or for_judge(key):
                use, turn = "test" if is_test(key) else "tune", turn + 1
                # The same words said in two dialogues are two questions with their own facts.
                asked[use, "kdconv", f"{message['text']}\0{turn}"] = places
    for (use, source, question), places in asked.items():
        questions = getattr(made, use).setdefault(source, [])
        questions.append(Asked(question.partition("\0")[0], frozenset(places)))
    return made


def teaching(data: Path, seed: int = 0) -> dict[str, list[Pair]]:
    """Return the embedder's pairs by source; in each, the second text is what the first should find."""
    rng = random.Random(seed)
    pairs = _asked(data) | _parallel(data, rng)
    running = {
        "books": ([row["text"] for row in read(data, "text_books_en")][::4], 12_000, 900),
        "wikipedia": ([row["text"] for row in read(data, "text_wikipedia_en")], 8_000, 900),
        "textbooks": ([row["text"] for row in read(data, "text_textbooks_en")], 10_000, 900),
        "misc": ([row["text"] for row in read(data, "text_misc_en")], 8_000, 900),
        "medical": ([answer for _, answer in pairs["medquad"]], 8_000, 900),
        "classics": ([row["text"] for row in read(data, "text_classics_zh")], 12_000, 300),
        "travel": (
            [
                text
                for row in read(data, "kdconv_travel_facts_zh")
                for kind, text in row["facts"]
                if kind == "Information"
            ],
            5_000,
            300,
        ),
    }  # fmt: skip
    for name, (texts, count, size) in running.items():
        pairs[name] = list(_cloze(texts, count, size, rng))
    return pairs


def _asked(data: Path) -> dict[str, list[Pair]]:
    """Return the pairs of the three sources that may teach the embedder."""
    fairy = [
        (row["question"], row["passage"])
        for row in read(data, "fairytaleqa_train")
        if not for_judge(row["story"])
    ]
    medical = [
        (question, row["answer"])
        for row in read(data, "medquad")
        if not is_test(question := row["question"].strip()) and not for_judge(question)
    ]
    facts: list[Pair] = []
    context: list[Pair] = []
    for dialogue in read(data, "kdconv_zh"):
        key, before = dialogue_key(dialogue), ""
        if is_test(key) or for_judge(key):
            continue
        for message in dialogue["messages"]:
            for fact in message.get("facts") or []:
                facts.append((message["text"], " ".join(fact)))
                if before:
                    context.append((before, message["text"] + " " + " ".join(fact)))
            before = message["text"]
    return {"fairytaleqa": fairy, "medquad": medical, "kdconv": facts, "kdconv turns": context}


def _parallel(data: Path, rng: random.Random) -> dict[str, list[Pair]]:
    """Return pairs that say the same in other words or another language."""
    entries = [
        (row["zh"], "; ".join(row["en"])) for row in read(data, "cedict_zh_en") if 2 <= len(row["zh"]) <= 4
    ]
    intents: dict[str, list[str]] = {}
    for row in read(data, "clinc150_train"):
        intents.setdefault(row["intent"], []).append(row["text"])
    talk = []
    for dialogue in list(read(data, "self_dialogue"))[:12_000]:
        turns = dialogue["turns"]
        talk += [(turns[i], " ".join(turns[i + 1 : i + 3])) for i in range(0, len(turns) - 3, 3)]
    countries = [
        (
            f"{row['country']} {row['field']}",
            f"{row['country']} {row['section']} {row['field']} {row['value']}",
        )
        for row in read(data, "factbook_facts")
    ]
    return {
        "tatoeba": [(row["zh"], row["en"]) for row in read(data, "tatoeba_zh_en_train")],
        "cedict": rng.sample(entries, min(len(entries), 30_000)),
        "tldr": [(row["description"], f"{row['about']} {row['command']}") for row in read(data, "tldr_en")],
        "tldr zh": [(row["zh"], row["en"]) for row in read(data, "tldr_parallel_zh_en")],
        "scitldr": [(row["summaries"][0], row["text"]) for row in read(data, "scitldr_train")],
        "qmsum": [(row["query"], row["answer"]) for row in read(data, "qmsum_train")],
        "clinc": [(text, rng.choice(texts)) for texts in intents.values() for text in texts],
        "talk": rng.sample(talk, min(len(talk), 20_000)),
        "factbook": rng.sample(countries, min(len(countries), 10_000)),
    }


def _cloze(texts: list[str], count: int, size: int, rng: random.Random) -> Iterator[Pair]:
    """Yield sentences (half of them thinned out, as questions are) with the text around them."""
    for _ in range(count):
        text = rng.choice(texts)
        if len(text) < 200:
            continue
        begin = rng.randrange(max(1, len(text) - size))
        piece = text[begin : begin + size]
        chinese = size < 900
        sentences = [
            sentence
            for sentence in re.split(r"(?<=[.!?。！？；])\s*", piece)[1:-1]
            if len(sentence) > (6 if chinese else 20)
        ]
        if len(sentences) < 3:
            continue
        i = rng.randrange(len(sentences))
        asked = sentences[i]
        if rng.random() < 0.5:
            if chinese:
                start = rng.randrange(max(1, len(asked) - 6))
                asked = asked[start : start + rng.randrange(4, 12)]
            else:
                asked = " ".join(word for word in asked.split() if rng.random() < 0.6)
        kept = sentences[i : i + 1] if rng.random() < 0.2 else []
        yield asked, " ".join(sentences[:i] + kept + sentences[i + 1 :])
