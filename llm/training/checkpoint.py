"""What a training run leaves on disk, written so that a kill at any instant loses no file.

A checkpoint is one file (weights in training, optimiser, position, random state), written beside
and renamed. It carries the identity of its run (hashes of base, tokenizer and data, seed, batch),
and a run with another identity refuses it. The adapter is a PEFT folder in 16 bit, with our facts
in ``autogpt.json``; it is refreshed with every checkpoint, so that it can be tried while training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from ...files import replace_file

if TYPE_CHECKING:
    import torch


@dataclass
class Checkpoint:
    """Where a run stands. ``loss`` is a running mean; ``seconds`` is training time, pauses left out."""

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


_PLACE = ("step", "samples", "tokens", "seconds", "loss", "eval_loss")


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
            "place": {name: getattr(state, name) for name in _PLACE},
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
    for name in _PLACE:
        setattr(state, name, kept["place"][name])
    with torch.no_grad():
        for weight, value in zip(weights, kept["weights"], strict=True):
            weight.copy_(value)
    optimiser.load_state_dict(kept["optimiser"])
    torch.set_rng_state(kept["random"])
    return True


def write_adapter(model: Any, folder: Path, facts: Mapping[str, object]) -> None:
    """Write the adapter of a PEFT model: ``adapter_config.json``, fp16 weights, ``autogpt.json``."""
    import peft
    import torch
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    tensors = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    halves = {name: tensor.detach().cpu().to(torch.float16).contiguous() for name, tensor in tensors.items()}
    settings = model.peft_config["default"].to_dict()
    settings["inference_mode"] = True
    plain = {k: sorted(v) if isinstance(v, set) else v for k, v in settings.items()}
    text = json.dumps(plain, indent=2, sort_keys=True, default=str)
    replace_file(folder / "adapter_config.json", text.encode())
    replace_file(folder / "adapter_model.safetensors", save(halves, metadata={"format": "pt"}))
    replace_file(folder / "autogpt.json", json.dumps(dict(facts), indent=2).encode())


def write_whole(model: Any, base: Path, folder: Path, facts: Mapping[str, object]) -> None:
    """Write a whole model like ``base``: fp16 weights, the base's other files, ``autogpt.json``.

    ``base`` is a folder in Hugging Face format; ``config.json`` comes last and makes it a model folder.
    """
    import torch
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    seen: set[int] = set()
    halves = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:  # tied weights are kept once, as the library does
            seen.add(tensor.data_ptr())
            halves[name] = tensor.detach().cpu().to(torch.float16).contiguous()
    replace_file(folder / "model.safetensors", save(halves, metadata={"format": "pt"}))
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
