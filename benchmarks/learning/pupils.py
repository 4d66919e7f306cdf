"""Models and homes of the learning benchmark: a weak adapter, and a home of its own for every experiment.

A home is a folder in which one model is in use and improvements leave their versions, as a user's does;
the fetched base is linked, so nothing is downloaded. What a model achieves on a suite is measured once and
kept by the fingerprint of its weights, so an experiment that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from makers.workflows import workflows

from autogpt.agent.evaluate.statistics import Pair, Row, mcnemar, table
from autogpt.agent.evaluate.suite import converse, evaluate
from autogpt.agent.experts.make import make
from autogpt.agent.goals.load import Goal, load_conversations, load_goals
from autogpt.agent.learn.goal_split import shipped_gate
from autogpt.agent.open import open_model, open_registry
from autogpt.errors import UsageError
from autogpt.llm.fetch import base_folder
from autogpt.llm.registry import ModelRegistry
from autogpt.llm.training.data import open_lines
from autogpt.llm.training.finetune import FinetuneConfig, finetune
from autogpt.settings import Settings, load

SUITES = Path(__file__).parents[1] / "suites"
WEAK = 500
"""Episodes that the deliberately weak adapter is trained on."""
MORE, MORE_SEED = 200, 5015
"""Workflows beyond the suite's hundred. Results are kept by id and the makers' draw depends on how many are
drawn, so it is always this many, of which the first are taken."""

Results = Mapping[str, tuple[str, float]]
"""By goal: its category, and 1.0 where it was achieved."""


def home(folder: Path, settings: Settings) -> Settings:
    """Return the settings of a home in ``folder``, with the fetched base of ``settings`` in it."""
    base, here = base_folder(settings.home), base_folder(folder)
    here.parent.mkdir(parents=True, exist_ok=True)
    if not here.exists():
        here.symlink_to(base.resolve(), target_is_directory=True)
    return load(home=folder, parallel=settings.parallel)


def weak_adapter(folder: Path, settings: Settings, epochs: float = 1.3, seed: int = 0) -> Path:
    """Return an adapter trained from the base on :data:`WEAK` ordinary episodes; made on first use."""
    if (folder / "done").is_file():
        return folder / "adapter"
    base = base_folder(settings.home)
    if not (folder / "weak.jsonl").is_file():
        make(folder / "episodes", base, seed=seed, scale=0.05)
        with open_lines(folder / "episodes" / "train.jsonl.zst") as lines:
            chosen = random.Random(seed).sample(list(lines), WEAK)
        (folder / "weak.jsonl").write_text("".join(chosen), encoding="utf-8")
    config = FinetuneConfig(
        name="weak", base=base, data=[folder / "weak.jsonl"], out=folder, epochs=epochs, seed=seed
    )
    if not finetune(config).finished:
        raise KeyboardInterrupt
    (folder / "done").touch()
    return folder / "adapter"


def put_in_use(settings: Settings, name: str, adapter: Path) -> str:
    """Register ``adapter`` as the first version of ``name`` in this home, and use it; once."""
    registry = ModelRegistry(settings.home)
    if registry.current() == "small":
        registry.use(registry.add(name, adapter, base="small").reference)
    return registry.current()


def first_model(settings: Settings) -> str:
    """Return the model that the experiment in this home began with, also when it goes on."""
    place = settings.home / "first.txt"
    if not place.is_file():
        place.write_text(ModelRegistry(settings.home).current(), encoding="utf-8")
    return place.read_text(encoding="utf-8")


def achieved(settings: Settings, model: str, suites: Mapping[str, int]) -> Results:
    """Return what ``model`` achieves on the first so many goals of each suite, greedily."""
    goals: list[Goal] = []
    for name, count in suites.items():
        chosen = load_goals(SUITES / f"{name}.jsonl")[:count]
        if name == "workflows" and count > len(chosen):
            chosen += more_workflows(settings, count - len(chosen))
        goals += [goal.model_copy(update={"category": name}) for goal in chosen]
    return {**played(settings, model, goals), **conversed(settings, model)}


def conversed(settings: Settings, model: str) -> Results:
    """Return which messages of the suite's conversations ``model`` achieves: nothing practises them."""
    name = "conversations"
    sessions = load_conversations(SUITES / f"{name}.jsonl")
    known = _known(settings, model)
    ids = [f"{one.id}/{number}" for one in sessions for number in range(1, len(one.turns) + 1)]
    if any(row not in known for row in ids):
        opened = open_model(settings.model_copy(update={"model": model}))
        report = converse(name, sessions, opened, open_registry())
        known |= {row.id: float(row.status == "achieved") for row in report.rows if row.id}
        _keep(settings, model, known)
    return {row: (name, known[row]) for row in ids}


def more_workflows(settings: Settings, count: int) -> list[Goal]:
    """Return workflows by the suite's makers, drawn anew: none is in the suite or in the shipped gate."""
    if settings.data is None:
        raise UsageError("more workflows than the suite has: set AUTOGPT_DATA, their tables are made of it")
    seen = {
        (goal.goal, str(goal.files)) for goal in [*load_goals(SUITES / "workflows.jsonl"), *shipped_gate()]
    }
    made = [
        Goal.model_validate({**record, "id": f"more-{record['id']}"})
        for record in workflows(settings.data, MORE, MORE_SEED)
    ]
    return [goal for goal in made if (goal.goal, str(goal.files)) not in seen][:count]


def played(settings: Settings, model: str, goals: Sequence[Goal]) -> Results:
    """Return what ``model`` achieves on ``goals``, greedily; results are kept in the home."""
    known = _known(settings, model)
    missing = [goal for goal in goals if goal.id not in known]
    if missing:
        opened = open_model(settings.model_copy(update={"model": model}))
        report = evaluate(
            "learning", missing, opened, open_registry(), parallel=settings.parallel,
            on_done=lambda episode: print(".", end="", flush=True),
        )  # fmt: skip
        print()
        known |= {row.id: float(row.status == "achieved") for row in report.rows if row.id}
        _keep(settings, model, known)
    return {goal.id: (goal.category or "all", known[goal.id]) for goal in goals if goal.id}


def _place(settings: Settings, model: str) -> Path:
    return settings.home / "benchmark" / f"{model.replace('/', '_')}.json"


def _known(settings: Settings, model: str) -> dict[str, float]:
    place = _place(settings, model)
    return dict(json.loads(place.read_text())) if place.is_file() else {}


def _keep(settings: Settings, model: str, known: Mapping[str, float]) -> None:
    place = _place(settings, model)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(known))


def compared(before: Results, after: Results) -> tuple[list[Row], float]:
    """Return the table of two models on the same goals, and McNemar's exact p over all of them."""
    pairs = [Pair(goal, category, score, after[goal][1]) for goal, (category, score) in before.items()]
    wins = sum(pair.candidate > pair.current for pair in pairs)
    losses = sum(pair.candidate < pair.current for pair in pairs)
    return table(pairs), mcnemar(wins, losses)


def show(title: str, before: Results, after: Results) -> dict[str, Any]:
    """Print the table of two models, and return it."""
    rows, p = compared(before, after)
    print(f"{title} (p = {p:.3g})")
    for row in rows:
        print(
            f"  {row.category:12} n {row.n:4}  {row.current:6.1%} -> {row.candidate:6.1%}  "
            f"{100 * row.difference:+.1f} ({100 * row.low:+.1f} to {100 * row.high:+.1f})"
        )
    return {"title": title, "p": p, "rows": [{**vars(row), "difference": row.difference} for row in rows]}
