"""What all makers share: reading the data, CSV text, slugs, and checks that are often needed."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]
"""One line of a suite: a goal, as ``autogpt.agent.goals.load`` reads it."""


def read(folder: Path, name: str) -> Iterator[Record]:
    """Yield the records of ``<folder>/<name>.jsonl.zst``."""
    import zstandard

    with (folder / f"{name}.jsonl.zst").open("rb") as packed:
        stream = zstandard.ZstdDecompressor().stream_reader(packed)
        for line in io.TextIOWrapper(stream, encoding="utf-8"):
            yield json.loads(line)


def csv_text(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table as CSV; None is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()


def slug(text: str, fallback: str) -> str:
    """Return a short file name stem made from ``text``."""
    return "-".join(re.findall(r"[a-z0-9]+", text.lower()))[:32].strip("-") or fallback


def goal(suite: str, number: int, category: str, text: str, files: dict[str, str], *checks: Record) -> Record:
    """Return a suite record; its id is ``<suite>-<number>``."""
    return {
        "id": f"{suite}-{number:04d}",
        "category": category,
        "goal": text,
        **({"files": files} if files else {}),
        "check": list(checks),
    }


def answer(**spec: Any) -> Record:
    """Return an answer check."""
    return {"answer": spec}


def says(value: str) -> Record:
    """Return a check that the answer is ``value``, perhaps at the end of a short sentence."""
    return answer(matches=rf"^[^\[\]{{}}\n]{{0,40}}(?<![\w.]){re.escape(value)}\W{{0,3}}$")


def file(path: str, **spec: Any) -> Record:
    """Return a file check."""
    return {"file": {"path": path, **spec}}
