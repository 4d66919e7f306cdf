"""Files that are either the old one or the new one, whatever happens between.

A temporary file beside the target, fsync, rename: a crash leaves no half-written file. Limits: a rename
is atomic on one file system only, and two writers at one path need different ``tag``s.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any


def replace_file(path: Path, data: bytes | str, *, mode: int = 0o600, tag: str = "autogpt") -> None:
    """Replace the whole file at ``path`` atomically and durably; text is written as UTF-8.

    Missing parent folders are made (mode 0700). The temporary file has a fixed name for a ``tag``, so
    that doing it again after a crash leaves no litter. Raises OSError, with the old file untouched.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = temporary(path, tag)
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    sync_folder(path.parent)


def temporary(path: Path, tag: str = "autogpt") -> Path:
    """Return the name beside ``path`` that :func:`replace_file` writes to first."""
    return path.with_name(f".{path.name}.{tag}.part")


def sync_folder(folder: Path) -> None:
    """Make names in ``folder`` durable (a rename is only safe after this)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of the file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty if it is missing, unreadable or something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
