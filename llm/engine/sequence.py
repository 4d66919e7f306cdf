"""One request in the engine: its token log, its grammar, its draft, and how it ends.

A :class:`Sequence` knows nothing of tensors. It walks the grammar: over forced tokens, which are
appended without being computed, to the next :class:`Decision`, where the model must choose. A draft
chains several decisions: a guessed token, the tokens that the grammar forces after it, the next guess.
The engine computes all of it in one forward and returns what the model chose at each; a choice that
differs from its guess ends the draft, and grammar and log are as if it had never been made.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..kv.cache import Session
from ..message import Sampling
from .speculation import LONGEST, DraftToken, NgramProposer

GIVEN, SAMPLED, FORCED, COPIED = "g", "s", "f", "c"
"""Where a token comes from, one letter each: the prompt; the model's choice; the grammar, which left no
choice; a draft token that the model's own choice confirmed. Given and forced tokens carry no loss."""

OnToken = Callable[[int, list[int]], None]
"""Called with a request's number and its new ids."""

Allowed = NDArray[np.int64] | NDArray[np.bool_]
"""The tokens that may come next: ascending ids if they are few, else one flag per id."""
CIRCLE = 96
"""Tokens of going round in a circle after which the string that is being written ends. A small model that
wants to write an object into an argument of text may repeat ``{`` until a limit cuts the call off."""
PERIOD = 16
"""Tokens of the longest circle that ends a string: a sentence that is wanted four times is none."""
LOOP, LEAST, TIMES = 120, 24, 4
"""Free text at its limit gets no more tokens if it has said up to LOOP of them TIMES over, LEAST in all. That
cuts nothing off that was asked for, so it may see a circle where a string is not ended yet."""
STEP = 400
"""Tokens by which the limit grows up to the most; that of free text as long as it does not repeat itself."""
UNFINISHED = 4
"""Tokens beyond the limit in which a text's last character may be finished."""
FEW = 32
"""Ids are listed if they are fewer than 1/32 of the vocabulary: gathering the output rows of more costs as
much as the whole product (5,000 of 152k rows of 896 in int8: 5 ms either way, on one core)."""


def repeats(ids: Ids[int], least: int, longest: int, times: int = 1) -> bool:
    """Say whether ``ids`` end in up to ``longest`` of them over and over: ``times``, and ``least`` in all."""
    for period in range(1, longest + 1):
        length = max(least, times * period)
        if length > len(ids):
            return False
        if ids[-length:][period:] == ids[-length:-period]:
            return True
    return False


class TokenLog:
    """A session's tokens: ids, an origin each, and log-probabilities; append-only.

    Text is derived from the ids, never the other way, so a log is at once the cache's key, the RL
    trajectory and the loss mask. A prompt that departs from what was said before continues in a
    :meth:`branch`; a log that is referenced elsewhere stays unchanged.
    """

    __slots__ = ("_logprobs", "_origins", "ids")

    def __init__(self) -> None:
        self.ids: list[int] = []
        """All ids. Read-only for others."""
        self._origins: list[str] = []
        self._logprobs: list[float] = []

    def __len__(self) -> int:
        return len(self.ids)

    def give(self, ids: Ids[int]) -> None:
        """Append ids of a prompt."""
        self.ids.extend(ids)
        self._origins.extend(GIVEN * len(ids))
        self._logprobs.extend([0.0] * len(ids))

    def append(self, token: int, origin: str, logprob: float = 0.0) -> None:
        """Append one generated id with its natural-log probability (0.0 if forced)."""
        self.ids.append(token)
        self._origins.append(origin)
        self._logprobs.append(logprob)

    def branch(self, length: int) -> TokenLog:
        """Return a new log that begins with the first ``length`` entries of this one."""
        other = TokenLog()
        other.ids = self.ids[:length]
        other._origins = self._origins[:length]
        other._logprobs = self._logprobs[:length]
        return other

    def origins(self, start: int = 0, end: int | None = None) -> str:
        """Return the origins of the entries from ``start`` on, one letter each."""
        return "".join(self._origins[start:end])

    def logprobs(self, start: int = 0, end: int | None = None) -> list[float]:
        """Return the log-probabilities of the entries from ``start`` on."""
        return self._logprobs[start:end]


def read_mask(bitmask: NDArray[np.int32], vocabulary: int) -> Allowed:
    """Return the ids below ``vocabulary`` whose bits are set (least significant first)."""
    words = bitmask[: -(-vocabulary // 32)].view(np.uint32)
    if vocabulary % 32:
        words = words.copy()
        words[-1] &= (1 << vocabulary % 32) - 1
    if int(np.bitwise_count(words).sum()) * FEW >= vocabulary:
        return np.unpackbits(words.view(np.uint8), count=vocabulary, bitorder="little").view(np.bool_)
    used = np.flatnonzero(words)
    places = np.flatnonzero(np.unpackbits(words[used].view(np.uint8), bitorder="little"))
    ids: NDArray[np.int64] = used[places >> 5] * 32 + (places & 31)
    return ids


def permits(allowed: Allowed, token: int) -> bool:
    """Say whether ``token`` is among ``allowed``."""
    if allowed.dtype == np.bool_:
        return bool(allowed[token])
    place = int(np.searchsorted(allowed, token))
    return place < len(allowed) and int(allowed[place]) == token


class Matcher(Protocol):
    """The state of a grammar along one output."""

    def forced(self) -> list[int]:
        """Ids that must come next (maybe none); the state does not change."""
        ...

    def bitmask(self) -> NDArray[np.int32]:
        """Allowed next ids, one bit each, least significant first."""
        ...

    def consume(self, token: int) -> bool:
        """Advance by one id; False if it is not allowed."""
        ...

    def closer(self) -> int | None:
        """The id that ends the string that is being written; None if none may end here."""
        ...

    def done(self) -> bool:
        """Return True if the output is complete and nothing more may follow."""
        ...

    def rollback(self, count: int) -> None:
        """Undo the last ``count`` ids."""
        ...


class Grammar(Protocol):
    """A compiled grammar."""

    def matcher(self) -> Matcher:
        """Return a matcher at the start of an output."""
        ...


class Stuck(Exception):
    """The grammar contradicts itself: no token may follow, or one that it allowed is refused."""


@dataclass(frozen=True)
class Request:
    """Continue ``ids``, the session's full prompt so far. With ``max_tokens`` 0 it is only computed."""

    session: str
    ids: Ids[int]
    grammar: Grammar | None = None
    sampling: Sampling = Sampling()  # noqa: RUF009 (frozen)
    stop_ids: frozenset[int] = frozenset()
    core: int = 0
    """Leading ids that later processes will begin with too (a system message): worth the prompt cache."""
    free: Callable[[Ids[int]], bool] | None = None
    """Whether the output so far is free text, which is granted step by step and ended; asked at the limit."""
    ends: Ids[int] = ()
    """Ids that complete free text where its limit cuts it off."""


@dataclass
class Generated:
    """The output, a range of the session's log, and what it cost."""

    log: TokenLog = field(default_factory=TokenLog)
    start: int = 0
    end: int | None = None
    """The range; ``end`` is set once the request is finished."""
    complete: bool = False
    """The grammar was satisfied or a stop id reached; False if cut off by a limit or failed."""
    error: str | None = None
    """Why this request failed; the others of the batch are unaffected."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens found in the KV cache."""
    forwards: int = 0
    """Forwards that this request took part in."""
    seconds: float = 0.0
    """From the start of ``generate`` to this request's end."""

    @property
    def ids(self) -> list[int]:
        """Generated ids; a stop id that ended the output is included."""
        return self.log.ids[self.start : self.end]

    @property
    def origins(self) -> str:
        """One letter per id, see :data:`SAMPLED`."""
        return self.log.origins(self.start, self.end)

    @property
    def forced(self) -> list[bool]:
        """Per id: True where the grammar left no choice."""
        return [origin == FORCED for origin in self.origins]

    @property
    def logprobs(self) -> list[float]:
        """Per id: natural-log probability under the mask, 0.0 where forced."""
        return self.log.logprobs(self.start, self.end)


@dataclass(eq=False)
class Decision:
    """A place where the model chooses, ``offset`` rows after the first one of this forward."""

    offset: int
    allowed: Allowed | None
    """None: every token."""
    guess: DraftToken | None = None
    run: list[int] = field(default_factory=list)
    """Ids that the grammar forces after the guess."""


@dataclass(eq=False)
class Sequence:
    """See the module's text. ``log`` holds the prompt and what was generated so far."""

    index: int
    request: Request
    out: Generated
    log: TokenLog
    session: Session
    proposer: NgramProposer | None
    most: int
    """Tokens that may be generated in all."""
    vocabulary: int
    forced: bool
    """Append forced tokens without computing them; else the mask finds them, one forward each."""
    matcher: Matcher | None = None
    allowed: Allowed | None = None
    limit: int = field(init=False)
    """Tokens that may be generated for now."""
    leader: Sequence | None = None
    """An earlier sequence that is computing a prefix of ours; we wait and share it."""
    shared: int = 0
    settled: bool = False
    """The session has its longest known prefix."""
    streamed: int = 0
    finished: bool = False
    _ahead: int = 0
    """Ids that the matcher has consumed past the log's end."""

    def __post_init__(self) -> None:
        self.limit = min(STEP, self.most)

    @property
    def todo(self) -> int:
        """Ids that are not yet in the cache."""
        return len(self.log.ids) - len(self.session.ids)

    @property
    def said(self) -> int:
        """Ids generated so far."""
        return len(self.log.ids) - self.out.start

    def open(self) -> None:
        """Start the grammar and append what it forces at the beginning."""
        if self.limit and self.request.grammar is not None:
            self.matcher = self.request.grammar.matcher()
            self._proceed()

    def draft(self, room: int, row_cost: float, share: float) -> list[Decision]:
        """Return the decisions of one forward: the next one, and drafted ones in at most ``room`` rows.

        The matcher is left at the end of the draft until :meth:`settle`.
        """
        found = [Decision(0, self.allowed)]
        if self.proposer is None or room <= 0 or self._circles(CIRCLE - room):
            return found  # no draft may pass the place where a circle ends
        self.proposer.sync(self.log.ids, len(self.log.ids))
        self.proposer.start()
        tail = self.log.ids[-LONGEST:]
        while self._extend(found, tail, room, row_cost, share):
            pass
        return found

    def _extend(
        self, found: list[Decision], tail: list[int], room: int, row_cost: float, share: float
    ) -> bool:
        """Add a guess to the last decision, and the decision after it, if that is worth its rows."""
        assert self.proposer is not None
        last = found[-1]
        guess = next((g for g in self.proposer.guesses(tail) if self._may(g.token, last.allowed)), None)
        if guess is None or guess.token in self.request.stop_ids:
            return False
        run, allowed, ended = self._walk(guess.token)
        rows = 1 + len(run)
        room = min(room, self.limit - self.said - 1) - last.offset
        # a guess that ends the output saves no forward, as none follows it
        ended = ended or not self.request.stop_ids.isdisjoint(run)
        if ended or rows > room or not self.proposer.worth(guess, rows, row_cost, share):
            if self.matcher is not None:
                self.matcher.rollback(rows)
            return False
        self._ahead += rows
        self.proposer.take(guess, run)
        last.guess, last.run = guess, run
        tail += [guess.token, *run]
        found.append(Decision(last.offset + rows, allowed))
        return True

    def _may(self, token: int, allowed: Allowed | None) -> bool:
        return allowed is None or permits(allowed, token)

    def _walk(self, token: int | None) -> tuple[list[int], Allowed | None, bool]:
        """Advance by ``token`` and what is forced after it: ``(forced ids, allowed next, ended)``."""
        matcher = self.matcher
        if matcher is None:
            return [], None, False
        if token is not None and not matcher.consume(token):
            raise Stuck(f"the grammar refused token {token}, which it had allowed")
        run: list[int] = []
        while not matcher.done():
            ids = matcher.forced() if self.forced else []
            if not ids:
                allowed = read_mask(matcher.bitmask(), self.vocabulary)
                if not len(allowed):
                    raise Stuck("the grammar allows no token here")
                if len(allowed) > 1 or not self.forced:
                    return run, allowed, False
                ids = [int(allowed[0])]
            for forced in ids:
                if not matcher.consume(forced):
                    raise Stuck(f"the grammar refused token {forced}, which it had forced")
            run += ids
        return run, None, True

    def settle(self, choice: Decision, token: int, logprob: float) -> bool:
        """Append what the model chose; True if it is the guess, so that the next decision stands."""
        guess = choice.guess
        right = guess is not None and guess.token == token
        if guess is not None and self.proposer is not None:
            self.proposer.acceptance.count(guess.length, right)
        only = choice.allowed is not None and choice.allowed.dtype != np.bool_ and len(choice.allowed) == 1
        if right:
            self._ahead -= 1 + len(choice.run)
            self.log.append(token, FORCED if only else COPIED, logprob)
            for forced in choice.run:
                self.log.append(forced, FORCED)
            return True
        if self._ahead and self.matcher is not None:
            self.matcher.rollback(self._ahead)
        self._ahead = 0
        self.log.append(token, FORCED if only else SAMPLED, logprob)
        if token in self.request.stop_ids:
            self.out.complete = self.finished = True
        else:
            self._proceed(token)
        return False

    def _proceed(self, token: int | None = None) -> None:
        """Walk the grammar from ``token`` to the next decision, appending what it forces."""
        run, self.allowed, ended = self._walk(token)
        for forced in run:
            if self.said >= self.limit and self._stops():
                ended = False
                break
            self.log.append(forced, FORCED)
            if forced in self.request.stop_ids:
                ended = True
                break
        self.out.complete = ended
        self.finished = ended or (self.said >= self.limit and self._stops())
        if self.finished or self.matcher is None or not self._circles(CIRCLE):
            return
        closer = self.matcher.closer()
        if closer is not None:
            self.log.append(closer, FORCED)
            self._proceed(closer)

    def _circles(self, length: int) -> bool:
        """Return whether the last ``length`` tokens, all generated, repeat at most PERIOD of them."""
        return repeats(self.log.ids[max(self.out.start, len(self.log.ids) - length) :], length, PERIOD)

    def _stops(self) -> bool:
        """Say whether the limit, now reached, ends the output: it goes on, or free text is completed here."""
        said = self.log.ids[self.out.start :]
        free = self.request.free is not None and self.request.free(said)
        if self.limit < self.most and not (free and repeats(said, LEAST, LOOP, TIMES)):
            self.limit = min(self.most, self.limit + STEP)
            return False
        return not free or self._end_text() or self.said >= self.limit + UNFINISHED

    def _end_text(self) -> bool:
        """Append the ids that complete free text, if the grammar takes them here."""
        matcher = self.matcher
        if matcher is None:
            return True
        for taken, token in enumerate(self.request.ends):
            if matcher.done() or not permits(read_mask(matcher.bitmask(), self.vocabulary), token):
                matcher.rollback(taken)
                return False
            matcher.consume(token)
        for token in self.request.ends:
            self.log.append(token, FORCED)
        self.out.complete = True
        return True
