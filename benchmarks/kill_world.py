"""The actors of ``prove_kills.py``: the switch that kills, watched journals, and effects outside.

A process counts the instants it passes (commits, file operations, effects) and kills itself with
SIGKILL at the one it was told; nothing after that instant runs, not even a ``finally``. The two tools
have their effects in files that only grow, outside the home and the workspace, where the observer
reads them. ``Careless`` is the control: a runner that repeats lost calls.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autogpt.agent.record.events import ToolIntent, ToolOutcome, dump_event
from autogpt.agent.record.journal import DatabaseJournal
from autogpt.agent.record.store import RunStore
from autogpt.agent.run.loop import Act
from autogpt.agent.run.runner import LiveSession, Runner
from autogpt.tools.base import Effect, Replay, Tool, ToolContext, ToolResult

WATCHED = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.copyfile", "fcntl.flock")
TEXT = {"type": "string", "maxLength": 40}


@dataclass(frozen=True)
class Kill:
    """Where a process dies: at the ``at``-th instant of a kind.

    Kinds: before or after (a commit; ``before tool.outcome`` counts those of one type), effect (just
    before or after one outside), file (before a file operation), or time (``at`` in milliseconds).
    """

    kind: str
    at: float

    def __str__(self) -> str:
        return f"{self.kind} {self.at:g}"


@dataclass
class Switch:
    """Counts what happens in a working process and kills it when its instant has come."""

    kill: Kill | None
    report: int
    """A pipe to the observer; each committed event is told there."""
    counts: Counter[str] = field(default_factory=Counter)

    def reach(self, kind: str) -> None:
        """Count one instant of ``kind``; die if it is the one."""
        self.counts[kind] += 1
        if self.kill and self.kill.kind == kind and self.counts[kind] == self.kill.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def tell(self, what: str) -> None:
        """Tell the observer."""
        os.write(self.report, (what + "\n").encode())


def watch(switch: Switch) -> None:
    """Make each file operation of this process an instant, from now on."""
    sys.addaudithook(lambda name, _: switch.reach("file") if name in WATCHED else None)


class WatchedJournal:
    """A journal that reaches an instant before and after each commit, and tells of each commit."""

    def __init__(self, inner: DatabaseJournal, switch: Switch) -> None:
        self._inner, self._switch = inner, switch

    def append(self, event: Any) -> Any:
        """Commit between two instants."""
        kind = dump_event(event)["type"]
        self._switch.reach("before")
        self._switch.reach(f"before {kind}")
        kept = self._inner.append(event)
        self._switch.tell(f"event {len(self._inner.events) - 1} {kind}")
        self._switch.reach("after")
        self._switch.reach(f"after {kind}")
        return kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class WatchedStore(RunStore):
    """A store whose journals are watched."""

    switch: Switch

    def create(self, *args: Any, **kwargs: Any) -> Any:
        """Create a run between two instants."""
        self.switch.reach("before")
        journal = super().create(*args, **kwargs)
        self.switch.tell("event 0 run.started")
        self.switch.reach("after")
        return WatchedJournal(journal, self.switch)

    def open(self, run: str) -> Any:
        """Open a run, watched."""
        return WatchedJournal(super().open(run), self.switch)


class Post(Tool):
    """Appends to a log that only grows: after a crash nobody can say whether a line is from this call."""

    name = "post"
    description = "Post a text."
    parameters: Mapping[str, Any] = {"type": "object", "properties": {"text": TEXT}, "required": ["text"]}
    replay = Replay.OPAQUE

    def __init__(self, log: Path, switch: Switch) -> None:
        self._log, self._switch = log, switch

    def run(self, args: Mapping[str, Any], ctx: ToolContext) -> ToolResult:
        """Append one line, in one write."""
        self._switch.reach("effect")
        append_line(self._log, str(args["text"]))
        self._switch.reach("effect")
        return ToolResult("posted", "posted")


class Pay(Tool):
    """Pays into a ledger under a key: whether a payment stands can be looked up."""

    name = "ledger.pay"
    description = "Pay an amount."
    parameters: Mapping[str, Any] = {
        "type": "object",
        "properties": {"key": TEXT, "amount": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["key", "amount"],
    }
    effect = Effect.READ  # outside the workspace's grants; what matters here is the replay class
    replay = Replay.IDEMPOTENT

    def __init__(self, ledger: Path, switch: Switch) -> None:
        self._ledger, self._switch = ledger, switch

    def run(self, args: Mapping[str, Any], ctx: ToolContext) -> ToolResult:
        """Append one payment."""
        self._switch.reach("effect")
        append_line(self._ledger, str(args["key"]))
        self._switch.reach("effect")
        return ToolResult(args["amount"], f"paid {args['amount']}")

    def verify(self, args: Mapping[str, Any], ctx: ToolContext) -> ToolResult | None:
        """Look the key up."""
        stands = str(args["key"]) in lines(self._ledger)
        return ToolResult(args["amount"], f"paid {args['amount']}") if stands else None


class CarelessSession(LiveSession):
    """Repeats every lost call, as a plain checkpoint would."""

    def recovered(self, act: Act, lost: ToolIntent) -> ToolOutcome:
        """Run it again."""
        return self.bench.perform(act, self.events)


class Careless(Runner):
    """The control."""

    session = CarelessSession


def append_line(path: Path, line: str) -> None:
    """Append a line in one write, as a remote log would take it."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(handle, (line + "\n").encode())
    os.close(handle)


def lines(path: Path) -> list[str]:
    """Return the lines of a file; none when it is missing."""
    return path.read_text().splitlines() if path.exists() else []
