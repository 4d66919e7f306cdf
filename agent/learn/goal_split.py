"""Which goals a model practises on, and which judge it: the two never meet.

Goals come from past runs that may be learned from (their checks are still there, and so are their inputs)
and from suites that the user names. Both are split by the wording's family, as experience is. Whatever is
alike to a goal that judges, of the user's or of the shipped gate, is not practised: each is counted.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ...errors import UserError
from ...memory.experience import Experience, Learnable, weight_of
from ...memory.goals import alike, family_hash, goal_hash, is_held_out, words_of
from ..goals.load import Goal, load_goals
from ..record.events import RunStarted
from ..record.store import RunStore

GATE = Path(__file__).parent / "held_out" / "gate.jsonl.zst"
OWN = "own "
"""Stands before the category of the user's held-out goals in the gate's table."""


@dataclass
class Drawn:
    """What there is to practise on and to judge by."""

    train: list[Goal] = field(default_factory=list)
    held_out: list[Goal] = field(default_factory=list)
    """The user's own goals that judge."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Goals that are not practised, by reason."""


def shipped_gate() -> list[Goal]:
    """Return the goals that ship for judging."""
    return load_goals(GATE)


def draw(
    store: RunStore,
    experience: Experience,
    goals: Sequence[Goal] = (),
    gate_goals: Sequence[Goal] | None = None,
) -> Drawn:
    """Collect goals of past runs and ``goals``, and split them.

    ``gate_goals``: what judges, in place of the user's held-out and the shipped goals; then ``goals`` are
    all for training, but for those alike to what judges.
    """
    drawn = Drawn()
    found = {_key(goal): goal for goal in [*goals, *of_runs(store, experience.learnable(), drawn)]}
    for goal in found.values():
        if not goal.check:
            drawn.dropped["no check"] += 1
        elif gate_goals is None and is_held_out(family_hash(goal.goal)):
            drawn.held_out.append(_own(goal))
        else:
            drawn.train.append(goal)
    judging = [*drawn.held_out, *shipped_gate()] if gate_goals is None else list(gate_goals)
    barred = alike_to([goal.goal for goal in drawn.train], [goal.goal for goal in judging])
    drawn.dropped["alike to a held-out goal"] += len(barred)
    drawn.train = _named([goal for number, goal in enumerate(drawn.train) if number not in barred])
    drawn.held_out = _named(drawn.held_out)
    drawn.dropped = +drawn.dropped
    return drawn


def of_runs(store: RunStore, runs: Iterable[Learnable], drawn: Drawn) -> list[Goal]:
    """Return the goals of past runs that can be run again as they were; counts the others in ``drawn``."""
    found: dict[tuple[str, str], Goal] = {}
    for run in runs:
        started = store.load(run.run)[0]
        assert isinstance(started, RunStarted)
        if started.mode != "goal" or not started.goal.get("check"):
            continue
        try:
            goal = restored(started.goal, Path(started.folder))
            goal.input_paths()
        except (ValidationError, UserError):
            drawn.dropped["its inputs are gone"] += 1
            continue
        if goal.workspace is not None:
            drawn.dropped["works in place"] += 1
        elif goal.remembered or goal.earlier or (started.memory and _recalled(store, run.run)):
            drawn.dropped["needs memory"] += 1
        else:
            found[_key(goal)] = goal
    return list(found.values())


def restored(record: Mapping[str, Any], base: Path) -> Goal:
    """Return a goal from its record, with paths relative to ``base``."""
    return Goal.model_validate(dict(record)).at(base)


def kept_record(goal: Goal) -> dict[str, Any]:
    """Return what :func:`restored_line` reads again."""
    return {"base": str(goal.base), "goal": goal.model_dump(mode="json", by_alias=True)}


def restored_line(line: Mapping[str, Any]) -> Goal:
    """Return the goal that :func:`kept_record` described."""
    return restored(line["goal"], Path(line["base"]))


def alike_to(wordings: Sequence[str], judging: Iterable[str]) -> set[int]:
    """Return the places of ``wordings`` that are the same as, or too alike to, one of the texts."""
    kept = [(text, words_of(text)) for text in set(judging)]
    families = {family_hash(text) for text, _ in kept}
    same = {number for number, text in enumerate(wordings) if family_hash(text) in families}
    near = alike([(str(number), words_of(text)) for number, text in enumerate(wordings)], kept)
    return same | {int(number) for number, _ in near}


def priorities(goals: Sequence[Goal], rates: Mapping[str, tuple[int, int]], seed: int) -> list[Goal]:
    """Order goals so that those solved sometimes come first, as often as their weight says.

    ``rates``: by the hash of a goal's wording, how often it was solved and tried. A goal never tried counts
    as one solved half the time. The order is a weighted draw (Efraimidis and Spirakis, 2006).
    """
    rng = random.Random(seed)

    def draw_key(goal: Goal) -> float:
        return float(rng.random() ** (1 / weight_of(*rates.get(goal_hash(goal.goal), (0, 0)))))

    keys = {id(goal): draw_key(goal) for goal in goals}
    return sorted(goals, key=lambda goal: keys[id(goal)], reverse=True)


def gate_order(drawn: Drawn, gate_goals: Sequence[Goal] | None, seed: int) -> list[Goal]:
    """Return all that judges in random order, a goal of the user's own and a shipped one in turn.

    The user's are few, and all count; but a gate that ends early must have seen the other categories too.
    A fair coin is fair in any order, so the gate's error does not depend on it.
    """
    rng = random.Random(seed)
    parts = [drawn.held_out, shipped_gate()] if gate_goals is None else [gate_goals]
    mixed = itertools.zip_longest(*(rng.sample(list(part), len(part)) for part in parts))
    return _named([goal for turn in mixed for goal in turn if goal is not None])


def _named(goals: Sequence[Goal]) -> list[Goal]:
    """Return the goals under ids of their own: two suites may use one id for different goals."""
    named: dict[str, Goal] = {}
    for goal in goals:
        name, number = goal.id, 1
        while name in named:
            number += 1
            name = f"{goal.id}~{number}"
        named[name] = goal if name == goal.id else goal.model_copy(update={"id": name})
    return list(named.values())


def _own(goal: Goal) -> Goal:
    return goal.model_copy(update={"category": f"{OWN}{goal.category or 'goals'}"})


def _key(goal: Goal) -> tuple[str, str]:
    """Two goals are one when they say the same about the same inputs."""
    return goal_hash(goal.goal), f"{goal.base if goal.inputs else ''} {sorted(goal.inputs)} {goal.files}"


def _recalled(store: RunStore, run: str) -> bool:
    from ..record.events import MemoryRecalled

    return any(isinstance(event, MemoryRecalled) and event.entries for event in store.load(run))
