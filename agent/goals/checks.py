"""Checks: what must hold when a run ends. One class per kind; each says what it found.

In a goal file a check is a mapping with one key, its kind: ``- answer: {number: 12}``. A class
declares the fields that its kind takes and decides in :meth:`Check.verdict`::

    class LengthCheck(Check, kind="length"):
        at_most: int

        def verdict(self, outcome: Outcome) -> Finding:
            length = len(as_text(outcome.value))
            return need(length <= self.at_most, f"the answer has {length} characters", f"{self.at_most}")

That is all: defining the class registers it. A class of an installed package is found by its entry
point in the group ``autogpt.checks``; the entry point's name is the kind. ``None`` means "not given" in
all fields, so a check cannot ask for JSON null.

A check looks at the answer, at the workspace as the run left it and at the calls that reached the
goal's stubs; it changes nothing. One that cannot be carried out (a file is missing, a query is wrong)
has failed, and its detail says why. Limits: a file is read up to 10 MB, a query may take 5 seconds,
and a path that leads out of the workspace is never opened.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    PlainValidator,
    SerializationInfo,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from .compare import (
    as_items,
    as_number,
    as_text,
    normal_text,
    same,
    same_command,
    same_items,
    same_value,
    token_f1,
    unwrap,
)

GROUP = "autogpt.checks"
"""Entry points of other packages' checks."""
FILE_LIMIT = 10_000_000
QUERY_SECONDS = 5.0

Scalar = str | int | float | bool
Call = tuple[str, Mapping[str, Any]]
"""Name and arguments of a call that a stub received."""


class Strict(BaseModel):
    """Base of every part of a goal: unknown fields are mistakes, not extensions."""

    model_config = ConfigDict(
        extra="forbid", serialize_by_alias=True, validate_by_name=True, validate_by_alias=True
    )


@dataclass(frozen=True)
class Outcome:
    """What a run leaves to be checked."""

    value: Any
    """The final answer, with handles replaced by the values they refer to."""
    workspace: Path
    """The run's folder after the last step."""
    calls: Sequence[Call] = ()
    """Calls to the goal's stubs, in order."""


@dataclass(frozen=True)
class Finding:
    """Whether a check passed, and one line on what was found (and wanted, when it failed)."""

    passed: bool
    detail: str
    score: float | None = None
    """0 to 1, for checks that measure likeness."""


@dataclass(frozen=True)
class CheckVerdict:
    """The finding of one check of a list, as it is recorded."""

    index: int
    kind: str
    passed: bool
    detail: str
    score: float | None = None


class CheckFailed(Exception):
    """A check cannot be carried out, or one of its demands is not met; the message is the detail."""


class Check(Strict):
    """Base of all checks. A subclass names its ``kind``, which registers it."""

    kind: ClassVar[str]
    unavailable: ClassVar[str] = ""
    """Why this version cannot carry out the kind; empty where it can."""

    def __init_subclass__(cls, kind: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if kind:
            cls.kind = kind
            _classes[kind] = cls

    @abstractmethod
    def verdict(self, outcome: Outcome) -> Finding:
        """Decide. May raise :class:`CheckFailed` in place of returning a finding that did not pass."""


_classes: dict[str, type[Check]] = {}


def kinds() -> list[str]:
    """Return the names of all kinds: built-in ones as documented, then those of other packages."""
    return list(dict.fromkeys([*_classes, *(point.name for point in entry_points(group=GROUP))]))


def check_class(kind: str) -> type[Check] | None:
    """Return the class of a kind, loading another package's; None if there is no such kind.

    Raises ValueError when the package that offers it cannot be loaded.
    """
    for point in [] if kind in _classes else entry_points(group=GROUP, name=kind):
        package = point.dist.name if point.dist is not None else point.value.partition(":")[0]
        try:
            point.load()
        except Exception as error:  # other people's code may fail in any way
            raise ValueError(f"check `{kind}` of {package}: {type(error).__name__}: {error}") from error
        if kind not in _classes:
            raise ValueError(f"check `{kind}` of {package}: {point.value} defines no Check of this kind")
    return _classes.get(kind)


def _parse(value: Any) -> Check:
    """Make a check from ``{kind: fields}``; the errors of its fields travel in the context."""
    if isinstance(value, Check):
        return value
    if not isinstance(value, Mapping) or len(value) != 1:
        listed = ", ".join(kinds())
        raise PydanticCustomError("check_shape", f"a check is one `kind: ...` pair; the kinds are {listed}")
    kind, body = next(iter(value.items()))
    found = check_class(str(kind))
    if found is None:
        raise PydanticCustomError("check_kind", f"unknown check `{kind}`", {"kind": str(kind)})
    try:
        return found.model_validate(body)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        where = ".".join(map(str, (kind, *errors[0]["loc"])))
        context = {"kind": kind, "errors": errors, "said": f"{where}: {errors[0]['msg']}"}
        raise PydanticCustomError("check_fields", "{said}", context) from error


def _dump(check: Check, info: SerializationInfo) -> dict[str, Any]:
    return {check.kind: check.model_dump(mode=info.mode, exclude_none=info.exclude_none)}


AnyCheck = Annotated[Check, PlainValidator(_parse), PlainSerializer(_dump)]
"""Any check as a field of a model, in the shape that goal files use."""


def run_checks(
    checks: Sequence[Check], value: Any, workspace: Path, stub_calls: Sequence[Call] = ()
) -> list[CheckVerdict]:
    """Carry out ``checks``, in order; the other arguments are the fields of :class:`Outcome`."""
    outcome = Outcome(value, workspace, stub_calls)
    verdicts = []
    for index, check in enumerate(checks):
        try:
            found = Finding(False, check.unavailable) if check.unavailable else check.verdict(outcome)
        except CheckFailed as failure:
            found = Finding(False, str(failure))
        except Exception as error:  # another package's check may fail in any way; the run still ends
            found = Finding(False, f"the check failed: {type(error).__name__}: {error}")
        detail = " ".join(found.detail.splitlines())
        verdicts.append(CheckVerdict(index, check.kind, found.passed, detail, found.score))
    return verdicts


def reward(verdicts: Sequence[CheckVerdict]) -> float | None:
    """Return the fraction of checks passed, or None when there are none."""
    return sum(verdict.passed for verdict in verdicts) / len(verdicts) if verdicts else None


def need(passed: bool, found: str, wanted: str, score: float | None = None) -> Finding:
    """Return the finding: ``found``, followed by what was ``wanted`` when it did not pass."""
    return Finding(passed, found if passed else f"{found}, wanted {wanted}", score)


def inside(path: str) -> str:
    """Return ``path`` if it is relative and stays inside its folder; ValueError otherwise."""
    pure = PurePosixPath(path.replace("\\", "/"))
    if not path.strip():
        raise ValueError("the path is empty")
    if pure.is_absolute() or re.match(r"^[A-Za-z]:", path) or path.startswith("~"):
        raise ValueError(f"`{path}` is absolute; paths here are relative to the goal's folder")
    if ".." in pure.parts:
        raise ValueError(f"`{path}` leaves the goal's folder (`..`)")
    return path


def pattern(text: str | None) -> str | None:
    """Return ``text`` if it compiles as a regular expression; ValueError otherwise."""
    if text is not None:
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"`{text}` is not a regular expression: {error}") from error
    return text


def short(value: Any) -> str:
    """Show a value in at most 80 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


class AnswerCheck(Check, kind="answer"):
    """The final answer; exactly one of the first five fields says what it must be."""

    equals: JsonValue = None
    number: float | None = None
    one_of: list[Scalar] | None = Field(default=None, min_length=1)
    matches: str | None = None
    """Regular expression, searched in the answer's text, case-insensitively."""
    items: list[Scalar] | None = None
    """An unordered list; repeated values count."""
    tolerance: float | None = Field(default=None, ge=0)
    """Largest absolute difference for ``number``; without it, a relative 1e-6."""

    _pattern = field_validator("matches")(pattern)

    @model_validator(mode="after")
    def _one(self) -> AnswerCheck:
        names = ("equals", "number", "one_of", "matches", "items")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            says = " and ".join(f"`{name}`" for name in given) or "none"
            raise ValueError(f"give exactly one of {', '.join(names)} (given: {says})")
        if self.tolerance is not None and self.number is None:
            raise ValueError("`tolerance` belongs to `number`")
        return self

    def verdict(self, outcome: Outcome) -> Finding:
        """Compare the answer; see :mod:`.compare` for when two values are the same."""
        value = outcome.value
        found = f"the answer is {short(value)}"
        if self.items is not None:
            return need(same_items(as_items(value), self.items), found, f"the items {short(self.items)}")
        if self.equals is not None:
            alike = same_value(value, self.equals) or same_value(unwrap(value), unwrap(self.equals))
            return need(alike, found, short(self.equals))
        scalar = unwrap(value)
        if self.number is not None:
            number = as_number(scalar)
            if self.tolerance is None:
                return need(number is not None and same(number, self.number), found, f"{self.number:g}")
            near = number is not None and abs(number - self.number) <= self.tolerance
            return need(near, found, f"{self.number:g} ± {self.tolerance:g}")
        if self.one_of is not None:
            right = any(same(scalar, choice) for choice in self.one_of)
            return need(right, found, f"one of {short(self.one_of)}")
        expression = self.matches or ""
        right = re.search(expression, as_text(scalar), re.I) is not None
        return need(right, found, f"a match of /{expression}/")


class WantedCall(Strict):
    """One call that a stub must have received."""

    name: str
    arguments: dict[str, list[JsonValue]] = {}
    """Per argument its acceptable values; null among them: may be left out."""

    def accepts(self, call: Call) -> bool:
        """Return whether ``call`` is this one."""
        name, arguments = call
        given = {key: value for key, value in arguments.items() if value is not None}
        if name != self.name or not given.keys() <= self.arguments.keys():
            return False
        for key, choices in self.arguments.items():
            if key not in given:
                if None not in choices:
                    return False
            elif not any(same_value(given[key], choice) for choice in choices if choice is not None):
                return False
        return True


class CallsCheck(Check, kind="calls"):
    """Exactly these calls were made to stubs, in any order; an empty list: none was made.

    A goal file gives the list itself: ``- calls: [{name: book, arguments: {city: [Paris]}}]``.
    """

    calls: list[WantedCall]

    @model_validator(mode="before")
    @classmethod
    def _listed(cls, body: Any) -> Any:
        return {"calls": body}

    @model_serializer(mode="plain")
    def _as_list(self, info: SerializationInfo) -> list[dict[str, Any]]:
        return [call.model_dump(mode=info.mode) for call in self.calls]

    def verdict(self, outcome: Outcome) -> Finding:
        """Match wanted and made calls one to one (augmenting paths: alternatives may overlap)."""
        calls = outcome.calls
        found = f"{len(calls)} calls ({', '.join(name for name, _ in calls) or 'none'})"
        if len(self.calls) != len(calls):
            names = ", ".join(call.name for call in self.calls) or "none"
            return need(False, found, f"{len(self.calls)} ({names})")
        holder: dict[int, int] = {}

        def place(number: int, tried: set[int]) -> bool:
            for index, call in enumerate(calls):
                if index not in tried and self.calls[number].accepts(call):
                    tried.add(index)
                    if index not in holder or place(holder[index], tried):
                        holder[index] = number
                        return True
            return False

        for number, call in enumerate(self.calls):
            if not place(number, set()):
                return Finding(False, f"{found}: none is {call.name} with {short(call.arguments)}")
        return Finding(True, found)


class FileCheck(Check, kind="file"):
    """What a file must be after the run; ``path`` is relative to the workspace."""

    path: str
    equals: str | None = None
    """The whole text; white space at line ends and at its end does not count."""
    contains: str | list[str] | None = None
    matches: str | None = None
    json_value: JsonValue = Field(default=None, alias="json")
    exists: bool | None = None

    _inside = field_validator("path")(inside)
    _pattern = field_validator("matches")(pattern)

    @model_validator(mode="after")
    def _some(self) -> FileCheck:
        asked = (self.equals, self.contains, self.matches, self.json_value, self.exists)
        if all(value is None for value in asked):
            raise ValueError("give at least one of equals, contains, matches, json, exists")
        if self.exists is False and any(value is not None for value in asked[:-1]):
            raise ValueError("`exists: false` goes with no other demand")
        return self

    def verdict(self, outcome: Outcome) -> Finding:
        """Read the file only where its content is asked for."""
        path = _within(outcome.workspace, self.path)
        if self.exists is False:
            found = f"{self.path} exists" if path.exists() else f"there is no {self.path}"
            return need(not path.exists(), found, "no such file")
        if not path.exists():
            return Finding(False, f"{self.path} does not exist")
        wanted = (self.equals, self.contains, self.matches, self.json_value)
        if all(value is None for value in wanted):
            return Finding(True, f"{self.path} exists")
        text = _read(path, self.path)
        found = f"{self.path} holds {short(text)}"
        missed = next((wanted for met, wanted in self._demands(text) if not met), "")
        return need(not missed, found, missed)

    def _demands(self, text: str) -> Iterator[tuple[bool, str]]:
        """Yield whether each demand on the content is met, and the demand in words."""
        if self.equals is not None:
            yield _same_content(text, self.equals), short(self.equals)
        for part in [self.contains] if isinstance(self.contains, str) else self.contains or []:
            yield normal_text(part) in normal_text(text), f"a text with {short(part)}"
        if self.matches is not None:
            yield re.search(self.matches, text, re.I) is not None, f"a match of /{self.matches}/"
        if self.json_value is not None:
            try:
                data = json.loads(text)
            except json.JSONDecodeError as error:
                raise CheckFailed(f"{self.path} is not JSON: {error.msg} (line {error.lineno})") from error
            yield same_value(data, self.json_value), short(self.json_value)


class SqlCheck(Check, kind="sql"):
    """What a query over a SQLite file in the workspace must return."""

    path: str
    query: str
    equals: list[list[JsonValue]]

    _inside = field_validator("path")(inside)

    def verdict(self, outcome: Outcome) -> Finding:
        """Run the query on the file opened read-only."""
        path = _within(outcome.workspace, self.path)
        if not path.is_file():
            return Finding(False, f"{self.path} does not exist")
        start = time.monotonic()
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
        try:
            connection.set_progress_handler(lambda: time.monotonic() - start > QUERY_SECONDS, 10_000)
            rows = [list(row) for row in connection.execute(self.query).fetchall()]
        except sqlite3.Error as error:
            return Finding(False, f"{self.path}: the query failed: {error}")
        finally:
            connection.close()
        return need(same_value(rows, self.equals), f"the rows are {short(rows)}", short(self.equals))


class CommandCheck(Check, kind="command"):
    """A command and the exit status that it must have; part of the format, not yet carried out."""

    unavailable = "check `command` is not available yet: it needs the sandbox"
    run: str
    exit: int = 0

    def verdict(self, outcome: Outcome) -> Finding:
        """Nothing is run."""
        return Finding(False, self.unavailable)


class TextCheck(Check, kind="text"):
    """How close the answer's text must be to the nearest of the references; the score is kept."""

    reference: list[str] = Field(min_length=1)
    metric: Literal["f1"] = "f1"
    """F1 of shared words, as SQuAD counts them."""
    at_least: float = Field(default=0.5, ge=0, le=1)

    def verdict(self, outcome: Outcome) -> Finding:
        """Score the answer against each reference and take the best."""
        text = as_text(unwrap(outcome.value))
        score = max(token_f1(text, reference) for reference in self.reference)
        return need(score >= self.at_least, f"f1 is {score:.3f}", f"at least {self.at_least:g}", score)


class ShellCheck(Check, kind="shell"):
    """A command line that the answer must be; nothing is run."""

    command: str
    normalised: bool = True
    """Compare words as a shell splits them, so that quoting and spacing do not matter."""

    def verdict(self, outcome: Outcome) -> Finding:
        """Compare the command lines."""
        text = as_text(unwrap(outcome.value)).strip()
        alike = same_command(text, self.command) if self.normalised else text == self.command.strip()
        return need(alike, f"the command is {short(text)}", f"`{self.command}`")


def _within(workspace: Path, name: str) -> Path:
    path = (workspace / name).resolve()
    if not path.is_relative_to(workspace.resolve()):
        raise CheckFailed(f"{name} leads out of the workspace")
    return path


def _read(path: Path, name: str) -> str:
    try:
        with path.open("rb") as stream:
            raw = stream.read(FILE_LIMIT + 1)
        if len(raw) > FILE_LIMIT:
            raise CheckFailed(f"{name} is larger than {FILE_LIMIT // 1_000_000} MB")
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckFailed(f"{name} is not UTF-8 text") from error
    except OSError as error:
        raise CheckFailed(f"{name} cannot be read: {error.strerror}") from error


def _same_content(text: str, wanted: str) -> bool:
    """Compare line by line; white space at line ends does not count, and 119.0 is 119."""
    lines, others = text.strip().splitlines(), wanted.strip().splitlines()
    if [line.rstrip() for line in lines] == [line.rstrip() for line in others]:
        return True
    one, other = as_number(text), as_number(wanted)
    return one is not None and other is not None and same(one, other)
