"""Scripted models in files."""

from __future__ import annotations

import json
from pathlib import Path


def script(file: Path, *turns: object) -> str:
    """Write what a scripted model says and return its name for ``--model``."""
    file.write_text(json.dumps(turns))
    return f"scripted:{file}"
