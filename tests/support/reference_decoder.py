"""The reference decoder: slow and obvious, and what the engine must agree with, token for token.

No cache, no batch, no drafts: every token is a cold forward of the transformers module over all ids,
the grammar's mask on its last logits, and the largest of what remains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from autogpt.llm.engine.sequence import Grammar, Matcher


@dataclass(frozen=True)
class Slow:
    """An output with, per id, by how much the chosen logit led (infinite where it was forced)."""

    ids: list[int]
    margins: list[float]
    complete: bool


def slow_greedy(
    model: Any,
    prompt: Sequence[int],
    limit: int,
    grammar: Grammar | None = None,
    forced: bool = True,
    stop_ids: frozenset[int] = frozenset(),
) -> Slow:
    """Continue ``prompt`` greedily by at most ``limit`` ids.

    ``forced`` takes the spelling that the grammar forces; without it the mask alone decides, and
    the model may spell a forced text in other tokens.
    """
    matcher = None if grammar is None else grammar.matcher()
    ids: list[int] = []
    margins: list[float] = []
    while len(ids) < limit:
        run = matcher.forced() if matcher is not None and forced else []
        lead = [float("inf")] * len(run)
        if not run:
            run, lead = _best(model, [*prompt, *ids], matcher)
        for token, margin in zip(run, lead, strict=True):
            ids.append(token)
            margins.append(margin)
            if matcher is not None and not matcher.consume(token):
                raise AssertionError(f"the grammar refused token {token}, which it had allowed")
            if token in stop_ids or (matcher is not None and matcher.done()):
                return Slow(ids, margins, True)
            if len(ids) == limit:
                break
    return Slow(ids, margins, False)


def _best(model: Any, ids: Sequence[int], matcher: Matcher | None) -> tuple[list[int], list[float]]:
    """Return the best next id and by how much it leads, one each."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(ids)])).logits[0, -1].float()
    if matcher is not None:
        bits = matcher.bitmask().tolist()
        banned = [i for i in range(len(logits)) if not bits[i // 32] >> i % 32 & 1]
        logits[banned] = float("-inf")
    best = logits.topk(2)
    return [int(best.indices[0])], [float(best.values[0] - best.values[1])]
