"""Loading the common small shapes without transformers.

Importing transformers and building its configuration and module takes seconds, more than everything
else in loading a small model. Our own forward needs neither: if ``config.json`` describes a shape that
it computes (Llama, Mistral, Qwen2, Qwen3 with standard positions and full attention) and the files hold
exactly the tensors of that shape, :func:`read_light` puts them into bare modules under the checkpoint's
names. Anything unusual, and anything left to a default, returns None and is loaded through
transformers, whose error messages are better too. :meth:`LightModel.whole` builds the transformers
module over the same tensors when it is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import ModelUnavailable
from ..gguf.header import is_gguf
from ..gguf.known import facts_of
from ..gguf.weights import FREQUENCIES, settings_of

_NEEDED = (
    "model_type",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "tie_word_embeddings",
    "vocab_size",
)
_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3"})


def light_config(folder: Path, cache_dir: Path | None = None) -> SimpleNamespace | None:
    """Return a model's configuration; None if it leaves anything to defaults or to transformers.

    ``cache_dir`` keeps what is read of a GGUF file.
    """
    if is_gguf(folder):
        found = facts_of(folder, cache_dir).settings
        plain = found["rope_parameters"].get("rope_type") == "default"
        fits = plain and found["model_type"] in _TYPES and found.get("sliding_window") is None
        return SimpleNamespace(**{"sliding_window": None, **found}) if fits else None
    try:
        found = json.loads((folder / "config.json").read_text("utf-8"))
        theta = _theta(found)
        if theta is None or any(found[key] is None for key in _NEEDED):
            return None
        if found["model_type"] not in _TYPES or found["hidden_act"] != "silu":
            return None
        if "quantization_config" in found or found.get("attention_bias") or found.get("mlp_bias"):
            return None
        if found.get("sliding_window") and found.get("use_sliding_window") is not False:
            return None
        dim = found.get("head_dim") or found["hidden_size"] // found["num_attention_heads"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    kept = {key: found[key] for key in _NEEDED}
    rope = {"rope_type": "default", "rope_theta": theta}
    return SimpleNamespace(**kept, head_dim=dim, rope_parameters=rope, sliding_window=None)


def _theta(found: Mapping[str, Any]) -> float | None:
    """Return the base of ordinary rotary positions, None for any other kind."""
    rope = found.get("rope_parameters")
    if rope is None:
        return None if found.get("rope_scaling") else float(found["rope_theta"])
    plain = rope.get("rope_type") == "default" and set(rope) == {"rope_type", "rope_theta"}
    return float(rope["rope_theta"]) if plain else None


def full_config(folder: Path) -> Any:
    """Return a model's configuration as transformers has it; ModelUnavailable says what is wrong with it."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    if is_gguf(folder):
        found = settings_of(folder)
        return AutoConfig.for_model(found.pop("model_type"), **found)
    if not (folder / "config.json").exists():
        raise ModelUnavailable(f"no config.json in {folder}: it is not a Hugging Face model folder")
    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        reason = str(error).strip().splitlines()[-1].strip().removeprefix("ValueError: ")
        raise ModelUnavailable(f"cannot read {folder / 'config.json'}: {reason}") from error


class LightModel(nn.Module):
    """The weights under the checkpoint's names; computing is :class:`~.forward.FusedForward`'s work."""

    model: nn.Module
    lm_head: nn.Module

    def __init__(self, config: SimpleNamespace, weights: Mapping[str, Tensor], folder: Path) -> None:
        super().__init__()
        self._folder = folder
        frequencies = weights.get(FREQUENCIES)
        frequencies = plain_frequencies(config) if frequencies is None else frequencies
        _place(self, ["model", "rotary_emb"]).register_buffer("inv_freq", frequencies, False)
        fill_module(self, {name: tensor for name, tensor in weights.items() if name != FREQUENCIES})
        if config.tie_word_embeddings:
            cast(Any, self.lm_head).weight = cast(Any, self.model).embed_tokens.weight

    def whole(self) -> nn.Module:
        """Return the transformers module over the same tensors."""
        weights = {**self.state_dict(), FREQUENCIES: cast(Any, self.model).rotary_emb.inv_freq}
        model: nn.Module = assemble(full_config(self._folder), weights, self._folder)
        return model.eval().requires_grad_(False)


def plain_frequencies(config: SimpleNamespace) -> Tensor:
    """Return the rotary frequencies of a configuration that :func:`light_config` gives, ``[D / 2]``."""
    steps = torch.arange(0, config.head_dim, 2).float() / config.head_dim
    return cast(Tensor, 1.0 / config.rope_parameters["rope_theta"] ** steps)


def fill_module(root: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put tensors into ``root`` under their names, making the modules on the way."""
    for name, tensor in weights.items():
        *path, leaf = name.split(".")
        _place(root, path).register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))


def _place(root: nn.Module, path: list[str]) -> nn.Module:
    """Return the module at ``path``, making what is missing; numbers make lists."""
    for i, name in enumerate(path):
        child = root._modules.get(name)
        if child is None:
            child = nn.ModuleList() if path[i + 1 : i + 2] == ["0"] else nn.Module()
            child.register_parameter("bias", None)
            root.add_module(name, child)
        root = child
    return root


def expected(config: SimpleNamespace) -> dict[str, list[int]]:
    """Return the names and shapes of the tensors that a configuration asks for."""
    width, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
    q, kv = config.num_attention_heads * dim, config.num_key_value_heads * dim
    layer = {
        "input_layernorm.weight": [width],
        "self_attn.q_proj.weight": [q, width],
        "self_attn.k_proj.weight": [kv, width],
        "self_attn.v_proj.weight": [kv, width],
        "self_attn.o_proj.weight": [width, q],
        "post_attention_layernorm.weight": [width],
        "mlp.gate_proj.weight": [inner, width],
        "mlp.up_proj.weight": [inner, width],
        "mlp.down_proj.weight": [width, inner],
    }
    if config.model_type == "qwen2":
        layer |= {f"self_attn.{name}_proj.bias": [size] for name, size in (("q", q), ("k", kv), ("v", kv))}
    if config.model_type == "qwen3":
        layer |= {"self_attn.q_norm.weight": [dim], "self_attn.k_norm.weight": [dim]}
    found = {"model.embed_tokens.weight": [config.vocab_size, width], "model.norm.weight": [width]}
    found["lm_head.weight"] = [config.vocab_size, width]
    for i in range(config.num_hidden_layers):
        found |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    return found


def read_light(folder: Path, config: SimpleNamespace, weights: dict[str, Tensor]) -> LightModel | None:
    """Return a model over ``weights``; None if they are not exactly those that ``config`` asks for."""
    wanted = expected(config)
    given = {name: weights.pop(name) for name in [FREQUENCIES] if name in weights}
    if config.tie_word_embeddings and "model.embed_tokens.weight" in weights:
        weights = weights | {"lm_head.weight": weights["model.embed_tokens.weight"]}
    if set(weights) != set(wanted):
        return None
    check_shapes(folder, weights, wanted)
    return LightModel(config, {name: weights[name] for name in wanted} | given, folder)


def check_shapes(folder: Path, weights: Mapping[str, Tensor], wanted: Mapping[str, list[int]]) -> None:
    """Raise :class:`~autogpt.errors.ModelUnavailable` for a tensor whose shape contradicts the config."""
    for name, shape in wanted.items():
        if list(weights[name].shape) != shape:
            raise ModelUnavailable(
                f"{folder}: {name} has shape {list(weights[name].shape)}, its config.json says "
                f"{shape}: the files do not belong together"
            )


def assemble(config: Any, weights: dict[str, Tensor], folder: Path | None = None) -> Any:
    """Return a transformers module built without memory over ``weights``; None if names do not match."""
    from transformers import AutoModelForCausalLM

    dtype = next(iter(weights.values())).dtype
    with torch.device("meta"):
        model = cast(Any, AutoModelForCausalLM).from_config(config, dtype=dtype)
    state = model.state_dict()
    frequencies = weights.pop(FREQUENCIES, None)
    if config.tie_word_embeddings:
        weights = weights | {"lm_head.weight": weights.get("model.embed_tokens.weight", torch.empty(0))}
    if set(weights) != set(state):
        return None
    check_shapes(folder or Path(), weights, {name: list(value.shape) for name, value in state.items()})
    model.load_state_dict(weights, strict=True, assign=True)
    model.tie_weights()
    # its frequencies are computed when it is built, and on the meta device that is nothing
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
    if frequencies is not None:
        model.model.rotary_emb.inv_freq = frequencies
    embedding = model.model.embed_tokens
    if hasattr(embedding, "embed_scale"):  # Gemma's; built without memory too
        embedding.embed_scale = torch.tensor(embedding.scalar_embed_scale)
    return model
