"""One request on its way through the engine: its ids, its grammar, its draft, and how it ends.

A :class:`Sequence` knows nothing of tensors. It walks the grammar: over what is forced (appended
without being computed), to the next :class:`Choice`, where the model must decide. A draft chains
several choices: a guessed token, the run that the grammar forces after it, the next guess. The
engine computes all of it in one forward and hands back what the model chose at each; a choice that
differs from its guess ends the draft there, and grammar and log are as if it had never been made.
"""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..kv.cache import Session
from ..message import Sampling
from .sampling import Allowed, permits, read_mask
from .speculation import LONGEST, Drafter, Guess
from .tokenlog import COPIED, FORCED, SAMPLED, TokenLog


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

    def done(self) -> bool:
        """True when the output is complete and nothing more may follow."""
        ...

    def rollback(self, count: int) -> None:
        """Take back the last ``count`` ids."""
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
    """Continue ``ids``, the session's full prompt so far. ``max_tokens`` 0 only computes it."""

    session: str
    ids: Ids[int]
    grammar: Grammar | None = None
    sampling: Sampling = Sampling()  # noqa: RUF009 (frozen)
    stop_ids: frozenset[int] = frozenset()
    core: int = 0
    """How many leading ids other processes will begin with too (a system message), 0 if none."""


@dataclass
class Generated:
    """What came after the prompt, a stretch of the session's log, and what it cost."""

    log: TokenLog = field(default_factory=TokenLog)
    start: int = 0
    end: int | None = None
    """Where the stretch begins and, once the request is finished, ends."""
    complete: bool = False
    """The grammar was satisfied or a stop id reached; False when cut by a limit or failed."""
    error: str | None = None
    """Why this request failed, while others of the batch went on."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens whose keys and values were already there."""
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
        """One letter an id, as in :mod:`.tokenlog`."""
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
class Choice:
    """A place where the model decides, ``offset`` rows after the first one of this forward."""

    offset: int
    allowed: Allowed | None
    """None: every token."""
    guess: Guess | None = None
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
    drafter: Drafter | None
    limit: int
    """Tokens that may be generated."""
    vocabulary: int
    forced: bool
    """Take what the grammar forces at once; else the mask finds it, a forward each."""
    matcher: Matcher | None = None
    allowed: Allowed | None = None
    leader: Sequence | None = None
    """An earlier sequence that is computing a prefix of ours; we wait and share it."""
    shared: int = 0
    settled: bool = False
    """The session has found the prefix it starts from."""
    streamed: int = 0
    finished: bool = False
    _ahead: int = 0
    """Ids that the matcher has consumed beyond the log."""

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

    def draft(self, room: int, row_cost: float, share: float) -> list[Choice]:
        """Return the choices of one forward: the one due, and drafted ones in at most ``room`` rows.

        The matcher is left behind the draft; :meth:`settle` sets it right.
        """
        found = [Choice(0, self.allowed)]
        if self.drafter is None or room <= 0:
            return found
        self.drafter.sync(self.log.ids, len(self.log.ids))
        self.drafter.start()
        tail = self.log.ids[-LONGEST:]
        while self._extend(found, tail, room, row_cost, share):
            pass
        return found

    def _extend(self, found: list[Choice], tail: list[int], room: int, row_cost: float, share: float) -> bool:
        """Add a guess to the last choice and the choice after it, if that pays."""
        assert self.drafter is not None
        last = found[-1]
        guess = next((g for g in self.drafter.guesses(tail) if self._may(g.token, last.allowed)), None)
        if guess is None or guess.token in self.request.stop_ids:
            return False
        run, allowed, ended = self._walk(guess.token)
        rows = 1 + len(run)
        room = min(room, self.limit - self.said - 1) - last.offset
        # a guess that ends the output saves no forward: choosing it takes none after it
        ended = ended or not self.request.stop_ids.isdisjoint(run)
        if ended or rows > room or not self.drafter.worth(guess, rows, row_cost, share):
            if self.matcher is not None:
                self.matcher.rollback(rows)
            return False
        self._ahead += rows
        self.drafter.take(guess, run)
        last.guess, last.run = guess, run
        tail += [guess.token, *run]
        found.append(Choice(last.offset + rows, allowed))
        return True

    def _may(self, token: int, allowed: Allowed | None) -> bool:
        return allowed is None or permits(allowed, token)

    def _walk(self, token: int | None) -> tuple[list[int], Allowed | None, bool]:
        """Take ``token`` and what is forced after it: ``(forced ids, what may follow, ended)``."""
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

    def settle(self, choice: Choice, token: int, logprob: float) -> bool:
        """Append what the model chose; True if it is the guess, so that the next choice counts."""
        guess = choice.guess
        right = guess is not None and guess.token == token
        if guess is not None and self.drafter is not None:
            self.drafter.acceptance.count(guess.length, right)
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
        """Walk the grammar from ``token`` to the next choice, appending what it forces."""
        run, self.allowed, ended = self._walk(token)
        for forced in run:
            if self.said >= self.limit:
                ended = False
                break
            self.log.append(forced, FORCED)
            if forced in self.request.stop_ids:
                ended = True
                break
        self.out.complete = ended
        self.finished = ended or self.said >= self.limit
