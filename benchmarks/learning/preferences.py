"""A simulated person with one hidden preference: replies should ask something back, or be cheerful.

Fifty small messages are answered at temperature 1 as real runs, with the journal; the person rates each
``good`` when the answer holds the mark of it (a question or exclamation mark) and ``bad`` otherwise, and
says no more. Then ``improve`` learns
from these ratings alone. What shifted is measured on other messages, several answers each, drawn at the
same temperature under the same seeds for both models; table questions tell whether work suffered.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from makers.chat import TALK

from autogpt.agent.evaluate.attempts import roll
from autogpt.agent.experts import small_talk as chat
from autogpt.agent.goals.load import Goal
from autogpt.agent.learn.improve import ImproveOptions, improve
from autogpt.agent.open import open_model, open_registry, open_store
from autogpt.agent.record.events import Rating
from autogpt.agent.run.runner import Runner
from autogpt.llm.message import Sampling
from autogpt.llm.registry import ModelRegistry
from autogpt.settings import Settings

from .pupils import achieved, first_model, show

RATED = 50
DRAWS = 3
"""Answers to each held-out message."""


LIKED = {"asking": "?", "cheerful": "!"}
"""What the answers that a person likes hold."""


def likes(answer: object, taste: str) -> bool:
    """Return what the person thinks of an answer, and never says in words."""
    return LIKED[taste] in str(answer or "")


def messages() -> tuple[list[str], list[str]]:
    """Return the messages that are rated, and others to measure by."""
    held_out = [text for texts in TALK.values() for text in texts]
    taken = {text.casefold().strip(" .!?,") for text in held_out}
    found = [
        *chat.GREETINGS,
        *chat.THANKS,
        *chat.BYES,
        *(text for texts, _ in chat.STATEMENTS for text in texts),
    ]
    free = [text for text in dict.fromkeys(found) if text.casefold().strip(" .!?,") not in taken]
    return [free[place % len(free)] for place in range(RATED)], held_out


def rate(settings: Settings, texts: Sequence[str], seed: int, taste: str) -> int:
    """Run every message and rate it; returns how many were liked. Goes on where it was killed."""
    store, done = open_store(settings), settings.home / "rated.json"
    liked: list[bool] = json.loads(done.read_text()) if done.is_file() else []
    if len(liked) == len(texts):
        return sum(liked)
    model, registry = open_model(settings), open_registry()
    for number in range(len(liked), len(texts)):
        sampling = Sampling(temperature=1.0, seed=seed + number)
        result = Runner(store, model, registry, sampling=sampling).run(Goal(goal=texts[number]))
        good = likes(result.answer, taste)
        with store.open(result.run) as journal:
            journal.append(Rating(value=float(good), by="simulated"))
        liked.append(good)
        done.write_text(json.dumps(liked))
    return sum(liked)


def liked_share(settings: Settings, model: str, texts: Sequence[str], taste: str) -> float:
    """Return the share of the model's replies to ``texts`` that the person would like."""
    place = settings.home / "benchmark" / f"{taste}-{model.replace('/', '_')}.json"
    if not place.is_file():
        opened = open_model(settings.model_copy(update={"model": model}))
        goals = [Goal(goal=text) for text in texts]
        said = [
            likes(episode.result.answer if episode.result else "", taste)
            for *_, episode in roll(goals, DRAWS, opened, 0, registry=open_registry(), temperature=1.0)
        ]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(sum(said) / len(said)))
    return float(json.loads(place.read_text()))


def experiment(
    settings: Settings, seed: int, options: ImproveOptions, goals: int, taste: str
) -> list[dict[str, Any]]:
    """Rate, learn, and print what shifted; ``goals``: table questions that must not suffer."""
    rated, held_out = messages()
    registry = ModelRegistry(settings.home)
    first = first_model(settings)
    print(f"{rate(settings, rated, seed, taste)} of {RATED} replies were rated good")
    before = liked_share(settings, first, held_out, taste)
    if registry.current() == first:
        report = improve(settings, options)[-1]
        print(f"{report.decision}: {report.reason}")
        candidate = report.folder / "train" / "adapter"
        model = report.version or str(candidate)
    else:
        model = registry.current()
    after = liked_share(settings, model, held_out, taste)
    print(f"replies that the person likes ({taste}), of {DRAWS * len(held_out)}: {before:.1%} -> {after:.1%}")
    suites = {"tables": goals // 2}
    tables = show(
        f"tables, {first} against {model}",
        achieved(settings, first, suites),
        achieved(settings, model, suites),
    )
    return [{"title": taste, "before": before, "after": after}, tables]
