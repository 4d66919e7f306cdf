"""Which calls the model may make now, and with which arguments.

The loop steers by masks: first only ``plan``, ``ask`` or ``finish``; then the tools that the plan
named; after repeated failures or a repeated call, ``plan`` again. After the first query without rows
``finish`` waits for one more try, and while an input is unread it takes only an answer that says so. In
runs with a memory, ``remember`` and ``recall`` come last. Of many tools only those that the prompt describes
may be planned and called; ``find_tools`` brings more. Each call's schema is narrowed to what the run
knows. Our engine enforces the masks token by token; calls of other models are validated afterwards with
the same schemas.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...llm.message import CallSpec
from ...tools.base import Effect, Tool
from ...tools.tables.read import TABLE_SUFFIXES
from ..record.state import State, is_empty_result
from .verdict import unread_inputs

MAX_STEPS_IN_PLAN = 6
FAILURES_BEFORE_REPLAN = 2
MAX_PLANS = 4
MAX_ANSWER = 8000
"""Characters of an answer: an article fits. Its tokens are bounded too (``Sampling.max_tokens``)."""
MAX_REMEMBERED = 3
"""Things that the model may ask to keep per goal or message."""
MAX_NAMED = 8
"""Unread inputs that an answer may begin with; more would only make the grammar larger."""
DESCRIBE, WRITE = "tables.describe", "files.write"
MAX_SEARCHES = 2
"""Searches by the model for further tools, per goal or message."""
MAX_RECALLS = 2
"""Recalls by the model per goal or message, in addition to the driver's one."""


def allowed_calls(state: State, tools: Mapping[str, Tool]) -> tuple[CallSpec, ...]:
    """Return the calls that may come next, narrowed, in a fixed order (tools by registry order)."""
    if state.started.hidden_tools:
        tools = {name: tools[name] for name in state.tools if name in tools}
    if state.started.plan and not state.plan:
        finish = None if _must_look(state) else finish_call(state)
        first = (plan_call(state, tools), finish, find_call(state), ask_call(), *memory_calls(state))
        return tuple(spec for spec in first if spec is not None)
    stuck = is_stuck(state)
    may_plan = state.started.plan and bool(state.outcomes) and state.plans < MAX_PLANS
    if _is_larger(state) and not _may_replan(state, tools):
        may_plan = False
    if stuck and may_plan and state.failures > 0:
        replan = plan_call(state, tools)
        more = find_call(state)
        return tuple(spec for spec in (replan or finish_call(state), more) if spec is not None)
    specs: list[CallSpec | None] = []
    unwritten = not stuck and _is_larger(state) and _unwritten(state, tools)
    if not stuck:
        names = state.planned_tools if state.started.plan else tuple(tools)
        if unwritten and WRITE not in names:
            names = (*names, WRITE)
        narrowed = (_narrowed(name, state, tools) for name in names)
        specs.extend(spec for spec in narrowed if spec is not None)
    may_finish = state.outcomes or not specs or not state.started.plan
    held = _must_retry(state) or _must_mend(state) or _must_go_on(state, tools) or unwritten
    if may_finish and not (specs and held):
        specs.append(finish_call(state))
    if may_plan:
        specs.append(plan_call(state, tools))
    if may_plan or not state.started.plan:
        specs.append(find_call(state))
    specs.append(ask_call())
    specs.extend(memory_calls(state))
    return tuple(spec for spec in specs if spec is not None)


def _may_replan(state: State, tools: Mapping[str, Tool]) -> bool:
    """Return whether such a model may plan again: it is stuck, or nothing planned could run.

    Otherwise it mends a call that failed, goes on or ends: left free, it plans the same again and again.
    """
    return is_stuck(state) or all(_narrowed(name, state, tools) is None for name in state.planned_tools)


def is_stuck(state: State) -> bool:
    """Return whether the last call repeated an earlier one and its result, or several in a row failed."""
    return state.failures >= FAILURES_BEFORE_REPLAN or state.repeated


def _narrowed(name: str, state: State, tools: Mapping[str, Tool]) -> CallSpec | None:
    tool = tools.get(name)
    if tool is None or name in state.refused:
        return None
    schema = tool.narrow(state.facts, tuple(state.offered))
    return None if schema is None else CallSpec(name, schema, tool.description)


def plan_call(state: State, tools: Mapping[str, Tool]) -> CallSpec | None:
    """Return the ``plan`` call; a later plan may not add effects that the first did not name."""
    later = state.plans > 0
    ready = _ready_families(state, tools) if _is_taught(state) else None
    described = ready is not None and state.started.rules >= 3 and _all_described(state)
    names = [
        name
        for name, tool in tools.items()
        if name not in state.refused
        and (not later or tool.effect == Effect.READ or name in state.planned_tools)
        and (ready is None or _family(name) in ready)
        and not (described and name == DESCRIBE)
    ]
    if not names:
        return None
    step = _object(tool={"enum": names}, **{"for": {"type": "string", "maxLength": 80}})
    steps = {"type": "array", "items": step, "minItems": 1, "maxItems": MAX_STEPS_IN_PLAN}
    return CallSpec("plan", _object(steps=steps))


def _must_retry(state: State) -> bool:
    """Return whether the first query without rows is the last result, and there are steps to try again.

    Once per goal or message: a question whose true answer is "none" costs one more call.
    """
    if state.started.rules < 1 or state.empty_results != 1 or not is_empty_result(state.outcomes[-1]):
        return False
    return _has_another_try(state)


def _has_another_try(state: State) -> bool:
    """Return whether the limit of steps leaves one for a further call and one for the end."""
    steps = state.started.limits.get("steps")
    return steps is None or state.turns + 2 <= steps


def _is_larger(state: State) -> bool:
    """Return whether the model is larger than those that know tools by name, and held by the rules for it."""
    return state.started.rules >= 3 and state.started.prompting != "names"


def _unwritten(state: State, tools: Mapping[str, Tool]) -> bool:
    """Return whether a file that the run is to deliver was not written, though a call gave something.

    Such files are those that ``grants.write`` names one by one (``--write report.txt``). One attempt is
    enough: a model that cannot write it may say so.
    """
    wanted = [path for path in state.started.grants.get("write", ()) if not set("*?[") & set(path)]
    if not wanted or WRITE not in tools or not any(one.state == "done" for one in state.outcomes):
        return False
    effects = {name for name, tool in tools.items() if tool.effect == Effect.WRITE}
    return not any(one.tool in effects for one in state.outcomes)


def _must_mend(state: State) -> bool:
    """Return whether the first call has failed, and there are steps to try again: "error" is no answer."""
    first_failed = state.failures == len(state.outcomes) == 1
    return _is_larger(state) and first_failed and _has_another_try(state)


def _is_taught(state: State) -> bool:
    """Return whether the model knows the protocol from its prompt alone: then masks guide it more closely."""
    return state.started.rules >= 2 and state.started.prompting == "teaching"


def _must_look(state: State) -> bool:
    """Return whether a model that was not trained here must plan first: a goal with inputs is about them.

    Such models answer from what they believe. In a chat a message may have nothing to do with the inputs.
    """
    return _is_taught(state) and state.started.mode != "chat" and bool(state.inspected)


def _must_go_on(state: State, tools: Mapping[str, Tool]) -> bool:
    """Return whether such a model would stop too early: a planned call was not tried.

    It counts for calls with an effect and for tools of the goal's own; of the built-in ones that only look it
    may have planned too many.
    """
    if not _is_taught(state):
        return False
    own = {spec.name for spec in state.started.tools if spec.source != "built-in"}
    tried = {outcome.tool for outcome in state.outcomes} | set(state.refused)
    return any(
        name not in tried and (name in own or tools[name].effect == Effect.WRITE)
        for name in state.planned_tools
        if name in tools and _narrowed(name, state, tools) is not None
    )


def _ready_families(state: State, tools: Mapping[str, Tool]) -> set[str]:
    """Return the families of which a tool can run on what is known: not the table tools without tables."""
    handles = tuple(state.offered)
    return {_family(name) for name, tool in tools.items() if tool.narrow(state.facts, handles) is not None}


def _all_described(state: State) -> bool:
    """Return whether every table file has been described, so that a model need not plan to do it again."""
    files = {path for path in state.facts.get("files", {}) if path.lower().endswith(TABLE_SUFFIXES)}
    return files <= {entry["path"] for entry in state.facts.get("tables", {}).values()}


def _family(name: str) -> str:
    return name.partition(".")[0]


def finish_call(state: State) -> CallSpec:
    """Return the ``finish`` call: a handle that exists, or a bounded text that is none.

    While an input is unread and no call has read or computed anything, the only text is one that begins by
    saying so.
    """
    # one that was not trained here means a result by "$1", also before there is any, and would talk on
    newest = max((int(handle[1:]) for handle in state.offered), default=0)
    opening = "[^$]" if _is_taught(state) else text_opening(newest)
    text = {"type": "string", "pattern": rf"^{opening}(.|\n){{0,{MAX_ANSWER - 1}}}$"}
    description, free = "", True
    unread = list(unread_inputs(state)) if state.started.rules >= 1 else []
    writing = {spec.name for spec in state.tools.values() if spec.effect == Effect.WRITE}
    if unread and not any(one.state == "done" and one.tool not in writing for one in state.outcomes):
        names = "|".join(map(_literal, unread[:MAX_NAMED]))
        text = {"type": "string", "pattern": rf"^I could not read ({names})(.|\n){{0,400}}$"}
        free = False
        description = f'nothing was read, so the answer begins "I could not read {unread[0]}"'
    answer: dict[str, Any] = text
    if state.offered:
        answer = {"anyOf": [{"enum": list(state.offered)}, text]}
    return CallSpec("finish", _object(answer=answer), description, free)


def text_opening(last: int = 0) -> str:
    """Return a regular expression for the beginning of an answer that is no handle; ``last`` is the newest.

    After ``$`` a letter or an amount such as "18,076.57" may come; "$5 off" only where $5 is no result yet,
    or a model that means the result would talk on.
    """
    numbers = [rf"[1-9][0-9]{{{len(str(last))},11}}"]
    if last < 9:
        numbers.append(f"[{last + 1}-9]")
    words = "|".join(rf"\${number} [^\s]" for number in numbers)
    return rf"([^$]|\$[A-Za-z]|\$[0-9]{{1,12}}[.,][0-9]|{words})"  # one level of brackets: plainly bounded


def _literal(text: str) -> str:
    """Return a regular expression for ``text`` that Python and the grammar's engine both read.

    ``re.escape`` is no help: it also escapes blanks, which not every engine accepts.
    """
    return re.sub(r"([\\.^$|?*+()\[\]{}])", r"\\\1", text)


def find_call(state: State) -> CallSpec | None:
    """Return ``find_tools``, as long as tools are hidden and the model may look for them."""
    if not state.hidden_tools or state.searches >= MAX_SEARCHES:
        return None
    query = {"type": "string", "minLength": 1, "maxLength": 120}
    return CallSpec("find_tools", _object(query=query), "find tools that are not shown, by what they do")


def ask_call() -> CallSpec:
    """Return the ``ask`` call."""
    return CallSpec("ask", _object(question={"type": "string", "minLength": 1, "maxLength": 200}))


def memory_calls(state: State) -> tuple[CallSpec, ...]:
    """Return ``remember`` and ``recall``, in runs with a memory, as long as the model may use them."""
    if not state.started.memory:
        return ()
    text = {"type": "string", "minLength": 1, "maxLength": 300}
    calls = []
    if state.remembered < MAX_REMEMBERED:
        calls.append(CallSpec("remember", _object(text=text)))
    if state.recalls < MAX_RECALLS:
        calls.append(CallSpec("recall", _object(query={**text, "maxLength": 120})))
    return tuple(calls)


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
