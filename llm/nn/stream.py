"""A model's weights in fp32, read one layer at a time: to convert a model that would not fit in fp32.

The first start of a model computes the logits of a fixed text in fp32 while it converts: each layer is read
from its file, its adapter merged, run, written in its final form and freed, so at no time more than two
layers and a piece of the vocabulary are in memory in fp32. Read are the shapes of :mod:`.light_loader`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..gguf.header import Header, is_gguf
from ..gguf.weights import ROPE_FACTORS, Reader, hugging_name, read_frequencies, shape_header, tied_source
from .adapter import read_changes
from .forward import FusedForward, Layer, Weights, read_layer, trim_memory
from .light_loader import expected, fill_module, plain_frequencies
from .load import weight_files
from .low_precision import Dense

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
_ROWS = 8192
"""Rows of a vocabulary's table that are read at once."""


class Sink(Protocol):
    """What is done with the weights on the way."""

    def vector(self, name: str, tensor: Tensor) -> None:
        """Take a tensor that stays in fp32."""
        ...

    def table(self, name: str, pieces: Iterator[Tensor]) -> None:
        """Take a matrix, some rows at a time."""
        ...

    def layer(self, layer: Layer) -> None:
        """Take the next layer."""
        ...


class GGUFSource:
    """The tensors of a GGUF file, in fp32 under their names in transformers."""

    def __init__(self, header: Header, reader: Reader) -> None:
        self._reader = reader
        one = tied_source(header, reader)
        infos = {name: info for name, info in header.tensors.items() if name != ROPE_FACTORS}
        self._infos = {hugging_name(header, name) or name: info for name, info in infos.items()}
        if one is not None:
            self._infos.pop(HEAD, None)
            self._infos[EMBEDDING] = header.tensors[one]
        self.shapes = {name: info.shape for name, info in self._infos.items()}
        self.frequencies = read_frequencies(header, reader)
        """``[D / 2]`` where the file has its own."""

    def read(self, name: str) -> Tensor:
        """Return a whole tensor."""
        return self._reader.weights(self._infos[name], torch.float32)

    def rows(self, name: str, start: int, end: int) -> Tensor:
        """Return rows of a matrix."""
        return self._reader.part(self._infos[name], start, end, torch.float32)


class FolderSource:
    """The same of a folder's safetensors files, opened anew each time, because what was read stays mapped."""

    frequencies = None

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        self._files: dict[str, str] = {}
        self.shapes: dict[str, Sequence[int]] = {}
        for path in weight_files(folder):
            with safe_open(str(path), "pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a mapping)
                    self._files[name] = str(path)
                    self.shapes[name] = file.get_slice(name).get_shape()

    def read(self, name: str) -> Tensor:
        """Return a whole tensor."""
        from safetensors import safe_open

        with safe_open(self._files[name], "pt") as file:
            found: Tensor = file.get_tensor(name).float().clone()
        return found

    def rows(self, name: str, start: int, end: int) -> Tensor:
        """Return rows of a matrix."""
        from safetensors import safe_open

        with safe_open(self._files[name], "pt") as file:
            found: Tensor = file.get_slice(name)[start:end].float().clone()
        return found


class Stream:
    """A model read layer by layer, its adapter merged."""

    def __init__(
        self,
        source: GGUFSource | FolderSource,
        config: SimpleNamespace,
        changes: Mapping[str, Callable[[Tensor], object]],
    ) -> None:
        self._source, self._config, self._changes = source, config, changes
        names = [name for name in source.shapes if name.startswith("model.layers.")]
        self._names = [
            [name for name in names if name.startswith(f"model.layers.{i}.")]
            for i in range(config.num_hidden_layers)
        ]
        self.parameters = sum(torch.Size(shape).numel() for shape in source.shapes.values())

    def read(self, name: str) -> Tensor:
        """Return a tensor as merged, in fp32."""
        found = self._source.read(name)
        if name in self._changes:
            self._changes[name](found)
        return found

    def layers(self) -> Iterator[Layer]:
        """Yield the layers, in fp32."""
        for index, names in enumerate(self._names):
            module, prefix = nn.Module(), f"model.layers.{index}."
            fill_module(module, {name.removeprefix(prefix): self.read(name) for name in names})
            yield read_layer(module, self._config, index)

    def table(self, name: str) -> Iterator[Tensor]:
        """Yield a vocabulary's table, some rows at a time."""
        size = self._source.shapes[name][0]
        for start in range(0, size, _ROWS):
            yield self._source.rows(name, start, min(size, start + _ROWS))

    @torch.inference_mode()
    def pass_through(self, ids: Sequence[int], sink: Sink) -> Tensor:
        """Give every weight to ``sink`` and return the fp32 logits ``[len(ids), V]`` of ``ids``."""
        source = self._source
        norm = self.read(NORM)
        own = source.frequencies
        frequencies = plain_frequencies(self._config) if own is None else own
        sink.vector("norm", norm)
        sink.vector("inv_freq", frequencies)
        used, places = torch.unique(torch.tensor(ids), return_inverse=True)
        embedding = Dense(torch.cat([source.rows(EMBEDDING, i, i + 1) for i in used.tolist()]))
        forward = FusedForward(Weights(embedding, embedding, norm, [], frequencies, 1.0), self._config)

        def layers() -> Iterator[Layer]:
            for layer in self.layers():
                sink.layer(layer)
                yield layer

        batch = [(forward.new_cache(), places.tolist())]
        hidden = forward.hidden(batch, every=True, layers=layers())
        logits: list[Tensor] = []

        def head(name: str) -> Iterator[Tensor]:
            for piece in self.table(name):
                logits.append(F.linear(hidden, piece))
                yield piece

        if self._config.tie_word_embeddings:
            sink.table("embedding", head(EMBEDDING))
        else:
            sink.table("head", head(HEAD))
            sink.table("embedding", self.table(EMBEDDING))
        trim_memory()
        return torch.cat(logits, 1)


@contextmanager
def open_stream(folder: Path, config: SimpleNamespace, adapter: Path | None) -> Iterator[Stream | None]:
    """Open a model of the shape ``config``; None if its tensors are not exactly those, or its adapter
    changes the vocabulary's tables (:func:`~.load.load_model` reads such a model, or says what is wrong).

    Raises :class:`~autogpt.errors.ModelUnavailable` for a file or an adapter that is broken.
    """
    wanted = expected(config)
    if config.tie_word_embeddings:
        wanted.pop(HEAD)
    changes = {} if adapter is None else read_changes(adapter, wanted)
    if EMBEDDING in changes or HEAD in changes:
        yield None
    elif is_gguf(folder):
        header = shape_header(folder)
        with Reader(header) as reader:
            yield _fitting(GGUFSource(header, reader), config, wanted, changes)
    elif any(path.suffix != ".safetensors" for path in weight_files(folder)):
        yield None
    else:
        yield _fitting(FolderSource(folder), config, wanted, changes)


def _fitting(
    source: GGUFSource | FolderSource,
    config: SimpleNamespace,
    wanted: Mapping[str, Sequence[int]],
    changes: Mapping[str, Callable[[Tensor], object]],
) -> Stream | None:
    """Return a stream if the tensors are exactly those that are wanted."""
    shapes = {name: list(shape) for name, shape in source.shapes.items()}
    if config.tie_word_embeddings:  # files may hold the table twice
        shapes.pop(HEAD, None)
    return Stream(source, config, changes) if shapes == dict(wanted) else None
