"""What the model chooses does not depend on drafts: wrong guesses, sampling, logs, host time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny import tiny_loaded
from transformers import LlamaConfig

from autogpt.llm.engine import sampling
from autogpt.llm.engine.engine import Engine, Generated, Request
from autogpt.llm.engine.sequence import FEW, TokenLog, permits, read_mask
from autogpt.llm.engine.speculation import Acceptance, DraftToken, History, NgramIndex, NgramProposer
from autogpt.llm.message import Sampling
from autogpt.llm.nn.build import make_forward
from autogpt.llm.nn.forward import Forward
from autogpt.llm.nn.load import LoadedModel


def tiny(vocabulary: int, spread: float = 0.2) -> LoadedModel:
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=2048,
        initializer_range=spread,
    )  # fmt: skip
    return tiny_loaded(config, 4)


def prompt(vocabulary: int, length: int, seed: int = 0) -> list[int]:
    return torch.randint(vocabulary, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def sampled(temperature: float, count: int, seed: int = 0) -> Sampling:
    return Sampling(temperature=temperature, max_tokens=count, seed=seed)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_guesses_that_are_always_wrong_change_nothing(
    temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, v = tiny(64), 64
    first, more = prompt(v, 30), prompt(v, 11, 1)

    def run(engine: Engine) -> list[Generated]:
        one = engine.generate([Request("a", first, sampling=sampled(temperature, 25))])[0]
        engine.fork("a", "b")
        ids = [*first, *one.ids, *more]
        two = engine.generate([Request(name, ids, sampling=sampled(temperature, 25)) for name in ("a", "b")])
        return [one, *two]

    plain = run(Engine(loaded, speculate=False))

    def wrong(self: NgramProposer, tail: Sequence[int]) -> list[DraftToken]:
        return [DraftToken((sum(tail) * 7 + 3) % v, 6, NgramIndex(), 0)]

    monkeypatch.setattr(NgramProposer, "guesses", wrong)
    monkeypatch.setattr(NgramProposer, "worth", lambda *_: True)
    engine = Engine(loaded)
    lied = run(engine)
    assert engine.stats.drafted > 10 * engine.stats.copied
    for a, b in zip(plain, lied, strict=True):
        assert a.ids == b.ids
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def test_drafted_sampling_follows_the_models_distribution() -> None:
    """Chi-square over 16 tokens: of the second drawn token, with a draft at both."""
    loaded, v, n = tiny(16, 0.2), 16, 800
    logits = Engine(loaded, speculate=False).logits
    # a repeated beginning, so that there is a guess at once; one that is right now and then
    prompts = (prompt(v, 9, seed) * 2 for seed in range(99))
    ids, first = next(
        (ids, first) for ids in prompts if (first := logits(ids)[-1].softmax(-1))[ids[0]] > 0.15
    )
    expected = n * torch.stack([first[t] * logits([*ids, t])[-1].softmax(-1) for t in range(v)]).sum(0)
    drawn: dict[bool, list[list[int]]] = {}
    for speculate in (False, True):
        engine = Engine(loaded, speculate=speculate, row_cost=0.0)
        requests = [Request(f"s{i}", ids, sampling=sampled(1.0, 3, seed=i)) for i in range(n)]
        drawn[speculate] = [answer.ids for answer in engine.generate(requests)]
        if speculate:
            assert engine.stats.drafted > n and n / 8 < engine.stats.copied < n
    counts = torch.bincount(torch.tensor([out[1] for out in drawn[True]]), minlength=v)
    assert expected.min() > 5
    assert ((counts - expected) ** 2 / expected).sum() < 37.7  # 15 degrees of freedom, p = 0.001
    assert drawn[True] == drawn[False]  # each draw belongs to its seed, session and position


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_deciding_all_rows_at_once_chooses_the_same(
    temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU does, on the processor."""
    loaded, v = tiny(64), 64
    requests = [
        Request(f"s{i}", prompt(v, 9, i) * 2, sampling=sampled(temperature if i else 0.0, 20))
        for i in range(3)
    ]
    expected = Engine(loaded).generate(requests)
    made: list[sampling.Sampler] = []

    class AtOnce(sampling.Sampler):
        def __init__(
            self, forward: Forward, device: torch.device, hidden: torch.Tensor, batch: Sequence[sampling.Work]
        ) -> None:
            super().__init__(forward, device, hidden, batch, at_once=True)
            made.append(self)

    monkeypatch.setattr("autogpt.llm.engine.engine.Sampler", AtOnce)
    found = Engine(loaded).generate(requests)
    assert made and [answer.ids for answer in found] == [answer.ids for answer in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def test_the_log_marks_every_token_and_never_changes() -> None:
    loaded, v = tiny(64), 64
    engine = Engine(loaded, row_cost=0.0)
    ids = prompt(v, 20) * 2
    out = engine.generate([Request("a", ids, sampling=sampled(0.0, 12))])[0]
    log = engine.log("a")
    assert log.ids == [*ids, *out.ids] and log.origins() == "g" * 40 + out.origins
    assert set(out.origins) <= {"s", "c"} and out.origins.count("c") == engine.stats.copied
    assert log.logprobs(40) == out.logprobs and all(p < 0 for p in out.logprobs)

    before = list(log.ids)
    longer = engine.generate([Request("a", [*log.ids, 5, 6], sampling=sampled(0.0, 3))])[0]
    assert engine.log("a") is log and log.ids == [*before, 5, 6, *longer.ids]  # the same log went on
    assert out.ids == before[40:]  # an earlier answer is not touched by it
    before = list(log.ids)
    engine.generate([Request("a", [*ids, 9, 9], sampling=sampled(0.0, 3))])
    assert log.ids == before and engine.log("a").ids[:42] == [*ids, 9, 9]  # another past: another log
    engine.close("a")
    assert len(engine.log("a")) == 0 == len(TokenLog())


def test_the_index_equals_a_plain_search() -> None:
    index, ids = NgramIndex(), prompt(4, 300)
    index.extend(ids[:100])
    index.crop(60)
    index.extend(ids[60:])
    for end in range(2, 300, 7):
        tail = ids[end - 6 if end > 6 else 0 : end]
        best = 0
        for place in range(2, 300):
            length = 0
            while length < min(len(tail), place) and ids[place - 1 - length] == tail[-1 - length]:
                length += 1
            best = max(best, length)
        found = index.find(tail)
        recent = [place for place in range(2, 300) if ids[place - 2 : place] == tail[-2:]][-16:]
        for length, place in found:
            assert ids[place - length : place] == tail[-length:] and place in recent
        if found and len(recent) < 16:
            assert found[0][0] == best


def test_doubt_stops_drafting_and_wears_off() -> None:
    proposer = NgramProposer(History(), Acceptance())
    guess = DraftToken(1, 2, NgramIndex(), 0)
    proposer.start()
    assert proposer.worth(guess, 1, 0.1, 1.0)
    assert not proposer.worth(guess, 40, 0.1, 1.0)  # so long a run costs more than a forward
    for _ in range(60):
        proposer.acceptance.count(2, False)
    assert not proposer.worth(guess, 1, 0.1, 1.0)
    waited = next(i for i in range(200) if proposer.worth(guess, 1, 0.1, 1.0))
    assert waited > 3


def test_masks_are_read_as_flags_or_as_a_few_ids() -> None:
    for vocabulary, step in ((100, 1), (100, 9), (4096, 3), (4096, 500), (4097, 4096)):
        bits = torch.zeros(-(-vocabulary // 32) * 32, dtype=torch.uint8).numpy()
        bits[::step] = 1
        words = np.packbits(bits, bitorder="little").view(np.int32)
        allowed = read_mask(words, vocabulary)
        expected = list(range(0, vocabulary, step))
        flags = allowed.dtype == np.bool_
        assert (list(np.flatnonzero(allowed)) if flags else list(allowed)) == expected
        assert flags == (len(expected) * FEW >= vocabulary)
        assert [i for i in range(vocabulary) if permits(allowed, i)] == expected


def test_host_time_per_forward_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor's time beside the tensor work; 40 to 90 us when the machine is quiet."""
    loaded, v = tiny(512), 512
    forward = make_forward(loaded.model, loaded.config)
    engine = Engine(loaded, row_cost=0.1, forward=forward)
    spent, depth = 0.0, 0

    def timed(work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **named: Any) -> Any:
            nonlocal spent, depth
            depth += 1
            begin = time.thread_time()
            try:
                return work(*args, **named)
            finally:
                depth -= 1
                spent += 0.0 if depth else time.thread_time() - begin

        return run

    monkeypatch.setattr(sampling, "choose", timed(sampling.choose))
    monkeypatch.setattr(forward, "hidden", timed(forward.hidden))
    monkeypatch.setattr(forward, "head", timed(forward.head))
    ids, best = prompt(v, 600), float("inf")
    engine.generate([Request("a", ids, sampling=sampled(0.0, 0))])
    for _ in range(4):
        forwards, spent, begin = engine.stats.forwards, 0.0, time.thread_time()
        engine.generate([Request("a", ids, sampling=sampled(0.0, 100))])
        host = time.thread_time() - begin - spent
        best = min(best, host / (engine.stats.forwards - forwards))
    assert best < 400e-6
