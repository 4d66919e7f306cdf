"""Which of many tools fit a text: by the words they share and by the vectors of the shipped embedder.

Words are scored by BM25 (Robertson and Zaragoza 2009, with k1 = 1.2 and b = 0.75) over a tool's name (split
at capitals, dots and underscores, counted :data:`NAME` times), its description, and its arguments' names and
descriptions (counted :data:`ARGUMENT` times); how rare a word is comes from the tools at hand. Vectors are
those of :mod:`autogpt.memory.embedding.static` for name and description (arguments would blur them), whatever
embedder the memory uses, so that a ranking needs no download and no torch. Their cosine joins what tools call
differently than people do, or what is asked in Chinese.

What is known of a tool's text is kept in the process (:func:`_read`); so a tool is read once.
``benchmarks/tool_retrieval.py`` measures how often the right tool is among the first.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...tools.base import Tool
from ..embedding.static import Floats, shipped, words_of
from ..write_gate.wording import stem

NAME, ARGUMENT = 2.0, 0.5
"""How often a word of the name or of the arguments counts; one of the description counts once."""
WORDS = 0.5
"""The weight of the words' score, the best tool's being 1, beside the cosine."""
_SATURATION, _LENGTH = 1.2, 0.75
"""BM25's k1 and b."""
_NESTED = 3
"""How deep into an argument's own fields is looked."""


@dataclass(frozen=True)
class _Tool:
    """What a tool's texts say: each word with its weighted count, their sum, and the vector."""

    counts: Mapping[str, float]
    length: float
    vector: Floats


def ranked(query: str, tools: Mapping[str, Tool], words: float = WORDS) -> list[str]:
    """Return the names of all ``tools``, best first; those that fit alike keep their order.

    ``words`` weighs the words against the cosine, whose weight is 1 less it.
    """
    if not tools:
        return []
    known = [_read(tool.name, tool.description, _arguments(tool.parameters)) for tool in tools.values()]
    asked = shipped().vector(words_of(query), query=True)
    cosine = np.stack([tool.vector for tool in known]) @ asked
    score = words * _shared(Counter(_terms(query)), known) + (1 - words) * cosine
    names = list(tools)
    return [names[place] for place in np.argsort(-score, kind="stable")]


def _shared(query: Mapping[str, int], tools: Sequence[_Tool]) -> Floats:
    """Return BM25 ``[tools]``, divided by the greatest."""
    mean = sum(tool.length for tool in tools) / len(tools) or 1.0
    found = np.zeros(len(tools), np.float32)
    for word in query:
        having = [(place, tool.counts[word]) for place, tool in enumerate(tools) if word in tool.counts]
        rarity = math.log(1 + (len(tools) - len(having) + 0.5) / (len(having) + 0.5))
        for place, count in having:
            length = 1 - _LENGTH + _LENGTH * tools[place].length / mean
            found[place] += rarity * count * (_SATURATION + 1) / (count + _SATURATION * length)
    return found / max(float(found.max()), 1e-6)


@functools.lru_cache(maxsize=8192)
def _read(name: str, description: str, arguments: str) -> _Tool:
    counts: Counter[str] = Counter()
    title = _split(name)
    for text, weight in ((title, NAME), (description, 1.0), (arguments, ARGUMENT)):
        for word in _terms(text):
            counts[word] += weight  # type: ignore[assignment]
    vector = shipped().vector(words_of(f"{title} {description}"))
    return _Tool(counts, float(sum(counts.values())), vector)


def _terms(text: str) -> list[str]:
    return [stem(word) for word in words_of(text, singles=False)]


def _split(name: str) -> str:
    """Return ``getWeather_v2`` as ``get Weather v2``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return re.sub(r"[._-]+", " ", spaced)


def _arguments(schema: Mapping[str, Any]) -> str:
    return " ".join(_said(schema, _NESTED))


def _said(schema: Mapping[str, Any], depth: int) -> Iterator[str]:
    """Yield names and descriptions of a schema's fields, and of theirs."""
    properties = schema.get("properties")
    for name, field in properties.items() if isinstance(properties, Mapping) else ():
        yield _split(str(name))
        if isinstance(field, Mapping):
            yield str(field.get("description") or "")
            items = field.get("items")
            yield from _said(items if isinstance(items, Mapping) else field, depth - 1) if depth > 1 else ()
