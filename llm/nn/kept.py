"""Small measurements kept in JSON files between processes: what the probe timed, what a gate measured.

A file that is missing, damaged or cannot be written only costs measuring again.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any


def read_kept(path: Path | None) -> dict[str, Any]:
    """Return the file's object; empty where there is none that can be read."""
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_kept(path: Path | None, found: dict[str, Any]) -> None:
    """Write the object, making the folder where it is missing; does nothing without a path."""
    if path is None:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1), "utf-8")
