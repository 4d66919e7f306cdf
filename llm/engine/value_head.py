"""The value head: from the model's own last state to the chance that the run achieves its goal.

A linear layer on the policy's final hidden state (after the last norm) at the last token of a turn, and
on how confident the turn's tokens were. It ranks the candidates of ``best_of`` and predicts whether a
run will succeed. It belongs to one set of weights, whose fingerprint its file names; another model's
head is refused, because its output would be meaningless.

Limits: it needs our own forward (:func:`~..nn.forward.can_fuse`). It generalises from the goals that it
was fitted on; its card says which, and how well it is calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...errors import ModelUnavailable
from ..message import Turn

FILE = "value.safetensors"
"""Name of its file, in the folder of the adapter that it belongs to."""
FORMAT = "1"
SURENESS = 4
"""Inputs that come from a turn's log-probabilities: see :func:`sureness`."""


def sureness(turn: Turn) -> tuple[float, float, float, float]:
    """Return mean, least and sum of the chosen tokens' log-probabilities, and their number."""
    chosen = [p for p, origin in zip(turn.logprobs, turn.origins, strict=True) if origin != "f"]
    if not chosen:
        return 0.0, 0.0, 0.0, 0.0
    return sum(chosen) / len(chosen), min(chosen), sum(chosen), float(len(chosen))


@dataclass(frozen=True)
class ValueHead:
    """Logistic regression on standardised inputs, its log odds divided by a temperature.

    F is the number of inputs: the model's width and :data:`SURENESS`.
    """

    fingerprint: str
    """Of the model that it was fitted on."""
    mean: Tensor
    scale: Tensor
    """``[F]``: inputs are ``(x - mean) / scale``."""
    weight: Tensor
    """``[F]``."""
    bias: float
    temperature: float = 1.0

    def logits(self, inputs: Tensor) -> Tensor:
        """Return log odds ``[n]`` of inputs ``[n, F]``, calibrated."""
        x = (inputs.float() - self.mean) / self.scale
        return (x @ self.weight + self.bias) / self.temperature

    def chances(self, states: Tensor, turns: Sequence[Turn]) -> list[float]:
        """Return, per turn, the chance of success after it; ``states [n, width]`` at the turns' ends."""
        with torch.inference_mode():
            return [float(p) for p in self.logits(inputs_of(states, turns)).sigmoid()]

    def save(self, path: Path) -> None:
        """Write the head: a few kilobytes."""
        from safetensors.torch import save_file

        last = torch.tensor([self.bias, self.temperature])
        tensors = {"mean": self.mean, "scale": self.scale, "weight": self.weight, "last": last}
        about = {"format": FORMAT, "fingerprint": self.fingerprint}
        save_file({name: tensor.float().contiguous() for name, tensor in tensors.items()}, str(path), about)

    @classmethod
    def load(cls, path: Path, fingerprint: str, width: int) -> ValueHead:
        """Read a head for the model with this ``fingerprint`` and hidden ``width``.

        Raises :class:`~autogpt.errors.ModelUnavailable` when it is damaged or another model's.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), "pt") as file:
                about = file.metadata() or {}
                tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
            bias, temperature = (float(number) for number in tensors.pop("last"))
            head = cls(about["fingerprint"], **tensors, bias=bias, temperature=temperature)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ModelUnavailable(f"value head {path} is damaged ({error}): fit it again") from error
        if head.fingerprint != fingerprint or len(head.mean) != width + SURENESS:
            raise ModelUnavailable(
                f"value head {path} belongs to another model ({head.fingerprint[:12]}, this one is "
                f"{fingerprint[:12]}): fit it again on this one"
            )
        return head


def inputs_of(states: Tensor, turns: Sequence[Turn]) -> Tensor:
    """Return what a head reads, ``[n, width + SURENESS]`` in fp32 on the CPU."""
    sure = torch.tensor([sureness(turn) for turn in turns], dtype=torch.float32)
    return torch.cat([states.float().cpu(), sure.reshape(len(turns), SURENESS)], 1)
