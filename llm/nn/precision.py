"""Choosing the precision of a model's linear layers: the fastest whose logits stay close to fp32.

Each candidate is measured once on a fixed text (:data:`PROBE_TEXT`); the errors are kept per model,
processor and torch version in ``widths.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .build import make_forward
from .device import DeviceChoice, chip, probe_device, read_measurements, write_measurements
from .forward import Forward, FusedForward, Weights
from .light_loader import expected, light_config
from .load import LoadedModel, fingerprints
from .low_precision import FEW_ROWS, PRECISIONS
from .packed import PackedCache, Writer
from .stream import Stream, open_stream

MAX_ERROR = 0.05
"""Largest accepted RMS error of the logits, as a share of their standard deviation."""
HEAVY = 3 << 29
"""Bytes of weights up to which the fastest precision is taken; of those that need more, the smallest.

1.5B parameters are 3.1 GB in bf16, which few small machines have to spare, and half as much in int8, at
hardly more for a turn (300 rows, 12 of one, 6 of 8): 8.0 s of one thread instead of 7.5, with AMX. At 0.5B,
1 GB in bf16, it is 3.4 instead of 2.6 s."""
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
    rows = list(zip(found, exact, strict=True))  # one at a time: the logits of a large vocabulary are many
    squares = sum(float((a.double() - b.double()).square().mean()) for a, b in rows)
    deviation = sum(float(b.double().std()) for _, b in rows) / len(rows)
    error = (squares / len(rows)) ** 0.5 / deviation if deviation else float("inf")
    return error if error == error else float("inf")


def open_packed(
    folder: Path, device: str, dtype: str, adapter: Path | None, cache_dir: Path | None
) -> tuple[LoadedModel, Forward] | None:
    """Open a model by the weights that an earlier :func:`pack` wrote; None if there are none.

    Raises what :func:`~.load.load_model` does for a wrong device, number format or adapter.
    """
    plan = _plan(folder, device, dtype, adapter, cache_dir)
    if plan is None or not (plan.cache_dir / PACKED).is_dir():
        return None
    errors = _errors(plan.cache_dir, plan.fingerprint)
    for name in plan.choice.precisions:
        if plan.choice.verify and name not in errors:
            return None  # it must be measured first
        if not plan.choice.verify or errors[name] <= MAX_ERROR:
            weights = plan.packed.load(plan.fingerprint, name) if PRECISIONS[name].every else None
            return None if weights is None else plan.opened(weights, name)
    return None


def pack(
    folder: Path, device: str, dtype: str, adapter: Path | None, cache_dir: Path | None, ids: Sequence[int]
) -> tuple[LoadedModel, Forward] | None:
    """Convert a model to the first of its candidate precisions that is accurate on ``ids``, and open it.

    The weights are never in memory in fp32 all at once. None where :func:`~.load.load_model` and
    :func:`settle_precision` have to do it: another device, a shape that is not light, a precision that
    needs the fp32 weights besides, no candidate accurate enough, no folder or no room for the file.
    Raises what :func:`~.load.load_model` does.
    """
    plan = _plan(folder, device, dtype, adapter, cache_dir)
    if plan is None:
        return None
    with open_stream(folder, plan.config, adapter) as stream:
        if stream is None or max(ids) >= plan.config.vocab_size:
            return None
        for name in plan.choice.precisions:
            known = _errors(plan.cache_dir, plan.fingerprint)
            if plan.choice.verify and known.get(name, 0.0) > MAX_ERROR:
                continue
            if not PRECISIONS[name].every:
                return None
            exact: list[Tensor] = []
            fill = partial(_fill, stream, ids, exact)
            weights = plan.packed.save(plan.fingerprint, name, stream.parameters, fill)
            if weights is None:
                return None
            loaded, forward = plan.opened(weights, name)
            if plan.choice.verify:
                error = logit_error(_logits(forward, ids), exact[0])
                _note(plan.cache_dir, plan.fingerprint, {**known, name: error})
                if error > MAX_ERROR:
                    plan.packed.remove(plan.fingerprint, name)
                    continue
            return loaded, forward
    return None


def _fill(stream: Stream, ids: Sequence[int], exact: list[Tensor], writer: Writer) -> None:
    exact.append(stream.pass_through(ids, writer))


@dataclass(frozen=True)
class _Plan:
    """What to compute a model with on the CPU, and where its packed weights are."""

    folder: Path
    config: Any
    choice: DeviceChoice
    base: str
    fingerprint: str
    cache_dir: Path

    @property
    def packed(self) -> PackedCache:
        return PackedCache(self.cache_dir / PACKED)

    def opened(self, weights: Weights, name: str) -> tuple[LoadedModel, FusedForward]:
        """Return the model over packed weights."""
        torch.set_num_threads(self.choice.threads)
        rows, choice = len(weights.head.weight), self.choice
        loaded = LoadedModel(
            torch.nn.Module(), self.config, "cpu", torch.float32, str(self.folder), self.fingerprint,
            self.base, rows, choice.precisions, choice.verify, name, released=True,
        )  # fmt: skip
        forward = FusedForward(weights, self.config)
        forward.set_precision(PRECISIONS[name], wait=False)
        return loaded, forward


def _plan(
    folder: Path, device: str, dtype: str, adapter: Path | None, cache_dir: Path | None
) -> _Plan | None:
    """Return the plan of a model that can be packed; None for others."""
    config = None if cache_dir is None else light_config(folder, cache_dir)
    if config is None or cache_dir is None:
        return None
    choice = probe_device(device, dtype, cache_dir)
    if dtype == "auto" and choice.device == "cpu":
        choice = replace(choice, precisions=_ordered(choice.precisions, config))
    if choice.device != "cpu" or not choice.precisions:
        return None
    base, fingerprint = fingerprints(folder, adapter, cache_dir)
    return _Plan(folder, config, choice, base, fingerprint, cache_dir)


def _ordered(names: Sequence[str], config: SimpleNamespace) -> tuple[str, ...]:
    """Return the candidates, those within :data:`HEAVY` first; int8 is one if fp32 exceeds it."""
    shapes = expected(config)
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight")
    count = sum(torch.Size(shape).numel() for shape in shapes.values())
    if 4 * count > HEAVY and "int8" not in names:
        names = [*names, "int8"]
    sizes = {name: PRECISIONS[name].width * count for name in names}
    return tuple(sorted(names, key=lambda name: sizes[name] if sizes[name] > HEAVY else 0))


def _errors(cache_dir: Path | None, fingerprint: str) -> dict[str, float]:
    """Return the errors that were measured for a model on this processor, by precision."""
    known = read_measurements(None if cache_dir is None else cache_dir / WIDTHS)
    found = known.get(_place(fingerprint))
    return dict(found) if isinstance(found, dict) else {}


def _note(cache_dir: Path, fingerprint: str, errors: dict[str, float]) -> None:
    """Keep a model's errors."""
    file = cache_dir / WIDTHS
    write_measurements(file, {**read_measurements(file), _place(fingerprint): errors})


def _place(fingerprint: str) -> str:
    return f"{chip()} | torch {torch.__version__} | {_VERSION} | {fingerprint}"


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
        _note(cache_dir, loaded.fingerprint, errors)
    precision = PRECISIONS[chosen] if chosen else None
    if forward.precision is not precision:  # else measuring has left it in place
        forward.set_precision(precision, wait=False)
    released = release and forward.release(loaded.model)
    return replace(loaded, precision=chosen, released=released), forward


@torch.inference_mode()
def _error(forward: FusedForward, name: str, ids: Sequence[int]) -> float:
    """Return the logits' error of a precision."""
    forward.set_precision(None)
    exact = _logits(forward, ids)
    forward.set_precision(PRECISIONS[name])
    return logit_error(_logits(forward, ids), exact)


@torch.inference_mode()
def _logits(forward: FusedForward, ids: Sequence[int]) -> Tensor:
    """Return the logits ``[len(ids), V]``, in pieces short enough for the few-row kernels."""
    cache = forward.new_cache()
    pieces = [ids[i : i + FEW_ROWS] for i in range(0, len(ids), FEW_ROWS)]
    return torch.cat([forward.head(forward.hidden([(cache, piece)], every=True)) for piece in pieces])
