"""Tiny random models that the engine is tested on, and what transformers itself generates with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from autogpt.llm.nn.load import LoadedModel


def tiny_shape(vocabulary: int, width: int = 32, layers: int = 2, **other: Any) -> dict[str, Any]:
    """Return what Llama, Mistral and Qwen configurations share, four heads in two groups."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": width * 3 // 2,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "initializer_range": 0.15,
        **other,
    }


def tiny_module(config: Any, seed: int) -> Any:
    """Return the module of a transformers configuration, its random weights drawn from ``seed``."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config).eval()  # type: ignore[no-untyped-call]


def tiny_loaded(
    config: Any, seed: int, name: str = "tiny", device: str = "cpu", dtype: torch.dtype = torch.float32
) -> LoadedModel:
    """Return the same ready to decode."""
    model = tiny_module(config, seed).to(device, dtype).requires_grad_(False)
    return LoadedModel(model, config, device, dtype, name, "f", "f", config.vocab_size)


def generated(loaded: LoadedModel, ids: Sequence[int], count: int) -> list[int]:
    """Return the greedy continuation by ``count`` ids, computed from nothing by transformers."""
    model: Any = loaded.model
    given = torch.tensor([list(ids)], device=loaded.device)
    with torch.inference_mode():
        out = model.generate(
            given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=count,
            min_new_tokens=count, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    return [int(token) for token in out[0, len(ids) :]]
