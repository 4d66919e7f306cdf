"""The packed cache: the second opening maps what the first has made, and answers the same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import tiny_module
from transformers import LlamaConfig, Qwen2Config, Qwen3Config

from autogpt.errors import ModelUnavailable
from autogpt.llm.engine.engine import Engine, Request
from autogpt.llm.message import Sampling
from autogpt.llm.nn.forward import FusedForward, Weights
from autogpt.llm.nn.load import load_model
from autogpt.llm.nn.low_precision import PRECISIONS, has_bf16
from autogpt.llm.nn.packed import PackedCache
from autogpt.llm.nn.precision import PACKED, open_packed, settle_precision

SHAPE: dict[str, Any] = {
    "vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "initializer_range": 0.15,
}  # fmt: skip
IDS = [(7 * i) % 256 for i in range(40)]
WIDTHS = ["int8", pytest.param("bfloat16", marks=pytest.mark.skipif(not has_bf16(), reason="no bf16"))]
CONFIGS = {
    "llama": LlamaConfig(**SHAPE),
    "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SHAPE, head_dim=32, tie_word_embeddings=True),
}


def saved(folder: Path, kind: str = "qwen2", seed: int = 0) -> Path:
    model = tiny_module(CONFIGS[kind], seed)
    model.save_pretrained(folder)
    return folder


def settled(folder: Path, width: str, cache: Path | None) -> Engine:
    """Load as the first start does, with ``cache`` to fill."""
    loaded = load_model(folder, "cpu", width, light=True)
    loaded, forward = settle_precision(loaded, IDS, cache, release=True)
    return Engine(loaded, forward=forward)


def mapped(folder: Path, width: str, cache: Path) -> Engine:
    """Load as the second start does."""
    found = open_packed(folder, "cpu", width, None, cache)
    assert found is not None
    return Engine(found[0], forward=found[1])


def answer(engine: Engine) -> tuple[list[int], list[float]]:
    (found,) = engine.generate([Request("s", IDS, None, Sampling(max_tokens=12))])
    return found.ids, found.logprobs


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", list(CONFIGS))
def test_the_second_start_answers_the_same(tmp_path: Path, kind: str, width: str) -> None:
    folder, cache = saved(tmp_path / "model", kind), tmp_path / "cache"
    first, plain = settled(folder, width, cache), settled(folder, width, None)
    second = mapped(folder, width, cache)
    assert answer(plain) == answer(first) == answer(second)
    assert second.loaded.fingerprint == first.loaded.fingerprint
    assert second.loaded.numerics == first.loaded.numerics
    assert second.loaded.vocabulary == 256 and second.loaded.released


def test_chosen_tokens_have_the_logits_of_the_whole_head(tmp_path: Path) -> None:
    folder, cache = saved(tmp_path / "model"), tmp_path / "cache"
    settled(folder, "int8", cache)
    found = open_packed(folder, "cpu", "int8", None, cache)
    assert found is not None
    forward = found[1]
    with torch.inference_mode():
        hidden = forward.hidden([(forward.new_cache(), IDS)], every=True)
        some = forward.head(hidden, torch.tensor([3, 9, 200]))
        assert torch.allclose(some, forward.head(hidden)[:, [3, 9, 200]], atol=1e-2)


def test_other_weights_another_precision_and_a_damaged_file_are_not_taken(tmp_path: Path) -> None:
    folder, cache = saved(tmp_path / "model"), tmp_path / "cache"
    settled(folder, "int8", cache)
    assert open_packed(saved(tmp_path / "other", seed=1), "cpu", "int8", None, cache) is None
    assert open_packed(folder, "cpu", "float16", None, cache) is None
    assert open_packed(folder, "cpu", "float32", None, cache) is None
    assert open_packed(folder, "cpu", "int8", None, tmp_path / "nowhere") is None
    with pytest.raises(ModelUnavailable, match=r"adapter_config\.json"):
        open_packed(folder, "cpu", "int8", tmp_path, cache)
    (path,) = (cache / PACKED).iterdir()
    whole = path.read_bytes()
    for broken in (b"", whole[:-100], whole[:-8] + (1 << 40).to_bytes(8, "little"), whole[4096:]):
        path.write_bytes(broken)
        assert open_packed(folder, "cpu", "int8", None, cache) is None
    expected = answer(settled(folder, "int8", cache))
    assert answer(mapped(folder, "int8", cache)) == expected


def test_the_least_recently_used_file_gives_way(tmp_path: Path) -> None:
    forward = FusedForward(tiny_module(CONFIGS["qwen2"], 0), CONFIGS["qwen2"])
    weights: Weights = forward.weights
    cache = PackedCache(tmp_path)
    for number, name in enumerate("ab"):
        assert cache.save(weights, name, "int8", PRECISIONS["int8"])
        for path in tmp_path.iterdir():
            os.utime(path, (number, number))
    size = next(tmp_path.iterdir()).stat().st_size
    assert cache.load("a", "int8") is not None  # used last
    assert PackedCache(tmp_path, 2 * size).save(weights, "c", "int8", PRECISIONS["int8"])
    kept = [name for name in "abc" if cache.load(name, "int8") is not None]
    assert kept == ["a", "c"]


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / PACKED).write_text("in the way")
    assert answer(settled(folder, "int8", tmp_path / "cache")) == answer(settled(folder, "int8", None))
