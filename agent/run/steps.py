"""Carrying out one step, the same for every driver: open a run, record a turn, run a call.

A :class:`Workbench` holds what one run works with (its tools, its workspace, live objects). Drivers
differ in where events go and in what surrounds an effect; what a call does and how its outcome looks
is decided here once. This is one of the two places where a broad ``except`` is right: a tool's body
may fail in any way, and the model should read about it and go on.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ... import prompts
from ...errors import ToolError
from ...labels import Label
from ...llm.message import Message, Model, Turn
from ...tools.base import Facts, Tool, ToolContext, ToolResult
from ...tools.handles import resolve
from ..record.events import (
    RULES,
    Event,
    ModelTurn,
    PersonSaid,
    RunStarted,
    ToolIntent,
    ToolOutcome,
    ToolSpec,
)
from ..record.state import State
from .feedback import who
from .loop import Act, Think

UNBOUNDED = 1 << 30
"""More tokens than any model takes."""
MAX_PREVIEW = 1500
"""Characters of a result that the model sees at most; tools bound theirs tighter."""


class Workbench:
    """The tools of one run, bound to its workspace."""

    def __init__(
        self,
        tools: Mapping[str, Tool],
        workspace: Path,
        goal: str = "",
        load_blob: Callable[[str], Any] | None = None,
    ) -> None:
        self.tools = tools
        self.context = ToolContext(workspace=workspace, goal=goal)
        self._load_blob = load_blob

    def values(self, events: Sequence[Event]) -> dict[str, Any]:
        """Return the exact value of every handle so far."""
        found: dict[str, Any] = {}
        for event in events:
            if isinstance(event, ToolOutcome) and event.handle:
                value = event.value
                if event.blob is not None and self._load_blob is not None:
                    value = self._load_blob(event.blob)
                found[event.handle] = value
        return found

    def arguments(self, act: Act, events: Sequence[Event]) -> dict[str, Any]:
        """Return the call's arguments with handles replaced by values.

        Raises ToolError for a handle that does not exist.
        """
        tool = self.tools[act.tool]
        inline = frozenset(tool.expands)
        return resolve(act.arguments, self.values(events), inline)

    def intent(self, act: Act, events: Sequence[Event]) -> ToolIntent:
        """Return the event to commit before the call."""
        tool = self.tools[act.tool]
        try:
            exact: Mapping[str, Any] = self.arguments(act, events)
        except ToolError:
            exact = act.arguments
        digest = hashlib.sha256(json.dumps(exact, sort_keys=True, default=str).encode()).hexdigest()
        return ToolIntent(
            at=time.time(),
            call_id=act.call_id,
            tool=act.tool,
            arguments=act.arguments,
            arguments_hash=digest[:16],
            effect=str(tool.effect),
            replay=str(tool.replay),
            by=act.by,
        )

    def perform(self, act: Act, events: Sequence[Event], verify: bool = False) -> ToolOutcome:
        """Run the call and return its outcome; with ``verify`` adopt an effect that already stands."""
        state = State.of(events)
        self.context.facts = state.facts
        if state.started.mode == "chat":
            self.context.goal = _last_said(events)
        tool = self.tools[act.tool]
        begun = time.perf_counter()
        try:
            arguments = self.arguments(act, events)
            result = tool.verify(arguments, self.context) if verify else None
            if result is None:
                result = tool.run(arguments, self.context)
        except ToolError as error:
            return self.outcome(act, "failed", f"error: {error}", time.perf_counter() - begun)
        except Exception as error:  # a tool's body may fail in any way; the model reads about it
            text = f"error: {act.tool} failed: {type(error).__name__}: {error}"
            return self.outcome(act, "failed", text, time.perf_counter() - begun)
        seconds = time.perf_counter() - begun
        return self._done(act, result, f"${len(state.handles) + 1}", seconds)

    def outcome(
        self,
        act: Act,
        state: Literal["failed", "refused", "uncertain"],
        preview: str,
        seconds: float = 0.0,
    ) -> ToolOutcome:
        """Return the outcome of a call that gave no value."""
        return ToolOutcome(
            at=time.time(),
            call_id=act.call_id,
            tool=act.tool,
            state=state,
            preview=preview[:MAX_PREVIEW],
            label=Label.UNTRUSTED,
            seconds=seconds,
            by=act.by,
        )

    def _done(self, act: Act, result: ToolResult, handle: str, seconds: float) -> ToolOutcome:
        facts: Facts = result.facts
        return ToolOutcome(
            at=time.time(),
            call_id=act.call_id,
            tool=act.tool,
            state="done",
            handle=handle,
            preview=result.preview[:MAX_PREVIEW],
            value=result.value,
            facts=facts,
            label=result.label,
            seconds=seconds,
            by=act.by,
        )


def opening(
    run: str,
    goal: dict[str, Any],
    model: Model,
    tools: Mapping[str, Tool],
    sources: Mapping[str, str],
    *,
    mode: Literal["goal", "chat", "eval"] = "goal",
    unattended: bool = True,
    seed: int = 0,
    best_of: int = 1,
    plan: bool = True,
    memory: bool = False,
) -> RunStarted:
    """Return the first event of a run. ``sources`` says per tool where it came from."""
    grants = goal.get("grants") or {}
    specs = [
        ToolSpec(
            name=name,
            description=tool.description,
            parameters=dict(tool.parameters),
            effect=str(tool.effect),
            replay=str(tool.replay),
            source=sources.get(name, "built-in"),
        )
        for name, tool in tools.items()
    ]
    lines = [prompts.ToolLine(name, tool.parameters, tool.description) for name, tool in tools.items()]
    shared = [line for line in lines if line.name not in sources]
    return RunStarted(
        at=time.time(),
        run=run,
        goal=goal,
        mode=mode,
        unattended=unattended,
        model=model.name,
        model_hash=model.fingerprint,
        tokenizer_hash=model.tokenizer_hash,
        prompt_hash=prompts.texts_hash(lines),
        tools=specs,
        grants=grants,
        grants_hash=hashlib.sha256(json.dumps(grants, sort_keys=True).encode()).hexdigest()[:16],
        limits=goal.get("limits") or {},
        seed=seed,
        best_of=best_of,
        plan=plan,
        by=who(),
        memory=memory,
        rules=RULES,
        context=min(getattr(model, "context", 0), UNBOUNDED),
        system_tokens=_tokens(model, prompts.system(shared, memory)) if mode == "chat" else 0,
    )


def _tokens(model: Model, system: str) -> int:
    """Return the length of the system message, 0 for a model that does not own its tokens."""
    tokenizer = getattr(model, "tokenizer", None)
    return 0 if tokenizer is None else len(tokenizer.encode_messages([Message("system", system)]).ids)


def model_turn(think: Think, turn: Turn) -> ModelTurn:
    """Return the event that records a model's answer to ``think``."""
    call = None if turn.call is None else {"name": turn.call.name, "arguments": dict(turn.call.arguments)}
    return ModelTurn(
        at=time.time(),
        text=turn.text,
        call=call,
        invalid=turn.invalid,
        ids=list(turn.ids),
        forced=list(turn.forced),
        copied=[place for place, origin in enumerate(turn.origins) if origin == "c"],
        logprobs=[round(value, 5) for value in turn.logprobs],
        prompt_tokens=turn.prompt_tokens,
        cached_tokens=turn.cached_tokens,
        seconds=turn.seconds,
        allowed=[spec.name for spec in think.calls],
        value=None if turn.value is None else round(turn.value, 4),
    )


def _last_said(events: Sequence[Event]) -> str:
    return next((event.text for event in reversed(events) if isinstance(event, PersonSaid)), "")
