"""Word search: BM25 by FTS5 over the live entries, bounded in time where words are frequent.

FTS5 scores every row that has any of the words, a few microseconds each, which for three frequent words
over 100,000 entries is a third of a second. So where the words of a query have more rows than
:data:`MOST_ROWS`, the rarest of them name the candidates (as many words as fit), and the frequent ones,
which tell entries apart least, are added to the candidates' scores here. Below that the scores are
FTS5's own. A query of which even the rarest word is that frequent still takes its time.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..labels import Label
from . import tables as t
from .entry import Kind
from .rows import chosen, is_live
from .write_gate.wording import stem

MOST_ROWS = 5_000
"""Rows that one query scores; about 15 ms."""
_CANDIDATES = 150
"""Candidates, at least, to which the frequent words are added."""
_SATURATION = 1.2
"""BM25's k1: how soon more of the same word says no more."""
_COUNT = (
    f"SELECT count(*), max(rowid) FROM (SELECT rowid FROM {t.FTS} WHERE {t.FTS} MATCH ? "
    f"ORDER BY rowid LIMIT {MOST_ROWS + 1})"
)
"""Counting all rows of a frequent word takes a millisecond; the place of the last of these tells as much."""


def search(
    connection: Connection,
    query: str,
    k: int,
    namespaces: Sequence[str] | None,
    now: float,
    kinds: Sequence[Kind] | None = None,
    labels: Sequence[Label] | None = None,
) -> list[tuple[int, float]]:
    """Return up to ``k`` pairs (entry id, BM25 score) of live entries, greatest score first."""
    total = max(1, int(connection.exec_driver_sql(f"SELECT max(id) FROM {t.entries.name}").scalar() or 1))
    rows = {term: _rows_of(connection, term, total) for term in t.query_words(query)}
    leading, others = _split({term: count for term, count in rows.items() if count})
    if not leading:
        return []
    words = sa.table(t.FTS, sa.column("rowid"), sa.column("rank"))
    statement = (
        sa.select(t.entries.c.id, words.c.rank, *([t.entries.c.text] if others else []))
        .join_from(words, t.entries, t.entries.c.id == words.c.rowid)
        .where(sa.literal_column(t.FTS).op("MATCH")(t.match_expression(leading)))
        .where(is_live(now), *chosen(namespaces, kinds, labels))
        .order_by(words.c.rank)
        .limit(max(k, _CANDIDATES) if others else k)
    )
    found = connection.execute(statement).all()
    if not others:
        return [(int(row.id), -float(row.rank)) for row in found]
    weights = {term: max(0.1, math.log((total - rows[term] + 0.5) / (rows[term] + 0.5))) for term in others}
    forms = _forms(others)
    scored = [(int(row.id), _added(row.text, weights, forms) - float(row.rank)) for row in found]
    return sorted(scored, key=lambda pair: -pair[1])[:k]


def _rows_of(connection: Connection, term: str, total: int) -> int:
    """Return how many of ``total`` rows have ``term``: exactly up to MOST_ROWS, beyond by its density."""
    count, last = connection.exec_driver_sql(_COUNT, (t.match_expression([term]),)).one()
    return int(count) if count <= MOST_ROWS else max(MOST_ROWS + 1, min(total, round(count * total / last)))


def _split(rows: dict[str, int]) -> tuple[list[str], list[str]]:
    """Return the words that name candidates, rarest first, and the too frequent others."""
    leading: list[str] = []
    left = MOST_ROWS
    for term in sorted(rows, key=rows.__getitem__):
        if not leading or rows[term] <= left:
            leading.append(term)
            left -= rows[term]
    return leading, [term for term in rows if term not in leading]


def _forms(terms: Sequence[str]) -> re.Pattern[str]:
    """Return what finds all words with the stems of ``terms``; a stem is how its words begin."""
    beginnings = "|".join(re.escape(stem(term)) for term in terms if term.isascii())
    return re.compile(rf"\b(?:{beginnings})\w*" if beginnings else r"(?!)")


def _added(text: str, weights: dict[str, float], forms: re.Pattern[str]) -> float:
    """Return what the frequent words add to an entry's score: BM25 without the length."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    counts = Counter(stem(word) for word in forms.findall(plain))
    score = 0.0
    for term, weight in weights.items():
        times = counts[stem(term)] if term.isascii() else plain.count(term)
        score += weight * times * (_SATURATION + 1) / (times + _SATURATION)
    return score
