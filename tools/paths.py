"""Paths inside a workspace: every open, write and move of the file tools goes through here.

A path given by a model is untrusted. It is split into names, refused when it is absolute or holds
``..``, and walked name by name with ``openat`` and ``O_NOFOLLOW``: what was checked is what is
opened, so swapping a folder for a link in between gains nothing, and no link is followed, wherever
it leads. Writes go to a temporary file next to the target, are synced, and renamed. The workspace's
own root is trusted. Not covered: hard links that someone else put into the workspace, and a
process of the same user that renames folders under an open descriptor.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from ..errors import ToolError
from ..text import is_unicode

TEMPORARY = ".autogpt-tmp-"
MAX_FILES = 5000
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def split(path: str) -> tuple[str, ...]:
    """Return the names of a relative ``path``; raise ``ToolError`` for one that could lead out."""
    if path.startswith(("/", "~")) or re.match(r"[A-Za-z]:[\\/]", path):
        raise ToolError(f"{path} is outside the workspace: use a path relative to it, such as notes.txt")
    names = tuple(name for name in path.split("/") if name not in ("", "."))
    if ".." in names:
        raise ToolError(f"{path} is outside the workspace: .. is not allowed")
    if not names or "\0" in path:
        raise ToolError(f"{path!r} is not a file name")
    return names


def normal(path: str) -> str:
    """Return ``path`` in the one form that facts, previews and grants use (``a/b.txt``)."""
    return "/".join(split(path))


@contextmanager
def _parent(workspace: Path, path: str, create: bool = False) -> Iterator[tuple[int, str]]:
    """Open the folder that holds ``path``; yield its descriptor and the last name."""
    names = split(path)
    here = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names[:-1]:
            if create:
                _make_folder(here, name, path)
            try:
                below = os.open(name, _FOLDER, dir_fd=here)
            except OSError as error:
                raise _explain(error, here, name, path) from None
            os.close(here)
            here = below
        yield here, names[-1]
    finally:
        os.close(here)


def _make_folder(here: int, name: str, path: str) -> None:
    try:
        os.mkdir(name, dir_fd=here)
    except FileExistsError:
        return
    except OSError as error:
        raise ToolError(f"cannot write {path}: {os.strerror(error.errno or 0)}") from None
    os.fsync(here)


def _explain(error: OSError, here: int, name: str, path: str) -> ToolError:
    """Return the one line a reader needs for a failed open."""
    if error.errno == errno.ENOENT:
        return ToolError(f"there is no file {path}")
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        try:
            linked = stat.S_ISLNK(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode)
        except OSError:
            linked = False
        if linked:
            return ToolError(f"{path} goes through a link, and links are not followed")
        return ToolError(f"there is no file {path}: {name} is not a folder")
    return ToolError(f"cannot open {path}: {os.strerror(error.errno or 0)}")


def read_bytes(workspace: Path, path: str, limit: int) -> bytes:
    """Return the content of a regular file of at most ``limit`` bytes."""
    with _parent(workspace, path) as (here, name):
        try:
            descriptor = os.open(
                name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=here
            )
        except OSError as error:
            raise _explain(error, here, name, path) from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise ToolError(f"{path} is {'a folder' if stat.S_ISDIR(status.st_mode) else 'not a regular file'}")
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > limit:
            raise ToolError(f"{path} is too large to read ({size_text(status.st_size)})")
        return file.read(limit + 1)[:limit]


def status_of(workspace: Path, path: str) -> os.stat_result | None:
    """Return the status of ``path`` itself (a link is not followed), or None if nothing is there."""
    try:
        with _parent(workspace, path) as (here, name):
            return os.stat(name, dir_fd=here, follow_symlinks=False)
    except (FileNotFoundError, ToolError):
        return None


def write_bytes(workspace: Path, path: str, data: bytes) -> None:
    """Put ``data`` at ``path`` atomically and durably, creating folders; keep an old file's mode."""
    with _parent(workspace, path, create=True) as (here, name):
        mode = 0o644
        try:
            old = os.stat(name, dir_fd=here, follow_symlinks=False)
        except FileNotFoundError:
            pass
        else:
            if not stat.S_ISREG(old.st_mode):
                kind = "a folder" if stat.S_ISDIR(old.st_mode) else "a link or a device"
                raise ToolError(f"cannot write {path}: it is {kind}")
            mode = stat.S_IMODE(old.st_mode)
        temporary = TEMPORARY + secrets.token_hex(6)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(temporary, flags, mode, dir_fd=here), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, name, src_dir_fd=here, dst_dir_fd=here)
            os.fsync(here)
        except OSError as error:
            _discard(here, temporary)
            raise ToolError(f"cannot write {path}: {os.strerror(error.errno or 0)}") from None


def _discard(here: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=here)
    except FileNotFoundError:
        return


def move(workspace: Path, source: str, target: str) -> None:
    """Give the file ``source`` the name ``target``; never replaces anything.

    Link, then unlink: a crash in between leaves both names on one file, which
    :func:`finish_move` recognises.
    """
    with _parent(workspace, source) as (old_folder, old):
        try:
            status = os.stat(old, dir_fd=old_folder, follow_symlinks=False)
        except FileNotFoundError:
            raise ToolError(f"there is no file {source}") from None
        if not stat.S_ISREG(status.st_mode):
            raise ToolError(f"{source} is not a regular file")
        with _parent(workspace, target, create=True) as (new_folder, new):
            try:
                os.link(old, new, src_dir_fd=old_folder, dst_dir_fd=new_folder, follow_symlinks=False)
            except FileExistsError:
                raise ToolError(f"{target} already exists; choose another name") from None
            except OSError as error:
                reason = os.strerror(error.errno or 0)
                raise ToolError(f"cannot move {source} to {target}: {reason}") from None
            os.fsync(new_folder)
            os.unlink(old, dir_fd=old_folder)
            os.fsync(old_folder)


def finish_move(workspace: Path, source: str, target: str) -> bool:
    """Return whether an interrupted :func:`move` has happened, completing its second half if needed."""
    there = status_of(workspace, target)
    if there is None or not stat.S_ISREG(there.st_mode):
        return False
    left = status_of(workspace, source)
    if left is None:
        return True
    if (left.st_dev, left.st_ino) != (there.st_dev, there.st_ino) or normal(source) == normal(target):
        return False
    with _parent(workspace, source) as (here, name):
        os.unlink(name, dir_fd=here)
        os.fsync(here)
    return True


def walk(workspace: Path) -> list[tuple[str, int]]:
    """Return (path, bytes) of the regular files, sorted; hidden names and links are left out.

    So are names that are not valid UTF-8: no prompt can show them and no call can name them. Stops at
    ``MAX_FILES`` so that a huge folder opened in place cannot hang a run.
    """
    found: list[tuple[str, int]] = []
    for folder, folders, files, descriptor in os.fwalk(workspace, follow_symlinks=False):
        folders[:] = sorted(name for name in folders if _is_shown(name))
        base = os.path.relpath(folder, workspace)
        for name in sorted(files):
            if not _is_shown(name):
                continue
            try:
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode):
                found.append((name if base == "." else f"{base}/{name}", status.st_size))
        if len(found) >= MAX_FILES:
            break
    return sorted(found[:MAX_FILES])


def _is_shown(name: str) -> bool:
    return not name.startswith(".") and is_unicode(name)


def like(path: str, pattern: str) -> bool:
    """Match leniently, as a person types: ``*.csv`` finds files in any folder; case is ignored."""
    pattern = pattern.strip().removeprefix("./").lower()
    path = path.lower()
    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path.rsplit("/", 1)[-1], pattern)


@lru_cache(maxsize=512)
def _strict(pattern: str) -> re.Pattern[str]:
    out = ""
    for piece in re.split(r"(\*\*/?|\*|\?)", pattern):
        special = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(piece)
        out += re.escape(piece) if special is None else special
    return re.compile(out + "(?:/.*)?", re.DOTALL)


def covers(pattern: str, path: str) -> bool:
    """Match strictly, for grants: ``*`` stays in one folder, ``**`` does not, a folder covers its files."""
    pattern = "/".join(name for name in pattern.split("/") if name not in ("", "."))
    return not pattern or _strict(pattern).fullmatch(normal(path)) is not None


def size_text(size: int) -> str:
    """Return ``120 B``, ``2 KB``, ``1.5 MB``: at most three digits, units of 1000."""
    if size < 1000:
        return f"{size} B"
    amount = float(size)
    for unit in ("KB", "MB", "GB"):
        amount /= 1000
        if amount < 999.5 or unit == "GB":
            number = f"{amount:.1f}".removesuffix(".0") if amount < 9.95 else f"{amount:.0f}"
            return f"{number} {unit}"
    return f"{size} B"
