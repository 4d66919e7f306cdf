"""Private updates: the accountant against closed forms, the clip bound, the noise, the card, refusals."""

from __future__ import annotations

import json
import math
import random
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from autogpt.errors import UsageError
from autogpt.llm.training import private
from autogpt.llm.training.data import Sample
from autogpt.llm.training.preference import Pair
from autogpt.llm.training.private import PrivateConfig, dpo_private, finetune_private

Make = Callable[..., PrivateConfig]


@pytest.fixture
def make(tiny_base: Path, tiny_adapter: Path, tmp_path: Path) -> Make:
    """Makes the settings of a run in a folder of the test's own."""

    def made(out: str = "out", **more: Any) -> PrivateConfig:
        usual = {"steps": 3, "batch": 4, "dtype": "float32", "device": "cpu", "learning_rate": 1e-3}
        settings = {**usual, "epsilon": 8.0, **more}
        return PrivateConfig(base=tiny_base, init=tiny_adapter, out=tmp_path / out, name="new", **settings)

    return made


def samples(count: int) -> list[Sample]:
    rng = random.Random(2)
    head = tuple(rng.randrange(96) for _ in range(6))
    return [
        Sample(head, array("i", [rng.randrange(96) for _ in range(7)]), bytes([0, 0, 1, 1, 0, 1, 1]), "t")
        for _ in range(count)
    ]


@pytest.mark.parametrize("sigma", [0.5, 1.3, 20.0])
@pytest.mark.parametrize("order", [2, 17, 512])
def test_without_subsampling_the_divergence_is_the_gaussians(sigma: float, order: int) -> None:
    assert private.renyi(1.0, sigma, order) == pytest.approx(order / (2 * sigma**2))
    assert private.renyi(1 - 1e-12, sigma, order) == pytest.approx(order / (2 * sigma**2), rel=1e-6)


@pytest.mark.parametrize("q", [0.001, 0.05, 0.9])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 8.0])
def test_of_order_two_it_has_a_closed_form(q: float, sigma: float) -> None:
    assert private.renyi(q, sigma, 2) == pytest.approx(math.log1p(q * q * math.expm1(1 / sigma**2)), rel=1e-6)


def test_the_divergence_is_what_integration_gives() -> None:
    """Order 8 of the mixture against the plain Gaussian, by the trapezoid rule."""
    q, sigma, order = 0.1, 1.3, 8
    x = torch.linspace(-30, 30, 60001, dtype=torch.float64)
    plain = torch.exp(-(x**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
    ratio = (1 - q) + q * torch.exp((2 * x - 1) / (2 * sigma**2))
    moment = torch.trapezoid(plain * ratio**order, x)
    assert private.renyi(q, sigma, order) == pytest.approx(float(moment.log()) / (order - 1), rel=1e-6)


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0])
def test_the_noise_is_the_least_that_keeps_the_budget(epsilon: float) -> None:
    sigma = private.noise_for(epsilon, 0.05, 200, 1e-5)
    assert private.spent(0.05, sigma, 200, 1e-5) <= epsilon < private.spent(0.05, sigma * 0.99, 200, 1e-5)
    assert private.spent(0.05, sigma, 100, 1e-5) < epsilon
    with pytest.raises(UsageError, match="too small"):
        private.noise_for(1e-9, 0.5, 10**6, 1e-5)


def test_one_sample_moves_the_sum_by_no_more_than_the_bound() -> None:
    weights = [torch.randn(5, 3, requires_grad=True), torch.randn(4, requires_grad=True)]
    scales = [1e-3, 1.0, 1e6]
    losses = [lambda s=s: s * (weights[0].sum() ** 2 + (weights[1] ** 3).sum()) for s in scales]
    clip = 0.25
    before, _ = private.clipped_sum(weights, losses, clip)
    for left_out in range(3):
        after, _ = private.clipped_sum(weights, losses[:left_out] + losses[left_out + 1 :], clip)
        moved = math.sqrt(sum(float(((b - a) ** 2).sum()) for b, a in zip(before, after, strict=True)))
        assert 0 < moved <= clip * (1 + 1e-5)
    broken = [*losses, lambda: weights[0].sum() * float("inf")]
    same, _ = private.clipped_sum(weights, broken, clip)
    assert all(torch.equal(a, b) for a, b in zip(before, same, strict=True))


def test_the_noise_has_the_deviation_it_should() -> None:
    sums = [torch.zeros(200, 100), torch.zeros(5000)]
    noisy = private.add_noise(sums, 3.0, 4.0, torch.Generator().manual_seed(0))
    assert float(torch.cat([x.flatten() for x in noisy]).std()) == pytest.approx(0.75, rel=0.02)


def test_a_run_keeps_its_budget_says_so_and_tells_nothing_of_the_samples(make: Make, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def die(shown: Any) -> None:
        if shown.step == 3:
            raise Killed

    settings = make(epsilon=4.0, checkpoint_minutes=0)
    with pytest.raises(Killed):
        finetune_private(settings, samples(12), progress=die)
    partly = json.loads((tmp_path / "out" / "adapter" / "card.json").read_text())
    report = finetune_private(settings, samples(12), progress=lambda _: None)
    card = json.loads((report.folder / "card.json").read_text())
    assert report.steps == 3 and 0 < partly["epsilon"] < card["epsilon"] <= 4.0
    assert card["delta"] == 1e-5 and card["noise"] > 0.5
    assert not any(card.get(name) for name in ("data_sha256", "final_loss", "eval_loss", "samples"))
    assert "Privacy spent" in (report.folder / "README.md").read_text()


def without_noise(sums: Any, deviation: float, expected: float, generator: Any) -> Any:
    return [total / expected for total in sums]


def test_with_noise_away_private_training_learns_and_with_it_the_weights_are_not_the_seeds(
    make: Make, tiny_adapter: Path, tiny_score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = samples(4)

    def known(folder: Path) -> float:
        return sum(
            float(
                tiny_score(folder, (*s.prefix, s.rest[0]), tuple(s.rest[1:]), [bool(m) for m in s.mask[1:]])
            )
            for s in made
        )

    noisy = [
        (
            finetune_private(make(name, steps=1), made, progress=lambda _: None).folder
            / "adapter_model.safetensors"
        )
        for name in ("one", "two")
    ]
    assert noisy[0].read_bytes() != noisy[1].read_bytes()
    monkeypatch.setattr(private, "add_noise", without_noise)
    quiet = finetune_private(make("quiet", steps=8), made, progress=lambda _: None)
    assert known(quiet.folder) > known(tiny_adapter) + 1


def test_private_dpo_favours_the_chosen_and_other_methods_are_refused(
    make: Make, tiny_adapter: Path, tiny_score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [Pair((1, 2, 3, n), (10 + n, 5), (True, True), (20 + n, 6), (True, False)) for n in range(4)]
    monkeypatch.setattr(private, "add_noise", without_noise)
    report = dpo_private(make(steps=8), pairs, progress=lambda _: None)

    def margin(folder: Path) -> float:
        return sum(
            float(tiny_score(folder, p.context, p.chosen, p.chosen_mask))
            - float(tiny_score(folder, p.context, p.rejected, p.rejected_mask))
            for p in pairs
        )

    assert margin(report.folder) > margin(tiny_adapter) + 0.5
    private.refuse("sft")
    for method in ("kto", "grpo"):
        with pytest.raises(UsageError, match="choose sft or dpo"):
            private.refuse(method)
