"""Where an improvement stands, on disk, so that it goes on after a kill at any point.

Each has a folder ``home/improve/ID`` with ``state.json`` (replaced by rename), what was collected, the
attempts as they came in (a torn last line is left out), the training run with its own checkpoint, and the
report. The model in use changes in one rename in the registry, near the end; before it the old model is
current, whatever was killed. One process improves at a time.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import UserError
from ...files import replace_file
from ..record.journal import RunLock

Method = Literal["auto", "sft", "dpo", "kto", "grpo"]
Stage = Literal["collect", "practise", "train", "gate", "decide", "done"]


GIVEN = "given.jsonl"
"""Goals that a person named, so that a resumed improvement and its next rounds have them."""


class Options(BaseModel):
    """What a person may choose. The defaults are meant for two cores and an evening."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method = "auto"
    budget_minutes: float | None = Field(default=None, gt=0)
    """For one round, all of it: about 40 % practising, 35 % training, the rest for the gate."""
    attempts: int | None = Field(default=None, ge=1, le=64)
    """Tries per goal; by default four, in a group of GRPO eight."""
    rounds: int = Field(default=1, ge=1, le=100)
    temperature: float = Field(default=0.8, gt=0, le=2)
    keep: int = Field(default=2, ge=1)
    """Different successes kept of a goal that is solved sometimes."""
    replay: float = Field(default=0.2, ge=0, le=0.9)
    """Share of ordinary work among the training samples, so that nothing is forgotten."""
    replay_data: tuple[Path, ...] = ()
    """Training files to replay from; by default those that ship, for models that come from `small`."""
    buffer: Literal["prioritised", "uniform", "none"] = "prioritised"
    """How kept successes of earlier improvements are drawn again."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the samples; by default two, for ratings four."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak; by default 3e-4 for kept-best, 8e-5 for ratings, 5e-5 else."""
    batch: int = Field(default=16, gt=0)
    planned: int | None = Field(default=None, gt=0)
    """Goals of the gate; by default as many as show a gain of five points, or as the budget allows."""
    parallel: int = Field(default=16, ge=1)
    seed: int = 0
    full: bool = False
    """Kept-best only: train all weights, not an adapter; the candidate is then a whole model."""
    dp_epsilon: float | None = Field(default=None, gt=0, le=1000)


class State(BaseModel):
    """What ``state.json`` holds."""

    model_config = ConfigDict(extra="forbid")

    id: str
    stage: Stage = "collect"
    round: int = 1
    created: float
    parent: str
    """The model that was in use when it began: what is improved."""
    fingerprint: str = ""
    """Of that model, as loaded."""
    options: Options = Options()
    method: str = ""
    """What ``auto`` came to."""
    seconds: dict[str, float] = {}
    """Time that each stage took, over all resumptions."""
    planned: int = 0
    facts: dict[str, Any] = {}
    """Counts that the report shows."""
    decision: str = ""
    """``promoted``, ``kept`` or ``nothing``; empty while it is under way."""
    reason: str = ""
    version: str = ""
    """The reference of the promoted model."""


class Work:
    """One improvement's folder."""

    def __init__(self, folder: Path, state: State) -> None:
        self.folder = folder
        self.state = state

    @property
    def trained(self) -> Path:
        """The candidate's folder: an adapter, or with ``full`` a whole model."""
        return self.folder / "train" / ("model" if self.state.options.full else "adapter")

    def save(self) -> None:
        """Write the state by rename."""
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(self.folder / "state.json", self.state.model_dump_json(indent=1).encode())

    def reach(self, stage: Stage) -> None:
        """Record that ``stage`` is next."""
        self.state.stage = stage
        self.save()

    def write(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write JSON lines by rename."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        replace_file(self.folder / name, text.encode())

    def read(self, name: str) -> list[dict[str, Any]]:
        """Return what :meth:`write` or :func:`append` wrote; [] where there is nothing."""
        return list(read_lines(self.folder / name))

    def charge(self, stage: str, seconds: float) -> None:
        """Add to the time that a stage took."""
        self.state.seconds[stage] = self.state.seconds.get(stage, 0.0) + seconds


def improvements(home: Path) -> list[Work]:
    """Return all improvements, oldest first; a folder whose state cannot be read is left out."""
    found = []
    for file in (home / "improve").glob("*/state.json"):
        try:
            found.append(Work(file.parent, State.model_validate_json(file.read_bytes())))
        except (OSError, ValidationError):
            continue
    return sorted(found, key=lambda work: work.state.created)  # names tell no two of one second apart


def begin(
    home: Path, parent: str, options: Options, number: int = 1, given: Iterable[Mapping[str, Any]] = ()
) -> Work:
    """Make the folder of a new improvement; ``given`` are the records of the goals that a person named."""
    name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
    work = Work(
        home / "improve" / name,
        State(id=name, created=time.time(), parent=parent, options=options, round=number),
    )
    work.folder.mkdir(parents=True)
    work.write(GIVEN, given)  # before the state, which is what makes it an improvement
    work.save()
    return work


def lock(home: Path) -> RunLock:
    """Hold improving in this home; raises UserError where another process does."""
    try:
        return RunLock(home / "improve")
    except UserError as error:
        raise UserError("another 'autogpt improve' is under way in this home; wait for it") from error


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines; a last line that was cut off is left out."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return
    for line in raw.split(b"\n"):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


class Lines:
    """A file that grows by whole JSON lines, each on disk before the next."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":  # a killed writer left half a line
            os.write(self._file, b"\n")

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one object."""
        os.write(self._file, (json.dumps(row, ensure_ascii=False) + "\n").encode())

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
