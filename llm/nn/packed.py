"""The packed cache: a model's weights as its precision stores them, in one file that is mapped, not read.

Dequantising a file, merging an adapter and rounding to int8 or bf16 takes seconds and several times the
memory of the result. So the result is written once, and the next start maps it: pages are read when the
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
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .forward import Layer, Weights
from .low_precision import Dense, Precision, SwiGLU

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

    def save(self, weights: Weights, fingerprint: str, precision: str, form: Precision) -> bool:
        """Write the weights, layer by layer as ``form`` stores them; say whether there was room for them."""
        path = self._path(fingerprint, precision)
        unfinished = path.with_suffix(f".{os.getpid()}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self._folder).free < SPARE + _size(weights, form):
                return False
            with unfinished.open("wb") as file:
                _write(file, weights, _key(fingerprint, precision), form)
            unfinished.replace(path)
            self._prune(path)
        except OSError as error:  # a full or read-only disk only costs the next process time
            log.info("the packed weights were not written: %s", error)
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            return False
        return True

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


def _size(weights: Weights, form: Precision) -> int:
    """Return the bytes of the file, near enough, from the layers as loaded."""
    dense = [weights.embedding, weights.head]
    dense += [part for layer in weights.layers for part in layer.stored().values()]
    one = form.narrow(Dense(torch.zeros(1, 1))).weight.element_size()
    return sum(d.weight.numel() for d in dense) * one


def _parts(weights: Weights, form: Precision) -> Iterator[tuple[str, Dense | Tensor]]:
    """Yield everything that is stored, one layer's worth in memory at a time."""
    yield "norm", weights.norm
    yield "inv_freq", weights.inv_freq
    yield "embedding", form.narrow(weights.embedding)
    if weights.head is not weights.embedding:
        yield "head", form.narrow(weights.head)
    for i, layer in enumerate(weights.layers):
        for name in ("norm", "q_norm", "k_norm", "mlp_norm"):
            vector = getattr(layer, name)
            if vector is not None:
                yield f"{i}.{name}", vector
        for name, dense in layer.stored().items():
            yield f"{i}.{name}", form.narrow(dense)


def _write(file: Any, weights: Weights, key: str, form: Precision) -> None:
    index: dict[str, Any] = {}

    def put(name: str, tensor: Tensor) -> None:
        file.write(bytes(-file.tell() % _PAGE))
        index[name] = [str(tensor.dtype), list(tensor.shape), file.tell()]
        file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)

    for name, part in _parts(weights, form):
        if isinstance(part, Tensor):
            put(name, part)
            continue
        for field in ("weight", "bias", "scales"):
            tensor = getattr(part, field)
            if tensor is not None:
                put(f"{name}.{field}", tensor)
    windows = [layer.window for layer in weights.layers]
    about = {"key": key, "tensors": index, "windows": windows, "rope_scale": weights.rope_scale}
    about["end"] = file.tell()
    text = json.dumps(about).encode()
    file.write(text + len(text).to_bytes(8, "little"))


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
    scale = float(about["rope_scale"])
    return Weights(embedding, head, vector("norm"), layers, vector("inv_freq"), scale)


def _forgetter(mapped: mmap.mmap, start: int, size: int) -> Callable[[], None] | None:
    """Return what gives a mapped weight's pages back to the system; None where that is not offered."""
    advice = getattr(mmap, "MADV_DONTNEED", None)
    return None if advice is None else partial(mapped.madvise, advice, start, size)
