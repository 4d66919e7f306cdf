"""Choosing the precision of a model's linear layers: the fastest whose logits stay close to fp32.

Each candidate is measured once on a fixed text (:data:`PROBE_TEXT`); the errors are kept per model,
processor and torch version in ``widths.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from .build import make_forward
from .device import chip, read_measurements, write_measurements
from .forward import Forward, FusedForward
from .load import LoadedModel
from .low_precision import FEW_ROWS, PRECISIONS

MAX_ERROR = 0.05
"""Largest accepted RMS error of the logits, as a share of their standard deviation."""
PROBE_TEXT = (
    "The quarterly report lists 41 suppliers; Nordfracht was late 7 times, Alpina twice. "
    '{"name":"tables.query","arguments":{"table":"deliveries","where":[{"column":"days_late","op":">",'
    '"value":3}],"order_by":"days_late","limit":5}} Write the three best to summary.txt, then say how '
    "many rows were left out. Ada Wong, 12 Mill Lane, tel. +44 20 7946 0991, owes 1,204.50 since May."
)
"""The text that errors are measured on: prose, a call, names and numbers."""


def logit_error(found: Tensor, exact: Tensor) -> float:
    """Return the RMS difference of ``found`` and ``exact [P, V]`` over the deviation of ``exact``."""
    difference = (found - exact).double().square().mean().sqrt()
    error = float(difference / exact.double().std(1).mean())
    return error if error == error else float("inf")


def settle_precision(
    loaded: LoadedModel, ids: Sequence[int], cache_dir: Path | None, release: bool = False
) -> tuple[LoadedModel, Forward]:
    """Build the model's forward in the first of its candidate precisions that is accurate enough on ``ids``.

    A precision that the user named is taken without measuring. Errors measured earlier for this model
    and processor are read from ``cache_dir``. With ``release`` the fp32 weights that the chosen
    precision does not need are freed: half the memory, but the model can then only be decoded
    (see :meth:`~.forward.FusedForward.release`).
    """
    forward = make_forward(loaded.model, loaded.config)
    if not loaded.precisions or not isinstance(forward, FusedForward):
        return loaded, forward
    file = None if cache_dir is None else cache_dir / "widths.json"
    known, key = read_measurements(file), f"{chip()} | torch {torch.__version__} | {loaded.fingerprint}"
    before = known.get(key)
    errors: dict[str, float] = dict(before) if isinstance(before, dict) else {}
    chosen = ""
    for name in loaded.precisions:
        if name not in errors and loaded.verify:
            errors[name] = _error(forward, name, ids)
        if not loaded.verify or errors[name] <= MAX_ERROR:
            chosen = name
            break
    if errors != (before or {}):
        write_measurements(file, {**known, key: errors})
    precision = PRECISIONS[chosen] if chosen else None
    if forward.precision is not precision:  # else measuring has left it in place
        forward.set_precision(precision, wait=False)
    released = release and forward.release(loaded.model)
    return replace(loaded, precision=chosen, released=released), forward


@torch.inference_mode()
def _error(forward: FusedForward, name: str, ids: Sequence[int]) -> float:
    """Return the logits' error of a precision, in pieces short enough for its few-row kernels."""

    def logits() -> Tensor:
        cache = forward.new_cache()
        pieces = [ids[i : i + FEW_ROWS] for i in range(0, len(ids), FEW_ROWS)]
        return torch.cat([forward.head(forward.hidden([(cache, piece)], every=True)) for piece in pieces])

    forward.set_precision(None)
    exact = logits()
    forward.set_precision(PRECISIONS[name])
    return logit_error(logits(), exact)
