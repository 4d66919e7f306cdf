"""Choosing the precision of a model's linear layers: the fastest whose logits stay close to fp32.

Each candidate is measured once on a fixed text (:data:`PROBE_TEXT`); the errors are kept per model,
processor and torch version in ``widths.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .build import make_forward
from .device import chip, probe_device, read_measurements, write_measurements
from .forward import Forward, FusedForward, Weights, empty
from .light_loader import light_config
from .load import LoadedModel, fingerprints
from .low_precision import FEW_ROWS, PRECISIONS
from .packed import PackedCache

MAX_ERROR = 0.05
"""Largest accepted RMS error of the logits, as a share of their standard deviation."""
WIDTHS, PACKED = "widths.json", "packed"
"""The file of errors and the folder of weights, under the cache."""
_VERSION = 2
"""Part of the errors' keys: raised when a precision computes differently, so that old ones are ignored."""
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


def open_packed(
    folder: Path, device: str, dtype: str, adapter: Path | None, cache_dir: Path | None
) -> tuple[LoadedModel, Forward] | None:
    """Open a model by the weights that an earlier :func:`settle_precision` packed; None if there are none.

    Raises what :func:`~.load.load_model` does for a wrong device, number format or adapter.
    """
    config = light_config(folder) if cache_dir is not None and (cache_dir / PACKED).is_dir() else None
    if config is None:
        return None
    choice = probe_device(device, dtype, cache_dir)
    if choice.device != "cpu":
        return None
    base, fingerprint = fingerprints(folder, adapter)
    errors = _errors(cache_dir, fingerprint)
    for name in choice.precisions:
        if choice.verify and name not in errors:
            return None  # it must be measured first
        if not choice.verify or errors[name] <= MAX_ERROR:
            break
    else:
        return None
    weights = None
    if cache_dir is not None and PRECISIONS[name].every:
        weights = PackedCache(cache_dir / PACKED).load(fingerprint, name)
    if weights is None:
        return None
    torch.set_num_threads(choice.threads)
    rows = len(weights.head.weight)
    loaded = LoadedModel(
        torch.nn.Module(), config, "cpu", torch.float32, str(folder), fingerprint, base, rows,
        choice.precisions, choice.verify, name, released=True,
    )  # fmt: skip
    return loaded, _over(weights, config, name)


def _over(weights: Weights, config: Any, name: str) -> FusedForward:
    forward = FusedForward(weights, config)
    forward.set_precision(PRECISIONS[name], wait=False)
    return forward


def _errors(cache_dir: Path | None, fingerprint: str) -> dict[str, float]:
    """Return the errors that were measured for a model on this processor, by precision."""
    known = read_measurements(None if cache_dir is None else cache_dir / WIDTHS)
    found = known.get(_place(fingerprint))
    return dict(found) if isinstance(found, dict) else {}


def _place(fingerprint: str) -> str:
    return f"{chip()} | torch {torch.__version__} | {_VERSION} | {fingerprint}"


def settle_precision(
    loaded: LoadedModel, ids: Sequence[int], cache_dir: Path | None, release: bool = False
) -> tuple[LoadedModel, Forward]:
    """Build the model's forward in the first of its candidate precisions that is accurate enough on ``ids``.

    A precision that the user named is taken without measuring. Errors measured earlier for this model
    and processor are read from ``cache_dir``. With ``release`` the fp32 weights that the chosen
    precision does not need are freed: half the memory, but the model can then only be decoded
    (see :meth:`~.forward.FusedForward.release`); what is kept of them is written to ``cache_dir``, for
    :func:`open_packed`.
    """
    forward = make_forward(loaded.model, loaded.config)
    if not loaded.precisions or not isinstance(forward, FusedForward):
        return loaded, forward
    before = _errors(cache_dir, loaded.fingerprint)
    errors = dict(before)
    chosen = ""
    for name in loaded.precisions:
        if name not in errors and loaded.verify:
            errors[name] = _error(forward, name, ids)
        if not loaded.verify or errors[name] <= MAX_ERROR:
            chosen = name
            break
    if errors != before and cache_dir is not None:
        file = cache_dir / WIDTHS
        write_measurements(file, {**read_measurements(file), _place(loaded.fingerprint): errors})
    precision = PRECISIONS[chosen] if chosen else None
    packed = None
    if release and precision is not None and precision.every and cache_dir is not None:
        cache = PackedCache(cache_dir / PACKED)
        if cache.save(forward.weights, loaded.fingerprint, chosen, precision):
            packed = cache.load(loaded.fingerprint, chosen)
    if packed is not None:
        empty(loaded.model)
        return replace(loaded, precision=chosen, released=True), _over(packed, loaded.config, chosen)
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
