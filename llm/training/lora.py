"""Low-rank adapters in training (LoRA, Hu et al., 2021, arXiv:2106.09685): layers, files.

An adapter covers every linear layer but the vocabulary projection. Its folder is in PEFT's format
(``adapter_config.json``, ``adapter_model.safetensors`` in fp16), with our facts in ``autogpt.json``; a test
loads it with PEFT. In int8 it has half the size, for shipping, and only our own loader reads it. The frozen
weights may be in bf16 (CPUs that multiply it fast); the adapter's own weights and their gradients stay in
fp32. Outside autocast a layer's forward and backward are one function each: 13 % less processor time per step
of ``small`` than a chain of modules, and in bf16 1.4 times as fast as under autocast, which converts every
weight at every pass (measured). There is no dropout: log-probabilities are compared, with a reference's and
with an engine's.

On a CPU (:func:`use_own_layers`) attention, norms and the gated part of the MLP are functions of that kind
too. torch's own backward for attention took a third of a step of a 0.5B model in bf16 with AMX, for a
hundredth of its arithmetic; in plain matrix products it is a few percent. What can be computed again from
less is not kept between the passes, as memory is what limits a step.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ModelUnavailable
from ...files import replace_file
from ..nn.adapter import WEIGHTS, lora_scale, read_adapter, write_int8
from .checkpoint import write_fp16

_PREFIX = "base_model.model."
_OWN = "autogpt"
_ROWS = 64
"""Rows whose logits are in memory at once; those of 64 are 39 MB for a vocabulary of 152,000."""


class _Product(torch.autograd.Function):
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


class _Attention(torch.autograd.Function):
    """``softmax(scale * q k' + mask) v`` for grouped heads.

    Shapes: q ``[B, H, T, D]``, k and v ``[B, G, S, D]`` with G dividing H, mask ``[B or 1, 1, T, S]``.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
        groups = q.shape[0] * k.shape[1]
        ctx.shapes, ctx.scale = (q.shape, k.shape), scale
        q, k, v = (part.reshape(groups, -1, part.shape[-1]) for part in (q * scale, k, v))
        scores = torch.bmm(q, k.transpose(1, 2))
        scores.view(*ctx.shapes[0][:2], *mask.shape[-2:]).add_(mask)
        weights = torch.softmax(scores, -1)
        ctx.save_for_backward(q, k, v, weights)
        return torch.bmm(weights, v).view(ctx.shapes[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors
        dy = gradients[0].reshape(q.shape)
        d_v = torch.bmm(weights.transpose(1, 2), dy)
        d_scores = torch._softmax_backward_data(torch.bmm(dy, v.transpose(1, 2)), weights, -1, q.dtype)
        d_q = torch.bmm(d_scores, k).mul_(ctx.scale)
        d_k = torch.bmm(d_scores.transpose(1, 2), q)
        of_q, of_k = ctx.shapes
        return d_q.view(of_q), d_k.view(of_k), d_v.view(of_k), None, None


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, dropout: float = 0.0, **_: object,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention as transformers' layers call it; a mask of None is the causal one."""
    length, seen = query.shape[2], key.shape[2]
    if attention_mask is None:
        blocked = torch.full((length, seen), torch.finfo(query.dtype).min, dtype=query.dtype)
        attention_mask = torch.triu(blocked, diagonal=seen - length + 1)[None, None]
    elif attention_mask.dtype is torch.bool:
        blocked = torch.zeros(attention_mask.shape, dtype=query.dtype)
        attention_mask = blocked.masked_fill_(~attention_mask, torch.finfo(query.dtype).min)
    product: Any = _Attention.apply
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    parts = [query, key, value, attention_mask]
    if torch.is_autocast_enabled("cpu"):  # which is off in the backward pass
        parts = [part.to(torch.get_autocast_dtype("cpu")) for part in parts]
    with torch.autocast("cpu", enabled=False):
        return product(*parts, scale).transpose(1, 2), None


def use_own_layers(model: Any) -> None:
    """Let a decoder of transformers, with its adapter, compute by the functions of this module."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(_OWN, attend)
    AttentionMaskInterface.register(_OWN, sdpa_mask)
    model.set_attn_implementation(_OWN)
    known = model.config.model_type in ("llama", "mistral", "qwen2", "qwen3")
    if not known or model.config.hidden_act != "silu":
        return
    for name, part in list(model.named_modules()):
        if type(part).__name__.endswith("RMSNorm"):
            model.set_submodule(name, RMSNorm(part.weight, part.variance_epsilon))
        elif isinstance(getattr(part, "down_proj", None), LoRALinear):
            model.set_submodule(name, GatedMLP(part.gate_proj, part.up_proj, part.down_proj))


class _Norm(torch.autograd.Function):
    """RMS norm in fp32, rounded before its frozen weight is applied, as transformers does; keeps x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.float()
        factor = wide.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, factor)
        return weight * (wide * factor).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, factor = ctx.saved_tensors
        normed = x.float() * factor
        d_normed = (gradients[0] * weight).float()
        along = (d_normed * normed).mean(-1, keepdim=True)
        return d_normed.sub_(normed.mul_(along)).mul_(factor).to(x.dtype), None, None


class RMSNorm(nn.Module):
    """An RMS norm with a frozen weight."""

    def __init__(self, weight: nn.Parameter, epsilon: float) -> None:
        super().__init__()
        self.weight, self.epsilon = weight, epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x [..., width]`` normalised."""
        product: Any = _Norm.apply
        y: Tensor = product(x, self.weight, self.epsilon)
        return y


class _Gated(torch.autograd.Function):
    """:class:`_Product` of ``silu(gate) * up``, which is computed again going back."""

    @staticmethod
    def forward(
        ctx: Any, gate: Tensor, up: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        shape, gate, up = gate.shape, gate.reshape(-1, gate.shape[-1]), up.reshape(-1, up.shape[-1])
        rows = nn.functional.silu(gate).mul_(up)
        a, b = a.to(rows.dtype), b.to(rows.dtype)
        inner = rows @ a.t()
        y = (rows @ weight.t()).addmm_(inner, b.t(), alpha=scale)
        ctx.save_for_backward(gate, up, weight, inner, a, b)
        ctx.scale, ctx.shape = scale, shape
        return y.view(*shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, weight, inner, a, b = ctx.saved_tensors
        dy = gradients[0].reshape(-1, gradients[0].shape[-1])
        opened = nn.functional.silu(gate)
        d_inner = (dy @ b).mul_(ctx.scale)
        d_b = (dy.t() @ inner).float().mul_(ctx.scale)
        d_a = (d_inner.t() @ (opened * up)).float()
        d_rows = (dy @ weight).addmm_(d_inner, a)
        d_gate = torch.ops.aten.silu_backward(d_rows * up, gate)
        return d_gate.view(ctx.shape), d_rows.mul_(opened).view(ctx.shape), None, d_a, d_b, None


class GatedMLP(nn.Module):
    """The MLP of Llama and its like, ``down(silu(gate(x)) * up(x))``, with an adapter."""

    def __init__(self, gate: LoRALinear, up: LoRALinear, down: LoRALinear) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = gate, up, down

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output for ``x [..., width]``."""
        gate, up, down = self.gate_proj(x), self.up_proj(x), self.down_proj
        if torch.is_autocast_enabled(x.device.type) or down.bias is not None:
            plain: Tensor = down(nn.functional.silu(gate) * up)
            return plain
        product: Any = _Gated.apply
        y: Tensor = product(gate, up, down.weight, down.lora_A, down.lora_B, down.scale)
        return y


class _CrossEntropy(torch.autograd.Function):
    """The summed cross entropy (nats) of rows under a frozen vocabulary matrix, some rows at a time.

    The gradient for the rows is made on the way, so that the logits of a few rows at most are in memory.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        total, gradients = rows.new_zeros((), dtype=torch.float32), []
        for start in range(0, len(rows), _ROWS):
            part, wanted = rows[start : start + _ROWS], targets[start : start + _ROWS]
            logits = (part @ weight.t()).float()
            places = wanted[:, None]
            total += logits.logsumexp(-1).sum() - logits.gather(-1, places).sum()
            if ctx.needs_input_grad[0]:
                chances = torch.softmax(logits, -1)
                chances.scatter_add_(-1, places, chances.new_full(places.shape, -1.0))
                gradients.append(chances.to(weight.dtype) @ weight)
        ctx.save_for_backward(torch.cat(gradients) if gradients else rows.new_zeros(0))
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (of_rows,) = ctx.saved_tensors
        return of_rows * gradients[0].to(of_rows.dtype), None, None


def cross_entropy_sum(rows: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """Return the summed cross entropy (nats, fp32 scalar) of ``rows [N, width]`` under ``head``."""
    autocast = torch.is_autocast_enabled(rows.device.type)
    if autocast or head.weight.requires_grad or head.bias is not None:
        return nn.functional.cross_entropy(head(rows).float(), targets, reduction="sum")
    product: Any = _CrossEntropy.apply
    total: Tensor = product(rows, head.weight, targets)
    return total


class LoRALinear(nn.Module):
    """A frozen linear layer ``[out, in]`` with a trainable product of rank r added to its weight."""

    def __init__(self, linear: nn.Linear, a: Tensor, b: Tensor, scale: float) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.lora_A = nn.Parameter(a.to(linear.weight.device, torch.float32))
        self.lora_B = nn.Parameter(b.to(linear.weight.device, torch.float32))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output for ``x [..., in]``."""
        if torch.is_autocast_enabled(x.device.type):
            linear = nn.functional.linear
            return linear(x, self.weight, self.bias) + self.scale * linear(
                linear(x, self.lora_A), self.lora_B
            )
        product: Any = _Product.apply
        y: Tensor = product(x, self.weight, self.lora_A, self.lora_B, self.scale)
        return y if self.bias is None else y + self.bias


@dataclass(frozen=True)
class Adapter:
    """The trainable layers of a model by their names in it, and the adapter's settings, as PEFT has them."""

    layers: Mapping[str, LoRALinear]
    settings: Mapping[str, Any]

    def write(self, folder: Path, facts: Mapping[str, object], int8: bool = False) -> None:
        """Write the folder: settings, weights in fp16 or int8, and ``facts`` as ``autogpt.json``."""
        weights = {
            f"{_PREFIX}{name}.{part}.weight": getattr(layer, part)
            for name, layer in self.layers.items()
            for part in ("lora_A", "lora_B")
        }
        replace_file(
            folder / "adapter_config.json", json.dumps(dict(self.settings), indent=2, sort_keys=True)
        )
        if int8:
            write_int8(folder, weights)
        else:
            write_fp16(folder / WEIGHTS, weights)
        replace_file(folder / "autogpt.json", json.dumps(dict(facts), indent=2))


def add_adapter(model: nn.Module, rank: int, alpha: int, base_name: str) -> Adapter:
    """Freeze ``model`` and give its linear layers a fresh adapter, which changes nothing yet (B is 0).

    Args:
        base_name: what the adapter's folder calls its base.
    """
    head = getattr(model, "lm_head", None)
    linear = {
        name: part for name, part in model.named_modules() if isinstance(part, nn.Linear) and part is not head
    }
    layers = {}
    for name, part in linear.items():
        a, b = torch.empty(rank, part.in_features), torch.zeros(part.out_features, rank)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        layers[name] = LoRALinear(part, a, b, alpha / rank)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({name.rpartition(".")[2] for name in linear}),
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    return _installed(model, layers, settings)


def load_adapter(model: nn.Module, folder: Path, base_name: str) -> Adapter:
    """Freeze ``model`` and give it the adapter in ``folder``, to be trained further.

    Raises:
        ModelUnavailable: the folder is damaged, does not fit the model, or holds more than plain LoRA.
    """
    settings, tensors = read_adapter(folder)
    weights = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
    names = [name.removesuffix(".lora_A.weight") for name in weights if name.endswith(".lora_A.weight")]
    if settings.get("use_dora") or settings.get("fan_in_fan_out") or len(weights) != 2 * len(names):
        raise ModelUnavailable(
            f"adapter {folder} is not plain LoRA: only LoRA on linear layers is trained further"
        )
    parts = dict(model.named_modules())
    layers = {}
    for name in names:
        part, a, b = parts.get(name), weights[f"{name}.lora_A.weight"], weights.get(f"{name}.lora_B.weight")
        if not isinstance(part, nn.Linear) or b is None or (len(b), a.shape[1]) != part.weight.shape:
            raise ModelUnavailable(f"adapter {folder} does not fit this model: {name} has no place in it")
        layers[name] = LoRALinear(part, a, b, lora_scale(settings, name, len(a)))
    return _installed(
        model, layers, {**settings, "base_model_name_or_path": base_name, "inference_mode": True}
    )


def _installed(model: nn.Module, layers: dict[str, LoRALinear], settings: dict[str, Any]) -> Adapter:
    """Put the layers into the model and freeze all else."""
    model.requires_grad_(False)
    for name, layer in layers.items():
        model.set_submodule(name, layer)
    return Adapter({name: layers[name] for name, _ in model.named_modules() if name in layers}, settings)


def keep_memory() -> bool:
    """Let this process keep freed memory for its next step; True where the C library is glibc.

    Otherwise large blocks go back to the system at every step, only to be filled with zeros again
    (17 % of a step of ``small``, measured).
    """
    import ctypes

    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    mmap_max, trim_threshold = -4, -1  # parameter numbers of malloc.h
    return bool(mallopt(mmap_max, 0)) and bool(mallopt(trim_threshold, 2**31 - 1))


def give_back_memory() -> None:
    """Return what is free to the system, where :func:`keep_memory` kept it.

    With blocks of ever other sizes the kept memory grows: to twice what a step of a 1.5B model needs. Once
    after a long step this costs a second.
    """
    import ctypes

    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
