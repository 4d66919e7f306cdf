"""The verdict on a finished run: achieved, answered, or not met and why.

A goal with checks is judged by them alone. Without checks nobody has said what is right, so the best that a
run can earn is ``answered``; and it is ``not_met`` where its own record contradicts the answer:

1. an input could not be read, and no call supplied anything else;
2. every call failed or was refused, or every call that could have had the effect that was asked for;
3. a file that a write grant names is missing, or was delivered under another name;
4. the answer is empty, is a piece of the question, or names an effect that no call had;
5. the goal orders a named file to be deleted, moved or copied, and no call had any effect.

All of this is read from the events and from which files exist, never from what the model says about itself.
A doubt is decided for the answer: a rule applies only where its words leave no other reading.

Limits: the wording rules (a piece of the question, an effect) know English only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...errors import ToolError
from ...text import clip
from ...tools import paths
from ...tools.base import Effect
from ...tools.handles import text_form
from ..goals.checks import CheckVerdict
from ..record.events import (
    Event,
    ModelTurn,
    PersonAnswered,
    RunStarted,
    ToolOutcome,
)
from ..record.record import Record
from ..record.state import CORE_CALLS, State, input_names
from .workspace import original

MAX_CAUSE = 200
"""Characters of a cause: it is shown in one line."""


@dataclass(frozen=True)
class Verdict:
    """How a finished run ends."""

    status: Literal["achieved", "answered", "not_met"]
    cause: str


def verdict_of(
    events: Sequence[Event],
    answer: Any,
    checks: Sequence[CheckVerdict],
    workspace: Path,
    grants: Sequence[str] = (),
    delivered: Sequence[str] = (),
) -> Verdict:
    """Return the verdict on a run that has finished with ``answer`` (handles replaced by their values).

    ``checks`` are the verdicts of the goal's checks, ``grants`` the patterns of files that the run may write,
    ``delivered`` the files that reached the goal's folder, by the names that they have there.
    """
    if checks:
        met = all(check.passed for check in checks)
        return Verdict("achieved", "finished") if met else Verdict("not_met", "a check failed")
    run = _Run(events, answer)
    for rule in (
        _unread,
        lambda run: _missing(run, workspace, grants, delivered),
        _failed_calls,
        _empty,
        _piece_of_question,
        _claimed_effect,
        _order_left,
    ):
        cause = rule(run)
        if cause:
            return Verdict("not_met", clip(cause, MAX_CAUSE))
    return Verdict("answered", "finished")


def unread_inputs(state: State) -> dict[str, str]:
    """Return the inputs that could not be read and that the question needs, with the error of each.

    Where other inputs were read, only those count that the question names, if it names none of the others.
    """
    return _needed(state.unread, state)


def _needed(unread: Mapping[str, str], state: State) -> dict[str, str]:
    others = [path for path in state.inputs if path not in unread and path != "."]  # the folder itself
    if others:
        if any(_names(state.said, path) for path in others):
            return {}
        return {path: error for path, error in unread.items() if _names(state.said, path)}
    return dict(unread)


def _names(text: str, path: str) -> bool:
    return path.rsplit("/", 1)[-1].casefold() in text.casefold()


@dataclass(frozen=True)
class _Call:
    """A call of the model to a tool, with what came of it."""

    tool: str
    arguments: Mapping[str, Any]
    outcome: ToolOutcome
    effect: str
    built_in: bool

    @property
    def done(self) -> bool:
        return self.outcome.state == "done"

    @property
    def failed(self) -> bool:
        """Whether it failed or was refused; an outcome that a crash cut off is neither."""
        return self.outcome.state in ("failed", "refused")

    @property
    def has_effect(self) -> bool:
        return self.effect != Effect.READ

    @property
    def error(self) -> str:
        """What came of a call that failed, with its tool."""
        text = self.outcome.preview
        return f"{self.tool}: {text.removeprefix('error: ')}" if text else f"{self.tool} failed"

    def touches(self, file: str) -> bool:
        """Return whether the call names ``file``, in its arguments or its result."""
        said = json.dumps(self.arguments, ensure_ascii=False, default=str) + self.outcome.preview
        return file.casefold() in said.casefold()


class _Run:
    """What the rules read of a run."""

    def __init__(self, events: Sequence[Event], answer: Any) -> None:
        started = events[0]
        assert isinstance(started, RunStarted)
        self.started = started
        self.state = State.of(events)
        self.question = self.state.said
        self.answer = answer
        self.text = text_form(answer).strip() if answer is not None else ""
        self.calls = list(_calls(events))
        self.inspected = [one for one in events if isinstance(one, ToolOutcome) and one.by == "driver"]
        self.person_helped = any(isinstance(one, PersonAnswered) and one.decision is None for one in events)

    @property
    def handles(self) -> set[str]:
        """The handles whose values the answer is, or quotes."""
        said = self.state.answer
        found = re.findall(r"^(\$\d+)$|\{(\$\d+)\}", said) if isinstance(said, str) else []
        return {whole or quoted for whole, quoted in found}

    @property
    def told(self) -> bool:
        """Whether memory holds the answer, or a person was asked and answered."""
        return self.person_helped or any(_says(one.text, self.text) for one in self.state.shown.values())

    def supplied(self, outcomes: Sequence[ToolOutcome]) -> bool:
        """Return whether one of ``outcomes`` is the answer, or says what it says."""
        return any(
            one.handle in self.handles
            or _says(one.preview, self.text)
            or _says(text_form(one.value), self.text)
            for one in outcomes
            if one.state == "done"
        )


def _calls(events: Sequence[Event]) -> Iterator[_Call]:
    tools = Record(events).specs
    asked: dict[str, Mapping[str, Any]] = {}
    turns = 0
    for event in events:
        if isinstance(event, ModelTurn):
            turns += 1
            if event.call and event.call["name"] not in CORE_CALLS:
                asked[f"c{turns}"] = event.call["arguments"]
        elif isinstance(event, ToolOutcome) and event.by == "model":
            spec = tools.get(event.tool)
            effect, source = (spec.effect, spec.source) if spec else (str(Effect.READ), "built-in")
            yield _Call(event.tool, asked.get(event.call_id, {}), event, effect, source == "built-in")


def _says(text: str, answer: str) -> bool:
    """Return whether ``answer`` stands in ``text`` as whole words."""
    if not answer:
        return False
    return re.search(rf"(?<![\w.]){re.escape(answer)}(?!\w)", text, re.I) is not None


# --- 1: what could not be read ------------------------------------------------------------------


def _unread(run: _Run) -> str | None:
    state = run.state
    failed = {
        str(path): call.error.partition(": ")[2]
        for call in run.calls
        if call.failed and not call.has_effect and (path := call.arguments.get("path")) in state.inputs
    }
    read = {path for call in run.calls if call.done for path in state.inputs if path in _values(call)}
    failed = {path: why for path, why in {**failed, **state.unread}.items() if path not in read}
    unread = _needed(failed, state)
    if not unread or run.told:
        return None
    if len(unread) == len(state.inputs) and any(_supplies(call, run) for call in run.calls):
        return None
    if run.supplied([*run.inspected, *(one.outcome for one in run.calls if one.tool == "files.list")]):
        return None
    path, why = next(iter(unread.items()))
    why = why.removeprefix("error: ")
    return f"an input could not be read: {why if path in why else f'{path}: {why}'}"


def _supplies(call: _Call, run: _Run) -> bool:
    """Return whether the call brought something in: a list of names or a sum of made-up numbers does not."""
    if not call.done or call.tool == "files.list" or (call.has_effect and call.built_in):
        return False
    if call.outcome.blob is None and _leaves_nothing(call.outcome.value):
        return False
    if call.tool == "calculator":
        numbers = re.findall(r"(?<![\w$.])\d+(?:\.\d+)?", str(call.arguments.get("expression", "")))
        known = set(re.findall(r"\d+(?:\.\d+)?", run.question))
        return bool(numbers) and set(numbers) <= known
    return True


def _values(call: _Call) -> list[str]:
    return [value for value in call.arguments.values() if isinstance(value, str)]


# --- 2: what failed or was refused ----------------------------------------------------------------

_ASKS_EFFECT = re.compile(
    r"\b(write|save|store|export|append|create|copy|duplicate|move|rename|delete|remove|erase|replace|send"
    r"|upload|install)\b",
    re.I,
)

_ASKS_FILE = re.compile(r"\b(files?|folders?|names?|which|where|list)\b", re.I)
"""A question that a list of the folder can answer; any other names a file at best as what it is about."""


def _failed_calls(run: _Run) -> str | None:
    if run.calls and all(call.failed for call in run.calls):
        seen = [one for one in run.inspected if one.tool != "files.list" or _ASKS_FILE.search(run.question)]
        if run.told or run.supplied(seen):
            return None
        count = "the call" if len(run.calls) == 1 else "every call"
        return f"{count} failed: {run.calls[-1].error}"
    tried = [call for call in run.calls if call.has_effect]
    if tried and all(call.failed for call in tried) and _ASKS_EFFECT.search(run.question):
        return tried[-1].error
    return None


# --- 3: what was to be delivered -------------------------------------------------------------------


def _missing(run: _Run, workspace: Path, grants: Sequence[str], delivered: Sequence[str]) -> str | None:
    for path in delivered:
        wanted = original(path, run.started.run)
        if wanted is not None:
            return f"{wanted} was changed by someone else meanwhile; the result is in {path}"
    for name in map(_file_named, grants):
        if name is None or (workspace / name).exists() or _was_there(run, name):
            continue
        if run.started.folder and (Path(run.started.folder) / name).is_dir():
            continue  # the grant covers a folder's files, none of which has to come about
        failed = next((call for call in reversed(run.calls) if call.has_effect and call.failed), None)
        if failed is not None:
            return f"{name} was not written: {failed.error}"
        others = [file for call in run.calls if call.done and call.has_effect for file in _left(call)]
        instead = f"; the run wrote {', '.join(dict.fromkeys(others))}" if others else ""
        return f"{name} was not written{instead}"
    return None


def _file_named(grant: str) -> str | None:
    """Return the file that a write grant names; None for a glob or a folder."""
    if any(mark in grant for mark in "*?[") or grant.endswith("/"):
        return None
    try:
        return paths.normal(grant)
    except ToolError:
        return None


def _was_there(run: _Run, name: str) -> bool:
    """Return whether the file was there to begin with, so that its absence is an effect, such as a move."""
    if name in input_names(run.started.goal):
        return True
    if run.started.goal.get("workspace") is not None and name in run.started.destinations:
        return True
    return any(name in files and files[name] is None for files in map(_files, run.calls))


def _files(call: _Call) -> Mapping[str, Any]:
    return call.outcome.facts.get("files", {})


def _left(call: _Call) -> list[str]:
    """Return the files that the call wrote, as far as its result says so."""
    return [name for name, fact in _files(call).items() if fact is not None]


# --- 4: what the answer says -------------------------------------------------------------------------

_CHOICE = re.compile(
    r"\b(or|which|whether|either|between|versus|vs|choose|pick|select|among|following)\b|[:;\n\"“”„«»`]|(?<!\w)'",
    re.I,
)
"""Marks of a question that holds its own answer: a choice, a list, a quotation."""
_QUANTITY = re.compile(
    r"(how (many|much)|(what|calculate|compute|find|give|tell|show)\b.{0,12}?\bthe "
    r"(sum|total|average|mean|median|count|number|minimum|maximum|difference|product) of)\b",
    re.I,
)
_NUMBER_WORDS = re.compile(
    r"\d|\b(zero|no|none|nothing|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty"
    r"|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|million|half|all|some|few|many)\b",
    re.I,
)
_QUESTION = re.compile(r"(what|who|whose|whom|how|when|where|why)\b[^.?!]*[?]?$", re.I)
_ORDER = re.compile(
    r"(sum|add|count|compute|calculate|find|list|sort|read|copy|move|rename|delete|remove|save|make|convert)\b",
    re.I,
)
_LEAST_PIECE = 3
"""Words below which a piece of a question may still be its answer."""


def _empty(run: _Run) -> str | None:
    if not _leaves_nothing(run.answer):
        return None
    last = run.calls[-1].outcome.preview if run.calls and run.calls[-1].done else ""
    return f"the answer is empty: {last}" if last else "the answer is empty"


def _leaves_nothing(value: Any) -> bool:
    """Return whether a value holds nothing at all: no text, no number, no truth."""
    if isinstance(value, str):
        return value.strip().strip("\"'`\u200b\ufeff") in ("", "[]", "{}", "null")
    if isinstance(value, Mapping):
        return all(map(_leaves_nothing, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_leaves_nothing, value))
    return value is None


def _piece_of_question(run: _Run) -> str | None:
    said, asked = _words(run.text), _words(run.question)
    size = len(said)
    if not said or run.handles or run.told:
        return None
    if not any(asked[at : at + size] == said for at in range(len(asked) - size + 1)):
        return None
    question = run.question.strip()
    if _CHOICE.search(question):
        return None
    if _QUANTITY.match(question):
        repeats = not _NUMBER_WORDS.search(run.text)
    elif run.supplied([*run.inspected, *(call.outcome for call in run.calls)]):
        repeats = False
    elif _QUESTION.match(question):
        repeats = size >= _LEAST_PIECE
    else:
        repeats = said == asked and size >= _LEAST_PIECE and bool(_ORDER.match(question))
    return f'the answer only repeats the question: "{run.text}"' if repeats else None


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


_EFFECTS = {
    "delete": ("deleted|removed|erased", "delete|remove|erase"),
    "copy": ("copied|duplicated", "copy|duplicate"),
    "move": ("moved|renamed", "move|rename"),
    "write": (
        "wrote|written|saved|stored|exported|appended|created|replaced|updated|changed|edited|overwrote",
        "write|save|store|export|append|create|replace|update|change|edit|overwrite",
    ),
    "send": ("sent|e-?mailed|booked|uploaded|installed", "send|e-?mail|book|upload|install"),
}
"""Per kind of effect: how an answer claims it, and how a goal asks for it."""
_CLAIMED = "|".join(claimed for claimed, _ in _EFFECTS.values())
_FILE = r"[\w./-]*\w\.[A-Za-z][A-Za-z0-9]{0,5}\b"
_THE_FILE = rf"(?:the |your )?(?:file |folder )?['\"`]?{_FILE}['\"`]?"
_ACTIVE = re.compile(
    r"(?:(?:ok(?:ay)?|done|sure|all done)\W+)?(?:i(?: have|['’]ve)? )?(?:(?:just|now|successfully) )*"
    rf"(?P<verb>{_CLAIMED})\b(?P<what>[^\n]*)",
    re.I,
)
_PASSIVE = re.compile(
    rf"(?P<what>{_THE_FILE}) (?:was|were|is|has been|have been) (?:now |successfully )*"
    rf"(?P<verb>{_CLAIMED})\b(?P<rest>[^\n]*)",
    re.I,
)
MAX_CLAIM = 400
"""Characters of an answer in which a claim is looked for."""
_NO_CLAIM = re.compile(r"\b(no|not|nothing|none|never)\b|n['’]t\b", re.I)
_NO_ORDER = re.compile(
    r"(what|who|whose|which|when|where|why|how|is|are|was|were|did|does|do|has|have|had)\b"
    r"|.*\b(translat\w*|paraphras\w*|rephrase\w*|reword\w*|summar\w*|sentence|tense|grammar|spell\w*|poem"
    r"|story|say|repeat|quote|pretend|imagine)\b",
    re.I | re.S,
)
"""A question, or a goal about words: there an answer that names an effect may be what was asked for."""


def _claimed_effect(run: _Run) -> str | None:
    begins = run.text[:MAX_CLAIM]
    claim = _ACTIVE.match(begins) or _PASSIVE.match(begins)
    if claim is None or _NO_CLAIM.search(claim[0]) or _NO_ORDER.match(run.question.strip()):
        return None
    read = [call.outcome for call in run.calls if not call.has_effect]
    if run.supplied([*run.inspected, *read]):
        return None
    kind = next(kind for kind, (claimed, _) in _EFFECTS.items() if re.fullmatch(claimed, claim["verb"], re.I))
    asked = re.search(rf"\b({_EFFECTS[kind][1]})\b", run.question, re.I)
    files = re.findall(_FILE, claim[0])
    if not asked and (not files or kind == "send"):
        return None
    if kind == "delete" and not re.match(_THE_FILE, claim["what"].strip(), re.I):
        kind = "write" if files else kind  # lines or columns are removed by writing the file anew
    acted = [call for call in run.calls if not call.failed and (call.has_effect or not call.built_in)]
    if any(_had(call, kind, files) for call in acted):
        return None
    return f'the answer says "{clip(claim[0], 80)}", but no call had this effect'


_FILE_ORDER = re.compile(rf"(?:please )?(?:delete|remove|erase|rename|move|copy) {_THE_FILE}", re.I)


def _order_left(run: _Run) -> str | None:
    """An order that names a file as its object is not carried out by an answer alone."""
    order = _FILE_ORDER.match(run.question.strip())
    if order is None or any(not call.failed and (call.has_effect or not call.built_in) for call in run.calls):
        return None
    return f'no call did what was asked: "{clip(order[0], 80)}"'


def _had(call: _Call, kind: str, files: Sequence[str]) -> bool:
    """Return whether the call can have had the effect; a tool that is not built in gets the doubt."""
    if not call.built_in or call.outcome.state == "uncertain":
        return True
    if kind == "send":
        return False
    if not files:
        return True
    if kind == "delete":
        return call.tool == "files.move" and call.touches(files[0])
    if len(files) > 1 and call.tool == {"copy": "files.move", "move": "files.write"}.get(kind):
        return False  # a move keeps no original, and a written copy leaves one
    return call.touches(files[-1].rsplit("/", 1)[-1])
