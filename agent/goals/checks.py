"""Checks carried out: each is a verdict for the user and, together, the reward for training.

A check looks at the answer, at the workspace as the run left it, and at the calls that reached the
goal's stubs; it changes nothing. A check that cannot be carried out (a file is missing, a query is
wrong) has failed, and its detail says why. Limits: a file is read up to 10 MB, a query may take
5 seconds, and a path that leads out of the workspace is never opened.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .check_spec import (
    UNAVAILABLE,
    AnswerCheck,
    AnswerSpec,
    CallsCheck,
    CallSpecification,
    Check,
    FileCheck,
    FileSpec,
    ShellCheck,
    SqlCheck,
    SqlSpec,
    TextCheck,
    TextSpec,
    kind_of,
)
from .compare import (
    as_items,
    as_number,
    as_text,
    chrf,
    normal_text,
    rouge_l,
    same,
    same_command,
    same_items,
    same_value,
    token_f1,
    unwrap,
)
from .model import Goal

FILE_LIMIT = 10_000_000
QUERY_SECONDS = 5.0

Call = tuple[str, Mapping[str, Any]]
"""Name and arguments of a call that a stub received."""


@dataclass(frozen=True)
class CheckVerdict:
    """What one check found."""

    index: int
    kind: str
    passed: bool
    detail: str
    """One line: what was found, and what was wanted when it failed."""
    score: float | None = None
    """0 to 1, for checks that measure likeness."""


class _Failed(Exception):
    """A check did not pass; the message is its detail."""


def run_checks(
    goal: Goal, value: Any, workspace: Path, stub_calls: Sequence[Call] = ()
) -> list[CheckVerdict]:
    """Carry out the goal's checks, in order.

    ``value``: the final answer, handles already replaced by what they stand for. ``workspace``:
    the run's folder after the last step. ``stub_calls``: calls to the goal's stubs, in order.
    """
    verdicts = []
    for index, check in enumerate(goal.check):
        kind, score = kind_of(check), None
        try:
            detail, score = _run(check, value, workspace, stub_calls)
            passed = True
        except _Failed as failure:
            passed, detail = False, str(failure)
            score = failure.args[1] if len(failure.args) > 1 else None
        verdicts.append(CheckVerdict(index, kind, passed, detail, score))
    return verdicts


def reward(verdicts: Sequence[CheckVerdict]) -> float | None:
    """Return the fraction of checks passed, or None when there are none."""
    return sum(verdict.passed for verdict in verdicts) / len(verdicts) if verdicts else None


def _run(check: Check, value: Any, workspace: Path, calls: Sequence[Call]) -> tuple[str, float | None]:
    """Return (detail, score) of a check that passes; raise _Failed otherwise."""
    match check:
        case AnswerCheck(answer=spec):
            return _answer(spec, value), None
        case CallsCheck(calls=wanted):
            return _calls(wanted, calls), None
        case FileCheck(file=spec):
            return _file(spec, workspace), None
        case SqlCheck(sql=spec):
            return _sql(spec, workspace), None
        case TextCheck(text=spec):
            return _text(spec, as_text(unwrap(value)))
        case ShellCheck(shell=spec):
            text = as_text(unwrap(value)).strip()
            alike = same_command(text, spec.command) if spec.normalised else text == spec.command.strip()
            return _need(alike, f"the command is {_short(text)}", f"`{spec.command}`"), None
    raise _Failed(UNAVAILABLE[kind_of(check)])


def _need(passed: bool, found: str, wanted: str) -> str:
    """Return ``found`` if ``passed``; else raise with what was wanted."""
    if not passed:
        raise _Failed(f"{found}, wanted {wanted}")
    return found


def _short(value: Any) -> str:
    """Show a value in at most 80 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _answer(spec: AnswerSpec, value: Any) -> str:
    found = f"the answer is {_short(value)}"
    if spec.items is not None:
        return _need(same_items(as_items(value), spec.items), found, f"the items {_short(spec.items)}")
    if spec.equals is not None:
        alike = same_value(value, spec.equals) or same_value(unwrap(value), unwrap(spec.equals))
        return _need(alike, found, _short(spec.equals))
    scalar = unwrap(value)
    if spec.number is not None:
        number = as_number(scalar)
        if spec.tolerance is None:
            return _need(number is not None and same(number, spec.number), found, f"{spec.number:g}")
        near = number is not None and abs(number - spec.number) <= spec.tolerance
        return _need(near, found, f"{spec.number:g} ± {spec.tolerance:g}")
    if spec.one_of is not None:
        right = any(same(scalar, choice) for choice in spec.one_of)
        return _need(right, found, f"one of {_short(spec.one_of)}")
    expression = spec.matches or ""
    return _need(bool(re.search(expression, as_text(scalar), re.I)), found, f"a match of /{expression}/")


def _calls(wanted: Sequence[CallSpecification], calls: Sequence[Call]) -> str:
    """Match wanted and made calls one to one (augmenting paths: alternatives may overlap)."""
    found = f"{len(calls)} calls ({', '.join(name for name, _ in calls) or 'none'})"
    if len(wanted) != len(calls):
        raise _Failed(f"{found}, wanted {len(wanted)} ({', '.join(call.name for call in wanted) or 'none'})")
    holder: dict[int, int] = {}

    def place(number: int, tried: set[int]) -> bool:
        for index, call in enumerate(calls):
            if index not in tried and _accepts(wanted[number], call):
                tried.add(index)
                if index not in holder or place(holder[index], tried):
                    holder[index] = number
                    return True
        return False

    for number, call in enumerate(wanted):
        if not place(number, set()):
            raise _Failed(f"{found}: none is {call.name} with {_short(call.arguments)}")
    return found


def _accepts(wanted: CallSpecification, call: Call) -> bool:
    name, arguments = call
    given = {key: value for key, value in arguments.items() if value is not None}
    if name != wanted.name or not given.keys() <= wanted.arguments.keys():
        return False
    for key, choices in wanted.arguments.items():
        if key not in given:
            if None not in choices:
                return False
        elif not any(same_value(given[key], choice) for choice in choices if choice is not None):
            return False
    return True


def _inside(workspace: Path, name: str) -> Path:
    path = (workspace / name).resolve()
    if not path.is_relative_to(workspace.resolve()):
        raise _Failed(f"{name} leads out of the workspace")
    return path


def _file(spec: FileSpec, workspace: Path) -> str:
    path = _inside(workspace, spec.path)
    if spec.exists is False:
        found = f"{spec.path} exists" if path.exists() else f"there is no {spec.path}"
        return _need(not path.exists(), found, "no such file")
    if not path.exists():
        raise _Failed(f"{spec.path} does not exist")
    if spec.equals is None and spec.contains is None and spec.matches is None and spec.json_value is None:
        return f"{spec.path} exists"
    text = _read(path, spec.path)
    found = f"{spec.path} holds {_short(text)}"
    if spec.equals is not None:
        _need(_same_content(text, spec.equals), found, _short(spec.equals))
    for part in [spec.contains] if isinstance(spec.contains, str) else spec.contains or []:
        _need(normal_text(part) in normal_text(text), found, f"a text with {_short(part)}")
    if spec.matches is not None:
        _need(bool(re.search(spec.matches, text, re.I)), found, f"a match of /{spec.matches}/")
    if spec.json_value is not None:
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise _Failed(f"{spec.path} is not JSON: {error.msg} (line {error.lineno})") from error
        _need(same_value(data, spec.json_value), found, _short(spec.json_value))
    return found


def _read(path: Path, name: str) -> str:
    try:
        with path.open("rb") as stream:
            raw = stream.read(FILE_LIMIT + 1)
        if len(raw) > FILE_LIMIT:
            raise _Failed(f"{name} is larger than {FILE_LIMIT // 1_000_000} MB")
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Failed(f"{name} is not UTF-8 text") from error
    except OSError as error:
        raise _Failed(f"{name} cannot be read: {error.strerror}") from error


def _same_content(text: str, wanted: str) -> bool:
    """Compare line by line; white space at line ends does not count, and 119.0 is 119."""
    lines, others = text.strip().splitlines(), wanted.strip().splitlines()
    if [line.rstrip() for line in lines] == [line.rstrip() for line in others]:
        return True
    one, other = as_number(text), as_number(wanted)
    return one is not None and other is not None and same(one, other)


def _sql(spec: SqlSpec, workspace: Path) -> str:
    path = _inside(workspace, spec.path)
    if not path.is_file():
        raise _Failed(f"{spec.path} does not exist")
    start = time.monotonic()
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        connection.set_progress_handler(lambda: time.monotonic() - start > QUERY_SECONDS, 10_000)
        rows = [list(row) for row in connection.execute(spec.query).fetchall()]
    except sqlite3.Error as error:
        raise _Failed(f"{spec.path}: the query failed: {error}") from error
    finally:
        connection.close()
    return _need(same_value(rows, spec.equals), f"the rows are {_short(rows)}", _short(spec.equals))


def _text(spec: TextSpec, text: str) -> tuple[str, float]:
    if spec.metric == "f1":
        score = max(token_f1(text, reference) for reference in spec.reference)
    else:
        score = (chrf if spec.metric == "chrf" else rouge_l)(text, spec.reference)
    found = f"{spec.metric} is {score:.3f}"
    if score < spec.at_least:
        raise _Failed(f"{found}, wanted at least {spec.at_least:g}", score)
    return found, score
