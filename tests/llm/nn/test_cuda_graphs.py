"""Forwards of fixed shape (what CUDA graphs record) against the ordinary forward, on the processor."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.tiny import tiny_shape
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen3Config

from autogpt.llm.engine.engine import Engine, Request
from autogpt.llm.message import Sampling
from autogpt.llm.nn.cuda_graphs import GraphedForward, Graphs
from autogpt.llm.nn.fixed_shape import Seats, Shape, fit, lay
from autogpt.llm.nn.forward import FusedForward
from autogpt.llm.nn.load import LoadedModel

V = 97
SHAPE = tiny_shape(V, max_position_embeddings=600, initializer_range=0.2)
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16, tie_word_embeddings=True),
    "mistral-window": MistralConfig(**SHAPE, sliding_window=24),
}
ROOM = 16 * 768 * 2 * 2 * 2 * 16 * 4
"""Bytes for 16 seats of 768 positions (two layers, two groups, heads up to 16 wide, fp32)."""


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest) -> LoadedModel:
    torch.manual_seed(5)
    config = CONFIGS[request.param]
    module = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    return LoadedModel(module, config, "cpu", torch.float32, "tiny", "f", "f", V)


def both(loaded: LoadedModel) -> tuple[FusedForward, GraphedForward]:
    ordinary = FusedForward(loaded.model, loaded.config)
    return ordinary, GraphedForward(ordinary, 600, ROOM)


class Twins:
    """The same sequences in caches of both forwards."""

    def __init__(self, loaded: LoadedModel, names: str) -> None:
        self.forwards = both(loaded)
        self.draw = random.Random(names)
        self.caches = {name: [forward.new_cache() for forward in self.forwards] for name in names}

    def run(self, counts: dict[str, int], tails: list[int] | None = None) -> None:
        """Append random ids to the sequences named, and compare hidden rows and logits."""
        new = {name: self.draw.choices(range(V), k=count) for name, count in counts.items()}
        found = []
        for which, forward in enumerate(self.forwards):
            rows = forward.hidden([(self.caches[name][which], ids) for name, ids in new.items()], tails=tails)
            found.append(forward.head(rows))
        assert found[0].shape == found[1].shape
        assert (found[0] - found[1]).abs().max() < 1e-4
        for name in counts:
            assert self.caches[name][0].length == self.caches[name][1].length

    def crop(self, name: str, length: int) -> None:
        for cache in self.caches[name]:
            cache.crop(length)


def test_mixed_lengths_equal_the_ordinary_forward(model: LoadedModel) -> None:
    twins = Twins(model, "abcdef")
    with torch.inference_mode():
        twins.run({"a": 300})  # a prompt: the ordinary way, its keys come into a seat when it decodes
        twins.run({"a": 1})
        twins.run({"a": 5}, [3])
        twins.run({"b": 30, "a": 1, "c": 2}, [30, 1, 2])
        twins.run({"c": 1, "b": 17, "d": 200, "a": 3, "e": 1}, [1, 4, 1, 2, 1])  # a prompt among them
        twins.crop("b", 33)
        twins.run({"b": 4, "a": 2})
        twins.crop("a", 20)
        twins.run({"a": 140})  # written over by the ordinary forward: the seat must follow
        for _ in range(3):
            twins.run({name: twins.draw.randint(1, 6) for name in "fedcba"})


def test_many_sequences_with_one_long_draft(model: LoadedModel) -> None:
    names = "abcdefghijkl"
    twins = Twins(model, names)
    with torch.inference_mode():
        twins.run(dict.fromkeys(names, 1))
        counts = dict.fromkeys(names, 1) | {"c": 17}
        assert not fit(list(counts.values()), 18, 768).dense
        twins.run(counts, [5 if name == "c" else 1 for name in names])
        twins.run(dict.fromkeys(names, 3))


def test_seats_are_given_to_others_and_back(model: LoadedModel) -> None:
    twins = Twins(model, "abc")
    with torch.inference_mode():
        for name in "abcabcab":  # alone, each must have the first seat
            twins.run({name: twins.draw.randint(1, 9)})
        twins.run({"a": 1, "b": 1, "c": 1})
        twins.run({"c": 1})


def test_what_was_in_a_seat_alters_nothing(model: LoadedModel) -> None:
    """Padding rows and stale positions, be they NaN, reach no other sequence."""
    _, graphed = both(model)
    ids = list(range(3, 43))
    with torch.inference_mode():
        first, bad = graphed.new_cache(), graphed.new_cache()
        clean = graphed.hidden([(first, ids[:20])]).clone()
        graphed.hidden([(bad, ids)])
        bad.crop(39)
        seats = graphed._seats
        assert seats is not None
        seats.held[:, :, :, :, :40] = float("nan")
        seats.held[:, :, :, :, -1] = float("nan")
        del bad
        gc.collect()
        again = graphed.new_cache()
        assert torch.equal(graphed.hidden([(again, ids[:20])]), clean)


def test_a_failed_forward_leaves_lengths_as_they_were(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary, graphed = both(model)
    with torch.inference_mode():
        caches = [graphed.new_cache(), graphed.new_cache()]
        batch = [(caches[0], [1, 2, 3]), (caches[1], list(range(60)))]
        monkeypatch.setattr(Seats, "take_back", lambda *_: (_ for _ in ()).throw(RuntimeError("no memory")))
        with pytest.raises(RuntimeError, match="no memory"):
            graphed.hidden(batch)
        assert [cache.length for cache in caches] == [0, 0]
        monkeypatch.undo()
        found = graphed.hidden(batch)
        expected = ordinary.hidden([(graphed.new_cache(), ids) for _, ids in batch])
        assert (found - expected).abs().max() < 1e-4


def test_too_little_room_is_said_and_decoding_goes_on(model: LoadedModel) -> None:
    ordinary = FusedForward(model.model, model.config)
    graphed = GraphedForward(ordinary, 600, 1000)
    with torch.inference_mode():
        cache = graphed.new_cache()
        with pytest.warns(RuntimeWarning, match="without CUDA graphs.*do not fit into 1000 bytes"):
            found = graphed.hidden([(cache, [1, 2, 3])])
        assert torch.equal(found, ordinary.hidden([(ordinary.new_cache(), [1, 2, 3])]))


def test_a_sequence_longer_than_a_seat_goes_the_ordinary_way(model: LoadedModel) -> None:
    ordinary = FusedForward(model.model, model.config)
    graphed = GraphedForward(ordinary, 600, ROOM // 48)  # one seat of 256 positions
    ids = torch.arange(250).remainder(V).tolist()
    with torch.inference_mode():
        mine, theirs = graphed.new_cache(), ordinary.new_cache()
        for new in (ids, ids[:4], ids[:5], ids[:3]):
            found, expected = graphed.hidden([(mine, new)]), ordinary.hidden([(theirs, new)])
            assert (found - expected).abs().max() < 1e-4


def test_the_engine_decodes_the_same_through_it(model: LoadedModel) -> None:
    """Shared beginnings, forks, drafts and returning sessions: token for token as without."""
    draw = random.Random(4)
    system = draw.choices(range(V), k=280)
    texts = {name: [*system, *draw.choices(range(V), k=9)] for name in "abcde"}
    ordinary, graphed = both(model)
    answers: list[list[list[int]]] = []
    for forward in (ordinary, graphed):
        engine = Engine(model, 1 << 28, forward=forward)
        outs: list[list[int]] = []
        for turn in range(2):
            requests = [
                Request(name, text + [turn] * turn, sampling=Sampling(max_tokens=12))
                for name, text in texts.items()
            ]
            outs += [out.ids for out in engine.generate(requests)]
        engine.fork("a", "f")
        (out,) = engine.generate([Request("f", texts["a"] + outs[5], sampling=Sampling(max_tokens=5))])
        answers.append([*outs, out.ids])
    assert answers[0] == answers[1]


def test_shapes_cover_every_batch_and_rows_do_not_collide() -> None:
    draw = random.Random(1)
    for _ in range(300):
        counts = [draw.choice([1, 1, 1, 2, 5, 17, 32]) for _ in range(draw.randint(1, 16))]
        if sum(counts) > 512:
            continue
        starts = [draw.randint(0, 700) for _ in counts]
        shape = fit(counts, max(s + n for s, n in zip(starts, counts, strict=True)), 768)
        seats = draw.sample(range(shape.sequences), len(counts))
        batch = [(seat, start, list(range(n))) for seat, start, n in zip(seats, starts, counts, strict=True)]
        numbers, rows = lay(shape, 768, batch)
        real = [row for mine in rows for row in mine]
        assert len(set(real)) == sum(counts) <= shape.rows
        places = list(zip(numbers.seat, numbers.write, strict=True))
        assert len({places[row] for row in real}) == len(real)
        padding = [row for row in range(shape.rows) if row not in set(real)]
        assert all(numbers.write[row] == 768 for row in padding)
        if not shape.dense:
            assert not {numbers.cell[row] for row in padding} & {numbers.cell[row] for row in real}
            assert len(numbers.seen) == shape.sequences * shape.reach


class FakeCuda:
    """Stands for ``torch.cuda``'s recording on a machine without a GPU; replays are counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refuses: bool = False) -> None:
        self.replays: list[int] = []
        self.recorded = 0
        outer = self

        class Recording:
            def __init__(self) -> None:
                outer.recorded += 1
                self.number = outer.recorded

            def replay(self) -> None:
                outer.replays.append(self.number)

        @contextmanager
        def recording(*_: Any, **__: Any) -> Iterator[None]:
            if refuses:
                raise RuntimeError("operation not permitted when stream is capturing\nmore of it")
            yield

        stream = SimpleNamespace(wait_stream=lambda other: None)
        for name, value in {
            "Stream": lambda device: stream,
            "current_stream": lambda device: stream,
            "stream": lambda stream: nullcontext(),
            "graph_pool_handle": lambda: (0, 0),
            "synchronize": lambda device: None,
            "CUDAGraph": Recording,
            "graph": recording,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)


def test_a_shape_is_recorded_when_it_comes_again_and_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, stepped = FakeCuda(monkeypatch), []
    monkeypatch.setattr("autogpt.llm.nn.cuda_graphs.MAX_GRAPHS", 2)

    def step(shape: Shape) -> torch.Tensor:
        stepped.append(shape)
        return torch.tensor(shape.rows)

    graphs = Graphs(step, torch.device("cpu"))
    a, b, c = (Shape(rows, rows, 1, 256) for rows in (1, 4, 8))
    assert int(graphs(a)) == 1 and stepped == [a] and not len(graphs)
    assert int(graphs(a)) == 1 and stepped == [a, a, a]  # once to warm up, once recorded
    graphs(a)
    assert len(stepped) == 3 and cuda.replays == [1, 1]
    for shape in (b, b, a, c, c):  # b was not used for longest when c needs its place
        assert int(graphs(shape)) == shape.rows
    assert len(graphs) == 2 and cuda.replays == [1, 1, 2, 1, 3]
    graphs(a)
    assert cuda.replays[-1] == 1
    graphs(b)
    assert cuda.recorded == 4 and len(graphs) == 2


def test_a_refused_recording_is_said_once_and_decoding_goes_on(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary, graphed = both(model)
    with torch.inference_mode():
        mine, theirs = graphed.new_cache(), ordinary.new_cache()
        graphed.hidden([(mine, [1, 2])])
        ordinary.hidden([(theirs, [1, 2])])
        FakeCuda(monkeypatch, refuses=True)
        assert graphed._step is not None
        graphed.graphs = Graphs(graphed._step, torch.device("cpu"))
        found = [graphed.hidden([(mine, [3])])]
        with pytest.warns(RuntimeWarning, match="without CUDA graphs, more slowly: operation not permitted"):
            found.append(graphed.hidden([(mine, [4])]))
        found.append(graphed.hidden([(mine, [5])]))
        for rows, token in zip(found, (3, 4, 5), strict=True):
            assert (rows - ordinary.hidden([(theirs, [token])])).abs().max() < 1e-4
