"""Differentially private updates: what a model learns from a person's runs without keeping any of them.

DP-SGD (Abadi et al., 2016, arXiv:1607.00133). Each step draws every sample by itself with probability
``q`` (Poisson sampling), clips each sample's gradient to a norm ``C``, adds Gaussian noise of deviation
``sigma * C`` to the sum and divides by the expected count; the optimiser sees nothing else. The privacy
spent is counted by Renyi differential privacy of the sampled Gaussian mechanism (Mironov, Talwar and Zhang,
2019, arXiv:1908.10530, eq. for integer orders) and turned into ``(epsilon, delta)`` by Canonne, Kamath and
Steinke, 2020, arXiv:2004.00010, proposition 12. ``sigma`` is the least that keeps the planned steps within
the wished epsilon; a run that stops early has spent less, and the card says what was spent.

What the figure promises: of the adapter, against adding or removing **one sample** (one conversation, or one
pair of the preference method); somebody with several samples is protected less. What it does not cover: the
model that training starts from, and the run's own folder (checkpoint, curves), which shows losses
and stays on the machine; the card leaves out what is computed from the samples without noise (their
hash, losses). Noise and draws come from the operating system's generator through torch's, in
floating point: an attack on its low-order bits (Mironov, 2012) is not defended against.

Only methods whose loss is a sum over samples can be private so: ordinary fine-tuning and DPO. KTO compares
each sample with a mean over others, and GRPO's attempts are made by the policy: both are refused.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ...errors import UsageError
from . import losses, prefix
from .adapter_run import AdapterConfig, AdapterRun, digest, open_run
from .data import Sample
from .logprobs import Row, begin, row_sums, score
from .preference import Pair, pair_rows
from .trainer import Progress, Report, StepResult

if TYPE_CHECKING:
    import torch

ORDERS = (*range(2, 64), *range(64, 513, 16))
"""Renyi orders that are tried; the best one counts."""
_MOST_NOISE = 1e4


class PrivateConfig(AdapterConfig):
    """How to learn within a privacy budget."""

    epsilon: float = Field(gt=0, le=1000)
    """The most that the planned steps may spend."""
    delta: float | None = Field(default=None, gt=0, lt=1)
    """Chance that the promise fails; by default a tenth of one in the number of samples, at most 1e-5."""
    clip: float = Field(default=0.5, gt=0)
    """Bound of a sample's gradient norm."""
    batch: int = Field(default=32, gt=0)
    """Expected samples of a step: larger hides each better."""
    beta: float = Field(default=0.1, gt=0)
    """Of DPO."""


def refuse(method: str) -> None:
    """Refuse methods that cannot keep a privacy budget.

    Raises:
        UsageError: for anything but ``sft`` and ``dpo``; says what to do.
    """
    if method not in ("sft", "dpo"):
        raise UsageError(
            f"{method} cannot keep a privacy budget: the influence of one sample on it is not bounded; "
            "choose sft or dpo"
        )


def renyi(q: float, sigma: float, order: int) -> float:
    """Return the Renyi divergence of ``order`` that one step spends, drawing with probability ``q``."""
    if q >= 1:
        return order / (2 * sigma * sigma)
    terms = [
        math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
        + (order - k) * math.log1p(-q) + k * math.log(q)
        + (k * k - k) / (2 * sigma**2)
        for k in range(order + 1)
    ]  # fmt: skip
    most = max(terms)
    return (most + math.log(math.fsum(math.exp(term - most) for term in terms))) / (order - 1)


def spent(q: float, sigma: float, steps: int, delta: float) -> float:
    """Return the epsilon that ``steps`` steps spend at ``delta``."""
    if steps == 0:
        return 0.0
    least: float = min(
        steps * renyi(q, sigma, order)
        + math.log1p(-1 / order)
        - (math.log(delta) + math.log(order)) / (order - 1)
        for order in ORDERS
    )
    return max(0.0, least)


def noise_for(epsilon: float, q: float, steps: int, delta: float) -> float:
    """Return the least noise (to 0.1 %) with which ``steps`` steps spend no more than ``epsilon``.

    Raises:
        UsageError: no noise that leaves anything to learn is enough.
    """
    low, high = 0.05, 1.0
    while spent(q, high, steps, delta) > epsilon:
        low, high = high, high * 2
        if high > _MOST_NOISE:
            raise UsageError(
                f"a privacy budget of {epsilon:g} is too small for {steps} steps: allow fewer or more"
            )
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if spent(q, middle, steps, delta) <= epsilon else (middle, high)
    return high


def clipped_sum(
    weights: Sequence[torch.Tensor], losses: Sequence[Callable[[], torch.Tensor]], clip: float
) -> tuple[list[torch.Tensor], float]:
    """Return the sum of the losses' gradients, each clipped to norm ``clip``, and the mean loss."""
    import torch

    sums = [torch.zeros_like(weight) for weight in weights]
    total = 0.0
    for make in losses:
        loss = make()
        gradients = torch.autograd.grad(loss, list(weights), allow_unused=True)
        known = [gradient for gradient in gradients if gradient is not None]
        norm = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in known])))
        if not math.isfinite(norm):  # a gradient that is no number has no bounded part
            continue
        factor = clip / max(norm, clip)
        for place, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:
                place.add_(gradient, alpha=factor)
        total += float(loss.detach())
    return sums, total / max(1, len(losses))


def add_noise(
    sums: Sequence[torch.Tensor], deviation: float, expected: float, generator: torch.Generator
) -> list[torch.Tensor]:
    """Return ``(sum + noise) / expected`` for each tensor, the noise of the given deviation."""
    import torch

    return [
        (
            place
            + torch.empty_like(place, device=generator.device)
            .normal_(0.0, deviation, generator=generator)
            .to(place.device)
        )
        / expected
        for place in sums
    ]


def _train(
    config: PrivateConfig,
    method: str,
    count: int,
    data_sha256: str,
    losses_of: Callable[[AdapterRun], Callable[[int], torch.Tensor]],
    progress: Callable[[Progress], None] | None,
) -> Report:
    """Train on ``count`` samples; ``losses_of(run)`` gives the loss of each by its number."""
    import torch

    batch = min(config.batch, count)
    q = batch / count
    steps = config.steps or max(1, round(config.epochs * count / batch))
    delta = config.delta or min(1e-5, 0.1 / count)
    sigma = noise_for(config.epsilon, q, steps, delta)
    hidden = dict.fromkeys(("data_sha256", "final_loss", "eval_loss", "samples", "tokens"))
    facts: dict[str, Any] = {**hidden, "delta": delta, "noise": sigma, "clip": config.clip, "epsilon": 0.0}
    run = open_run(config, f"{method}, differentially private", data_sha256, batch, facts)
    run.total = steps
    loss_of = losses_of(run)  # with the weights as loaded: a reference is theirs
    run.resume()
    facts["epsilon"] = spent(q, sigma, run.state.step, delta)
    generator = torch.Generator().manual_seed(secrets.randbits(63))
    chance = secrets.SystemRandom()

    def step() -> StepResult:
        chosen = [i for i in range(count) if chance.random() < q]
        sums, loss = clipped_sum(run.weights, [partial(loss_of, i) for i in chosen], config.clip)
        noisy = add_noise(sums, sigma * config.clip, batch, generator)
        for weight, gradient in zip(run.weights, noisy, strict=True):
            weight.grad = gradient
        run.optimiser.step()
        run.optimiser.zero_grad(set_to_none=True)
        facts["epsilon"] = spent(q, sigma, run.state.step + 1, delta)
        return StepResult(loss, len(chosen), 0, {"epsilon": facts["epsilon"]})

    return run.train(f"{config.name} by private {method} on {run.device}, {count} samples", step, progress)


def finetune_private(
    config: PrivateConfig,
    samples: Sequence[Sample],
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Fine-tune on samples within a privacy budget, or go on with the run that ``config.out`` holds.

    What samples begin with runs once a step and carries no gradient; the gradient is that of the rest.

    Raises:
        UsageError: nothing to learn from, a budget too small, or a checkpoint of another run.
        ModelUnavailable: the base is missing or damaged.
    """
    kept = [s for s in samples if s.targets and len(s.prefix) + len(s.rest) <= config.longest]
    if not kept:
        raise UsageError(f"no samples of at most {config.longest} tokens: nothing to learn from")

    def losses_of(run: AdapterRun) -> Callable[[int], torch.Tensor]:
        begun: dict[tuple[int, ...], prefix.Shared] = {}
        step = -1

        def loss_of(item: int) -> torch.Tensor:
            nonlocal step
            if step != run.state.step:
                begun.clear()
                step = run.state.step
            sample = kept[item]
            with run.autocast():
                shared = begun.get(sample.prefix)
                if shared is None:
                    shared = prefix.run_shared(run.core.model, sample.prefix, grad=False)
                    begun[sample.prefix] = shared
                return prefix.loss_sum(run.core, shared, [sample]) / sample.targets

        return loss_of

    return _train(config, "sft", len(kept), digest((), kept), losses_of, progress)


def dpo_private(
    config: PrivateConfig, pairs: Sequence[Pair], progress: Callable[[Progress], None] | None = None
) -> Report:
    """Train on pairs within a privacy budget; the loss is DPO's (``preference``), one pair at a time.

    Raises:
        UsageError: nothing to learn from, a budget too small, or a checkpoint of another run.
        ModelUnavailable: the base is missing or damaged.
    """
    rows = pair_rows(pairs, config.longest)

    def losses_of(run: AdapterRun) -> Callable[[int], torch.Tensor]:
        flat: list[Row] = [row for pair in rows for row in pair]
        reference = row_sums(run.core, flat, config.micro_tokens, run.autocast)

        def loss_of(item: int) -> torch.Tensor:
            with run.autocast():
                shared = begin(run.core, rows[item], grad=False)
                chosen, rejected = (values.sum() for values in score(run.core, rows[item], shared).logprobs)
            before = chosen.new_tensor(reference[2 * item : 2 * item + 2])
            return losses.dpo(chosen, rejected, before[0], before[1], config.beta)

        return loss_of

    return _train(config, "dpo", len(rows), digest(pairs), losses_of, progress)
