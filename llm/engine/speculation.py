"""N-gram speculative decoding: draft tokens copied from where the last few tokens occurred before.

An agent repeats itself: paths, column names, values and whole calls appear in the prompt, in tool
results or in an earlier output (prompt lookup decoding; Saxena 2023). :class:`NgramIndex` finds the
longest earlier occurrence of the last 2 to 6 ids, the most recent first: one table of pairs gives the
places, and the ids before them are compared. (A table per length would find the same at five times the
entries.) An :class:`NgramProposer` follows such a match token by token, in its session's own ids or in
the finished outputs of all sessions, and learns the acceptance rate by match length.

The engine puts draft tokens into the next forward and accepts one where the model chooses the same
token, so a wrong one costs a row and changes nothing. That price decides the length of a draft
(:meth:`NgramProposer.worth`): another token is added while the forward it may save outweighs the rows
it may waste. After many rejections nothing is drafted for a while.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LONGEST, SHORTEST = 6, 2
"""Longest and shortest run of ids that is looked up."""
_CANDIDATES = 16
"""Most recent occurrences compared in full."""
_HISTORY = 8192
"""Ids kept of the finished outputs of all sessions."""
_PRIOR = {2: 0.5, 3: 0.6, 4: 0.7, 5: 0.8, 6: 0.85}
"""Acceptance rate by match length that is assumed at first."""
_TRUST = 4.0
"""Number of trials that weigh as much as the assumption."""
_MEMORY = 64.0
"""Number of trials after which older ones fade."""
_FORGIVE = 0.9
"""Share of the evidence kept after a draft was not worth it, so that drafting is tried again later."""
_NONE = -1
"""Separates two outputs; not a token."""


class NgramIndex:
    """Ids, with the positions that follow each pair of them."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._places: dict[tuple[int, int], list[int]] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: int) -> int:
        """Return the id at ``place``, or -1 past the end."""
        return self.ids[place] if place < len(self.ids) else _NONE

    def extend(self, ids: Sequence[int]) -> None:
        """Append ids."""
        known = self.ids
        start = max(len(known), 1)
        known.extend(ids)
        places = self._places
        for place in range(start, len(known)):
            pair = known[place - 1], known[place]
            if pair in places:
                places[pair].append(place + 1)
            else:
                places[pair] = [place + 1]

    def crop(self, length: int) -> None:
        """Keep the first ``length`` ids. Later places stay in the table; :meth:`find` verifies each."""
        del self.ids[length:]

    def find(self, tail: Sequence[int]) -> list[tuple[int, int]]:
        """Return ``(length, place)`` of earlier occurrences of the end of ``tail``, the best first.

        A place is where the continuation begins, a length how many ids match before it (2 to 6). The
        longest come first, of equal ones the most recent; at most 3.
        """
        ids, found = self.ids, []
        most = min(LONGEST, len(tail))
        if most < SHORTEST:
            return []
        for place in self._places.get((tail[-2], tail[-1]), ())[: -_CANDIDATES - 1 : -1]:
            if place >= len(ids):
                continue
            length = 0
            while length < most and length < place and ids[place - length - 1] == tail[-length - 1]:
                length += 1
            if length >= SHORTEST:
                found.append((length, place))
                if length == LONGEST:
                    break
        found.sort(key=_by_length)
        return found[:3]


def _by_length(match: tuple[int, int]) -> int:
    return -match[0]


class History:
    """The finished outputs of all sessions, at least the latest :data:`_HISTORY` ids of them."""

    def __init__(self) -> None:
        self.index = NgramIndex()

    def add(self, ids: Sequence[int]) -> None:
        """Remember one output."""
        self.index.extend([*ids, _NONE])
        if len(self.index) > 2 * _HISTORY:
            latest = self.index.ids[-_HISTORY:]
            self.index = NgramIndex()
            self.index.extend(latest)


class Acceptance:
    """The acceptance rate of draft tokens by match length; older trials fade."""

    def __init__(self, prior: Acceptance | None = None) -> None:
        """Start from the rates of ``prior`` (None: from :data:`_PRIOR`)."""
        self._prior = prior
        self._tries = [0.0] * (LONGEST + 1)
        self._right = [0.0] * (LONGEST + 1)

    def rate(self, length: int) -> float:
        """Return the expected acceptance rate after a match of ``length``."""
        prior = _PRIOR[length] if self._prior is None else self._prior.rate(length)
        return (self._right[length] + _TRUST * prior) / (self._tries[length] + _TRUST)

    def count(self, length: int, right: bool) -> None:
        """Record the outcome of one draft token."""
        keep = 1.0 if self._tries[length] < _MEMORY else 1.0 - 1.0 / _MEMORY
        self._tries[length] = self._tries[length] * keep + 1.0
        self._right[length] = self._right[length] * keep + right
        if self._prior is not None:
            self._prior.count(length, right)

    def forgive(self, length: int) -> None:
        """Let the evidence about matches of ``length`` fade."""
        self._tries[length] *= _FORGIVE
        self._right[length] *= _FORGIVE
        if self._prior is not None:
            self._prior.forgive(length)


@dataclass(frozen=True)
class DraftToken:
    """A token that followed the last few ids earlier: where, and after how long a match."""

    token: int
    length: int
    source: NgramIndex
    place: int


class NgramProposer:
    """Proposes draft tokens for one session; see the module's text."""

    def __init__(self, history: History, experience: Acceptance) -> None:
        self.acceptance = Acceptance(experience)
        self._own = NgramIndex()
        self._history = history
        self._next: DraftToken | None = None
        self._reach = 1.0

    def sync(self, ids: Sequence[int], kept: int) -> None:
        """Update the session's ids to ``ids``, of which the first ``kept`` have not changed."""
        self._own.crop(kept)
        self._own.extend(ids[len(self._own) :])

    def start(self) -> None:
        """Begin a new draft."""
        self._next, self._reach = None, 1.0

    def guesses(self, tail: Sequence[int]) -> list[DraftToken]:
        """Return up to three candidates for what follows ``tail``, the best first."""
        if self._next is not None:
            return [self._next]
        found: dict[int, DraftToken] = {}
        for source in (self._own, self._history.index):
            for length, place in source.find(tail):
                token = source[place]
                if token != _NONE and (token not in found or found[token].length < length):
                    found[token] = DraftToken(token, length, source, place)
        return sorted(found.values(), key=lambda guess: -guess.length)

    def worth(self, guess: DraftToken, rows: int, row_cost: float, share: float) -> bool:
        """Say whether to add ``guess`` to the draft at the price of ``rows`` rows.

        Right, it saves ``share`` of a forward (1 when alone in the batch); wrong, it wastes its
        rows, each of which costs ``row_cost`` of a forward.
        """
        reach = self._reach * self.acceptance.rate(guess.length)
        if reach * share >= (1.0 - reach) * rows * row_cost:
            return True
        if self._reach == 1.0:
            self.acceptance.forgive(guess.length)
        return False

    def take(self, guess: DraftToken, run: Sequence[int]) -> None:
        """Add ``guess`` and the forced ids ``run`` to the draft, and follow the match over both."""
        self._reach *= self.acceptance.rate(guess.length)
        place, length = guess.place + 1, min(LONGEST, guess.length + 1)
        for token in run:
            if guess.source[place] != token:
                self._next = None
                return
            place, length = place + 1, min(LONGEST, length + 1)
        token = guess.source[place]
        self._next = None if token == _NONE else DraftToken(token, length, guess.source, place)
