"""Decoding on a GPU: forwards of few rows as captured CUDA graphs.

A small model's kernels take less time than launching them one by one from Python; a graph launches them
all at once. :class:`Graphs` records a :class:`~.fixed.Step` for each shape it meets and replays it;
:class:`GraphedForward` is the engine's view: it sends decoding through graphs and what does not fit
(long prompts, all rows at once, sequences beyond a seat's length) through the ordinary forward. A
forward waits for the GPU at no point; choosing tokens waits once.

Limits: the seats take up to an eighth of the GPU's memory, and :data:`MOST_POSITIONS` positions of a
sequence at most. Written and tested on processors, where the step runs unrecorded: recording itself has
not been run on a GPU yet (``tests/llm/nn/test_gpu.py`` and ``benchmarks/gpu_engine.py`` wait for one).
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from ..kv.cache import Cache, Slot
from .fixed_shape import (
    ALONE,
    LEAST_POSITIONS,
    ROWS,
    SEQUENCES,
    TOGETHER,
    Seats,
    Shape,
    Step,
    fit,
)
from .forward import FusedForward

MOST_POSITIONS = 16384
MAX_GRAPHS = 64
"""Graphs kept; beyond, the one not used for longest is dropped."""
MEMORY_SHARE = 8
"""The seats take at most this part of the GPU's memory (an eighth)."""


class CannotRecord(RuntimeError):
    """The device or its driver could not record a graph."""


class Graphs:
    """Recordings of a step by shape, in one pool of memory: they never run at the same time.

    A shape is computed as it is when it comes first, which also readies every kernel, and recorded when
    it comes again.
    """

    def __init__(self, step: Callable[[Shape], Tensor], device: torch.device) -> None:
        self._step, self._device = step, device
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._met: set[Shape] = set()
        self._ready: OrderedDict[Shape, tuple[torch.cuda.CUDAGraph, Tensor]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._ready)

    def __call__(self, shape: Shape) -> Tensor:
        """Run what is loaded; the result is overwritten by the next run."""
        if shape not in self._ready:
            if shape not in self._met:
                self._met.add(shape)
                return self._step(shape)
            self.record(shape)
        self._ready.move_to_end(shape)
        graph, out = self._ready[shape]
        graph.replay()
        return out

    def record(self, shape: Shape) -> None:
        """Record the step for ``shape``; what is loaded must fit it, and is computed once on the way.

        Raises :class:`CannotRecord`.
        """
        try:
            self._ready[shape] = self._record(shape)
        except RuntimeError as error:
            raise CannotRecord(str(error)) from error

    def _record(self, shape: Shape) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        if len(self._ready) >= MAX_GRAPHS:
            torch.cuda.synchronize(self._device)  # it may still be running
            self._ready.popitem(last=False)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            self._step(shape)
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            out = self._step(shape)
        return graph, out


class GraphedForward:
    """:class:`~.forward.FusedForward` with its small forwards as graphs (see :class:`~.forward.Forward`).

    Where graphs cannot be had (too little memory, a driver that refuses), it says so once and is the
    ordinary forward.
    """

    def __init__(self, inner: FusedForward, context: int, budget: int | None = None) -> None:
        """``context`` is the longest sequence; ``budget`` the bytes for seats, None: by the GPU's memory."""
        self.inner = inner
        self._context, self._budget = context, budget
        self._off = False
        self._seats: Seats | None = None
        self._step: Step | None = None
        self.graphs: Graphs | None = None
        """Recordings; None without CUDA, where the step is computed as it is."""

    def new_cache(self) -> Slot:
        """See :class:`~.forward.Forward`."""
        return self.inner.new_cache()

    def head(self, hidden: Tensor, allowed: Tensor | None = None) -> Tensor:
        """See :class:`~.forward.Forward`."""
        return self.inner.head(hidden, allowed)

    def refresh(self) -> None:
        """See :class:`~.forward.Forward`; graphs read the weights where they were changed."""
        self.inner.refresh()

    @torch.inference_mode()
    def hidden(
        self,
        batch: Sequence[tuple[Cache, Sequence[int]]],
        every: bool = False,
        tails: Sequence[int] | None = None,
    ) -> Tensor:
        """See :class:`~.forward.Forward`; prompts and the rest of a mixed batch are computed apart."""
        tails = tails or [1] * len(batch)
        if self._step is None and not self._off:
            self._begin()
        few = [] if every or self._off else self._few(batch)
        if not few:
            return self.inner.hidden(batch, every, tails)
        before = [cache.length for cache, _ in batch]
        try:
            return self._both(batch, tails, few)
        except RuntimeError as error:  # as if nothing had happened: it is tried again, here or by the engine
            for (cache, _), length in zip(batch, before, strict=True):
                cache.crop(length)
            if not isinstance(error, CannotRecord):
                raise
            self._give_up(error)
        return self.inner.hidden(batch, every, tails)

    def _few(self, batch: Sequence[tuple[Cache, Sequence[int]]]) -> list[int]:
        """Return which sequences go into a graph together, in the batch's order."""
        limit, room = ALONE if len(batch) == 1 else TOGETHER, ROWS[-1]
        assert self._seats is not None
        found: list[int] = []
        for i, (cache, ids) in enumerate(batch):
            short = len(ids) <= min(limit, room) and cache.length + len(ids) <= self._seats.positions
            if short and len(found) < len(self._seats):
                found.append(i)
                room -= len(ids)
        return found

    def _both(
        self, batch: Sequence[tuple[Cache, Sequence[int]]], tails: Sequence[int], few: Sequence[int]
    ) -> Tensor:
        """Compute the sequences ``few`` as a graph, the rest as ever; returns the rows of all in order."""
        if len(few) == len(batch):
            return self._run(batch, tails)
        rest = [i for i in range(len(batch)) if i not in few]
        ordinary = self.inner.hidden([batch[i] for i in rest], tails=[tails[i] for i in rest])
        graphed = self._run([batch[i] for i in few], [tails[i] for i in few])
        parts = torch.split(torch.cat([ordinary, graphed]), [tails[i] for i in (*rest, *few)])
        return torch.cat([part for _, part in sorted(zip((*rest, *few), parts, strict=True))])

    def _run(self, batch: Sequence[tuple[Cache, Sequence[int]]], tails: Sequence[int]) -> Tensor:
        """Compute a batch as one graph."""
        assert self._seats is not None and self._step is not None
        slots = [cast(Slot, cache) for cache, _ in batch]
        ends = [slot.length + len(ids) for slot, (_, ids) in zip(slots, batch, strict=True)]
        shape = fit([len(ids) for _, ids in batch], max(ends), self._seats.positions)
        seats = self._seats.assign(slots, shape.sequences)
        for seat, slot, end in zip(seats, slots, ends, strict=True):
            slot.reserve(end)
            self._seats.bring(seat, slot, end)
        numbered = [(slot, seat, ids) for slot, seat, (_, ids) in zip(slots, seats, batch, strict=True)]
        wanted = self._step.load(shape, numbered, tails)
        compute = self._step if self.graphs is None else self.graphs
        rows = compute(shape).index_select(0, wanted)
        for seat, slot, end in zip(seats, slots, ends, strict=True):
            self._seats.take_back(seat, slot, end)
        return rows

    def _begin(self) -> None:
        """Take memory for the seats and, on CUDA, record the largest shape: the others fit into its pool."""
        like = self.inner.new_cache().buffer
        layers, two, groups, _, dim = like.shape
        size = layers * two * groups * dim * like.element_size()
        budget = self._budget
        if budget is None:
            budget = torch.cuda.get_device_properties(like.device).total_memory // MEMORY_SHARE
        positions = min(
            -(-self._context // LEAST_POSITIONS) * LEAST_POSITIONS, MOST_POSITIONS, budget // size
        )
        positions -= positions % LEAST_POSITIONS
        try:
            if not positions:
                raise CannotRecord(f"{LEAST_POSITIONS} positions do not fit into {budget} bytes")
            seats = max(n for n in SEQUENCES if n == 1 or n * positions * size <= budget)
            self._seats = Seats(like, seats, positions)
            self._step = Step(self.inner, self._seats)
            if like.device.type == "cuda":
                self.graphs = Graphs(self._step, like.device)
                reach = ALONE if seats == 1 else TOGETHER
                largest = Shape(min(ROWS[-1], seats * reach), reach, seats, positions)
                self._step.load(largest, [], [])
                self.graphs.record(largest)
        except RuntimeError as error:
            self._give_up(error)

    def _give_up(self, error: RuntimeError) -> None:
        """Be the ordinary forward from now on."""
        self._off, self._seats, self._step, self.graphs = True, None, None, None
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        warnings.warn(f"decoding without CUDA graphs, more slowly: {reason}", RuntimeWarning, stacklevel=2)
