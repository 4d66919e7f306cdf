"""Ways to damage the files of a Chroma index, for ``prove_index.py``."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path


def _cut(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(1, max(2, path.stat().st_size)))


def _empty(path: Path, _rng: random.Random) -> None:
    os.truncate(path, 0)


def _overwrite(path: Path, rng: random.Random, make: Callable[[int], bytes]) -> None:
    length = path.stat().st_size
    count = min(length, rng.choice([64, 4096, 65536]))
    with path.open("r+b") as file:
        file.seek(rng.randrange(0, max(1, length - count)))
        file.write(make(count))


def _zero(path: Path, rng: random.Random) -> None:
    _overwrite(path, rng, bytes)


def _noise(path: Path, rng: random.Random) -> None:
    _overwrite(path, rng, rng.randbytes)


def _flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(20):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _remove(path: Path, _rng: random.Random) -> None:
    path.unlink()


def _claim(path: Path, rng: random.Random) -> None:
    """Make counts and lengths enormous: what let a torn index grow to tens of gigabytes."""
    data = bytearray(path.read_bytes())
    for place in range(0, min(len(data) - 8, 96), rng.choice([8, 16, 24])):
        data[place : place + 8] = rng.choice([2**31 - 1, 2**40, 2**62]).to_bytes(8, "little")
    path.write_bytes(data)


def _older(path: Path, _rng: random.Random) -> None:
    """Go back to the state that the build of the first 1,500 entries left."""
    beside = path.parents[1] if path.name == "chroma.sqlite3" else path.parents[2]
    shutil.copyfile(beside / "older" / path.name, path)


DAMAGES = (_cut, _empty, _zero, _noise, _flip, _remove, _claim, _older)
FILES = (
    "chroma.sqlite3",
    "data_level0.bin",
    "header.bin",
    "length.bin",
    "link_lists.bin",
    "index_metadata.pickle",
)


Damage = Callable[[Path, random.Random], None]


def cases(count: int, seed: int) -> Iterator[tuple[str, Damage, random.Random]]:
    """Yield every damage to every file, then again with other places, up to ``count``."""
    for number in range(count):
        file = FILES[number % len(FILES)]
        yield file, DAMAGES[number // len(FILES) % len(DAMAGES)], random.Random(seed * 1000 + number)


def victim(data: Path, name: str) -> Path:
    """Return the file called ``name`` of the index in ``data``."""
    return next(data.rglob(name))
