"""The engine against the slow, obvious way: transformers' own generate from a cold cache."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.tiny import generated, tiny_loaded, tiny_shape
from transformers import GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from autogpt.errors import DefectError
from autogpt.llm.engine.engine import Engine, Generated, Request
from autogpt.llm.engine.sampling import choose, uniform
from autogpt.llm.engine.sequence import CIRCLE, LEAST, LOOP, PERIOD, TIMES, repeats
from autogpt.llm.kv.cache import common_prefix
from autogpt.llm.message import Sampling
from autogpt.llm.nn.build import make_forward
from autogpt.llm.nn.forward import FusedForward
from autogpt.llm.nn.load import LoadedModel

V = 257
SHAPE = tiny_shape(V, 64, 3)
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "llama3-rope": LlamaConfig(
        **SHAPE,
        tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "mistral-window": MistralConfig(**SHAPE, sliding_window=24),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=32, tie_word_embeddings=True),
    "gpt2": GPT2Config(
        vocab_size=V, n_embd=64, n_layer=2, n_head=4, n_positions=1024, initializer_range=0.15
    ),
}
Models = dict[str, LoadedModel]


@pytest.fixture(scope="module")
def models() -> Models:
    return {name: build(config) for name, config in CONFIGS.items()}


def build(config: Any) -> LoadedModel:
    loaded = tiny_loaded(config, 3)
    for name, parameter in loaded.model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return loaded


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(3, V, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def greedy(session: str, ids: Sequence[int], count: int = 20, **extra: Any) -> Request:
    return Request(session, ids, sampling=Sampling(max_tokens=count), **extra)


def one(engine: Engine, request: Request) -> Generated:
    (result,) = engine.generate([request])
    assert result.error is None
    return result


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_the_module(models: Models, name: str) -> None:
    loaded, ids = models[name], prompt(70)
    with torch.inference_mode():
        expected = loaded.model(torch.tensor([ids])).logits[0]
    assert (Engine(loaded).logits(ids) - expected).abs().max() < 1e-4
    fused = isinstance(make_forward(loaded.model, loaded.config), FusedForward)
    assert fused == (name != "gpt2")


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_equals_generate_cold_warm_cropped_and_forked(models: Models, name: str) -> None:
    loaded, engine = models[name], Engine(models[name])
    first = prompt(40)
    cold = one(engine, greedy("a", first))
    assert cold.ids == generated(loaded, first, 20) and cold.cached_tokens == 0

    second = [*first, *cold.ids, *prompt(9, 1)]
    warm = one(engine, greedy("a", second))
    assert warm.ids == generated(loaded, second, 20)
    assert warm.cached_tokens == len(first) + len(cold.ids) - 1  # its last token was never fed

    engine.fork("a", "b")
    third = [*second[:50], *prompt(5, 2)]
    cropped = one(engine, greedy("a", third))
    assert cropped.ids == generated(loaded, third, 20) and cropped.cached_tokens == 50
    forked = one(engine, greedy("b", [*second, *warm.ids]))
    assert forked.ids == generated(loaded, [*second, *warm.ids], 20)
    assert forked.cached_tokens == len(second) + 19
    again = one(engine, greedy("a", third))  # nothing new: one row is computed all the same
    assert again.ids == cropped.ids and again.cached_tokens == len(third) - 1


@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_of_mixed_lengths_equals_each_alone(models: Models, name: str) -> None:
    loaded, engine = models[name], Engine(models[name])
    counts = (12, 25, 7, 18)
    requests = [greedy(f"s{i}", prompt(length, i), counts[i]) for i, length in enumerate((5, 300, 41, 530))]
    for result, request, count in zip(engine.generate(requests), requests, counts, strict=True):
        assert result.ids == generated(loaded, request.ids, count)
    # 530 + 300 + ... rows exceed one forward; decoding steps are shared
    assert engine.stats.forwards < sum(counts)


def test_a_shared_prefix_is_computed_once_even_inside_one_batch(models: Models) -> None:
    loaded, engine = models["qwen3"], Engine(models["qwen3"])
    system = prompt(200)
    requests = [greedy(f"s{i}", [*system, *prompt(10 + i, 50 + i)], 6) for i in range(5)]
    results = engine.generate(requests)
    assert [r.cached_tokens for r in results] == [0, 200, 200, 200, 200]
    for result, request in zip(results, requests, strict=True):
        assert result.ids == generated(loaded, request.ids, 6)
    computed = engine.stats.prompt_tokens - engine.stats.cached_tokens
    assert computed == 200 + sum(10 + i for i in range(5))
    for i in range(5):
        engine.close(f"s{i}")
    assert one(engine, greedy("later", [*system, 7, 8, 9])).cached_tokens == 200
    engine.clear()
    assert one(engine, greedy("last", [*system, 7, 8, 9])).cached_tokens == 0


def test_a_small_budget_evicts_and_changes_nothing(models: Models) -> None:
    loaded, engine = models["llama"], Engine(models["llama"], cache_bytes=1)
    for turn in range(2):
        for name in ("a", "b"):
            ids = prompt(30 + 10 * turn, ord(name))
            assert one(engine, greedy(name, ids)).ids == generated(loaded, ids, 20)
    alone = Engine(loaded)
    one(alone, greedy("b", prompt(40, ord("b"))))
    assert engine.nbytes == alone.nbytes > 0  # "a" made room for "b"


class Script:
    """A grammar for tests: per position a list of allowed ids; one id alone is forced if told so."""

    def __init__(self, steps: Sequence[Sequence[int]], announce: bool = True) -> None:
        self.steps = [list(step) for step in steps]
        self.announce = announce
        self.at = 0

    def matcher(self) -> Script:
        return Script(self.steps, self.announce)

    def forced(self) -> list[int]:
        found: list[int] = []
        for step in self.steps[self.at :]:
            if len(step) != 1 or not self.announce:
                break
            found += step
        return found

    def bitmask(self) -> NDArray[np.int32]:
        bits = np.zeros(-(-V // 32) * 32, np.uint8)
        bits[self.steps[self.at]] = 1
        return np.packbits(bits, bitorder="little").view(np.int32)

    def consume(self, token: int) -> bool:
        if token not in self.steps[self.at]:
            return False
        self.at += 1
        return True

    def closer(self) -> int | None:
        return None

    def done(self) -> bool:
        return self.at == len(self.steps)

    def rollback(self, count: int) -> None:
        self.at -= count


def constrained(loaded: LoadedModel, ids: Sequence[int], steps: Sequence[Sequence[int]]) -> list[int]:
    """The oracle under a grammar: a whole forward a token, the best allowed one."""
    out: list[int] = []
    for step in steps:
        with torch.inference_mode():
            row = loaded.model(torch.tensor([[*ids, *out]])).logits[0, -1]
        out.append(max(step, key=lambda token: float(row[token])))
    return out


WIDE = list(range(3, V))


@pytest.mark.parametrize("announce", [True, False])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_grammar_forced_and_sampled_tokens(models: Models, name: str, announce: bool) -> None:
    loaded, engine, ids = models[name], Engine(models[name]), prompt(33)
    steps = [[5], [6], WIDE, [9, 10, 11], [12], [13], [14], [20, 200], WIDE, [15]]
    result = one(engine, greedy("a", ids, 50, grammar=Script(steps, announce)))
    assert result.complete and result.ids == constrained(loaded, ids, steps)
    assert result.forced == [len(step) == 1 for step in steps]
    assert all((p == 0.0) == f for p, f in zip(result.logprobs, result.forced, strict=True))
    assert result.forwards == 4  # one for each real choice; the closing token needs none
    with torch.inference_mode():
        row = loaded.model(torch.tensor([[*ids, *result.ids[:3]]])).logits[0, -1]
    expected = row[[9, 10, 11]].log_softmax(-1).max()
    assert result.logprobs[3] == pytest.approx(float(expected), abs=1e-4)


def test_an_output_ends_by_stop_grammar_or_limit(models: Models) -> None:
    loaded, engine, ids = models["llama"], Engine(models["llama"]), prompt(20)
    plain = generated(loaded, ids, 20)
    stop = plain[7]
    stopped = one(engine, greedy("a", ids, stop_ids=frozenset({stop})))
    assert stopped.complete and stopped.ids == plain[: plain.index(stop) + 1]
    assert not one(engine, greedy("b", ids)).complete
    cut = one(engine, greedy("c", ids, 3, grammar=Script([[5], [6], [7], [8], WIDE])))
    assert not cut.complete and cut.ids == [5, 6, 7]
    whole = one(engine, greedy("d", ids, 3, grammar=Script([[5], [6], [7]])))
    assert whole.complete and whole.forwards == 0


def test_tokens_are_streamed_once_and_in_order(models: Models) -> None:
    engine = Engine(models["llama"])
    seen: dict[int, list[int]] = {0: [], 1: []}
    requests = [greedy("a", prompt(20), 5), greedy("b", prompt(9), 9, grammar=Script([[5], [6], WIDE, [7]]))]
    results = engine.generate(requests, lambda i, ids: seen[i].extend(ids))
    assert [seen[0], seen[1]] == [r.ids for r in results]


def test_sampling_depends_on_seed_session_and_position_alone(models: Models) -> None:
    warm = Sampling(temperature=1.0, seed=4, max_tokens=15)
    requests = [Request(f"s{i}", prompt(10 + 7 * i, i), sampling=warm) for i in range(4)]
    together = [r.ids for r in Engine(models["qwen2"]).generate(requests)]
    alone = [one(Engine(models["qwen2"]), request).ids for request in requests]
    assert together == alone
    other = Request("s0", requests[0].ids, sampling=Sampling(temperature=1.0, seed=5, max_tokens=15))
    assert one(Engine(models["qwen2"]), other).ids != alone[0]


def test_choose_follows_the_distribution() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -30.0])
    expected = (logits / 0.8).softmax(-1)
    draws = [uniform(1, "x", position) for position in range(4000)]
    picked = torch.tensor([choose(logits, Sampling(temperature=0.8), draw)[0] for draw in draws])
    counts = torch.bincount(picked, minlength=5).float()
    chi_square = ((counts - 4000 * expected)[:4] ** 2 / (4000 * expected[:4])).sum()
    assert chi_square < 16.3  # 3 degrees of freedom, p = 0.001
    index, logprob = choose(logits, Sampling(temperature=0.8), 0.0)
    assert index == 0 and logprob == pytest.approx(float(expected[0].log()), abs=1e-5)


def test_one_bad_request_does_not_harm_the_others(models: Models) -> None:
    loaded = models["llama"]
    engine, good = Engine(loaded), prompt(20)
    poisoned = build(CONFIGS["llama"])
    poisoned.model.get_parameter("model.embed_tokens.weight").data[2] = float("nan")
    results = Engine(poisoned).generate([greedy("bad", [5, 2, 6]), greedy("good", good)])
    assert "not finite" in (results[0].error or "") and results[1].ids == generated(loaded, good, 20)
    results = engine.generate([greedy("a", prompt(1100)), greedy("b", []), greedy("c", good)])
    assert "1100 tokens" in (results[0].error or "") and "empty" in (results[1].error or "")
    assert results[2].ids == generated(loaded, good, 20)
    with pytest.raises(DefectError):
        engine.generate([greedy("a", good), greedy("a", good)])
    edge = one(engine, greedy("edge", prompt(1020), 50))
    assert len(edge.ids) == 4 and not edge.complete


@pytest.mark.parametrize("name", ["qwen3", "gpt2"])
def test_an_interrupted_step_leaves_sessions_usable(models: Models, name: str) -> None:
    loaded, engine, ids = models[name], Engine(models[name]), prompt(30)

    def interrupt(index: int, new: list[int]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate([greedy("a", ids)], interrupt)
    if name == "gpt2":  # computed by its module: stop in the middle of a forward, layer 0 done

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        hook = loaded.model.get_submodule("transformer.h.1").register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            engine.generate([greedy("a", [*ids, 4, 5, 6])])
        hook.remove()
    result = one(engine, greedy("a", ids))
    assert result.ids == generated(loaded, ids, 20) and result.cached_tokens == len(ids) - 1


def test_changed_weights_are_seen_by_the_fused_forward() -> None:
    loaded = build(CONFIGS["qwen3"])
    engine, ids = Engine(loaded), prompt(12)
    before = engine.logits(ids)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.mul_(0.9)
        expected = loaded.model(torch.tensor([ids])).logits[0]
    assert (engine.logits(ids) - expected).abs().max() < 1e-4
    assert (before - expected).abs().max() > 1e-2


def test_common_prefix_equals_the_obvious_count() -> None:
    for seed in range(200):
        draw = random.Random(seed)
        a = draw.choices((0, 1), k=draw.randrange(40))
        b = a[: draw.randrange(40)] + draw.choices((0, 1), k=draw.randrange(7))
        plain = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        assert common_prefix(a, b) == plain


QUOTE = 9


class Endless(Script):
    """A grammar of one endless string, of one id that must be computed each time; QUOTE ends it."""

    def __init__(self, may_end: bool) -> None:
        super().__init__([[5]])
        self.may_end, self.ended = may_end, False

    def matcher(self) -> Endless:
        return Endless(self.may_end)

    def forced(self) -> list[int]:
        return []

    def consume(self, token: int) -> bool:
        self.ended = token == QUOTE
        return token in (5, QUOTE)

    def closer(self) -> int | None:
        return QUOTE if self.may_end else None

    def done(self) -> bool:
        return self.ended

    def rollback(self, count: int) -> None:
        self.ended = False


@pytest.mark.parametrize("speculate", [False, True])
def test_going_round_in_a_circle_ends_the_string_where_it_may_end(models: Models, speculate: bool) -> None:
    engine, ids = Engine(models["llama"], speculate=speculate, forced=False), prompt(33)
    endless = one(engine, greedy("a", ids, 150, grammar=Endless(may_end=False)))
    assert not endless.complete and endless.ids == [5] * 150
    ended = one(engine, greedy("b", ids, 150, grammar=Endless(may_end=True)))
    assert ended.complete and ended.ids == [*[5] * CIRCLE, QUOTE]


def test_one_rule_sees_a_circle_strictly_in_a_string_and_earlier_at_the_limit() -> None:
    words, sentence = list(range(9)), list(range(40))
    for circle, in_a_string, at_the_limit in (
        (words * 11, True, True),
        (words * 4, False, True),
        (sentence * 5, False, True),
        (sentence * 3, False, False),
        ([*words * 11, 99], False, False),
        (words[:5] * 4, False, False),
    ):
        said = [7, 8, *circle]
        assert repeats(said, CIRCLE, PERIOD) == in_a_string, circle
        assert repeats(said, LEAST, LOOP, TIMES) == at_the_limit, circle
