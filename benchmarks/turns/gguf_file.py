"""Writes the merged model as a GGUF file, so that llama.cpp runs on the same weights.

Llama and Qwen3 shapes, tied or untied heads, byte-level BPE. Matrices get the width that is asked for,
norms stay fp32. llama.cpp rotates neighbouring pairs in Llama shapes where transformers rotates halves,
so the rows of the query and key projections are put in its order, as its own converter does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
_PAIRED = {"llama": True, "qwen3": False}
"""Whether llama.cpp rotates neighbouring pairs in this architecture."""


def write_gguf(model: Any, config: Any, folder: Path, path: Path, width: str) -> None:
    """Write ``model`` (a transformers module in fp32) with ``folder``'s tokenizer to ``path``."""
    import gguf

    kind = str(config.model_type)
    if kind not in _PAIRED:
        raise SystemExit(f"cannot write {kind} as GGUF: only {', '.join(_PAIRED)}")
    writer = gguf.GGUFWriter(path, kind)
    _about(writer, config)
    _vocabulary(writer, folder, config)
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == kind)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    target = gguf.GGMLQuantizationType[KINDS[width]]
    for key, value in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise SystemExit(f"no GGUF name for {key}")
        data: NDArray[np.float32] = value.float().numpy()
        if _PAIRED[kind] and key.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in key else config.num_key_value_heads
            data = _pairs(data, heads)
        if data.ndim == 1:
            writer.add_tensor(name, np.ascontiguousarray(data))
        else:
            writer.add_tensor(name, gguf.quants.quantize(data, target), raw_dtype=target)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _about(writer: Any, config: Any) -> None:
    """Write the shape."""
    rope = config.rope_parameters
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name("benchmark")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(dim)
    writer.add_value_length(dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    writer.add_rope_dimension_count(dim)
    writer.add_vocab_size(config.vocab_size)


def _vocabulary(writer: Any, folder: Path, config: Any) -> None:
    """Write the tokens; prompts are given as ids, but its grammar needs their texts."""
    import gguf

    from autogpt.llm.text.tokenizer import ChatTokenizer

    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    texts = [f"[UNUSED{i}]" for i in range(config.vocab_size)]
    kinds = [int(gguf.TokenType.UNUSED)] * config.vocab_size
    for text, number in tokenizer["model"]["vocab"].items():
        texts[number], kinds[number] = text, int(gguf.TokenType.NORMAL)
    for token in tokenizer["added_tokens"]:
        texts[token["id"]] = token["content"]
        kinds[token["id"]] = int(gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]]
    end = ChatTokenizer(folder).eos_id
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)


def _pairs(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Reorder the rows of each head from halves to neighbouring pairs; ``weight [heads * D, width]``."""
    rows, width = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, width)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, width))
