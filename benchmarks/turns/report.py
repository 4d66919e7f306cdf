"""From the answers of a run to its figures, and to tables that can be read."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from autogpt.llm.text.grammar import parse_call

from .recording import Transcripts
from .subject import Place

MATRIX = {"bfloat16": "bfloat16", "bf16": "bfloat16"}
"""The matrix rate that an engine's width is held against; fp32's for all others."""


def collect(kept: Mapping[str, Any], start: str) -> list[dict[str, Any]]:
    """Return the turns of all answers whose key begins with ``start``."""
    found = [value["played"] for key, value in kept.items() if key.startswith(start) and "played" in value]
    return [turn for played in found for turn in played]


def engine_row(
    kept: Mapping[str, Any], place: Place, records: Transcripts, decode: Any, active: int
) -> dict[str, Any] | None:
    """Return the figures of one engine in the comparison of one goal at a time."""
    turns = collect(kept, f"single {place.label} ")
    if not turns:
        return None
    row = summary(turns)
    said = {(t["goal"], t["turn"]): records.goals[t["goal"]].turns[t["turn"]] for t in turns}
    row["other"] = sum(tuple(t["ids"]) != said[t["goal"], t["turn"]].said for t in turns)
    row["invalid"] = sum(not valid(t, said[t["goal"], t["turn"]].calls, decode) for t in turns)
    row["cpu"] = sum(v["cpu"] for k, v in kept.items() if k.startswith(f"single {place.label} ")) / len(turns)
    row["peak"] = max(v["peak"] for k, v in kept.items() if k.startswith(f"single {place.label} "))
    row.update(roofline(turns, kept, place, active))
    return row


def summary(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return times and counts of turns."""
    times = sorted(turn["seconds"] for turn in turns)
    tokens = sum(len(turn["ids"]) for turn in turns)
    return {
        "turns": len(turns),
        "p50": statistics.median(times),
        "p95": times[min(len(times) - 1, int(0.95 * len(times)))],
        "total": sum(times),
        "tokens": tokens,
        "tokens_per_second": tokens / sum(times),
        "forwards_per_token": sum(turn["forwards"] for turn in turns) / tokens,
        "prompt_seen": sum(turn["prompt"] for turn in turns),
        "prompt_computed": sum(turn["computed"] for turn in turns),
    }


def valid(turn: Mapping[str, Any], calls: Sequence[Any], decode: Any) -> bool:
    """Say whether an answer is a complete call that its schema admits."""
    import jsonschema

    call, _ = parse_call(decode(turn["ids"]))
    spec = next((spec for spec in calls if call is not None and spec.name == call.name), None)
    if call is None or spec is None or not turn["complete"]:
        return False
    checker = jsonschema.Draft202012Validator(dict(spec.parameters))
    return bool(checker.is_valid(dict(call.arguments)))


def roofline(
    turns: Sequence[Mapping[str, Any]], kept: Mapping[str, Any], place: Place, active: int
) -> dict[str, float]:
    """Return the least time that the machine's bandwidth and matrix rate allow, as shares of the time.

    ``active`` parameters a row. A turn reads the weights once a forward; its first forward carries the
    new prompt tokens, the others share the tokens of the answer.
    """
    machine = kept["machine"]
    weights = kept[f"about {place.label}"]["weight_bytes"]
    rate = machine["matrix_rate"][MATRIX.get(place.width, "float32")]
    read = weights / machine["bandwidth"]
    floor = 0.0
    for turn in turns:
        forwards = max(1.0, turn["forwards"] if turn["forwards"] == turn["forwards"] else len(turn["ids"]))
        prefill = 2.0 * active * turn["computed"] / rate
        later = 2.0 * active * len(turn["ids"]) / rate
        floor += max(read, prefill) + max((forwards - 1) * read, later if forwards > 1 else 0.0)
    return {"roofline": floor / sum(turn["seconds"] for turn in turns)}


def throughput(kept: Mapping[str, Any], label: str, together: int) -> float | None:
    """Return turns a second with ``together`` goals at once, from the first prompt to the last answer."""
    found = kept.get(f"together {together} {label}", {})
    return len(found["played"]) / float(found["wall"]) if "played" in found else None


def prefill_share(kept: Mapping[str, Any], place: Place) -> float | None:
    """Return the share of the machine's matrix rate that computing sixteen prompts at once reaches.

    Only the products with the decoder's weights count as done; attention is among what it costs.
    """
    found = kept.get(f"prefill 16 {place.label}", {})
    if "seconds" not in found:
        return None
    rate = float(kept["machine"]["matrix_rate"][MATRIX.get(place.width, "float32")])
    return 2.0 * float(found["products"]) / float(found["seconds"]) / rate


def as_recorded(turns: Sequence[dict[str, Any]], records: Transcripts) -> list[dict[str, Any]]:
    """Return the turns of goals whose answers were all as recorded, so that the next prompt extends them."""
    other = {
        turn["goal"] for turn in turns
        if tuple(turn["ids"]) != records.goals[turn["goal"]].turns[turn["turn"]].said
    }  # fmt: skip
    return [turn for turn in turns if turn["goal"] not in other]


def run_ratio(turns: Sequence[Mapping[str, Any]]) -> float | None:
    """Return prompt tokens computed / prompt tokens there were, over the goals of twelve turns.

    What the model said itself is in the cache already and is no prompt token, but for what it said last: a
    token that ends an answer, and those that the grammar forces after it, were never put into a forward.
    """
    goals: dict[int, list[Mapping[str, Any]]] = {}
    for turn in turns:
        goals.setdefault(turn["goal"], []).append(turn)
    ratios = []
    for steps in goals.values():
        steps.sort(key=lambda turn: turn["turn"])
        own = sum(len(turn["ids"]) - turn["unfed"] for turn in steps[:-1])
        there = steps[-1]["prompt"] - own - (steps[0]["prompt"] - steps[0]["computed"])
        ratios.append(sum(turn["computed"] for turn in steps) / there)
    return statistics.median(ratios) if ratios else None


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return aligned columns; the first is flush left, the others flush right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                  for i, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines
    )  # fmt: skip
