"""Loading: what comes out equals transformers, adapters equal PEFT, and broken folders say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import tiny_module
from transformers import AutoConfig, GPT2Config, LlamaConfig

from autogpt.errors import ModelUnavailable, UsageError
from autogpt.llm.engine.engine import Engine
from autogpt.llm.nn import device
from autogpt.llm.nn.device import measure, physical_cores, probe_device
from autogpt.llm.nn.light_loader import LightModel, light_config
from autogpt.llm.nn.load import load_model, weights_fingerprint

VOCABULARY = 257


def tiny_llama(**extra: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        **extra,
    )


def save(folder: Path, config: Any, seed: int = 0) -> Any:
    model = tiny_module(config, seed)
    model.save_pretrained(folder)
    return model


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(torch.tensor([ids])).logits[0]
        return found.float()


@pytest.mark.parametrize("tied", [True, False])
def test_fast_loading_gives_the_same_model_as_transformers(tmp_path: Path, tied: bool) -> None:
    saved = save(tmp_path, tiny_llama(tie_word_embeddings=tied))
    loaded = load_model(tmp_path, device="cpu", dtype="float32")
    assert torch.equal(logits(loaded.model, [1, 2, 3]), logits(saved, [1, 2, 3]))
    assert loaded.vocabulary == VOCABULARY and not loaded.model.training
    whole: Any = loaded.whole()
    whole.save_pretrained(tmp_path / "again")
    assert weights_fingerprint(tmp_path / "again") == loaded.fingerprint


def adapter(model: Any, folder: Path, targets: list[str], **extra: Any) -> torch.Tensor:
    """Save a random PEFT adapter; returns the logits of the adapted model for three ids."""
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=12, target_modules=targets, **extra))
    torch.manual_seed(5)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    wrapped.save_pretrained(str(folder))
    return logits(wrapped.eval(), [7, 8, 9])


@pytest.mark.parametrize(
    "extra", [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 7}}]
)
def test_merged_adapter_equals_peft(tmp_path: Path, extra: dict[str, Any]) -> None:
    model = save(tmp_path / "base", tiny_llama())
    expected = adapter(model, tmp_path / "lora", ["q_proj", "down_proj"], **extra)
    loaded = load_model(tmp_path / "base", "cpu", "float32", adapter=tmp_path / "lora")
    plain = load_model(tmp_path / "base", "cpu", "float32")
    assert (logits(loaded.model, [7, 8, 9]) - expected).abs().max() < 1e-5
    assert (logits(plain.model, [7, 8, 9]) - expected).abs().max() > 1e-3
    assert loaded.base_fingerprint == plain.fingerprint != loaded.fingerprint


def test_transposed_weights_of_gpt2_are_merged_too(tmp_path: Path) -> None:
    model = save(tmp_path / "base", GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2))
    expected = adapter(model, tmp_path / "lora", ["c_attn"], fan_in_fan_out=True)
    loaded = load_model(tmp_path / "base", "cpu", "float32", adapter=tmp_path / "lora")
    assert (logits(loaded.model, [7, 8, 9]) - expected).abs().max() < 1e-5


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    model = save(tmp_path / "base", tiny_llama())
    save(tmp_path / "other", tiny_llama(), seed=1)
    adapter(model, tmp_path / "lora", ["q_proj"])
    card = {"base_sha256": weights_fingerprint(tmp_path / "base")}
    (tmp_path / "lora" / "autogpt.json").write_text(json.dumps(card))
    load_model(tmp_path / "base", "cpu", "float32", adapter=tmp_path / "lora")
    with pytest.raises(ModelUnavailable, match="trained on another base"):
        load_model(tmp_path / "other", "cpu", "float32", adapter=tmp_path / "lora")


def test_an_adapter_of_another_shape_is_refused(tmp_path: Path) -> None:
    adapter(save(tmp_path / "base", tiny_llama()), tmp_path / "lora", ["q_proj"])
    wider = tiny_llama(head_dim=32)
    save(tmp_path / "wider", wider)
    with pytest.raises(ModelUnavailable, match="does not fit"):
        load_model(tmp_path / "wider", "cpu", "float32", adapter=tmp_path / "lora")


def test_broken_folders_are_one_clear_line(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with pytest.raises(ModelUnavailable, match="no model folder"):
        load_model(folder, "cpu", "float32")
    save(folder, tiny_llama())
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for part in (len(whole) - 100, 300, 4):
        weights.write_bytes(whole[:part])
        with pytest.raises(ModelUnavailable, match="damaged") as caught:
            load_model(folder, "cpu", "float32")
        assert "\n" not in str(caught.value) and str(weights) in str(caught.value)
    weights.unlink()
    with pytest.raises(ModelUnavailable, match="no weights"):
        load_model(folder, "cpu", "float32")
    (folder / "config.json").unlink()
    weights.write_bytes(whole)
    with pytest.raises(ModelUnavailable, match=r"config\.json"):
        load_model(folder, "cpu", "float32")


def test_config_and_weights_that_disagree_are_refused(tmp_path: Path) -> None:
    save(tmp_path, tiny_llama())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 80}))
    with pytest.raises(ModelUnavailable, match="do not belong together"):
        load_model(tmp_path, "cpu", "float32")


def test_a_hub_name_without_network_says_so() -> None:
    with pytest.raises(ModelUnavailable, match="could not be fetched"):
        load_model("nobody/no-such-model", "cpu", "float32")


def test_wrong_device_or_dtype_is_a_usage_error() -> None:
    for place, dtype in (("tpu", "auto"), ("cpu", "int3")):
        with pytest.raises(UsageError):
            probe_device(place, dtype)


def test_the_probe_keeps_its_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "measure", lambda threads: (measure(threads)[0], True))
    monkeypatch.setattr(device, "chip", lambda: "a chip of this test")
    first = probe_device("cpu", "auto", tmp_path)
    assert first.dtype == "float32" and 1 <= first.threads <= physical_cores()
    stored = tmp_path / "probe.json"
    turned = json.loads(stored.read_text())
    (key,) = turned
    times = {"float32": 9.0, "one thread": 5.0, "all threads": 9.0, "int8": 1.0}
    stored.write_text(json.dumps({key: times}))
    again = probe_device("cpu", "auto", tmp_path)
    assert (again.dtype, again.threads, again.precisions) == ("float32", 1, ("int8",))
    stored.write_text("broken")
    assert probe_device("cpu", "auto", tmp_path).dtype == "float32"
    assert json.loads(stored.read_text())


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_plain_loading_gives_the_same_model_without_transformers(tmp_path: Path, kind: str) -> None:
    shape: dict[str, Any] = {
        "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "tie_word_embeddings": kind == "qwen3",
    }  # fmt: skip
    config = AutoConfig.for_model(kind, **shape)
    saved = save(tmp_path, config)
    loaded = load_model(tmp_path, "cpu", "float32", light=True)
    assert isinstance(loaded.model, LightModel)
    ids = [1, 5, 9, 3]
    expected = logits(saved, ids)
    assert (Engine(loaded).logits(ids) - expected).abs().max() < 1e-5
    assert (logits(loaded.whole(), ids) - expected).abs().max() < 1e-5
    slow = load_model(tmp_path, "cpu", "float32")
    assert (loaded.fingerprint, loaded.vocabulary) == (slow.fingerprint, slow.vocabulary)


@pytest.mark.parametrize(
    "change",
    [
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
        {"hidden_act": "gelu"},
        {"attention_bias": True},
        {"rms_norm_eps": None},
        {"sliding_window": 8},
        {"model_type": "gpt2"},
        {"quantization_config": {"bits": 4}},
    ],
)
def test_what_is_not_plain_is_left_to_transformers(tmp_path: Path, change: dict[str, Any]) -> None:
    AutoConfig.for_model("llama", head_dim=8).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    assert light_config(tmp_path) is not None
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert light_config(tmp_path) is None
    path.write_text("{")
    assert light_config(tmp_path) is None
