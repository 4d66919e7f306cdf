"""The decoding engine: many sessions, one forward a step, nothing computed twice.

An agent's prompt grows by appending, its outputs are short calls under a grammar, and many goals
share one system prompt. So a session keeps its keys and values between turns; a new one copies the
longest prefix that any other holds, and waits for a neighbour that is just computing it; every step
is one forward over all active sequences, whatever they need next (a chunk of a prompt, one sampled
token, a run of tokens that the grammar forces); and a sequence leaves the batch when its call is
complete. Where the grammar leaves no choice, tokens are appended without being sampled.

Limits: one thread at a time (a lock sees to it); drafts are not guessed, only forced; shared
prefixes are copied, not shared. After changing the model's weights call :meth:`Engine.clear`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DefectError
from .cache import WORTH_COPYING, Session, Sessions, common_prefix, default_budget
from .forward import make_forward
from .message import Sampling
from .model import LoadedModel
from .sampling import NotFinite, allowed_ids, choose, uniform

MAX_ROWS = 512
"""Rows a forward takes at most: prompts are computed in chunks, so that others keep decoding."""
MAX_ACTIVE = 32
"""Sequences decoded at once; further requests wait for a place."""
FEW_ALLOWED = 8
"""The head is computed for the allowed tokens alone when they are fewer than 1/8 of all."""

OnToken = Callable[[int, list[int]], None]


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


@dataclass(frozen=True)
class Request:
    """Continue ``ids``, the session's full prompt so far."""

    session: str
    ids: Sequence[int]
    grammar: Grammar | None = None
    sampling: Sampling = Sampling()  # noqa: RUF009 (frozen)
    stop_ids: frozenset[int] = frozenset()


@dataclass
class Generated:
    """What came after the prompt, token by token, and what it cost."""

    ids: list[int] = field(default_factory=list)
    """Generated ids; a stop id that ended the output is included."""
    forced: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
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


@dataclass
class Stats:
    """Counters over an engine's life."""

    forwards: int = 0
    rows: int = 0
    """Rows computed in all forwards."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    sampled: int = 0
    forced: int = 0


@dataclass(eq=False)
class _Sequence:
    """A request on its way: ``ids`` is the prompt and what was generated so far."""

    index: int
    request: Request
    ids: list[int]
    out: Generated
    matcher: Matcher | None
    session: Session
    limit: int
    allowed: NDArray[np.int64] | None = None
    leader: _Sequence | None = None
    """An earlier sequence that is computing a prefix of ours; we wait and copy it."""
    shared: int = 0
    settled: bool = False
    """The session has found the prefix it starts from."""
    streamed: int = 0
    finished: bool = False

    @property
    def todo(self) -> int:
        """Ids that are not yet in the cache."""
        return len(self.ids) - len(self.session.ids)


class Engine:
    """Decodes for one loaded model; see the module's text."""

    def __init__(self, loaded: LoadedModel, cache_bytes: int | None = None) -> None:
        self.loaded = loaded
        self.stats = Stats()
        self._forward = make_forward(loaded.model, loaded.config)
        self._device = torch.device(loaded.device)
        budget = default_budget(self._device) if cache_bytes is None else cache_bytes
        self._sessions = Sessions(self._forward.new_cache, budget)
        self._lock = threading.RLock()
        self._context = int(getattr(loaded.config, "max_position_embeddings", 0)) or 1 << 30

    def generate(
        self, requests: Sequence[Request], on_token: OnToken | None = None
    ) -> list[Generated]:
        """Answer all requests, in order. ``on_token(i, ids)`` streams the new ids of request ``i``.

        A request that cannot be served has its reason in ``error``. Two requests for one session
        are a caller's bug (:class:`~autogpt.errors.DefectError`). An interruption leaves every
        session usable.
        """
        names = {request.session for request in requests}
        if len(names) != len(requests):
            raise DefectError("two requests of one batch name the same session")
        started = time.perf_counter()
        results: list[Generated] = [Generated() for _ in requests]
        waiting = list(enumerate(requests))
        active: list[_Sequence] = []
        with self._lock, torch.inference_mode():
            while waiting or active:
                while waiting and len(active) < MAX_ACTIVE:
                    index, request = waiting.pop(0)
                    self._admit(index, request, results[index], active, on_token)
                self._sessions.shrink({s.request.session for s in active})
                if active:
                    self._step(active, on_token)
                for sequence in [s for s in active if s.finished]:
                    sequence.out.seconds = time.perf_counter() - started
                    active.remove(sequence)
        return results

    def close(self, session: str) -> None:
        """End ``session``; unknown names are ignored."""
        with self._lock:
            self._sessions.close(session)

    def fork(self, session: str, new_session: str) -> None:
        """Start ``new_session`` with a copy of what ``session`` holds."""
        with self._lock, torch.inference_mode():
            self._sessions.fork(session, new_session)

    def clear(self) -> None:
        """Forget all sessions and prefixes, as after a change of weights."""
        with self._lock:
            self._sessions.clear()

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Return fp32 logits ``[len(ids), V]`` of a cold forward over ``ids``, for tests."""
        with self._lock, torch.inference_mode():
            hidden = self._forward.hidden([(self._forward.new_cache(), ids)], every=True)
            return self._forward.head(hidden)

    def _admit(
        self,
        index: int,
        request: Request,
        out: Generated,
        active: list[_Sequence],
        on_token: OnToken | None,
    ) -> None:
        """Open the request's session and put it among the active, unless it cannot be served."""
        ids = list(request.ids)
        out.prompt_tokens = len(ids)
        room = self._context - len(ids)
        if not ids or room < 1:
            out.error = (
                f"the prompt has {len(ids)} tokens; the model takes 1 to {self._context - 1}: "
                "shorten the history, or raise the recall budget less"
                if ids
                else "the prompt is empty"
            )
            return
        session = self._sessions.open(request.session)
        session.crop(min(common_prefix(session.ids, ids), len(ids) - 1))
        matcher = request.grammar.matcher() if request.grammar is not None else None
        limit = min(request.sampling.max_tokens, room)
        sequence = _Sequence(index, request, ids, out, matcher, session, limit)
        for other in active:
            shared = min(common_prefix(other.request.ids, ids), len(ids) - 1)
            if shared > max(sequence.shared, len(session.ids) + WORTH_COPYING):
                sequence.leader, sequence.shared = other, shared
        active.append(sequence)
        self._advance(sequence, on_token)

    def _ready(self, sequence: _Sequence) -> bool:
        """Say whether the sequence may compute now; finds it a prefix to start from, once."""
        if sequence.settled:
            return True
        leader = sequence.leader
        if leader is not None and not leader.finished and len(leader.session.ids) < sequence.shared:
            return False
        ids = sequence.ids[: len(sequence.request.ids) - 1]
        self._sessions.adopt(sequence.session, ids)
        sequence.settled, sequence.leader = True, None
        sequence.out.cached_tokens = len(sequence.session.ids)
        sequence.session.cache.reserve(len(sequence.request.ids) + sequence.limit)
        self.stats.prompt_tokens += len(sequence.request.ids)
        self.stats.cached_tokens += len(sequence.session.ids)
        return True

    def _step(self, active: list[_Sequence], on_token: OnToken | None) -> None:
        """One forward over what the active sequences need, then one token for each that is due."""
        batch: list[tuple[_Sequence, list[int]]] = []
        room = MAX_ROWS
        # those that decode come first: they need few rows, and must not wait behind prompts
        for sequence in sorted((s for s in active if not s.finished), key=lambda s: s.todo):
            if room and self._ready(sequence):
                start = len(sequence.session.ids)
                rows = sequence.ids[start : start + room]
                batch.append((sequence, rows))
                room -= len(rows)
        if not batch:
            return
        hidden = self._forward.hidden([(s.session.cache, rows) for s, rows in batch])
        for sequence, rows in batch:
            sequence.session.ids.extend(rows)
            sequence.out.forwards += 1
        self.stats.forwards += 1
        self.stats.rows += MAX_ROWS - room
        due = [i for i, (sequence, _) in enumerate(batch) if not sequence.todo]
        self._sample([batch[i][0] for i in due], hidden[due] if len(due) < len(batch) else hidden)
        for i in due:
            self._advance(batch[i][0], on_token)

    def _sample(self, due: list[_Sequence], hidden: Tensor) -> None:
        """Choose one token for each sequence from its row of ``hidden``."""
        few = self.loaded.vocabulary // FEW_ALLOWED
        narrow = [s.allowed is not None and len(s.allowed) < few for s in due]
        wide = [i for i, is_narrow in enumerate(narrow) if not is_narrow]
        full = dict(zip(wide, self._forward.head(hidden[wide]), strict=True)) if wide else {}
        for i, sequence in enumerate(due):
            allowed = None
            if sequence.allowed is not None:
                allowed = torch.from_numpy(sequence.allowed).to(self._device)
            if narrow[i]:
                logits = self._forward.head(hidden[i : i + 1], allowed)[0]
            else:
                logits = full[i] if allowed is None else full[i][allowed]
            sampling = sequence.request.sampling
            draw = uniform(sampling.seed, sequence.request.session, len(sequence.ids))
            try:
                token, logprob = choose(logits, sampling, draw)
            except NotFinite as error:
                self._fail(sequence, f"{error}, at token {len(sequence.ids)}: check the model's weights")
                continue
            if sequence.allowed is not None:
                token = int(sequence.allowed[token])
            self._append(sequence, token, logprob)
            self.stats.sampled += 1

    def _fail(self, sequence: _Sequence, reason: str) -> None:
        """End one request with an error and forget its session."""
        sequence.out.error = reason
        sequence.finished = True
        self._sessions.drop(sequence.request.session)

    def _append(self, sequence: _Sequence, token: int, logprob: float | None) -> None:
        """Add a token (``logprob`` None: forced) and notice what ends the output."""
        out = sequence.out
        sequence.ids.append(token)
        out.ids.append(token)
        out.forced.append(logprob is None)
        out.logprobs.append(logprob or 0.0)
        stop = token in sequence.request.stop_ids
        if sequence.matcher is not None and not stop and not sequence.matcher.consume(token):
            self._fail(sequence, f"the grammar refused token {token}, which it had allowed")
        elif stop or (sequence.matcher is not None and sequence.matcher.done()):
            out.complete = sequence.finished = True
        elif len(out.ids) >= sequence.limit:
            sequence.finished = True

    def _advance(self, sequence: _Sequence, on_token: OnToken | None) -> None:
        """Stream what is new, appending forced tokens until there is a choice or an end."""
        while sequence.matcher is not None and not sequence.finished:
            forced = sequence.matcher.forced()
            if not forced:
                sequence.allowed = allowed_ids(sequence.matcher.bitmask(), self.loaded.vocabulary)
                if len(sequence.allowed) > 1:
                    break
                if not len(sequence.allowed):
                    self._fail(sequence, "the grammar allows no token here")
                    break
                forced = [int(sequence.allowed[0])]
            for token in forced:
                self._append(sequence, token, None)
                self.stats.forced += 1
                if sequence.finished:
                    break
        new = sequence.out.ids[sequence.streamed :]
        if on_token is not None and new:
            sequence.streamed += len(new)
            on_token(sequence.index, new)
