"""The base's GGUF file becomes the tensors that transformers' Llama has, without its own reader."""

from __future__ import annotations

from pathlib import Path

import torch
from gguf import GGUFWriter
from support.tiny import tiny_shape
from transformers import LlamaConfig, LlamaForCausalLM

from autogpt.llm.fetch.small import _NAMES, _weights


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Return query or key weights as GGUF keeps them: the halves of each head's rotary pairs in turn."""
    rows, width = weight.shape
    return weight.view(heads, 2, rows // heads // 2, width).transpose(1, 2).reshape(rows, width)


def test_a_gguf_file_gives_the_weights_that_were_written(tmp_path: Path) -> None:
    config = LlamaConfig(**tiny_shape(64), tie_word_embeddings=True)
    state = LlamaForCausalLM(config).state_dict()
    writer = GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", state["model.norm.weight"].numpy())
    heads = {"attn_q": 4, "attn_k": 2}  # of tiny_shape
    for layer in range(config.num_hidden_layers):
        for short, name in _NAMES.items():
            weight = state[f"model.layers.{layer}.{name}.weight"]
            kept = interleaved(weight, heads[short]) if short in heads else weight
            writer.add_tensor(f"blk.{layer}.{short}.weight", kept.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = _weights(tmp_path / "tiny.gguf", config)
    assert found.keys() == state.keys() - {"lm_head.weight"}
    assert all(torch.equal(found[name], state[name]) for name in found)
