"""The decoding engine: many sessions, one forward per step, nothing computed twice.

An agent's prompt grows by appending, its outputs are short calls under a grammar, and many goals share
one system prompt. So a session keeps its keys and values between turns, and a new one starts from the
longest prefix that any other holds, waiting for a sequence that is just computing it. Each step is one
forward over all active sequences, whatever they need next: a chunk of a prompt, or one token with a
draft of what probably follows (:mod:`.speculation`). A sequence leaves the batch when its call is
complete. Where the grammar leaves no choice, tokens are appended without being sampled. Drafts change
neither what is chosen nor its probability: a draft token is accepted only if the choice at its row,
greedy or sampled for its position, is the same token.

Limits: one thread at a time (guarded by a lock). After changing the model's weights call
:meth:`Engine.clear`.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from weakref import WeakSet

import torch
from torch import Tensor

from ..kv.cache import WORTH_COPYING, Session, Sessions, common_prefix, default_budget
from ..kv.prompt_cache import PromptCache
from ..message import Sampling
from ..nn.build import make_forward
from ..nn.forward import Forward
from ..nn.load import LoadedModel
from .batch import Batch
from .failures import OutOfMemory, first_bad_part, retry_out_of_memory
from .sampling import NotFinite, Sampler, Work
from .sequence import (
    COPIED,
    FORCED,
    UNFINISHED,
    Generated,
    Grammar,
    Matcher,
    OnToken,
    Request,
    Stuck,
    TokenLog,
)
from .sequence import Sequence as Active
from .speculation import Acceptance, History, NgramProposer

__all__ = ["Engine", "Generated", "Grammar", "Matcher", "OnToken", "Request", "Stats"]

MAX_ROWS = 512
"""Most rows of a forward: longer prompts are computed in chunks, so that others keep decoding."""
MAX_ACTIVE = 32
"""Sequences decoded at once; further requests wait."""
USUAL = 400
"""Positions that are reserved for an output; a longer one grows its cache as it goes on."""
MAX_DRAFT = 16
"""Most rows of a draft: about where a forward's cost begins to grow with every row."""
KEPT_LOGS = 1024
"""Sessions whose token logs are kept, so that callers that never close one do not fill the memory."""
LONG = 64
"""Ids that :meth:`Engine.last_states` computes as a prompt, in chunks, before the last one's state."""


@dataclass
class Stats:
    """Counters over an engine's life."""

    forwards: int = 0
    rows: int = 0
    """Rows computed in all forwards."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated: int = 0
    forced: int = 0
    """Generated tokens that the grammar forced."""
    drafted: int = 0
    """Draft tokens put into forwards; :attr:`copied` counts the accepted ones."""
    copied: int = 0


class Engine:
    """Decodes for one loaded model; see the module's text."""

    def __init__(
        self,
        loaded: LoadedModel,
        cache_bytes: int | None = None,
        speculate: bool = True,
        forced: bool = True,
        row_cost: float | None = None,
        prompt_cache: PromptCache | None = None,
        forward: Forward | None = None,
    ) -> None:
        """Prepare to decode for ``loaded``.

        ``speculate=False`` and ``forced=False`` switch off drafts and the appending of forced tokens
        (to measure what they gain). ``row_cost`` is the cost of one more row as a share of a forward
        of one row; it decides how long drafts are. ``prompt_cache`` keeps system messages on disk.
        """
        self.loaded = loaded
        self.stats = Stats()
        self._forward = forward or make_forward(loaded.model, loaded.config, loaded.precision)
        self._device = torch.device(loaded.device)
        budget = default_budget(self._device) if cache_bytes is None else cache_bytes
        self._sessions = Sessions(self._forward.new_cache, budget, prompt_cache)
        self._grown = False
        """Memory was allocated since the budget was last checked."""
        self._lock = threading.RLock()
        self._batches: WeakSet[Batch] = WeakSet()
        self._context = int(getattr(loaded.config, "max_position_embeddings", 0)) or 1 << 30
        self._speculate = speculate
        self._forced = forced
        self._row_cost = loaded.row_cost if row_cost is None else row_cost
        self._history = History()
        self._experience = Acceptance()
        self._logs: OrderedDict[str, tuple[TokenLog, NgramProposer | None]] = OrderedDict()

    def generate(self, requests: Sequence[Request], on_token: OnToken | None = None) -> list[Generated]:
        """Answer all requests, in order. ``on_token(i, ids)`` streams the new ids of request ``i``.

        A request that cannot be served says why in ``error``. Two requests for one session are a
        caller's bug (:class:`~autogpt.errors.DefectError`). An interruption leaves every session
        usable.
        """
        batch = self.batch(on_token)
        results: dict[int, Generated] = {}
        with self._lock:
            for request in requests:
                batch.add(request)
            while batch:
                results.update(batch.finished())
        return [results[number] for number in range(len(requests))]

    def batch(self, on_token: OnToken | None = None) -> Batch:
        """Open a batch that requests can join at any time."""
        self._batches.add(batch := Batch(self._advance, on_token))
        return batch

    def _advance(self, batch: Batch) -> None:
        """Admit the requests that ``batch`` has room for, run one forward, and end what is complete."""
        with self._lock, torch.inference_mode():
            while batch.waiting and len(batch.active) < MAX_ACTIVE:
                index, request = batch.waiting.popleft()
                refused = self._admit(index, request, batch.active, batch.on_token)
                if refused is not None:
                    batch.end(index, refused)
            if self._grown:
                self._sessions.shrink(self._decoding())
                self._grown = False
            if batch.active:
                self._step(batch.active, batch.on_token)
            for sequence in [s for s in batch.active if s.finished]:
                batch.active.remove(sequence)
                self._end(sequence)
                batch.end(sequence.index, sequence.out)

    def last_states(self, wanted: Sequence[tuple[str, Sequence[int]]]) -> Tensor:
        """Return the final hidden state ``[n, width]`` at the last of each session's ids.

        ``wanted`` holds sessions and all their ids so far. Cached positions are reused, so after a turn
        only the few tokens are computed that the next prompt would need anyway; an unknown session
        starts from the longest prefix that any other holds.
        """
        with self._lock, torch.inference_mode():
            pairs = []
            for name, given in wanted:
                ids = list(given)
                if len(ids) - len(self._open_at(name, ids).ids) > LONG:
                    self.generate([Request(name, ids[:-1], sampling=Sampling(max_tokens=0))])
                session = self._open_at(name, ids)
                session.cache.reserve(len(ids))
                pairs.append((session, ids[len(session.ids) :]))
            states = self._forward.hidden([(session.cache, new) for session, new in pairs])
            for session, new in pairs:
                session.ids.extend(new)
            return states

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values held."""
        with self._lock:
            return self._sessions.nbytes

    def log(self, session: str) -> TokenLog:
        """Return the session's token log (an empty one for an unknown session)."""
        with self._lock:
            return self._logs[session][0] if session in self._logs else TokenLog()

    def close(self, session: str) -> None:
        """End ``session``; unknown names are ignored."""
        with self._lock:
            self._sessions.close(session)
            self._logs.pop(session, None)

    def forget(self, session: str) -> None:
        """End ``session`` and free at once what only it used."""
        with self._lock:
            self._sessions.drop(session)
            self._logs.pop(session, None)

    def fork(self, session: str, new_session: str) -> None:
        """Start ``new_session`` (replacing it if it exists) with what ``session`` holds now."""
        with self._lock, torch.inference_mode():
            self._sessions.fork(session, new_session)
            self._logs.pop(new_session, None)
            if session in self._logs:
                log = self._logs[session][0]
                self._logs[new_session] = (log.branch(len(log)), self._proposer())

    def clear(self) -> None:
        """Forget all sessions and prefixes, as after a change of weights."""
        with self._lock:
            self._sessions.clear()
            self._logs.clear()
            self._forward.refresh()

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Return fp32 logits ``[len(ids), V]`` of a cold forward over ``ids``, for tests."""
        with self._lock, torch.inference_mode():
            hidden = self._forward.hidden([(self._forward.new_cache(), ids)], every=True)
            return self._forward.head(hidden)

    # -- everything below runs under the lock --

    def _decoding(self) -> set[str]:
        """Return the sessions that open batches are decoding: they must not be evicted."""
        return {sequence.request.session for batch in self._batches for sequence in batch.active}

    def _open_at(self, name: str, ids: list[int]) -> Session:
        """Return a session that holds a prefix of ``ids``, at most all but the last."""
        session = self._sessions.open(name)
        session.crop(min(common_prefix(session.ids, ids), len(ids) - 1))
        return session

    def _proposer(self) -> NgramProposer | None:
        return NgramProposer(self._history, self._experience) if self._speculate else None

    def _open_log(self, session: str, ids: list[int]) -> tuple[TokenLog, NgramProposer | None]:
        """Return the session's log, made to hold exactly ``ids``, and its proposer."""
        log, proposer = self._logs.get(session) or (TokenLog(), self._proposer())
        kept = common_prefix(log.ids, ids)
        if kept < len(log):
            log = log.branch(kept)
        log.give(ids[kept:])
        if proposer is not None:
            proposer.sync(log.ids, kept)
        self._logs[session] = (log, proposer)
        self._logs.move_to_end(session)
        if len(self._logs) > KEPT_LOGS:
            self._logs.popitem(last=False)
        return log, proposer

    def _admit(
        self, index: int, request: Request, active: list[Active], on_token: OnToken | None
    ) -> Generated | None:
        """Open the request's session and make it active; return its failure if it cannot be served."""
        ids = list(request.ids)
        out = Generated(prompt_tokens=len(ids))
        room = self._context - len(ids)
        if not ids or room < 1:
            out.error = (
                f"the prompt has {len(ids)} tokens; the model takes 1 to {self._context - 1}: "
                "shorten the history, or raise the recall budget less"
                if ids
                else "the prompt is empty"
            )
            return out
        if request.ends:  # room to complete what the context cuts off
            room = max(1, room - len(request.ends) - UNFINISHED)
        most = min(request.sampling.max_tokens, room)
        session = self._sessions.open(request.session)
        # the last row is computed again if a token is to be chosen from it
        session.crop(min(common_prefix(session.ids, ids), len(ids) - (most > 0)))
        session.core = max(session.core, request.core)
        out.log, proposer = self._open_log(request.session, ids)
        out.start = len(ids)
        sequence = Active(
            index, request, out, out.log, session, proposer, most, self.loaded.vocabulary, self._forced
        )
        for other in active:
            shared = min(common_prefix(other.request.ids, ids), len(ids) - 1)
            if shared > max(sequence.shared, len(session.ids) + WORTH_COPYING):
                sequence.leader, sequence.shared = other, shared
        active.append(sequence)
        try:
            sequence.open()
        except Stuck as error:
            self._fail(sequence, str(error))
        self._stream(sequence, on_token)
        return None

    def _ready(self, sequence: Active) -> bool:
        """Start the sequence from its longest known prefix; False while another is still computing that."""
        leader = sequence.leader
        if leader is not None and not leader.finished and len(leader.session.ids) < sequence.shared:
            return False
        prompt = sequence.out.prompt_tokens
        self._sessions.adopt(sequence.session, sequence.log.ids[: prompt - 1])
        sequence.session.cache.reserve(prompt + min(sequence.limit, USUAL))
        self._grown = True
        sequence.settled, sequence.leader = True, None
        sequence.out.cached_tokens = len(sequence.session.ids)
        self.stats.prompt_tokens += prompt
        self.stats.cached_tokens += sequence.out.cached_tokens
        return True

    def _step(self, active: list[Active], on_token: OnToken | None) -> None:
        """Run one forward over what the active sequences need, then choose tokens."""

        def free() -> None:
            self._sessions.shrink(self._decoding(), 0)

        batch = self._gather(active, free)
        self._draft(batch)
        batch = [work for work in batch if not work.sequence.finished]
        if not batch:
            return
        tails = [work.choices[-1].offset + 1 if work.choices else 1 for work in batch]
        pairs = [(work.sequence.session.cache, work.rows) for work in batch]
        began = time.perf_counter()
        try:
            hidden = retry_out_of_memory(lambda: self._forward.hidden(pairs, tails=tails), free, len(active))
        except OutOfMemory as error:
            for work in batch:
                self._fail(work.sequence, str(error))
            return
        self._sessions.computed(sum(len(rows) for _, rows in pairs), time.perf_counter() - began)
        first = 0
        for work, tail in zip(batch, tails, strict=True):
            work.first, first = first, first + tail
            work.sequence.out.forwards += 1
            self.stats.rows += len(work.rows)
        self.stats.forwards += 1
        sampler = Sampler(self._forward, self._device, hidden, batch)
        for work in batch:
            self._conclude(work, sampler)
            self._stream(work.sequence, on_token)

    def _gather(self, active: list[Active], free: Callable[[], None]) -> list[Work]:
        """Return the ids that the next forward computes, by sequence."""
        batch: list[Work] = []
        room = MAX_ROWS
        # decoding sequences come first: they need few rows and must not wait for long prompts
        for sequence in sorted(active, key=lambda s: s.todo) if len(active) > 1 else active:
            if sequence.finished or not room:
                continue
            try:
                ready = sequence.settled or retry_out_of_memory(
                    partial(self._ready, sequence), free, len(active)
                )
            except OutOfMemory as error:
                self._fail(sequence, str(error))
                continue
            if ready:
                start = len(sequence.session.ids)
                rows = sequence.log.ids[start : start + room]
                room -= len(rows)
                batch.append(Work(sequence, rows))
        return batch

    def _draft(self, batch: list[Work]) -> None:
        """Add decisions and draft rows for the sequences that this forward completes."""
        due = [w for w in batch if len(w.rows) == w.sequence.todo]
        room = MAX_ROWS - sum(len(work.rows) for work in batch)
        for work in due:
            sequence = work.sequence
            if not sequence.limit:  # only the prompt was asked for
                continue
            try:
                work.choices = sequence.draft(min(room, MAX_DRAFT), self._row_cost, 1 / len(due))
            except Stuck as error:
                self._fail(sequence, str(error))
                continue
            for choice in work.choices[:-1]:
                assert choice.guess is not None
                work.rows += [choice.guess.token, *choice.run]
            work.drafted = work.choices[-1].offset
            room -= work.drafted
            self.stats.drafted += len(work.choices) - 1

    def _conclude(self, work: Work, sampler: Sampler) -> None:
        """Choose along the draft until the model differs; the cache keeps what was accepted."""
        sequence, session = work.sequence, work.sequence.session
        session.ids.extend(work.rows[: len(work.rows) - work.drafted])
        if not sequence.limit:
            sequence.finished = sequence.out.complete = not sequence.todo
            return
        for choice in work.choices:
            try:
                token, logprob = sampler.choose(work, choice)
                right = sequence.settle(choice, token, logprob)
            except NotFinite as error:
                layer = first_bad_part(self.loaded, self._forward, sequence.log.ids) or "the output head"
                self._fail(
                    sequence, f"{error} at token {len(sequence.log)}, first in {layer}: check the weights"
                )
                return
            except Stuck as error:
                self._fail(sequence, str(error))
                return
            if not right:
                break
            session.ids.extend([token, *choice.run])
        if work.drafted:
            session.crop(len(session.ids))

    def _stream(self, sequence: Active, on_token: OnToken | None) -> None:
        """Report new ids."""
        if on_token is None:
            return
        new = sequence.log.ids[sequence.out.start + sequence.streamed :]
        if new:
            sequence.streamed += len(new)
            on_token(sequence.index, new)

    def _fail(self, sequence: Active, reason: str) -> None:
        """End one request with an error and forget its session."""
        sequence.out.error = reason
        sequence.finished = True
        self.forget(sequence.request.session)

    def _end(self, sequence: Active) -> None:
        """Complete the statistics of a finished request."""
        out = sequence.out
        out.end = len(out.log)
        origins = out.origins
        self.stats.generated += len(origins)
        self.stats.forced += origins.count(FORCED)
        self.stats.copied += origins.count(COPIED)
        if out.complete and self._speculate:
            self._history.add(out.ids)
