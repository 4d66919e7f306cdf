"""Choosing the forward of a model."""

from __future__ import annotations

from typing import Any

from torch import nn

from .forward import Forward, FusedForward, can_fuse
from .low_precision import PRECISIONS
from .module_forward import ModuleForward


def make_forward(model: nn.Module, config: Any, precision: str = "") -> Forward:
    """Return the fastest forward that computes ``model`` correctly.

    ``precision`` names a reduced precision for its linear layers, one of
    :data:`~.low_precision.PRECISIONS`; "" keeps the weights as loaded.
    """
    if not can_fuse(config):
        return ModuleForward(model, config)
    forward = FusedForward(model, config)
    if precision:
        forward.set_precision(PRECISIONS[precision])
    return forward
