"""Goals from files: loading, and every mistake with its file, line and field.

A goal file is YAML or JSON, a suite is JSON lines of the same object, and plain text is a goal
with every default. Loading is strict: an unknown field or a check that cannot be is refused with
the nearest right name (:func:`validate` lists all mistakes, :func:`load_goals` raises the first).
The models are re-exported, so that this module is all that others import. Nothing here runs
anything.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ...errors import UsageError
from ...tools.paths import covers
from .check_spec import (
    KINDS,
    UNAVAILABLE,
    AnswerSpec,
    CallSpecification,
    CommandSpec,
    FileSpec,
    ShellSpec,
    SqlSpec,
    Strict,
    TextSpec,
    kind_of,
)
from .model import (
    Conversation,
    Goal,
    Grants,
    Limits,
    Say,
    Stub,
    near_file,
)
from .source import (
    GOAL_SUFFIXES,
    SUITE_SUFFIXES,
    Record,
    SourceError,
    Where,
    find_source,
    parse_jsonl,
    parse_yaml,
    read_text,
    suffix_of,
)

__all__ = [
    "Conversation",
    "Goal",
    "Grants",
    "Limits",
    "Problem",
    "Say",
    "Stub",
    "load_conversations",
    "load_goals",
    "validate",
]


@dataclass(frozen=True)
class Problem:
    """One mistake in a goal file."""

    file: str
    line: int
    """From 1; 0 when no line is to blame."""
    field: str
    """Path such as ``check[0].answer.number``; empty for the whole record."""
    message: str
    suggestion: str = ""
    """The nearest right name, if there is one."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        what = f"{self.field}: {self.message}" if self.field else self.message
        return f"{place}: {what}" + (f"; did you mean `{self.suggestion}`?" if self.suggestion else "")


def load_goals(source: str | Path, tools: Collection[str] | None = None) -> list[Goal]:
    """Load goals from text, a goal file, a suite, a folder of goal files (sorted) or ``-`` (stdin).

    ``tools``: names and families that exist, to check ``tools`` against. Raises UsageError with
    the first mistake and how many there are.
    """
    text = str(source)
    if text == "-":
        return _from_stdin(sys.stdin.read())
    if not text.strip():
        raise UsageError("the goal is empty; say what should be done")
    path = find_source(text)
    if path is None:
        return [Goal(goal=text)]
    goals: list[Goal] = []
    problems: list[Problem] = []
    for item in _read(path, tools):
        if isinstance(item, Goal):
            goals.append(item)
        else:
            problems.append(item)
    _refuse(problems)
    if not goals:
        raise UsageError(f"{path}: holds no goal")
    return goals


def validate(source: str | Path, tools: Collection[str] | None = None) -> list[Problem]:
    """Return every mistake in a goal file, a suite or a folder of goal files; [] if all is well."""
    path = find_source(str(source))
    if path is None:
        raise UsageError(f"{source}: no such goal file")
    found = list(_read(path, tools))
    problems = [item for item in found if isinstance(item, Problem)]
    return problems or ([] if found else [Problem(str(path), 0, "", "holds no goal")])


def load_conversations(source: str | Path) -> list[Conversation]:
    """Load scripted sessions from JSON lines. Raises UsageError with the first mistake."""
    path = find_source(str(source))
    if path is None:
        raise UsageError(f"{source}: no such file")
    sessions: list[Conversation] = []
    problems: list[Problem] = []
    for record in _records(path):
        if isinstance(record, Problem):
            problems.append(record)
            continue
        try:
            sessions.append(Conversation.model_validate(record.data))
        except ValidationError as error:
            problems += _explain(error, record, str(path))
    _refuse(problems)
    return sessions


def _refuse(problems: list[Problem]) -> None:
    if problems:
        more = f" (and {len(problems) - 1} more: `autogpt validate` lists them)" if len(problems) > 1 else ""
        raise UsageError(f"{problems[0]}{more}")


def _from_stdin(text: str) -> list[Goal]:
    """Read a goal from text that may be a goal file's or just words."""
    try:
        records = parse_yaml(text, "-") if re.search(r"^\s*[{\"']?goal[\"']?\s*:|^\s*\{", text, re.M) else []
    except SourceError:
        records = []
    if not records or not all(isinstance(record.data, dict) for record in records):
        if not text.strip():
            raise UsageError("-: the goal on standard input is empty")
        return [Goal(goal=text.strip())]
    items = [item for record in records for item in _check_record(record, "-", Path.cwd(), None)]
    _refuse([item for item in items if isinstance(item, Problem)])
    return [item for item in items if isinstance(item, Goal)]


def _read(path: Path, tools: Collection[str] | None) -> Iterator[Goal | Problem]:
    """Yield the goals of a file or folder, and a Problem for each mistake."""
    if path.is_dir():
        for child in sorted(path.iterdir()):
            if child.suffix in GOAL_SUFFIXES and child.is_file():
                yield from _read(child, tools)
        return
    if path.suffix in (".txt", ".md"):
        text = _text(path)
        yield text if isinstance(text, Problem) else _plain(text, path)
        return
    seen: dict[str, int] = {}
    for record in _records(path):
        if isinstance(record, Problem):
            yield record
            continue
        for item in _check_record(record, str(path), path.parent.resolve(), tools):
            if isinstance(item, Goal) and seen.setdefault(item.id, record.line) != record.line:
                message = f"`{item.id}` also names line {seen[item.id]}"
                yield Problem(str(path), record.line_of(("id",)), "id", message)
            else:
                yield item


def _plain(text: str, path: Path) -> Goal | Problem:
    if not text.strip():
        return Problem(str(path), 0, "goal", "the goal is empty; say what should be done")
    goal = Goal(goal=text.strip())
    goal._base, goal._origin = path.parent.resolve(), str(path)
    return goal


def _text(path: Path) -> str | Problem:
    try:
        return read_text(path)
    except SourceError as error:
        return Problem(error.path, error.line, "", error.message)


def _records(path: Path) -> Iterator[Record | Problem]:
    """Yield the records of a YAML, JSON or JSON lines file."""
    suffix = suffix_of(path)
    if suffix not in (*SUITE_SUFFIXES, *GOAL_SUFFIXES):
        wanted = ", ".join((*GOAL_SUFFIXES, *SUITE_SUFFIXES, ".txt"))
        yield Problem(str(path), 0, "", f"is not a goal file ({wanted}); is it an input?")
        return
    text = _text(path)
    if isinstance(text, Problem):
        yield text
        return
    try:
        found: Iterable[Record | SourceError]
        found = parse_jsonl(text, str(path)) if suffix in SUITE_SUFFIXES else parse_yaml(text, str(path))
        for item in found:
            yield Problem(item.path, item.line, "", item.message) if isinstance(item, SourceError) else item
    except SourceError as error:
        yield Problem(error.path, error.line, "", error.message)


def _check_record(
    record: Record, name: str, base: Path, tools: Collection[str] | None
) -> list[Goal | Problem]:
    """Return the record's goal, or its mistakes."""
    problems: list[Goal | Problem] = []
    for where in record.repeated:
        message = "stands twice in one mapping"
        problems.append(Problem(name, record.line_of(where), _dotted(where), message))
    try:
        goal = Goal.model_validate(record.data)
    except ValidationError as error:
        return [*problems, *_explain(error, record, name)]
    goal._base, goal._origin = base, f"{name}:{record.line}"
    for where, message, suggestion in _look(goal, Path(name).name, tools):
        problems.append(Problem(name, record.line_of(where), _dotted(where), message, suggestion))
    return problems or [goal]


def _look(goal: Goal, own: str, tools: Collection[str] | None) -> Iterator[tuple[Where, str, str]]:
    """Yield (where, message, suggestion) for mistakes that need the disk or the tools to see.

    ``own``: the name of the goal's file.
    """
    if used := re.search(r"{{\s*\w+\s*}}", goal.goal):
        yield ("goal",), f"uses {used.group(0)} but `params` is empty", ""
    for index, item in enumerate(goal.inputs):
        path = goal.base / item
        if not path.exists():
            yield ("inputs", index), f"no such file: {item} (looked in {goal.base})", near_file(path)
    if goal.workspace is not None and not (goal.base / goal.workspace).is_dir():
        yield ("workspace",), f"no such folder: {goal.workspace}", ""
    for kind in ("read", "write"):
        for index, item in enumerate(getattr(goal.grants, kind, [])):
            if not (goal.base / item).resolve().is_relative_to(goal.base.resolve()):
                yield ("grants", kind, index), f"`{item}` leaves the folder through a symbolic link", ""
    for index, item in enumerate(goal.grants.write if goal.grants and goal.check else []):
        if covers(item, own):
            message = (
                f"`{item}` covers the goal file itself: its checks must lie outside what a run may write"
            )
            yield ("grants", "write", index), message, ""
    for index, check in enumerate(goal.check):
        if (kind := kind_of(check)) in UNAVAILABLE:
            yield ("check", index, kind), UNAVAILABLE[kind], ""
    known = {*(tools or ()), *(stub.name for stub in goal.stubs)}
    for index, item in enumerate(goal.tools or [] if tools is not None else []):
        if item not in known:
            yield ("tools", index), f"unknown tool `{item}`", _nearest(item, known)


_MODELS: dict[str, type[Strict]] = {
    "grants": Grants,
    "limits": Limits,
    "stubs": Stub,
    "answer": AnswerSpec,
    "calls": CallSpecification,
    "file": FileSpec,
    "sql": SqlSpec,
    "command": CommandSpec,
    "text": TextSpec,
    "shell": ShellSpec,
    "turns": Say,
}
"""The model of what stands under each field name, to find the nearest right one."""


def _explain(error: ValidationError, record: Record, name: str) -> list[Problem]:
    """Turn pydantic's findings into one line each, at the line of the field."""
    problems: list[Problem] = []
    for item in error.errors(include_url=False):
        where, message, suggestion = _place(item["loc"]), str(item["msg"]), ""
        kind = item["type"]
        if kind == "extra_forbidden":
            inner = [str(part) for part in where[:-1] if isinstance(part, str)]
            model = _MODELS[inner[-1]] if inner else (Conversation if error.title == "Conversation" else Goal)
            wrong = str(where[-1])
            message, suggestion = f"unknown field `{wrong}`", _nearest(wrong, _names(model))
            suggestion = "" if suggestion == wrong else suggestion
        elif kind == "union_tag_invalid":
            wrong = str(item["ctx"]["tag"])
            message, suggestion = f"unknown check `{wrong}`", _nearest(wrong, KINDS)
            message += "" if suggestion else f" (there are {', '.join(KINDS)})"
            where = (*where, wrong)
        elif kind == "union_tag_not_found":
            message = f"a check is one `kind: ...` pair; the kinds are {', '.join(KINDS)}"
        elif kind == "missing":
            message = "is missing"
        elif kind == "value_error":
            message = message.removeprefix("Value error, ")
        elif kind in ("model_type", "model_attributes_type"):
            whole = "" if where else "a goal "  # else the field's name stands before it
            message = f"{whole}must be a mapping of fields, not {type(item['input']).__name__}"
        else:
            message = f"{message[:1].lower()}{message[1:]} (is: {str(item['input'])[:40]!r})"
        problems.append(Problem(name, record.line_of(where), _dotted(where), message, suggestion))
    return problems


def _place(loc: tuple[int | str, ...]) -> Where:
    """Drop what pydantic adds to a location: the tag of a union's branch, the mark of a key."""
    cleaned: list[int | str] = []
    for part in loc:
        if part != "[key]" and not (cleaned[-1:] == [part] and part in KINDS):
            cleaned.append(part)
    return tuple(cleaned)


def _dotted(where: Where) -> str:
    """Write a place as people do: ``check[0].answer.number``."""
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _names(model: type[Strict]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _nearest(wrong: str, right: Iterable[str]) -> str:
    """Return the right name nearest to ``wrong``, or an empty string."""
    return next(iter(difflib.get_close_matches(wrong.lower(), list(right), n=1, cutoff=0.6)), "")
