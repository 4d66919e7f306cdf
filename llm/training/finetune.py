"""Fine-tuning: a base model and training samples in, a small adapter folder (LoRA) or a whole model out.

``finetune(config)`` is the whole of it; ``train(path)`` reads a training file and starts what it asks for. An
adapter covers all linear layers, is trained in fp32 and written in fp16 in PEFT's format, with a card that
says what it was made from. ``full`` trains every weight, from the base with ``init`` merged, and writes a
model folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ...errors import ModelUnavailable, UsageError
from ...files import read_object
from ...text import Prompting
from ..fetch import BUILT_IN, base_source
from ..gguf.header import is_gguf
from .card import write_card
from .checkpoint import Checkpoint, base_facts, write_whole
from .data import data_hash, read_samples
from .trainer import OnStep, Report, SupervisedConfig, SupervisedRun, choose_compute, read_config

if TYPE_CHECKING:
    from . import lora


class FinetuneConfig(SupervisedConfig):
    """What to train on what. Only ``base``, ``data`` and ``out`` have no default."""

    kind: Literal["finetune"] = "finetune"
    name: str = "small"
    base: Path
    """Folder of the base model in Hugging Face format, or a GGUF file, which is trained as it is dequantised;
    ``small``, ``medium`` and ``large`` in a file mean the fetched ones."""
    prompting: Prompting = "names"
    """How the samples prompt, and so how what is trained wants to be prompted (kept in its card)."""
    data: list[Path] = Field(min_length=1)
    """Training files; see ``data.read_samples``."""
    eval_data: list[Path] = []
    """Held-out files; their loss is shown every ``eval_every`` steps."""
    init: Path | None = None
    """An adapter folder to go on from, in place of a fresh one."""
    rank: int = Field(default=16, gt=0)
    alpha: int = Field(default=32, gt=0)
    int8: bool = False
    """Write the adapter in int8: half the size, read by AutoGPT alone."""
    full: bool = False
    """Train all weights, and write a whole model folder (``out/model``) in place of an adapter."""


def _pretrained(base: Path, dtype: Any) -> Any:
    """Return the base in this number format, in evaluation mode: nothing is dropped out."""
    if is_gguf(base):
        return _dequantised(base, dtype)
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return AutoModelForCausalLM.from_pretrained(base, dtype=dtype)


def _dequantised(base: Path, dtype: Any) -> Any:
    """Return a GGUF file's model as transformers' module in this number format."""
    from ..gguf.weights import read_weights, shape_header
    from ..nn.light_loader import assemble, full_config

    model = assemble(full_config(base), dict(read_weights(shape_header(base), dtype)), base)
    if model is None:
        raise ModelUnavailable(f"{base}: its tensors are not those of its architecture")
    return model.eval()


def whole_model(base: Path, init: Path | None, device: str) -> Any:
    """Return the base in fp32, with the adapter ``init`` merged, all of its weights trainable."""
    import torch

    from ..nn.adapter import merge_adapter

    model = _pretrained(base, torch.float32)
    if init:
        merge_adapter(model, init)
    return model.to(device).requires_grad_(True)


def with_adapter(
    base: Path, init: Path | None, rank: int, alpha: int, device: str, dtype: Any, base_name: str
) -> tuple[Any, lora.Adapter]:
    """Return the base with an adapter; only the adapter's weights are trainable.

    Args:
        init: an adapter folder to go on from; None makes a fresh one of ``rank`` and ``alpha``.
        base_name: what the adapter's folder calls its base.
    """
    from . import lora

    model = _pretrained(base, dtype).to(device)
    if init:
        adapter = lora.load_adapter(model, init, base_name)
    else:
        adapter = lora.add_adapter(model, rank, alpha, base_name)
    if device == "cpu":
        lora.use_own_layers(model)
    return model, adapter


def finetune(config: FinetuneConfig, progress: OnStep | None = None) -> Report:
    """Train an adapter or a whole model, or go on with the run that ``config.out`` holds.

    Args:
        config: what to train.
        progress: called after each step; default prints to the terminal.

    Raises:
        UsageError: data or checkpoint do not fit; nothing is overwritten then.
        ModelUnavailable: the base is missing or damaged.
    """
    import torch

    torch.manual_seed(config.seed)
    base_name, identity = base_facts(config.base)
    samples = read_samples(config.data, config.longest)
    held_out = read_samples(config.eval_data, config.longest) if config.eval_data else []
    identity |= {
        "data_sha256": data_hash(config.data),
        "seed": config.seed,
        "batch": config.batch,
        "rank": 0 if config.full else config.rank,
    }
    device, dtype = choose_compute(config.device, config.dtype)
    folder = config.out / ("model" if config.full else "adapter")
    adapter = None
    if config.full:
        model = whole_model(config.base, config.init, device)
    else:
        model, adapter = with_adapter(
            config.base, config.init, config.rank, config.alpha, device, dtype, base_name
        )

    before = {} if config.init is None else {"adapter": _went_on(config.init)}

    def write(state: Checkpoint) -> Path:
        about = {"name": config.name, "base": base_name, "prompting": config.prompting}
        facts = {**about, **identity, **state.facts(), **before}
        if adapter is None:
            write_whole(model, config.base, folder, facts)
        else:
            adapter.write(folder, facts, config.int8)
        write_card(folder, facts)
        return folder

    run = SupervisedRun(
        config=config,
        core=model,
        weights=[weight for weight in model.parameters() if weight.requires_grad],
        samples=samples,
        held_out=held_out,
        device=device,
        dtype=dtype,
        state=Checkpoint(identity),
        write=write,
    )
    return run.learn(f"{config.name} on {device} in {str(dtype).removeprefix('torch.')}", progress)


def _went_on(init: Path) -> str:
    """Return what a card says of the adapter that training began with."""
    facts = read_object(init / "autogpt.json")
    data = str(facts.get("data_sha256", "unknown"))[:16]
    seen = facts.get("samples", "an unknown number of")
    return f"went on from one of {seen} samples (their sha256: {data})"


def load_config(path: Path, roots: Sequence[Path] = ()) -> FinetuneConfig:
    """Read a training file (YAML). Relative paths are resolved by ``read_config``.

    ``base: small`` (or ``medium``, ``large``) is the fetched base, in the root that has it.

    Raises:
        UsageError: names the file and the field that is wrong.
        ModelUnavailable: the base is named so, and it was not fetched.
    """
    config = read_config(path, FinetuneConfig, roots)
    if (name := str(config.base)) in BUILT_IN:
        sources = (base_source(root, name) for root in roots)
        found = next((source for source in sources if source.exists()), None)
        if found is None:
            raise ModelUnavailable(
                f"{path}: base: `{name}` is not on this machine: run `autogpt model fetch {name}`"
            )
        config = config.model_copy(update={"base": found})
    return config


def train(
    path: Path,
    roots: Sequence[Path] = (),
    steps: int | None = None,
    progress: OnStep | None = None,
) -> Report:
    """Run the training file at ``path``; its ``kind`` is ``finetune`` (default) or ``pretrain``.

    A second call goes on where the first was stopped.

    Args:
        roots: where relative paths are looked for, after the file's folder and the current one.
        steps: stop after this many optimiser steps in all, instead of what the file says.

    Raises:
        UsageError: the file is wrong, or asks for pretraining, which an installed package does not have.
    """
    import yaml

    try:
        head = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        head = None  # reading it properly below names what is wrong
    kind = head.get("kind", "finetune") if isinstance(head, dict) else "finetune"
    changes = {} if steps is None else {"steps": steps}
    if kind == "finetune":
        return finetune(load_config(path, roots).model_copy(update=changes), progress)
    if kind != "pretrain":
        raise UsageError(f"{path}: kind: {kind!r} is not known; known: finetune, pretrain")
    try:
        from .pretraining import pretrain
    except ModuleNotFoundError as missing:
        if not str(missing.name).startswith("autogpt."):
            raise
        raise UsageError(
            f"{path}: pretraining is not in the installed package: run it in a checkout of the repository"
        ) from None
    return pretrain.pretrain(pretrain.load_config(path, roots).model_copy(update=changes), progress)
