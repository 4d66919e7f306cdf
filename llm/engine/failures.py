"""Failure handling: a forward runs out of memory, or its result is not finite.

:func:`retry_out_of_memory` frees idle memory and tries once more before it fails with a line that says
what to lower. :func:`first_bad_part` repeats a sequence through the model's own module and checks every
layer's output; it is slow, and runs only when a result was not finite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ...errors import AutoGPTError
from ..nn.forward import Forward, FusedForward
from ..nn.load import LoadedModel

T = TypeVar("T")


class OutOfMemory(AutoGPTError):
    """Too little memory, even after everything idle was freed."""


def retry_out_of_memory(action: Callable[[], T], free: Callable[[], None], goals: int) -> T:
    """Run ``action``; if it runs out of memory, call ``free`` and run it once more.

    Raises :class:`OutOfMemory` if that is not enough. ``action`` must be repeatable.
    """
    try:
        return action()
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
    free()
    try:
        return action()
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"out of memory with {goals} goal{'s' * (goals > 1)} at once, even with all idle caches freed: "
            "lower the goals at once (--parallel), the cache budget, or the inputs' length"
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)  # on the CPU torch raises a plain RuntimeError
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in text


def first_bad_part(loaded: LoadedModel, forward: Forward, ids: Sequence[int]) -> str | None:
    """Name the first part of the model whose output over ``ids`` is not finite; None if all are.

    If the module's weights were released, our own forward finds it, to the decoder layer.
    """
    if not loaded.released:
        return first_bad_layer(loaded.whole(), ids)
    found: list[str] = []

    def look(name: str, x: Tensor) -> None:
        if not found and not bool(x.isfinite().all()):
            found.append(name)

    cast(FusedForward, forward).hidden([(forward.new_cache(), ids)], look=look)
    return found[0] if found else None


def first_bad_layer(model: nn.Module, ids: Sequence[int]) -> str | None:
    """Name the first part of ``model`` whose output over ``ids`` is not finite; None if all are."""
    found: list[str] = []
    hooks = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, given: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            if not found and isinstance(value, Tensor) and not bool(value.isfinite().all()):
                found.append(name)

        return look

    for name, module in model.named_modules():
        in_list = name.rpartition(".")[2].isdigit()  # a decoder layer
        if in_list or not any(True for _ in module.children()):
            hooks.append(module.register_forward_hook(watch(name)))
    try:
        device = next(model.parameters()).device
        model(input_ids=torch.tensor([list(ids)], device=device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None
