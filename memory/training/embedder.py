"""Train the word table that ships: ``python -m autogpt.memory.training.embedder --out words.npz``.

Rows begin as what all-MiniLM-L6-v2 says of each word, brought to the table's width by principal components
(Chinese ones as the mean of their dictionary entry's words), scaled by rarity. Then question and
answer are drawn together and apart from the others of the batch (InfoNCE), with texts that BM25
mistakes for the answer among them in the second phase, so that the vectors learn what words alone do
not tell. The numbers are packed into 8 bit. Needs torch, ``AUTOGPT_DATA`` and the fetched ``minilm``.
The shipped table took 2,000 steps and then 380 with such texts, about fifteen minutes of one core.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import settings
from ...errors import UsageError
from .. import tables
from ..embedding.embed import MINILM, load
from ..embedding.static import PIECES, Floats, Words, is_chinese, words_of
from .pairs import Pair, read, teaching

ENGLISH, CHARACTERS, CHINESE_PAIRS = 17_000, 4_000, 6_000
WEIGHTS = {"fairytaleqa": 4.0, "medquad": 4.0, "kdconv": 3.0, "tatoeba": 0.5, "cedict": 0.3, "tldr": 0.5,
           "talk": 0.5, "clinc": 0.5, "classics": 0.7}  # fmt: skip
HARD_SHARE = {"fairytaleqa": 0.27, "medquad": 0.25, "kdconv": 0.16}
"""Shares of the batches of the second phase; the rest is divided by size."""

Bag = tuple[NDArray[np.int64], Floats]


@dataclass(frozen=True)
class Phase:
    """One stretch of training."""

    steps: int
    rate: float
    temperature: float
    batch: int
    drop: float
    """Share of words left out of a text, so that no single word carries a match."""
    hard: bool


PHASES = (Phase(2000, 2e-2, 0.07, 384, 0.0, False), Phase(380, 1e-2, 0.06, 256, 0.1, True))


def count_words(pairs: dict[str, list[Pair]]) -> tuple[Counter[str], int]:
    """Return in how many texts each word occurs, and how many texts there are."""
    texts = {text for name, some in pairs.items() if name != "cedict" for pair in some for text in pair}
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(set(words_of(text)))
    return counts, len(texts)


def choose(counts: Counter[str]) -> list[str]:
    """Return the words of the table: the most frequent English ones, Chinese characters and pairs."""
    common = [word for word, count in counts.most_common() if count >= 3]
    english = [word for word in common if not is_chinese(word)][:ENGLISH]
    characters = [word for word in common if is_chinese(word) and len(word) == 1][:CHARACTERS]
    return (
        english
        + characters
        + [word for word in common if is_chinese(word) and len(word) == 2][:CHINESE_PAIRS]
    )


def first_rows(words: Sequence[str], data: Path, home: Path, dimension: int) -> Floats:
    """Return the rows ``[words + PIECES, dimension]`` before training, of length one or shorter."""
    teacher = load(MINILM, home)
    if teacher is None:
        raise UsageError("the embedder minilm is needed to begin from")
    english = [word for word in words if not is_chinese(word)]
    known = teacher.embed(english)
    known = known - known.mean(axis=0)
    known = known @ np.linalg.svd(known, full_matrices=False)[2][:dimension].T
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    place = {word: row for row, word in enumerate(words)}
    rows = np.random.default_rng(0).normal(0, 0.3 / dimension**0.5, (len(words) + PIECES, dimension))
    rows[: len(english)] = known
    meant: dict[str, list[Any]] = {}
    for entry in read(data, "cedict_zh_en"):
        row = place.get(entry["zh"])
        glosses = [place[word] for text in entry["en"][:3] for word in words_of(text) if word in place]
        glosses = [gloss for gloss in glosses[:8] if gloss < len(english)]
        if row is not None and glosses:
            meant.setdefault(entry["zh"], []).append(known[glosses].mean(axis=0))
    for word, vectors in meant.items():
        rows[place[word]] = np.mean(vectors, axis=0)
    return np.asarray(rows, np.float32)


def mistaken(pairs: Sequence[Pair], most: int = 10) -> dict[str, list[str]]:
    """Return for each question the texts that BM25 puts before others though they do not answer it."""
    texts = list(dict.fromkeys(text for _, text in pairs))
    right: dict[str, set[str]] = {}
    for question, text in pairs:
        right.setdefault(question, set()).add(text)
    database = sqlite3.connect(":memory:")
    database.execute(
        "CREATE VIRTUAL TABLE w USING fts5(words, tokenize='porter unicode61 remove_diacritics 2')"
    )
    database.executemany("INSERT INTO w(rowid, words) VALUES (?, ?)",
                         [(i, tables.index_words(text)) for i, text in enumerate(texts)])  # fmt: skip
    found: dict[str, list[str]] = {}
    for question, answers in right.items():
        if expression := tables.match_expression(tables.query_words(question)):
            rows = database.execute(
                "SELECT rowid FROM w WHERE w MATCH ? ORDER BY rank LIMIT ?", (expression, most + 4)
            )
            found[question] = [texts[row] for (row,) in rows if texts[row] not in answers][:most]
    database.close()
    return found


class Trainer:
    """Holds the rows while they learn."""

    def __init__(self, words: Words, rows: Floats, seed: int = 0) -> None:
        import torch

        torch.manual_seed(seed)
        self._torch: Any = torch
        self._words, self._rng, self._mask = words, random.Random(seed), np.random.default_rng(seed)
        self._bags: dict[str, Bag] = {}
        self.rows: Any = torch.nn.Parameter(torch.tensor(rows))
        self.turn: Any = torch.nn.Parameter(torch.eye(rows.shape[1]))

    def run(self, phase: Phase, pairs: dict[str, list[Pair]], hard: dict[str, dict[str, list[str]]],
            say: Callable[[str], None]) -> None:  # fmt: skip
        """Train through one phase."""
        torch = self._torch
        names = list(pairs)
        shares = _shares(pairs, phase.hard)
        optimiser = torch.optim.Adam(
            [{"params": [self.rows], "lr": phase.rate}, {"params": [self.turn], "lr": phase.rate / 10}],
            betas=(0.9, 0.98),
        )
        base = [group["lr"] for group in optimiser.param_groups]
        for step in range(phase.steps):
            for group, rate in zip(optimiser.param_groups, base, strict=True):
                group["lr"] = rate * (min(1.0, (step + 1) / 50) * (1 - step / phase.steps) + 0.01)
            name = self._rng.choices(names, shares)[0]
            loss = self._loss(phase, pairs[name], hard.get(name, {}) if phase.hard else {})
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if step % 100 == 0:
                say(f"step {step}: {name}, loss {loss.item():.2f}")

    def _loss(self, phase: Phase, pairs: list[Pair], hard: dict[str, list[str]]) -> Any:
        torch = self._torch
        seen: set[str] = set()
        batch: list[Pair] = []
        for pair in self._rng.sample(pairs, min(phase.batch, len(pairs))):
            if not seen & set(pair):
                seen |= set(pair)
                batch.append(pair)
        answers = [answer for _, answer in batch]
        for question, _ in batch:
            if others := [text for text in hard.get(question, ()) if text not in seen]:
                answers.append(self._rng.choice(others))
                seen.add(answers[-1])
        asked = self._vectors([question for question, _ in batch], phase.drop) @ self.turn
        asked = torch.nn.functional.normalize(asked, dim=1)
        given = torch.nn.functional.normalize(self._vectors(answers, phase.drop), dim=1)
        near = asked @ given.T / phase.temperature
        right = torch.arange(len(batch))
        back = torch.nn.functional.cross_entropy(near[:, : len(batch)].T, right)
        return torch.nn.functional.cross_entropy(near, right) + 0.4 * back

    def _vectors(self, texts: Sequence[str], drop: float) -> Any:
        torch = self._torch
        bags = [self._bag(text, drop) for text in texts]
        offsets = np.cumsum([0] + [len(rows) for rows, _ in bags[:-1]])
        return torch.nn.functional.embedding_bag(
            torch.from_numpy(np.concatenate([rows for rows, _ in bags])),
            self.rows,
            torch.from_numpy(offsets),
            mode="sum",
            per_sample_weights=torch.from_numpy(np.concatenate([weights for _, weights in bags])),
        )

    def _bag(self, text: str, drop: float) -> Bag:
        if text not in self._bags:
            self._bags[text] = self._words.bag(words_of(text))
        rows, weights = self._bags[text]
        if drop and len(rows) > 4:
            kept = self._mask.random(len(rows)) > drop
            return rows[kept], weights[kept]
        return rows, weights


def _shares(pairs: dict[str, list[Pair]], hard: bool) -> list[float]:
    """Return how often each source gives a batch."""
    sizes = {name: len(some) * WEIGHTS.get(name, 1.0) for name, some in pairs.items()}
    if not hard:
        return list(sizes.values())
    others = sum(size for name, size in sizes.items() if name not in HARD_SHARE)
    left = 1 - sum(HARD_SHARE.values())
    return [HARD_SHARE.get(name, left * size / others) for name, size in sizes.items()]


def pack(identity: str, words: Sequence[str], rows: Floats, turn: Floats, rarities: Floats) -> Words:
    """Return the table in 8 bit, a scale for each row."""
    scale = np.abs(rows).max(axis=1) / 127 + 1e-9
    table = np.round(rows / scale[:, None]).astype(np.int8)
    index = {word: row for row, word in enumerate(words)}
    return Words(identity, index, table, scale.astype(np.float32), turn, rarities)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and write the table."""
    parser = argparse.ArgumentParser(description="Train the word vectors that ship.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--id", default="autogpt-words-1")
    parser.add_argument("--dimension", type=int, default=192)
    parser.add_argument("--share", type=float, default=1.0, help="share of the steps, for a trial")
    args = parser.parse_args(arguments)
    configured = settings.load()
    if configured.data is None:
        raise UsageError("AUTOGPT_DATA must name the folder with the data")
    pairs = teaching(configured.data)
    counts, texts = count_words(pairs)
    words = choose(counts)
    rarities = np.array([np.log(1 + texts / (counts[word] + 1)) for word in words], np.float32)
    rows = first_rows(words, configured.data, configured.home, args.dimension)
    seldom = np.concatenate([rarities, np.full(PIECES, np.log(texts / 3))]) / np.log(texts)
    rows *= seldom[:, None].astype(np.float32)
    turn = np.eye(args.dimension, dtype=np.float32)
    trainer = Trainer(pack(args.id, words, rows, turn, rarities), rows)
    hard = {name: mistaken(pairs[name]) for name in HARD_SHARE}
    for phase in PHASES:
        steps = max(1, round(phase.steps * args.share))
        trainer.run(replace(phase, steps=steps), pairs, hard, print)
    learnt, turned = trainer.rows.detach().numpy(), trainer.turn.detach().numpy()
    pack(args.id, words, learnt, turned, rarities).save(args.out)


if __name__ == "__main__":
    main()
