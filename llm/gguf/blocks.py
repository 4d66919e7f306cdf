"""Dequantisation: the blocks of a GGUF tensor back to numbers.

The block formats are ggml's (https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h): Q5_0 has one
scale for 32 weights; the K formats have 256 weights a block, whose smaller groups have 6 or 8 bit scales (and
minima) of their own. The usual formats are written here for torch, which is several times as fast as the
``gguf`` package and gives the same bits; the rare ones go through that package.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .header import BLOCKS


def dequantise(raw: Tensor, kind: str) -> Tensor:
    """Return the weights of ``raw`` (bytes, whole blocks of ``kind``) in fp32 or their own type, flat."""
    plain = _PLAIN.get(kind)
    if plain is not None:
        return raw.view(plain)
    blocks = raw.view(-1, BLOCKS[kind][2])
    fast = _FAST.get(kind)
    return fast(blocks).view(-1) if fast is not None else _rare(blocks, kind)


def _half(blocks: Tensor, at: int) -> Tensor:
    """Return the fp16 number at a byte of each block, in fp32 ``[n, 1]``."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """Return the low halves of ``packed [..., k]`` bytes, then the high ones: ``[..., 2, k]``."""
    return torch.stack((packed & 15, packed >> 4), -2)


def _q8_0(blocks: Tensor) -> Tensor:
    return blocks[:, 2:].view(torch.int8).float().mul_(_half(blocks, 0))


def _q4_0(blocks: Tensor) -> Tensor:
    return _nibbles(blocks[:, 2:]).view(-1, 32).float().sub_(8).mul_(_half(blocks, 0))


def _q5_0(blocks: Tensor) -> Tensor:
    shifts = torch.arange(8, dtype=torch.uint8)
    fifth = (blocks[:, 2:6, None] >> shifts & 1) << 4
    found = _nibbles(blocks[:, 6:]).view(-1, 32).add_(fifth.view(-1, 32))
    return found.float().sub_(16).mul_(_half(blocks, 0))


def _six_bits(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Return scales and minima ``[n, 8]`` of the 12 bytes in which Q4_K and Q5_K pack them."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = torch.cat((first & 63, third & 15 | (first >> 6 << 4)), 1)
    minima = torch.cat((second & 63, third >> 4 | (second >> 6 << 4)), 1)
    return scales.float(), minima.float()


def _scaled(found: Tensor, blocks: Tensor) -> Tensor:
    """Return ``d * scale * q - dmin * minimum`` for the 8 groups ``found [n, 8, 32]`` of each block."""
    scales, minima = _six_bits(blocks[:, 4:16])
    scales, minima = scales.mul_(_half(blocks, 0)), minima.mul_(_half(blocks, 2))
    return found.float().mul_(scales[:, :, None]).sub_(minima[:, :, None])


def _q4_k(blocks: Tensor) -> Tensor:
    return _scaled(_nibbles(blocks[:, 16:].view(-1, 4, 32)).view(-1, 8, 32), blocks)


def _q5_k(blocks: Tensor) -> Tensor:
    shifts = torch.arange(8, dtype=torch.uint8)[:, None]
    fifth = (blocks[:, None, 16:48] >> shifts & 1) << 4
    found = _nibbles(blocks[:, 48:].view(-1, 4, 32)).view(-1, 8, 32)
    return _scaled(found.add_(fifth), blocks)


def _q6_k(blocks: Tensor) -> Tensor:
    low = _nibbles(blocks[:, :128].view(-1, 2, 64)).view(-1, 2, 4, 32)
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8)[:, None]
    high = (blocks[:, 128:192].view(-1, 2, 1, 32) >> shifts & 3) << 4
    scales = blocks[:, 192:208].view(torch.int8).float().mul_(_half(blocks, 208))
    return low.add_(high).view(-1, 16, 16).float().sub_(32).mul_(scales[:, :, None])


def _rare(blocks: Tensor, kind: str) -> Tensor:
    """Dequantise by the ``gguf`` package."""
    import numpy as np
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    found = dequantize(blocks.numpy().reshape(1, -1), GGMLQuantizationType[kind])
    return torch.from_numpy(np.ascontiguousarray(found, np.float32)).view(-1)


_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_FAST: dict[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _q4_0,
    "Q5_0": _q5_0,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
