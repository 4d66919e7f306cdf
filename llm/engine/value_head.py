"""The value head: from the model's own last state to the chance that the run achieves its goal.

A linear layer on the policy's final hidden state (after the last norm) at the last token of a turn,
beside how sure the turn's tokens were. It ranks the candidates of ``best_of`` and can tell a run that
has little hope. It knows one set of weights: the file names their fingerprint, and another model's
head is refused, because it would load and mean nothing. It is fitted by ``llm/training/fit_value_head.py``.

Limits: it needs our own forward (:func:`~.forward.can_fuse`), and it has learnt from the goals it was
fitted on; its card says on which, and how well it is calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...errors import ModelUnavailable
from ..kv.cache import Session
from ..message import Turn

if TYPE_CHECKING:
    from .engine import Engine

FILE = "value.safetensors"
"""Its file's name, beside the adapter that it belongs to."""
FORMAT = "1"
SURENESS = 4
"""Inputs that come from a turn's log-probabilities: see :func:`sureness`."""
LONG = 64
"""Ids that are computed as a prompt, in chunks, before the last one's state is taken."""


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


def last_states(engine: Engine, wanted: Sequence[tuple[str, Sequence[int]]]) -> Tensor:
    """Return the final hidden state ``[n, width]`` at the last of each session's ids.

    ``wanted`` names a session and all its ids so far. What its cache holds is used, so that after a turn
    only the few tokens are computed that the next prompt would need anyway; an unknown session begins
    from the longest prefix that any other holds.
    """
    with engine._lock, torch.inference_mode():
        pairs = []
        for name, given in wanted:
            ids = list(given)
            if len(ids) - len(_at(engine, name, ids).ids) > LONG:
                engine.prefill(name, ids[:-1])
            session = _at(engine, name, ids)
            session.cache.reserve(len(ids))
            pairs.append((session, ids))
        rows = [ids[len(session.ids) :] for session, ids in pairs]
        batch = [(session.cache, new) for (session, _), new in zip(pairs, rows, strict=True)]
        states = engine._forward.hidden(batch)
        for (session, ids), new in zip(pairs, rows, strict=True):
            session.ids.extend(new)
            assert session.ids == ids
        return states


def _at(engine: Engine, name: str, ids: list[int]) -> Session:
    """Return a session that holds a beginning of ``ids``, all but the last at most."""
    from ..kv.cache import common_prefix

    session = engine._sessions.open(name)
    session.crop(min(common_prefix(session.ids, ids), len(ids) - 1))
    return session
