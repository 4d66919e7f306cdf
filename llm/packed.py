"""Linear layers in narrower weights, and the gate that says whether a model bears them.

A forward of few rows is bound by reading weights, so weights of half the bytes halve its time;
arithmetic and activations stay fp32. Two widths: ``float16`` (rounds a weight by at most 2^-11; used
for few rows, where it is faster), and ``int8`` (a scale for each output, activations in 8 bits with a
scale for each row, so that a row's result does not depend on its neighbours). A width is used only
if the model's logits on a fixed text stay within :data:`MOST_ERROR` of fp32; the verdict is kept per
model, chip and torch. The kernels are FBGEMM's, which torch carries for x86 processors.

Limits: CPU only; the packed copy is made beside the fp32 weights, which prompts still use.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .kept import read_kept, write_kept

if TYPE_CHECKING:
    from .forward import Forward, FusedForward
    from .model import LoadedModel

FEW_ROWS = 48
"""Up to here fp16 weights are read faster than fp32 ones (measured with AVX-512: 1.4 times at 1 row,
1.7 at 4, 1.5 at 16, equal near 64); above, the product itself counts."""
MOST_ERROR = 0.05
"""Root mean square of the logits' error, over the logits' standard deviation; bf16 is held to it too."""
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
        torch.div(x, scale, out=rows[:-1])
        product: Tensor = torch.ops.quantized.linear_dynamic(rows, self._packed, self._narrow)
        out = product[:-1].mul_(scale)
        return out if self._bias is None else out.add_(self._bias)


WIDTHS: dict[str, Callable[[Dense], Linear]] = {"float16": Half, "int8": Eight}


def _has_vnni() -> bool:
    ask = getattr(torch.cpu, "_is_vnni_supported", None)  # with AVX-512; older AVX-VNNI is not used
    return bool(ask()) if ask is not None else False


def logit_error(found: Tensor, exact: Tensor) -> float:
    """Return the RMS difference of ``found`` and ``exact [P, V]`` over the deviation of ``exact``."""
    difference = (found - exact).double().square().mean().sqrt()
    error = float(difference / exact.double().std(1).mean())
    return error if error == error else float("inf")


def settle_width(
    loaded: LoadedModel, ids: Sequence[int], cache_dir: Path | None
) -> tuple[LoadedModel, Forward]:
    """Make the model's forward, in the first of its widths that passes the gate on ``ids``.

    Errors already measured for this model on this chip are read from a file in ``cache_dir``.
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
    for width in loaded.widths:
        if width not in errors and loaded.gated:
            errors[width] = _error(forward, width, ids)
        if not loaded.gated or errors[width] <= MOST_ERROR:
            packing = width
            break
    if errors != (before or {}):
        write_kept(kept, {**known, key: errors})
    make = WIDTHS[packing] if packing else None
    if forward.make is not make:  # measuring has packed it already
        forward.pack(make, wait=False)
    return replace(loaded, packing=packing), forward


@torch.inference_mode()
def _error(forward: FusedForward, width: str, ids: Sequence[int]) -> float:
    """Return the logits' error of ``width``, from pieces so short that packed layers compute them."""

    def logits() -> Tensor:
        cache = forward.new_cache()
        pieces = [ids[i : i + FEW_ROWS] for i in range(0, len(ids), FEW_ROWS)]
        return torch.cat([forward.head(forward.hidden([(cache, piece)], every=True)) for piece in pieces])

    forward.pack(None)
    exact = logits()
    forward.pack(WIDTHS[width])
    return logit_error(logits(), exact)
