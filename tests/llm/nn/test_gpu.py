"""The engine on GPUs, NVIDIA's and Apple's; tests of a device are skipped where it is missing."""

from __future__ import annotations

import importlib
import random
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch
from support.paths import BENCHMARKS
from support.tiny import generated, tiny_loaded, tiny_shape
from transformers import LlamaConfig, Qwen3Config

from autogpt.llm.engine.engine import Engine, Request
from autogpt.llm.message import Sampling
from autogpt.llm.nn.build import make_forward
from autogpt.llm.nn.forward import FusedForward
from autogpt.llm.nn.load import LoadedModel

V = 257
SHAPE = tiny_shape(V, 64, 3)
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=32, tie_word_embeddings=True),
}


Test = TypeVar("Test", bound=Callable[..., None])


def needs(device: str) -> Callable[[Test], Test]:
    """Mark for ``device`` and skip without it."""
    there = torch.cuda.is_available() if device == "cuda" else torch.backends.mps.is_available()
    mark: pytest.MarkDecorator = getattr(pytest.mark, device)
    skip = pytest.mark.skipif(not there, reason=f"no {device} device")
    return lambda test: mark(skip(test))


def build(name: str, device: str, dtype: torch.dtype = torch.float32) -> LoadedModel:
    return tiny_loaded(CONFIGS[name], 3, device=device, dtype=dtype)


def check_against_generate(device: str, name: str) -> None:
    """Several goals with one beginning, two turns each, token for token."""
    loaded, draw = build(name, device), random.Random(7)
    engine = Engine(loaded)
    system = draw.choices(range(V), k=300)
    texts = {who: [*system, *draw.choices(range(V), k=5)] for who in "abcde"}
    for _ in range(2):
        outs = engine.generate([Request(w, t, sampling=Sampling(max_tokens=16)) for w, t in texts.items()])
        for (who, text), out in zip(list(texts.items()), outs, strict=True):
            assert out.error is None
            assert out.ids == generated(loaded, text, 16)
            texts[who] = [*text, *out.ids, *draw.choices(range(V), k=7)]


def check_draws(device: str) -> None:
    """Sampling gives the same tokens on ``device`` as on the processor."""
    request = Request("a", [1, 2, 3], sampling=Sampling(max_tokens=12, temperature=0.8, seed=4))
    outs = [Engine(build("llama", where)).generate([request])[0].ids for where in (device, "cpu")]
    assert outs[0] == outs[1]


@needs("cuda")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CONFIGS)
def test_cuda_logits_equal_the_modules(name: str, dtype: torch.dtype) -> None:
    loaded, ids = build(name, "cuda", dtype), list(range(3, 80))
    with torch.inference_mode():
        expected = loaded.model(torch.tensor([ids], device="cuda")).logits[0].float()
    bound = 1e-3 if dtype == torch.float32 else 0.2 * float(expected.std())
    assert (Engine(loaded).logits(ids) - expected).abs().max() < bound


@needs("cuda")
def test_cuda_draws_as_the_processor_does() -> None:
    check_draws("cuda")


@needs("cuda")
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_forward_waits_for_the_gpu_once(temperature: float) -> None:
    engine = Engine(build("llama", "cuda"), speculate=False)
    sampling = Sampling(max_tokens=20, temperature=temperature)
    texts = {who: [ord(who), 5, 6, 7] for who in "abc"}
    engine.generate([Request(who, ids, sampling=sampling) for who, ids in texts.items()])
    before = engine.stats.forwards
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            engine.generate([Request(f"{who}2", ids, sampling=sampling) for who, ids in texts.items()])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in caught if "synchronizing" in str(w.message)]
    assert 0 < len(waits) <= engine.stats.forwards - before


@needs("cuda")
@pytest.mark.parametrize("name", CONFIGS)
def test_cuda_agrees_with_generate(name: str) -> None:
    check_against_generate("cuda", name)


@needs("mps")
@pytest.mark.parametrize("name", CONFIGS)
def test_mps_agrees_with_generate(name: str) -> None:
    check_against_generate("mps", name)


@needs("mps")
@pytest.mark.parametrize("name", CONFIGS)
def test_mps_logits_equal_the_processors(name: str) -> None:
    ids = list(range(3, 80))
    found = Engine(build(name, "mps")).logits(ids).cpu()
    assert (found - Engine(build(name, "cpu")).logits(ids)).abs().max() < 1e-3
    assert isinstance(make_forward(build(name, "mps").model, CONFIGS[name]), FusedForward)


@needs("mps")
def test_mps_draws_as_the_processor_does() -> None:
    check_draws("mps")


def test_the_benchmark_says_that_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parts that a processor can run are run: the timing of both ways, the bytes, the table."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    benchmark = importlib.import_module("gpu_engine")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert benchmark.main([]) == 2 and "no CUDA GPU" in capsys.readouterr().err
    loaded = benchmark.build(SHAPE, "cpu", torch.float32)
    ids = benchmark.prompts(loaded, 2, 9)
    monkeypatch.setattr(benchmark, "SHORT", 1)
    monkeypatch.setattr(benchmark, "LONG", 3)
    engine = Engine(loaded, speculate=False)
    ways = [lambda n: benchmark.ours(engine, ids, n), lambda n: benchmark.theirs(loaded, ids, n)]
    assert len(benchmark.steps(ways, 1)) == 2
    parameters = sum(p.numel() for p in loaded.model.parameters())
    assert benchmark.step_bytes(loaded, 2, 10) == 4 * (parameters + 2 * 10 * 2 * 3 * 2 * 16)
    benchmark.show(benchmark.Row("135M", 1, 1.0, 2.0, 300, 0.4, 90.0))
    assert "2.00" in capsys.readouterr().out  # times as fast as generate
