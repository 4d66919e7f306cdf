"""The weights of a GGUF file under the names of transformers, in the order that our forward wants.

Tensors are read and dequantised one at a time. Queries and keys of the ``llama``
architecture are stored with the halves of each rotary head interleaved; they are put side by side again.
Gemma's norms are stored with 1 added.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import ModelUnavailable
from .blocks import dequantise
from .header import Header, TensorInfo, read_header
from .shape import VOCABULARY, count, settings

_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""A block's tensors: their names in GGUF and in transformers."""
_GEMMA_NAMES = _BLOCK_NAMES | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
ROPE_FACTORS = "rope_freqs.weight"
"""Llama 3's divisors of the rotary frequencies, ``[D / 2]``."""
FREQUENCIES = "model.rotary_emb.inv_freq"
"""Under this name the frequencies are given where the configuration does not determine them, ``[D / 2]``."""
_SAME = 0.95
"""Mean cosine of rows above which output matrix and embedding are one matrix, quantised twice."""
_PIECE = 1 << 18
"""Weights dequantised at once: what passes between the steps stays in the processor's cache."""


def shape_header(path: Path) -> Header:
    """Return a file's header without its vocabulary; kept while the file does not change."""
    try:
        state = path.stat()
    except OSError as problem:
        raise ModelUnavailable(f"cannot read {path}: {problem.strerror or problem}") from problem
    return _shape_header(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=2)
def _shape_header(path: Path, size: int, changed: int) -> Header:
    return read_header(path, VOCABULARY)


def settings_of(path: Path) -> dict[str, Any]:
    """Return what ``config.json`` would say of a GGUF file's model (see :mod:`.shape`)."""
    header = shape_header(path)
    found = settings(header)
    if not found["tie_word_embeddings"]:
        with Reader(header) as reader:
            found["tie_word_embeddings"] = tied_source(header, reader) is not None
    return found


def hugging_name(header: Header, name: str) -> str | None:
    """Return what transformers calls a tensor, None for one that a model of this shape does not have."""
    parts = name.split(".")
    if parts[0] != "blk":
        return f"{_NAMES[parts[0]]}.{parts[1]}" if len(parts) == 2 and parts[0] in _NAMES else None
    names = _GEMMA_NAMES if header.architecture == "gemma3" else _BLOCK_NAMES
    if len(parts) != 4 or parts[2] not in names:
        return None
    return f"model.layers.{parts[1]}.{names[parts[2]]}.{parts[3]}"


def read_weights(header: Header, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yield the model's tensors in ``dtype`` under transformers' names.

    Where the file holds an output matrix that is the embedding again, in finer blocks, it is given for both,
    as ``model.embed_tokens.weight`` alone.
    """
    with Reader(header) as reader:
        one = tied_source(header, reader)
        for name, info in header.tensors.items():
            if name == ROPE_FACTORS or (one is not None and name in ("token_embd.weight", "output.weight")):
                continue
            new = hugging_name(header, name)
            if new is None:
                raise ModelUnavailable(
                    f"{header.path}: a {header.architecture} model with a tensor {name} is not supported"
                )
            yield new, reader.weights(info, dtype)
        frequencies = read_frequencies(header, reader)
        if frequencies is not None:
            yield FREQUENCIES, frequencies
        if one is not None:
            yield "model.embed_tokens.weight", reader.weights(header.tensors[one], dtype)


def read_frequencies(header: Header, reader: Reader) -> Tensor | None:
    """Return the rotary frequencies of a file that has divisors of them, else None."""
    if ROPE_FACTORS not in header.tensors:
        return None
    factors = reader.weights(header.tensors[ROPE_FACTORS], torch.float32)
    steps = torch.arange(len(factors)).float() / len(factors)
    return 1.0 / float(header.of("rope.freq_base", 10_000.0)) ** steps / factors


def tied_source(header: Header, reader: Reader) -> str | None:
    """Return the tensor that serves as both embedding and output; None where they are two matrices.

    Converters may store a tied matrix twice, each time quantised otherwise.
    """
    embedding, output = header.tensors["token_embd.weight"], header.tensors.get("output.weight")
    if output is None:
        return embedding.name
    if output.shape != embedding.shape:
        return None
    places = torch.linspace(0, output.shape[0] - 1, min(64, output.shape[0])).long().tolist()
    rows = [torch.cat([reader.rows(info, i, i + 1) for i in places]).float() for info in (embedding, output)]
    norms = rows[0].norm(dim=1) * rows[1].norm(dim=1)
    kept = norms > 0  # rows of tokens that were never used may be empty
    cosine = (rows[0] * rows[1]).sum(1)[kept] / norms[kept]
    if not len(cosine) or float(cosine.mean()) < _SAME:
        return None
    return output.name if output.size >= embedding.size else embedding.name


class Reader:
    """Reads tensors of one file, pieces of them at the same time; a context manager."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._pool = ThreadPoolExecutor(max(1, torch.get_num_threads()))

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *problem: object) -> None:
        self._pool.shutdown()

    def rows(self, info: TensorInfo, start: int, end: int) -> Tensor:
        """Return rows of a tensor, in fp32 or its own 16 bit type."""
        row = info.size // info.shape[0]
        raw = bytearray((end - start) * row)
        with self._header.path.open("rb", buffering=0) as file:  # a mapped file would count as memory in use
            file.seek(info.start + start * row)
            if file.readinto(raw) != len(raw):
                raise ModelUnavailable(f"{self._header.path} was cut short while it was read: fetch it again")
        return dequantise(torch.frombuffer(raw, dtype=torch.uint8), info.kind).view(end - start, -1)

    def weights(self, info: TensorInfo, dtype: torch.dtype) -> Tensor:
        """Return a tensor in ``dtype``, as our forward computes with it; pieces of it at the same time."""
        return self._in_order(info, self.part(info, 0, info.shape[0], dtype))

    def part(self, info: TensorInfo, first: int, last: int, dtype: torch.dtype) -> Tensor:
        """Return rows of a tensor in ``dtype`` as the file has them; pieces of it at the same time."""
        with torch.inference_mode(False):  # the pool's threads, which fill it, are not in that mode
            found = torch.empty((last - first, *info.shape[1:]), dtype=dtype)
        each = max(1, _PIECE // max(1, found[0].numel()))

        def fill(start: int) -> None:
            end = min(last, start + each)
            piece = found[start - first : end - first]
            piece.copy_(self.rows(info, start, end).view(piece.shape))

        list(self._pool.map(fill, range(first, last, each)))
        return found

    def _in_order(self, info: TensorInfo, found: Tensor) -> Tensor:
        """Undo what the converter did to a tensor beside quantising it."""
        header, part = self._header, info.name.split(".")[-2]
        if header.architecture == "llama" and part in ("attn_q", "attn_k"):
            heads = count(header, "attention.head_count")
            heads = heads if part == "attn_q" else count(header, "attention.head_count_kv", heads)
            if found.shape[0] % (2 * heads):
                raise ModelUnavailable(f"{header.path}: {info.name} has no {heads} heads; fetch it again")
            return found.view(heads, found.shape[0] // heads // 2, 2, -1).transpose(1, 2).reshape(found.shape)
        if header.architecture == "gemma3" and info.name.endswith("norm.weight"):
            return found - 1
        return found
