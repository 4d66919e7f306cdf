"""The tables of memory, and the words that its BM25 index is made of.

One row an entry, its vector in a table of its own (so that 100,000 vectors are read without the
texts), an FTS5 index without a copy of the text, a log of every write and refusal, the files that
were added, and one row of change number an entry for whoever follows (the vector index). Entry ids
are never used again. FTS5 sees words as :func:`index_words` makes them: English as it is (unicode61
without diacritics, Porter stems), Chinese as overlapping pairs of characters, because unicode61
would take a whole run of characters for one word. The function is part of the schema: FTS5 removes a
row by its words, so changing it takes a migration that refills the index.
"""

from __future__ import annotations

import re
import unicodedata

import sqlalchemy as sa
from sqlalchemy.engine import Connection

metadata = sa.MetaData()

entries = sa.Table(
    "memory_entries",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("kind", sa.String(10), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("namespace", sa.Text, nullable=False),
    sa.Column("label", sa.String(10), nullable=False),
    sa.Column("run", sa.String(64), index=True),
    sa.Column("event", sa.Integer),
    sa.Column("source", sa.Text, index=True),
    sa.Column("hash", sa.String(64), nullable=False, index=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("expires", sa.Float),
    sa.Column("used", sa.Float),
    sa.Column("uses", sa.Integer, nullable=False, default=0),
    sa.Column("successes", sa.Integer, nullable=False, default=0),
    sa.Column("superseded_by", sa.Integer),
    sa.Index("memory_live", "namespace", "superseded_by", "expires", "kind", "label"),
    sqlite_autoincrement=True,
)

vectors = sa.Table(
    "memory_vectors",
    metadata,
    sa.Column("entry", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("embedder", sa.Text, primary_key=True),
    sa.Column("dimension", sa.Integer, nullable=False),
    sa.Column("vector", sa.LargeBinary, nullable=False),
)

writes = sa.Table(
    "memory_writes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("verdict", sa.String(12), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("kind", sa.String(10), nullable=False),
    sa.Column("namespace", sa.Text, nullable=False),
    sa.Column("entry", sa.Integer, index=True),
    sa.Column("run", sa.String(64)),
    sa.Column("event", sa.Integer),
    sa.Index("memory_verdicts", "verdict", "at"),
)
"""Every write, refusal and removal with its reason; never the text."""

documents = sa.Table(
    "memory_documents",
    metadata,
    sa.Column("namespace", sa.Text, primary_key=True),
    sa.Column("path", sa.Text, primary_key=True),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("mtime", sa.Float, nullable=False),
    sa.Column("pieces", sa.Integer, nullable=False),
    sa.Column("added", sa.Float, nullable=False),
)

changes = sa.Table(
    "memory_changes",
    metadata,
    sa.Column("entry", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, nullable=False, unique=True),
    sa.Column("live", sa.Boolean, nullable=False),
)

backups = sa.Table(
    "memory_backups",
    metadata,
    sa.Column("path", sa.Text, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
)
"""Where copies of the database were made, because what is forgotten must go from them too."""

claims = sa.Table(
    "memory_claims",
    metadata,
    sa.Column("topic", sa.String(16), primary_key=True),
    sa.Column("entry", sa.Integer, primary_key=True, index=True),
    sqlite_with_rowid=False,
)
"""What facts are about, as hashes: where a contradiction is looked for."""

FTS = "memory_words"
CREATE_FTS = (
    f"CREATE VIRTUAL TABLE {FTS} USING fts5("
    "words, content='', tokenize='porter unicode61 remove_diacritics 2')"
)


def create_memory(connection: Connection) -> None:
    """Make the tables. Memory is always SQLite: another database holds the runs only."""
    if connection.dialect.name == "sqlite":
        metadata.create_all(connection)
        connection.exec_driver_sql(CREATE_FTS)


_CHINESE = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3040-\u30ff\uac00-\ud7af\U00020000-\U0003ffff"
_RUN = re.compile(f"[{_CHINESE}]+")
_WORD = re.compile(f"[{_CHINESE}]+|[^\\W_{_CHINESE}]+")
_STOP_WORDS = (
    "a about after all also am an and any are as at be been before being but by can could did do does for "
    "from had has have he her hers him his how i if in into is it its just may me might must my no nor not "
    "of on or our ours shall she should so some such than that the their them then there these they this "
    "those to too was we were what when where which while who whom whose why will with would you your yours "
    "s t re ve ll d m"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""English words that are left out of queries: they match nearly everything and say nothing."""
_MOST_TERMS = 48


def _pairs(run: str) -> list[str]:
    return [run] if len(run) == 1 else [run[i : i + 2] for i in range(len(run) - 1)]


def index_words(text: str) -> str:
    """Return ``text`` as FTS5 is given it: runs of Chinese characters cut into overlapping pairs."""
    plain = unicodedata.normalize("NFKC", text).replace("\0", " ")
    return _RUN.sub(lambda run: " " + " ".join(_pairs(run.group())) + " ", plain)


def query_words(text: str) -> list[str]:
    """Return the terms that a query looks for, each once, without English stop words unless all are."""
    terms: list[str] = []
    for match in _WORD.finditer(unicodedata.normalize("NFKC", text).casefold()):
        word = match.group()
        terms.extend(_pairs(word) if _RUN.match(word) else [word])
    kept = [term for term in dict.fromkeys(terms) if term not in STOP_WORDS] or list(dict.fromkeys(terms))
    return kept[:_MOST_TERMS]


def match_expression(terms: list[str]) -> str:
    """Return the FTS5 query for any of ``terms``; a single Chinese character matches as a beginning."""
    return " OR ".join(f'"{term}"*' if len(term) == 1 and _RUN.match(term) else f'"{term}"' for term in terms)
