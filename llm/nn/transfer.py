"""Numbers to a device and back, without waiting more often than necessary.

A GPU computes behind the processor's back; an ordinary copy makes the processor wait until everything
before it is done. So what goes there lies in pinned memory, from which the GPU fetches it in its turn,
and what comes back is asked for together and waited for once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pinned(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Return ``numbers`` as int64 in host memory that ``device`` can fetch from by itself."""
    return torch.tensor(numbers, dtype=torch.int64, pin_memory=device.type == "cuda")


def ship(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Return ``numbers`` as int64 on ``device``."""
    return send(pinned(numbers, device), device)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the processor on ``device``."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def fetch(*tensors: Tensor) -> list[Tensor]:
    """Return tensors of one device on the processor; waits for a GPU once."""
    if tensors[0].device.type != "cuda":
        return [tensor.cpu() for tensor in tensors]
    found = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors]
    for here, there in zip(found, tensors, strict=True):
        here.copy_(there, non_blocking=True)
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return found
