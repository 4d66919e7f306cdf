"""Statistics of evaluation: intervals, exact tests, and the promotion gate's sequential test.

The gate asks whether a candidate model is really better than the current one; no model is involved here.

Both models work on the same held-out goals. A goal that only the candidate achieves is a win, one that
only the current model achieves a loss; the rest says nothing about which is better. Under "equal" wins
and losses are coin flips, so McNemar's exact test is a sign test over them (McNemar, 1947). The gate
looks at 25, 50, 75 and 100 % of the planned goals and spends its error probability as O'Brien and
Fleming do (Lan and DeMets, 1983): nearly nothing early, nearly all at the end. The bounds are computed
exactly, given how many goals differed at each look, so the promise "equal models are promoted in fewer
than 2.5 % of gates" is a bound, not an approximation. A gate ends early when the candidate is clearly
better, clearly worse, or so far behind that the gain it was planned for would not be seen any more
(that last rule only keeps models back, so it costs none of the error probability).

Limits: goals must be in random order and independent of each other; a goal with several samples counts
once, by which model achieved more of them. A small category can hide a loss: the table shows its interval,
and the guard stops only what noise cannot explain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.05
"""Two-sided level of the whole gate; a promotion spends half of it."""
MIN_GOALS = 100
"""Below this nothing is promoted: even a gain of 10 points would mostly not be seen."""
GAIN = 0.05
"""The gain that the default number of goals is planned for."""
DISCORDANCE = 0.25
"""Share of goals on which two versions of a model are taken to differ, for planning only."""
LOOKS = (0.25, 0.5, 0.75, 1.0)
FUTILE = 0.05
"""A gate ends when the planned gain, were it real, would lead to a promotion less often than this."""
_NORMAL = NormalDist()

Decision = Literal["promote", "keep", "more"]


@dataclass(frozen=True)
class Pair:
    """One goal under both models; scores are the share of its samples that were achieved, 0 to 1."""

    goal: str
    category: str
    current: float
    candidate: float


@dataclass(frozen=True)
class Row:
    """One line of the table: a category, or all."""

    category: str
    n: int
    current: float
    candidate: float
    low: float
    """The 95 % bootstrap interval of the difference begins here."""
    high: float
    worse: bool
    """Whether the category fell by more than its noise allows."""

    @property
    def difference(self) -> float:
        """Candidate less current."""
        return self.candidate - self.current


@dataclass(frozen=True)
class Verdict:
    """What the gate says: ``promote``, ``keep`` the current model, or ``more`` goals are needed."""

    decision: Decision
    reason: str
    seen: int
    """Goals that it took."""
    planned: int
    wins: int
    losses: int
    p: float
    """Two-sided exact McNemar p of these wins and losses, without regard to earlier looks."""
    worse: tuple[str, ...] = ()
    """Categories that fell by more than their noise allows."""


def wilson(passed: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (Wilson, 1927), 95 % for the default ``z``."""
    if n == 0:
        return 0.0, 1.0
    rate = passed / n
    middle = rate + z * z / (2 * n)
    spread = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return max(0.0, (middle - spread) / (1 + z * z / n)), min(1.0, (middle + spread) / (1 + z * z / n))


def bootstrap(values: Sequence[float], seed: int = 0, draws: int = 2000) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean (Efron, 1979)."""
    distinct, counts = np.unique(np.asarray(values, dtype=float), return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(values), counts / len(values), draws)
    low, high = np.quantile(drawn @ distinct / len(values), (0.025, 0.975))
    return float(low), float(high)


def fisher(solved: int, size: int, before: int, of: int) -> float:
    """Return Fisher's exact one-sided p (1922) that ``solved`` of ``size`` is less than ``before`` of ``of``.

    It is P(at most ``solved`` of ``size``) if both succeed alike, given the total number of successes.
    """
    total, wins = size + of, solved + before
    least = max(0, size - (total - wins))
    ways = sum(math.comb(wins, k) * math.comb(total - wins, size - k) for k in range(least, solved + 1))
    return ways / math.comb(total, size)


@dataclass(frozen=True)
class RankTest:
    """Whether good items have larger values than bad ones: every good one is compared with every bad one."""

    wins: int
    """Pairs in which the good item's value is the larger."""
    losses: int
    p: float
    """Two-sided, by permutation of the labels (Mann and Whitney's U, 1947)."""


def rank_test(values: Sequence[float], good: Sequence[bool], draws: int = 2000) -> RankTest:
    """Compare the values of good and bad items; labels are permuted ``draws`` times, under a fixed seed."""
    order, labels = np.array(values), np.array(good, dtype=bool)
    signs = np.sign(order[:, None] - order[None, :])

    def lead(dealt: NDArray[np.bool_]) -> float:
        return float(signs[dealt][:, ~dealt].sum())

    rng = np.random.default_rng(0)
    found = abs(lead(labels))
    as_far = sum(abs(lead(rng.permutation(labels))) >= found for _ in range(draws))
    between = signs[labels][:, ~labels]
    return RankTest(int((between > 0).sum()), int((between < 0).sum()), (1 + as_far) / (1 + draws))


def tail(wins: int, trials: int) -> float:
    """Return P(at least ``wins`` heads in ``trials`` fair flips), exactly."""
    if wins <= 0:
        return 1.0
    return sum(math.comb(trials, k) for k in range(wins, trials + 1)) / (1 << trials)


def mcnemar(wins: int, losses: int) -> float:
    """Return the two-sided exact p of McNemar's test."""
    return min(1.0, 2 * tail(max(wins, losses), wins + losses))


def spent(share: float, alpha: float) -> float:
    """Return how much of the one-sided ``alpha`` is spent when ``share`` (0 to 1) of the goals is seen."""
    if share <= 0:
        return 0.0
    z = _NORMAL.inv_cdf(1 - alpha / 2)
    return min(alpha, 2 * (1 - _NORMAL.cdf(z / math.sqrt(share))))


def default_n(gain: float = GAIN, discordance: float = DISCORDANCE, power: float = 0.9) -> int:
    """Return the goals at which a true ``gain`` is seen with ``power`` (Miettinen, 1968), rounded up to 50.

    4 % are added for the looks.
    """
    z = _NORMAL.inv_cdf(1 - ALPHA / 2) * math.sqrt(discordance)
    z += _NORMAL.inv_cdf(power) * math.sqrt(discordance - gain**2)
    return 50 * math.ceil(1.04 * (z / gain) ** 2 / 50)


DEFAULT_N = default_n()


class Bounds:
    """How many wins a promotion takes at each look, made exactly from the goals that differed so far.

    Under "equal" the wins among the goals that differ are a fair random walk whatever their number, so
    the probability of having crossed at an earlier look is known exactly.
    """

    def __init__(self, alpha: float = ALPHA / 2) -> None:
        self.alpha = alpha
        self._alive: NDArray[np.float64] = np.ones(1)
        self._used = 0.0

    def next(self, differing: int, share: float) -> int:
        """Return the least wins that cross at this look; ``differing`` never falls between looks.

        ``share``: of the planned goals, seen so far. More wins than ``differing`` cannot happen: no
        result can cross then.
        """
        fresh = differing + 1 - len(self._alive)
        flips = np.array([math.comb(fresh, k) / (1 << fresh) for k in range(fresh + 1)])
        walk = np.convolve(self._alive, flips)
        allowed = spent(share, self.alpha) - self._used
        tails = np.cumsum(walk[::-1])[::-1]
        fits = np.flatnonzero(tails <= allowed)
        bound = int(fits[0]) if fits.size else differing + 1
        if bound <= differing:
            self._used += float(tails[bound])
        self._alive = np.where(np.arange(differing + 1) < bound, walk, 0.0)
        return bound


def judge(
    pairs: Sequence[Pair], planned: int = DEFAULT_N, looks: Sequence[float] = LOOKS, gain: float = GAIN
) -> Verdict:
    """Look at ``pairs`` (in the order they were played) as often as there are enough of them.

    ``planned``: goals of the whole gate, at least :data:`MIN_GOALS`; pairs beyond it are not looked at.
    ``looks``: rising shares of it. Raises ValueError where the plan is too small.
    """
    if planned < MIN_GOALS:
        raise ValueError(f"a gate takes at least {MIN_GOALS} goals, {planned} were planned")
    differences = np.sign([pair.candidate - pair.current for pair in pairs[:planned]])
    up, down = Bounds(), Bounds()
    wins = losses = seen = 0
    for share in looks:
        size = math.ceil(share * planned)
        if len(differences) < size or size < 1:
            break
        seen = size
        wins = int((differences[:size] > 0).sum())
        losses = int((differences[:size] < 0).sum())
        shape = (seen, planned, wins, losses, mcnemar(wins, losses))
        better = wins >= up.next(wins + losses, size / planned)
        fallen = losses >= down.next(wins + losses, size / planned)
        if fallen:
            return Verdict("keep", "the candidate is worse", *shape)
        if better and size >= MIN_GOALS:
            worse = fallen_categories(pairs[:size])
            if not worse:
                return Verdict("promote", "the candidate is better", *shape)
            if size == planned:
                return Verdict("keep", f"better overall, but worse in {', '.join(worse)}", *shape, worse)
        elif size == planned:
            return Verdict("keep", "no gain beyond chance", *shape)
        elif not better and _chance(wins - losses, wins + losses, size, planned, gain) < FUTILE:
            reason = f"a gain of {gain * 100:g} points would not be seen any more"
            return Verdict("keep", reason, *shape)
    left = planned - len(differences)
    reason = f"not decided yet; {left} goals are left" if left else "no look was at all goals"
    return Verdict("more", reason, seen, planned, wins, losses, mcnemar(wins, losses))


def _chance(lead: int, differing: int, size: int, planned: int, gain: float) -> float:
    """Return about how probable a promotion still is if ``gain`` were real (conditional power)."""
    rest = planned - size
    noise = max(differing / size, gain)
    wanted = _NORMAL.inv_cdf(1 - ALPHA / 2) * math.sqrt(noise * planned)
    return 1 - _NORMAL.cdf((wanted - lead - gain * rest) / math.sqrt(noise * rest))


def fallen_categories(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Return the categories in which losses outweigh wins by more than chance explains.

    One-sided exact test each, :data:`ALPHA` shared among the categories (Bonferroni), so a candidate
    that is worse nowhere is kept back by this in fewer than 5 % of gates.
    """
    groups = by_category(pairs)
    worse = []
    for name, group in groups.items():
        wins = sum(pair.candidate > pair.current for pair in group)
        losses = sum(pair.candidate < pair.current for pair in group)
        if losses > wins and tail(losses, wins + losses) < ALPHA / len(groups):
            worse.append(name)
    return tuple(worse)


def by_category(pairs: Sequence[Pair]) -> Mapping[str, list[Pair]]:
    """Return the pairs of each category, in order of first appearance."""
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.category, []).append(pair)
    return groups


def table(pairs: Sequence[Pair], seed: int = 0) -> list[Row]:
    """Return one row a category and a last one for all, differences with bootstrap intervals."""
    fallen = fallen_categories(pairs)
    groups = by_category(pairs)
    rows = [_row(name, group, name in fallen, seed) for name, group in groups.items()]
    return [*rows, _row("all", pairs, False, seed)]


def _row(name: str, pairs: Sequence[Pair], worse: bool, seed: int) -> Row:
    current = sum(pair.current for pair in pairs) / len(pairs)
    candidate = sum(pair.candidate for pair in pairs) / len(pairs)
    low, high = bootstrap([pair.candidate - pair.current for pair in pairs], seed)
    return Row(name, len(pairs), current, candidate, low, high, worse)


def row_verdict(row: Row, decision: str) -> str:
    """Return the table's last column: of the row for all goals the gate's ``decision``."""
    if row.category == "all":
        return decision
    if row.worse:
        return "worse"
    return "better" if row.low > 0 else "no worse than noise"
