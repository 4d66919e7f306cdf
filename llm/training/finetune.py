"""Fine-tuning: a base model and training samples in, a small adapter folder (LoRA) or a whole model out.

``finetune(config)`` is the whole of it; the command line only parses and calls. An adapter covers
all linear layers, is trained in fp32 and written in 16 bit in PEFT's format, with what it was made
from in ``autogpt.json`` and a card. ``full`` trains every weight, from the base with ``init`` merged,
and writes a model folder. The loop, its schedule and resumption are in ``loop``.

Run by hand: ``python -m autogpt.llm.training.finetune examples/train/small.yaml``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ...errors import ModelUnavailable
from ...files import sha256_of
from ..fetch import BASE_FINGERPRINT, base_folder
from .card import write_card
from .checkpoint import Checkpoint, write_adapter, write_whole
from .config import read_config
from .console import Progress
from .data import data_hash, read_samples
from .loop import LoopConfig, Report, Trainer, choose_compute, run


class FinetuneConfig(LoopConfig):
    """What to train on what. Only ``base``, ``data`` and ``out`` have no default."""

    kind: Literal["finetune"] = "finetune"
    name: str = "small"
    base: Path
    """Folder of the base model in Hugging Face format; ``small`` in a file means the fetched one."""
    data: list[Path] = Field(min_length=1)
    """Training files; see ``data.read_samples``."""
    eval_data: list[Path] = []
    """Held-out files; their loss is shown every ``eval_every`` steps."""
    init: Path | None = None
    """An adapter folder to go on from, in place of a fresh one."""
    rank: int = Field(default=16, gt=0)
    alpha: int = Field(default=32, gt=0)
    full: bool = False
    """Train all weights, and write a whole model folder (``out/model``) in place of an adapter."""


def _pretrained(base: Path, dtype: Any) -> Any:
    """Return the base in this number format, loaded without a word."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return AutoModelForCausalLM.from_pretrained(base, dtype=dtype)


def whole_model(base: Path, init: Path | None, device: str) -> Any:
    """Return the base in fp32, with the adapter ``init`` merged, all of its weights trainable."""
    import peft
    import torch

    model = _pretrained(base, torch.float32)
    if init:
        model = peft.PeftModel.from_pretrained(model, str(init)).merge_and_unload()
    return model.to(device).requires_grad_(True)


def with_adapter(
    base: Path, init: Path | None, rank: int, alpha: int, device: str, dtype: Any, base_name: str
) -> Any:
    """Return the base as a PEFT model whose only trainable weights are the adapter's.

    Args:
        init: an adapter folder to go on from; None makes a fresh one of ``rank`` and ``alpha``.
        base_name: what the adapter's folder calls its base.
    """
    import warnings

    import peft

    from . import lora

    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
    model = _pretrained(base, dtype)
    model.to(device)
    if init:
        wrapped = peft.PeftModel.from_pretrained(model, str(init), is_trainable=True)
    else:
        shape = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")
        wrapped = peft.get_peft_model(model, shape)
    wrapped.peft_config["default"].base_model_name_or_path = base_name
    if device == "cpu":
        lora.fuse(wrapped)
    return wrapped


def finetune(config: FinetuneConfig, progress: Callable[[Progress], None] | None = None) -> Report:
    """Train an adapter or a whole model, or go on with the run that ``config.out`` holds.

    Args:
        config: what to train.
        progress: called after each step; default prints to the terminal.

    Raises:
        UsageError: data or checkpoint do not fit; nothing is overwritten then.
        ModelUnavailable: the base is missing or damaged.
    """
    import torch

    from ..nn.load import weights_fingerprint

    torch.manual_seed(config.seed)
    identity: dict[str, str | int] = {
        "base_sha256": weights_fingerprint(config.base),
        "tokenizer_sha256": sha256_of(config.base / "tokenizer.json"),
    }
    samples = read_samples(config.data, config.longest)
    held_out = read_samples(config.eval_data, config.longest) if config.eval_data else []
    identity |= {
        "data_sha256": data_hash(config.data),
        "seed": config.seed,
        "batch": config.batch,
        "rank": 0 if config.full else config.rank,
    }
    device, dtype = choose_compute(config.device, config.dtype)
    base_name = "small" if identity["base_sha256"] == BASE_FINGERPRINT else str(config.base)
    wrapped = (
        whole_model(config.base, config.init, device)
        if config.full
        else with_adapter(config.base, config.init, config.rank, config.alpha, device, dtype, base_name)
    )
    folder = config.out / ("model" if config.full else "adapter")

    def write(state: Checkpoint) -> Path:
        facts = {"name": config.name, "base": base_name, **identity, **state.facts()}
        if config.full:
            write_whole(wrapped, config.base, folder, facts)
        else:
            write_adapter(wrapped, folder, facts)
        write_card(folder, facts)
        return folder

    trainer = Trainer(
        config=config,
        core=wrapped if config.full else wrapped.get_base_model(),
        weights=[weight for weight in wrapped.parameters() if weight.requires_grad],
        samples=samples,
        held_out=held_out,
        device=device,
        dtype=dtype,
        state=Checkpoint(identity),
        write=write,
    )
    return run(trainer, f"{config.name} on {device} in {str(dtype).removeprefix('torch.')}", progress)


def load_config(path: Path, roots: Sequence[Path] = ()) -> FinetuneConfig:
    """Read a training file (YAML). Relative paths are looked for beside it, here, and under ``roots``.

    ``base: small`` is the fetched base, in the root that has it.

    Raises:
        UsageError: names the file and the field that is wrong.
        ModelUnavailable: ``base: small``, and it was not fetched.
    """
    config = read_config(path, FinetuneConfig, roots)
    if str(config.base) == "small":
        found = next((base_folder(root) for root in roots if base_folder(root).is_dir()), None)
        if found is None:
            raise ModelUnavailable(f"{path}: base: `small` is not on this machine: run `autogpt model fetch`")
        config = config.model_copy(update={"base": found})
    return config


if __name__ == "__main__":
    import sys

    from ...settings import load

    places = [place for place in (load().home, load().data) if place]
    print(json.dumps(asdict(finetune(load_config(Path(sys.argv[1]), places))), default=str))
