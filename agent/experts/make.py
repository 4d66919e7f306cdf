"""Making the training file: the mixture of all families, executed and written as JSON lines.

``make(folder, tokenizer_folder)`` plays every task, keeps what succeeded, shuffles, and writes
``train.jsonl.zst`` and a small held-out ``valid.jsonl.zst``. The same seed gives the same
files. Recipes say how many tasks of each family there are: ``whole`` to train `small` from its base,
``medium`` and ``large`` for the models of those names, with more tools that are new and less of all else;
``update`` to teach an adapter what it lacks, with a good share of the rest so that nothing is
forgotten, ``recall`` the same with two fifths of memory, ``replay`` for the sample of ordinary work that
ships for that purpose (``llm/replay``), without what may only be passed on under its own licence. On the
command line: ``autogpt data make episodes``.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ...llm.text.tokenizer import ChatTokenizer
from ...text import Prompting
from ...tools.registry import Registry, builtins
from . import (
    conversations,
    files,
    mixed,
    sql,
    stubs,
    tables,
    words,
    workflows,
)
from . import (
    remembering as memory,
)
from . import (
    small_talk as chat,
)
from .expert import Recorder, Task, unplanned
from .public import chinese, instructions, services

HELD_OUT = 200
"""Samples put aside for the evaluation loss."""


@dataclass
class Report:
    """What was made: samples and tokens per kind, and why tasks were dropped."""

    samples: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    learned: Counter[str] = field(default_factory=Counter)
    """Tokens that carry loss."""
    refused: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """Return the report as text lines."""
        rows = [
            f"{kind}: {count} samples, {self.tokens[kind] / count:.0f} tokens after the prefix, "
            f"{self.learned[kind] / count:.1f} learned"
            for kind, count in sorted(self.samples.items())
        ]
        return [*rows, *(f"dropped {count}: {why}" for why, count in self.refused.most_common(12))]


WITH_MEMORY = 4
"""Of the episodes that need no memory, one in this many has it nevertheless, as users' runs do: its calls are
in the prompt, and what it recalled has nothing to do with the goal."""
UNPLANNED = 12
"""One episode in this many is played without a plan, so that ``--no-plan`` is a format the model knows."""

Family = Callable[[random.Random, int], Iterator[Task]]
"""Yields that number of tasks, or fewer where the data run out."""

FAMILIES: dict[str, Family] = {
    "wikisql": lambda rng, number: tables.wikisql(rng),
    "wtq": lambda rng, number: tables.wtq(rng),
    "wtq in SQL": lambda rng, number: sql.wtq(rng),
    "sheets in SQL": sql.sheets,
    "tables": tables.templated,
    "wikisql templated": lambda rng, number: tables.templated(rng, number, ["wikisql_train"]),
    "mawps": lambda rng, number: words.mawps(rng),
    "gsm8k": words.gsm8k,
    "gsm8k chained": words.chained,
    "words": words.templated,
    "files": files.chores,
    "exact": files.exact_chores,
    "workflows": workflows.chores,
    "answers to files": mixed.answers_to_file,
    "mixed": mixed.chores,
    "conversations": conversations.sessions,
    "chatty conversations": conversations.chatty,
    "chat": chat.own,
    "talk": chat.talk,
    "chatterbot": chat.chatterbot,
    "seal-tools": lambda rng, number: stubs.seal_tools(rng, number, strangers=3),
    "requests": stubs.requests,
    "services": services.requests,
    "services asked first": services.asked_first,
    "none fits": services.none_fits,
    "instructions": instructions.instructions,
    "facts": instructions.facts,
    "facts beside tools": lambda rng, number: stubs.beside(instructions.facts(rng, number), rng),
    "instructions beside tools": lambda rng, number: stubs.beside(
        instructions.instructions(rng, number), rng
    ),
    "Chinese talk beside tools": lambda rng, number: stubs.beside(chinese.talk(rng, number), rng),
    "Chinese talk": chinese.talk,
    "Chinese tables": chinese.tables,
    "chat beside tools": lambda rng, number: stubs.beside(chat.own(rng, number), rng),
    "talk beside tools": lambda rng, number: stubs.beside(chat.talk(rng, number), rng),
    "chatterbot beside tools": lambda rng, number: stubs.beside(chat.chatterbot(rng, number), rng),
    "files beside tools": lambda rng, number: stubs.beside(files.chores(rng, number), rng),
    "tables beside tools": lambda rng, number: stubs.beside(tables.templated(rng, number), rng),
    "words beside tools": lambda rng, number: stubs.beside(words.templated(rng, number), rng),
    "memory": memory.chores,
    "memory alone": lambda rng, number: (t for t in memory.chores(rng, 2 * number) if t.kind == "memory"),
}

RECIPES: dict[str, Mapping[str, int]] = {
    "whole": {
        "wikisql": 4500, "wtq": 700, "tables": 1700, "mawps": 1400, "gsm8k": 500, "gsm8k chained": 500,
        "words": 700, "files": 2400, "exact": 1400, "workflows": 2400, "answers to files": 1000,
        "mixed": 1800, "conversations": 600, "chatty conversations": 200, "chat": 400, "talk": 200,
        "chatterbot": 200, "seal-tools": 800, "chat beside tools": 400, "talk beside tools": 500,
        "chatterbot beside tools": 300, "files beside tools": 150, "tables beside tools": 150,
        "words beside tools": 150, "memory": 2400,
    },
    "medium": {
        "wikisql": 600, "wtq in SQL": 650, "sheets in SQL": 600, "tables": 200, "mawps": 450, "gsm8k": 200,
        "gsm8k chained": 100, "words": 80, "files": 340, "exact": 160, "workflows": 330,
        "answers to files": 180, "mixed": 260, "conversations": 170, "chatty conversations": 60, "chat": 50,
        "talk": 30, "chatterbot": 20, "seal-tools": 450, "requests": 350, "services": 550,
        "services asked first": 160, "none fits": 70, "facts": 60, "instructions": 110, "Chinese talk": 70,
        "Chinese tables": 140, "facts beside tools": 110, "instructions beside tools": 130,
        "Chinese talk beside tools": 110, "chat beside tools": 90, "talk beside tools": 110,
        "chatterbot beside tools": 40, "files beside tools": 40, "tables beside tools": 40,
        "words beside tools": 40, "memory": 170,
    },
    "large": {
        "wikisql": 60, "wtq in SQL": 90, "sheets in SQL": 60, "tables": 20, "mawps": 60, "gsm8k": 40,
        "gsm8k chained": 12, "words": 8, "files": 36, "exact": 14, "workflows": 36, "answers to files": 14,
        "mixed": 26, "conversations": 28, "chatty conversations": 10, "chat": 6, "talk": 4, "chatterbot": 3,
        "seal-tools": 70, "requests": 30, "services": 80, "services asked first": 22, "none fits": 10,
        "facts": 8, "instructions": 10, "Chinese talk": 8, "Chinese tables": 20, "facts beside tools": 20,
        "instructions beside tools": 22, "Chinese talk beside tools": 18, "chat beside tools": 12,
        "talk beside tools": 14, "chatterbot beside tools": 5, "files beside tools": 5,
        "tables beside tools": 5, "words beside tools": 5, "memory": 26,
    },
    "update": {
        "wikisql": 420, "wtq": 60, "tables": 180, "mawps": 170, "gsm8k": 40, "gsm8k chained": 60,
        "words": 110, "files": 260, "exact": 120, "workflows": 270, "answers to files": 100, "mixed": 190,
        "conversations": 110, "chatty conversations": 60, "chat": 60, "talk": 40, "chatterbot": 30,
        "seal-tools": 100, "chat beside tools": 80, "talk beside tools": 90, "chatterbot beside tools": 50,
        "files beside tools": 25, "tables beside tools": 25, "words beside tools": 25, "memory": 420,
    },
    "recall": {
        "wikisql": 300, "wtq": 40, "tables": 130, "mawps": 150, "gsm8k": 30, "gsm8k chained": 40,
        "words": 90, "files": 190, "exact": 90, "workflows": 230, "answers to files": 80, "mixed": 130,
        "conversations": 90, "chatty conversations": 40, "chat": 50, "talk": 30, "chatterbot": 20,
        "seal-tools": 70, "chat beside tools": 60, "talk beside tools": 60, "chatterbot beside tools": 40,
        "files beside tools": 20, "tables beside tools": 20, "words beside tools": 20, "memory": 1300,
    },
    "replay": {
        "wikisql": 900, "wikisql templated": 330, "mawps": 260, "gsm8k": 90, "gsm8k chained": 90,
        "words": 120, "files": 440, "exact": 260, "workflows": 440, "answers to files": 180, "mixed": 330,
        "conversations": 110, "chatty conversations": 40, "chat": 75, "talk": 40, "chatterbot": 40,
        "seal-tools": 150, "chat beside tools": 75, "talk beside tools": 90, "chatterbot beside tools": 55,
        "files beside tools": 30, "words beside tools": 30, "memory alone": 330,
    },
}  # fmt: skip
"""Tasks per family at scale 1."""
TYPED = ("medium", "large")
"""Recipes whose episodes show tools by typed signatures; the others are for models that know names only."""


def size(recipe: str) -> int:
    """Return about how many tasks a recipe gives at scale 1."""
    return sum(RECIPES[recipe].values())


def mixture(seed: int, scale: float, recipe: str = "whole", without: Collection[str] = ()) -> Iterator[Task]:
    """Yield the tasks of all families of a recipe, ``scale`` times as many as it says.

    ``without``: texts of goals that must not be trained on, such as those of a suite; case, white space
    and marks at their ends do not count.
    """
    rng, aside = random.Random(seed), random.Random(seed + 1)
    barred = {plain(text) for text in without}
    for family, count in RECIPES[recipe].items():
        wanted = max(1, round(count * scale))
        for task in itertools.islice(FAMILIES[family](rng, wanted), wanted):
            texts = [task.goal.goal, *(text for text, _ in task.turns)]
            if barred.isdisjoint(map(plain, texts)):
                if task.memory is None and aside.randrange(WITH_MEMORY) == 0:
                    task = memory.beside(task, aside)
                task = sql.in_sql(task) if recipe in TYPED else task
                yield unplanned(task) if aside.randrange(UNPLANNED) == 0 else task


def plain(text: str) -> str:
    """Return a text without case, white space at will, and marks at its ends."""
    return re.sub(r"\s+", " ", text.casefold()).strip(" .!?,;:'\"")


def make(
    folder: Path,
    tokenizer_folder: Path,
    *,
    seed: int = 0,
    scale: float = 1.0,
    recipe: str = "whole",
    without: Collection[str] = (),
    progress: Callable[[int], None] | None = None,
    registry: Registry | None = None,
) -> Report:
    """Write ``train.jsonl.zst`` and ``valid.jsonl.zst`` into ``folder``; return what was made.

    Tokens are those of ``tokenizer_folder``; for ``recipe`` and ``without`` see :func:`mixture`.
    ``progress`` is called with the number of samples so far.
    Raises UsageError when a data file is missing (``AUTOGPT_DATA``) or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot make this folder ({error.strerror})") from error
    report = Report()
    prompting: Prompting = "typed" if recipe in TYPED else "names"
    recorder = Recorder(ChatTokenizer(tokenizer_folder), registry or builtins(), seed, prompting)
    samples: list[dict[str, Any]] = []
    for sample in recorder.samples(mixture(seed, scale, recipe, without)):
        samples.append(sample)
        kind = sample["kind"]
        report.samples[kind] += 1
        report.tokens[kind] += len(sample["ids"]) - sample["prefix"]
        report.learned[kind] += sum(sample["mask"])
        if progress:
            progress(len(samples))
    report.refused = recorder.refused
    random.Random(seed + 1).shuffle(samples)
    held = min(HELD_OUT, len(samples) // 10)
    _write(folder / "valid.jsonl.zst", samples[:held])
    _write(folder / "train.jsonl.zst", samples[held:])
    return report


def _write(path: Path, samples: list[dict[str, Any]]) -> None:
    import zstandard

    text = "".join(json.dumps(sample, separators=(",", ":")) + "\n" for sample in samples)
    path.write_bytes(zstandard.ZstdCompressor(level=9).compress(text.encode()))
