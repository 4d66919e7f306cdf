"""The prompt cache: keys and values of system messages on disk, so that a new process can reuse them.

One file holds one prefix, from position 0: its ids, its keys and values, and in the header what they
depend on (``key``: weights, number format, layout) with a checksum. A file is written when a session
ends, and kept only if reading it back is faster than computing its positions was in this process; a
GPU, where computing is faster, therefore keeps none. Files are written atomically; the least recently
used ones are removed when all exceed :data:`MAX_BYTES`; a file that is truncated, altered or another
model's is ignored, and its positions are computed.

Only prefixes of the system message are written, never a goal or a tool's result, so the folder reveals
nothing but the program's own prompts; the files are readable by the user alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...files import replace_file
from .prefix_tree import Span, common_prefix

log = logging.getLogger(__name__)

LAYOUT = 1
"""Version of the file's layout; part of the key."""
MAX_BYTES = 512 << 20
WORTH_LOADING = 64
"""Prefixes that gain fewer positions are neither written nor read."""


@dataclass(frozen=True)
class Stored:
    """A file and the ids whose keys and values it holds."""

    path: Path
    ids: list[int]


class PromptCache:
    """The prefixes kept in one folder for one key; see the module's text."""

    def __init__(self, folder: Path, key: str, device: str, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._key = f"{LAYOUT}|{key}"
        self._device = device
        self._max_bytes = max_bytes
        self._name = hashlib.sha256(self._key.encode()).hexdigest()[:16]
        self._stored: list[Stored] | None = None
        self._rows, self._seconds = 0, 0.0

    def computed(self, rows: int, seconds: float) -> None:
        """Record the cost of a forward over many rows."""
        self._rows += rows
        self._seconds += seconds

    def find(self, ids: Sequence[int], known: int) -> Stored | None:
        """Return the file with the longest prefix of ``ids``, if clearly longer than ``known`` positions."""
        best, length = None, known + WORTH_LOADING - 1
        for stored in self._index():
            shared = common_prefix(stored.ids, ids)
            if shared > length:
                best, length = stored, shared
        return best

    def load(self, stored: Stored) -> Span | None:
        """Return the keys and values of a file; None (and forget the file) if anything is wrong with it."""
        try:
            ids, span = self._read(stored.path)
            if ids != stored.ids or any(tensor.shape[-2] != len(ids) for tensor in span):
                raise ValueError("its ids and its keys do not match")
            os.utime(stored.path)
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            log.info("%s is not used (%s)", stored.path, error)
            self._stored = [other for other in self._index() if other is not stored]
            return None
        return tuple(tensor.to(self._device) for tensor in span)

    def save(self, ids: Sequence[int], spans: Sequence[Span]) -> None:
        """Save the prefix ``ids``, given as consecutive spans, if a later process would gain by it."""
        ids = list(ids)
        known = max((common_prefix(stored.ids, ids) for stored in self._index()), default=0)
        if not self._rows or len(ids) < known + WORTH_LOADING:
            return
        tensors = [torch.cat(parts, -2).contiguous().cpu() for parts in zip(*spans, strict=True)]
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            return
        name = hashlib.sha256(torch.tensor(ids).numpy().tobytes()).hexdigest()[:16]
        stored = Stored(self._folder / f"{self._name}-{name}.safetensors", ids)
        try:
            self._write(stored, tensors)
            began = time.perf_counter()
            usable = self.load(stored) is not None
            if not usable or time.perf_counter() - began > len(ids) * self._seconds / self._rows:
                stored.path.unlink()
                return
            self._prune()
        except OSError as error:  # a full or read-only disk only costs the next process time
            log.info("the prompt cache was not written: %s", error)
            return
        self._stored = [*self._index(), stored]

    def _index(self) -> list[Stored]:
        """Return the folder's files for our key; looked up once."""
        if self._stored is None:
            from safetensors import SafetensorError, safe_open

            self._stored = []
            for path in self._folder.glob(f"{self._name}-*.safetensors"):
                try:
                    with safe_open(str(path), "pt") as file:
                        if file.metadata()["key"] == self._key:
                            self._stored.append(Stored(path, file.get_tensor("ids").tolist()))
                except (OSError, KeyError, TypeError, SafetensorError):
                    continue  # damaged: it will be written again
        return self._stored

    def _read(self, path: Path) -> tuple[list[int], Span]:
        """Read and check a whole file. Raises ValueError, KeyError or OSError."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        data = path.read_bytes()
        try:
            tensors = load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        ids = tensors.pop("ids")
        span = tuple(tensors[f"kv{i}"] for i in range(len(tensors)))
        if header["key"] != self._key or header["crc32"] != str(_checksum([ids, *span])):
            raise ValueError("its key or its checksum is wrong")
        return ids.tolist(), span

    def _write(self, stored: Stored, tensors: Sequence[Tensor]) -> None:
        from safetensors.torch import save

        ids = torch.tensor(stored.ids, dtype=torch.int32)
        about = {"key": self._key, "crc32": str(_checksum([ids, *tensors]))}
        named = {"ids": ids} | {f"kv{i}": tensor for i, tensor in enumerate(tensors)}
        replace_file(stored.path, save(named, about), tag=str(os.getpid()))

    def _prune(self) -> None:
        """Remove the least recently used files until the folder is small enough."""
        found = [(path.stat(), path) for path in self._folder.glob("*")]  # with leftovers of killed processes
        total = sum(stat.st_size for stat, _ in found)
        for stat, path in sorted(found, key=lambda item: item[0].st_mtime):
            if total <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= stat.st_size


def _checksum(tensors: Sequence[Tensor]) -> int:
    """Return the CRC-32 of contiguous tensors, one after the other."""
    value = 0
    for tensor in tensors:
        value = zlib.crc32(tensor.view(-1).view(torch.uint8).numpy().data, value)
    return value
