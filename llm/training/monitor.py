"""Noticing that a policy comes apart while it is trained, so that the old model stays.

Learning from rewards or preferences can end in a policy that repeats itself, says the same whatever
it is asked, falls silent or never stops, and losses do not show it. ``CollapseMonitor`` compares what each
step reports with what the first steps reported, and raises ``Collapse`` when a sign stays bad for some
steps in a row: nothing is written then, and nothing gets promoted. The first steps' means are kept in
a file, so that a resumed run is held to the same. The bounds are wide: they tell a ruined policy from
a changed one, not a good one from a bad one, which is the gate's work.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import AutoGPTError
from ...files import replace_file

SETTLE = 3
"""Steps whose mean is what later ones are compared with."""
PATIENCE = 3
"""Steps in a row that a sign may be bad."""
HOPELESS = 5
"""Rounds in a row without any rewarded attempt."""
_GRAM = 4
_COMPARED = ("entropy", "length", "repetition")


class Collapse(AutoGPTError):
    """The policy has come apart; the message says how. The model that was current stays."""


def repetition(ids: Sequence[int], mask: Sequence[bool]) -> float:
    """Return the share of the model's own four-token pieces that it had said before, 0..1."""
    said = [token for token, own in zip(ids, mask, strict=True) if own]
    grams = [tuple(said[i : i + _GRAM]) for i in range(len(said) - _GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


class CollapseMonitor:
    """Watches the steps of one run; see the module's text."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._sums: dict[str, float] = {}
        self._seen: dict[str, int] = {}
        self._bad: Counter[str] = Counter()
        if place.is_file():
            kept = json.loads(place.read_text(encoding="utf-8"))
            self._sums, self._seen = kept["sums"], kept["seen"]

    def see(self, signs: Mapping[str, float]) -> None:
        """Take the signs of a step.

        Args:
            signs: any of ``loss``; ``entropy`` (nats a token); ``length`` (tokens an attempt),
                ``repetition`` (0..1) and ``reward_best`` of newly rolled attempts.

        Raises:
            Collapse: a sign has been bad for too long, or the loss is not a number.
        """
        loss = signs.get("loss", 0.0)
        if not math.isfinite(loss):
            raise Collapse(f"training stopped: the loss is {loss}; the current model is kept")
        wrong = {name: why for name in _COMPARED if name in signs and (why := self._judge(name, signs[name]))}
        if signs.get("reward_best", 1.0) <= 0.0:
            wrong["reward"] = "no attempt earned a reward"
        for name in (*_COMPARED, "reward"):
            if name not in wrong:
                reported = name in signs or (name == "reward" and "reward_best" in signs)
                self._bad[name] = 0 if reported else self._bad[name]
                continue
            self._bad[name] += 1
            limit = HOPELESS if name == "reward" else PATIENCE
            if self._bad[name] >= limit:
                raise Collapse(
                    f"training stopped: {wrong[name]} in {limit} steps in a row; the current model is kept"
                )

    def _judge(self, name: str, value: float) -> str:
        """Return what is wrong with a value, empty if nothing; the first ones set the measure."""
        seen = self._seen.get(name, 0)
        if seen < SETTLE:
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._seen[name] = seen + 1
            replace_file(self._place, json.dumps({"sums": self._sums, "seen": self._seen}).encode())
            return ""
        usual = self._sums[name] / seen
        low, high = _bounds(name, usual)
        if low <= value <= high:
            return ""
        return f"{name} is {value:.3g}, after {usual:.3g} at the beginning,"


def _bounds(name: str, usual: float) -> tuple[float, float]:
    """Return between which values a sign may lie that was ``usual`` at the beginning."""
    if name == "entropy":  # a policy that is sure of itself from the start cannot fall far
        return (usual / 10 if usual > 0.05 else 0.0), 4 * usual + 0.5
    if name == "length":
        return usual / 4, 4 * usual + 16
    return 0.0, max(0.5, usual + 0.3)
