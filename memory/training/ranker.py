"""Train the judge of recall: ``python -m autogpt.memory.training.ranker --out ranker.json``.

Real candidates from a real store: the collection of the benchmark, asked by the judge's fifth of the
training questions, and small memories of told facts. Scores are trained so that the right candidate
comes first, and so that they tell right from wrong between questions; questions are seen in stores of
many sizes, and in stores that lack the answer, by leaving candidates out. Then one slope and one
intercept turn scores into log-odds, and the threshold is set where the decision "something relevant
was found" is worth most, to miss what was told counting twice, on questions that the network was not
trained on. A run is shown more than that, because its goal often needs what it only names in passing:
the reach is the score that all but ``MISSED`` of told facts have for such goals, generated for this and
asked of memories of their own. Needs torch and ``AUTOGPT_DATA``.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import settings
from ...errors import UsageError
from ..embedding.static import Floats, StaticEmbedder, read
from ..entry import GLOBAL, Draft, Embedder, Kind
from ..recall.rank import FEATURES, UNRANKED, Ranker, read_ranker
from ..recall.recall import Recaller
from ..store import MemoryStore
from ..vectors.exact import Exact
from .pairs import Asked, collection
from .told import Memory, memories

UNITS = 32
EPOCHS = 10
RATE, DECAY = 0.01, 0.05
QUESTIONS = 128
"""Questions in a step of training."""
SINGLE = 20.0
"""Weight of the loss of single candidates: most of them are wrong and easy."""
BATCH = 512
MISSING = 50
"""Texts that the write gate may refuse."""
TOLD = 300
"""Small memories of told facts."""
PASSING, MISSED = 100, 0.05
"""Memories that the reach is set by, and the share of told facts that may score less."""
HELD_BACK = 5
"""One question in this many is used for calibration instead of training."""
BEST_BM25, BELOW_BEST, WORD_PLACE, VECTOR_PLACE = (
    FEATURES.index(name)
    for name in ("bm25 of the best", "cosine below the best", "word place", "vector place")
)


@dataclass(frozen=True)
class Sample:
    """The candidates of one question: features ``[n, FEATURES]`` and which of them answer it."""

    rows: Floats
    right: NDArray[np.bool_]


@dataclass(frozen=True)
class Plain:
    """An embedder and the exact search over its vectors."""

    embedder: Embedder
    index: Exact


def filled(home: Path, texts: Sequence[str], embedder: Embedder) -> tuple[MemoryStore, dict[int, int]]:
    """Return a store under ``home`` with ``texts`` as documents, and the text's number by entry id.

    A store that has them already is used as it is.
    """
    store = MemoryStore(home)
    for begin in range(store.count(), len(texts), BATCH) if store.count() < len(texts) - MISSING else ():
        part = list(texts[begin : begin + BATCH])
        drafts = [Draft(Kind.DOCUMENT, text, source=f"text#{begin + i}") for i, text in enumerate(part)]
        store.write_many(drafts, embedder.embed(part), embedder.id)
    return store, {entry.id: int(str(entry.source).partition("#")[2]) for entry in store.entries()}


def samples_of(recaller: Recaller, asked: Sequence[Asked], numbers: dict[int, int]) -> list[Sample]:
    """Return the candidates of each question; ``numbers`` gives the text's number by entry id."""
    made = []
    for one in asked:
        entries, rows, _ = recaller.measure(one.question, [GLOBAL])
        right = np.array([numbers[entry.id] in one.answers for entry in entries], np.bool_)
        if len(entries):
            made.append(Sample(rows, right))
    return made


def thinned(sample: Sample, kept: NDArray[np.bool_]) -> Sample:
    """Return the sample as it would be in a store without the other candidates."""
    rows = sample.rows[kept].copy()
    if len(rows):
        rows[:, BEST_BM25] /= max(float(rows[:, BEST_BM25].max()), 1e-6)
        rows[:, BELOW_BEST] -= rows[:, BELOW_BEST].max()
        for column in (WORD_PLACE, VECTOR_PLACE):
            found = rows[:, column] > 1 / (10 + UNRANKED) + 1e-6
            places = np.argsort(np.argsort(-rows[found, column], kind="stable"), kind="stable")
            rows[found, column] = 1 / (10 + places)
    return Sample(rows, sample.right[kept])


def small_stores(samples: Sequence[Sample], rng: np.random.Generator) -> list[Sample]:
    """Return every sample as it is and once in a store of a random smaller size."""
    made = list(samples)
    for sample in samples:
        share = float(np.exp(rng.uniform(np.log(0.03), 0)))
        kept = (rng.random(len(sample.right)) < share) | sample.right
        made.append(thinned(sample, kept))
    return [sample for sample in made if len(sample.right)]


def never_told(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples that have an answer as they would be without it."""
    made = [thinned(sample, ~sample.right) for sample in samples if sample.right.any()]
    return [sample for sample in made if len(sample.right)]


def train(samples: Sequence[Sample], seed: int = 0) -> Ranker:
    """Return the judge before its calibration.

    Three losses over one score: the right candidate before the others of its question, each candidate right
    or wrong by itself, and the best one of a question told of something or nothing. The last two make
    scores comparable between questions, which a threshold needs.
    """
    import torch

    torch.manual_seed(seed)
    everything = np.concatenate([sample.rows for sample in samples])
    mean, deviation = everything.mean(axis=0), everything.std(axis=0) + 1e-6
    longest = max(len(sample.right) for sample in samples)
    rows = torch.zeros(len(samples), longest, len(FEATURES))
    right = torch.zeros(len(samples), longest, dtype=torch.bool)
    there = torch.zeros(len(samples), longest, dtype=torch.bool)
    for i, sample in enumerate(samples):
        size = len(sample.right)
        rows[i, :size] = torch.from_numpy(np.clip((sample.rows - mean) / deviation, -6, 6))
        right[i, :size], there[i, :size] = torch.from_numpy(sample.right), True
    first, last = torch.nn.Linear(len(FEATURES), UNITS), torch.nn.Linear(UNITS, 1, bias=False)
    level = torch.nn.Parameter(torch.tensor(-2.0))
    parts = [{"params": [*first.parameters(), *last.parameters()], "weight_decay": DECAY},
             {"params": [level], "weight_decay": 0.0}]  # fmt: skip
    optimiser = torch.optim.AdamW(parts, lr=RATE)
    steps = EPOCHS * max(1, len(samples) // QUESTIONS)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.03, steps)
    unsure = torch.nn.functional.binary_cross_entropy_with_logits
    for _ in range(steps):
        chosen = torch.randint(len(samples), (QUESTIONS,))
        answers, present = right[chosen], there[chosen]
        scores = last(torch.tanh(first(rows[chosen])))[..., 0].masked_fill(~present, -1e9)
        told = answers.any(1)
        hit = torch.logsumexp(scores.masked_fill(~answers, -1e9), 1)
        order = (torch.logsumexp(scores, 1) - hit)[told].sum() / told.sum().clamp(min=1)
        single = unsure(scores[present] + level, answers[present].float())
        found = unsure(scores.max(1).values + level, told.float())
        loss = order + SINGLE * single + found
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return Ranker(
        mean.astype(np.float32), deviation.astype(np.float32),
        first.weight.detach().numpy().T.copy(), first.bias.detach().numpy(), last.weight.detach().numpy()[0],
        scale=1.0, bias=0.0, threshold=0.0, reach=0.0,
    )  # fmt: skip


def calibrate(judge: Ranker, samples: Sequence[Sample]) -> tuple[Ranker, dict[str, float]]:
    """Return the judge with log-odds and threshold, and how often the decision is right with it."""
    tops: list[tuple[float, bool]] = []
    for sample in samples:
        for kept in (np.ones(len(sample.right), np.bool_), ~sample.right):
            if kept.any():
                seen = thinned(sample, kept)
                scores = judge.scores(seen.rows)
                tops.append((float(scores.max()), bool(seen.right[scores.argmax()])))
    scores, answers = np.array([top for top, _ in tops]), np.array([right for _, right in tops], np.float64)
    slope, intercept = _logistic(scores, answers)
    odds = slope * scores + intercept
    least, _ = max(
        ((float(at), _worth(odds, answers, at)) for at in np.quantile(odds, np.linspace(0.02, 0.98, 97))),
        key=lambda pair: pair[1],
    )
    fitted = replace(judge, scale=slope, bias=intercept, threshold=least)
    return fitted, decision(fitted, samples)


def decision(judge: Ranker, samples: Sequence[Sample]) -> dict[str, float]:
    """Return precision and recall of "something relevant was found" on told and never-told questions."""
    shown_told = shown_never = told = never = 0
    for sample in samples:
        if sample.right.any():
            told += 1
            shown_told += bool((judge.scores(sample.rows) >= judge.threshold).any())
        others = thinned(sample, ~sample.right)
        never += 1
        shown_never += bool(len(others.right) and (judge.scores(others.rows) >= judge.threshold).any())
    return {
        "told": told,
        "never told": never,
        "precision": shown_told / max(1, shown_told + shown_never),
        "recall": shown_told / max(1, told),
        "silent when never told": 1 - shown_never / max(1, never),
    }


def _worth(odds: Floats, answers: NDArray[np.float64], at: float) -> float:
    """Return how good a threshold is; to miss what was told costs twice what a needless line does."""
    said = odds >= at
    return float(2 * said[answers > 0].mean() + (~said[answers == 0]).mean())


def _logistic(scores: NDArray[Any], answers: NDArray[np.float64]) -> tuple[float, float]:
    """Return slope and intercept of the log-odds, by Newton's method."""
    design = np.stack([scores, np.ones_like(scores)], axis=1)
    weights = np.zeros(2)
    for _ in range(30):
        chance = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        curve = (design * (chance * (1 - chance))[:, None]).T @ design + 1e-3 * np.eye(2)
        weights += np.linalg.solve(curve, design.T @ (answers - chance))
    return float(weights[0]), float(weights[1])


def gather(home: Path, data: Path, embedder: StaticEmbedder, most: int, seed: int = 0) -> list[Sample]:
    """Return the samples of the collection (``most`` questions a source) and of told facts."""
    rng = random.Random(seed)
    everything = collection(data)
    made: list[Sample] = []
    store, numbers = filled(home / "collection", everything.texts, embedder)
    recaller = plain_recaller(store, embedder)
    for asked in everything.tune.values():
        made += samples_of(recaller, rng.sample(asked, min(most, len(asked))), numbers)
    store.close()
    return made + told(home, embedder, memories(TOLD, seed))


def told(home: Path, embedder: StaticEmbedder, made: Sequence[Memory]) -> list[Sample]:
    """Return the samples of small memories, each in a store of its own below ``home``."""
    samples: list[Sample] = []
    for memory in made:
        with tempfile.TemporaryDirectory(dir=home) as place:
            store, numbers = filled(Path(place), memory.facts, embedder)
            asked = [Asked(text, frozenset(() if at is None else (at,))) for text, at in memory.questions]
            samples += samples_of(plain_recaller(store, embedder), asked, numbers)
            store.close()
    return samples


def with_reach(judge: Ranker, passing: Sequence[Sample]) -> tuple[Ranker, dict[str, float]]:
    """Return the judge with its reach, and how often goals that name nothing told are left alone by it."""
    right = [judge.scores(sample.rows)[sample.right].max() for sample in passing if sample.right.any()]
    reach = float(np.quantile(right, MISSED))
    never = [sample for sample in passing if not sample.right.any()]
    silent = float(np.mean([judge.scores(sample.rows).max() < reach for sample in never]))
    return replace(judge, reach=reach), {"reach": reach, "silent by reach": silent}


def plain_recaller(store: MemoryStore, embedder: StaticEmbedder) -> Recaller:
    """Return a recaller with exact search; its judge is not used yet."""
    zero = np.zeros(1, np.float32)
    blank = Ranker(zero, zero, zero, zero, zero, scale=1.0, bias=0.0, threshold=0.0, reach=0.0)
    plain = Plain(embedder, Exact(store, embedder.id, embedder.dimension))
    return Recaller(store, lambda: plain, embedder.words, blank)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, calibrate and write the judge; print how often it decides rightly."""
    parser = argparse.ArgumentParser(description="Train the judge of recall.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--words", type=Path, help="a word table other than the shipped one")
    parser.add_argument("--stores", type=Path, help="keep the filled stores in this folder")
    parser.add_argument("--questions", type=int, default=1500, help="questions a source")
    args = parser.parse_args(arguments)
    data = settings.load().data
    if data is None:
        raise UsageError("AUTOGPT_DATA must name the folder with the data")
    with tempfile.TemporaryDirectory() as place:
        embedder = StaticEmbedder(read(args.words) if args.words else None)
        samples = gather(args.stores or Path(place), data, embedder, args.questions)
        passing = told(Path(place), embedder, memories(PASSING, seed=1, passing=True))
    random.Random(1).shuffle(samples)
    back = len(samples) // HELD_BACK
    seen = small_stores(samples[back:], np.random.default_rng(0))
    judge = train([*seen, *never_told(seen)])
    fitted, found = calibrate(judge, small_stores(samples[:back], np.random.default_rng(1)))
    fitted, reached = with_reach(fitted, passing)
    found |= reached
    fitted.save(args.out)
    read_ranker(args.out)
    print(", ".join(f"{name} {value:.3g}" for name, value in found.items()))


if __name__ == "__main__":
    main()
