"""Shapes of the tiny random models that the engine is tested on."""

from __future__ import annotations

from typing import Any


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
