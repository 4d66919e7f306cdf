"""Preference data from people's feedback and from attempts: pairs, and rated answers.

Pairs come from corrections (the answer given against the one that should have been given), and from two
attempts at one goal of which one is clearly better: their context is their common prefix, so they part at the
first token that differs. Rated answers come from people's ratings of runs and of single messages in
conversations. Ratings that contradict each other about the same tokens in the same situation are counted
and left out, and so are middling ones: neither says which way to go.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ...llm.training.preference import Pair, Rated
from ...memory.experience import Learnable
from ..record.events import Correction, Event, ModelTurn
from ..record.rewards import reward_of, spans
from ..record.transcript import messages
from .samples import Attempt, encode_run

if TYPE_CHECKING:
    from ...llm.text.tokenizer import ChatTokenizer
    from ..record.store import RunStore

GOOD, BAD = 0.6, 0.4
"""A mean rating from here up is a thumb up, from here down a thumb down; between them it says nothing."""
GAP = 0.5
"""Difference of rewards from which one attempt is clearly better."""


@dataclass
class Feedback:
    """People's feedback, ready to train on; ``held_out`` only judges."""

    pairs: list[Pair] = field(default_factory=list)
    rated: list[Rated] = field(default_factory=list)
    held_out: list[Rated] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)


def read_feedback(store: RunStore, runs: Iterable[Learnable], tokenizer: ChatTokenizer) -> Feedback:
    """Read corrections and ratings of runs that may be learned from."""
    found = Feedback()
    thumbs: dict[tuple[tuple[int, ...], tuple[int, ...]], list[tuple[Rated, float, bool]]] = defaultdict(list)
    for run in runs:
        if run.tokenizer_hash != tokenizer.fingerprint:
            continue  # counted where runs are read as attempts
        events = store.load(run.run)
        if not run.held_out:
            found.pairs += corrections(events, tokenizer)
        for rated, value in _thumbs(events, tokenizer):
            thumbs[rated.context, rated.ids].append((rated, value, run.held_out))
    for group in thumbs.values():
        rated, held_out = group[0][0], any(held for *_, held in group)
        values = [value for _, value, _ in group]
        mean = fmean(values)
        if max(values) >= GOOD and min(values) <= BAD:
            found.refused["contradictory ratings"] += 1
        elif BAD < mean < GOOD:
            found.refused["neither good nor bad"] += 1
        else:
            one = Rated(rated.context, rated.ids, rated.mask, mean >= GOOD)
            (found.held_out if held_out else found.rated).append(one)
    return found


def corrections(events: Sequence[Event], tokenizer: ChatTokenizer) -> list[Pair]:
    """Return a pair for each correction; of several for one turn the last counts.

    Where both answers begin and end alike is the call's frame: there the mask is that of the turn.
    """
    found = []
    fixed = {event.turn: event for event in events if isinstance(event, Correction)}
    for place, event in sorted(fixed.items()):
        turn = events[place] if place < len(events) else None
        if not isinstance(turn, ModelTurn) or not turn.ids:
            continue
        context = tokenizer.encode_messages(messages(events[:place]), continue_assistant=True).ids
        chosen = tokenizer.assistant_ids(event.chosen)
        free = tuple(not forced for forced in turn.forced)
        mask = _framed(turn.ids, free, chosen)
        if any(mask) and any(free) and tuple(turn.ids) != chosen:
            found.append(Pair(tuple(context), chosen, mask, tuple(turn.ids), free))
    return found


def _framed(old: Sequence[int], free: Sequence[bool], new: Sequence[int]) -> tuple[bool, ...]:
    """Return the mask of ``new``: that of ``old`` where both begin and end alike, else True."""
    short = min(len(old), len(new))
    begin = next((i for i in range(short) if old[i] != new[i]), short)
    end = next((i for i in range(short - begin) if old[-1 - i] != new[-1 - i]), short - begin)
    middle = len(new) - begin - end
    return (*free[:begin], *[True] * middle, *(free[len(free) - end :] if end else ()))


def attempt_pairs(attempts: Iterable[Attempt]) -> list[Pair]:
    """Return for each goal its best attempt against a clearly worse one.

    Among equally good ones it is the one that was made most often, because a lucky success is seldom found
    twice; among the clearly worse ones too, because that is what the model is likeliest to do next time.
    """
    by_goal: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        by_goal[f"{attempt.goal} {attempt.id}"].append(attempt)
    pairs = []
    for tries in by_goal.values():
        often = Counter(attempt.said for attempt in tries)
        best = min(tries, key=lambda a: (-a.value, -often[a.said], a.said))
        worse = [attempt for attempt in tries if best.value - attempt.value >= GAP]
        if worse:
            worst = min(worse, key=lambda a: (-often[a.said], a.value, a.said))
            if pair := _parted(best, worst):
                pairs.append(pair)
    return pairs


def _parted(good: Attempt, bad: Attempt) -> Pair | None:
    """Return both from the first token that differs; None if no token with loss is left in one of them."""
    from ...llm.kv.prefix_tree import common_prefix

    split = common_prefix(good.ids, bad.ids)
    chosen, rejected = good.mask[split:], bad.mask[split:]
    if split == 0 or not any(chosen) or not any(rejected):
        return None
    return Pair(good.ids[:split], good.ids[split:], chosen, bad.ids[split:], rejected)


def attempt_thumbs(attempts: Iterable[Attempt]) -> list[Rated]:
    """Return attempts as rated answers: one that achieved its goal is good."""
    found = []
    for attempt in attempts:
        if rated := _answer(attempt.ids, attempt.mask, attempt.solved):
            found.append(rated)
    return found


def _answer(ids: tuple[int, ...], mask: tuple[bool, ...], good: bool) -> Rated | None:
    """Return the answer with its rating, from the model's first free token on; None if that is the first."""
    begin = next((i for i, free in enumerate(mask) if free), 0)
    return Rated(ids[:begin], ids[begin:], mask[begin:], good) if begin else None


def _thumbs(events: Sequence[Event], tokenizer: ChatTokenizer) -> list[tuple[Rated, float]]:
    """Return what people rated: a run, or each rated message of a conversation."""
    found = []
    for span in spans(events):
        reward = reward_of([events[place] for place in span])
        if reward is None or reward.parts.person is None:
            continue
        before = sum(isinstance(event, ModelTurn) for event in events[: span.start])
        try:
            encoded = encode_run(tokenizer, events[: span.stop], range(before))
        except ValueError:
            continue
        if rated := _answer(encoded.ids, encoded.mask, True):
            found.append((rated, reward.parts.person))
    return found


def pair_of(row: dict[str, Any]) -> Pair:
    """Read a pair from JSON."""
    return Pair(**{key: tuple(value) for key, value in row.items()})


def rated_of(row: dict[str, Any]) -> Rated:
    """Read a rated answer from JSON."""
    sequences = {key: tuple(row[key]) for key in ("context", "ids", "mask")}
    return Rated(**sequences, good=bool(row["good"]), weight=float(row["weight"]))
