"""What a goal file may ask for after the run: one typed model per kind of check.

A check in a goal file is a mapping with one key, its kind: ``- answer: {number: 12}``. The models
keep that shape, so that a goal dumped into the journal loads again. They only describe; carrying
a check out is the work of ``checks``. ``None`` means "not given" everywhere here, so a check
cannot ask for JSON null.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    field_validator,
    model_validator,
)

Scalar = str | int | float | bool

KINDS = ("answer", "calls", "file", "sql", "command", "text", "shell")
"""Names of all kinds, in the order of the documentation."""

UNAVAILABLE = {"command": "check `command` is not available yet: it needs the sandbox"}
"""Kinds that are part of the format but cannot be carried out by this version."""


class Strict(BaseModel):
    """Base of every part of a goal: unknown fields are mistakes, not extensions."""

    model_config = ConfigDict(
        extra="forbid", serialize_by_alias=True, validate_by_name=True, validate_by_alias=True
    )


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


def _one_of(part: Strict, names: tuple[str, ...]) -> None:
    given = [name for name in names if getattr(part, name) is not None]
    if len(given) != 1:
        says = " and ".join(f"`{name}`" for name in given) or "none"
        raise ValueError(f"give exactly one of {', '.join(names)} (given: {says})")


class AnswerSpec(Strict):
    """What the final answer must be; exactly one of the first five fields."""

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
    def _one(self) -> AnswerSpec:
        _one_of(self, ("equals", "number", "one_of", "matches", "items"))
        if self.tolerance is not None and self.number is None:
            raise ValueError("`tolerance` belongs to `number`")
        return self


class CallSpecification(Strict):
    """One call that a stub must have received."""

    name: str
    arguments: dict[str, list[JsonValue]] = {}
    """Per argument its acceptable values; null among them: may be left out."""


class FileSpec(Strict):
    """What a file must be after the run; ``path`` is relative to the workspace."""

    path: str
    equals: str | None = None
    """The whole text; white space at its end does not count."""
    contains: str | list[str] | None = None
    matches: str | None = None
    json_value: JsonValue = Field(default=None, alias="json")
    exists: bool | None = None

    _inside = field_validator("path")(inside)
    _pattern = field_validator("matches")(pattern)

    @model_validator(mode="after")
    def _some(self) -> FileSpec:
        asked = (self.equals, self.contains, self.matches, self.json_value, self.exists)
        if all(value is None for value in asked):
            raise ValueError("give at least one of equals, contains, matches, json, exists")
        if self.exists is False and any(value is not None for value in asked[:-1]):
            raise ValueError("`exists: false` goes with no other demand")
        return self


class SqlSpec(Strict):
    """What a query over a SQLite file in the workspace must return."""

    path: str
    query: str
    equals: list[list[JsonValue]]

    _inside = field_validator("path")(inside)


class CommandSpec(Strict):
    """A command and the exit status it must have; carried out in the sandbox only."""

    run: str
    exit: int = 0


class TextSpec(Strict):
    """How close the answer's text must be to a reference; the score is kept."""

    reference: list[str] = Field(min_length=1)
    metric: Literal["f1", "chrf", "rouge_l"] = "f1"
    at_least: float = Field(default=0.5, ge=0, le=1)


class ShellSpec(Strict):
    """A command line that the answer must be; nothing is run."""

    command: str
    normalised: bool = True
    """Compare words as a shell splits them, so that quoting and spacing do not matter."""


class AnswerCheck(Strict):
    """The final answer."""

    answer: AnswerSpec


class CallsCheck(Strict):
    """Exactly these calls were made to stubs, in any order; an empty list: none was made."""

    calls: list[CallSpecification]


class FileCheck(Strict):
    """A file in the workspace."""

    file: FileSpec


class SqlCheck(Strict):
    """Rows in a SQLite file in the workspace."""

    sql: SqlSpec


class CommandCheck(Strict):
    """A command's exit status."""

    command: CommandSpec


class TextCheck(Strict):
    """Likeness of the answer to reference texts."""

    text: TextSpec


class ShellCheck(Strict):
    """The answer is this command line."""

    shell: ShellSpec


def _kind(value: Any) -> str | None:
    if isinstance(value, Strict):
        return next(iter(type(value).model_fields))
    if isinstance(value, dict) and len(value) == 1:
        return str(next(iter(value)))
    return None


Check = Annotated[
    Annotated[AnswerCheck, Tag("answer")]
    | Annotated[CallsCheck, Tag("calls")]
    | Annotated[FileCheck, Tag("file")]
    | Annotated[SqlCheck, Tag("sql")]
    | Annotated[CommandCheck, Tag("command")]
    | Annotated[TextCheck, Tag("text")]
    | Annotated[ShellCheck, Tag("shell")],
    Discriminator(_kind),
]
"""Any check; the only key of its mapping tells the kind."""


def kind_of(check: Strict) -> str:
    """Return the kind of a check, e.g. ``answer``."""
    return next(iter(type(check).model_fields))
