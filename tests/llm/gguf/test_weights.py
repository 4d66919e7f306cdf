"""Models from GGUF files: each architecture computes what transformers computes on the same weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from support.gguf_files import write_gguf
from support.tiny import tiny_module, tiny_shape
from transformers import Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from autogpt.errors import ModelUnavailable
from autogpt.llm.gguf.blocks import dequantise
from autogpt.llm.gguf.header import BLOCKS
from autogpt.llm.nn.build import make_forward
from autogpt.llm.nn.load import LoadedModel, load_model, weights_fingerprint

IDS = [3, 17, 4, 250, 9, 9, 31, 2, 88, 61]


def shape(**other: Any) -> dict[str, Any]:
    return tiny_shape(256, width=64, **{"intermediate_size": 128, "tie_word_embeddings": False, **other})


def logits(loaded: LoadedModel) -> torch.Tensor:
    """Return the logits of all positions as the engine's forward computes them."""
    forward = make_forward(loaded.model, loaded.config)
    with torch.inference_mode():
        hidden = forward.hidden([(forward.new_cache(), IDS)], every=True)
        return forward.head(hidden)


def expected(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(torch.tensor([IDS])).logits[0]
        return found


CONFIGS = {
    "llama": LlamaConfig(**shape(rope_theta=10_000.0)),
    "mistral": MistralConfig(**shape(head_dim=32, sliding_window=None)),
    "qwen2": Qwen2Config(**shape()),
    "qwen3": Qwen3Config(**shape(head_dim=32)),
}


@pytest.mark.parametrize("light", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_common_shapes_compute_what_transformers_computes(tmp_path: Path, name: str, light: bool) -> None:
    model = tiny_module(CONFIGS[name], 3)
    path = write_gguf(tmp_path / "m.gguf", model)
    loaded = load_model(path, "cpu", "float32", light=light)
    assert (logits(loaded) - expected(model)).abs().max() < 1e-4
    assert loaded.vocabulary == 256
    whole = loaded.whole()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in whole.state_dict().items())
    assert (expected(whole) - expected(model)).abs().max() < 1e-4


def test_gemma_3_goes_through_its_own_module(tmp_path: Path) -> None:
    config = Gemma3TextConfig(
        **shape(tie_word_embeddings=True, num_hidden_layers=7, sliding_window=4, query_pre_attn_scalar=16),
        head_dim=16,
    )
    model = tiny_module(config, 4)
    settings = {"gemma3.attention.sliding_window": 4, "gemma3.rope.freq_base": 1_000_000.0}
    path = write_gguf(tmp_path / "m.gguf", model, settings=settings)
    loaded = load_model(path, "cpu", "float32", light=True)
    assert (logits(loaded) - expected(model)).abs().max() < 1e-4


def test_scaled_positions_are_kept_as_stored(tmp_path: Path) -> None:
    scaled = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0}
    scaled |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    model = tiny_module(LlamaConfig(**shape(rope_parameters=scaled)), 5)
    plain = 1.0 / 500.0 ** (np.arange(0, 16, 2) / 16)
    factors = (plain / model.model.rotary_emb.inv_freq.numpy()).astype(np.float32)
    path = write_gguf(
        tmp_path / "m.gguf",
        model,
        extra={"rope_freqs.weight": factors},
        settings={"llama.rope.freq_base": 500.0},
    )
    for light in (True, False):
        loaded = load_model(path, "cpu", "float32", light=light)
        assert (logits(loaded) - expected(model)).abs().max() < 1e-4
        assert (expected(loaded.whole()) - expected(model)).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_positions_scaled_by_a_factor(tmp_path: Path, kind: str) -> None:
    rope = {"rope_type": kind, "rope_theta": 10_000.0, "factor": 4.0}
    settings = {"qwen2.rope.scaling.type": kind, "qwen2.rope.scaling.factor": 4.0}
    if kind == "yarn":
        rope |= {"original_max_position_embeddings": 256}
        settings |= {"qwen2.rope.scaling.original_context_length": 256}
    model = tiny_module(Qwen2Config(**shape(rope_parameters=rope)), 6)
    path = write_gguf(tmp_path / "m.gguf", model, settings=settings)
    loaded = load_model(path, "cpu", "float32", light=True)
    assert (logits(loaded) - expected(model)).abs().max() < 1e-4


def test_a_matrix_that_is_stored_twice_is_used_for_both_in_its_finer_blocks(tmp_path: Path) -> None:
    model = tiny_module(Qwen2Config(**shape(tie_word_embeddings=True)), 7)
    matrix = model.model.embed_tokens.weight.detach().numpy()
    finer = gguf.quants.quantize(matrix, gguf.GGMLQuantizationType.Q8_0)
    rounded = gguf.quants.dequantize(finer, gguf.GGMLQuantizationType.Q8_0)
    path = write_gguf(tmp_path / "twice.gguf", model, extra={"output.weight": rounded})
    loaded = load_model(path, "cpu", "float32", light=True)
    body: Any = loaded.model
    assert body.lm_head.weight is body.model.embed_tokens.weight
    assert torch.equal(body.lm_head.weight, torch.from_numpy(rounded))


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_0", "Q8_0", "F16", "BF16"])
def test_quantised_matrices_load_close_to_the_original(tmp_path: Path, kind: str) -> None:
    model = tiny_module(CONFIGS["qwen2"], 8)
    loaded = load_model(write_gguf(tmp_path / "m.gguf", model, kind), "cpu", "float32", light=True)
    found, exact = logits(loaded), expected(model)
    assert (found - exact).std() < 0.5 * exact.std()
    weights = dict(loaded.model.named_parameters())
    for name, value in model.named_parameters():
        assert (weights[name] - value).abs().max() <= 0.2 * value.abs().max(), name


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_give_the_bits_that_the_gguf_package_gives(kind: str) -> None:
    _, weights, size = BLOCKS[kind]
    generator = np.random.default_rng(1)
    raw = generator.integers(0, 256, (64, size), np.uint8)
    wanted = gguf.GGMLQuantizationType[kind]
    with np.errstate(all="ignore"):  # some random scales are infinite
        found = dequantise(torch.from_numpy(raw.reshape(-1).copy()), kind).float()
        exact = np.asarray(gguf.quants.dequantize(raw.reshape(1, -1), wanted), np.float32).reshape(-1)
    assert found.shape == (64 * weights,)
    assert np.array_equal(found.numpy(), exact, equal_nan=True)


def test_the_fingerprint_changes_with_weights_and_metadata(tmp_path: Path) -> None:
    model = tiny_module(CONFIGS["qwen2"], 9)
    first = weights_fingerprint(write_gguf(tmp_path / "1.gguf", model))
    assert first == weights_fingerprint(write_gguf(tmp_path / "2.gguf", model))
    named = write_gguf(tmp_path / "3.gguf", model, settings={"general.name": "another"})
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] += 1
    changed = write_gguf(tmp_path / "4.gguf", model)
    assert len({first, weights_fingerprint(named), weights_fingerprint(changed)}) == 3


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", tiny_module(CONFIGS["qwen2"], 9))
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    (tmp_path / "lora" / "autogpt.json").write_text('{"base_sha256": "0123"}')
    (tmp_path / "lora" / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelUnavailable, match="trained on another base"):
        load_model(path, "cpu", "float32", adapter=tmp_path / "lora", light=True)


def test_transformers_is_not_imported(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", tiny_module(CONFIGS["qwen2"], 9))
    code = (
        "import sys; from pathlib import Path; from autogpt.llm.nn.load import load_model; "
        "from autogpt.llm.text.tokenizer import ChatTokenizer; path = Path(sys.argv[1]); "
        "load_model(path, 'cpu', 'float32', light=True); ChatTokenizer(path); "
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
