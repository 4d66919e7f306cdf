"""Of many registered tools, are the right ones among those that the model is shown? Measured without a model.

``AUTOGPT_DATA=FOLDER python benchmarks/tool_retrieval.py [--split held_out|train] [--sizes 50] [--limit N]``

Requests are Seal-Tools' (one call to several, counted only if the tools of all calls are shown) and what
users of the Schema-Guided Dialogues said up to the first call. The right tools stand among others of
Seal-Tools, as many as it takes; beside an SGD function stand the others of its service. Requests and right
tools are of one split (``agent/experts/data.py``): the constants of ``memory/recall/tool_search.py`` were
chosen on ``train``, ``held_out`` is for reporting. Nothing that does nearly the same is taken out, so some
misses are no errors.

``words``, ``vectors`` and ``both`` are the ranking with one half or with its own weights. The last lines say
what ranking the largest crowd takes: at first, when each tool's text is read, and later, wall and CPU time.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autogpt.agent.evaluate.statistics import wilson
from autogpt.agent.experts.data import is_train
from autogpt.agent.run.workbench import SHOWN
from autogpt.memory.recall.tool_search import WORDS, ranked
from autogpt.settings import load
from autogpt.tools.base import Tool
from autogpt.tools.stubs import StubTool

sys.path.insert(0, str(Path(__file__).resolve().parent))

from makers.common import Record, read
from makers.unseen_tools import seal_stub, sgd_stub

WAYS = {"words": 1.0, "vectors": 0.0, "both": WORDS}
COUNTS = (4, SHOWN, 12, 16)


@dataclass(frozen=True)
class Request:
    """What somebody wants, the names of the right tools, and the tools that must be offered with it."""

    source: str
    text: str
    right: frozenset[str]
    tools: Mapping[str, Tool]


def tool(stub: Record) -> Tool:
    """Return a stub of a suite as a tool."""
    return StubTool(stub["name"], stub["description"], stub["parameters"], None)


def seal_requests(data: Path, pool: Mapping[str, Tool], train: bool) -> Iterator[Request]:
    """Yield Seal-Tools' requests of a split: for training all tools are, held out one is enough."""
    for record in read(data, "sealtools_train"):
        right = frozenset(item["api"] for item in record["calls"])
        if right and right <= pool.keys() and all(is_train("sealtools", name) for name in right) == train:
            yield Request("seal", record["query"], right, {name: pool[name] for name in right})


def sgd_requests(data: Path, train: bool) -> Iterator[Request]:
    """Yield what users said before the first call of a dialogue, of a split by service."""
    services: dict[str, Any] = {item["service"]: item for item in read(data, "sgd_services")}
    for dialogue in read(data, "sgd_train"):
        messages = dialogue["messages"]
        at = next((place for place, item in enumerate(messages) if item["role"] == "call"), 0)
        service = services.get(messages[at].get("service", ""))
        if service is None or is_train("sgd", service["service"]) != train:
            continue
        said = " ".join(item["text"] for item in messages[:at] if item["role"] == "user")
        offered = {item["name"]: tool(sgd_stub(item)) for item in service["functions"]}
        yield Request("sgd", said, frozenset([messages[at]["name"]]), offered)


def crowded(request: Request, pool: Mapping[str, Tool], size: int, rng: random.Random) -> dict[str, Tool]:
    """Return the request's tools among others, ``size`` in all, in random order."""
    others = [
        name for name in rng.sample(sorted(pool), size + len(request.tools)) if name not in request.tools
    ]
    made = {**request.tools, **{name: pool[name] for name in others[: size - len(request.tools)]}}
    order = list(made)
    rng.shuffle(order)
    return {name: made[name] for name in order}


def measure(requests: list[Request], pool: Mapping[str, Tool], size: int) -> None:
    """Print for each way how many of ``requests`` have all right tools among the first."""
    places: dict[str, list[int]] = {way: [] for way in WAYS}
    for number, request in enumerate(requests):
        tools = crowded(request, pool, size, random.Random(number))
        for way, words in WAYS.items():
            order = ranked(request.text, tools, words)
            places[way].append(max(order.index(name) for name in request.right))
    for way, found in places.items():
        shares = " | ".join(f"{sum(at < count for at in found) / len(found):.1%}" for count in COUNTS)
        low, high = wilson(sum(at < SHOWN for at in found), len(found))
        print(
            f"| {size} | {requests[0].source} | {way} | {len(found)} | {shares} | {low:.1%} to {high:.1%} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--split", choices=["train", "held_out"], default="held_out")
    parser.add_argument("--sizes", default="50,100,1000", help="registered tools, with commas between")
    parser.add_argument("--limit", type=int, default=150, help="requests of each source")
    args = parser.parse_args()
    data, train = load().data, args.split == "train"
    if data is None:
        parser.error("set AUTOGPT_DATA to the folder that holds the .jsonl.zst files")
    sizes = [int(size) for size in args.sizes.split(",")]
    pool = {api["api_name"]: tool(seal_stub(api)) for api in read(data, "sealtools_apis")}
    crowd = dict(list(pool.items())[: max(sizes)])
    ranked("warm", dict(list(pool.items())[-1:]))  # reads the embedder's table
    times = []
    for _ in range(6):
        begun, worked = time.perf_counter(), time.process_time()
        ranked("Tell me how much rain there will be in Graz tomorrow", crowd)
        times.append((time.perf_counter() - begun, time.process_time() - worked))
    heads = " | ".join(f"in {count}" for count in COUNTS)
    print(f"| tools | source | ranked by | n | {heads} | 95 % of in {SHOWN} |")
    print("| --- " * (5 + len(COUNTS)) + "|")
    for requests in (list(seal_requests(data, pool, train)), list(sgd_requests(data, train))):
        random.Random(7).shuffle(requests)
        for size in sizes:
            measure(requests[: args.limit], pool, size)
    (first, worked), (later, busy) = times[0], min(times[1:])
    print(f"\nranking {len(crowd)} tools: at first {first:.2f} s (CPU {worked:.2f} s), then {later:.3f} s "
          f"(CPU {busy:.3f} s)")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
