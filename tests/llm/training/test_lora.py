"""Layers that training computes by functions of its own give the losses and gradients of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autogpt.llm.training import lora


def _model(kind: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        kind, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=300, tie_word_embeddings=True, head_dim=16,
    )  # fmt: skip
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config).eval()  # type: ignore[no-untyped-call]
    adapter = lora.add_adapter(model, 4, 8, "tiny")
    torch.manual_seed(4)
    for layer in adapter.layers.values():
        nn.init.normal_(layer.lora_B, std=0.05)
    return model


def _loss_and_gradients(model: Any, ids: Tensor) -> tuple[float, dict[str, Tensor]]:
    loss = model(ids, labels=ids).loss
    loss.backward()
    return float(loss.detach()), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_own_layers_give_the_losses_and_gradients_of_transformers(kind: str) -> None:
    ids = torch.randint(0, 300, (3, 40), generator=torch.Generator().manual_seed(5))
    theirs, ours = _model(kind), _model(kind)
    lora.use_own_layers(ours)
    assert any(isinstance(part, lora.GatedMLP) for part in ours.modules())
    wanted_loss, wanted = _loss_and_gradients(theirs, ids)
    loss, found = _loss_and_gradients(ours, ids)
    assert loss == pytest.approx(wanted_loss, abs=1e-5)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, atol=1e-5, rtol=1e-3), name


def test_a_vocabulary_in_pieces_gives_the_same_loss_and_gradient() -> None:
    torch.manual_seed(6)
    head = nn.Linear(32, 500, bias=False).requires_grad_(False)
    rows, targets = torch.randn(150, 32), torch.randint(0, 500, (150,))
    gradients = []
    losses = []
    for compute in (lora.cross_entropy_sum, _plain):
        leaf = rows.clone().requires_grad_(True)
        loss = compute(leaf, head, targets)
        (2 * loss).backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        losses.append(float(loss.detach()))
        gradients.append(leaf.grad)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5)


def _plain(rows: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(head(rows), targets, reduction="sum")
