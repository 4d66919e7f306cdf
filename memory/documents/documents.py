"""Files in memory: read, cut into pieces, and kept in step with the files on the disk.

``add`` may be called again at any time: a file whose content hash is known is left alone, a changed one
gives up the pieces it no longer has and keeps the others with their uses, one that is gone takes its
pieces along. What becomes of one file is one transaction. Pieces are untrusted text with their place as
provenance (``PATH#3``), so they pass the write gate without a run. A piece that another file has too is kept
once; when its file goes, files that lack a piece are read again. Read: text, Markdown, HTML, tables as
text, source code; not PDF or other binary formats, whose text must be extracted first.

A text is cut by its structure into pieces of about 200 tokens that can be read on their own. Headings open
sections and are repeated above each of their pieces ("Guide > Install"), paragraphs are packed until a piece
is full, one that is too long is cut at sentences, then at words. Source code is cut at top-level definitions
and blank lines, tables by rows with their header repeated. HTML becomes text first. Tokens are counted
cheaply (a Chinese character, up to six letters of a word, a sign), within about a fifth of what tokenizers
say.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ...errors import UsageError
from ...labels import Label
from .. import tables as t
from ..entry import (
    Draft,
    Embedder,
    Entry,
    Kind,
    Vectors,
    Verdict,
    Written,
)
from ..rows import delete_entries, record, to_entry
from ..store import MemoryStore
from ..write_gate.wording import normal_hash

MOST_BYTES = 10 * 1024 * 1024
"""Of one file; a bigger one is data, which the table tools read better."""
_SUFFIXES = (
    ".txt .text .md .markdown .mdx .rst .html .htm .xhtml .csv .tsv .json .jsonl .yaml .yml .toml .ini .cfg "
    ".py .pyi .js .ts .jsx .tsx .java .c .h .cc .cpp .hpp .cs .go .rs .rb .php .sh .sql .r .jl .lua .kt "
    ".swift .tex .org .adoc .log .xml"
)
SUFFIXES = frozenset(_SUFFIXES.split())
"""What a folder is searched for; a file that is named itself may have any."""
SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__", "venv", "site-packages", "build", "dist"})


@dataclass
class Added:
    """What :func:`add` did. Paths are absolute."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unchanged: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Files that were not read, with the reason."""
    written: int = 0
    forgotten: int = 0
    """Pieces that came and went."""
    refused: list[Written] = field(default_factory=list)
    """Pieces that the gate refused; a piece that is there already is not counted."""


def add(store: MemoryStore, path: Path, namespace: str, embedder: Embedder | None = None) -> Added:
    """Bring memory in step with ``path``, a file or a folder; raises ``UsageError`` if there is none.

    A path that is gone but was added before is removed. Without ``embedder`` the pieces get their vectors
    when memory is next used.
    """
    root = Path(os.path.abspath(path.expanduser()))
    known = known_files(store, root, namespace)
    if not root.exists() and not known:
        raise UsageError(f"{path}: no such file or folder")
    done = Added()
    present: set[str] = set()
    todo: list[tuple[str, bytes, float]] = []
    for file in _files(root):
        present.add(str(file))
        try:
            data = read_bytes(file)
            modified = file.stat().st_mtime
        except (OSError, ValueError) as error:
            done.skipped.append((str(file), getattr(error, "strerror", None) or str(error)))
            continue
        if known.get(str(file)) == hashlib.sha256(data).hexdigest():
            done.unchanged += 1
        else:
            todo.append((str(file), data, modified))
    for gone in sorted(set(known) - present):
        done.forgotten += drop(store, gone, namespace)
        done.removed.append(gone)
    for name, data, modified in todo:
        _put(store, name, data, modified, namespace, embedder, done)
        (done.changed if name in known else done.added).append(name)
    if done.forgotten:
        _complete(store, sorted(set(known) & present), namespace, embedder, done)
    return done


def drop(store: MemoryStore, path: str, namespace: str) -> int:
    """Remove a file's pieces from memory; return how many there were."""

    def work(connection: Connection) -> int:
        pieces = pieces_of(connection, path, namespace)
        _delete(connection, pieces, store.clock())
        ours = (t.documents.c.path == path, t.documents.c.namespace == namespace)
        connection.execute(sa.delete(t.documents).where(*ours))
        return len(pieces)

    return int(store.database.write(work))


def known_files(store: MemoryStore, root: Path, namespace: str) -> dict[str, str]:
    """Return the files at or below ``root`` that are in memory, with their content hashes."""
    query = sa.select(t.documents.c.path, t.documents.c.hash).where(t.documents.c.namespace == namespace)
    with store.database.read() as connection:
        rows = connection.execute(query).all()
    below = str(root).rstrip(os.sep) + os.sep
    return {
        str(row.path): str(row.hash) for row in rows if row.path == str(root) or row.path.startswith(below)
    }


def pieces_of(connection: Connection, path: str, namespace: str) -> list[Entry]:
    """Return the entries that are pieces of ``path``."""
    source = t.entries.c.source
    query = sa.select(t.entries).where(
        source >= f"{path}#", source < f"{path}$", t.entries.c.namespace == namespace
    )  # "$" follows "#", so this is the range of all places in the file
    return [to_entry(row) for row in connection.execute(query).mappings()]


def read_bytes(file: Path) -> bytes:
    """Return a file's content; raises ``ValueError`` saying why it is no text for memory."""
    if file.suffix.lower() == ".pdf":
        raise ValueError("PDF is not read; extract its text first")
    if file.stat().st_size > MOST_BYTES:
        raise ValueError(f"larger than {MOST_BYTES // 2**20} MB; cut it, or use it as an input of a goal")
    data = file.read_bytes()
    decode(data)
    return data


def decode(data: bytes) -> str:
    """Return ``data`` as text: UTF-8, UTF-16 with a mark, or GB 18030; raises ``ValueError``."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    if b"\0" in data:
        raise ValueError("a binary file, not text")
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise ValueError("neither UTF-8 nor GB 18030 text")


def _files(root: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
        return
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in SKIPPED_FOLDERS)
        for name in sorted(names):
            file = Path(folder, name)
            if not name.startswith(".") and file.suffix.lower() in SUFFIXES and file.is_file():
                yield file


def _put(
    store: MemoryStore,
    path: str,
    data: bytes,
    modified: float,
    namespace: str,
    embedder: Embedder | None,
    done: Added,
) -> None:
    """Make the pieces of one file what its content says, in one transaction."""
    texts = chunk(decode(data), Path(path).suffix.lower())
    places: dict[str, int] = {}
    for place, text in enumerate(texts):
        places.setdefault(normal_hash(text), place)
    with store.database.read() as connection:
        have = {entry.hash for entry in pieces_of(connection, path, namespace)}
    new = [(digest, place) for digest, place in places.items() if digest not in have]
    drafts = [
        Draft(Kind.DOCUMENT, texts[place], namespace, Label.UNTRUSTED, source=f"{path}#{place}")
        for _, place in new
    ]
    vectors = embed_all(embedder, [draft.text for draft in drafts])
    row = {
        "namespace": namespace,
        "path": path,
        "hash": hashlib.sha256(data).hexdigest(),
        "mtime": modified,
        "pieces": len(places),
        "added": store.clock(),
    }

    def work(connection: Connection) -> tuple[list[Written], int]:
        old = pieces_of(connection, path, namespace)
        gone = [entry for entry in old if entry.hash not in places]
        _delete(connection, gone, store.clock())
        for entry in old:
            if entry.hash in places:
                place = {"source": f"{path}#{places[entry.hash]}"}
                connection.execute(sa.update(t.entries).where(t.entries.c.id == entry.id).values(place))
        written = store.write_in(connection, drafts, vectors, embedder.id if embedder else None)
        connection.execute(sa.insert(t.documents).prefix_with("OR REPLACE").values(row))
        return written, len(gone)

    written, gone = store.database.write(work)
    done.forgotten += gone
    done.written += sum(answer.verdict is not Verdict.REFUSED for answer in written)
    done.refused += [answer for answer in written if answer.verdict is Verdict.REFUSED and not answer.entry]


def _complete(
    store: MemoryStore, paths: Sequence[str], namespace: str, embedder: Embedder | None, done: Added
) -> None:
    """Read again the files that lack a piece, which another file may have had for them until now."""
    pieces = sa.select(t.documents.c.path, t.documents.c.pieces).where(t.documents.c.namespace == namespace)
    with store.database.read() as connection:
        wanted = {str(row.path): int(row.pieces) for row in connection.execute(pieces)}
        lacking = [
            path for path in paths if len(pieces_of(connection, path, namespace)) < wanted.get(path, 0)
        ]
    for path in lacking:
        try:
            _put(store, path, read_bytes(Path(path)), Path(path).stat().st_mtime, namespace, embedder, done)
        except (OSError, ValueError) as error:
            done.skipped.append((path, str(error)))


def embed_all(embedder: Embedder | None, texts: Sequence[str]) -> Vectors | None:
    """Return the vectors of ``texts`` ``[n, dimension]``, made in batches; None without an embedder."""
    if embedder is None or not texts:
        return None
    return np.concatenate([embedder.embed(texts[i : i + 64]) for i in range(0, len(texts), 64)])


def _delete(connection: Connection, found: Sequence[Entry], now: float) -> None:
    delete_entries(connection, found)
    for entry in found:
        record(connection, entry, "forgotten", "its file no longer has it", entry.id, now)


# Cutting

PIECE_TOKENS = 200
_LEAST_TOKENS = 30
"""A last piece below this joins the one before it."""
_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]{1,6}|[^\w\s]|_")
_HEADING = re.compile(r"(#{1,6})\s+(.+?)\s*#*\s*$")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^\Wa-z])|(?<=[。！？；])")
_TOP_LEVEL = re.compile(
    r"(?m)^(?=(?:@|def |class |async def |fn |pub |func |function |export |impl |type |struct ))"
)

TABLES = frozenset({".csv", ".tsv"})
PAGES = frozenset({".html", ".htm", ".xhtml"})
MARKED = frozenset({".md", ".markdown", ".mdx", ".rst", ".txt", ".text", ""})


def count_tokens(text: str) -> int:
    """Return about how many tokens ``text`` has."""
    return sum(1 for _ in _TOKEN.finditer(text))


def chunk(text: str, suffix: str = ".md", size: int = PIECE_TOKENS) -> list[str]:
    """Return the pieces of the ``text`` of a file with this ``suffix`` (lower case)."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if suffix in PAGES:
        return _sections(page_text(text), size)
    if suffix in TABLES:
        head, _, rows = text.strip("\n").partition("\n")
        return [f"{head}\n{piece}" for piece in _pack(rows.split("\n"), size, "\n", _by_words)]
    if suffix in MARKED:
        return _sections(text, size)
    blocks = [part for block in _TOP_LEVEL.split(text) for part in re.split(r"\n\s*\n", block)]
    return _pack(blocks, size, "\n\n", lambda block, most: _pack(block.split("\n"), most, "\n", _by_words))


def _sections(text: str, size: int) -> list[str]:
    pieces: list[str] = []
    for above, body in _headed(text):
        paragraphs = re.split(r"\n\s*\n", body)
        room = max(size // 2, size - count_tokens(above))
        packed = _pack(paragraphs, room, "\n\n", _by_sentences)
        pieces.extend(f"{above}\n{piece}" if above else piece for piece in packed)
    return pieces


def _headed(text: str) -> Iterator[tuple[str, str]]:
    """Yield (path of headings, body) for each section of Markdown; fenced code has no headings."""
    path: list[tuple[int, str]] = []
    body: list[str] = []
    fenced = False
    for line in text.split("\n"):
        fenced ^= line.lstrip().startswith("```")
        heading = None if fenced else _HEADING.match(line)
        if heading is None:
            body.append(line)
            continue
        yield " > ".join(title for _, title in path), "\n".join(body)
        level = len(heading[1])
        path = [(above, title) for above, title in path if above < level] + [(level, heading[2])]
        body = []
    yield " > ".join(title for _, title in path), "\n".join(body)


def _pack(parts: Iterable[str], size: int, joint: str, cut: Callable[[str, int], list[str]]) -> list[str]:
    """Join consecutive parts while they fit ``size`` tokens; ``cut`` divides one that does not."""
    pieces: list[list[str]] = []
    held = 0
    for part in parts:
        if not part.strip():
            continue
        tokens = count_tokens(part)
        if tokens > size:
            pieces.extend([piece] for piece in cut(part, size))
            held = size
        elif pieces and held + tokens <= size:
            pieces[-1].append(part.rstrip())
            held += tokens
        else:
            pieces.append([part.rstrip()])
            held = tokens
    texts = [joint.join(piece).strip("\n") for piece in pieces]
    if len(texts) > 1 and count_tokens(texts[-1]) < _LEAST_TOKENS:
        last = texts.pop()
        texts[-1] = f"{texts[-1]}{joint}{last}"
    return texts


def _by_sentences(text: str, size: int) -> list[str]:
    return _pack(_SENTENCE.split(text), size, " ", _by_words)


def _by_words(text: str, size: int) -> list[str]:
    """Cut where ``size`` tokens are full, before a word where there are any."""
    pieces: list[str] = []
    start = count = end = 0
    for match in _TOKEN.finditer(text):
        if count >= size and (text[match.start() - 1].isspace() or count >= size * 5 // 4):
            pieces.append(text[start:end].strip())
            start, count = match.start(), 0
        count, end = count + 1, match.end()
    return [*pieces, text[start:].strip()]


class _Page(HTMLParser):
    """The readable text of a page, with its headings as Markdown."""

    _SKIPPED = frozenset({"script", "style", "noscript", "template", "svg", "head"})
    _BLOCKS = frozenset(
        {"p", "div", "section", "article", "li", "ul", "ol", "table", "tr", "pre", "blockquote", "dd", "dt"}
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._skip = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Open a block, a heading, or what is not read."""
        if tag in self._SKIPPED:
            self._skip += 1
        elif re.fullmatch("h[1-6]", tag):
            self.parts.append("\n\n" + "#" * int(tag[1]) + " ")
        elif tag in self._BLOCKS:
            self.parts.append("\n\n" if tag != "li" else "\n- ")
        elif tag == "br":
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        """Close it."""
        if tag in self._SKIPPED:
            self._skip = max(0, self._skip - 1)
        elif re.fullmatch("h[1-6]", tag) or tag in self._BLOCKS:
            self.parts.append("\n\n")
        elif tag in ("td", "th"):
            self.parts.append(" | ")

    def handle_data(self, data: str) -> None:
        """Keep text with single blanks."""
        if not self._skip:
            self.parts.append(re.sub(r"\s+", " ", data))


def page_text(html: str) -> str:
    """Return the readable text of an HTML page, its headings as Markdown."""
    page = _Page()
    page.feed(html)
    page.close()
    lines = (line.strip(" |") for line in "".join(page.parts).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
