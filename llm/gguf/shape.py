"""The shape of a GGUF file's model, in the words of a Hugging Face configuration.

Read are the architectures ``llama`` (Llama 1 to 3, Mistral, SmolLM and others of that shape), ``qwen2``,
``qwen3`` and ``gemma3`` (text). What a file leaves out has the default that llama.cpp gives it; what we would
compute wrongly (experts, partial rotation, a scaling that we do not know) is refused by name.
"""

from __future__ import annotations

from typing import Any

from ...errors import ModelUnavailable
from .header import Header

MODEL_TYPES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3": "gemma3_text"}
"""Architectures that are read, and what transformers calls them."""
VOCABULARY = tuple(f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type", "merges"))
"""Metadata that the shape does not need, most of the header."""

_OTHER = {
    "clip": "the image part of a model (mmproj)",
    "mmproj": "the image part of a model (mmproj)",
    "bert": "an embedding model",
    "nomic-bert": "an embedding model",
    "t5encoder": "an embedding model",
}


def check_complete(header: Header, any_shape: bool = False) -> None:
    """Raise :class:`~autogpt.errors.ModelUnavailable` unless the file is one whole model of a known shape.

    With ``any_shape`` the shape need not be known: the tokenizer, and llama.cpp, do not depend on it.
    """
    path, name = header.path, header.architecture
    parts = header.metadata.get("split.count", 1)
    if isinstance(parts, int) and parts > 1:
        number = header.metadata.get("split.no", 0)
        raise ModelUnavailable(
            f"{path} is part {number + 1} of {parts} of a split file: join them first "
            "(llama-gguf-split --merge FIRST_PART WHOLE), then give the whole"
        )
    if header.metadata.get("general.type") == "adapter":
        raise ModelUnavailable(f"{path} is an adapter (LoRA), not a model: give its base, or a merged model")
    if name not in MODEL_TYPES and (name in _OTHER or not any_shape):
        what = _OTHER.get(name, f"a model of architecture {name!r}" if name else "of no named architecture")
        raise ModelUnavailable(f"{path} is {what}; supported are {', '.join(MODEL_TYPES)}")
    if "token_embd.weight" not in header.tensors:
        raise ModelUnavailable(f"{path} holds no model weights (a vocabulary alone?): fetch the model's file")


def settings(header: Header) -> dict[str, Any]:
    """Return what ``config.json`` would say of a file that :func:`check_complete` lets pass.

    ``tie_word_embeddings`` is whether the file has no output matrix of its own.
    """
    check_complete(header)
    width = count(header, "embedding_length")
    heads = count(header, "attention.head_count")
    dim = count(header, "attention.key_length", width // heads)
    layers = count(header, "block_count")
    if layers > len(header.tensors):
        raise ModelUnavailable(f"{header.path}: {layers} layers cannot be in {len(header.tensors)} tensors")
    found = {
        "model_type": MODEL_TYPES[header.architecture],
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": count(header, "feed_forward_length"),
        "max_position_embeddings": count(header, "context_length"),
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": count(header, "attention.head_count_kv", heads),
        "head_dim": dim,
        "rms_norm_eps": _real(header, "attention.layer_norm_rms_epsilon", 1e-6),
        "vocab_size": header.tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "rope_parameters": _rope(header),
    }
    for key, odd in (("attention.value_length", dim), ("rope.dimension_count", dim), ("expert_count", 0)):
        value = header.of(key, odd)
        if value not in (odd, None):
            raise ModelUnavailable(
                f"{header.path}: {header.architecture}.{key} is {value}, which is not supported: "
                "take another model"
            )
    if header.architecture == "gemma3":
        found |= _gemma(header, found)
    elif header.of("attention.sliding_window"):  # Mistral 7B 0.1
        found |= {"sliding_window": count(header, "attention.sliding_window")}
    return found


def _gemma(header: Header, found: dict[str, Any]) -> dict[str, Any]:
    """Return what only Gemma 3 has: five layers with a window, then one with full attention."""
    layers, width, heads = (found[f] for f in ("num_hidden_layers", "hidden_size", "num_attention_heads"))
    local = {"rope_type": "default", "rope_theta": _real(header, "rope.freq_base_swa", 10_000.0)}
    kinds = ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(layers)]
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_act": "gelu_pytorch_tanh",
        "sliding_window": count(header, "attention.sliding_window", 1024),
        "layer_types": kinds,
        "rope_parameters": {"full_attention": found["rope_parameters"], "sliding_attention": local},
        # the 27B model divides by the width that a head has in the embedding, the others by a head's own
        "query_pre_attn_scalar": width // heads if layers == 62 else found["head_dim"],
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
    }


def count(header: Header, key: str, default: int | None = None) -> int:
    """Return a positive whole number of the shape; a list of equal ones, one a layer, counts as one."""
    value = header.of(key, default)
    if isinstance(value, list) and len(set(value)) == 1:
        value = value[0]
    if isinstance(value, list):
        raise ModelUnavailable(f"{header.path}: layers of different shapes ({key}) are not supported")
    if not isinstance(value, int) or not 0 < value < 1 << 32:
        raise ModelUnavailable(
            f"{header.path}: {header.architecture}.{key} is {value!r}: the file is damaged; fetch it again"
        )
    return value


def _real(header: Header, key: str, default: float) -> float:
    """Return a positive number of the shape."""
    value = header.of(key, default)
    if not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ModelUnavailable(
            f"{header.path}: {header.architecture}.{key} is {value!r}: the file is damaged; fetch it again"
        )
    return float(value)


def _rope(header: Header) -> dict[str, Any]:
    """Return the rotary positions; Llama 3's factors are a tensor of their own (``rope_freqs.weight``)."""
    theta = _real(header, "rope.freq_base", 10_000.0)
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    kind, factor = header.of("rope.scaling.type", "none"), _real(header, "rope.scaling.factor", 1.0)
    if kind == "none" and header.of("rope.scale_linear"):  # the key of early files
        kind, factor = "linear", _real(header, "rope.scale_linear", 1.0)
    if kind == "none" or factor == 1.0:
        return found
    if kind == "linear":
        return found | {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        before = count(header, "rope.scaling.original_context_length")
        yarn = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": before}
        return found | yarn
    raise ModelUnavailable(f"{header.path}: rotary scaling {kind!r} is not supported (linear and yarn are)")
