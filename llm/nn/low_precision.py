"""Linear layers in reduced precision, on the CPU.

A forward over few rows is bound by reading weights, one over many rows by the matrix products; in both
only the linear layers matter. So only these use a narrower number format, while the residual stream,
norms and attention stay in fp32:

- ``bfloat16``: weights and inputs rounded to 8 bits of mantissa, multiplied by oneDNN. For processors
  with bf16 instructions; with AMX several times as fast as fp32 for many rows.
- ``float16``: weights rounded by at most 2^-11, fp32 arithmetic (FBGEMM). Used for few rows, where it
  is faster; many rows use the fp32 weights, which therefore stay in memory.
- ``int8``: weights with a scale per output, activations with a scale per row, so that a row's result
  does not depend on the rest of the batch (FBGEMM).

Which of them a model can use is measured by :mod:`.precision`.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

FEW_ROWS = 48
"""Up to here fp16 weights are read faster than fp32 ones (measured with AVX-512: 1.4 times at 1 row,
1.7 at 4, 1.5 at 16, equal near 64); above, the product itself counts."""


class Linear(Protocol):
    """A linear layer: ``[R, in]`` to ``[R, out]``."""

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it."""
        ...

    def prepare(self) -> None:
        """Make the packed copy of the weights; until then the layer is correct but slower."""
        ...


class Dense:
    """The layer as loaded; its weight may be a view that training updates in place."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight, bias

    def prepare(self) -> None:
        """Nothing to do."""

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply in the weight's own number format."""
        return F.linear(x, self.weight, self.bias)


class SwiGLU:
    """Gate and up projections in one layer: ``[R, in]`` to ``[R, out / 2]`` (Shazeer 2020, SwiGLU)."""

    def __init__(self, inner: Linear) -> None:
        self.inner = inner

    def prepare(self) -> None:
        """Prepare the inner layer."""
        self.inner.prepare()

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``silu(first) * second``."""
        gate, up = self.inner(x).chunk(2, -1)
        return F.silu(gate).mul_(up)


class Float16:
    """fp16 weights and fp32 arithmetic for few rows, the dense layer for many, or until prepared."""

    def __init__(self, dense: Dense) -> None:
        self._dense = dense
        self._packed: Any = None

    def prepare(self) -> None:
        """Make the packed copy (some 2 s for 135M parameters on one core)."""
        self._packed = torch.ops.quantized.linear_prepack_fp16(self._dense.weight, self._dense.bias)

    def __call__(self, x: Tensor) -> Tensor:
        """Choose by the number of rows."""
        if x.shape[0] > FEW_ROWS or self._packed is None:
            return self._dense(x)
        product: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self._packed)
        return product


class Int8:
    """int8 weights with a scale an output, int8 activations with a scale a row."""

    def __init__(self, dense: Dense) -> None:
        scales = dense.weight.abs().amax(1).clamp_min(1e-12) / 127
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        with warnings.catch_warnings():  # torch means to drop quantised tensors; the probe would notice
            warnings.simplefilter("ignore", UserWarning)
            weight = torch.quantize_per_channel(dense.weight, scales, zeros, 0, torch.qint8)
        self._packed: Any = torch.ops.quantized.linear_prepack(weight, None)
        self._bias = dense.bias
        # without VNNI the kernel adds pairs of products in 16 bits, which 8 + 8 bits can overflow
        self._narrow = not _has_vnni()

    def prepare(self) -> None:
        """Nothing to do: int8 is packed at once, as results must not change while packing is under way."""

    def __call__(self, x: Tensor) -> Tensor:
        """Scale each row into [-1, 1], multiply, scale back."""
        scale = x.abs().amax(-1, keepdim=True).clamp_min_(1e-12)
        rows = x.new_zeros(x.shape[0] + 1, x.shape[1])
        # a last row that spans the range fixes the grid, whatever the other rows hold
        rows[-1, 0], rows[-1, -1] = 1.0, -1.0
        # a row that is not finite comes out so by its scale; the kernel would refuse the whole batch
        torch.div(x, scale, out=rows[:-1]).nan_to_num_(0.0)
        product: Tensor = torch.ops.quantized.linear_dynamic(rows, self._packed, self._narrow)
        out = product[:-1].mul_(scale)
        return out if self._bias is None else out.add_(self._bias)


class BFloat16:
    """The layer's products in bf16, summed in fp32; the result is rounded to bf16 and returned in fp32."""

    def __init__(self, dense: Dense, attributes: Sequence[str] = ("none",)) -> None:
        """Take ``dense``, split into one part per entry of ``attributes`` (oneDNN's post-operations)."""
        self._dense: Dense | None = dense
        self._bias = dense.bias
        self._attributes = attributes
        self._packed: list[Tensor] = []
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Make the packed copy (about a second for 135M parameters) and release the dense weight."""
        with self._lock:
            if self._dense is not None:
                parts = self._dense.weight.bfloat16().chunk(len(self._attributes))
                self._packed = [torch.ops.mkldnn._reorder_linear_weight(part) for part in parts]
                self._dense = None

    def __call__(self, x: Tensor) -> Tensor:
        """Round the rows to bf16 and multiply, preparing the weights first if need be."""
        found = self._product(x.bfloat16(), 0).float()
        return found if self._bias is None else found.add_(self._bias)

    def _product(self, x: Tensor, part: int) -> Tensor:
        if self._dense is not None:  # fp32 results until then would make answers depend on timing
            self.prepare()
        found: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._packed[part], None, self._attributes[part], [], ""
        )
        return found


class BFloat16SwiGLU(BFloat16):
    """``SwiGLU(BFloat16)`` with the activation and the product fused into the matrix products.

    At 256 rows all layers together take a sixth less time than with passes over memory (CPU with AMX).
    """

    def __init__(self, dense: Dense) -> None:
        super().__init__(dense, ("swish", "none"))

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``silu(first) * second``, in bf16: the next layer rounds to it anyway."""
        x = x.bfloat16()
        gate = self._product(x, 0)
        found: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, gate, self._packed[1], None, "mul")
        return found


def _bfloat16_swiglu(dense: Dense) -> Linear:
    return BFloat16SwiGLU(dense) if dense.bias is None else SwiGLU(BFloat16(dense))


@dataclass(frozen=True)
class Precision:
    """How a model's linear layers are converted, and what follows from it."""

    linear: Callable[[Dense], Linear]
    swiglu: Callable[[Dense], Linear]
    """Converts a joined gate and up projection into a layer equivalent to :class:`SwiGLU`."""
    row_cost: float
    """Cost of one more row, as a share of a forward of one row (measured for 135M parameters)."""
    every: bool = False
    """Serves any number of rows, so the fp32 weights are not needed besides."""


PRECISIONS = {
    "bfloat16": Precision(BFloat16, _bfloat16_swiglu, 0.02, every=True),
    "float16": Precision(Float16, lambda dense: SwiGLU(Float16(dense)), 0.08),
    "int8": Precision(Int8, lambda dense: SwiGLU(Int8(dense)), 0.08, every=True),
}


def available() -> list[str]:
    """Return the precisions that this processor and this torch compute at a useful speed."""
    return [name for name in PRECISIONS if name != "bfloat16" or has_bf16()]


def has_bf16() -> bool:
    """Say whether the processor multiplies bf16 itself; emulated it is ten times as slow as fp32."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    found = [getattr(torch.cpu, name, None) for name in names]
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)  # absent without oneDNN
    if supported is None or not supported():
        return False
    return any(bool(ask()) for ask in found if ask is not None)


def _has_vnni() -> bool:
    ask = getattr(torch.cpu, "_is_vnni_supported", None)  # with AVX-512; older AVX-VNNI is not used
    return bool(ask()) if ask is not None else False
