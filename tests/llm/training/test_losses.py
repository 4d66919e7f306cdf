"""Our losses against TRL's, values and gradients, on random numbers; and their bounds by hand."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from autogpt.llm.training import losses

LENGTH = 7


def oracle(kind: str, **settings: Any) -> Any:
    """TRL's trainer ``kind``, with nothing but what its loss reads."""
    import trl

    same = SimpleNamespace(
        device=torch.device("cpu"), num_processes=1, gather=lambda x: x, gather_for_metrics=lambda x: x,
        reduce=lambda x, reduction: x,
    )  # fmt: skip
    made = object.__new__(getattr(trl, kind))
    usual = {
        "model": SimpleNamespace(training=True), "accelerator": same, "aux_loss_enabled": False,
        "precompute_ref_logps": True, "_total_train_tokens": 0, "_tp_size": 1,
        "_metrics": {"train": defaultdict(list)},
    }  # fmt: skip
    for name, value in {**usual, **settings}.items():
        setattr(made, name, value)
    return made


def answering(logprobs: torch.Tensor) -> Any:
    """A model that gives these token log-probabilities, zero where there is no label."""
    from trl.trainer.utils import FusedCausalLMOutput

    def model(labels: torch.Tensor, **_: Any) -> Any:
        mask = labels[:, 1:] != -100
        nothing = torch.zeros(mask.shape)
        return FusedCausalLMOutput(
            log_probs=logprobs * mask, entropy=nothing, mean_logits=nothing, is_top1=mask, label_mask=mask
        )

    return model


def padded(rows: int, seed: int) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Inputs whose first token never carries loss, the mask of the others, and log-probabilities."""
    torch.manual_seed(seed)
    mask = torch.zeros(rows, LENGTH, dtype=torch.long)
    mask[:, 1:] = torch.rand(rows, LENGTH - 1) < 0.6
    mask[:, 2] = 1
    inputs = {
        "input_ids": torch.randint(1, 90, (rows, LENGTH)),
        "attention_mask": torch.ones(rows, LENGTH, dtype=torch.long),
        "completion_mask": mask,
    }
    return inputs, mask[:, 1:], (-3 * torch.rand(rows, LENGTH - 1)).requires_grad_()


def agree(ours: torch.Tensor, theirs: torch.Tensor, logprobs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs.reshape(ours.shape), rtol=1e-6, atol=1e-6)
    (one,) = torch.autograd.grad(ours, logprobs, retain_graph=True)
    (two,) = torch.autograd.grad(theirs, logprobs)
    assert one.abs().max() > 0
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("beta", [0.02, 0.1, 1.5])
def test_dpo_is_trls(beta: float) -> None:
    inputs, mask, logprobs = padded(6, seed=1)
    reference = -4 * torch.rand(6)
    inputs |= {"ref_chosen_logps": reference[:3], "ref_rejected_logps": reference[3:]}
    trainer = oracle(
        "DPOTrainer", beta=beta, loss_types=["sigmoid"], loss_weights=[1.0], ld_alpha=None,
        f_divergence_type="reverse_kl", use_weighting=False,
    )  # fmt: skip
    theirs = trainer._compute_loss(answering(logprobs), inputs, False)
    sums = (logprobs * mask).sum(1)
    agree(losses.dpo(sums[:3], sums[3:], reference[:3], reference[3:], beta).mean(), theirs, logprobs)


@pytest.mark.parametrize("drift", [-0.7, 0.0, 1.3])
@pytest.mark.parametrize("good", [(1, 0, 0, 1, 1), (1, 1, 1, 1, 1), (0, 0, 0, 0, 0)])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 2.5)])
def test_kto_is_trls(drift: float, good: tuple[int, ...], weights: tuple[float, float]) -> None:
    inputs, mask, logprobs = padded(5, seed=2)
    label, reference = torch.tensor(good, dtype=torch.bool), -4 * torch.rand(5)
    inputs |= {"label": label, "ref_logps": reference, "ref_KL_logps": torch.zeros(1)}
    trainer = oracle(
        "KTOTrainer", beta=0.3, loss_type="kto", calculate_KL=True,
        desirable_weight=weights[0], undesirable_weight=weights[1],
        _compute_kl_logps=lambda model, batch: torch.tensor([drift]),
    )  # fmt: skip
    theirs = trainer._compute_loss(answering(logprobs), inputs, False)
    sums = (logprobs * mask).sum(1)
    agree(losses.kto(sums, reference, label, drift, 0.3, weights).mean(), theirs, logprobs)


@pytest.mark.parametrize("kl", [0.0, 0.04])
@pytest.mark.parametrize(("clip", "clip_high"), [(0.2, 0.28), (0.05, 0.05), (0.9, 3.0)])
def test_grpo_is_trls(kl: float, clip: float, clip_high: float) -> None:
    inputs, mask, logprobs = padded(6, seed=3)
    old = logprobs.detach() + 0.5 * torch.randn(logprobs.shape)
    reference = logprobs.detach() + 0.5 * torch.randn(logprobs.shape)
    advantage = torch.randn(6, 1) * torch.rand(logprobs.shape).add(0.5)  # each token has its weight
    trainer = oracle(
        "GRPOTrainer", beta=kl, loss_type="dapo", epsilon_low=clip, epsilon_high=clip_high,
        importance_sampling_level="token", top_entropy_quantile=1.0, off_policy_mask_threshold=None,
        use_vllm=False, current_gradient_accumulation_steps=1, _entropy_bonus_enabled=False,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, torch.zeros(logprobs.shape), None),
    )  # fmt: skip
    tokens = int(mask.sum())
    theirs = trainer._compute_loss(
        None,
        {
            "prompt_ids": inputs["input_ids"][:, :1], "prompt_mask": inputs["attention_mask"][:, :1],
            "completion_ids": inputs["input_ids"][:, 1:], "completion_mask": inputs["attention_mask"][:, 1:],
            "tool_mask": mask, "advantages": advantage, "old_per_token_logps": old,
            "ref_per_token_logps": reference, "num_items_in_batch": torch.tensor(tokens),
        },
    )  # fmt: skip
    own = mask.bool()
    args = logprobs[own], old[own], advantage[own], clip, clip_high
    agree(losses.grpo(*args, reference[own], kl).sum() / tokens, theirs, logprobs)
    metrics = trainer._metrics["train"]
    assert float(losses.clipped(*args).float().mean()) == pytest.approx(metrics["clip_ratio/region_mean"][0])
    if kl:
        mean = losses.divergence(logprobs[own], reference[own]).mean().item()
        assert mean == pytest.approx(metrics["kl"][0], rel=1e-5)


def test_the_rarer_kind_of_rating_weighs_more_but_at_most_five_times() -> None:
    assert losses.kto_weights(4, 2) == (1.0, 2.0)
    assert losses.kto_weights(3, 3) == (1.0, 1.0)
    assert losses.kto_weights(0, 9) == (5.0, 1.0)


def test_advantages_are_against_the_group_and_small_differences_stay_small() -> None:
    assert losses.advantages([1.0, 0.0, 0.0, 1.0]) == pytest.approx([1, -1, -1, 1])
    assert losses.advantages([1.0, 0.99]) == pytest.approx([0.02, -0.02])


def test_importance_weights_are_truncated() -> None:
    weights = losses.importance(torch.full((4,), -1.0), torch.tensor([-1.0, -0.5, -9.0, -0.1]), 2.0)
    assert weights.tolist() == pytest.approx([1.0, 0.60653, 2.0, 0.5], abs=1e-4)
