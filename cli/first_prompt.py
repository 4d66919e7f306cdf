"""What the model reads first for a goal: the system text, the goal with its inspected inputs, the calls.

For ``autogpt prompts show``: the inputs are really inspected, in a scratch folder that is removed;
nothing is recorded and no model is loaded, only the tokenizer where it is on this machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..agent.goals.load import Goal
from ..agent.open import open_registry
from ..agent.run.memory import NoMemory, RunMemory
from ..agent.run.rollout import Rollout
from ..errors import ModelUnavailable
from ..llm.models.scripted import ScriptedModel
from ..settings import Settings


@dataclass(frozen=True)
class Part:
    """One part of the prompt; ``tokens`` is None where no tokenizer is at hand."""

    name: str
    text: str
    tokens: int | None


def first_prompt(goal: Goal, settings: Settings) -> list[Part]:
    """Return the parts of the first prompt for ``goal``, in the order in which they are read."""
    count = _counter(settings)
    nothing = RunMemory(NoMemory()) if settings.memory else None
    rollout = Rollout(ScriptedModel([]), open_registry(), memory=lambda goal: nothing)
    episode = rollout.open(goal)
    try:
        think = episode.advance()
    finally:
        episode.close()
    if think is None:
        return []
    parts = [(message.role, message.content) for message in think.conversation]
    schemas = [(call.name, json.dumps(call.parameters, ensure_ascii=False)) for call in think.calls]
    told = [Part(name, text, count(text) if count else None) for name, text in parts]
    return told + [Part(f"call {name} (a mask, not read: no tokens)", text, 0) for name, text in schemas]


def _counter(settings: Settings) -> Callable[[str], int] | None:
    from ..llm.registry import ModelRegistry
    from ..llm.text.tokenizer import ChatTokenizer

    try:
        source = ModelRegistry(settings.home).resolve(settings.model).source
    except ModelUnavailable:
        return None
    return ChatTokenizer(Path(source)).count if Path(source).is_dir() else None
