"""Memory as a run sees it: recall, remember, and what a run leaves behind when it ends.

A :class:`Memory` finds, keeps and learns which entries helped; :class:`RunMemory` binds one to a run
and turns its answers into events. What the model was shown is in the events, so ``decide`` and
replay never ask the memory again. A memory that fails costs the run what it would have recalled, never
the run itself: the reason is recorded and the run goes on.

An ending run leaves an episode (what was wanted, what was done, how it came out) and lessons from what
failed: a check that failed, what then worked for the same goal after such a lesson had been recalled, and a
failed call followed by a good one of the same tool. They are drawn from the events alone and carry the event
that is their source; the write gate decides what is kept. Only checks or a person say that a run succeeded:
without checks the episode says "not checked", claims nothing, and what was recalled is credited with
nothing, until the run is rated (:meth:`RunMemory.credit`). A run that used no tool leaves nothing.

Limits: an entry is shown as one line of at most :data:`LINE` characters, a recall brings at most
:data:`BUDGET` tokens into a prompt, and a lesson shows the failed and the good call without judging what
made the difference.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ...errors import AutoGPTError
from ...labels import Label, merge
from ...memory.entry import (
    GLOBAL,
    Draft,
    Hit,
    Kind,
    Recalled,
    Verdict,
    Written,
)
from ...text import clip
from ..record.events import (
    CheckResult,
    Event,
    MemoryRecalled,
    MemoryWritten,
    ModelTurn,
    PersonAnswered,
    PersonSaid,
    RecalledEntry,
    RunStarted,
    ToolIntent,
    ToolOutcome,
)
from ..record.state import CORE_CALLS, State
from .loop import Recall, Remember

BUDGET = 160
"""Tokens that a recall may bring into the prompt."""
KINDS = (Kind.FACT, Kind.LESSON, Kind.DOCUMENT)
"""What a recall shows; episodes are for people and for training."""
LINE = 300
"""Characters of an entry that are shown."""
MAX_LESSONS = 3
"""Lessons of one run, so that a bad one cannot fill the memory."""
_GOAL, _CALL, _ERROR = 160, 120, 120
"""Characters that are kept of a goal, a call and an error."""


class Memory(Protocol):
    """What the agent asks of a memory; ``memory`` on the floor below provides it."""

    def recall(
        self, query: str, namespaces: Sequence[str], budget: int, kinds: Sequence[Kind] | None = None
    ) -> Recalled:
        """Return what is relevant to ``query`` within ``budget`` tokens, best first."""
        ...

    def write(self, draft: Draft) -> Written:
        """Put ``draft`` through the write gate."""
        ...

    def used(self, ids: Sequence[int], success: bool | None) -> None:
        """Count that a run was shown these entries, and whether it reached its goal; None: not known."""
        ...


class NoMemory:
    """What answers where there is no memory: a run that had one is resumed without it."""

    def recall(
        self, query: str, namespaces: Sequence[str], budget: int, kinds: Sequence[Kind] | None = None
    ) -> Recalled:
        """Find nothing."""
        return Recalled((), 0, 0)

    def write(self, draft: Draft) -> Written:
        """Refuse."""
        return Written(Verdict.REFUSED, "there is no memory")

    def used(self, ids: Sequence[int], success: bool | None) -> None:
        """Count nothing."""


@dataclass(frozen=True)
class RunMemory:
    """A memory bound to a run. ``folder`` is the namespace of its project."""

    memory: Memory
    folder: str = GLOBAL

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Where a recall looks: the project, then what holds everywhere."""
        return (self.folder, GLOBAL) if self.folder else (GLOBAL,)

    def answer(self, request: Recall | Remember, events: Sequence[Event]) -> MemoryRecalled | MemoryWritten:
        """Carry out what the loop asks of the memory."""
        if isinstance(request, Recall):
            return self.recall(request, events)
        return self.remember(request, events)

    def recall(self, request: Recall, events: Sequence[Event]) -> MemoryRecalled:
        """Return what the memory holds on a query, as the model will see it.

        What the driver recalls leaves out entries that the conversation shows already. Of episodes
        only the compacted exchanges of this very conversation come back.
        """
        begun = time.perf_counter()
        state = State.of(events)
        found = self._find(request.query, KINDS)
        hits = list(found.hits)
        if state.folded:
            own = self._find(request.query, (Kind.EPISODE,)).hits
            hits += [hit for hit in own if hit.entry.run == state.started.run]
        hits = [hit for hit in hits if request.by == "model" or not _visible(hit, state)]
        entries = [_shown(hit) for hit in sorted(hits, key=lambda hit: hit.entry.id)]
        return MemoryRecalled(
            at=time.time(),
            query=request.query,
            entries=entries,
            considered=found.considered,
            label=merge(entry.label for entry in entries),
            seconds=time.perf_counter() - begun,
            by=request.by,
        )

    def _find(self, query: str, kinds: Sequence[Kind]) -> Recalled:
        try:
            return self.memory.recall(query, self.namespaces, BUDGET, kinds)
        except (AutoGPTError, OSError):
            return Recalled((), 0, 0)

    def remember(self, request: Remember, events: Sequence[Event]) -> MemoryWritten:
        """Put what the model wants to keep through the write gate."""
        state = State.of(events)
        text = whole(request.text, said(events))
        draft = Draft(
            Kind.FACT,
            text,
            label=said_label(text, events),
            run=state.started.run,
            event=len(events) - 1,
            recalled=tuple(state.shown),
        )
        return self.write(draft)

    def conclude(self, events: Sequence[Event], status: str, answer: Any) -> list[MemoryWritten]:
        """Write what the ending run leaves behind, and count what recalled entries were good for.

        Nothing is done twice for a run that is resumed in the middle of its end.
        """
        if any(isinstance(event, MemoryWritten) and event.by == "driver" for event in events):
            return []
        self.credit(events, outcome(events, status))
        drafts = leftovers(events, status, answer, self.folder)
        return [self.write(draft, by_driver=True) for draft in drafts]

    def credit(self, events: Sequence[Event], success: bool | None) -> None:
        """Count what the entries in sight were good for, by how the run ended or was rated.

        Entries that were used are counted with ``success``, those that were only shown as of no help; None
        counts neither, only that they were read. A rating counts the run's own episode too.
        """
        used, seen = helped(events)
        started = events[0]
        own = [
            event.entry
            for event in events
            if isinstance(event, MemoryWritten) and event.by == "driver" and event.kind == Kind.EPISODE
            if event.entry is not None and isinstance(started, RunStarted) and started.mode != "chat"
        ]
        with contextlib.suppress(AutoGPTError, OSError):
            self.memory.used([*used, *own], success)
            self.memory.used(seen, None if success is None else False)

    def write(self, draft: Draft, by_driver: bool = False) -> MemoryWritten:
        """Write ``draft`` and return the event that says what became of it."""
        begun = time.perf_counter()
        verdict, reason, entry, digest, replaced = "refused", "", None, None, None
        try:
            written = self.memory.write(draft)
        except (AutoGPTError, OSError) as error:
            reason = f"the memory cannot be written: {error}"
        else:
            verdict, reason, replaced = str(written.verdict), written.reason, written.replaced
            if written.entry is not None:
                entry, digest = written.entry.id, written.entry.hash
        return MemoryWritten(
            at=time.time(),
            text=draft.text,
            kind=str(draft.kind),
            verdict=verdict,
            reason=reason,
            entry=entry,
            hash=digest,
            replaced=replaced,
            label=draft.label,
            seconds=time.perf_counter() - begun,
            by="driver" if by_driver else "model",
        )


def said(events: Sequence[Event]) -> list[str]:
    """Return what the user said in this run: the goal, messages, answers to questions."""
    started = events[0]
    assert isinstance(started, RunStarted)
    later = [event.text for event in events if isinstance(event, PersonSaid | PersonAnswered)]
    return [str(started.goal.get("goal", "")), *later]


def said_label(text: str, events: Sequence[Event]) -> Label:
    """Return how far ``text`` may be trusted: fully if the user said all its words, else as what was seen."""
    if set(_words(text)) <= set(_words(" ".join(said(events)))):
        return Label.TRUSTED
    return merge(event.label for event in events if isinstance(event, ToolOutcome | MemoryRecalled))


def whole(text: str, heard: Sequence[str]) -> str:
    """Return the user's sentence of which ``text`` is a bare piece, such as a name; else ``text`` itself.

    A small model asked to remember that "my dentist is Dr Lind" often keeps "Dr Lind", which no question
    finds again. A text with a verb says something by itself and stays as it is.
    """
    piece = _words(text)
    if not piece or _VERB.search(text.casefold()):
        return text
    for sentence in (part for message in heard for part in _SENTENCE.split(message)):
        told = _LEAD.sub("", sentence.strip()).rstrip(" .!")
        words = _words(told)
        inside = any(words[at : at + len(piece)] == piece for at in range(len(words)))
        if inside and len(words) > len(piece) and not sentence.rstrip().endswith("?"):
            return f"{told[:1].upper()}{told[1:]}."
    return text


_SENTENCE = re.compile(r"(?<=[.!?;])(?<!\bDr\.)(?<!\bMr\.)(?<!\bMrs\.)(?<!\bMs\.)\s+|\n+")
_LEAD = re.compile(
    r"^(?:(?:and|also|please|so|ok|okay|hi|hello)\b[\s,]*)*"
    r"(?:(?:remember|note|keep in mind|do not forget|don't forget|save|write down|by the way|fyi|for later)\b"
    r"(?:\s+(?:that|this)\b)?[\s:,]*)?",
    re.IGNORECASE,
)
"""How people begin what they want remembered."""
_VERB = re.compile(
    r"\b(?:am|are|be|born|called|can|cannot|chose|could|did|do|does|had|has|have|is|keeps?|leads|likes?|lives?|"
    r"may|moved|must|needs?|owns|prefers?|put|runs|should|starts?|stores?|takes?|uses?|wants?|was|were|will|"
    r"works?|would)\b"
)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _visible(hit: Hit, state: State) -> bool:
    """Whether the conversation shows the entry already: recalled before, or said in this very run."""
    entry = hit.entry
    return entry.id in state.shown or (entry.run == state.started.run and (entry.event or 0) >= state.folded)


def _shown(hit: Hit) -> RecalledEntry:
    entry = hit.entry
    line = " ".join(entry.text.split())
    if entry.kind is not Kind.FACT:
        line = f"{entry.kind}: {line}"
    return RecalledEntry(
        id=entry.id,
        kind=str(entry.kind),
        text=line if len(line) <= LINE else line[: LINE - 1] + "…",
        label=entry.label,
        hash=entry.hash,
        score=round(hit.score, 4),
    )


def leftovers(events: Sequence[Event], status: str, answer: Any, namespace: str) -> list[Draft]:
    """Return what the run that ends with ``status`` asks to be remembered, in ``namespace``."""
    started = events[0]
    assert isinstance(started, RunStarted)
    done = [event for event in events if isinstance(event, ToolOutcome) and event.by == "model"]
    if not done or started.mode == "chat":
        return []
    label = merge([*(event.label for event in done), Label.STRUCTURED])
    recalled = tuple(State.of(events).shown)

    def draft(kind: Kind, text: str, event: int) -> Draft:
        return Draft(kind, text, namespace, label, started.run, event, recalled=recalled)

    lessons = [*_of_checks(events, status), *_of_calls(events)][:MAX_LESSONS]
    episode = draft(Kind.EPISODE, _episode(events, status, answer), len(events) - 1)
    return [*(draft(Kind.LESSON, text, event) for event, text in lessons), episode]


def outcome(events: Sequence[Event], status: str) -> bool | None:
    """Return whether the run that ends with ``status`` succeeded; None where no check says that it did."""
    if status not in ("achieved", "answered"):
        return False
    return True if any(isinstance(event, CheckResult) for event in events) else None


def helped(events: Sequence[Event]) -> tuple[list[int], list[int]]:
    """Return the ids of recalled entries that the run used, and of those that it only saw.

    One was used when a word or number of it that the goal (or the last message) lacks occurs in a call
    that the model made since.
    """
    state = State.of(events)
    said = _tokens(state.said)
    begun = max(state.messages, default=0)
    calls = [event.call for event in events[begun:] if isinstance(event, ModelTurn) and event.call]
    made = _tokens(" ".join(_values(call["arguments"]) for call in calls)) - said
    used = [id for id, entry in state.shown.items() if (_tokens(entry.text) - said) & made]
    return used, [id for id in state.shown if id not in used]


def _episode(events: Sequence[Event], status: str, answer: Any) -> str:
    words = {"achieved": "achieved", "not_met": "not met", "limit": "a limit was reached"}
    unknown = outcome(events, status) is None
    text = f"{_goal(events)}: {_calls(events)}: "
    text += "answered, not checked" if unknown else words.get(status, status)
    if answer is not None and (unknown or status == "achieved"):
        shown = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False, default=str)
        text += f", {clip(shown, _CALL)}"
    return text


def _of_checks(events: Sequence[Event], status: str) -> list[tuple[int, str]]:
    """Return a lesson of the first failed check, or of what worked where a check had failed before."""
    goal, calls = _goal(events), _calls(events)
    for number, event in enumerate(events):
        if isinstance(event, CheckResult) and not event.passed:
            # its detail names what was wanted: a model that recalled it would be judged by its memory
            return [(number, f"{goal}: {calls} did not do: a check of the {event.kind} failed")]
    for number, event in enumerate(events):
        if outcome(events, status) and isinstance(event, MemoryRecalled):
            lessons = [entry.text for entry in event.entries if entry.kind == Kind.LESSON]
            if any(goal in text and "did not do" in text for text in lessons):
                return [(number, f"{goal}: {calls} worked")]
    return []


def _of_calls(events: Sequence[Event]) -> list[tuple[int, str]]:
    """Return a lesson for each failed call that was followed by a good one of the same tool."""
    intents = {event.call_id: event for event in events if isinstance(event, ToolIntent)}
    failed: dict[str, tuple[int, ToolOutcome]] = {}
    lessons = []
    for number, event in enumerate(events):
        if not isinstance(event, ToolOutcome) or event.by != "model":
            continue
        if event.state == "failed":
            failed[event.tool] = (number, event)
        elif event.state == "done" and event.tool in failed:
            place, bad = failed.pop(event.tool)
            if bad.call_id in intents and event.call_id in intents:
                wrong, right = (_one_call(intents[one.call_id]) for one in (bad, event))
                error = clip(bad.preview.removeprefix("error: "), _ERROR)
                lessons.append((place, f"{wrong} failed ({error}); {right} worked"))
    return lessons


def _goal(events: Sequence[Event]) -> str:
    return f'"{clip(State.of(events).said, _GOAL)}"'


def _calls(events: Sequence[Event]) -> str:
    """Return the calls that were made, with the arguments of the last."""
    turns = [event.call for event in events if isinstance(event, ModelTurn) and event.call]
    made = [call for call in turns if call["name"] not in CORE_CALLS]
    names = [call["name"] for call in made[:-1]]
    last = made[-1]
    return ", ".join([*names, f"{last['name']} {clip(_values(last['arguments']), _CALL)}"])


def _one_call(intent: ToolIntent) -> str:
    return f"{intent.tool} {clip(_values(intent.arguments), _CALL)}"


def _values(arguments: Mapping[str, Any]) -> str:
    texts = (v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in arguments.values())
    return " ".join(texts)


def _tokens(text: str) -> set[str]:
    """Return the words of a text that say something."""
    from ...memory.tables import STOP_WORDS  # lazily: it brings SQLAlchemy

    return set(_words(text)) - STOP_WORDS
