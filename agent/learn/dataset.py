"""The data of an improvement: what there is to learn from, attempts at goals, and parts of training files.

A goal that its first two attempts both achieve gets no more of them: it teaches little, and time goes to
goals that are achieved sometimes. An attempt is kept with its token ids, masks and log-probabilities, so
every method can learn from it. Gold answers and queries are not read here: only the reward is, which the
driver made from the checks' verdicts.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...llm.message import Model
from ...llm.registry import ModelRegistry
from ...llm.text.tokenizer import ChatTokenizer
from ...memory.experience import Experience, Learnable
from ...settings import Settings
from ...tools.registry import Registry
from ..evaluate.attempts import roll, seed_of
from ..goals.load import Goal
from ..record.rewards import Prices
from ..record.store import RunStore
from . import canaries, promotion
from .collect import LEAST_GOALS as LEAST_GOALS
from .collect import collect
from .goal_split import alike_to, draw, gate_order
from .preferences import Feedback, read_feedback
from .samples import Attempt, attempt_of, past_attempts, rates, replay_samples, shipped_replay
from .trainer import Subject
from .work import Figures, JsonLines, Record, Work, improvements

REPLAYED = 600
"""Ordinary samples that preference and reward methods draw their replay from."""
BLOCK = 48
"""Goals that are attempted together before the next ones."""
EASY = 2
"""A goal that its first attempts, this many, all achieve gets no more."""


@dataclass(frozen=True)
class Survey:
    """What was found."""

    figures: Figures
    """The counts of all this."""
    goals: list[Goal]
    """Goals to practise on."""
    past: list[Attempt]
    """Past runs that may be trained on."""
    judging: list[Goal]
    """Every goal that may be played in the gate, in the order of play."""
    runs: list[Learnable]
    """All runs that may be learned from, on either side of the split."""
    feedback: Feedback


def survey(
    settings: Settings,
    store: RunStore,
    subject: Subject,
    goals: Sequence[Goal] = (),
    gate_goals: Sequence[Goal] | None = None,
    seed: int = 0,
) -> Survey:
    """Read what is new in the journals, and split goals."""
    experience = collect(store, settings)
    drawn = draw(store, experience, goals, gate_goals)
    leaking = {train for train, _ in experience.leaks()}
    learnable = experience.learnable()
    runs = [run for run in learnable if not run.held_out and run.goal not in leaking]
    judging = gate_order(drawn, gate_goals, seed)
    barred = alike_to([run.wording for run in runs], [goal.goal for goal in judging])
    runs = [run for number, run in enumerate(runs) if number not in barred]
    trained = {run.run for run in runs}
    tokenizer = ChatTokenizer(subject.base)
    past, refused = past_attempts(store, runs, tokenizer, Prices.of(settings))
    refused["alike to a goal that judges"] += len(barred)
    everything = [run for run in learnable if run.held_out or run.run in trained]
    feedback = read_feedback(store, everything, tokenizer)
    refused += feedback.refused
    up = sum(one.good for one in feedback.rated)
    figures = Figures(
        tokenizer=tokenizer.fingerprint,
        goals=len(drawn.train),
        own_held_out=len(drawn.held_out),
        judging=len(judging),
        distinct=len({goal.id for goal in drawn.train} | {attempt.id for attempt in past}),
        dropped=dict(drawn.dropped),
        past_runs=len(past),
        refused=dict(+refused),
        pairs=len(feedback.pairs),
        thumbs=len(feedback.rated),
        thumbs_up=up,
        thumbs_down=len(feedback.rated) - up,
    )
    return Survey(figures, drawn.train, past, judging, learnable, feedback)


def make_attempts(
    goals: Sequence[Goal],
    k: int,
    file: JsonLines[Attempt],
    model: Model,
    seed: int,
    *,
    registry: Registry,
    tokenizer: ChatTokenizer,
    prices: Prices,
    temperature: float,
    parallel: int,
    deadline: float | None,
) -> Iterator[tuple[int, int]]:
    """Make ``k`` attempts at each goal and append them to ``file``; those that are there are not repeated.

    Yields after each attempt how many there are, and how many of them achieved their goal. ``deadline`` is a
    moment of ``time.monotonic``; None: until all are made.
    """
    done: dict[str, dict[int, bool]] = defaultdict(dict)
    for attempt in file.read():
        done[attempt.id][attempt.number] = attempt.solved
    waves = (range(min(EASY, k)), range(EASY, k))
    for block, wave in ((start, wave) for start in range(0, len(goals), BLOCK) for wave in waves):
        chosen = goals[block : block + BLOCK]
        if deadline is not None and time.monotonic() > deadline:
            return
        numbers = [[n for n in wave if wants(done[goal.id], n)] for goal in chosen]
        for place, number, episode in roll(
            chosen, numbers, model, seed_of(seed, "practice", sum(map(len, done.values()))),
            registry=registry, temperature=temperature, parallel=parallel,
        ):  # fmt: skip
            made = attempt_of(tokenizer, episode.events, prices, number)
            done[chosen[place].id][number] = made is not None and made.solved
            if made is not None:
                file.add(made)
            solved = [one for tries in done.values() for one in tries.values()]
            yield len(solved), sum(solved)
            if deadline is not None and time.monotonic() > deadline:
                return


def wants(tries: Mapping[int, bool], number: int) -> bool:
    """Return whether a goal with these attempts (solved or not, by number) should get the ``number``-th."""
    if number in tries:
        return False
    first = [tries[n] for n in range(EASY) if n in tries]
    return not (len(first) == EASY and all(first))


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

    The shipped samples are those of ``small``; to another one they would be new lessons, not a reminder.
    """
    files: Iterable[Path] = work.state.options.replay_data
    if not files and promotion.root_of(work.home, work.state.parent) == "small":
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
