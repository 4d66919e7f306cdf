"""Linear layers in narrower weights, and the gate that says whether a model bears them.

A forward of few rows is bound by reading weights, one of many rows by the products; in both, only the
linear layers matter. So they alone are computed in a narrower number format, while the residual stream,
norms and attention stay fp32. The widths: ``bfloat16`` (weights and inputs rounded to 8 bits of mantissa,
oneDNN's products; for processors that have them, with AMX several times as fast as fp32 for many rows);
``float16`` (weights rounded by at most 2^-11, arithmetic in fp32, used for few rows, where it is faster;
the kernel is FBGEMM's); and ``int8`` (a scale for each output, activations in 8 bits with a scale for
each row, so that a row's result does not depend on its neighbours; FBGEMM's too). A width is used only
if the model's logits on a fixed text stay within :data:`MOST_ERROR` of fp32; the verdict is kept per
model, chip and torch.

Limits: CPU only. A width that serves few rows only needs the fp32 weights beside its own.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .kept import read_kept, write_kept

if TYPE_CHECKING:
    from .forward import Forward, FusedForward
    from .load import LoadedModel

FEW_ROWS = 48
"""Up to here fp16 weights are read faster than fp32 ones (measured with AVX-512: 1.4 times at 1 row,
1.7 at 4, 1.5 at 16, equal near 64); above, the product itself counts."""
MOST_ERROR = 0.05
"""Root mean square of the logits' error, over the logits' standard deviation."""
PROBE_TEXT = (
    "The quarterly report lists 41 suppliers; Nordfracht was late 7 times, Alpina twice. "
    '{"name":"tables.query","arguments":{"table":"deliveries","where":[{"column":"days_late","op":">",'
    '"value":3}],"order_by":"days_late","limit":5}} Write the three best to summary.txt, then say how '
    "many rows were left out. Ada Wong, 12 Mill Lane, tel. +44 20 7946 0991, owes 1,204.50 since May."
)
"""What the gate reads: prose, a call, names and numbers."""


class Linear(Protocol):
    """A linear layer: ``[R, in]`` to ``[R, out]``."""

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it."""
        ...

    def prepare(self) -> None:
        """Do at leisure what makes it fast; until then it is right and slower."""
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


class Gated:
    """A layer whose output's first half gates the second: ``[R, in]`` to ``[R, out / 2]``."""

    def __init__(self, inner: Linear) -> None:
        self.inner = inner

    def prepare(self) -> None:
        """Prepare the layer within."""
        self.inner.prepare()

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``silu(first) * second``."""
        gate, up = self.inner(x).chunk(2, -1)
        return F.silu(gate).mul_(up)


class Half:
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


class Eight:
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
        """Nothing to do: other results than int8's would come and go with the time this takes."""

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


class Rounded:
    """The layer's products in bf16, summed in fp32; the result is rounded to bf16 and returned in fp32."""

    def __init__(self, dense: Dense, attributes: Sequence[str] = ("none",)) -> None:
        """Take ``dense``, cut into as many parts as there are ``attributes`` (oneDNN's post-operations)."""
        self._dense: Dense | None = dense
        self._bias = dense.bias
        self._attributes = attributes
        self._packed: list[Tensor] = []
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Make the packed copy (about a second for 135M parameters) and let go of the dense weight."""
        with self._lock:
            if self._dense is not None:
                parts = self._dense.weight.bfloat16().chunk(len(self._attributes))
                self._packed = [torch.ops.mkldnn._reorder_linear_weight(part) for part in parts]
                self._dense = None

    def __call__(self, x: Tensor) -> Tensor:
        """Round the rows to bf16 and multiply; what is not prepared yet is prepared now."""
        found = self._product(x.bfloat16(), 0).float()
        return found if self._bias is None else found.add_(self._bias)

    def _product(self, x: Tensor, part: int) -> Tensor:
        if self._dense is not None:  # other results than bf16's would come and go with the time it takes
            self.prepare()
        found: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._packed[part], None, self._attributes[part], [], ""
        )
        return found


class GatedRounded(Rounded):
    """``Gated(Rounded)`` with gate and product riding on the matrix products, rounded once each.

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


def _gated_rounded(dense: Dense) -> Linear:
    return GatedRounded(dense) if dense.bias is None else Gated(Rounded(dense))


def _wrapped(make: Callable[[Dense], Linear]) -> Callable[[Dense], Linear]:
    return lambda dense: Gated(make(dense))


@dataclass(frozen=True)
class Width:
    """How a model's layers are made narrow, and what follows from it."""

    linear: Callable[[Dense], Linear]
    gated: Callable[[Dense], Linear]
    """Makes gate and up projections into one layer, as :class:`Gated` is."""
    row_cost: float
    """What a further row adds to a forward of one, as a share of it (measured for 135M parameters)."""
    every: bool = False
    """It serves any number of rows: the fp32 weights are not needed beside it."""


WIDTHS = {
    "bfloat16": Width(Rounded, _gated_rounded, 0.02, every=True),
    "float16": Width(Half, _wrapped(Half), 0.08),
    "int8": Width(Eight, _wrapped(Eight), 0.08, every=True),
}


def available() -> list[str]:
    """Return the widths that this processor and this torch can compute at a sensible speed."""
    return [name for name in WIDTHS if name != "bfloat16" or has_bf16()]


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


def logit_error(found: Tensor, exact: Tensor) -> float:
    """Return the RMS difference of ``found`` and ``exact [P, V]`` over the deviation of ``exact``."""
    difference = (found - exact).double().square().mean().sqrt()
    error = float(difference / exact.double().std(1).mean())
    return error if error == error else float("inf")


def settle_width(
    loaded: LoadedModel, ids: Sequence[int], cache_dir: Path | None, release: bool = False
) -> tuple[LoadedModel, Forward]:
    """Make the model's forward, in the first of its widths that passes the gate on ``ids``.

    Errors already measured for this model on this chip are read from a file in ``cache_dir``. With
    ``release`` the fp32 weights that the width does without are given up: half the memory, but the
    model can then only be decoded (see :meth:`~.forward.FusedForward.release`).
    """
    from .forward import FusedForward, make_forward
    from .probe import chip

    forward = make_forward(loaded.model, loaded.config)
    if not loaded.widths or not isinstance(forward, FusedForward):
        return loaded, forward
    kept = None if cache_dir is None else cache_dir / "widths.json"
    known, key = read_kept(kept), f"{chip()} | torch {torch.__version__} | {loaded.fingerprint}"
    before = known.get(key)
    errors: dict[str, float] = dict(before) if isinstance(before, dict) else {}
    packing = ""
    for name in loaded.widths:
        if name not in errors and loaded.gated:
            errors[name] = _error(forward, name, ids)
        if not loaded.gated or errors[name] <= MOST_ERROR:
            packing = name
            break
    if errors != (before or {}):
        write_kept(kept, {**known, key: errors})
    width = WIDTHS[packing] if packing else None
    if forward.width is not width:  # measuring has packed it already
        forward.pack(width, wait=False)
    released = release and forward.release(loaded.model)
    return replace(loaded, packing=packing, released=released), forward


@torch.inference_mode()
def _error(forward: FusedForward, name: str, ids: Sequence[int]) -> float:
    """Return the logits' error of a width, from pieces so short that packed layers compute them."""

    def logits() -> Tensor:
        cache = forward.new_cache()
        pieces = [ids[i : i + FEW_ROWS] for i in range(0, len(ids), FEW_ROWS)]
        return torch.cat([forward.head(forward.hidden([(cache, piece)], every=True)) for piece in pieces])

    forward.pack(None)
    exact = logits()
    forward.pack(WIDTHS[name])
    return logit_error(logits(), exact)
