"""Loading a model: a Hugging Face folder, a hub name or a GGUF file, a device, a number format, an adapter.

The common small shapes are read without transformers where only our own forward will run them
(:mod:`.light_loader`); other folders with plain safetensors are read straight into a module built without
memory; anything else goes through ``from_pretrained``. A GGUF file is dequantised tensor by tensor
(:mod:`..gguf`). Whatever is missing or broken
raises :class:`~autogpt.errors.ModelUnavailable` with one line that says what is wrong and what to do. The
fingerprint samples each tensor's bytes, so it is the same however the file is laid out, costs
milliseconds, and changes with any training; it is an identity, not a proof against tampering.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import DefectError, ModelUnavailable
from ..gguf.header import is_gguf
from ..gguf.known import facts_of
from ..gguf.weights import read_weights, shape_header
from .adapter import adapter_fingerprint, check_base, merge_adapter
from .device import DTYPES, probe_device
from .forward import can_fuse
from .hub import fetch_hub, is_hub_file
from .light_loader import LightModel, assemble, full_config, light_config, read_light
from .low_precision import PRECISIONS

_AT_ONCE = 32
"""Tensors read before a file's mapping is released."""
_SAMPLE = 4096
"""Bytes read at the start, middle and end of each tensor for the fingerprint."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to decode: its module is in evaluation mode, the adapter merged."""

    model: nn.Module
    config: Any
    device: str
    dtype: torch.dtype
    name: str
    fingerprint: str
    """sha256 of base and adapter; kept with every run."""
    base_fingerprint: str
    """sha256 of the base alone: what an adapter's card names."""
    vocabulary: int
    """Rows of the output head (may exceed the tokenizer's size)."""
    precisions: tuple[str, ...] = ()
    """Candidates for the linear layers, the fastest first (:mod:`.low_precision`)."""
    verify: bool = True
    """Whether a candidate must prove accurate first; False: the user named it."""
    precision: str = ""
    """The one in use (set by :func:`~.precision.settle_precision`); "": weights as loaded."""
    released: bool = False
    """The fp32 weights of the linear layers were freed: the module can be neither run nor trained."""

    @property
    def numerics(self) -> str:
        """What keys and values computed by this model depend on."""
        return f"{self.fingerprint}|{self.dtype}|{self.precision}"

    @property
    def row_cost(self) -> float:
        """Cost of one more row, as a share of a forward of one row.

        A CPU in fp32 is soon bound by arithmetic, a GPU is not at these sizes; reduced precisions
        have figures of their own (:class:`~.low_precision.Precision`).
        """
        if torch.device(self.device).type != "cpu":
            return 0.01
        if self.precision:
            return PRECISIONS[self.precision].row_cost
        return 0.2 if self.dtype == torch.float32 else 0.08

    def whole(self) -> nn.Module:
        """Return the model as a transformers module over the same tensors; may take seconds to build.

        Raises :class:`~autogpt.errors.DefectError` if its weights were released.
        """
        if self.released:
            raise DefectError("the module's weights were released: load the model without that")
        return self.model.whole() if isinstance(self.model, LightModel) else self.model


def load_model(
    name: str | Path,
    device: str = "auto",
    dtype: str = "auto",
    adapter: str | Path | None = None,
    cache_dir: Path | None = None,
    light: bool = False,
) -> LoadedModel:
    """Load a folder, a GGUF file, or a model from the hub (its local copy if there is one).

    ``adapter`` is a PEFT folder to merge; ``cache_dir`` keeps the device probe's timings.
    With ``light`` the common shapes are read without transformers (seconds faster;
    :mod:`.light_loader`).
    Raises :class:`~autogpt.errors.ModelUnavailable`, or :class:`~autogpt.errors.UsageError` for a wrong
    device or dtype.
    """
    choice = probe_device(device, dtype, cache_dir)
    if choice.device == "cpu":
        torch.set_num_threads(choice.threads)
    folder = locate_model(str(name))
    adapter_folder = None if adapter is None else Path(adapter).expanduser()
    base, fingerprint = fingerprints(folder, adapter_folder, cache_dir)
    config: Any = light_config(folder, cache_dir) if light else None
    model: Any = None if config is None else _light(folder, config, DTYPES[choice.dtype])
    if model is None:
        config = full_config(folder)
        model = _module(folder, config, DTYPES[choice.dtype])
    if adapter_folder is not None:
        merge_adapter(model, adapter_folder)
    model = model.to(choice.device).eval().requires_grad_(False)
    head: Any = model.lm_head if isinstance(model, LightModel) else model.get_output_embeddings()
    rows = int(head.weight.shape[0])
    return LoadedModel(
        model,
        config,
        choice.device,
        DTYPES[choice.dtype],
        str(name),
        fingerprint,
        base,
        rows,
        choice.precisions,
        choice.verify,
    )


def fingerprints(folder: Path, adapter: Path | None, cache_dir: Path | None = None) -> tuple[str, str]:
    """Return the fingerprints of a base, and of the base with its adapter, which must be for that base."""
    if adapter is not None and not (adapter / "adapter_config.json").exists():
        raise ModelUnavailable(f"no adapter_config.json in {adapter}: is it a PEFT folder?")
    base = weights_fingerprint(folder, cache_dir)
    if adapter is None:
        return base, base
    check_base(adapter, base)
    return base, hashlib.sha256(f"{base}+{adapter_fingerprint(adapter)}".encode()).hexdigest()


def weights_fingerprint(folder: Path, cache_dir: Path | None = None) -> str:
    """Return a sha256 over a model folder's tensors: names, types, shapes and sampled bytes.

    That of a GGUF file covers its header too, and is kept in ``cache_dir`` while the file does not change.
    Also checks every file for completeness. Raises
    :class:`~autogpt.errors.ModelUnavailable` when there are no weights or a file is cut off.
    """
    if is_gguf(folder):
        return facts_of(folder, cache_dir).fingerprint
    tensors: dict[str, bytes] = {}
    for path in weight_files(folder):
        if path.suffix != ".safetensors":  # pickled weights: by size and ends
            tensors[path.name] = _sample(path, 0, path.stat().st_size)
            continue
        offset, header = _header(path)
        for key, entry in header.items():
            start, end = entry["data_offsets"]
            about = f"{entry['dtype']}{entry['shape']}".encode()
            tensors[key] = about + _sample(path, offset + start, end - start)
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode() + b"\0" + tensors[key] + b"\0")
    return digest.hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """Return a folder's weight files, safetensors preferred."""
    for pattern in ("model*.safetensors", "*.safetensors", "pytorch_model*.bin"):
        found = sorted(p for p in folder.glob(pattern) if not p.name.startswith("adapter_"))
        if found:
            return found
    raise ModelUnavailable(f"no weights (model.safetensors) in {folder}: fetch the model again")


def _sample(path: Path, start: int, size: int) -> bytes:
    """Hash a range of a file by its size, start, middle and end."""
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for place in (0, max(0, size // 2 - _SAMPLE // 2), max(0, size - _SAMPLE)):
            file.seek(start + place)
            digest.update(file.read(min(_SAMPLE, size)))
    return digest.digest()


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Return the offset of a safetensors file's data and its header, after checking the file's length."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length < size:
                raise ValueError("its header is cut off")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if end != size:
            raise ValueError(f"{size} bytes where its header promises {end}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelUnavailable(f"{path} is damaged ({error}): fetch the model again") from error
    return 8 + length, header


def locate_model(name: str) -> Path:
    """Return a model's folder or GGUF file: itself, its copy in the hub's cache, or a fresh download."""
    folder = Path(name).expanduser()
    if folder.is_dir() or (is_gguf(folder) and folder.is_file()):
        return folder
    if is_hub_file(name):
        return fetch_hub(name)
    if is_gguf(folder):
        raise ModelUnavailable(f"no such file: {name}")
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise ModelUnavailable(f"no model folder {name}: give an existing folder or a hub name (owner/model)")
    return fetch_hub(name)


def _module(folder: Path, config: Any, dtype: torch.dtype) -> Any:
    """Return the module with its weights, on the CPU.

    Missing weights are refused: transformers would initialise them at random and continue.
    """
    if is_gguf(folder):
        model = assemble(config, dict(read_weights(shape_header(folder), dtype)), folder)
        if model is None:
            raise ModelUnavailable(f"{folder}: its tensors are not those of a {config.model_type} model")
        return model
    files = weight_files(folder)
    if can_fuse(config) and all(path.suffix == ".safetensors" for path in files):
        weights = dict(_tensors(files, dtype))
        model = assemble(config, weights, folder)
        if model is not None:
            return model
    try:
        with _quiet():
            model, about = _from_pretrained(folder, dtype)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelUnavailable(f"transformers cannot load {folder}: {reason}") from error
    if lacking := sorted(about["missing_keys"]):
        raise ModelUnavailable(
            f"{folder}: {len(lacking)} weights that its config.json asks for are not in its files, first "
            f"{lacking[0]}: the files do not belong together; fetch the model again"
        )
    return model


def _light(folder: Path, config: Any, dtype: torch.dtype) -> LightModel | None:
    """Read the weights into bare modules, None if they are not exactly what the config asks for."""
    if is_gguf(folder):
        return read_light(folder, config, dict(read_weights(shape_header(folder), dtype)))
    files = weight_files(folder)
    if not can_fuse(config) or any(path.suffix != ".safetensors" for path in files):
        return None
    return read_light(folder, config, dict(_tensors(files, dtype)))


def _from_pretrained(folder: Path, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    from transformers import AutoModelForCausalLM

    loader = cast(Any, AutoModelForCausalLM)
    found: tuple[Any, dict[str, Any]] = loader.from_pretrained(
        str(folder), dtype=dtype, local_files_only=True, output_loading_info=True
    )
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' bars and tables off the screen; we show progress and name errors ourselves."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(100)  # above critical
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _tensors(files: list[Path], dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors by name, in ``dtype``; reopening the file every few tensors.

    What was read of a mapped file counts as this process's memory until the file is closed.
    """
    from safetensors import safe_open

    for path in files:
        with safe_open(str(path), "pt") as file:
            keys = list(file.keys())
        for start in range(0, len(keys), _AT_ONCE):
            with safe_open(str(path), "pt") as file:
                for key in keys[start : start + _AT_ONCE]:
                    yield key, file.get_tensor(key).to(dtype)
