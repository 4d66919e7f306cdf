"""Training samples on disk and in memory, and the order in which a run sees them.

A training file is JSON lines (``.jsonl``, ``.jsonl.gz`` or ``.jsonl.zst``), one sample a line:
``{"ids": [...], "mask": [...], "prefix": n, "kind": "tables"}``. ``ids`` is a whole conversation
in token ids, ``mask`` is 1 where a token carries loss, and the first ``prefix`` ids are the part
that many samples share (the system message). Ids are read as they are, never tokenised again.

The order is a pure function of (samples, batch size, seed, epoch), so that a resumed run goes on
with the very sample it would have seen next. Samples of similar length go together (sorted within
shuffled windows), which keeps padding low; batches share one prefix where there are enough of them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ...errors import UsageError

_WINDOW = 16
"""Batches per shuffled window that is sorted by length: little padding, still a random order."""


@dataclass(frozen=True)
class Sample:
    """One conversation: the shared first ids, the ids of its own, and which of those carry loss."""

    prefix: tuple[int, ...]
    rest: array[int]
    mask: bytes
    """One byte, 0 or 1, per id of ``rest``; the first is always 0."""
    kind: str

    @property
    def targets(self) -> int:
        """How many tokens carry loss."""
        return sum(self.mask)


@dataclass(frozen=True)
class Group:
    """Samples of one optimiser step that share a prefix, split into micro-batches of indices."""

    prefix: tuple[int, ...]
    micro: tuple[tuple[int, ...], ...]


Step = tuple[Group, ...]


def open_lines(path: Path) -> IO[str]:
    """Open a plain, gzip or zstandard file as UTF-8 text."""
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8")
    if path.suffix == ".zst":
        import zstandard

        return io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(path.open("rb")), encoding="utf-8")
    return path.open(encoding="utf-8")


def _sample(record: Any, prefixes: dict[tuple[int, ...], tuple[int, ...]]) -> Sample | None:
    """Return the checked sample of one record, or None where no token carries loss."""
    ids, mask = record["ids"], record["mask"]
    if len(ids) != len(mask):
        raise ValueError(f"{len(ids)} ids but {len(mask)} mask values")
    if 1 not in mask:
        return None
    shared = min(int(record.get("prefix", 0)), mask.index(1) - 1)
    if shared < 0:
        raise ValueError("the first token cannot carry loss")
    prefix = tuple(ids[:shared])
    prefix = prefixes.setdefault(prefix, prefix)
    return Sample(prefix, array("i", ids[shared:]), bytes(mask[shared:]), str(record.get("kind", "")))


def read_samples(paths: Iterable[Path], longest: int = 4096) -> list[Sample]:
    """Read training files. Samples over ``longest`` tokens or without loss are left out.

    Raises:
        UsageError: a file is missing or a line is not a sample; names the file and line.
    """
    prefixes: dict[tuple[int, ...], tuple[int, ...]] = {}
    samples: list[Sample] = []
    for path in paths:
        if not path.is_file():
            raise UsageError(f"{path}: no such training file")
        with open_lines(path) as lines:
            for number, line in enumerate(lines, 1):
                try:
                    sample = _sample(json.loads(line), prefixes)
                except (ValueError, KeyError, TypeError, OverflowError) as problem:
                    raise UsageError(f"{path}:{number}: not a training sample: {problem}") from None
                if sample and len(sample.prefix) + len(sample.rest) <= longest:
                    samples.append(sample)
    if not samples:
        raise UsageError(f"no training samples in {', '.join(map(str, paths))}")
    return samples


def data_hash(paths: Iterable[Path]) -> str:
    """Return the SHA-256 over the files' bytes, in order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _cut(samples: Sequence[Sample], indices: Sequence[int], budget: int) -> Iterator[tuple[int, ...]]:
    """Split indices into micro-batches of at most ``budget`` padded tokens (at least one sample)."""
    ordered = sorted(indices, key=lambda i: (len(samples[i].rest), i))
    current: list[int] = []
    for index in ordered:
        if current and len(samples[index].rest) * (len(current) + 1) > budget:
            yield tuple(current)
            current = []
        current.append(index)
    yield tuple(current)


def step_of(samples: Sequence[Sample], indices: Sequence[int], budget: int) -> Step:
    """Return one optimiser step over ``indices``: grouped by prefix, cut by token budget."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index in indices:
        groups.setdefault(samples[index].prefix, []).append(index)
    return tuple(
        Group(prefix, tuple(_cut(samples, members, budget))) for prefix, members in sorted(groups.items())
    )


def plan_epoch(samples: Sequence[Sample], batch: int, seed: int, epoch: int, budget: int) -> list[Step]:
    """Return the steps of one pass over the samples, in a random but repeatable order.

    Args:
        batch: samples per optimiser step.
        budget: padded tokens per micro-batch, bounds memory.
    """
    rng = random.Random(f"{seed}:{epoch}")
    by_prefix: dict[tuple[int, ...], list[int]] = {}
    for index, sample in enumerate(samples):
        by_prefix.setdefault(sample.prefix, []).append(index)
    batches: list[list[int]] = []
    left: list[int] = []
    for _, members in sorted(by_prefix.items()):
        rng.shuffle(members)
        whole = len(members) // batch * batch
        left += members[whole:]
        for start in range(0, whole, batch * _WINDOW):
            window = members[start : min(start + batch * _WINDOW, whole)]
            window.sort(key=lambda i: len(samples[i].rest))
            batches += [window[i : i + batch] for i in range(0, len(window), batch)]
    rng.shuffle(left)
    batches += [left[i : i + batch] for i in range(0, len(left), batch)]
    rng.shuffle(batches)
    return [step_of(samples, indices, budget) for indices in batches]
