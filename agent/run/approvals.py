"""What a run may do: by its goal's grants, and by what a person allowed.

A person allows a call once, for this run (both in its events), or always in a folder.

"Always" is kept in a small JSON file in the home. Only a person's answer adds to it; models and goal
files cannot. A lock keeps two processes from losing each other's answers.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import UsageError, UserError
from ...files import replace_file
from ...tools.base import Tool
from ...tools.policy import Decision, decide_call
from ..goals.model import Goal, Grants
from ..record.events import Event, PersonAnswered, PersonAsked, RunEnded
from ..record.state import State
from ..record.store import RunStore
from .loop import Act

DECISIONS = ("once", "run", "always", "no")


class Approvals:
    """Allowed tools by folder, kept in ``<home>/approvals.json``."""

    def __init__(self, home: Path) -> None:
        self.path = home / "approvals.json"

    def allows(self, folder: str, tool: str) -> bool:
        """Return whether ``tool`` was always allowed in ``folder`` (exactly this one)."""
        return tool in self._read().get(folder, [])

    def add(self, folder: str, tool: str) -> None:
        """Allow ``tool`` in ``folder`` from now on."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = self._read()
            known[folder] = sorted({*known.get(folder, []), tool})
            replace_file(self.path, json.dumps(known, indent=1).encode())
        finally:
            os.close(lock)

    def _read(self) -> dict[str, list[str]]:
        try:
            known: dict[str, list[str]] = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise UserError(f"{self.path}: not valid JSON; correct it or remove it") from error
        return known


def decide_for(goal: Goal, tool: Tool, arguments: Mapping[str, Any]) -> Decision:
    """Decide by the grants of ``goal`` whether a call may run; ``arguments`` without handles.

    Without grants a goal may write in its own copies, but not in a folder that is used in place. There the
    old name of a file that is moved must be granted too. Raises ToolError for targets that make no sense.
    """
    in_place = goal.workspace is not None
    targets = [*tool.targets(arguments), *(tool.removes(arguments) if in_place else [])]
    return decide_call(tool, targets, goal.grants or (Grants() if in_place else None))


def approval_of(act: Act, events: Sequence[Event]) -> PersonAnswered | None:
    """Return the answer that settles ``act``: one about this very call, or one for the whole run.

    A "no" counts for its own call alone.
    """
    asked: dict[str | None, str | None] = {}
    seen: list[Event] = []
    settled = None
    for event in events:
        seen.append(event)
        if isinstance(event, PersonAsked) and event.kind == "approval":
            asked[event.call_id] = tool_asked(seen, event)
        elif isinstance(event, PersonAnswered) and event.decision is not None:
            if event.call_id == act.call_id:
                return event
            if event.decision in ("run", "always") and asked.get(event.call_id) == act.tool:
                settled = event
    return settled


def settled(events: Sequence[Event], answer: PersonAnswered, approvals: Approvals) -> PersonAnswered:
    """Return ``answer`` as the event that settles what the run waits for; an "always" is kept too.

    Raises UsageError when the run waits for nothing, for an approval and gets no decision, or for an
    answer and gets an empty one.
    """
    state = State.of(events)
    asked = state.waiting
    if asked is None:
        raise UsageError(f"run {state.started.run} waits for no answer")
    run = state.started.run
    if asked.kind == "question":
        if not answer.text.strip():
            raise UsageError(f"run {run} asks: {asked.text} (answer: autogpt approve {run} 'ANSWER')")
        return answer.model_copy(update={"call_id": asked.call_id, "decision": None})
    if answer.decision not in DECISIONS:
        said = f", not {answer.decision!r}" if answer.decision else ""
        raise UsageError(f"run {run} waits for an approval: {', '.join(DECISIONS)}{said}")
    tool = tool_asked(events, asked)
    if answer.decision == "always" and tool:
        approvals.add(state.started.folder, tool)
    return answer.model_copy(update={"call_id": asked.call_id})


def approve(store: RunStore, run: str, answer: PersonAnswered) -> None:
    """Answer a parked run (by its exact id) without continuing it; ``resume`` then goes on.

    Raises UsageError for a run that has ended or waits for nothing.
    """
    with store.open(run) as journal:
        if any(isinstance(event, RunEnded) for event in journal.events):
            raise UsageError(f"run {run} has ended and waits for no answer; run its goal again")
        journal.append(settled(journal.events, answer, Approvals(store.home)))


def tool_asked(events: Sequence[Event], asked: PersonAsked) -> str | None:
    """Return the tool of the call that an approval is about, while it is being asked."""
    pending = State.of(events).pending
    return pending[1] if pending and pending[0] == asked.call_id else None


def approval_text(act: Act, reason: str) -> str:
    """Return the question for a person: the call, with long values cut, and why it needs them."""
    arguments = ", ".join(f"{name}={str(value)[:200]!r}" for name, value in act.arguments.items())
    return f"allow {act.tool}({arguments})? {reason}"
