"""Training samples: how a run becomes token ids with a loss mask, and which runs are chosen.

Ids are those that were served. Only tokens that the model itself chose carry loss: prompts, tool results and
tokens that the grammar forced do not. Neither do the turns of a success that went wrong (an invalid, failed
or refused call), so that its mistakes are not taught. What a tool or a file said is context, never a target.

Rejection-sampling fine-tuning (RFT: Yuan et al., 2023, arXiv:2308.01825) learns from a goal's own successes.
Among equal rewards the answer that most attempts gave comes first: luck seldom finds one answer twice.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...llm.message import Message
from ...memory.experience import Learnable, is_solved, weight_of
from ...memory.goals import goal_hash
from ..record.events import ConversationFolded, Event, ModelTurn, RunEnded, RunStarted, ToolOutcome
from ..record.rewards import Prices, Reward, reward_of
from ..record.transcript import messages

if TYPE_CHECKING:
    from ...llm.text.tokenizer import ChatTokenizer
    from ..record.store import RunStore

REPLAY = Path(__file__).parents[2] / "llm" / "replay"
LEAST_REPLAYED = 64
"""A fifth of a few samples is a handful: trained on 21 successes with one new tool and five ordinary samples,
the model used that tool for everything (`LOG.md`)."""


@dataclass(frozen=True)
class Encoded:
    """A run as token ids. The three sequences have the same length."""

    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    """True where the token carries loss."""
    logprobs: tuple[float, ...]
    """Natural logarithm of the probability at which a token was sampled; 0 where the mask is False."""
    prefix: int
    """How many of the first ids are the system message, which many runs share."""

    def record(self, kind: str) -> dict[str, Any]:
        """Return the run as a line of a training file."""
        return sample_record(self.ids, self.mask, self.prefix, kind)


def sample_record(ids: Sequence[int], mask: Sequence[bool], prefix: int, kind: str) -> dict[str, Any]:
    """Return a line of a training file, as ``llm/training/data.py`` reads it."""
    return {"ids": list(ids), "mask": [int(learned) for learned in mask], "prefix": prefix, "kind": kind}


def encode_run(tokenizer: ChatTokenizer, events: Sequence[Event], unlearned: Collection[int] = ()) -> Encoded:
    """Encode the whole run; ``unlearned`` are turns (counted from 0) whose tokens carry no loss.

    Raises ValueError where the record does not hold every turn's tokens as they stand in the prompt: a
    model that does not own its tokens, or a conversation that was compacted.
    """
    if any(isinstance(event, ConversationFolded) for event in events):
        raise ValueError("the conversation was compacted")
    conversation = messages(events)
    encoded = tokenizer.encode_messages(conversation, continue_assistant=False)
    turns = [event for event in events if isinstance(event, ModelTurn)]
    marks = [
        (not forced and number not in unlearned, logprob)
        for number, turn in enumerate(turns)
        for forced, logprob in zip(turn.forced, turn.logprobs, strict=True)
    ]
    said = [place for place, value in enumerate(encoded.mask) if value]
    if len(said) != len(marks) or not all(turn.ids for turn in turns):
        raise ValueError(f"{len(said)} tokens of the model but {len(marks)} marks")
    mask, logprobs = [False] * len(encoded.ids), [0.0] * len(encoded.ids)
    for place, (learned, logprob) in zip(said, marks, strict=True):
        mask[place] = learned
        logprobs[place] = logprob if learned else 0.0
    prefix = len(tokenizer.encode_messages(conversation[:1], continue_assistant=False).ids)
    return Encoded(tuple(encoded.ids), tuple(mask), tuple(logprobs), prefix)


def wrong_turns(events: Sequence[Event]) -> tuple[int, ...]:
    """Return which turns (counted from 0) were no valid call, or one that failed or was refused."""
    found: set[int] = set()
    number = -1
    for event in events:
        if isinstance(event, ModelTurn):
            number += 1
            if event.call is None:
                found.add(number)
        elif isinstance(event, ToolOutcome) and event.by == "model" and event.state != "done":
            found.add(number)
    return tuple(sorted(found))


@dataclass(frozen=True)
class Attempt:
    """One attempt at a goal, or a past run of it. The three sequences have the same length."""

    goal: str
    """Hash of the goal's wording."""
    id: str
    """The goal's id: goals of the same wording over other files are different."""
    number: int
    category: str
    source: str
    """``practice``, or the run that it was."""
    status: str
    base: float
    """The reward before prices, 0 to 1."""
    value: float
    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    logprobs: tuple[float, ...]
    prefix: int
    said: str = ""
    """Its calls (:func:`calls_in`)."""
    earned: str = "checks"
    """Where its reward comes from; see :class:`~autogpt.agent.record.rewards.Reward`."""

    @property
    def solved(self) -> bool:
        """Whether the goal was achieved."""
        return is_solved(self.base, self.earned)

    def row(self) -> dict[str, Any]:
        """Return it as JSON, for :func:`attempt_of_row`."""
        return {
            **vars(self),
            "ids": list(self.ids),
            "mask": "".join("01"[value] for value in self.mask),
            "logprobs": [round(value, 5) for value in self.logprobs],
        }

    def record(self) -> dict[str, Any]:
        """Return it as a line of a training file."""
        return sample_record(self.ids, self.mask, self.prefix, self.category)


def attempt_of_row(row: Mapping[str, Any]) -> Attempt:
    """Return the attempt that :meth:`Attempt.row` described; unknown keys are ignored."""
    names = {field.name for field in fields(Attempt)}
    values = {key: value for key, value in row.items() if key in names}
    values["ids"], values["logprobs"] = tuple(row["ids"]), tuple(row["logprobs"])
    values["mask"] = tuple(mark == "1" for mark in row["mask"])
    return Attempt(**values)


def attempt_of(
    tokenizer: ChatTokenizer,
    events: Sequence[Event],
    prices: Prices,
    number: int = 0,
    source: str = "practice",
) -> Attempt | None:
    """Return a run as an attempt; None for a conversation, or if its tokens or reward are unknown."""
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
        goal_hash(str(goal.get("goal", ""))), str(goal.get("id", source)), number,
        str(goal.get("category") or "goals"), source, ended.status if ended else "", reward.base,
        reward.value, encoded.ids, encoded.mask, encoded.logprobs, encoded.prefix, calls_in(events),
        reward.source,
    )  # fmt: skip


def encode_attempt(tokenizer: ChatTokenizer, events: Sequence[Event], reward: Reward) -> Encoded:
    """Encode a run; in a success, wrong turns carry no loss. Raises ValueError if tokens are unknown."""
    unlearned = wrong_turns(events) if is_solved(reward.base, reward.source) else ()
    return encode_run(tokenizer, events, unlearned)


def rates(attempts: Iterable[Attempt]) -> dict[str, tuple[int, int]]:
    """Return (times solved, times tried) by goal."""
    solved: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    for attempt in attempts:
        tried[attempt.goal] += 1
        solved[attempt.goal] += attempt.solved
    return {goal: (solved[goal], count) for goal, count in tried.items()}


def calls_in(events: Iterable[Event]) -> str:
    """Return the calls of a run, one a line: they tell attempts apart, and the page shows them."""
    calls = [event.call for event in events if isinstance(event, ModelTurn) and event.call]
    return "\n".join(
        f"{call['name']} {json.dumps(call['arguments'], ensure_ascii=False, separators=(',', ':'))}"
        for call in calls
    )


def past_attempts(
    store: RunStore, runs: Iterable[Learnable], tokenizer: ChatTokenizer, prices: Prices
) -> tuple[list[Attempt], Counter[str]]:
    """Return past runs as attempts, and how many gave none, by reason.

    ``runs`` are those of the training side. Conversations give none: people rate their messages singly.
    """
    found: list[Attempt] = []
    refused: Counter[str] = Counter()
    for run in runs:
        if run.tokenizer_hash != tokenizer.fingerprint:
            refused["another tokenizer"] += 1
            continue
        attempt = attempt_of(tokenizer, store.load(run.run), prices, source=run.run)
        if attempt is None:
            refused["a conversation, or not whole"] += 1
        else:
            found.append(attempt)
    return found, refused


def rejection_sample(attempts: Iterable[Attempt], keep: int) -> list[Attempt]:
    """Return the best successes at each goal, without duplicates (attempts that made the same calls).

    A goal that is solved sometimes gives up to ``keep`` of them, one that is always solved a single one.
    """
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
    """Return up to ``count`` successes of earlier improvements, drawn without replacement.

    ``how``: ``prioritised`` weighs goals by :func:`weight_of` (those solved sometimes come first, as in
    prioritised experience replay), ``uniform`` weighs all alike, ``none`` draws nothing.
    """
    if how == "none":
        return []
    rng = random.Random(seed)

    def key(attempt: Attempt) -> float:
        weight = weight_of(*rates.get(attempt.goal, (0, 0))) if how == "prioritised" else 1.0
        return float(rng.random() ** (1 / weight))

    return sorted(earlier, key=key, reverse=True)[:count]


def shipped_replay(tokenizer_hash: str) -> list[Path]:
    """Return the shipped file of ordinary samples in this tokenizer's ids, if there is one."""
    file = REPLAY / f"{tokenizer_hash[:16]}.jsonl.zst"
    return [file] if file.is_file() else []


def replay_samples(files: Iterable[Path], count: int, seed: int) -> list[dict[str, Any]]:
    """Return up to ``count`` samples of training files, equally many of each kind, without replacement.

    What is rare in ordinary work is forgotten first: drawn by their share, conversations were 3 % of the
    replay, and fell by 17 points (`LOG.md`).
    """
    from ...llm.training.data import open_lines

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
    """How a run's first message begins, in ids: ``header`` of them, its own tools if any, then ``goal``."""

    header: int
    goal: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: ChatTokenizer) -> Opening:
        """Return the opening as this tokenizer writes it."""
        goal = tuple(tokenizer.plain("Goal:"))
        ids = tokenizer.encode_messages([Message("user", "Goal:")]).ids
        return cls(_find(ids, goal, 0), goal)

    def tools(self, ids: Sequence[int], prefix: int) -> slice:
        """Return the range of a run's own tools, after a system message of ``prefix`` ids."""
        start = prefix + self.header
        return slice(start, max(start, _find(ids, self.goal, start)))


def _find(ids: Sequence[int], wanted: Sequence[int], start: int) -> int:
    """Return where ``wanted`` begins in ``ids``; ``start`` where it is not."""
    places = range(start, len(ids) - len(wanted) + 1)
    return next((at for at in places if tuple(ids[at : at + len(wanted)]) == tuple(wanted)), start)


def show_tools(
    replayed: Sequence[dict[str, Any]], kept: Sequence[Attempt], opening: Opening, seed: int
) -> list[dict[str, Any]]:
    """Insert the kept runs' own tools into every other replayed sample that has none.

    Such a sample teaches that ordinary work is done without them.
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
    """Return how many replayed samples make up ``share`` of a mixture with ``kept`` others, with a floor."""
    return max(LEAST_REPLAYED, round(kept * share / (1 - share))) if share and kept else 0
