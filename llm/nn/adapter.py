"""Adapters: LoRA weights that turn a base model into ours, merged when the model is loaded.

The file format is PEFT's (``adapter_config.json`` and ``adapter_model.safetensors``); weights may also be
int8 with a scale for each of the rank's rows (:func:`write_int8`). The merge is
the formula of LoRA, ``W += scale * B @ A`` with ``scale = alpha / r`` (Hu et al. 2021; ``alpha /
sqrt(r)`` for rsLoRA, Kalajdzievski 2023), computed in fp32. Importing PEFT for this would take
longer than the merge. The folder's ``autogpt.json`` holds ``base_sha256``, the fingerprint of the base
that the adapter was trained on: on any other base it is refused, because it would load and produce
nonsense. DoRA, trained biases and embedding adapters are refused, not guessed.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ModelUnavailable
from ...files import replace_file

CARD = "autogpt.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_SCALE = ".scale"
"""Of int8 weights, after their name: the scales, which are shaped so that they multiply."""


def adapter_fingerprint(folder: Path) -> str:
    """Return the sha256 of the adapter's weights file."""
    return hashlib.sha256(_weights_file(folder).read_bytes()).hexdigest()


def check_base(folder: Path, base_sha256: str) -> None:
    """Raise :class:`~autogpt.errors.ModelUnavailable` unless the adapter names this base."""
    card = folder / CARD
    known = _json(card).get("base_sha256") if card.exists() else None
    if known is None:
        known = _json(folder / "adapter_config.json").get("autogpt_base")
    if known is not None and known != base_sha256:
        raise ModelUnavailable(
            f"adapter {folder} was trained on another base ({str(known)[:12]}, this one is "
            f"{base_sha256[:12]}): load it with its own base, or train it again on this one"
        )


def merge_adapter(model: nn.Module, folder: Path) -> None:
    """Add the adapter's weights to ``model`` in place; raises what :func:`read_changes` does."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, change in read_changes(folder, {n: p.shape for n, p in parameters.items()}).items():
            change(parameters[name])


def read_changes(folder: Path, shapes: Mapping[str, Sequence[int]]) -> dict[str, Callable[[Tensor], object]]:
    """Return what an adapter does to each parameter that it changes, in place, by the parameter's name.

    ``shapes`` are those of all the model's parameters. Raises :class:`~autogpt.errors.ModelUnavailable` when
    files are missing or broken, a weight has no place in the model or another shape, or the adapter uses
    what we do not merge.
    """
    config, weights = read_adapter(folder)
    if config.get("peft_type", "LORA") != "LORA" or config.get("use_dora"):
        raise ModelUnavailable(f"adapter {folder} is not plain LoRA: merge it with PEFT first")
    turned = bool(config.get("fan_in_fan_out"))
    shape: tuple[int, ...]
    changes: dict[str, Callable[[Tensor], object]] = {}
    for key, a in weights.items():
        name = key.removeprefix(_PREFIX)
        if name.endswith(".lora_B.weight"):
            continue
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            b = weights.get(f"{_PREFIX}{module}.lora_B.weight")
            if b is None:
                raise _misfit(folder, name)
            target, shape = f"{module}.weight", (b.shape[0], a.shape[1])
            shape = (shape[1], shape[0]) if turned else shape
            change = partial(_add_product, b, a, lora_scale(config, module, a.shape[0]), turned)
        else:  # a module that was trained whole (`modules_to_save`)
            target = name.replace(".modules_to_save.default", "")
            shape = tuple(a.shape)
            change = partial(_overwrite, a)
        if tuple(shapes.get(target, ())) != shape:
            raise _misfit(folder, name)
        changes[target] = change
    if not changes:
        raise ModelUnavailable(f"adapter {folder} holds no weights")
    return changes


def _add_product(b: Tensor, a: Tensor, scale: float, turned: bool, target: Tensor) -> None:
    """Add ``scale * b @ a``, transposed if ``turned``, to ``target`` in fp32."""
    if target.dtype == torch.float32 and target.device.type == "cpu" and not turned:
        target.addmm_(b.float(), a.float(), alpha=scale)  # in one pass over the weight
        return
    delta = scale * (b.float() @ a.float())
    target.copy_(target.float() + (delta.T if turned else delta).to(target.device))


def _overwrite(new: Tensor, target: Tensor) -> None:
    target.copy_(new)


def _misfit(folder: Path, name: str) -> ModelUnavailable:
    return ModelUnavailable(f"adapter {folder} does not fit this model: {name} has no place in it")


def lora_scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """Return LoRA's scale for one module; patterns override the general ``lora_alpha``."""
    alpha = float(config.get("lora_alpha", rank))
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = float(value)
            break
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _weights_file(folder: Path) -> Path:
    path = folder / WEIGHTS
    if not path.exists():
        raise ModelUnavailable(f"no {WEIGHTS} in {folder}: is it a PEFT folder?")
    return path


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return an adapter's settings and weights; raises ModelUnavailable where files are missing or broken."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    settings = _json(folder / "adapter_config.json")
    try:
        stored = load_file(_weights_file(folder))
    except SafetensorError as error:
        raise ModelUnavailable(f"adapter {folder} is damaged ({error}): fetch it again") from error
    weights = {name: tensor for name, tensor in stored.items() if not name.endswith(_SCALE)}
    for name, tensor in weights.items():
        if tensor.dtype == torch.int8:
            if f"{name}{_SCALE}" not in stored:
                raise ModelUnavailable(f"adapter {folder} is damaged ({name} has no scales): fetch it again")
            weights[name] = tensor * stored[f"{name}{_SCALE}"]
    return settings, weights


def write_int8(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write LoRA's matrices in int8, half the size of fp16; their product errs by about 1 %.

    Each of the rank's rows of A ``[r, in]`` and columns of B ``[out, r]`` has a scale of its own in fp32.
    """
    from safetensors.torch import save

    stored: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        axis = 1 if name.endswith(".lora_A.weight") else 0
        scale = tensor.detach().abs().amax(axis, keepdim=True).clamp_min(1e-12).float().cpu() / 127
        stored[name] = (tensor.detach().float().cpu() / scale).round().to(torch.int8).contiguous()
        stored[f"{name}{_SCALE}"] = scale
    replace_file(folder / WEIGHTS, save(stored, metadata={"format": "pt"}))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise ModelUnavailable(f"{path} does not hold a JSON object")
    return found
