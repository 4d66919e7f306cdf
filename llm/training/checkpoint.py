"""What a training run leaves on disk, written so that a kill at any instant loses no file.

A checkpoint is one file (weights in training, optimiser, position, random state), replaced atomically. It
carries the identity of its run (hashes of base, tokenizer and data, seed, batch), and a run with another
identity refuses it. What is trained is written with every checkpoint, so that it can be tried while training
goes on: an adapter (``lora``) or a whole model in fp16, with our facts in ``autogpt.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from ...files import replace_file
from ..fetch import base_name

if TYPE_CHECKING:
    import torch


@dataclass
class Checkpoint:
    """The position of a run. ``loss`` is a running mean; ``seconds`` is training time, pauses left out."""

    identity: dict[str, str | int] = field(default_factory=dict)
    step: int = 0
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    eval_loss: float | None = None

    def facts(self) -> dict[str, int | float | None]:
        """Return what a card says of the run's length and result."""
        return {
            "steps": self.step,
            "samples": self.samples,
            "tokens": self.tokens,
            "minutes": round(self.seconds / 60, 1),
            "final_loss": self.loss,
            "eval_loss": self.eval_loss,
        }


def save_checkpoint(
    path: Path, state: Checkpoint, weights: Sequence[torch.Tensor], optimiser: torch.optim.Optimizer
) -> None:
    """Write the run's state to ``path``, atomically."""
    import io

    import torch

    buffer = io.BytesIO()
    torch.save(
        {
            "identity": state.identity,
            "place": {name: value for name, value in vars(state).items() if name != "identity"},
            "weights": [weight.detach() for weight in weights],
            "optimiser": optimiser.state_dict(),
            "random": torch.get_rng_state(),
        },
        buffer,
    )
    replace_file(path, buffer.getvalue())


def load_checkpoint(
    path: Path, state: Checkpoint, weights: Sequence[torch.Tensor], optimiser: torch.optim.Optimizer
) -> bool:
    """Put the run's state back from ``path``. Returns False where there is no checkpoint.

    Raises:
        UsageError: the checkpoint belongs to a run with other data, base, seed or shape.
    """
    import torch

    if not path.is_file():
        return False
    kept = torch.load(path, weights_only=True)
    other = [name for name, value in state.identity.items() if kept["identity"].get(name) != value]
    if other:
        raise UsageError(
            f"{path}: checkpoint of another run (other {', '.join(other)}): choose another `out` or remove it"
        )
    vars(state).update(kept["place"])
    with torch.no_grad():
        for weight, value in zip(weights, kept["weights"], strict=True):
            weight.copy_(value)
    optimiser.load_state_dict(kept["optimiser"])
    torch.set_rng_state(kept["random"])
    return True


def base_facts(base: Path) -> tuple[str, dict[str, str | int]]:
    """Return what a base model is called and the hashes of its weights and tokenizer ("" where it has none).

    Raises:
        ModelUnavailable: the base is missing or damaged.
    """
    from ..nn.load import weights_fingerprint
    from ..text.tokenizer import ChatTokenizer

    fingerprint = weights_fingerprint(base)
    readable = base.is_file() or (base / "tokenizer.json").is_file()
    tokenizer = ChatTokenizer(base).fingerprint if readable else ""
    return base_name(fingerprint) or str(base), {"base_sha256": fingerprint, "tokenizer_sha256": tokenizer}


def write_fp16(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write tensors in fp16; tied ones are kept once, under their first name, as transformers does."""
    from safetensors.torch import save

    first = {tensor.data_ptr(): name for name, tensor in reversed(tensors.items())}
    halves = {name: tensors[name].detach().cpu().half().contiguous() for name in first.values()}
    replace_file(path, save(halves, metadata={"format": "pt"}))


def write_whole(model: Any, base: Path, folder: Path, facts: Mapping[str, object]) -> None:
    """Write a whole model like ``base``: fp16 weights, the base's other files, ``autogpt.json``.

    ``base`` is a folder in Hugging Face format; ``config.json`` comes last and makes it a model folder.
    """
    write_fp16(folder / "model.safetensors", model.state_dict())
    for file in base.iterdir():
        kept = file.suffix in (".json", ".jinja", ".txt", ".model") or file.name in ("LICENSE", "NOTICE")
        if kept and file.is_file() and file.name not in _OWN:
            replace_file(folder / file.name, file.read_bytes())
    replace_file(folder / "autogpt.json", json.dumps(dict(facts), indent=2).encode())
    settings = {**json.loads((base / "config.json").read_text("utf-8")), "dtype": "float16"}
    settings.pop("torch_dtype", None)
    replace_file(folder / "config.json", json.dumps(settings, indent=2).encode())


_OWN = ("config.json", "autogpt.json", "card.json", "version.json", "model.safetensors.index.json")
"""Of a base, what a model trained from it has of its own, or not at all."""
