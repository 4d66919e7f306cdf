"""What one run works with: the tools it has, the calls it makes with them, and its first event.

A :class:`Workbench` binds a run's tools to its workspace, runs calls and builds the events that record
them; it appends nothing itself. This is one of the two places where a broad ``except`` is right: a tool's
body may fail in any way, and the model should read about it and go on.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ... import prompts
from ...errors import ToolError, UsageError
from ...labels import Label
from ...llm.message import Message, Model, Turn
from ...tools.base import Tool, ToolContext
from ...tools.handles import resolve
from ...tools.registry import Registry
from ...tools.stubs import StubTool
from ..goals.load import Goal
from ..record.events import (
    RULES,
    Event,
    ModelTurn,
    PersonSaid,
    RunStarted,
    ToolIntent,
    ToolOutcome,
    ToolSpec,
    ToolsShown,
)
from ..record.state import State
from ..record.transcript import messages
from .feedback import who
from .loop import Act, FindTools, Think

UNBOUNDED = 1 << 30
"""More tokens than any model takes."""
MAX_PREVIEW = 1500
"""Characters of a result that the model sees at most; tools bound theirs tighter."""


SHOWN = 8
"""How many tools that are not built in are described at once: the right ones are nearly always among them
(``benchmarks/tool_retrieval.py``), and their lines take a few hundred tokens."""


SQL, STRUCTURED = "tables.sql", "tables.query"


def prompting_of(model: Model) -> prompts.Prompting:
    """Return how a model wants to be prompted; providers of before may not say."""
    return getattr(model, "prompting", "teaching")


def goal_tools(
    goal: Goal, registry: Registry, prompting: prompts.Prompting = "names"
) -> tuple[dict[str, Tool], dict[str, str]]:
    """Return the goal's tools by name, and the source of each that is not built in.

    Built-in tools come first, in registry order, then a goal's own and its stubs, so that all goals share
    the first part of the prompt. A model that is not prompted by ``names`` knows SQL: it gets no second way
    of asking tables. Raises UsageError for a tool that is not registered, with the nearest right names.
    """
    selected = registry.select(goal.tools)
    if prompting != "names" and SQL in selected:
        selected.pop(STRUCTURED, None)
    sources = {name: source for name in selected if (source := registry.source(name)) != "built-in"}
    builtin = {name: tool for name, tool in selected.items() if name not in sources}
    own = {name: tool for name, tool in selected.items() if name in sources}
    for stub in goal.stubs:
        own[stub.name] = StubTool(stub.name, stub.description, stub.parameters, stub.returns)
        sources[stub.name] = "stub"
    return builtin | own, sources


def fitting(
    text: str,
    tools: Mapping[str, Tool],
    sources: Mapping[str, str],
    named: Collection[str] = (),
    count: int = SHOWN,
) -> list[str]:
    """Return which of ``tools`` to describe for ``text``: in their order, built-in ones and ``count`` others.

    The others are those in ``named``, those whose name stands in the text (these two without limit), and of
    the rest the ones that fit best. Few others are all described.
    """
    own = {name: tool for name, tool in tools.items() if name in sources}
    if len(own) <= count:
        return list(tools)
    words = {word.rstrip(".-") for word in re.findall(r"[A-Za-z_][A-Za-z0-9_.-]*", text)}
    chosen = {name for name in own if name in named or name in words}
    if len(chosen) < count and text:
        from ...memory.recall.tool_search import ranked

        rest = {name: tool for name, tool in own.items() if name not in chosen}
        chosen.update(ranked(text, rest)[: count - len(chosen)])
    return [name for name in tools if name not in own or name in chosen]


class Workbench:
    """The tools of one run, bound to its workspace; ``value`` gives the exact value of an outcome.

    ``sources`` says of each tool that is not built in where it came from.
    """

    def __init__(
        self,
        tools: Mapping[str, Tool],
        workspace: Path,
        goal: str,
        value: Callable[[ToolOutcome], Any],
        sources: Mapping[str, str],
    ) -> None:
        self.tools = tools
        self.sources = sources
        self.context = ToolContext(workspace=workspace, goal=goal)
        self._value = value

    def values(self, events: Sequence[Event]) -> dict[str, Any]:
        """Return the exact value of every handle so far."""
        return {
            event.handle: self._value(event)
            for event in events
            if isinstance(event, ToolOutcome) and event.handle
        }

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

    def find(self, request: FindTools, events: Sequence[Event]) -> ToolsShown:
        """Return the event that describes tools which the prompt does not describe yet.

        The driver asks which of all tools fit a message, the model for the best of those that are hidden.
        """
        begun = time.perf_counter()
        known = State.of(events).tools
        among = self.tools
        if request.by == "model":
            among = {name: tool for name, tool in among.items() if name not in known}
        chosen = [name for name in fitting(request.query, among, self.sources) if name not in known]
        return ToolsShown(
            at=time.time(),
            query=request.query,
            tools=[_spec(name, self.tools[name], self.sources) for name in chosen],
            seconds=time.perf_counter() - begun,
            by=request.by,
        )

    def perform(self, act: Act, events: Sequence[Event], verify: bool = False) -> ToolOutcome:
        """Run the call and return its outcome; with ``verify``, first look whether its effect is there."""
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
        done = self.outcome(act, "done", result.preview, time.perf_counter() - begun)
        value = {"value": result.value, "facts": result.facts, "label": result.label}
        return done.model_copy(update={"handle": f"${len(state.handles) + 1}", **value})

    def outcome(
        self,
        act: Act,
        state: Literal["done", "failed", "refused", "uncertain"],
        preview: str,
        seconds: float = 0.0,
    ) -> ToolOutcome:
        """Return the outcome of a call, without a value."""
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
    """Return the first event of a run. ``sources`` says of each tool that is not built in where it came from.

    Of many such tools those are described that fit the goal; in a conversation, which begins with nothing
    said, those that the goal names one by one.
    """
    grants = goal.get("grants") or {}
    prompting = prompting_of(model)
    text = "" if mode == "chat" else str(goal["goal"])
    hidden = len(tools)
    tools = {name: tools[name] for name in fitting(text, tools, sources, goal.get("tools") or ())}
    hidden -= len(tools)
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
        prompt_hash=prompts.texts_hash(lines, prompting),
        prompting=prompting,
        tools=[_spec(name, tool, sources) for name, tool in tools.items()],
        hidden_tools=hidden,
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
        system_tokens=_tokens(model, prompts.system(shared, memory, prompting)) if mode == "chat" else 0,
    )


def _spec(name: str, tool: Tool, sources: Mapping[str, str]) -> ToolSpec:
    """Return what the journal keeps of a tool."""
    return ToolSpec(
        name=name,
        description=tool.description,
        parameters=dict(tool.parameters),
        effect=str(tool.effect),
        replay=str(tool.replay),
        source=sources.get(name, "built-in"),
    )


def _tokens(model: Model, system: str) -> int:
    """Return the length of the system message, 0 for a model that does not own its tokens."""
    tokenizer = getattr(model, "tokenizer", None)
    return 0 if tokenizer is None else len(tokenizer.encode_messages([Message("system", system)]).ids)


def check_length(started: RunStarted, model: Model) -> None:
    """Raise UsageError for a goal whose text alone leaves the model no room for an answer."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None or not started.context:
        return
    tokens = len(tokenizer.encode_messages(messages([started]), continue_assistant=True).ids)
    if tokens >= started.context:
        goal = tokenizer.count(str(started.goal["goal"]))
        raise UsageError(
            f"the goal has {goal} tokens, the model {model.name} takes at most {started.context - 1}, the "
            f"tools' {tokens - goal} included: give the long text in a file as an input, or split the goal"
        )


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
