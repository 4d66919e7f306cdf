"""The forward and backward pass of training, with the shared beginning computed once.

Samples of an agent share a long first part (the system text and the calls), several hundred
tokens, followed by a few hundred of their own. Here that part runs once per step at batch
size one; its keys and values are expanded over the batch and only the rest of each sample runs on
them. Attention is causal, so the result is the plain computation, not an approximation (a test
compares loss and gradients). Micro-batches bound the memory: each one's backward adds to the
gradient of the shared keys and values, and the shared part's own backward runs once at the end.

The vocabulary projection is computed only for positions whose next token carries loss. Limits:
decoder models of transformers with a ``DynamicCache`` and full attention (Llama, Qwen3 and like).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from .data import Sample, Step

Pair = tuple["torch.Tensor", "torch.Tensor"]


@dataclass(frozen=True)
class Shared:
    """The shared part after its forward pass: per layer, keys and values as computed and as leaves."""

    length: int
    computed: tuple[Pair, ...]
    leaves: tuple[Pair, ...]


def run_shared(backbone: Any, ids: Sequence[int], grad: bool) -> Shared:
    """Run the shared first tokens at batch one; with ``grad`` keep what their backward needs."""
    import torch
    from transformers import DynamicCache

    if not ids:
        return Shared(0, (), ())
    cache: Any = DynamicCache()
    device = backbone.embed_tokens.weight.device
    with torch.set_grad_enabled(grad):
        backbone(torch.tensor([list(ids)], device=device), past_key_values=cache, use_cache=True)
    computed = tuple((layer.keys, layer.values) for layer in cache.layers)
    leaves = tuple((k.detach().requires_grad_(grad), v.detach().requires_grad_(grad)) for k, v in computed)
    return Shared(len(ids), computed, leaves)


def backward_shared(shared: Shared) -> None:
    """Carry the gradient that micro-batches left on the leaves back through the shared part."""
    import torch

    outputs, gradients = [], []
    for made, leaf in zip(shared.computed, shared.leaves, strict=True):
        for tensor, stand_in in zip(made, leaf, strict=True):
            if stand_in.grad is not None and tensor.requires_grad:
                outputs.append(tensor)
                gradients.append(stand_in.grad)
    if outputs:
        torch.autograd.backward(outputs, gradients)


def expand(shared: Shared, batch: int) -> Any:
    """Return a cache whose layers are the shared keys and values, expanded without a copy."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache = DynamicCache()
    make: Any = DynamicLayer
    for keys, values in shared.leaves:
        layer = make()
        layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
        layer.keys = keys.expand(batch, -1, -1, -1)
        layer.values = values.expand(batch, -1, -1, -1)
        cache.layers.append(layer)
    return cache


def loss_sum(model: Any, shared: Shared, samples: Sequence[Sample]) -> torch.Tensor:
    """Return the summed cross entropy (nats, fp32 scalar) of the samples' tokens that carry loss.

    All samples begin with the ``shared.length`` tokens of ``shared``; their rests are padded on the
    right, where causal attention alone keeps padding out of sight.
    """
    import torch

    from .lora import cross_entropy_sum

    backbone, head = model.model, model.lm_head
    device = backbone.embed_tokens.weight.device
    start, width = shared.length, max(len(sample.rest) for sample in samples)
    ids = torch.zeros(len(samples), width, dtype=torch.long)
    rows, columns, targets = [], [], []
    for row, sample in enumerate(samples):
        ids[row, : len(sample.rest)] = torch.tensor(sample.rest)
        for column, wanted in enumerate(sample.mask):
            if wanted:
                rows.append(row)
                columns.append(column - 1)
                targets.append(sample.rest[column])
    dtype = shared.leaves[0][0].dtype if shared.leaves else backbone.embed_tokens.weight.dtype
    blocked = torch.full((width, start + width), torch.finfo(dtype).min, dtype=dtype, device=device)
    hidden = backbone(
        ids.to(device),
        attention_mask=torch.triu(blocked, diagonal=start + 1)[None, None],
        position_ids=torch.arange(start, start + width, device=device)[None],
        past_key_values=expand(shared, len(samples)),
        use_cache=True,
    ).last_hidden_state
    return cross_entropy_sum(hidden[rows, columns], head, torch.tensor(targets, device=device))


def step_loss(
    model: Any,
    pool: Sequence[Sample],
    step: Step,
    autocast: Callable[[], AbstractContextManager[Any]],
    *,
    train: bool,
    prefix_grad: bool = True,
    weight: float = 1.0,
) -> float:
    """Return the mean loss of a step, in nats a token; with ``train`` also leave its gradients.

    Args:
        prefix_grad: carry gradients through the shared part too.
        weight: factor of the gradients, not of what is returned.
    """
    import torch

    targets = sum(pool[i].targets for group in step for micro in group.micro for i in micro)
    summed = 0.0
    for group in step:
        with autocast():
            shared = run_shared(model.model, group.prefix, train and prefix_grad)
        for micro in group.micro:
            with torch.set_grad_enabled(train), autocast():
                part = loss_sum(model, shared, [pool[i] for i in micro])
            summed += float(part.detach())
            if train:
                (part * (weight / targets)).backward()  # type: ignore[no-untyped-call]
        backward_shared(shared)
    return summed / targets
