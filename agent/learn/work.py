"""The state of an improvement on disk, from which it resumes after a kill at any point.

Each has a folder ``home/improve/ID`` with ``state.json`` (replaced by rename), what was collected, the
attempts as they came in (a torn last line is left out), the training run with its own checkpoint, and a
page. The model in use changes with a single rename in the registry, near the end; until then the old model
is current, whatever was killed. One process improves at a time.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import UserError
from ...files import replace_file
from ..evaluate import statistics
from ..evaluate.statistics import RankTest, Row, Verdict
from ..goals.load import Goal
from ..record.journal import RunLock
from .goal_split import kept_record, restored_line
from .samples import Attempt, attempt_of_row

if TYPE_CHECKING:
    from ...llm.training.preference import Pair, Rated

Stage = Literal["collect", "practise", "train", "gate", "decide", "done"]
STATE = "state.json"
Record = dict[str, Any]
T = TypeVar("T")


class Options(BaseModel):
    """What a person may choose. The defaults are meant for two cores and an evening."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str = "auto"
    """The name of a method (``methods``); ``auto``: what there is enough for."""
    budget_minutes: float | None = Field(default=None, gt=0)
    """For one round; methods share it among practice, training and the gate."""
    attempts: int | None = Field(default=None, ge=1, le=64)
    """Attempts per goal; by default four, in a group of GRPO eight."""
    rounds: int = Field(default=1, ge=1, le=100)
    temperature: float = Field(default=0.8, gt=0, le=2)
    keep: int = Field(default=2, ge=1)
    """Different successes kept at a goal that is solved sometimes."""
    replay: float = Field(default=0.2, ge=0, le=0.9)
    """Share of ordinary work among the training samples, so that nothing is forgotten."""
    replay_data: tuple[Path, ...] = ()
    """Training files to replay from; by default those that ship, for models that come from `small`."""
    buffer: Literal["prioritised", "uniform", "none"] = "prioritised"
    """How successes kept by earlier improvements are drawn again."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the samples; by default the method's."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak; by default the method's."""
    batch: int = Field(default=16, gt=0)
    planned: int | None = Field(default=None, gt=0)
    """Goals of the gate at most; by default the method's number, or what the budget allows."""
    parallel: int = Field(default=16, ge=1)
    seed: int = 0
    full: bool = False
    """Train all weights instead of an adapter; the candidate is then a whole model."""
    dp_epsilon: float | None = Field(default=None, gt=0, le=1000)


class Figures(BaseModel):
    """What an improvement has counted and found so far; None where a stage has not come to it.

    Stored in ``state.json`` as ``facts``. Keys of other versions are ignored.
    """

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    tokenizer: str = ""
    """Hash of the model's tokenizer: samples hold its ids."""
    goals: int = 0
    """Goals with checks to practise on."""
    own_held_out: int = 0
    """The user's own goals that judge."""
    judging: int = 0
    """All goals that judge."""
    distinct: int = 0
    """Different goals that can be learned from, practised or of past runs."""
    dropped: dict[str, int] = {}
    """Goals that are not practised, by reason."""
    past_runs: int = 0
    refused: dict[str, int] = {}
    """Past runs and ratings that are not learned from, by reason."""
    pairs: int = 0
    """Corrections by people."""
    thumbs: int = 0
    """Ratings by people, held-out ones not counted."""
    thumbs_up: int = 0
    thumbs_down: int = 0
    tries: int | None = None
    solved_tries: int | None = None
    sometimes: int | None = None
    """Goals that some attempts achieved."""
    never: int | None = None
    trying: float | None = None
    """Seconds that GRPO spent on attempts."""
    kept: int | None = None
    """Successes that rejection sampling kept."""
    again: int | None = None
    """Successes of earlier improvements that were drawn again."""
    replayed: int | None = None
    """Ordinary samples mixed in."""
    canaries: int | None = None
    samples: int | None = None
    """What the candidate was trained on; set once its training files are complete."""
    steps: int | None = None
    loss: float | None = None
    tokens: int | None = None
    exposure: list[float] | None = None
    """Of each planted canary, in bits."""
    feedback: RankTest | None = Field(default=None, alias="said")
    """How held-out ratings moved."""
    verdict: Verdict | None = None
    rows: list[Row] = []
    """The gate's table."""
    canary_release: bool = Field(default=False, alias="trial")


class State(BaseModel):
    """What ``state.json`` holds."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    id: str
    stage: Stage = "collect"
    round: int = 1
    created: float
    """Seconds since 1970."""
    parent: str
    """The model that was in use when it began: what is improved."""
    fingerprint: str = ""
    """Of that model, as loaded."""
    options: Options = Options()
    method: str = ""
    """What ``auto`` chose."""
    seconds: dict[str, float] = {}
    """Time that each stage took, over all resumptions."""
    planned: int = 0
    """Goals of the gate; 0 until it begins."""
    figures: Figures = Field(default_factory=Figures, alias="facts")
    decision: str = ""
    """``promoted``, ``kept`` or ``nothing``; empty while it is under way."""
    reason: str = ""
    version: str = ""
    """The reference of the promoted model."""


class JsonLines(Generic[T]):
    """A file of JSON lines, one item each: replaced as a whole, or grown line by line."""

    def __init__(
        self, path: Path, encode: Callable[[T], Mapping[str, Any]], decode: Callable[[dict[str, Any]], T]
    ) -> None:
        self.path, self._encode, self._decode = path, encode, decode

    def write(self, items: Iterable[T]) -> None:
        """Replace the file atomically."""
        replace_file(self.path, "".join(map(self._line, items)))

    def read(self) -> list[T]:
        """Return all items; [] where there is no file. A last line that was cut off is left out."""
        return [self._decode(row) for row in read_lines(self.path)]

    def add(self, item: T) -> None:
        """Append one item; it survives a kill of this process once this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(file).st_size
            torn = size and os.pread(file, 1, size - 1) != b"\n"  # a killed writer left half a line
            os.write(file, (("\n" if torn else "") + self._line(item)).encode())
        finally:
            os.close(file)

    def _line(self, item: T) -> str:
        return json.dumps(self._encode(item), ensure_ascii=False) + "\n"


def rows(path: Path) -> JsonLines[dict[str, Any]]:
    """Return a file of plain objects."""
    return JsonLines(path, dict, dict)


class _File(Generic[T]):
    """Declares a file of an improvement: an attribute that is its :class:`JsonLines`."""

    def __init__(
        self,
        name: str,
        encode: Callable[[T], Mapping[str, Any]] = vars,
        decode: Callable[[dict[str, Any]], T] | None = None,
    ) -> None:
        self.name, self.encode, self.decode = name, encode, decode

    def __get__(self, work: Work, owner: type[Work]) -> JsonLines[T]:
        return JsonLines(work.folder / self.name, self.encode, self.decode or _same)


def _same(row: Any) -> Any:
    return row


def _pair(row: dict[str, Any]) -> Pair:
    from .preferences import pair_of  # loads torch

    return pair_of(row)


def _rated(row: dict[str, Any]) -> Rated:
    from .preferences import rated_of  # loads torch

    return rated_of(row)


class Work:
    """One improvement's folder: its state and its files."""

    given = _File("given.jsonl", kept_record, restored_line)
    """Goals that a person named, for a resumed improvement and its next rounds."""
    runs = _File[Record]("runs.jsonl", dict)
    """Past runs that may be learned from: ``run``, and ``held_out`` where it only judges."""
    goals = _File("goals.jsonl", kept_record, restored_line)
    """Goals to practise on."""
    judging = _File("judging.jsonl", kept_record, restored_line)
    """Goals that the gate may play, in order of play."""
    past = _File("past.jsonl", Attempt.row, attempt_of_row)
    """Past runs that may be trained on."""
    feedback_pairs = _File("said_pairs.jsonl", vars, _pair)
    """Corrections by people."""
    feedback_rated = _File("said_rated.jsonl", vars, _rated)
    """Ratings by people."""
    feedback_held_out = _File("said_held.jsonl", vars, _rated)
    """Ratings by people that only judge."""
    attempts = _File("attempts.jsonl", Attempt.row, attempt_of_row)
    """Attempts at the goals, as they came in."""
    rates = _File[Record]("rates.jsonl", dict)
    """How often each goal was solved and tried: ``goal`` (a hash), ``solved``, ``tried``."""
    kept = _File("kept.jsonl", Attempt.row, attempt_of_row)
    """Successes that rejection sampling kept."""
    samples = _File[Record]("samples.jsonl", dict)
    """The training file of fine-tuning."""
    replay = _File[Record]("replay.jsonl", dict)
    """The training file of ordinary samples that other methods mix in."""
    pairs = _File("pairs_in.jsonl", vars, _pair)
    """Pairs that are trained on."""
    rated = _File("rated_in.jsonl", vars, _rated)
    """Rated answers that are trained on."""
    curve = _File[Record]("curve.jsonl", dict)
    """Training steps: ``step``, ``loss``, ``mean``, ``done``."""
    rewards = _File[Record]("rewards.jsonl", dict)
    """Rounds of attempts by GRPO: ``tries`` so far, mean ``reward``."""
    outcomes = _File[statistics.Pair]("pairs.jsonl", vars, lambda row: statistics.Pair(**row))
    """The gate's goals under both models."""
    examples = _File[Record]("changed.jsonl", dict)
    """One line: goals that only one of the models achieved, ``won`` and ``lost``."""

    def __init__(self, folder: Path, state: State) -> None:
        self.folder = folder
        self.state = state

    @property
    def home(self) -> Path:
        """The home that the improvement belongs to."""
        return self.folder.parent.parent

    @property
    def seed(self) -> int:
        """The seed of this round."""
        return self.state.options.seed + 7919 * (self.state.round - 1)

    @property
    def page(self) -> Path:
        """The HTML page."""
        return self.folder / "index.html"

    @property
    def training(self) -> Path:
        """The folder of the training run, with its checkpoint."""
        return self.folder / "train"

    @property
    def trained(self) -> Path:
        """The candidate's folder: an adapter, or with ``full`` a whole model."""
        return self.training / ("model" if self.state.options.full else "adapter")

    @property
    def impersonal(self) -> set[Path]:
        """Files without a word or token of a run: numbers, and hashes of wordings."""
        files = (self.curve, self.rates, self.rewards)
        return {self.folder / STATE, *(file.path for file in files)}

    def save(self) -> None:
        """Write the state by rename."""
        text = self.state.model_dump_json(indent=1, by_alias=True, exclude_none=True)
        replace_file(self.folder / STATE, text)

    def reach(self, stage: Stage) -> None:
        """Record that ``stage`` is next."""
        self.state.stage = stage
        self.save()

    def close(self, reason: str) -> None:
        """End it without a promotion."""
        self.state.decision, self.state.reason = "kept", reason
        self.reach("done")

    def charge(self, stage: str, seconds: float) -> None:
        """Add to the time that a stage took."""
        self.state.seconds[stage] = self.state.seconds.get(stage, 0.0) + seconds


def improvements(home: Path) -> list[Work]:
    """Return all improvements, oldest first; a folder whose state cannot be read is left out."""
    found = []
    for file in (home / "improve").glob(f"*/{STATE}"):
        try:
            found.append(Work(file.parent, State.model_validate_json(file.read_bytes())))
        except (OSError, ValidationError):
            continue
    return sorted(found, key=lambda work: work.state.created)  # names have only seconds


def begin(home: Path, parent: str, options: Options, number: int = 1, given: Iterable[Goal] = ()) -> Work:
    """Make the folder of a new improvement; ``given`` are the goals that a person named."""
    name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
    work = Work(
        home / "improve" / name,
        State(id=name, created=time.time(), parent=parent, options=options, round=number),
    )
    work.folder.mkdir(parents=True)
    work.given.write(given)  # before the state, which is what makes it an improvement
    work.save()
    return work


def lock(home: Path) -> RunLock:
    """Lock improving in this home; raises UserError if another process holds the lock."""
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
