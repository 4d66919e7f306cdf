"""Goals from files and the command line: loading, and every mistake with its file, line and field.

A goal file is YAML or JSON, a suite is JSON lines of the same object, and plain text is a goal
with every default. Loading is strict: an unknown field or check is refused with the nearest right
name or the names that exist (:func:`validate` lists all mistakes, :func:`load_goals` raises the
first). :func:`adapt` adds what the command line or calling code gives. The models are re-exported,
so that this module is all that others import. Nothing here runs anything.
"""

from __future__ import annotations

import difflib
import logging
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ...errors import UsageError
from ...text import clip, is_unicode
from ...tools.paths import covers
from ...tools.tables.read import TABLE_SUFFIXES
from .checks import Check, check_class, kinds
from .inputs import named, near_file
from .model import Conversation, Goal, Grants, Limits, Say, Stub
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
    "adapt",
    "load_conversations",
    "load_goals",
    "validate",
]

log = logging.getLogger(__name__)

Mistake = tuple[Where, str, str]
"""Where it is, the message, the nearest right name."""
SHOWN_TABLES = 4
"""Tables of a folder that are shown to the model before it begins; with more, only the list of files."""


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
        return [adapt(text)]
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
        return [adapt(text.strip())]
    items = [item for record in records for item in _check_record(record, "-", Path.cwd(), None)]
    _refuse([item for item in items if isinstance(item, Problem)])
    return [item for item in items if isinstance(item, Goal)]


def _read(path: Path, tools: Collection[str] | None) -> Iterator[Goal | Problem]:
    """Yield the goals of a file or folder, and a Problem for each mistake."""
    if path.is_dir():
        files = [child for child in sorted(path.iterdir()) if child.is_file()]
        found = {child: list(_read(child, tools)) for child in files if child.suffix in GOAL_SUFFIXES}
        goals = [item for items in found.values() for item in items if isinstance(item, Goal)]
        # a JSON file that a goal beside it reads is data, not a goal
        data = {(goal.base / name).resolve() for goal in goals for name in goal.inputs}
        for child, items in found.items():
            if child.resolve() not in data:
                yield from items
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
    return Goal(goal=text.strip()).at(path.parent.resolve(), str(path))


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
        message = "is given twice in one mapping"
        problems.append(Problem(name, record.line_of(where), _dotted(where), message))
    problems += _cut(record, name)
    try:
        goal = Goal.model_validate(record.data).at(base, f"{name}:{record.line}")
    except ValidationError as error:
        return [*problems, *_explain(error, record, name)]
    for where, message, suggestion in _look(goal, Path(name).name, tools):
        problems.append(Problem(name, record.line_of(where), _dotted(where), message, suggestion))
    return problems or [goal]


def _cut(record: Record, name: str) -> Iterator[Problem]:
    """Yield a Problem for each text that was surely meant to go on after an unquoted `` #``.

    ``#5`` or ``#tag`` is text; ``# words`` is a comment by custom, and only a warning after a goal.
    """
    for where, left_out in record.cut.items():
        message = f"YAML leaves out `{clip(left_out, 40)}`: an unquoted ` #` begins a comment; quote the text"
        problem = Problem(name, record.line_of(where), _dotted(where), message)
        if re.match(r"#\w", left_out):
            yield problem
        elif where == ("goal",):
            log.warning("%s", problem)


def _look(goal: Goal, own: str, tools: Collection[str] | None) -> Iterator[Mistake]:
    """Yield (where, message, suggestion) for mistakes that need the disk or the tools to see.

    ``own``: the name of the goal's file.
    """
    if used := re.search(r"{{\s*\w+\s*}}", goal.goal):
        yield ("goal",), f"uses {used.group(0)} but `params` is empty", ""
    for index, item in enumerate(goal.inputs):
        path = goal.base / item
        if not path.exists():
            missing = f"no such file: {item} (looked in {goal.base})"
            yield ("inputs", index), "a link to nothing" if path.is_symlink() else missing, near_file(path)
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
        if check.unavailable:
            yield ("check", index, check.kind), check.unavailable, ""
    known = {*(tools or ()), *(stub.name for stub in goal.stubs)}
    for index, item in enumerate(goal.tools or [] if tools is not None else []):
        if item not in known:
            yield ("tools", index), f"unknown tool `{item}`", _nearest(item, known)


def _explain(error: ValidationError, record: Record, name: str) -> list[Problem]:
    """Turn pydantic's findings into one line each, at the line of the field."""
    model = Conversation if error.title == "Conversation" else Goal
    return [
        Problem(name, record.line_of(where), _dotted(where), message, suggestion)
        for where, message, suggestion in _findings(error.errors(include_url=False), model)
    ]


def _findings(errors: Sequence[Any], model: type[BaseModel], above: Where = ()) -> Iterator[Mistake]:
    """Yield (where, message, suggestion) of errors in data of ``model`` found at ``above``."""
    for item in errors:
        kind, context = item["type"], item.get("ctx", {})
        inner: Where = tuple(part for part in item["loc"] if part != "[key]")
        repeated = above[-1:] == inner[:1]  # `calls` is both the kind and its only field
        where, message, suggestion = (*above, *inner[repeated:]), str(item["msg"]), ""
        if kind == "check_fields":
            found = check_class(context["kind"])
            yield from _findings(context["errors"], found or Check, (*where, context["kind"]))
            continue
        if kind == "extra_forbidden":
            wrong, names = str(inner[-1]), _names(_model_at(model, inner[:-1]))
            message, suggestion = f"unknown field `{wrong}`", _nearest(wrong, names)
            suggestion = "" if suggestion == wrong else suggestion
            message += "" if suggestion else f" (there are {', '.join(names)})"
        elif kind == "check_kind":
            wrong, names = context["kind"], kinds()
            suggestion, where = _nearest(wrong, names), (*where, wrong)
            message += "" if suggestion else f" (there are {', '.join(names)})"
        elif kind == "missing":
            message = "is missing"
        elif kind == "value_error":
            message = message.removeprefix("Value error, ")
        elif kind in ("model_type", "model_attributes_type"):
            whole = "" if where else "a goal "  # otherwise the field's name comes first
            message = f"{whole}must be a mapping of fields, not {type(item['input']).__name__}"
        elif kind != "check_shape":
            message = f"{message[:1].lower()}{message[1:]} (is: {str(item['input'])[:40]!r})"
        yield where, message, suggestion


def _model_at(model: type[BaseModel], where: Where) -> type[BaseModel]:
    """Return the model of the part at ``where`` in data of ``model``."""
    for part in where:
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        if part in fields:
            model = _model_in(fields[str(part)].annotation) or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _dotted(where: Where) -> str:
    """Write a place as people do: ``check[0].answer.number``."""
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _nearest(wrong: str, right: Iterable[str]) -> str:
    """Return the right name nearest to ``wrong``, or an empty string."""
    return next(iter(difflib.get_close_matches(wrong.lower(), list(right), n=1, cutoff=0.6)), "")


def adapt(
    goal: Goal | str,
    inputs: Sequence[str | Path] = (),
    workspace: str | Path | None = None,
    write: Sequence[str] = (),
) -> Goal:
    """Return ``goal`` (or a goal of this text) with what the command line or calling code adds.

    Paths of a goal file are relative to its folder, added ones to the current folder. ``workspace`` is
    worked in as it is, instead of a fresh copy: all of it may be read, and nothing written that
    ``write``, the goal's grants or a person at the terminal does not allow. ``write`` are files or
    patterns, relative to the goal's folder (or ``workspace``), that are delivered there; ``.`` is
    everything. Raises UsageError.
    """
    try:
        goal = goal if isinstance(goal, Goal) else Goal(goal=goal)
        if not (inputs or workspace or write):
            return goal
        body = goal.model_dump(mode="json", by_alias=True)
        base, added = goal.base, [str(Path(item).expanduser().absolute()) for item in inputs]
        body["inputs"] = [*goal.inputs, *added]
        if workspace is not None:
            base, body["workspace"] = Path(workspace).expanduser().resolve(), "."
            if not base.is_dir():
                raise UsageError(f"{workspace}: no such folder to work in")
            body["inputs"] = _in_place(base, [*(str(goal.base / name) for name in goal.inputs), *added])
        if write or workspace is not None:
            grants = body.get("grants") or {"read": ["."]}
            body["grants"] = {**grants, "write": [*grants.get("write", []), *write]}
        changed = Goal.model_validate(body)
        for name in write:
            if not (base / name).resolve().is_relative_to(base.resolve()):
                raise UsageError(f"--write: `{name}` leaves {base.resolve()} through a symbolic link")
    except ValidationError as error:
        where, message, _ = next(_findings(error.errors(include_url=False), Goal))
        place = _dotted(where)
        place = "--write" if write and place.startswith("grants.write") else place
        raise UsageError(f"{place}: {message}" if place else message) from error
    return changed.at(base, goal.origin)


def _in_place(folder: Path, inputs: Sequence[str]) -> list[str]:
    """Return the inputs of a run in ``folder`` as paths below it; without any, what the folder offers.

    The folder itself means the list of its files. A few tables in it become inputs too, so that the model
    sees their columns.
    """
    if not inputs:
        names = sorted(path.name for path in folder.iterdir() if is_unicode(path.name))
        tables = [name for name in names if name.lower().endswith(TABLE_SUFFIXES)]
        return [*(tables if len(tables) <= SHOWN_TABLES else []), "."]
    found = []
    for name in inputs:
        path = named(Path(name))
        found.append(path.relative_to(folder).as_posix() if path.is_relative_to(folder) else name)
    return found
