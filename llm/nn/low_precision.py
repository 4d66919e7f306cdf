"""Linear layers in reduced precision, on the CPU.

A forward over few rows is bound by reading weights, one over many rows by the matrix products; in both
only the linear layers matter. So only these use a narrower number format, while the residual stream,
norms and attention stay in fp32:

- ``bfloat16``: weights and inputs rounded to 8 bits of mantissa, multiplied by oneDNN. For processors
  with bf16 instructions; with AMX several times as fast as fp32 for many rows.
- ``float16``: weights rounded by at most 2^-11, fp32 arithmetic (FBGEMM). Used for few rows, where it
  is faster; many rows use the fp32 weights, which therefore stay in memory.
- ``int8``: weights with a scale per output; each activation as two int8 digits under a scale per row,
  which is nearly exact, so that the weights' rounding is what remains of the error, and a row's result
  does not depend on the rest of the batch. Sums are exact integers whichever kernel makes them.

Which of them a model can use is measured by :mod:`.precision`.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

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
    """A layer or table as stored: ``weight [out, in]`` in fp32, in 16 bits, or in int8 with ``scales [out]``.

    The weight may be a view that training updates in place.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        scales: Tensor | None = None,
        forget: Callable[[], None] | None = None,
    ) -> None:
        """``forget`` gives back the memory of a mapped weight; it is read from the file again when needed."""
        self.weight, self.bias, self.scales = weight, bias, scales
        self.forget = forget or _nothing

    @property
    def mapped(self) -> bool:
        """Whether the weight is in memory only while it is read."""
        return self.forget is not _nothing

    def prepare(self) -> None:
        """Nothing to do."""

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply in the weight's own number format."""
        return F.linear(x, self.weight, self.bias)

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Return rows ``ids`` of the weight in ``dtype``: ``[len(ids), in]``."""
        found = F.embedding(ids, self.weight).to(dtype)
        return found if self.scales is None else found.mul_(self.scales[ids, None])


def _nothing() -> None:
    pass


def rounded(dense: Dense) -> Dense:
    """Return ``dense`` in bf16."""
    return dense if dense.weight.dtype == torch.bfloat16 else Dense(dense.weight.bfloat16(), dense.bias)


def quantised(dense: Dense) -> Dense:
    """Return ``dense`` in int8, each output's largest weight at 127."""
    if dense.scales is not None:
        return dense
    scales = dense.weight.abs().amax(1).float().clamp_min_(1e-12).div_(127)
    weight = torch.empty(dense.weight.shape, dtype=torch.int8)
    # a part at a time: an fp32 copy of a vocabulary would be half a gigabyte
    for start in range(0, len(weight), 8192):
        part = slice(start, start + 8192)
        weight[part].copy_((dense.weight[part] / scales[part, None]).round_())
    return Dense(weight, dense.bias, scales)


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
    """int8 weights with a scale per output, activations of two int8 digits with a scale per row.

    One digit is not enough for models whose activations have outliers: Qwen2.5-Coder-0.5B's logits were off
    by 0.13 of their deviation in a simulation. With two, this code is off by 0.037 on 300 tokens, and the
    likeliest token is the same at 97 % of them (bf16: 0.008 and 98 %); 1.5B: 0.046 and 96 % (0.008 and 99 %).
    The second digit costs another row:
    hardly anything for few rows; at 300 a forward takes twice as long as in bf16 with AMX.
    """

    def __init__(self, dense: Dense) -> None:
        self._dense = quantised(dense)
        self._bias, self._scales = dense.bias, cast(Tensor, self._dense.scales)
        self._packed: Any = None
        self._lock = threading.Lock()
        self._vnni = has_vnni()
        # without VNNI the kernel adds pairs of products in 16 bits, which 8 + 8 bits can overflow
        self._top = 127 if self._vnni else 63

    def prepare(self) -> None:
        """Pack the weights for the kernel, a second for 150M on one core; the products stay the same."""
        with self._lock:
            if self._packed is None:
                self._packed = self._pack(self._dense.weight)
                self._dense.forget()
                self._dense = Dense(self._scales[:0])

    def _pack(self, weight: Tensor) -> Any:
        if self._vnni:
            return torch.ops.onednn.qlinear_prepack(weight, None), torch.zeros(len(weight), dtype=torch.int64)
        with warnings.catch_warnings():  # torch means to drop quantised tensors; the probe would notice
            warnings.simplefilter("ignore", UserWarning)
            zeros = torch.zeros(len(weight), dtype=torch.int64)
            made = torch._make_per_channel_quantized_tensor(weight, self._scales.double(), zeros, 0)
        torch.backends.quantized.engine = "fbgemm"
        return torch.ops.quantized.linear_prepack(made, None)

    def __call__(self, x: Tensor) -> Tensor:
        """Split each row into its two digits, multiply both, and put them together."""
        rows, top = x.shape[0], self._top
        scale = torch.linalg.vector_norm(x, float("inf"), -1, keepdim=True).clamp_min_(1e-12).div_(top)
        rest = x / scale
        first = rest.round()
        rest.sub_(first).mul_(2 * top).round_()
        # a row that is not finite comes out so by its scale
        product = self._exact(first, rest) if self._vnni else self._narrow(first, rest)
        out = product[:rows].add_(product[rows : 2 * rows], alpha=0.5 / top).mul_(scale)
        return out if self._bias is None else out.add_(self._bias)

    def _exact(self, first: Tensor, rest: Tensor) -> Tensor:
        """Multiply digits up to 127: plain weights until packed (1.5 times as slow), with the same sums."""
        digits = torch.cat([first.to(torch.int8), rest.to(torch.int8)])
        weight, packed = self._dense.weight, self._packed  # in this order: prepare sets them in the other
        if packed is None:
            return torch._int_mm(digits, weight.T).float().mul_(self._scales)
        found: Tensor = torch.ops.onednn.qlinear_pointwise(
            digits, 1.0, 0, packed[0], self._scales, packed[1], None, 1.0, 0, torch.float32, "none", [], ""
        )
        return found

    def _narrow(self, first: Tensor, rest: Tensor) -> Tensor:
        """Multiply digits up to 63 with FBGEMM, which quantises what it is given to 7 bits."""
        if self._packed is None:
            self.prepare()
        grid = first.new_zeros(1, first.shape[1])
        grid[0, 0], grid[0, -1] = -64.0, 63.0  # a range of 127 steps of 1: digits are kept as they are
        digits = torch.cat([first.nan_to_num_(0.0), rest.nan_to_num_(0.0), grid])
        found: Tensor = torch.ops.quantized.linear_dynamic(digits, self._packed, True)
        return found


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
                self._dense.forget()
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
    narrow: Callable[[Dense], Dense]
    """Converts a weight into the form that is stored: what ``linear`` takes and the packed cache keeps."""
    width: int
    """Bytes of memory for each weight."""
    every: bool = False
    """Serves any number of rows, so the fp32 weights are not needed besides."""


PRECISIONS = {
    "bfloat16": Precision(BFloat16, _bfloat16_swiglu, 0.02, rounded, 2, every=True),
    "float16": Precision(Float16, lambda dense: SwiGLU(Float16(dense)), 0.08, lambda dense: dense, 6),
    "int8": Precision(Int8, lambda dense: SwiGLU(Int8(dense)), 0.06, quantised, 1, every=True),
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


def has_vnni() -> bool:
    """Say whether the processor sums int8 products in 32 bits at once."""
    ask = getattr(torch.cpu, "_is_vnni_supported", None)  # with AVX-512; older AVX-VNNI is not used
    return bool(ask()) if ask is not None else False
