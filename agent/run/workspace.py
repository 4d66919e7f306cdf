"""A run's workspace and delivery from it: copies of the inputs, or a folder of the user's in place.

**Before**: the run's own folder gets copies of the inputs; in place (``workspace: .``) nothing is copied.
Preparing may be killed half way, so a marker next to the workspace says when it is complete, and until
then it is made again from nothing; no tool runs before the marker exists.

**After**: what the run may write for the user goes to the goal's folder. Each file is written next to its
destination, synced and renamed, so a reader sees the old file or the new one. A destination that changed
since the run started is never overwritten: the result is put next to it under a name of the run. Doing it
again after a crash changes nothing and reports the same. Not covered: a change by someone else in the
instant between the last look and the rename.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import UsageError, UserError
from ...files import replace_file, sync_folder, temporary
from ...tools import paths
from ..goals.model import Goal
from ..record.state import input_names

PREPARED = "prepared"
MAX_FILES = 1000
"""A write grant that matches more files than this is not worth hashing; it is refused."""

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
        reason = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        raise UserError(
            f"{workspace}: cannot prepare the run's files ({reason}); "
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


def _fill_in_place(goal: Goal, workspace: Path) -> None:
    if not workspace.is_dir():
        raise UsageError(f"{workspace}: the goal's workspace is not a folder")
    for path in goal.input_paths():
        if not path.resolve().is_relative_to(workspace):
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


def matching(folder: Path, patterns: Sequence[str]) -> list[str]:
    """Return the files under ``folder`` that ``patterns`` cover, as sorted relative paths."""
    if not patterns or not folder.is_dir():
        return []
    found = {paths.normal(name) for name in patterns if _is_name(name) and _is_plain(folder / name)}
    if not all(_is_name(name) and (name in found or not (folder / name).exists()) for name in patterns):
        found |= {name for name in _walk(folder) if any(paths.covers(pattern, name) for pattern in patterns)}
    if len(found) > MAX_FILES:
        raise UserError(f"{folder}: the write grants cover over {MAX_FILES} files; name fewer")
    return sorted(found)


def fingerprints(folder: Path, patterns: Sequence[str]) -> dict[str, str]:
    """Return the hash of each existing file that the run may deliver to, by relative path."""
    return {name: _hash(folder / name) for name in matching(folder, patterns)}


def deliver(
    workspace: Path,
    folder: Path,
    patterns: Sequence[str],
    before: Mapping[str, str],
    prepared: Mapping[str, str],
    run: str,
) -> list[str]:
    """Deliver from ``workspace`` to ``folder``; return the paths written, relative to ``folder``.

    ``before`` are the :func:`fingerprints` of ``folder`` at the start, ``prepared`` those of the
    workspace: inputs that the run left as they were are not delivered. A file whose destination
    has other content than then is delivered as ``name.autogpt-<run>.ext`` (the returned name shows
    it). In place, the files that changed are there already. Raises UserError when the folder cannot be
    written.
    """
    if workspace.resolve() == folder.resolve():
        return [name for name in matching(folder, patterns) if _hash(folder / name) != before.get(name)]
    delivered = []
    for name in matching(workspace, patterns):
        data = (workspace / name).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if digest in (before.get(name), prepared.get(name)):
            continue
        target = folder / name
        if _leaves(folder, target):
            raise UserError(f"{target}: a link leads out of {folder}; the result stays in {workspace}")
        now = _hash(target) if _is_plain(target) else ("" if not os.path.lexists(target) else "not a file")
        if now not in (before.get(name, ""), digest):
            temporary(target, run).unlink(missing_ok=True)  # of an attempt that a crash cut short
            target = beside(target, run)
            now = _hash(target) if _is_plain(target) else ""
        if now != digest:
            _write(target, data, run)
        delivered.append(target.relative_to(folder).as_posix())
    return delivered


def undelivered(
    goal: Mapping[str, Any], files: Mapping[str, Any], delivered: Iterable[str], finished: bool = True
) -> list[str]:
    """Return one line for each file that a run changed in its own copies alone.

    ``goal`` is the goal as it was recorded, ``files`` what the run's writes and moves say of files (None:
    moved away), ``delivered`` the names whose content reached the goal's folder. Only a run that ``finished``
    delivers; it leaves out what is the same as before.
    """
    if goal.get("workspace") is not None:
        return []
    lines, there = [], set(delivered)
    granted = (goal.get("grants") or {}).get("write") or []
    for name, fact in files.items():
        if fact is not None and name not in there:
            if any(paths.covers(pattern, name) for pattern in granted):
                as_before, cut = "was written as it was before", "was not delivered: the run did not finish"
                lines.append(f"{name} {as_before if finished else cut}")
                continue
            lines.append(f"{name} is in the run's own workspace only; --write {name} delivers it")
        elif fact is None and name in input_names(dict(goal)):
            lines.append(f"{name} itself was not moved or renamed, only the run's copy of it")
    return lines


def beside(target: Path, run: str) -> Path:
    """Return the name used when ``target`` has changed: ``late.autogpt-<run>.txt``."""
    return target.with_name(f"{target.stem}.autogpt-{run}{target.suffix}")


def original(name: str, run: str) -> str | None:
    """Return the file whose name was taken, for a ``name`` made by :func:`beside`; None for any other."""
    mark = f".autogpt-{run}"
    return name.replace(mark, "") if mark in name else None


def _write(target: Path, data: bytes, run: str) -> None:
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o644
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, data, mode=mode, tag=run)
    except OSError as error:
        raise UserError(f"{target}: cannot deliver: {error.strerror}; free it and resume the run") from error


def _is_name(pattern: str) -> bool:
    return not any(mark in pattern for mark in "*?[") and pattern.strip("./") != ""


def _leaves(folder: Path, target: Path) -> bool:
    return not target.parent.resolve().is_relative_to(folder.resolve())


def _walk(folder: Path) -> list[str]:
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [(Path(root) / name).relative_to(folder).as_posix() for name in names]
    return [name for name in found if _is_plain(folder / name)]


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
