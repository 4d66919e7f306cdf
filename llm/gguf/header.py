"""The header of a GGUF file: its metadata, and where each tensor lies.

Nothing is allocated by what the file claims: every count and length is checked against the bytes that are
left, and every tensor's place against the file's size, before it is used. The format is GGUF 2 and 3, little
endian (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). The ``gguf`` package's own reader is not
used: it makes several numpy objects for each of 300,000 strings, which takes seconds.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ...errors import ModelUnavailable

SUFFIX = ".gguf"
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Metadata types by number: their format in :mod:`struct`."""
_STRING, _ARRAY = 8, 9
_DEEPEST = 4
"""Arrays inside arrays that are read."""
_SAMPLE = 4096
"""Bytes read at the start, middle and end of each tensor for the fingerprint."""
BLOCKS = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24),
    "Q8_0": (8, 32, 34),
    "Q2_K": (10, 256, 84),
    "Q3_K": (11, 256, 110),
    "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210),
    "BF16": (30, 1, 2),
}
"""The tensor types that are read: number in the file, weights of a block, bytes of a block."""
_BY_NUMBER = {number: (name, weights, size) for name, (number, weights, size) in BLOCKS.items()}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of the file."""

    name: str
    kind: str
    """Its type, a key of :data:`BLOCKS`."""
    shape: tuple[int, ...]
    """Rows first, as torch has it (the file lists the dimensions the other way round)."""
    start: int
    """Offset in the file, bytes."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Header:
    """What a GGUF file says about itself."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    size: int
    """Bytes of the header, without the padding after it."""

    @property
    def architecture(self) -> str:
        """The name of the model's shape, as llama.cpp calls it."""
        return str(self.metadata.get("general.architecture", ""))

    def of(self, key: str, default: Any = None) -> Any:
        """Return a value that is kept under the architecture's name."""
        return self.metadata.get(f"{self.architecture}.{key}", default)


def is_gguf(path: Path) -> bool:
    """Say whether ``path`` names a GGUF file (by its ending; a folder never does)."""
    return path.suffix.lower() == SUFFIX and not path.is_dir()


def read_header(path: Path, leave_out: Iterable[str] = ()) -> Header:
    """Read the header of a GGUF file and check that every tensor lies inside the file.

    Arrays whose keys are in ``leave_out`` are skipped, which is several times faster for a vocabulary.
    Raises :class:`~autogpt.errors.ModelUnavailable` with one line for anything that cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            _check_start(path, file.read(8), size)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                cursor = _Cursor(data, size)
                cursor.at = 8
                header = _read(path, cursor, frozenset(leave_out))
    except FileNotFoundError:
        raise ModelUnavailable(f"no such file: {path}") from None
    except OSError as problem:
        raise ModelUnavailable(f"cannot read {path}: {problem.strerror or problem}") from problem
    except _Damaged as problem:
        raise ModelUnavailable(f"{path} is damaged or cut short ({problem}): fetch it again") from None
    _check_length(header, size)
    return header


def fingerprint(header: Header) -> str:
    """Return a sha256 over the file's header and sampled bytes of each tensor.

    It changes with the weights, the vocabulary or any other metadata, and costs milliseconds; it is an
    identity, not a proof against tampering.
    """
    digest = hashlib.sha256()
    with header.path.open("rb") as file:
        digest.update(file.read(header.size))
        for tensor in sorted(header.tensors.values(), key=lambda tensor: tensor.start):
            for place in (0, max(0, tensor.size // 2 - _SAMPLE // 2), max(0, tensor.size - _SAMPLE)):
                file.seek(tensor.start + place)
                digest.update(file.read(min(_SAMPLE, tensor.size)))
    return digest.hexdigest()


class _Damaged(Exception):
    """The header cannot be read; the text says why."""


class _Cursor:
    """Reads values one after another, never beyond the end of the file."""

    def __init__(self, data: mmap.mmap, size: int) -> None:
        self._data, self._size = data, size
        self.at = 0

    def number(self, form: str) -> Any:
        at = self.at
        self.skip(struct.calcsize(form))
        return struct.unpack_from("<" + form, self._data, at)[0]

    def skip(self, count: int) -> None:
        if count > self._size - self.at:
            raise _Damaged(f"its header wants {count} bytes more where {self._size - self.at} are left")
        self.at += count

    def text(self) -> str:
        length = self.number("Q")
        at = self.at
        self.skip(length)
        return self._data[at : self.at].decode("utf-8", "replace")

    def value(self, kind: int, keep: bool = True, depth: int = 0) -> Any:
        """Read a value of a metadata type; None where it is not kept."""
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY or depth == _DEEPEST:
            raise _Damaged(f"metadata of unknown type {kind}")
        inner, count = self.number("I"), self.number("Q")
        if inner in _SCALARS:
            at, size = self.at, count * struct.calcsize(_SCALARS[inner])
            self.skip(size)
            return list(struct.unpack_from(f"<{count}{_SCALARS[inner]}", self._data, at)) if keep else None
        if count * 8 > self._size - self.at:  # a text or an array has at least its own length
            raise _Damaged(f"an array of {count} items cannot be in it")
        if inner == _STRING:
            return self._texts(count, keep)
        items = [self.value(inner, keep, depth + 1) for _ in range(count)]
        return items if keep else None

    def _texts(self, count: int, keep: bool) -> list[str] | None:
        """Read ``count`` texts; written out, because there are hundreds of thousands of them."""
        data, at, end = self._data, self.at, self._size
        length_at = struct.Struct("<Q").unpack_from
        found: list[bytes] = []
        try:
            for _ in range(count):
                start = at + 8
                at = start + length_at(data, at)[0]
                if at > end:
                    raise _Damaged("a text runs beyond its end")
                if keep:
                    found.append(data[start:at])
        except struct.error:
            raise _Damaged("it ends in the middle of a list") from None
        self.at = at
        return [text.decode("utf-8", "replace") for text in found] if keep else None


def _check_start(path: Path, start: bytes, size: int) -> None:
    """Refuse what is not a GGUF file of a version and byte order that is read."""
    if start[:4] != b"GGUF":
        if start.startswith(b"version "):  # https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
            raise ModelUnavailable(f"{path} is a Git LFS pointer ({size} bytes): fetch the file itself")
        raise ModelUnavailable(f"{path} is not a GGUF file (it does not begin with GGUF)")
    if len(start) < 8:
        raise ModelUnavailable(f"{path} is damaged or cut short ({size} bytes): fetch it again")
    version = int.from_bytes(start[4:], "little")
    if version & 0xFFFF == 0:
        raise ModelUnavailable(f"{path} is a big-endian GGUF file: get the ordinary little-endian one")
    if version not in (2, 3):
        raise ModelUnavailable(f"{path} has GGUF version {version}; 2 and 3 are read: get a newer conversion")


def _read(path: Path, cursor: _Cursor, leave_out: frozenset[str]) -> Header:
    tensor_count, key_count = cursor.number("Q"), cursor.number("Q")
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = cursor.text()
        kind = cursor.number("I")
        if key in metadata:
            raise _Damaged(f"{key} stands in it twice")
        metadata[key] = cursor.value(kind, key not in leave_out)
    listed = [_tensor(path, cursor) for _ in range(tensor_count)]
    end = cursor.at
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise _Damaged(f"its alignment is {alignment}")
    data = -(-end // alignment) * alignment
    tensors = {
        name: TensorInfo(name, kind, shape, data + offset, size) for name, kind, shape, offset, size in listed
    }
    if len(tensors) < len(listed):
        raise _Damaged("a tensor stands in it twice")
    return Header(path, metadata, tensors, end)


def _tensor(path: Path, cursor: _Cursor) -> tuple[str, str, tuple[int, ...], int, int]:
    """Read a line of the tensor table: name, type, shape, offset in the data, bytes."""
    name, dimensions = cursor.text(), cursor.number("I")
    if not 1 <= dimensions <= 4:
        raise _Damaged(f"{name} has {dimensions} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(dimensions))[::-1]
    number, offset = cursor.number("I"), cursor.number("Q")
    if number not in _BY_NUMBER:
        raise ModelUnavailable(
            f"{path}: {name} is quantised as {_kind_name(number)}, which is not supported: "
            f"get the model as Q4_K_M or Q8_0 (read are {', '.join(BLOCKS)})"
        )
    kind, weights, block = _BY_NUMBER[number]
    if shape[-1] % weights or not all(shape):
        raise _Damaged(f"{name} has shape {list(shape)}, which is not whole blocks of {kind}")
    return name, kind, shape, offset, prod(shape) // weights * block


def _kind_name(number: int) -> str:
    """Return the name of a tensor type that is not read."""
    from gguf import GGMLQuantizationType

    try:
        return str(GGMLQuantizationType(number).name)
    except ValueError:
        return f"type {number}"


def _check_length(header: Header, size: int) -> None:
    end = max((tensor.start + tensor.size for tensor in header.tensors.values()), default=0)
    if end > size:
        raise ModelUnavailable(
            f"{header.path} is cut short: {size:,} bytes where its tensors need {end:,}: fetch it again"
        )
