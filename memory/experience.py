"""Experience: what may be learned from, made of the journals of finished runs. The truth is the journal.

One row a run (its goal, model, tokenizer, tools and consent, or the reason why nothing may be learned from
it) and one a turn of the model (its exact token ids, which of them were sampled, their log-probabilities,
its reward with source and parts, and a person's correction). The conversation before a turn is not stored
again: it is the run's events up to the turn. Deleting the run deletes its samples with it.

Goals are split into train and held-out by their *family*: the set of their words without numbers and
stop words, so a goal that differs in a number alone is never on both sides. The split depends on
the wording alone, so it is the same tomorrow and elsewhere. What still looks alike across the split
(:meth:`Experience.leaks`) is not drawn for training. Samples with the same context and tokens are one,
with the mean of their rewards: the first turn of eight attempts is often the same. Goals that are solved
sometimes teach most, and are drawn most.

Which runs a model was trained on is kept as well, also when the run is gone: nothing takes a run out of
a model but training it again without that run, so whoever forgets must be told which models those are.
"""

from __future__ import annotations

import json
import math
import random
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import sqlalchemy as sa

from ..errors import UserError
from .database import Database, experience_runs, experience_samples, model_runs
from .database import events as event_rows
from .goals import alike, family_hash, goal_hash, is_held_out, words_of

GOOD = 0.5
"""From this mean on, before prices, ratings say that a run has solved its goal."""
LEAST_WEIGHT = 0.1
"""Goals that are always or never solved are drawn with this weight, those at one half with 1."""


def is_solved(base: float, source: str) -> bool:
    """Return whether a reward says that the goal was achieved.

    Of checks all must have passed: half of them is what a run earns that writes the answer and not the file.
    """
    return base >= (1.0 if source == "checks" else GOOD)


def weight_of(solved: int, tried: int) -> float:
    """Return how much a goal should be drawn: 1 at one half solved, falling to both sides (Laplace)."""
    rate = (solved + 1) / (tried + 2)
    return max(LEAST_WEIGHT, 4 * rate * (1 - rate))


@dataclass(frozen=True)
class Sample:
    """One turn of the model, to learn from. The three sequences have the same length."""

    run: str
    seq: int
    """The ``model.turn`` among the run's events; those before it are the context."""
    hash: str
    """Of context and tokens: the same turn in the same situation has the same."""
    ids: tuple[int, ...]
    sampled: tuple[bool, ...]
    """False where the grammar left no choice: such tokens carry no loss."""
    logprobs: tuple[float, ...]
    reward: float | None
    """0 to 1; None for a turn that has only a correction."""
    base: float | None
    """The reward before prices."""
    source: str
    """``checks``, ``person`` or ``judge``; empty without a reward."""
    parts: Mapping[str, float | None]
    chosen: str | None = None
    """A person's correction of the turn's text: with the ids it is a preference pair."""


@dataclass(frozen=True)
class Collected:
    """What one run gave."""

    run: str
    events: int
    """Events that were read; when there are more, the run is read again."""
    reader: str
    """How they were read (hash of prices and rules); a run that was read otherwise is read again."""
    reason: str
    """Why nothing may be learned from it; empty where it has samples."""
    wording: str
    """The goal's text, or the first message of a conversation."""
    consent: str
    """``given``, ``default`` or ``refused``."""
    model: str
    model_hash: str
    tokenizer_hash: str
    tools_hash: str
    samples: Sequence[Sample] = ()


class Learnable(NamedTuple):
    """A run that may be learned from."""

    run: str
    goal: str
    """Hash of its wording."""
    wording: str
    held_out: bool
    model: str
    tokenizer_hash: str


@dataclass(frozen=True)
class GoalRecord:
    """How a goal went so far."""

    goal: str
    wording: str
    held_out: bool
    solved: int
    attempts: int

    @property
    def weight(self) -> float:
        """How much it should be drawn."""
        return weight_of(self.solved, self.attempts)


@dataclass(frozen=True)
class Stats:
    """What there is to learn from."""

    runs: int
    learnable: int
    reasons: Mapping[str, int]
    """Runs that gave nothing, by reason."""
    samples: int
    distinct: int
    goals: int
    train_goals: int
    sometimes: int
    """Train goals that were both solved and not."""
    solved: int
    """Train goals that were solved at least once."""
    corrections: int
    sources: Mapping[str, int]
    """Samples by the source of their reward."""
    tokenizers: Mapping[str, int]
    leaks: int


class Experience:
    """The samples in ``database``; all of them derived from the journals there."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def unread(self, reader: str) -> list[str]:
        """Return the runs with events that were not read yet, or not by ``reader``, oldest first."""
        count = sa.func.count().label("events")
        total = sa.select(event_rows.c.run, count).group_by(event_rows.c.run).subquery()
        joined = total.outerjoin(experience_runs, experience_runs.c.run == total.c.run)
        known = sa.func.coalesce(experience_runs.c.events, 0)
        new = sa.or_(known != total.c.events, experience_runs.c.reader != reader)
        query = sa.select(total.c.run).select_from(joined).where(new)
        with self.database.read() as connection:
            return [str(run) for run in connection.execute(query.order_by(total.c.run)).scalars()]

    def put(self, found: Collected) -> None:
        """Keep what a run gave, in place of what it gave before."""
        family = family_hash(found.wording)
        row = {
            "run": found.run,
            "events": found.events,
            "reader": found.reader,
            "reason": found.reason,
            "goal": goal_hash(found.wording),
            "family": family,
            "wording": found.wording,
            "held_out": is_held_out(family),
            "consent": found.consent,
            "model": found.model,
            "model_hash": found.model_hash,
            "tokenizer_hash": found.tokenizer_hash,
            "tools_hash": found.tools_hash,
        }
        rows = [_packed(sample) for sample in found.samples]

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(experience_runs).where(experience_runs.c.run == found.run))
            connection.execute(sa.insert(experience_runs).values(row))
            if rows:
                connection.execute(sa.insert(experience_samples), rows)

        self.database.write(work)

    def samples(self, *, held_out: bool, tokenizer: str | None = None) -> list[Sample]:
        """Return the samples of one side of the split, each once, rewards of equal ones averaged.

        ``tokenizer``: only samples with token ids of the tokenizer with this hash. Training samples that
        look like a held-out goal are left out.
        """
        joined = experience_samples.join(experience_runs)
        query = sa.select(experience_samples, experience_runs.c.goal).select_from(joined)
        query = query.where(experience_runs.c.held_out == held_out)
        if tokenizer is not None:
            query = query.where(experience_runs.c.tokenizer_hash == tokenizer)
        leaking = set() if held_out else {train for train, _ in self.leaks()}
        with self.database.read() as connection:
            rows = (
                connection.execute(query.order_by(experience_samples.c.run, experience_samples.c.seq))
                .mappings()
                .all()
            )
        same: dict[str, list[Sample]] = defaultdict(list)
        for row in rows:
            if row["goal"] not in leaking:
                same[row["hash"]].append(_unpacked(dict(row)))
        return [_merged(group) for group in same.values()]

    def draw(self, count: int, tokenizer: str, seed: int = 0) -> list[Sample]:
        """Return up to ``count`` training samples, without replacement, goals solved sometimes first.

        Raises ``UserError`` where there are none of this tokenizer, saying what there is.
        """
        found = self.samples(held_out=False, tokenizer=tokenizer)
        if not found:
            others = sum(n for name, n in self.stats().tokenizers.items() if name != tokenizer)
            hint = f"; {others} samples are of other tokenizers" if others else ""
            raise UserError(
                f"there is nothing to learn from yet{hint}; 'autogpt experience' says what is missing"
            )
        weights = {record.goal: record.weight for record in self.goals()}
        by_run = self._goal_of_run()
        rng = random.Random(seed)
        keys = {
            sample.hash: math.log(1 - rng.random()) / weights.get(by_run[sample.run], 1.0) for sample in found
        }  # weighted draw without replacement (Efraimidis and Spirakis, 2006)
        return sorted(found, key=lambda sample: keys[sample.hash], reverse=True)[:count]

    def goals(self) -> list[GoalRecord]:
        """Return every goal with a reward, and how often it was solved; a run counts once."""
        best = sa.func.max(experience_samples.c.base).label("base")
        source = sa.func.max(experience_samples.c.source).label("source")  # a goal's run has one
        joined = experience_samples.join(experience_runs)
        columns = (experience_runs.c.goal, experience_runs.c.wording, experience_runs.c.held_out)
        query = (
            sa.select(*columns, best, source)
            .select_from(joined)
            .where(experience_samples.c.base.is_not(None))
        )
        with self.database.read() as connection:
            rows = connection.execute(query.group_by(experience_runs.c.run, *columns)).all()
        groups: dict[str, list[Any]] = defaultdict(list)
        for row in rows:
            groups[row.goal].append(row)
        return [
            GoalRecord(
                goal,
                group[0].wording,
                group[0].held_out,
                sum(is_solved(row.base, row.source) for row in group),
                len(group),
            )
            for goal, group in groups.items()
        ]

    def leaks(self) -> list[tuple[str, str]]:
        """Return pairs of goals (train, held-out) that are too alike to be on both sides."""
        with self.database.read() as connection:
            query = sa.select(experience_runs.c.goal, experience_runs.c.wording, experience_runs.c.held_out)
            rows = connection.execute(query.where(experience_runs.c.reason == "").distinct()).all()
        kept = [(row.goal, words_of(row.wording)) for row in rows if row.held_out]
        train = [(row.goal, words_of(row.wording)) for row in rows if not row.held_out]
        return sorted(set(alike(train, kept)))

    def learnable(self) -> list[Learnable]:
        """Return the runs that may be learned from, oldest first."""
        columns = (getattr(experience_runs.c, name) for name in Learnable._fields)
        query = sa.select(*columns).where(experience_runs.c.reason == "").order_by(experience_runs.c.run)
        with self.database.read() as connection:
            return [Learnable(*row) for row in connection.execute(query)]

    def stats(self) -> Stats:
        """Count what there is."""
        with self.database.read() as connection:
            runs = connection.execute(sa.select(experience_runs)).mappings().all()
            columns = (experience_samples.c.run, experience_samples.c.hash, experience_samples.c.source)
            query = sa.select(*columns, experience_samples.c.chosen.is_not(None).label("fixed"))
            samples = connection.execute(query).all()
        tokenizer = {row["run"]: row["tokenizer_hash"] for row in runs}
        goals = self.goals()
        train = [record for record in goals if not record.held_out]
        return Stats(
            runs=len(runs),
            learnable=sum(not row["reason"] for row in runs),
            reasons=dict(Counter(row["reason"] for row in runs if row["reason"])),
            samples=len(samples),
            distinct=len({row.hash for row in samples}),
            goals=len(goals),
            train_goals=len(train),
            sometimes=sum(0 < record.solved < record.attempts for record in train),
            solved=sum(record.solved > 0 for record in train),
            corrections=sum(row.fixed for row in samples),
            sources=dict(Counter(row.source for row in samples if row.source)),
            tokenizers=dict(Counter(tokenizer[row.run] for row in samples)),
            leaks=len(self.leaks()),
        )

    def record_training(self, model: str, runs: Iterable[str], *, parent: str | None = None) -> None:
        """Keep that ``model`` (as a reference names it) was trained on ``runs``; may be said again.

        ``parent``: the model that the training began with; what that one saw, this one has seen too.
        """

        def work(connection: sa.Connection) -> None:
            def of(name: str | None) -> set[str]:
                known = sa.select(model_runs.c.run).where(model_runs.c.model == name)
                return set(connection.execute(known).scalars())

            new = sorted((set(runs) | of(parent)) - of(model))
            if new:
                rows = [{"model": model, "run": run, "at": time.time()} for run in new]
                connection.execute(sa.insert(model_runs), rows)

        runs = list(runs)
        self.database.write(work)

    def models_that_saw(self, runs: Iterable[str]) -> dict[str, list[str]]:
        """Return the models that were trained on any of ``runs``, each with those of them it has seen."""
        found: dict[str, list[str]] = {}
        wanted = sorted(set(runs))
        with self.database.read() as connection:
            for start in range(0, len(wanted), 500):  # SQLite bounds the variables of a statement
                query = sa.select(model_runs.c.model, model_runs.c.run)
                query = query.where(model_runs.c.run.in_(wanted[start : start + 500]))
                for model, run in connection.execute(query.order_by(model_runs.c.model, model_runs.c.run)):
                    found.setdefault(model, []).append(run)
        return dict(sorted(found.items()))

    def _goal_of_run(self) -> dict[str, str]:
        with self.database.read() as connection:
            rows = connection.execute(sa.select(experience_runs.c.run, experience_runs.c.goal)).all()
        return {row.run: row.goal for row in rows}


def _merged(group: Sequence[Sample]) -> Sample:
    """Return one sample for equal ones: mean rewards, the last correction."""
    rewards = [sample.reward for sample in group if sample.reward is not None]
    bases = [sample.base for sample in group if sample.base is not None]
    fixed = [sample.chosen for sample in group if sample.chosen is not None]
    return replace(
        next((sample for sample in group if sample.reward is not None), group[0]),
        reward=sum(rewards) / len(rewards) if rewards else None,
        base=sum(bases) / len(bases) if bases else None,
        chosen=fixed[-1] if fixed else None,
    )


def _packed(sample: Sample) -> dict[str, Any]:
    if not len(sample.ids) == len(sample.sampled) == len(sample.logprobs):
        raise ValueError(
            f"run {sample.run}, event {sample.seq}: ids, masks and log-probabilities differ in length"
        )
    return {
        **{
            name: getattr(sample, name)
            for name in ("run", "seq", "hash", "reward", "base", "source", "chosen")
        },
        "ids": array("i", sample.ids).tobytes(),
        "sampled": bytes(sample.sampled),
        "logprobs": array("f", sample.logprobs).tobytes(),
        "parts": json.dumps(dict(sample.parts), sort_keys=True),
    }


def _unpacked(row: Mapping[str, Any]) -> Sample:
    return Sample(
        **{name: row[name] for name in ("run", "seq", "hash", "reward", "base", "source", "chosen")},
        ids=tuple(array("i", row["ids"])),
        sampled=tuple(map(bool, row["sampled"])),
        logprobs=tuple(array("f", row["logprobs"])),
        parts=json.loads(row["parts"]),
    )
