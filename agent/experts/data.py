"""Reading the data folder (``AUTOGPT_DATA``): JSON lines, packed with Zstandard."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ...settings import load


def read_records(name: str) -> Iterator[dict[str, Any]]:
    """Yield the records of ``<AUTOGPT_DATA>/<name>.jsonl.zst``. A missing folder is a UsageError."""
    import zstandard

    folder = load().data
    if folder is None:
        raise UsageError("no data folder: set AUTOGPT_DATA to the folder that holds the .jsonl.zst files")
    path = Path(folder) / f"{name}.jsonl.zst"
    if not path.is_file():
        raise UsageError(f"{path}: no such data file (AUTOGPT_DATA={folder})")
    with path.open("rb") as packed:
        stream = zstandard.ZstdDecompressor().stream_reader(packed)
        for line in io.TextIOWrapper(stream, encoding="utf-8"):
            yield json.loads(line)
