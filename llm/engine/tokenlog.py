"""The token log: what a session's tokens are and where each came from.

One log a session, append-only: ids, an origin each (given by a prompt, sampled, forced by the
grammar, or copied: an n-gram draft that the model's own choice confirmed) and a log-probability.
Text is derived from the ids, never the other way, so a log is at once the cache's key, the RL
trajectory and the loss mask. A prompt that departs from what was said before continues in a
:meth:`~TokenLog.branch`; whoever holds the old log keeps it unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence

GIVEN, SAMPLED, FORCED, COPIED = "g", "s", "f", "c"
"""One letter an id. Sampled and copied tokens are the model's choice; the others carry no loss."""


class TokenLog:
    """Ids with origins and log-probabilities; see the module's text."""

    __slots__ = ("_logprobs", "_origins", "ids")

    def __init__(self) -> None:
        self.ids: list[int] = []
        """All ids. To be read, never written, by others."""
        self._origins: list[str] = []
        self._logprobs: list[float] = []

    def __len__(self) -> int:
        return len(self.ids)

    def give(self, ids: Sequence[int]) -> None:
        """Append ids of a prompt."""
        self.ids.extend(ids)
        self._origins.extend(GIVEN * len(ids))
        self._logprobs.extend([0.0] * len(ids))

    def append(self, token: int, origin: str, logprob: float = 0.0) -> None:
        """Append one generated id with its natural-log probability (0.0 when forced)."""
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

    def loss_mask(self) -> list[bool]:
        """Return True for every id that the model chose."""
        return [origin in (SAMPLED, COPIED) for origin in self._origins]
