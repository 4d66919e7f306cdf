"""May this call run? Pure functions from a tool, the targets of a call and the goal's grants.

Without grants a goal may read its inputs and write in its own workspace. With grants, a write must
also match one of their ``write`` patterns. What a call takes away (the old name of a move) needs the same
grant in a folder that is used in place, and none in a run's own copies. Starting programs and using the
net need a grant that names the program or host. What is not granted *asks* (unattended, the driver
refuses it); what leads out of the workspace is refused whatever anybody says. The file system is not
touched here: links are refused where files are opened (``paths.py``). ``read`` grants have no say yet,
because a workspace holds copies of what the goal named.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Protocol

from ..errors import ToolError
from . import paths
from .base import Effect, Tool


class Granted(Protocol):
    """Lists of patterns; the ``grants`` section of a goal has this shape."""

    @property
    def write(self) -> Sequence[str]:
        """Files or globs; ``*`` stays in one folder, ``**`` does not, a folder covers its files."""
        ...

    @property
    def net(self) -> Sequence[str]:
        """Hosts; ``*.example.org`` covers the hosts below it."""
        ...

    @property
    def run(self) -> Sequence[str]:
        """Names of programs."""
        ...


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


def decide_call(tool: Tool, targets: Iterable[str], grants: Granted | None) -> Decision:
    """Decide about one call of ``tool`` that would write or remove ``targets``; None: the default grants."""
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


def _decide_write(name: str, targets: list[str], grants: Granted | None) -> Decision:
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
