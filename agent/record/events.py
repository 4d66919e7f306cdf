"""The journal's words: one typed record for everything that can happen in a run.

A run is an append-only list of these events. The loop decides from nothing else, so whatever it
needs (facts for narrowing, time, limits) is in here. Unknown types read from a newer journal are
kept as :class:`Unknown`, never dropped. Storing is ``journal``'s work; this module does no I/O.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ...labels import Label
from ...text import Prompting


class Event(BaseModel):
    """Base of all events. ``at`` is seconds since the epoch, set by whoever appends."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    at: float = 0.0


class ToolSpec(BaseModel):
    """A tool as the run knew it when it started."""

    model_config = ConfigDict(frozen=True)
    name: str
    description: str
    parameters: dict[str, Any]
    effect: str
    replay: str
    source: str = "built-in"
    """``built-in``, ``stub``, ``plugin:<package>``, ``caller`` or ``langchain``."""


class RunStarted(Event):
    """First event of a run; everything that must not change while it lasts."""

    type: Literal["run.started"] = "run.started"
    run: str
    goal: dict[str, Any]
    """The goal as ``Goal.model_dump(mode="json")``."""
    mode: Literal["goal", "chat", "eval"] = "goal"
    unattended: bool = True
    model: str = ""
    model_hash: str = ""
    tokenizer_hash: str = ""
    prompt_hash: str = ""
    prompting: Prompting = "names"
    tools: list[ToolSpec] = []
    """The tools that the prompt describes from the start."""
    hidden_tools: int = 0
    """How many the run has besides, which are described when they are found (:class:`ToolsShown`)."""
    grants: dict[str, Any] = {}
    grants_hash: str = ""
    limits: dict[str, Any] = {}
    seed: int = 0
    best_of: int = 1
    """Candidates that were written for each turn."""
    folder: str = ""
    """The goal's folder: its paths are relative to it, and results are delivered there."""
    destinations: dict[str, str] = {}
    """Hashes of the files there that the run may replace, as they were at the start."""
    context: int = 0
    """Tokens that the model takes, if it owns its tokens; 0 where that is not known."""
    system_tokens: int = 0
    """Of these, what the system text takes."""
    memory: bool = False
    """Whether the run has a memory: then ``remember`` and ``recall`` are calls of the core."""
    rules: int = 0
    """Version of the rules that steer the run (:data:`RULES`); 0 in records made before it was kept."""
    plan: bool = True
    """False only for measuring what planning gains: the run then starts without a plan."""
    by: str = ""
    """Who began it; empty in records of before this was kept."""


class PersonSaid(Event):
    """A message of the user in a chat session."""

    type: Literal["person.said"] = "person.said"
    text: str
    inputs: list[str] = []
    by: str = ""


class ModelTurn(Event):
    """One answer of the model, with the exact tokens: the training sample of tomorrow."""

    type: Literal["model.turn"] = "model.turn"
    text: str
    call: dict[str, Any] | None
    """``{"name": ..., "arguments": {...}}``, or None when the text was no valid call."""
    invalid: str | None = None
    prompt_refused: bool = False
    """The model could not take the prompt (``invalid`` says why), so asking it again would not help."""
    ids: list[int] = []
    forced: list[bool] = []
    """Per id: True where the grammar left no choice."""
    copied: list[int] = []
    """Places in ``ids`` where the model confirmed a draft: chosen like any other token."""
    logprobs: list[float] = []
    prompt_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0
    allowed: list[str] = []
    """Names of the calls that the mask allowed."""
    value: float | None = None
    """The chance of success that the model's value head saw after this turn, where it was asked."""


class ToolIntent(Event):
    """Committed before a call is carried out; a crash after it is found by its missing outcome."""

    type: Literal["tool.intent"] = "tool.intent"
    call_id: str
    tool: str
    arguments: dict[str, Any]
    """As the model said them, handles not yet replaced."""
    arguments_hash: str = ""
    """Hash of the arguments with handles resolved: what will really be done."""
    effect: str = "read"
    replay: str = "pure"
    by: Literal["model", "driver"] = "model"


class ToolOutcome(Event):
    """What a call gave. ``value`` holds small results, ``blob`` the hash of a large one."""

    type: Literal["tool.outcome"] = "tool.outcome"
    call_id: str
    tool: str
    state: Literal["done", "failed", "refused", "uncertain"]
    handle: str | None = None
    """``$1``, ``$2``, ... for calls that gave a value."""
    preview: str = ""
    """What the model sees: the bounded result, or the error."""
    value: Any = None
    blob: str | None = None
    facts: dict[str, dict[str, Any]] = {}
    label: Label = Label.UNTRUSTED
    seconds: float = 0.0
    by: Literal["model", "driver"] = "model"


class RecalledEntry(BaseModel):
    """An entry of memory as the model was shown it."""

    model_config = ConfigDict(frozen=True)
    id: int
    kind: str
    text: str
    """One bounded line: what stands in the prompt."""
    label: Label
    hash: str
    score: float = 0.0


class ToolsShown(Event):
    """Tools that were not described so far and now are: those that fit a message, or the model's query.

    They may be planned from here on, as long as the prompt shows them.
    """

    type: Literal["tools.shown"] = "tools.shown"
    query: str
    tools: list[ToolSpec]
    """In the run's order; empty when all that fit were described already."""
    seconds: float = 0.0
    by: Literal["model", "driver"] = "model"


class MemoryRecalled(Event):
    """What a recall brought: once per goal or message by the driver, else by the model's call."""

    type: Literal["memory.recalled"] = "memory.recalled"
    query: str
    entries: list[RecalledEntry]
    """In the order shown, oldest first; empty when nothing was relevant."""
    considered: int = 0
    label: Label = Label.TRUSTED
    """Merged from the entries: what is made of them is trusted no more than this."""
    seconds: float = 0.0
    by: Literal["model", "driver"] = "model"


class MemoryWritten(Event):
    """Something that asked to be remembered, and what the write gate decided."""

    type: Literal["memory.written"] = "memory.written"
    text: str
    kind: str
    verdict: str
    """``written``, ``superseded`` or ``refused``."""
    reason: str
    entry: int | None = None
    """Id of what was written, or for a duplicate of what is already there."""
    hash: str | None = None
    replaced: int | None = None
    """Id of the older entry that this one supersedes."""
    label: Label = Label.TRUSTED
    seconds: float = 0.0
    by: Literal["model", "driver"] = "model"


class FoldedExchange(BaseModel):
    """A line of the ledger: one message of the user with all that came of it."""

    model_config = ConfigDict(frozen=True)
    first: int
    """The first of its events, counted from 0; ``last`` is the last."""
    last: int
    tokens: int
    """Tokens that it had in the prompt."""
    entry: int | None = None
    """The entry of memory that holds it."""
    reason: str = ""
    """What the write gate said of it."""


class ConversationFolded(Event):
    """Old exchanges of a conversation were taken out of the prompt, and where to find them."""

    type: Literal["conversation.folded"] = "conversation.folded"
    upto: int
    """The event (a message of the user) that the prompt now begins with."""
    exchanges: list[FoldedExchange]
    tokens: int
    """Tokens that left the prompt."""
    left: int
    """Tokens that stay, the new message not yet counted."""


class PersonAsked(Event):
    """The run needs a person: a question of the model or an approval of a call."""

    type: Literal["person.asked"] = "person.asked"
    kind: Literal["question", "approval"]
    text: str
    call_id: str | None = None


class PersonAnswered(Event):
    """The person's answer. For approvals ``decision`` is once, run, always or no."""

    type: Literal["person.answered"] = "person.answered"
    text: str
    decision: str | None = None
    call_id: str | None = None
    by: str = ""


class CheckResult(Event):
    """The verdict of one check of the goal."""

    type: Literal["check.result"] = "check.result"
    index: int
    kind: str
    passed: bool
    detail: str
    score: float | None = None


class Rating(Event):
    """A person's rating of a run, 0 to 1."""

    type: Literal["rating"] = "rating"
    value: float
    text: str = ""
    source: str = "user"
    """``user`` (a person) or ``judge`` (a model that was asked to)."""
    by: str = ""
    """Who it was: of several ratings by the same one, the last counts."""


class Correction(Event):
    """A person's better answer in place of the model's: a preference pair."""

    type: Literal["correction"] = "correction"
    turn: int
    """The ``model.turn`` that gave the answer, as its place among the run's events."""
    rejected: str
    """The text of that turn."""
    chosen: str
    """The turn as it should have been, in the same form."""
    by: str = ""


class Consent(Event):
    """Whether a model may learn from this run, as its user says; the last one counts."""

    type: Literal["consent"] = "consent"
    learn: bool
    by: str = ""


class RunInterrupted(Event):
    """The process was asked to stop (Ctrl-C); the run can be resumed."""

    type: Literal["run.interrupted"] = "run.interrupted"
    cause: str


STOPPED = "the person stopped the answer"
"""Cause of the ``run.interrupted`` of a conversation: its last message is not to be answered any more."""


class RunEnded(Event):
    """Last event of a run."""

    type: Literal["run.ended"] = "run.ended"
    status: Literal["achieved", "answered", "error", "not_met", "limit", "needs_person"]
    """``achieved``: the goal's checks passed. ``answered``: the goal has no checks, and nothing in the
    events speaks against the answer. Records from before ``answered`` was known say ``achieved`` for both."""
    cause: str
    answer: Any = None
    reward: float | None = None
    delivered: list[str] = []


class Unknown(Event):
    """An event of a type this version does not know; carried along untouched."""

    type: Literal["unknown"] = "unknown"
    original: dict[str, Any]


KnownEvent = Annotated[
    RunStarted
    | PersonSaid
    | ModelTurn
    | ToolIntent
    | ToolOutcome
    | ToolsShown
    | MemoryRecalled
    | MemoryWritten
    | ConversationFolded
    | PersonAsked
    | PersonAnswered
    | CheckResult
    | Rating
    | Correction
    | Consent
    | RunInterrupted
    | RunEnded,
    Field(discriminator="type"),
]
_ADAPTER: TypeAdapter[Any] = TypeAdapter(KnownEvent)
_KNOWN = frozenset(cls.model_fields["type"].default for cls in Event.__subclasses__() if cls is not Unknown)

SAID_LATER = (Rating, Correction, Consent)
"""What a person says about a run at any time, also after its end; it is no part of the work."""

RULES = 3
"""Rules that new runs are steered by. An older record replays under the rules that it was made with.

0: ``finish`` takes any text, and is offered after any result. 1: while an input is unread ``finish`` must
say so, and after a query without rows one more try comes first. 2: a model under the teaching prompt plans
before it answers a goal with inputs, with tools that can run, and carries out what it planned to write and
its goal's own tools. 3: it reads today's date; a model that is not prompted by ``names`` plans again only
where it is stuck; before it may end it mends a first call that failed and writes the files that it was
granted by name.
"""

EXIT_CODES = {"achieved": 0, "answered": 0, "error": 1, "not_met": 3, "limit": 4, "needs_person": 5}
"""Exit code of a run by its status; usage errors are 2 and an interruption is 130."""


def parse_event(data: dict[str, Any]) -> Event:
    """Return the event that ``data`` (as written by :func:`dump_event`) describes.

    Raises ``ValueError`` for a known type with wrong fields.
    """
    if data.get("type") not in _KNOWN:
        return Unknown(at=float(data.get("at", 0.0)), original=data)
    try:
        event: Event = _ADAPTER.validate_python(data)
    except ValidationError as error:
        raise ValueError(f"journal event {data.get('type')}: {error.errors()[0]['msg']}") from error
    return event


def dump_event(event: Event) -> dict[str, Any]:
    """Return the event as a JSON object; the inverse of :func:`parse_event`."""
    if isinstance(event, Unknown):
        return event.original
    return event.model_dump(mode="json")
