"""Making the training file: the mixture of all families, executed and written as JSON lines.

``make(folder, tokenizer_folder)`` plays every task, keeps what succeeded, shuffles, and writes
``train.jsonl.zst`` with a small held-out ``valid.jsonl.zst`` beside it. The same seed gives the same
files. On the command line: ``autogpt data make episodes``.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ...llm.tokenizer import ChatTokenizer
from ...tools.registry import Registry, builtins
from . import chat, conversations, files, mixed, stubs, tables, words, workflows
from .expert import Recorder, Task

SAMPLES = 19_000
"""About how many samples the whole mixture gives."""
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


def mixture(seed: int, scale: float) -> Iterator[Task]:
    """Yield the tasks of all families; ``scale`` 1 gives about :data:`SAMPLES`."""
    rng = random.Random(seed)

    def some(count: int) -> int:
        return max(1, round(count * scale))

    def capped(source: Iterator[Task], count: int) -> Iterator[Task]:
        return itertools.islice(source, some(count))

    families: list[Iterator[Task]] = [
        capped(tables.wikisql(rng), 4500),
        capped(tables.wtq(rng), 700),
        tables.templated(rng, some(1700)),
        capped(words.mawps(rng), 1400),
        words.gsm8k(rng, some(500)),
        words.templated(rng, some(700)),
        files.chores(rng, some(2400)),
        workflows.chores(rng, some(2400)),
        capped(mixed.answers_to_file(rng, some(1000)), 1000),
        mixed.chores(rng, some(1800)),
        conversations.sessions(rng, some(600)),
        chat.own(rng, some(500)),
        chat.chatterbot(rng, some(300)),
        stubs.seal_tools(rng, some(700)),
    ]
    return itertools.chain(*families)


def make(
    folder: Path,
    tokenizer_folder: Path,
    *,
    seed: int = 0,
    scale: float = 1.0,
    progress: Callable[[int], None] | None = None,
    registry: Registry | None = None,
) -> Report:
    """Write ``train.jsonl.zst`` and ``valid.jsonl.zst`` into ``folder``; return what was made.

    Tokens are those of ``tokenizer_folder``. ``progress`` hears how many samples there are so far.
    Raises UsageError when a data file is missing (``AUTOGPT_DATA``) or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot make this folder ({error.strerror})") from error
    report = Report()
    recorder = Recorder(ChatTokenizer(tokenizer_folder), registry or builtins(), seed)
    samples: list[dict[str, Any]] = []
    for sample in recorder.samples(mixture(seed, scale)):
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
