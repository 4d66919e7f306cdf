"""The right tool in a crowd: the same 60 requests with 1, 50, 100 and 1,000 tools offered.

The requests are those of ``unseen_tools`` that take one call. What is added are Seal-Tools' tools, held out
or not, among which the right one stands anywhere; left out are those that would do as well (the right one's
name, or more than half of the words of its description). The category is the number of tools.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

from autogpt.agent.goals.compare import token_f1

from .common import Record, read
from .unseen_tools import seal_stub, unseen_tools

SIZES = (1, 50, 100, 1000)
ALIKE = 0.5
"""F1 of the words of two descriptions above which two tools count as alike."""


def tools_crowd(data: Path, size: int, count: int = 60, seed: int = 35) -> list[Record]:
    """Return ``count`` goals with ``size`` tools each; other sizes have the same goals under the same ids."""
    rng = random.Random(seed)
    pool = [seal_stub(api) for api in read(data, "sealtools_apis")]
    single = [item for item in unseen_tools(data) if len(item["check"][0]["calls"]) == 1]
    seal = [item for item in single if item["category"] == "seal, one call"]
    chosen = [*seal[: count // 2], *[item for item in single if item["category"] == "sgd"]][:count]
    made = []
    for number, item in enumerate(chosen, start=1):
        wanted = item["check"][0]["calls"][0]["name"]
        right = next(stub for stub in item["stubs"] if stub["name"] == wanted)
        others = [stub for stub in pool if not _alike(stub, right)]
        added = rng.sample(range(len(others)), max(SIZES) - 1)[: size - 1]
        stubs = [others[place] for place in sorted(added)]
        stubs.insert(random.Random(number).randint(0, len(stubs)), right)
        made.append({**item, "id": f"crowd-{number:04d}", "category": f"{size} tools", "stubs": stubs})
    return made


def _alike(stub: Record, right: Record) -> bool:
    if _plain(stub["name"]) == _plain(right["name"]):
        return True
    return token_f1(stub["description"], right["description"]) > ALIKE


def _plain(name: Any) -> str:
    return re.sub(r"[^a-z]", "", str(name).lower())
