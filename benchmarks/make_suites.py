"""Make every suite under ``benchmarks/suites/`` anew, and what ships for judging.

``python benchmarks/make_suites.py [NAME ...]``

Needs the data folder in AUTOGPT_DATA (see DATA.md) and the package ``autogpt`` installed. The same
data give the same bytes: everything is drawn with fixed seeds. Each record is loaded as a goal
before it is written, so a suite that a run would refuse is never made. What training may see is
decided in ``autogpt/agent/experts/data.py`` alone; the suites use its held-out part, or ``valid`` files.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import zstandard
from makers import (
    beside_tools,
    chat,
    conversations,
    files,
    gate,
    memory,
    office,
    public,
    strange_tables,
    tools_crowd,
    unseen_tools,
    word_problems,
    workflows,
)
from makers.common import Record

from autogpt.agent.goals.load import Conversation, Goal

SUITES = Path(__file__).parent / "suites"
HELD_OUT = Path(__file__).parents[1] / "agent" / "learn" / "held_out"
SHIPPED = {"gate": HELD_OUT / "gate.jsonl.zst", "sessions": HELD_OUT / "sessions.jsonl.zst"}
"""What judges on a user's machine, packed."""
CROWDS = {f"tools_crowd_{size}": size for size in tools_crowd.SIZES}
"""The suites of one request among many tools, by the number of tools."""
PACKED = ("unseen_tools", "strange_tables", "beside_tools", *CROWDS)
"""Suites that would be large: written as ``.jsonl.zst``, which ``autogpt eval`` reads alike."""

MAKERS: dict[str, Callable[[Path], list[Record]]] = {
    "tables": public.tables,
    "words": public.words,
    "words_multi": public.words_multi,
    "files": lambda data: files.chores(),
    "chat": lambda data: chat.chat(),
    "workflows": workflows.workflows,
    "conversations": lambda data: conversations.conversations(),
    "memory": lambda data: memory.memory(),
    "gate": gate.gate,
    "sessions": lambda data: gate.sessions(),
    "unseen_tools": unseen_tools.unseen_tools,
    "strange_tables": strange_tables.strange_tables,
    "word_problems": word_problems.word_problems,
    "beside_tools": beside_tools.beside_tools,
    "office": lambda data: office.office(),
    **{name: partial(tools_crowd.tools_crowd, size=size) for name, size in CROWDS.items()},
}
"""Per suite, the function that makes its records from the data folder."""


def data_folder() -> Path:
    """Return the data folder; exits with one line when it is missing."""
    name = os.environ.get("AUTOGPT_DATA", "")
    if not name or not (Path(name) / "wikisql_valid.jsonl.zst").is_file():
        where = f"`{name}` has no wikisql_valid.jsonl.zst" if name else "it is not set"
        sys.exit(f"make_suites: set AUTOGPT_DATA to the data folder ({where}); DATA.md says what it holds")
    return Path(name)


def lines(name: str, data: Path) -> list[str]:
    """Return a suite's lines, each checked to load."""
    model = Conversation if name in ("conversations", "sessions") else Goal
    made = []
    for record in MAKERS[name](data):
        model.model_validate(record)
        made.append(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
    return made


def main(names: list[str]) -> None:
    """Write the named suites, or all of them."""
    data = data_folder()
    SUITES.mkdir(exist_ok=True)
    for name in names or list(MAKERS):
        if name not in MAKERS:
            sys.exit(f"make_suites: unknown suite {name}; there are {', '.join(MAKERS)}")
        made = lines(name, data)
        path = SHIPPED.get(name, SUITES / f"{name}.jsonl{'.zst' if name in PACKED else ''}")
        if path.suffix == ".zst":
            path.write_bytes(zstandard.ZstdCompressor(level=19).compress("".join(made).encode()))
        else:
            path.write_text("".join(made), encoding="utf-8")
        print(f"{path}: {len(made)} records, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
