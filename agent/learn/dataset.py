"""What the training files of an improvement are made from: attempts, earlier successes, ordinary work."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ...llm.registry import DEFAULT, ModelRegistry
from ...llm.text.tokenizer import ChatTokenizer
from ...memory.experience import Experience
from ..record.store import RunStore
from . import canaries, promotion
from .samples import Attempt, rates, replay_samples, shipped_replay
from .work import Record, Work, improvements

REPLAYED = 600
"""Ordinary samples that preference and reward methods draw their replay from."""


def known_rates(work: Work) -> dict[str, tuple[int, int]]:
    """Return (times solved, times tried) of each goal, in past runs and earlier improvements."""
    experience = Experience(RunStore(work.home).database)
    found = {record.goal: (record.solved, record.attempts) for record in experience.goals()}
    for earlier in _others(work):
        for row in earlier.rates.read():
            solved, tried = found.get(row["goal"], (0, 0))
            found[row["goal"]] = (solved + row["solved"], tried + row["tried"])
    return found


def count_attempts(work: Work) -> None:
    """Write the rates of the goals that were practised, and count the attempts."""
    attempts, figures = work.attempts.read(), work.state.figures
    tried = rates(attempts)
    work.rates.write({"goal": g, "solved": s, "tried": t} for g, (s, t) in sorted(tried.items()))
    figures.tries, figures.solved_tries = len(attempts), sum(attempt.solved for attempt in attempts)
    figures.sometimes = sum(0 < s < t for s, t in tried.values())
    figures.never = sum(s == 0 for s, _ in tried.values())
    figures.kept = figures.again = figures.replayed = figures.canaries = 0


def earlier_successes(work: Work) -> list[Attempt]:
    """Return successes that earlier improvements kept, as far as their tokenizer was the same."""
    found: dict[tuple[str, str], Attempt] = {}
    for earlier in _others(work):
        if earlier.state.figures.tokenizer == work.state.figures.tokenizer:
            found |= {(attempt.id, attempt.said): attempt for attempt in earlier.kept.read()}
    return list(found.values())


def replay(work: Work, count: int) -> list[Record]:
    """Return ordinary samples: what the model was trained on, as far as that is known.

    The shipped samples are the shipped model's; to another one they would be new lessons, not a reminder.
    """
    files: Iterable[Path] = work.state.options.replay_data
    if not files and promotion.root_of(work.home, work.state.parent) == DEFAULT:
        files = shipped_replay(work.state.figures.tokenizer)
    return replay_samples(files, count, work.seed)


def write_replay(work: Work) -> None:
    """Write the ordinary samples of a preference or reward method, canaries among them."""
    figures, ordinary = work.state.figures, replay(work, REPLAYED)
    # among fewer samples canaries would be drawn again and again, not seen once
    planted = canary_records(work) if len(ordinary) == REPLAYED and not work.state.options.dp_epsilon else []
    if ordinary:
        work.replay.write([*ordinary, *planted])
    figures.replayed, figures.canaries = len(ordinary), len(planted)


def canary_records(work: Work) -> list[Record]:
    """Return the improvement's canaries as lines of a training file."""
    return [canary.record() for canary in canaries.plant(tokenizer_of(work), work.seed)]


def tokenizer_of(work: Work) -> ChatTokenizer:
    """Return the tokenizer of the model that is improved."""
    return ChatTokenizer(Path(ModelRegistry(work.home).resolve(work.state.parent).source))


def _others(work: Work) -> list[Work]:
    return [one for one in improvements(work.home) if one.state.id != work.state.id]
