"""Log-probabilities of many token rows with gradients, everything they share computed once.

Preference and reward methods compare continuations of one situation, so their rows repeat one
another: the same system text in all, the same conversation in both members of a pair, the same
first turns in a group of attempts. Here the beginning that all rows share runs once at batch one
(as in ``prefix``), and rows that share more are folded into one trie of tokens: a token sees its
ancestors, its position is its depth. Attention is causal, so this is the plain computation (a test
compares values and gradients). The vocabulary projection is computed only where a token carries loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .prefix import Shared, expand, run_shared

if TYPE_CHECKING:
    import torch

_PRICE = 2
"""What the other work on a token costs, in attention to so many places for each unit of its hidden state.
Counted it is about 5 for ``small``; taken lower (not measured), as attention under a mask of its own is
slower than a product."""


@dataclass(frozen=True)
class Row:
    """Token ids and, for each, whether it carries loss; the first never does."""

    ids: Sequence[int]
    mask: Sequence[bool]


@dataclass(frozen=True)
class Scores:
    """Per row, one value for each token that carries loss, in the order of the row."""

    logprobs: list[torch.Tensor]
    """Natural log-probability of the token, with gradient."""
    entropy: list[torch.Tensor]
    """Entropy (nats) of the distribution it was drawn from; no gradient."""


class _Trie:
    """Rows as one tree of tokens: ``parent[n]`` is the node before ``n``, -1 for the roots."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.parent: list[int] = []
        self.depth: list[int] = []
        self._next: dict[tuple[int, int], int] = {}

    def add(self, ids: Sequence[int]) -> list[int]:
        """Insert a row and return its path, one node for each token."""
        path: list[int] = []
        node = -1
        for depth, token in enumerate(ids):
            key = (node, token)
            if key not in self._next:
                self._next[key] = len(self.tokens)
                self.tokens.append(token)
                self.parent.append(node)
                self.depth.append(depth)
            node = self._next[key]
            path.append(node)
        return path

    def known(self, ids: Sequence[int]) -> int:
        """Return how many first ids stand in the tree already."""
        node = -1
        for depth, token in enumerate(ids):
            found = self._next.get((node, token))
            if found is None:
                return depth
            node = found
        return len(ids)


def _common(one: Sequence[int], two: Sequence[int]) -> int:
    """Return how many first ids are the same."""
    short = min(len(one), len(two))
    return next((i for i in range(short) if one[i] != two[i]), short)


def _shared_length(rows: Sequence[Row]) -> int:
    """Return the length of what all rows begin with; a token that predicts one with loss stays out."""
    first = rows[0].ids
    length = min(_first_loss(row) - 1 for row in rows)
    for row in rows[1:]:
        length = min(length, _common(first[:length], row.ids))
    return max(0, length)


def _first_loss(row: Row) -> int:
    return next((i for i, wanted in enumerate(row.mask) if wanted), len(row.mask))


def _tries(rows: Sequence[Row], start: int, price: float) -> tuple[list[_Trie], list[tuple[int, list[int]]]]:
    """Fold the rows' own parts into tries; returns them and each row's (trie, path).

    A row joins the trie where that saves most: tokens that stand there are not computed again, but every
    token of a trie is set against all of it. ``price``: what a token costs, in such places.
    """
    tries: list[_Trie] = []
    places: list[tuple[int, list[int]]] = []
    for row in rows:
        own = row.ids[start:]

        def gain(number: int, own: Sequence[int] = own) -> float:
            size, known = len(tries[number].tokens), tries[number].known(own)
            return known * price - ((size + len(own) - known) ** 2 - size**2 - len(own) ** 2)

        best = max(range(len(tries)), key=gain, default=0)
        if not tries or gain(best) <= 0:
            best = len(tries)
            tries.append(_Trie())
        places.append((best, tries[best].add(own)))
    return tries, places


def _visible(trie: _Trie, width: int, start: int) -> torch.Tensor:
    """Return ``[width, start + width]``: True where a node may look (the beginning, its ancestors)."""
    import torch

    seen = torch.zeros(width, start + width, dtype=torch.bool)
    seen[:, :start] = True
    for node, parent in enumerate(trie.parent):
        if parent >= 0:
            seen[node] = seen[parent]
        seen[node, start + node] = True
    # A row of padding looks at itself, else its softmax would be over nothing.
    rest = torch.arange(len(trie.parent), width)
    seen[rest, start + rest] = True
    return seen


def _hidden(backbone: Any, tries: Sequence[_Trie], shared: Shared) -> torch.Tensor:
    """Run the tries on top of the shared beginning; returns the hidden states ``[tries, width, size]``."""
    import torch

    device = backbone.embed_tokens.weight.device
    start, width = shared.length, max(len(trie.tokens) for trie in tries)
    ids = torch.zeros(len(tries), width, dtype=torch.long)
    places = torch.zeros(len(tries), width, dtype=torch.long)
    for row, trie in enumerate(tries):
        ids[row, : len(trie.tokens)] = torch.tensor(trie.tokens)
        places[row, : len(trie.tokens)] = torch.tensor(trie.depth) + start
    seen = torch.stack([_visible(trie, width, start) for trie in tries])[:, None]
    dtype = shared.leaves[0][0].dtype if shared.leaves else _compute_dtype(backbone)
    blocked = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    output: torch.Tensor = backbone(
        ids.to(device),
        attention_mask=blocked.to(device),
        position_ids=places.to(device),
        past_key_values=expand(shared, len(tries)),
        use_cache=True,
    ).last_hidden_state
    return output


def _compute_dtype(backbone: Any) -> torch.dtype:
    """Return the type in which attention computes: autocast's, where it is on, else the weights'."""
    import torch

    weight = backbone.embed_tokens.weight
    if torch.is_autocast_enabled(weight.device.type):
        return torch.get_autocast_dtype(weight.device.type)
    dtype: torch.dtype = weight.dtype
    return dtype


def begin(model: Any, rows: Sequence[Row], grad: bool) -> Shared:
    """Run what all rows begin with; with ``grad``, ``prefix.backward_shared`` must follow."""
    return run_shared(model.model, rows[0].ids[: _shared_length(rows)], grad)


def score(model: Any, rows: Sequence[Row], shared: Shared | None = None, temperature: float = 1.0) -> Scores:
    """Return the rows' token log-probabilities under ``model`` (``model.model`` and ``model.lm_head``).

    Args:
        rows: each with at least two tokens; a row without loss gives empty results.
        shared: what they begin with, from :func:`begin` with these rows among its own; None computes it,
            within the same graph.
        temperature: logits are divided by it.
    """
    import torch

    if shared is None:
        found = begin(model, rows, torch.is_grad_enabled())
        shared = Shared(found.length, found.computed, found.computed)
    start = shared.length
    tries, places = _tries(rows, start, _PRICE * model.config.hidden_size)
    hidden = _hidden(model.model, tries, shared)
    columns: list[int] = []
    owners: list[int] = []
    targets: list[int] = []
    counts: list[int] = []
    for row, (owner, path) in zip(rows, places, strict=True):
        wanted = [i for i, flag in enumerate(row.mask) if flag]
        columns += [path[i - start - 1] for i in wanted]
        owners += [owner] * len(wanted)
        targets += [int(row.ids[i]) for i in wanted]
        counts.append(len(wanted))
    logits = model.lm_head(hidden[owners, columns]).float() / temperature
    aim = torch.tensor(targets, device=logits.device, dtype=torch.long)
    logprobs = -torch.nn.functional.cross_entropy(logits, aim, reduction="none")
    with torch.no_grad():
        normal = logits.logsumexp(-1)
        # The expected logit in blocks of rows: a second full matrix of probabilities is not kept.
        parts = [(block.softmax(-1) * block).sum(-1) for block in logits.split(64)]
        entropy = normal - (torch.cat(parts) if parts else normal)
    logprobs_of, entropy_of = (list(torch.split(values, counts)) for values in (logprobs, entropy))
    return Scores(logprobs_of, entropy_of)


def row_logprobs(
    model: Any,
    rows: Sequence[Row],
    budget: int,
    autocast: Callable[[], AbstractContextManager[Any]],
    temperature: float = 1.0,
) -> list[torch.Tensor]:
    """Return each row's log-probabilities (nats) of the tokens with loss, without gradient.

    Args:
        budget: tokens a forward may have, as in :func:`cut`.
    """
    import torch

    found: dict[int, torch.Tensor] = {}
    with torch.no_grad(), autocast():
        shared = begin(model, rows, grad=False)
        for part in cut([len(row.ids) - shared.length for row in rows], budget):
            values = score(model, [rows[i] for i in part], shared, temperature).logprobs
            found.update(zip(part, values, strict=True))
    return [found[i] for i in range(len(rows))]


def row_sums(
    model: Any, rows: Sequence[Row], budget: int, autocast: Callable[[], AbstractContextManager[Any]]
) -> list[float]:
    """Return each row's summed log-probability (nats), as :func:`row_logprobs` has them."""
    return [float(values.double().sum()) for values in row_logprobs(model, rows, budget, autocast)]


def cut(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Split items into micro-batches of at most ``budget`` padded tokens; at least one item in each."""
    parts: list[list[int]] = [[]]
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if parts[-1] and lengths[index] * (len(parts[-1]) + 1) > budget:
            parts.append([])
        parts[-1].append(index)
    return parts
