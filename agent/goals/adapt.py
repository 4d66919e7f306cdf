"""A goal with what the command line or calling code adds: inputs, a folder to work in, files to deliver.

Paths that are added are relative to the current folder, those of a goal file to the file's folder; so
what is added becomes absolute. The result is validated like any goal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from ...errors import UsageError
from .load import Goal


def adapt(
    goal: Goal | str,
    inputs: Sequence[str | Path] = (),
    workspace: str | Path | None = None,
    write: Sequence[str] = (),
) -> Goal:
    """Return ``goal`` (or a goal of this text) with additions.

    ``workspace`` is worked in as it is, instead of a fresh copy; ``write`` are files, relative to the
    goal's folder (or ``workspace``), that are delivered there. Raises UsageError.
    """
    try:
        goal = Goal(goal=goal) if isinstance(goal, str) else goal
        if not (inputs or workspace or write):
            return goal
        body = goal.model_dump(mode="json", by_alias=True)
        body["inputs"] = [*goal.inputs, *(str(Path(item).expanduser().absolute()) for item in inputs)]
        base = goal.base
        if workspace is not None:
            base, body["workspace"] = Path(workspace).expanduser().resolve(), "."
            if not base.is_dir():
                raise UsageError(f"{workspace}: no such folder to work in")
        if write:
            grants = body.get("grants") or {"read": ["."]}
            body["grants"] = {**grants, "write": [*grants.get("write", []), *write]}
        changed = Goal.model_validate(body)
        for name in write:
            if not (base / name).resolve().is_relative_to(base.resolve()):
                raise UsageError(f"--write: `{name}` leaves {base.resolve()} through a symbolic link")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        where = "--write" if write and where.startswith("grants.write") else where
        message = str(first["msg"]).removeprefix("Value error, ")
        raise UsageError(f"{where}: {message}" if where else message) from error
    changed._base, changed._origin = base, goal.origin
    return changed
