"""Delivery: what a run may write for the user goes to the goal's folder when the run ends.

Each file is written beside its destination, synced and renamed, so a reader sees the old file or the
new one. A destination that changed since the run started is never overwritten: the result is put
beside it under a name of the run. Doing it again after a crash changes nothing and reports the
same. Not covered: a change by someone else in the instant between the last look and the rename.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import UserError
from ...files import replace_file, temporary
from ...tools import paths

MAX_FILES = 1000
"""A write grant that matches more files than this is not worth hashing; it is refused."""


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
    it). Raises UserError when the folder cannot be written.
    """
    if workspace.resolve() == folder.resolve():
        return []
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


def beside(target: Path, run: str) -> Path:
    """Return the name used when ``target`` changed meanwhile: ``late.autogpt-<run>.txt``."""
    return target.with_name(f"{target.stem}.autogpt-{run}{target.suffix}")


def original(name: str, run: str) -> str | None:
    """Return the file that ``name`` was put beside by :func:`deliver`; None for a plain delivery."""
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
