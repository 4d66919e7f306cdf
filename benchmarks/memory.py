"""What memory finds, when it stays silent, and how fast it is.

    python benchmarks/memory.py [--part retrieval decision speed] [--questions N] [--cache DIR] [--json FILE]

Retrieval: FairytaleQA passages, MedQuAD answers and KdConv facts (Chinese), all in one store, asked by
test questions that nothing was trained on (see ``memory/training/pairs.py``): recall@1, @5 and the
mean reciprocal rank of BM25, of the vectors, of both fused by reciprocal rank, and of recall as it is
shipped. A question is found when any text that the data name as its answer is; MedQuAD's generic
answers and KdConv's facts of equal wording make that a strict count. Decision: of questions whose answer
is in the store ("told") and the same questions with the answers taken out ("never told"), how often
something is recalled; also for small memories of generated facts. Speed: a store of generated entries,
with exact vectors and with Chroma; times are beyond the embedding. Needs ``AUTOGPT_DATA`` for the first two.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autogpt import settings
from autogpt.memory.embedding import embed
from autogpt.memory.entry import GLOBAL, Draft, Embedder, Kind
from autogpt.memory.recall.rank import shipped_ranker
from autogpt.memory.recall.recall import Recaller
from autogpt.memory.store import MemoryStore
from autogpt.memory.training.pairs import Asked, collection
from autogpt.memory.training.ranker import Plain, Sample, decision, filled, samples_of
from autogpt.memory.training.told import memories
from autogpt.memory.vectors.chroma import open_index
from autogpt.memory.vectors.exact import Exact

DEEP = 100
FUSION = 60
METHODS = ("bm25", "vectors", "reciprocal rank", "recall")
Clock = Callable[[], float]
"""Seconds; only differences mean something."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", nargs="+", choices=("retrieval", "decision", "speed"),
                        default=["retrieval", "decision", "speed"])  # fmt: skip
    parser.add_argument("--questions", type=int, default=0, help="so many of each source at most; 0: all")
    parser.add_argument("--embedder", default=embed.STATIC, help="as the setting of that name")
    parser.add_argument("--cache", type=Path, help="keep the filled store here, for the next time")
    parser.add_argument("--processor-time", action="store_true",
                        help="speed in this process's own processor time, for a busy machine")  # fmt: skip
    parser.add_argument("--entries", type=int, default=100_000, help="entries of the speed part")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    configured = settings.load()
    embedder = embed.load(args.embedder, configured.home)
    if embedder is None:
        parser.error("--embedder none has no vectors to measure")
    figures: dict[str, Any] = {"embedder": embedder.id, "dimension": embedder.dimension}
    with tempfile.TemporaryDirectory() as place:
        if set(args.part) & {"retrieval", "decision"}:
            if configured.data is None:
                parser.error("AUTOGPT_DATA must name the folder with the data")
            home = (args.cache or Path(place)) / f"collection-{args.embedder.replace('/', '_')}"
            figures |= quality(configured.data, home, embedder, args.questions, args.part)
        if "speed" in args.part:
            clock = time.process_time if args.processor_time else time.perf_counter
            figures["speed"] = speed(Path(place) / "speed", embedder, args.entries, clock)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    return 0


def quality(data: Path, home: Path, embedder: Embedder, most: int, parts: Sequence[str]) -> dict[str, Any]:
    """Measure retrieval and the decision; print as it goes."""
    everything = collection(data)
    begun = time.perf_counter()
    store, numbers = filled(home, everything.texts, embedder)
    print(
        f"{len(numbers)} of {len(everything.texts)} texts in one store, {time.perf_counter() - begun:.0f} s"
    )
    index = Exact(store, embedder.id, embedder.dimension)
    pair = Plain(embedder, index)
    recaller = Recaller(store, lambda: pair)
    figures: dict[str, Any] = {"retrieval": {}, "decision": {}}
    for source, asked in everything.test.items():
        chosen = asked if not most else random.Random(0).sample(asked, min(most, len(asked)))
        if "retrieval" in parts:
            figures["retrieval"][source] = retrieval(source, chosen, recaller, index, embedder, numbers)
        if "decision" in parts:
            report = decision(shipped_ranker(), samples_of(recaller, chosen, numbers))
            figures["decision"][source] = _said(source, report)
    store.close()
    if "decision" in parts:
        figures["decision"]["told facts"] = _said("told facts", told_facts(home.parent, embedder))
    return figures


def retrieval(
    source: str,
    asked: Sequence[Asked],
    recaller: Recaller,
    index: Exact,
    embedder: Embedder,
    numbers: dict[int, int],
) -> dict[str, dict[str, float]]:
    """Return the figures of each method on the questions of one source."""
    ranks: dict[str, list[int]] = {method: [] for method in METHODS}
    for one in asked:
        words = [entry for entry, _ in recaller.store.search_words(one.question, DEEP, [GLOBAL])]
        near = [
            entry for entry, _ in index.search(embedder.embed([one.question], query=True)[0], DEEP, [GLOBAL])
        ]
        order = {
            "bm25": words,
            "vectors": near,
            "reciprocal rank": _fused(words, near),
            "recall": [hit.entry.id for hit in recaller.search(one.question, [GLOBAL])],
        }
        for method, found in order.items():
            places = [i for i, entry in enumerate(found[:DEEP]) if numbers[entry] in one.answers]
            ranks[method].append(places[0] if places else DEEP)
    print(f"{source} ({len(asked)} questions)")
    figures = {}
    for method in METHODS:
        at = np.array(ranks[method])
        figures[method] = {
            "recall@1": float((at < 1).mean()),
            "recall@5": float((at < 5).mean()),
            "mrr": float(np.where(at < DEEP, 1 / (at + 1), 0).mean()),
        }
        print(
            "  "
            + f"{method:16}"
            + "  ".join(f"{name} {value:.3f}" for name, value in figures[method].items())
        )
    return figures


def _fused(*lists: Sequence[int]) -> list[int]:
    """Return the entries by the sum of reciprocal ranks."""
    scores: dict[int, float] = {}
    for found in lists:
        for place, entry in enumerate(found):
            scores[entry] = scores.get(entry, 0.0) + 1 / (FUSION + place)
    return sorted(scores, key=lambda entry: -scores[entry])


def told_facts(place: Path, embedder: Embedder, count: int = 20, seed: int = 1_000) -> dict[str, float]:
    """Return the decision's figures on small memories that the judge has not seen."""
    samples: list[Sample] = []
    silent: list[bool] = []
    with tempfile.TemporaryDirectory(dir=place if place.is_dir() else None) as folder:
        for i, memory in enumerate(memories(count, seed)):
            store, numbers = filled(Path(folder) / str(i), memory.facts, embedder)
            pair = Plain(embedder, Exact(store, embedder.id, embedder.dimension))
            recaller = Recaller(store, lambda pair=pair: pair)
            told = [Asked(text, frozenset({at})) for text, at in memory.questions if at is not None]
            samples += samples_of(recaller, told, numbers)
            never = [text for text, at in memory.questions if at is None]
            silent += [not recaller.recall(text, [GLOBAL], 10_000).hits for text in never]
            store.close()
    return decision(shipped_ranker(), samples) | {
        "asked but never told": len(silent),
        "silent then": float(np.mean(silent)),
    }


def _said(source: str, report: dict[str, float]) -> dict[str, float]:
    print(f"{source}: " + ", ".join(f"{name} {value:.3g}" for name, value in report.items()))
    return report


def speed(home: Path, embedder: Embedder, entries: int, clock: Clock) -> dict[str, float]:
    """Measure a store of ``entries`` generated texts; print and return seconds and milliseconds."""
    rng = np.random.default_rng(0)
    vocabulary = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in _ENDINGS]
    shares = 1 / (np.arange(len(vocabulary)) + 3)
    shares /= shares.sum()

    def texts(count: int) -> list[str]:
        words = rng.choice(len(vocabulary), (count, 60), p=shares)
        return [" ".join(vocabulary[word] for word in row) for row in words]

    def add(store: MemoryStore, count: int) -> float:
        taken = 0.0
        for begin in range(0, count, 500):
            size = min(500, count - begin)
            vectors = rng.normal(size=(size, embedder.dimension)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            drafts = [
                Draft(Kind.DOCUMENT, text, source=f"d#{begin + i}") for i, text in enumerate(texts(size))
            ]
            taken += _seconds(clock, lambda d=drafts, v=vectors: store.write_many(d, v, embedder.id))
        return taken

    added = min(10_000, entries // 2)
    store = MemoryStore(home)
    add(store, entries - added)
    figures = {f"adding {added} documents, s": add(store, added)}
    store.close()
    figures |= _queries(home, embedder, texts(300), clock)
    for name, value in figures.items():
        print(f"{name}: {value:.2f}")
    return figures


def _queries(home: Path, embedder: Embedder, asked: list[str], clock: Clock) -> dict[str, float]:
    """Open the store anew; time the start, queries of eight words, and the rebuilding of Chroma's index."""
    begun = clock()
    store = MemoryStore(home)
    index = open_index(store, embedder)
    pair = Plain(embedder, index.exact)
    recaller = Recaller(store, lambda: pair)
    questions = [" ".join(text.split()[:8]) for text in asked]
    recaller.recall(questions[0], [GLOBAL], 1000)
    figures = {"start and first query, s": clock() - begun}
    times = [
        _seconds(clock, lambda q=question: recaller.recall(q, [GLOBAL], 1000))
        - _seconds(clock, lambda q=question: embedder.embed([q], query=True))
        for question in questions
    ]
    figures["query, median ms"] = float(np.median(times)) * 1000
    figures["query, p95 ms"] = float(np.quantile(times, 0.95)) * 1000
    index.start()
    begun = time.perf_counter()
    if index.wait(600):
        figures["building Chroma's index, s"] = time.perf_counter() - begun
    index.close()
    store.close()
    return figures


def _seconds(clock: Clock, work: Callable[[], Any]) -> float:
    begun = clock()
    work()
    return clock() - begun


_ENDINGS = [
    a + b for a in ("", "l", "n", "r", "st", "nd", "rk") for b in ("a", "em", "in", "or", "us", "ish")
]


if __name__ == "__main__":
    sys.exit(main())
