"""Memory as a run sees it: the seam to the store, and what becomes of ``recall`` and ``remember``.

A :class:`Memory` finds, keeps and learns which entries helped; :class:`RunMemory` binds one to a run
and turns its answers into events. What the model was shown stands in the events, so ``decide`` and
replay never ask the memory again. A memory that fails costs the run what it would have recalled, never
the run itself: the reason is recorded and the run goes on.

Limits: an entry is shown as one line of at most :data:`LINE` characters, and what a goal is shown of its
own accord is bounded by :data:`BUDGET`.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Sequence
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
from ..record.events import (
    Event,
    MemoryRecalled,
    MemoryWritten,
    PersonAnswered,
    PersonSaid,
    RecalledEntry,
    RunStarted,
    ToolOutcome,
)
from ..record.state import State
from .lessons import helped, leftovers
from .loop import Recall, Remember

BUDGET = 160
"""Tokens that a recall may bring into the prompt."""
KINDS = (Kind.FACT, Kind.LESSON, Kind.DOCUMENT)
"""What a recall shows; episodes are for people and for training."""
LINE = 300
"""Characters of an entry that are shown."""


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

    def used(self, ids: Sequence[int], success: bool) -> None:
        """Count that a run was shown these entries, and whether it reached its goal."""
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

    def used(self, ids: Sequence[int], success: bool) -> None:
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
        only the folded exchanges of this very conversation come back.
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
        self.credit(events, status == "achieved")
        drafts = leftovers(events, status, answer, self.folder)
        return [self.write(draft, by_driver=True) for draft in drafts]

    def credit(self, events: Sequence[Event], success: bool) -> None:
        """Count what the entries in sight were good for: those that were used, by how it ended."""
        used, seen = helped(events)
        with contextlib.suppress(AutoGPTError, OSError):
            self.memory.used(used, success)
            self.memory.used(seen, False)

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
