"""A new, empty model from one dial: its depth fixes width, heads and everything else.

The shape is Qwen3's (RoPE, RMSNorm, QK-norm, grouped heads, SwiGLU, tied embeddings), so that every
runtime that serves Qwen3 serves ours. The tokenizer is a byte-level BPE with Qwen2's way of cutting
text, trained on the texts that the model will read; the framing tokens have the ids that they have
in ``small``. Limits: width grows as 48 a layer, which is sensible from 2 to about 20 layers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...text.tokenizer import (
    CALL_CLOSE,
    CALL_OPEN,
    END,
    RESULT_CLOSE,
    RESULT_OPEN,
    START,
    chat_template,
)

NOTHING = "<|endoftext|>"
_CONTROL = (NOTHING, START, END)
_FRAMES = (CALL_OPEN, CALL_CLOSE, RESULT_OPEN, RESULT_CLOSE)
_QWEN2_CUTS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_HEAD = 32


def build_tokenizer(texts: Iterable[str], vocabulary: int, folder: Path) -> None:
    """Train a tokenizer of ``vocabulary`` tokens on ``texts`` and write it with the chat template."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_CUTS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token in _CONTROL]
    special += [AddedToken(token, special=False, normalized=False) for token in _FRAMES]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    data = json.loads(tokenizer.to_str())
    for token in data["added_tokens"]:  # the trainer marks all of them special; frames must be decoded
        token["special"] = token["content"] in _CONTROL
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": END,
        "pad_token": NOTHING,
        "model_max_length": 4096,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(chat_template(), encoding="utf-8")


def build_model(depth: int, vocabulary: int, seed: int) -> Any:
    """Return a new Qwen3 model with random weights: ``depth`` layers, everything else from it."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    width = 64 * max(1, round(depth * 48 / 64))
    heads = width // _HEAD
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=64 * round(width * 8 / 3 / 64),
            num_hidden_layers=depth,
            num_attention_heads=heads,
            num_key_value_heads=next(n for n in (heads // 3, heads // 2, heads) if n and heads % n == 0),
            head_dim=_HEAD,
            max_position_embeddings=4096,
            rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=2,
            pad_token_id=0,
        )
    )
