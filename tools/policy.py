"""May this call run? Pure functions from a tool, the targets of a call and the goal's grants.

Without grants a goal may read its inputs and write in its own workspace. With grants, a write must
also match one of their ``write`` patterns. Starting programs and using the net need a grant that
names the program or host. What is not granted *asks* (unattended, the driver refuses it); what
leads out of the workspace is refused whatever anybody says. The file system is not touched here,
except by :func:`resolve_grants`; links are refused where files are opened (``paths.py``).
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

from ..errors import ToolError, UsageError
from . import paths
from .base import Effect, Tool

KINDS = ("read", "write", "net", "run")


class GrantsLike(Protocol):
    """Four lists of patterns; a goal's own ``grants`` section has this shape too."""

    @property
    def read(self) -> Sequence[str]: ...
    @property
    def write(self) -> Sequence[str]: ...
    @property
    def net(self) -> Sequence[str]: ...
    @property
    def run(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class Grants:
    """What a run may touch, frozen for its whole life; with any grants given, nothing else is."""

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    """Files or globs inside the goal's folder; a folder covers what is in it."""
    net: tuple[str, ...] = ()
    """Hosts; ``*.example.org`` covers the hosts below it."""
    run: tuple[str, ...] = ()
    """Names of programs."""

    def hash(self) -> str:
        """Return 16 hexadecimal digits that change with any grant."""
        body = {kind: list(getattr(self, kind)) for kind in KINDS}
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


class Verdict(StrEnum):
    """What happens to a call."""

    ALLOW = "allow"
    ASK = "ask"
    """A person may allow it; unattended it is refused."""
    REFUSE = "refuse"
    """Never."""


@dataclass(frozen=True)
class Decision:
    """A verdict with its reason: one clause, for the model and the person."""

    verdict: Verdict
    reason: str = ""

    @property
    def allowed(self) -> bool:
        """Whether the call may run now, without asking."""
        return self.verdict is Verdict.ALLOW


def decide_call(tool: Tool, targets: Iterable[str], grants: GrantsLike | None) -> Decision:
    """Decide about one call of ``tool`` that would change ``targets``; None is the default grants."""
    targets = list(targets)
    match tool.effect:
        case Effect.READ:
            return Decision(Verdict.ALLOW)
        case Effect.WRITE:
            return _decide_write(tool.name, targets, grants)
        case Effect.NET:
            patterns = [] if grants is None else list(grants.net)
            return _decide_named(tool.name, "host", targets, patterns)
        case Effect.RUN:
            patterns = [] if grants is None else list(grants.run)
            return _decide_named(tool.name, "program", targets, patterns)


def _decide_write(name: str, targets: list[str], grants: GrantsLike | None) -> Decision:
    if not targets:
        return Decision(Verdict.ASK, f"{name} does not say what it changes")
    for target in targets:
        try:
            paths.split(target)
        except ToolError as error:
            return Decision(Verdict.REFUSE, str(error))
    if grants is None:
        return Decision(Verdict.ALLOW)
    for target in targets:
        if not any(paths.covers(pattern, target) for pattern in grants.write):
            granted = ", ".join(grants.write) or "nothing"
            return Decision(Verdict.ASK, f"writing {target} is not granted (granted: {granted})")
    return Decision(Verdict.ALLOW)


def _decide_named(name: str, kind: str, targets: list[str], patterns: list[str]) -> Decision:
    """Decide about hosts or programs; a tool that names none needs the grant ``*``."""
    for target in targets or ["*"]:
        if not any(fnmatchcase(target.lower(), pattern.lower()) for pattern in patterns):
            what = f"{kind} {target}" if targets else f"any {kind}"
            granted = ", ".join(patterns) or "nothing"
            return Decision(Verdict.ASK, f"{name} needs {what}, which is not granted (granted: {granted})")
    return Decision(Verdict.ALLOW)


def resolve_grants(given: Mapping[str, Any] | GrantsLike | None, folder: Path) -> Grants | None:
    """Return frozen grants for a goal in ``folder``; None stays None.

    Raises ``UsageError``, naming the field, for an unknown kind, for something that is not a list
    of texts, and for a path that is absolute, holds ``..`` or leaves the folder through a link.
    """
    if given is None:
        return None
    if isinstance(given, Mapping):
        for kind in given:
            if kind not in KINDS:
                near = difflib.get_close_matches(str(kind), KINDS, 1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(KINDS)}"
                raise UsageError(f"grants.{kind}: no such grant; {hint}")
        fields = {kind: given.get(kind, ()) for kind in KINDS}
    else:
        fields = {kind: getattr(given, kind) for kind in KINDS}
    for kind, patterns in fields.items():
        if isinstance(patterns, str) or not all(isinstance(pattern, str) for pattern in patterns):
            raise UsageError(f"grants.{kind}: must be a list of texts")
        if kind in ("read", "write"):
            for pattern in patterns:
                _check_inside(kind, pattern, folder)
    return Grants(**{kind: tuple(patterns) for kind, patterns in fields.items()})


def _check_inside(kind: str, pattern: str, folder: Path) -> None:
    if not pattern.strip():
        raise UsageError(f"grants.{kind}: the path is empty")
    if pattern.startswith(("/", "~")) or ":" in pattern[:3]:
        raise UsageError(f"grants.{kind}: {pattern} is absolute; paths are relative to the goal's folder")
    if ".." in pattern.split("/"):
        raise UsageError(f"grants.{kind}: {pattern} leaves the goal's folder (..)")
    root = folder.resolve()
    if not (root / pattern).resolve().is_relative_to(root):
        raise UsageError(f"grants.{kind}: {pattern} leaves the goal's folder through a symbolic link")
