"""A run's workspace: its own folder with copies of the inputs, or a folder of the user's in place.

Preparing may be killed half way, so a marker beside the workspace says when it is complete, and
until then it is made again from nothing; no tool runs before the marker exists. In place
(``workspace: .``) nothing is copied and nothing is removed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from ...errors import UsageError, UserError
from ...files import replace_file, sync_folder
from ..goals.model import Goal
from .deliver import fingerprints

PREPARED = "prepared"


def workspace_of(goal: Goal, base: Path, run_folder: Path) -> Path:
    """Return where the run works: ``goal.workspace`` under ``base`` in place, or the run's own folder."""
    return run_folder / "workspace" if goal.workspace is None else (base / goal.workspace).resolve()


def prepare(goal: Goal, workspace: Path, run_folder: Path) -> dict[str, str]:
    """Make the workspace ready (nothing to do when it is); the goal's paths are relative to its base.

    Returns the hashes of the prepared files that the goal may write, as they were before the run.

    Raises UsageError for a missing input, two inputs of one name, or an input outside a workspace
    that is used in place; UserError for what cannot be copied (the run can then be resumed).
    """
    marker = run_folder / PREPARED
    if marker.exists():
        if not workspace.is_dir():
            raise UserError(f"{workspace}: the workspace of run {run_folder.name} is gone; it cannot go on")
        hashes: dict[str, str] = json.loads(marker.read_bytes())
        return hashes
    try:
        if goal.workspace is None:
            shutil.rmtree(workspace, ignore_errors=True)
            workspace.mkdir(mode=0o700, parents=True)
            goal.fill_workspace(workspace)
            _sync_tree(workspace)
        else:
            _fill_in_place(goal, workspace)
        hashes = fingerprints(workspace, goal.grants.write if goal.grants else [])
        replace_file(marker, json.dumps(hashes).encode())
    except OSError as error:
        raise UserError(
            f"{workspace}: cannot prepare the run's files ({_reason(error)}); "
            f"put that right and run 'autogpt resume {run_folder.name}'"
        ) from error
    return hashes


def add_inputs(workspace: Path, inputs: Sequence[Path]) -> list[str]:
    """Copy further inputs (of a message in a conversation) into ``workspace``; return their names.

    A file that is there already with the same content is left. Raises UsageError for a missing
    one, or for a name that the workspace has with other content.
    """
    names = []
    for path in inputs:
        target = workspace / path.name
        if not path.is_file():
            raise UsageError(f"{path}: no such file")
        data = path.read_bytes()
        if not target.exists():
            replace_file(target, data)
        elif not target.is_file() or target.read_bytes() != data:
            raise UsageError(f"{path}: the conversation already has another {path.name}; rename one")
        names.append(path.name)
    return names


def _reason(error: OSError) -> str:
    """Return what went wrong with which file; copying a folder collects several errors in one."""
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):
        source, _, why = error.args[0][0]
        return f"{source}: {re.sub(r'^.Errno .*?. ', '', why).partition(':')[0]}"
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)


def _fill_in_place(goal: Goal, workspace: Path) -> None:
    if not workspace.is_dir():
        raise UsageError(f"{workspace}: the goal's workspace is not a folder")
    for path in goal.input_paths():
        if not path.is_relative_to(workspace):
            raise UsageError(f"{path}: lies outside the workspace {workspace}, which is used in place")
    for name, content in goal.files.items():
        target = workspace / name
        data = content.encode()
        if target.exists() and target.read_bytes() != data:
            raise UsageError(f"{target}: exists already; the goal's `files` would replace it")
        replace_file(target, data, mode=0o644)


def _sync_tree(folder: Path) -> None:
    """Make the copies durable before the marker says that they are."""
    for root, _, names in os.walk(folder):
        for name in names:
            handle = os.open(os.path.join(root, name), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        sync_folder(Path(root))
