"""Proves the promotion gate: simulated gates of an equal, a better and a partly worse candidate.

    python benchmarks/prove_gate.py            2,000 gates each; exit code 1 where a promise is broken

Each simulated goal has a category and a difficulty of its own; the two models differ on a quarter of
the goals. An equal candidate must be promoted in fewer than 5 % of gates, one that is truly 5 points
better in more than 80 %, at the default number of goals. Also shown: how early gates end, and what the
category guard does against a candidate that is better overall and 15 points worse in one category.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import numpy as np

from autogpt.agent.evaluate.statistics import DEFAULT_N, DISCORDANCE, Pair, judge

CATEGORIES = ("tables", "files", "words", "workflows")


@dataclass(frozen=True)
class Found:
    """What came of the simulated gates of one candidate."""

    promoted: float
    goals: float
    """Mean number of goals that a gate took."""


def simulate(
    gates: int, gain: float, *, planned: int = DEFAULT_N, losing: float = 0.0, seed: int = 0,
    discordance: float = DISCORDANCE,
) -> Found:  # fmt: skip
    """Play ``gates`` gates against a candidate ``gain`` better, and ``losing`` worse in one category."""
    rng = np.random.default_rng(seed)
    promoted, goals = 0, 0
    for _ in range(gates):
        kinds = rng.integers(len(CATEGORIES), size=planned)
        gains = np.full(planned, gain)
        if losing:
            gains[kinds == 0] = -losing
        differs = rng.random(planned) < discordance
        wins = rng.random(planned) < 0.5 + gains / (2 * discordance)
        both = rng.random(planned) < 0.6
        pairs = [
            Pair(str(i), CATEGORIES[kinds[i]], *((0.0, 1.0) if wins[i] else (1.0, 0.0)))
            if differs[i]
            else Pair(str(i), CATEGORIES[kinds[i]], float(both[i]), float(both[i]))
            for i in range(planned)
        ]
        verdict = judge(pairs, planned)
        promoted += verdict.decision == "promote"
        goals += verdict.seen
    return Found(promoted / gates, goals / gates)


def main() -> int:
    """Print the table; exit code 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gates", type=int, default=2000, metavar="N", help="gates each (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    args = parser.parse_args()
    print(f"{args.gates} gates each, {DEFAULT_N} goals planned, models differ on {DISCORDANCE:.0%}")
    cases = [
        ("equal", 0.0, 0.0, "< 5 %"),
        ("5 points better", 0.05, 0.0, "> 80 %"),
        ("10 points better", 0.10, 0.0, ""),
        ("5 points worse", -0.05, 0.0, ""),
        ("10 better, but 15 worse in one of four categories", 0.10, 0.15, ""),
    ]
    found = []
    for name, gain, losing, promise in cases:
        one = simulate(args.gates, gain, losing=losing, seed=args.seed)
        found.append(one)
        print(f"{name:52} promoted {one.promoted:6.1%}  {promise:7} mean goals {one.goals:5.0f}")
    return 0 if found[0].promoted < 0.05 and found[1].promoted > 0.8 else 1


if __name__ == "__main__":
    sys.exit(main())
