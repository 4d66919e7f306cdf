"""Input files and folders: found under the names that the user gave, and copied within bounds.

A symbolic link counts as what it points to, under its own name. A folder is copied once however many
links lead to it, so a link to a folder around it ends nowhere. Everything that can go wrong with an
input is looked for before a run is opened (:func:`look`), and raises UsageError.
"""

from __future__ import annotations

import difflib
import os
import shutil
from collections import deque
from collections.abc import Iterator
from pathlib import Path, PurePath

from ...errors import UsageError
from ...text import is_unicode

MAX_FILES = 10_000
"""Files in one input folder."""
MAX_BYTES = 10_000_000_000
"""Their size in all."""


def named(path: Path) -> Path:
    """Return ``path`` as an absolute path without links, except that its last name stays as given."""
    path = path.absolute()
    return path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name


def near_file(path: Path) -> str:
    """Return a file name in the same folder that is nearly ``path``'s, or an empty string."""
    names = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
    return next(iter(difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)), "")


def look(path: Path) -> None:
    """Raise UsageError if what ``path`` leads to cannot be copied: a link to nothing, or too much."""
    _check_name(path)
    if path.is_dir():
        for _ in _files(path):
            pass


def copy(path: Path, target: Path) -> None:
    """Copy a file, or a folder with all its files, to ``target``. Raises UsageError and OSError."""
    if not path.is_dir():
        shutil.copyfile(path, target)
        return
    target.mkdir()
    for name, file in _files(path):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / name)


def _files(folder: Path) -> Iterator[tuple[PurePath, Path]]:
    """Yield (name below ``folder``, file) for all its files.

    Real folders come before linked ones, so that a folder keeps its own name where both lead to it.
    """
    seen: set[tuple[int, int]] = set()
    real, linked, count, size = [(folder, PurePath())], deque[tuple[Path, PurePath]](), 0, 0
    while real or linked:
        here, below = real.pop() if real else linked.popleft()
        try:
            status = here.stat()
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            raise UsageError(f"{here}: cannot be read: {error.strerror}") from error
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            path, name = Path(entry.path), below / entry.name
            _check_name(path)
            if not path.exists():
                raise UsageError(f"{path}: a link to nothing; remove it, or name the files that are needed")
            if path.is_dir():
                (linked if entry.is_symlink() else real).append((path, name))
            elif path.is_file():  # sockets, pipes and devices have no content to copy
                count, size = count + 1, size + path.stat().st_size
                if count > MAX_FILES or size > MAX_BYTES:
                    most = f"{MAX_FILES:,} files or {MAX_BYTES // 10**9} GB"
                    raise UsageError(f"{folder}: more than {most} to copy; name the files that are needed")
                yield name, path


def _check_name(path: Path) -> None:
    """Raise UsageError for a name that no prompt can hold."""
    if not is_unicode(path.name):
        raise UsageError(f"{path.parent / repr(path.name)}: the file's name is not valid UTF-8; rename it")
