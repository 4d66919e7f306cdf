"""Cut a text into pieces that can be found and read on their own: by structure, about 200 tokens each.

Headings open sections and stand above each of their pieces ("Guide > Install"), paragraphs are packed until
a piece is full, one that is too long is cut at sentences, then at words. Source code is cut at top-level
definitions and blank lines, tables by rows with their header repeated. HTML becomes text first. Tokens are
counted cheaply (a Chinese character, up to six letters of a word, a sign), within about a fifth of what
tokenizers say; a limit for packing needs no more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from html.parser import HTMLParser

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
    """Return the pieces of ``text``, a file's whose name ends with ``suffix`` (lower case)."""
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
