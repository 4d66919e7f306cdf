"""Low-rank adapters in training (LoRA, Hu et al., 2021, arXiv:2106.09685): layers, files.

An adapter covers every linear layer but the vocabulary projection. Its folder is in PEFT's format
(``adapter_config.json``, ``adapter_model.safetensors`` in fp16), with our facts in ``autogpt.json``; a test
loads it with PEFT. The frozen weights may be in bf16 (CPUs that multiply it fast); the adapter's own weights
and their gradients stay in fp32. Outside autocast a layer's forward and backward are one function each: 13 %
less processor time per step of ``small`` than a chain of modules, and in bf16 1.4 times as fast as under
autocast, which converts every weight at every pass (measured). There is no dropout: log-probabilities are
compared, with a reference's and with an engine's.
"""

from __future__ import annotations

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
from ..nn.adapter import lora_scale, read_adapter

_PREFIX = "base_model.model."


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

    def write(self, folder: Path, facts: Mapping[str, object]) -> None:
        """Write the folder: settings, fp16 weights, and ``facts`` as ``autogpt.json``."""
        from safetensors.torch import save

        weights = {
            f"{_PREFIX}{name}.{part}.weight": getattr(layer, part).detach().cpu().half().contiguous()
            for name, layer in self.layers.items()
            for part in ("lora_A", "lora_B")
        }
        replace_file(
            folder / "adapter_config.json", json.dumps(dict(self.settings), indent=2, sort_keys=True)
        )
        replace_file(folder / "adapter_model.safetensors", save(weights, metadata={"format": "pt"}))
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
