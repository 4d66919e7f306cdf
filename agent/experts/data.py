"""The data folder (``AUTOGPT_DATA``), and which of its records may be trained on and which only ever measure.

Suites and training use the same rule. Sources with a ``valid`` file of their own need none. The others are
split by a hash: of the question for MAWPS, GSM8K and movie polarity; of the tool's name for Seal-Tools and of
the service's name for SGD, so that held-out goals need calls that were never seen; of the table's id for
WikiTableQuestions, whose ``valid`` file asks about tables of its training part; of the first message for the
Chinese part of ChatterBot, of the thing talked about for KdConv. A record with several tools or services may
be trained on only if each of them may. The seed instructions only measure. The rule depends on nothing but
the text, so it holds on every machine; changing a share changes what old models were trained on.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ...settings import load

HELD_OUT = {
    "mawps": 20, "gsm8k": 10, "movie_polarity": 10, "sealtools": 10, "sgd": 20, "wtq": 10,
    "chatterbot_zh": 30, "kdconv": 30, "seed_instructions": 100,
}  # fmt: skip
"""Per kind, how many of a hundred keys are held out. MAWPS gives more: its one-step part is small. ``wtq`` is
newer than the adapter of ``small`` (2026-11-26), which has seen questions about all of these tables."""


def is_train(kind: str, key: str) -> bool:
    """Return whether the record of ``kind`` (see :data:`HELD_OUT`) with ``key`` may be trained on.

    ``key``: the question's or sentence's text, the name of a tool, service or thing, or a table's id. Case
    and white space do not count. Raises KeyError for an unknown kind.
    """
    share = HELD_OUT[kind]
    text = f"{kind}:{' '.join(key.casefold().split())}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100 >= share


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
