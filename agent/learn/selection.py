"""From attempts to training samples: the best successes, each once, with ordinary work mixed in.

Kept-best fine-tuning (rejection sampling) learns a goal's own successes only. Of equal rewards the answer
that most tries gave comes first: a way that succeeds by luck is seldom found twice. A goal that is always
solved gives one sample, one that is solved sometimes up to ``keep`` different ones.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...llm.message import Message
from ...llm.training.data import open_lines
from ...memory.experience import Learnable, weight_of
from ..record.events import Event, RunEnded, RunStarted
from ..record.rewards import Prices, reward_of
from .attempts import Attempt, encode_attempt, said_in

if TYPE_CHECKING:
    from ...llm.text.tokenizer import ChatTokenizer
    from ..record.store import RunStore

REPLAY = Path(__file__).parents[2] / "llm" / "replay"
LEAST_REPLAYED = 64
"""With few samples a share of a fifth is a handful: trained on 21 successes of one new tool and five
ordinary samples, the model used that tool for everything (`LOG.md`)."""


def past_attempts(
    store: RunStore, runs: Iterable[Learnable], tokenizer: ChatTokenizer, prices: Prices
) -> tuple[list[Attempt], Counter[str]]:
    """Return the past runs that may be trained on as attempts, and why others gave nothing.

    ``runs``: on the training side only. Conversations are not among them: their messages are rated singly.
    """
    found: list[Attempt] = []
    refused: Counter[str] = Counter()
    for run in runs:
        if run.tokenizer_hash != tokenizer.fingerprint:
            refused["another tokenizer"] += 1
            continue
        attempt = _past(store.load(run.run), run, tokenizer, prices)
        if attempt is None:
            refused["a conversation, or not whole"] += 1
        else:
            found.append(attempt)
    return found, refused


def _past(
    events: Sequence[Event], run: Learnable, tokenizer: ChatTokenizer, prices: Prices
) -> Attempt | None:
    started, reward = events[0], reward_of(events, prices)
    assert isinstance(started, RunStarted)
    if started.mode == "chat" or reward is None:
        return None
    try:
        encoded = encode_attempt(tokenizer, events, reward)
    except ValueError:
        return None
    ended = next((event for event in reversed(events) if isinstance(event, RunEnded)), None)
    goal = started.goal
    return Attempt(
        run.goal, str(goal.get("id", run.run)), 0, str(goal.get("category") or "goals"), run.run,
        ended.status if ended else "", reward.base, reward.value, encoded.ids, encoded.mask,
        encoded.logprobs, encoded.prefix, said_in(events), reward.source,
    )  # fmt: skip


def kept_best(attempts: Iterable[Attempt], keep: int) -> list[Attempt]:
    """Return the best successes of each goal, the same way of doing it once."""
    by_goal: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        by_goal[f"{attempt.goal} {attempt.id}"].append(attempt)
    kept: list[Attempt] = []
    for tries in by_goal.values():
        solved = [attempt for attempt in tries if attempt.solved and any(attempt.mask)]
        often = Counter(attempt.said for attempt in solved)
        ways = {attempt.said: attempt for attempt in sorted(solved, key=lambda a: a.value)}
        best = sorted(ways.values(), key=lambda a: (-a.value, -often[a.said], a.said))
        kept += best[: keep if len(solved) < len(tries) else 1]
    return kept


def draw_buffer(
    earlier: Sequence[Attempt], count: int, rates: Mapping[str, tuple[int, int]], how: str, seed: int
) -> list[Attempt]:
    """Return up to ``count`` kept successes of earlier improvements, without replacement.

    ``how``: ``prioritised`` draws goals that are solved sometimes first (by ``weight_of``), ``uniform`` all
    alike, ``none`` nothing.
    """
    if how == "none":
        return []
    rng = random.Random(seed)

    def key(attempt: Attempt) -> float:
        weight = weight_of(*rates.get(attempt.goal, (0, 0))) if how == "prioritised" else 1.0
        return float(rng.random() ** (1 / weight))

    return sorted(earlier, key=key, reverse=True)[:count]


def shipped_replay(tokenizer_hash: str) -> list[Path]:
    """Return the shipped samples of ordinary work with ids of this tokenizer, where there are any."""
    file = REPLAY / f"{tokenizer_hash[:16]}.jsonl.zst"
    return [file] if file.is_file() else []


def replay_samples(files: Iterable[Path], count: int, seed: int) -> list[dict[str, Any]]:
    """Return up to ``count`` samples of training files, of every kind alike as far as there are any.

    Each kind is drawn without replacement. What is rare in ordinary work is forgotten first: drawn by
    their share, conversations were 3 % of the replay, and fell by 17 points (`LOG.md`).
    """
    if count < 1:
        return []
    by_kind: dict[str, list[str]] = defaultdict(list)
    for file in files:
        with open_lines(file) as lines:
            for line in lines:
                if line.strip():
                    by_kind[str(json.loads(line).get("kind", ""))].append(line)
    rng = random.Random(seed)
    pools = [rng.sample(by_kind[kind], len(by_kind[kind])) for kind in sorted(by_kind)]
    rows = (row for turn in itertools.zip_longest(*pools) for row in turn if row is not None)
    return [json.loads(row) for row in itertools.islice(rows, count)]


@dataclass(frozen=True)
class Opening:
    """How a run's first message begins in ids: ``header`` of them, tools of its own if any, then ``goal``."""

    header: int
    goal: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: ChatTokenizer) -> Opening:
        """Return the opening as this tokenizer writes it."""
        goal = tuple(tokenizer.plain("Goal:"))
        ids = tokenizer.encode_messages([Message("user", "Goal:")]).ids
        return cls(_find(ids, goal, 0), goal)

    def tools(self, ids: Sequence[int], prefix: int) -> slice:
        """Return where the lines of a run's own tools stand, after a system message of ``prefix`` ids."""
        start = prefix + self.header
        return slice(start, max(start, _find(ids, self.goal, start)))


def _find(ids: Sequence[int], wanted: Sequence[int], start: int) -> int:
    """Return where ``wanted`` begins in ``ids``; ``start`` where it is not."""
    places = range(start, len(ids) - len(wanted) + 1)
    return next((at for at in places if tuple(ids[at : at + len(wanted)]) == tuple(wanted)), start)


def beside_tools(
    replayed: Sequence[dict[str, Any]], kept: Sequence[Attempt], opening: Opening, seed: int
) -> list[dict[str, Any]]:
    """Show the tools that the kept runs had of their own in every other replayed sample that has none.

    Such a sample says that ordinary work is done without them.
    """
    shown = [list(one.ids[opening.tools(one.ids, one.prefix)]) for one in kept]
    shown = [lines for lines in shown if lines]
    rng, found = random.Random(seed), list[dict[str, Any]]()
    for sample in replayed:
        ids, mask, place = sample["ids"], sample["mask"], opening.tools(sample["ids"], sample["prefix"])
        if shown and place.start == place.stop and rng.random() < 0.5:
            lines, at = rng.choice(shown), place.start
            ids, mask = [*ids[:at], *lines, *ids[at:]], [*mask[:at], *[0] * len(lines), *mask[at:]]
        found.append({**sample, "ids": ids, "mask": mask})
    return found


def replay_count(kept: int, share: float) -> int:
    """Return how many replayed samples make ``share`` of the mixture with ``kept`` others; not just a few."""
    return max(LEAST_REPLAYED, round(kept * share / (1 - share))) if share and kept else 0
