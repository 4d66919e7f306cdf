"""Tiny GGUF files, written as llama.cpp's converter does from transformers models and tokenizers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)


class Vocabulary:
    """What a file says of its tokens; by default five words and an end, byte-level."""

    def __init__(
        self,
        tokens: Sequence[str] = ("a", "b", "c", "ab", "abc", "<end>"),
        kinds: Sequence[int] | None = None,
        merges: Sequence[str] = ("a b", "ab c"),
        scores: Sequence[float] | None = None,
        model: str = "gpt2",
        pre: str = "qwen2",
        **other: Any,
    ) -> None:
        self.tokens, self.merges, self.scores, self.model, self.pre = tokens, merges, scores, model, pre
        self.kinds = kinds or [NORMAL] * (len(tokens) - 1) + [CONTROL]
        self.other = {"eos_token_id": len(tokens) - 1, **other}

    @classmethod
    def of(cls, document: Mapping[str, Any], **other: Any) -> Vocabulary:
        """Return the vocabulary of a ``tokenizer.json``."""
        vocabulary: dict[str, int] = dict(document["model"]["vocab"])
        added = {token["content"]: token for token in document["added_tokens"]}
        vocabulary |= {text: token["id"] for text, token in added.items()}
        size = max(vocabulary.values()) + 1
        tokens, kinds = [f"[PAD{i}]" for i in range(size)], [UNUSED] * size
        for text, number in vocabulary.items():
            tokens[number], kinds[number] = text, NORMAL
            if text in added:
                kinds[number] = CONTROL if added[text]["special"] else USER
        merges = [" ".join(pair) for pair in document["model"]["merges"]]
        return cls(tokens, kinds, merges, **other)

    def write(self, writer: Any) -> None:
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(list(self.tokens))
        writer.add_token_types(list(self.kinds))
        if self.scores is not None:
            writer.add_token_scores(list(self.scores))
        else:
            writer.add_token_merges(list(self.merges))
        for name, value in self.other.items():
            if name == "chat_template":
                writer.add_chat_template(value)
            elif isinstance(value, bool):
                writer.add_bool(f"tokenizer.ggml.{name}", value)
            else:
                writer.add_uint32(f"tokenizer.ggml.{name}", value)


def write_gguf(
    path: Path,
    model: Any,
    kind: str = "F32",
    architecture: str | None = None,
    vocabulary: Vocabulary | None = None,
    extra: Mapping[str, NDArray[np.float32]] | None = None,
    settings: Mapping[str, Any] | None = None,
    endianess: gguf.GGUFEndian = gguf.GGUFEndian.LITTLE,
) -> Path:
    """Write ``model`` (a transformers module) to ``path``; matrices as ``kind``, vectors in fp32."""
    config = model.config
    name = architecture or {"mistral": "llama", "gemma3_text": "gemma3"}.get(
        config.model_type, config.model_type
    )
    writer = gguf.GGUFWriter(path, name, endianess=endianess)
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(dim)
    writer.add_value_length(dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    for key, value in (settings or {}).items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_uint32(key, value)
    (vocabulary or Vocabulary()).write(writer)
    number = next(key for key, known in gguf.MODEL_ARCH_NAMES.items() if known == name)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        data: NDArray[np.float32] = tensor.float().numpy()
        if name == "llama" and key.split(".")[-2] in ("q_proj", "k_proj"):
            data = pairs(data, config.num_attention_heads if "q_proj" in key else config.num_key_value_heads)
        if name == "gemma3" and key.endswith("norm.weight"):
            data = data + 1
        add(writer, str(names.get_name(key, try_suffixes=(".weight", ".bias"))), data, kind)
    for key, data in (extra or {}).items():
        add(writer, key, data, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer: Any, name: str, data: NDArray[np.float32], kind: str) -> None:
    """Add a tensor to a file that is being written."""
    if data.ndim == 1:
        writer.add_tensor(name, np.ascontiguousarray(data, np.float32))
    else:
        wanted = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(data), wanted), raw_dtype=wanted)


def pairs(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Reorder each head's rows from halves to neighbouring pairs, as llama.cpp wants Llama's."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def read_json(folder: Path) -> dict[str, Any]:
    """Return a folder's ``tokenizer.json``."""
    found: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return found
