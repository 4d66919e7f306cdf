"""The packed cache: a model's weights as its precision stores them, in one file that is mapped, not read.

Dequantising a file, merging an adapter and rounding to int8 or bf16 takes seconds. So the result is written
once, a layer at a time (:mod:`.stream`), and mapped, at this start and the next: pages are read when the
first prompt needs them, and given back once a layer is packed for the kernels, which happens in the
background (:meth:`~.low_precision.Linear.prepare`). Stored are plain tensors, not packed ones, whose
layout is private to a processor and a version of torch: such a file serves any of them.

A file is data (each tensor from the start of a page), a JSON index, and the index's length in 8 bytes. It
is written beside its name and renamed; its key (weights and adapter, precision, layout) and its length are
checked when it is opened, and one that does not fit is made again. The least recently used files are
removed when all exceed :data:`MAX_BYTES`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .forward import Layer, Weights
from .low_precision import PRECISIONS, Dense, Precision, SwiGLU

log = logging.getLogger(__name__)

LAYOUT = 1
"""Version of the file's layout; part of the key."""
MAX_BYTES = 6 << 30
SPARE = 1 << 30
"""Bytes of the disk that are left free."""
_PAGE = mmap.ALLOCATIONGRANULARITY
_TYPES = {str(t): t for t in (torch.float32, torch.bfloat16, torch.int8)}


class PackedCache:
    """The files of one folder; see the module's text."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def load(self, fingerprint: str, precision: str) -> Weights | None:
        """Map the weights of a model (base and adapter) in ``precision``; None if there is no sound file."""
        path = self._path(fingerprint, precision)
        try:
            weights = _read(path, _key(fingerprint, precision))
            os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.info("%s is not used (%s)", path, error)
            return None
        return weights

    def save(
        self, fingerprint: str, precision: str, parameters: int, fill: Callable[[Writer], None]
    ) -> Weights | None:
        """Write the file of a model with so many ``parameters`` and map it; None if there is no room for it.

        ``fill`` gives the weights, as loaded, to a writer that converts them.
        """
        path = self._path(fingerprint, precision)
        unfinished = path.with_suffix(f".{os.getpid()}")
        form = PRECISIONS[precision]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            size = parameters * form.narrow(Dense(torch.zeros(1, 1))).weight.element_size()
            if shutil.disk_usage(self._folder).free < SPARE + size:
                return None
            with unfinished.open("wb") as file:
                writer = Writer(file, form)
                fill(writer)
                writer.finish(_key(fingerprint, precision))
            unfinished.replace(path)
            self._prune(path)
        except OSError as error:  # a full or read-only disk only costs the next process time
            log.info("the packed weights were not written: %s", error)
            return None
        finally:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
        return self.load(fingerprint, precision)

    def remove(self, fingerprint: str, precision: str) -> None:
        """Remove a model's file, if there is one."""
        with suppress(OSError):
            self._path(fingerprint, precision).unlink(missing_ok=True)

    def _path(self, fingerprint: str, precision: str) -> Path:
        name = hashlib.sha256(_key(fingerprint, precision).encode()).hexdigest()[:16]
        return self._folder / f"{name}.weights"

    def _prune(self, kept: Path) -> None:
        """Remove the least recently used files until the folder is small enough, but not ``kept``."""
        found = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in self._folder.glob("*"))
        total = sum(size for _, size, _ in found)
        for _, size, path in found:
            if total <= self._max_bytes:
                break
            if path != kept:
                path.unlink(missing_ok=True)
                total -= size


def _key(fingerprint: str, precision: str) -> str:
    return f"{LAYOUT}|{fingerprint}|{precision}"


class Writer:
    """Writes weights as a precision stores them; a :class:`~.stream.Sink`."""

    def __init__(self, file: BinaryIO, form: Precision) -> None:
        self._file, self._form = file, form
        self._index: dict[str, Any] = {}
        self._windows: list[int] = []

    def vector(self, name: str, tensor: Tensor) -> None:
        """Write a tensor as it is."""
        self._begin(name, tensor.dtype, tensor.shape)
        self._append(tensor)

    def table(self, name: str, pieces: Iterable[Tensor]) -> None:
        """Convert and write a matrix, given some rows at a time."""
        rows, scales = 0, []
        for piece in pieces:
            part = self._form.narrow(Dense(piece))
            if not rows:
                self._begin(f"{name}.weight", part.weight.dtype, part.weight.shape)
            self._append(part.weight)
            rows += len(piece)
            if part.scales is not None:
                scales.append(part.scales)
        self._index[f"{name}.weight"][1][0] = rows
        if scales:
            self.vector(f"{name}.scales", torch.cat(scales))

    def layer(self, layer: Layer) -> None:
        """Convert and write the next layer."""
        prefix = len(self._windows)
        self._windows.append(layer.window)
        for name in ("norm", "q_norm", "k_norm", "mlp_norm"):
            vector = getattr(layer, name)
            if vector is not None:
                self.vector(f"{prefix}.{name}", vector)
        for name, dense in layer.stored().items():
            self.table(f"{prefix}.{name}", [dense.weight])
            if dense.bias is not None:
                self.vector(f"{prefix}.{name}.bias", dense.bias)

    def finish(self, key: str) -> None:
        """Write the index."""
        about = {"key": key, "tensors": self._index, "windows": self._windows, "end": self._file.tell()}
        text = json.dumps(about).encode()
        self._file.write(text + len(text).to_bytes(8, "little"))

    def _begin(self, name: str, dtype: torch.dtype, shape: torch.Size) -> None:
        self._file.write(bytes(-self._file.tell() % _PAGE))
        self._index[name] = [str(dtype), list(shape), self._file.tell()]

    def _append(self, tensor: Tensor) -> None:
        self._file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)


def _read(path: Path, key: str) -> Weights:
    """Map a file. Raises FileNotFoundError, OSError, ValueError, KeyError or TypeError."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    length = int.from_bytes(mapped[-8:], "little")
    about = json.loads(mapped[-8 - length : -8])
    if about["key"] != key or about["end"] + length + 8 != len(mapped):
        raise ValueError("its key or its length is wrong")
    index = about["tensors"]

    def tensor(name: str) -> Tensor | None:
        if name not in index:
            return None
        kind, shape, start = index[name]
        count = torch.Size(shape).numel()
        return torch.frombuffer(mapped, dtype=_TYPES[kind], count=count, offset=start).view(shape)

    def vector(name: str) -> Tensor:
        found = tensor(name)
        if found is None:
            raise ValueError(f"{name} is missing")
        return found

    def dense(name: str) -> Dense:
        weight = vector(f"{name}.weight")
        start = index[f"{name}.weight"][2]
        forget = _forgetter(mapped, start, weight.nbytes)
        return Dense(weight, tensor(f"{name}.bias"), tensor(f"{name}.scales"), forget)

    layers = [
        Layer(
            norm=vector(f"{i}.norm"),
            qkv=dense(f"{i}.qkv"),
            q_norm=tensor(f"{i}.q_norm"),
            k_norm=tensor(f"{i}.k_norm"),
            out=dense(f"{i}.out"),
            mlp_norm=vector(f"{i}.mlp_norm"),
            gate_up=SwiGLU(dense(f"{i}.gate_up")),
            down=dense(f"{i}.down"),
            window=int(window),
        )
        for i, window in enumerate(about["windows"])
    ]
    embedding = dense("embedding")
    head = dense("head") if "head.weight" in index else embedding
    return Weights(embedding, head, vector("norm"), layers, vector("inv_freq"), 1.0)


def _forgetter(mapped: mmap.mmap, start: int, size: int) -> Callable[[], None] | None:
    """Return what gives a mapped weight's pages back to the system; None where that is not offered."""
    advice = getattr(mmap, "MADV_DONTNEED", None)
    return None if advice is None else partial(mapped.madvise, advice, start, size)
