"""What a tool is. Built-ins, plugins and a caller's own functions keep this one contract.

A tool has a name, one line of description, a JSON schema for its arguments, an effect and a
replay class, and a body ``run(args, ctx) -> ToolResult``. It may also *narrow* its schema to what
the run knows (:meth:`Tool.narrow`): table and column names, paths that exist. What narrowing reads
are **facts**, a small JSON state that tool results add to and the journal records, so that the
loop stays a pure function of its events. Tools know nothing of models or journals.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from ..labels import Label

Facts = dict[str, dict[str, Any]]
"""family -> key -> JSON value, e.g. ``{"files": {"a.txt": {"bytes": 12}}, "tables": {...}}``."""


class Effect(StrEnum):
    """What a call does to the world; grants are given per effect."""

    READ = "read"
    WRITE = "write"
    RUN = "run"
    NET = "net"


class Replay(StrEnum):
    """What may happen to a call when a crash lost its outcome."""

    PURE = "pure"
    """Runs again: it only reads or computes."""
    IDEMPOTENT = "idempotent"
    """Verified first (``Tool.verify``), run again only if it did not happen."""
    OPAQUE = "opaque"
    """Never repeated; reported as uncertain."""


@dataclass(frozen=True)
class ToolResult:
    """What a call gave back."""

    value: Any
    """The exact JSON-able value; a handle such as ``$2`` refers to it."""
    preview: str
    """What the model and the person see: bounded, written for a small reader."""
    facts: Facts = field(default_factory=dict)
    """Changes to the run's facts; a None value removes its key."""
    label: Label = Label.UNTRUSTED


@dataclass
class ToolContext:
    """What a body may use: its run's workspace, the facts so far, and a per-run cache.

    ``cache`` holds live objects (an open database) that can be made again from facts and files
    after a crash; nothing that matters may live only there.
    """

    workspace: Path
    goal: str = ""
    facts: Facts = field(default_factory=dict)
    writable: tuple[str, ...] = ("**",)
    """Glob patterns, relative to the workspace, of paths that may be written."""
    cache: dict[str, Any] = field(default_factory=dict)


class Tool(ABC):
    """Base of all tools. Subclasses set the class fields and write :meth:`run`."""

    name: str
    """Dotted lower case, ``family.verb``; unique in a registry."""
    description: str
    """One line, for the model."""
    parameters: Mapping[str, Any]
    """JSON schema of the arguments. Every string, array and number is bounded."""
    effect: Effect = Effect.READ
    replay: Replay = Replay.PURE
    expands: tuple[str, ...] = ()
    """Arguments in which a bare ``$2`` inside a longer string is written out as a number."""

    @abstractmethod
    def run(self, args: Mapping[str, Any], ctx: ToolContext) -> ToolResult:
        """Do the work. Raise :class:`~autogpt.errors.ToolError` for what the model should read."""

    def narrow(self, facts: Facts, handles: tuple[str, ...]) -> Mapping[str, Any] | None:
        """Return the schema narrowed to ``facts``, or None when the call makes no sense now.

        Must be pure: the same facts give the same schema, in this process or the next.
        """
        return self.parameters

    def verify(self, args: Mapping[str, Any], ctx: ToolContext) -> ToolResult | None:
        """For idempotent tools: the result if the effect has already happened, else None."""
        return None

    def targets(self, args: Mapping[str, Any]) -> list[str]:
        """Paths that the call would write (or hosts, programs); the policy checks them against grants."""
        return []

    def removes(self, args: Mapping[str, Any]) -> list[str]:
        """Paths that would be gone after the call. In a run's own copies that needs no grant."""
        return []


def merge_facts(facts: Facts, change: Facts) -> Facts:
    """Return ``facts`` with ``change`` applied; neither argument is modified."""
    merged = {family: dict(entries) for family, entries in facts.items()}
    for family, entries in change.items():
        target = merged.setdefault(family, {})
        for key, value in entries.items():
            if value is None:
                target.pop(key, None)
            else:
                target[key] = value
    return merged
