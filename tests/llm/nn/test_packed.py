"""The packed cache: the second opening maps what the first has made, and answers the same."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.gguf_files import write_gguf
from support.tiny import tiny_module
from transformers import LlamaConfig, Qwen2Config, Qwen3Config

from autogpt.errors import ModelUnavailable
from autogpt.llm.engine.engine import Engine, Request
from autogpt.llm.message import Sampling
from autogpt.llm.nn import low_precision, precision
from autogpt.llm.nn.device import DeviceChoice
from autogpt.llm.nn.forward import FusedForward, Weights
from autogpt.llm.nn.load import load_model
from autogpt.llm.nn.low_precision import PRECISIONS, has_bf16
from autogpt.llm.nn.packed import PackedCache, Writer
from autogpt.llm.nn.precision import PACKED, WIDTHS, open_packed, pack, settle_precision

SHAPE: dict[str, Any] = {
    "vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "initializer_range": 0.15,
}  # fmt: skip
IDS = [(7 * i) % 256 for i in range(40)]
FORMS = ["int8", pytest.param("bfloat16", marks=pytest.mark.skipif(not has_bf16(), reason="no bf16"))]
CONFIGS = {
    "llama": LlamaConfig(**SHAPE),
    "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SHAPE, head_dim=32, tie_word_embeddings=True),
}


def saved(folder: Path, kind: str = "qwen2", seed: int = 0) -> Path:
    model = tiny_module(CONFIGS[kind], seed)
    model.save_pretrained(folder)
    return folder


def whole(folder: Path, width: str, adapter: Path | None = None) -> Engine:
    """Load all of a model in fp32 and convert it in memory."""
    loaded, forward = settle_precision(load_model(folder, "cpu", width, adapter, light=True), IDS, None)
    return Engine(loaded, forward=forward)


def streamed(folder: Path, width: str, cache: Path, adapter: Path | None = None) -> Engine:
    """Load as the first start does, layer by layer, with ``cache`` to fill."""
    found = pack(folder, "cpu", width, adapter, cache, IDS)
    assert found is not None
    return Engine(found[0], forward=found[1])


def mapped(folder: Path, width: str, cache: Path) -> Engine:
    """Load as the second start does."""
    found = open_packed(folder, "cpu", width, None, cache)
    assert found is not None
    return Engine(found[0], forward=found[1])


def lora(folder: Path, module: str, out: int, width: int) -> Path:
    """Write an adapter of rank 2 for one module."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    key, generator = f"base_model.model.{module}", torch.Generator().manual_seed(5)
    parts = {"A": (2, width), "B": (out, 2)}
    weights = {f"{key}.lora_{n}.weight": torch.randn(s, generator=generator) for n, s in parts.items()}
    save_file(weights, str(folder / "adapter_model.safetensors"))
    return folder


def answer(engine: Engine) -> tuple[list[int], list[float]]:
    (found,) = engine.generate([Request("s", IDS, None, Sampling(max_tokens=12))])
    return found.ids, found.logprobs


@pytest.mark.parametrize("width", FORMS)
@pytest.mark.parametrize("kind", list(CONFIGS))
def test_the_second_start_answers_the_same(tmp_path: Path, kind: str, width: str) -> None:
    folder, cache = saved(tmp_path / "model", kind), tmp_path / "cache"
    first, plain = streamed(folder, width, cache), whole(folder, width)
    second = mapped(folder, width, cache)
    assert answer(plain) == answer(first) == answer(second)
    assert second.loaded.fingerprint == first.loaded.fingerprint
    assert second.loaded.numerics == first.loaded.numerics
    assert second.loaded.vocabulary == 256 and second.loaded.released


def test_the_largest_layer_is_packed_while_the_others_take_no_memory(tmp_path: Path) -> None:
    folder, cache = saved(tmp_path / "model"), tmp_path / "cache"
    streamed(folder, "int8", cache)
    second = open_packed(folder, "cpu", "int8", None, cache)
    assert second is not None
    whole_one = settle_precision(load_model(folder, "cpu", "int8", light=True), IDS, None)
    order: list[int] = []

    class Noted(low_precision.Int8):
        def __init__(self, dense: low_precision.Dense) -> None:
            super().__init__(dense)
            self.rows = len(dense.weight)

        def prepare(self) -> None:
            order.append(self.rows)

    form = replace(PRECISIONS["int8"], linear=Noted, swiglu=Noted)
    for (_, forward), place in ((second, 0), (whole_one, -1)):
        assert isinstance(forward, FusedForward)
        order.clear()
        forward.set_precision(form)
        assert len(order) == 9 and order[place] == max(order)


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_a_gguf_file_is_streamed_as_it_is_loaded_whole(tmp_path: Path, kind: str) -> None:
    path = write_gguf(tmp_path / "m.gguf", tiny_module(CONFIGS[kind], 0))
    first = streamed(path, "int8", tmp_path / "cache")
    assert answer(first) == answer(whole(path, "int8")) == answer(mapped(path, "int8", tmp_path / "cache"))


def test_chosen_tokens_have_the_logits_of_the_whole_head(tmp_path: Path) -> None:
    folder, cache = saved(tmp_path / "model"), tmp_path / "cache"
    streamed(folder, "int8", cache)
    found = open_packed(folder, "cpu", "int8", None, cache)
    assert found is not None
    forward = found[1]
    with torch.inference_mode():
        hidden = forward.hidden([(forward.new_cache(), IDS)], every=True)
        some = forward.head(hidden, torch.tensor([3, 9, 200]))
        assert torch.allclose(some, forward.head(hidden)[:, [3, 9, 200]], atol=1e-2)


def test_other_weights_another_precision_and_a_damaged_file_are_not_taken(tmp_path: Path) -> None:
    folder, cache = saved(tmp_path / "model"), tmp_path / "cache"
    streamed(folder, "int8", cache)
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
    expected = answer(streamed(folder, "int8", cache))
    assert answer(mapped(folder, "int8", cache)) == expected


def test_the_least_recently_used_file_gives_way(tmp_path: Path) -> None:
    forward = FusedForward(tiny_module(CONFIGS["qwen2"], 0), CONFIGS["qwen2"])
    weights: Weights = forward.weights

    def fill(writer: Writer) -> None:
        for name in ("norm", "inv_freq"):
            writer.vector(name, getattr(weights, name))
        writer.table("embedding", [weights.embedding.weight[:100], weights.embedding.weight[100:]])
        for layer in weights.layers:
            writer.layer(layer)

    cache = PackedCache(tmp_path)
    for number, name in enumerate("ab"):
        assert cache.save(name, "int8", 1, fill) is not None
        for path in tmp_path.iterdir():
            os.utime(path, (number, number))
    size = next(tmp_path.iterdir()).stat().st_size
    assert cache.load("a", "int8") is not None  # used last
    assert PackedCache(tmp_path, 2 * size).save("c", "int8", 1, fill) is not None
    kept = [name for name in "abc" if cache.load(name, "int8") is not None]
    assert kept == ["a", "c"]
    cache.remove("a", "int8")
    assert cache.load("a", "int8") is None


def test_a_folder_that_cannot_be_written_is_left_to_the_way_through_memory(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / PACKED).write_text("in the way")
    assert pack(folder, "cpu", "int8", None, tmp_path / "cache", IDS) is None


def test_a_precision_that_needs_the_fp32_weights_besides_is_not_packed(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    assert pack(folder, "cpu", "float16", None, tmp_path / "cache", IDS) is None
    assert pack(folder, "cpu", "float32", None, tmp_path / "cache", IDS) is None


@pytest.mark.parametrize("limit", [0.5, 0.0])
def test_the_error_is_measured_on_the_way_as_it_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float
) -> None:
    folder, cache = saved(tmp_path / "model"), tmp_path / "cache"
    choice = DeviceChoice("cpu", "float32", 1, ("int8",))
    monkeypatch.setattr(precision, "probe_device", lambda *_: choice)
    monkeypatch.setattr(precision, "MAX_ERROR", limit)
    found = pack(folder, "cpu", "auto", None, cache, IDS)
    assert (found is not None) == bool(limit)
    assert len(list((cache / PACKED).iterdir())) == bool(limit)
    (kept,) = json.loads((cache / WIDTHS).read_text()).values()
    loaded = replace(load_model(folder, "cpu", "float32"), precisions=("int8",))
    settle_precision(loaded, IDS, tmp_path)
    (known,) = json.loads((tmp_path / WIDTHS).read_text()).values()
    assert kept["int8"] == pytest.approx(known["int8"], rel=1e-3)


@pytest.mark.parametrize(
    ("heavy", "names", "taken"),
    [
        (1 << 30, ("bfloat16", "int8"), "bfloat16"),  # small: the fastest
        (1 << 17, ("bfloat16", "int8"), "int8"),  # 84,000 weights: in 16 bits too large
        (1 << 17, ("float16", "int8"), "int8"),
        (1 << 17, (), "int8"),  # slower than fp32, which is too large
        (1 << 16, ("bfloat16", "int8"), "int8"),  # all are too large: the smallest
        (1 << 30, (), None),
    ],
)
@pytest.mark.skipif(not has_bf16(), reason="no bf16")
def test_a_heavy_model_takes_the_smallest_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heavy: int, names: tuple[str, ...], taken: str | None
) -> None:
    folder = saved(tmp_path / "model")
    monkeypatch.setattr(precision, "probe_device", lambda *_: DeviceChoice("cpu", "float32", 1, names))
    monkeypatch.setattr(precision, "MAX_ERROR", 1.0)
    monkeypatch.setattr(precision, "HEAVY", heavy)
    found = pack(folder, "cpu", "auto", None, tmp_path / "cache", IDS)
    assert (found and found[0].precision) == taken


def test_an_adapter_is_merged_layer_by_layer(tmp_path: Path) -> None:
    folder, cache = saved(tmp_path / "model"), tmp_path / "cache"
    adapter = lora(tmp_path / "adapter", "model.layers.1.mlp.down_proj", 64, 96)
    found = streamed(folder, "int8", cache, adapter)
    assert answer(found) == answer(whole(folder, "int8", adapter))
    assert answer(found) != answer(streamed(folder, "int8", cache))
    head = lora(tmp_path / "head", "model.embed_tokens", 256, 64)
    assert pack(folder, "cpu", "int8", head, cache, IDS) is None
