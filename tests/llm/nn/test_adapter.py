"""Adapters in int8: half the size, nearly the same weights; damage is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from autogpt.errors import ModelUnavailable
from autogpt.llm.nn.adapter import WEIGHTS, merge_adapter, read_adapter, write_int8

_NAME = "base_model.model.layer"


def _weights(rank: int = 8, width: int = 256, out: int = 320) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(rank, width, generator=generator), torch.randn(out, rank, generator=generator)
    spread = torch.logspace(-2, 1, rank)  # a rank's directions differ in size
    return {f"{_NAME}.lora_A.weight": a * spread[:, None], f"{_NAME}.lora_B.weight": b / spread}


def _folder(place: Path, rank: int = 8) -> Path:
    place.mkdir()
    (place / "adapter_config.json").write_text(f'{{"peft_type": "LORA", "r": {rank}, "lora_alpha": {rank}}}')
    return place


def _merged(folder: Path) -> torch.Tensor:
    model = nn.Module()
    model.layer = nn.Linear(256, 320, bias=False)
    nn.init.zeros_(model.layer.weight)
    merge_adapter(model, folder)
    return model.layer.weight.detach()


def test_int8_weights_merge_to_nearly_the_same_and_take_half_the_space(tmp_path: Path) -> None:
    exact, small = _folder(tmp_path / "exact"), _folder(tmp_path / "small")
    weights = _weights()
    save_file({name: tensor.half() for name, tensor in weights.items()}, exact / WEIGHTS)
    write_int8(small, weights)
    wanted = _merged(exact)
    assert (_merged(small) - wanted).norm() / wanted.norm() < 0.015
    assert (small / WEIGHTS).stat().st_size < 0.6 * (exact / WEIGHTS).stat().st_size


def test_int8_weights_are_read_as_numbers_of_their_own_scale(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "one")
    weights = _weights()
    write_int8(folder, weights)
    _, found = read_adapter(folder)
    assert found.keys() == weights.keys()
    for name, tensor in weights.items():
        step = tensor.abs().amax(1 if "lora_A" in name else 0, keepdim=True) / 127
        assert ((found[name] - tensor).abs() <= step * 0.51).all()


def test_int8_weights_without_their_scales_are_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "one")
    write_int8(folder, _weights())
    stored = load_file(folder / WEIGHTS)
    save_file({name: tensor for name, tensor in stored.items() if "scale" not in name}, folder / WEIGHTS)
    with pytest.raises(ModelUnavailable, match="has no scales"):
        merge_adapter(nn.Module(), folder)
