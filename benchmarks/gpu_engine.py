"""Decoding on a CUDA GPU: our engine against ``transformers.generate`` with a compiled static cache.

Two models with random weights, made on the spot in bf16: one of 135M parameters (the shape of ``small``),
where launching kernels is what costs, and one of 1.2B, where reading weights is. For 1, 4 and 16
sequences with 512 tokens before them: milliseconds per step of our engine (no drafts, no grammar) and of
``generate``; both as the difference of two lengths of answer, so that prompts cancel out, in alternating
order, medians. Besides: the kernels of a step (torch's profiler), the share of the memory's bandwidth
(bytes of weights, keys and values that a step must read, over its time and over what a large copy
moves), and the processor's time to issue a forward.

    python benchmarks/gpu_engine.py [--quick] [--json FILE]

Without a CUDA GPU it says so and ends with status 2. **No figure of it has been published yet: it was
written where no GPU was at hand.** Compiling ``generate`` takes minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from autogpt.llm.engine.engine import Engine, Request
from autogpt.llm.message import Sampling
from autogpt.llm.nn.build import make_forward
from autogpt.llm.nn.load import LoadedModel

CONTEXT = 512
SEQUENCES = (1, 4, 16)
SHORT, LONG = 16, 80
"""Lengths of answer whose difference is timed."""
SHAPES: dict[str, dict[str, Any]] = {
    "135M": {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 2048,
    },
    "1.2B": {
        "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 2048,
    },
}  # fmt: skip


@dataclass
class Row:
    """What was measured for one model and number of sequences; milliseconds, where not said otherwise."""

    model: str
    sequences: int
    ours: float
    generate: float
    kernels: int
    bandwidth_share: float
    host_us: float
    """Processor's time for one forward, in microseconds."""


def build(shape: dict[str, Any], device: str, dtype: torch.dtype) -> LoadedModel:
    """Return a Llama of ``shape`` with random weights."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(**shape, tie_word_embeddings=True)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval().requires_grad_(False)
    return LoadedModel(model, config, device, dtype, "random", "f", "f", shape["vocab_size"])


def prompts(loaded: LoadedModel, sequences: int, context: int) -> torch.Tensor:
    """Return random ids ``[sequences, context]``, on the processor."""
    return torch.randint(3, loaded.vocabulary, (sequences, context))


def ours(engine: Engine, ids: torch.Tensor, count: int) -> float:
    """Return the seconds our engine takes for ``count`` greedy tokens after each prompt."""
    given = ids.tolist()
    requests = [Request(f"s{i}", row, sampling=Sampling(max_tokens=count)) for i, row in enumerate(given)]
    begin = time.perf_counter()
    outs = engine.generate(requests)
    seconds = time.perf_counter() - begin
    engine.clear()
    assert all(out.error is None and len(out.ids) == count for out in outs), [out.error for out in outs]
    return seconds


def theirs(loaded: LoadedModel, ids: torch.Tensor, count: int) -> float:
    """Return the seconds of ``generate`` with a static cache; once made, it stays as long as the longest."""
    model: Any = loaded.model
    ids = ids.to(loaded.device)
    begin = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count,
            min_new_tokens=count, eos_token_id=None, pad_token_id=0, cache_implementation="static",
        )  # fmt: skip
    out.cpu()
    return time.perf_counter() - begin


def steps(ways: Sequence[Callable[[int], float]], rounds: int) -> list[float]:
    """Return milliseconds a token of each way, from the difference of two lengths; ways take turns."""
    found: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for times, way in zip(found, ways, strict=True):
            short = way(SHORT)
            times.append((way(LONG) - short) / (LONG - SHORT) * 1e3)
    return [statistics.median(times) for times in found]


def step_bytes(loaded: LoadedModel, sequences: int, context: int) -> int:
    """Return the bytes that a step must read: layers, head (the embedding is the same), keys and values."""
    config = loaded.config
    weights = sum(p.numel() * p.element_size() for p in loaded.model.parameters())  # tied: counted once
    size = torch.empty(0, dtype=loaded.dtype).element_size()
    dim = config.hidden_size // config.num_attention_heads
    position = 2 * config.num_hidden_layers * config.num_key_value_heads * dim * size
    return int(weights + sequences * context * position)


def _timed(action: Callable[[], Any], rounds: int = 20) -> float:
    """Return the median of the GPU's seconds for ``action``."""
    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        action()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def copy_rate() -> float:
    """Return the bytes a second that a large copy reads and writes."""
    source = torch.randn(1 << 28, device="cuda")  # 1 GiB
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.nbytes / _timed(lambda: target.copy_(source))


def forwards(engine: Engine, ids: torch.Tensor) -> tuple[int, float]:
    """Return the kernels of one step and the processor's microseconds to issue its forward."""
    forward = make_forward(engine.loaded.model, engine.loaded.config)
    with torch.inference_mode():
        caches = [forward.new_cache() for _ in ids]
        given = ids.tolist()
        forward.hidden([(cache, row) for cache, row in zip(caches, given, strict=True)])
        batch = [(cache, [5]) for cache in caches]
        for _ in range(4):
            forward.hidden(batch)
        times = []
        for _ in range(30):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            forward.hidden(batch)
            times.append(time.perf_counter() - begin)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            forward.head(forward.hidden(batch)).max(-1)
            torch.cuda.synchronize()
    kernels = sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())
    return kernels, statistics.median(times) * 1e6


def measure(name: str, sequences: Sequence[int], rounds: int, rate: float) -> list[Row]:
    """Measure one model."""
    loaded = build(SHAPES[name], "cuda", torch.bfloat16)
    engine = Engine(loaded, speculate=False)
    rows = []
    for count in sequences:
        ids = prompts(loaded, count, CONTEXT)
        ways = [lambda n, ids=ids: ours(engine, ids, n), lambda n, ids=ids: theirs(loaded, ids, n)]
        for way in ways:
            way(LONG)  # the longest first: see theirs
        steps(ways, 2)  # generate compiles
        mine, other = steps(ways, rounds)
        kernels, host = forwards(engine, ids)
        share = step_bytes(loaded, count, CONTEXT + (SHORT + LONG) // 2) / (mine / 1e3) / rate
        rows.append(Row(name, count, mine, other, kernels, share, host))
        show(rows[-1])
    return rows


def show(row: Row) -> None:
    """Print one row."""
    print(
        f"{row.model:>5} {row.sequences:>3} {row.ours:>9.3f} {row.generate:>9.3f} "
        f"{row.generate / row.ours:>7.2f} {row.kernels:>8} "
        f"{row.bandwidth_share:>9.0%} {row.host_us:>8.0f}",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 2 without a GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one sequence, fewer rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurement here too")
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("no CUDA GPU on this machine: nothing was measured", file=sys.stderr)
        return 2
    import transformers

    rate = copy_rate()
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, transformers {transformers.__version__}"
    )
    print(f"copy {rate / 1e9:.0f} GB/s, {CONTEXT} tokens before")
    print("model seq   ours ms generate   ahead  kernels bandwidth  host us")
    rows = []
    for name in SHAPES:
        rows += measure(name, SEQUENCES[:1] if chosen.quick else SEQUENCES, 3 if chosen.quick else 7, rate)
    if chosen.json:
        about: dict[str, Any] = {
            "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "bytes_s": rate,
        }
        found = {**about, "transformers": transformers.__version__}
        chosen.json.write_text(
            json.dumps({**found, "rows": [asdict(r) for r in rows]}, indent=1) + "\n", "utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
