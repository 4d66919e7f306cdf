"""The words of a text, for comparing texts: normal form, content stems, names and numbers, negation."""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from dataclasses import dataclass

from ..tables import STOP_WORDS


def normal(text: str) -> str:
    """Return ``text`` for comparing: NFKC, one case, single blanks, no punctuation around it."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(plain.split()).strip(" .,;:!?\"'`。“”‘’、")


def normal_hash(text: str) -> str:
    """Return the SHA-256 of the normalised text, hexadecimal."""
    return hashlib.sha256(normal(text).encode()).hexdigest()


def word_set(text: str) -> frozenset[str]:
    """Return the words of a table written as one string."""
    return frozenset(text.split())


TOKEN = re.compile(r"[\u3400-\u9fff]|\d+(?:[.,:/-]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)?|\w")
_NEGATIONS = word_set("not no never none without nor cannot 不 没 无 未 别")
_ME = word_set("i me my mine our we us user users user's 我")
_EMPTY = STOP_WORDS | word_set(
    "now currently current new actually really also today always just please note remember "
    "的 了 是 现 在 吧 啊"
)
_ENDS = re.compile(r"[^\W\d_]{4}\.$|\d\.$")


@functools.lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """Return a crude stem: enough that plural, tense and possessive do not make another word."""
    word = re.sub(r"['’]s$|['’]$", "", word)
    for ending in ("ing", "ed", "es", "s"):
        if len(word) > len(ending) + 3 and word.endswith(ending) and not word.endswith("ss"):
            return word[: -len(ending)]
    return word


@dataclass(frozen=True)
class Words:
    """The content of a text. Stems are in the order of the text, Chinese by the character."""

    stems: tuple[str, ...]
    values: tuple[str, ...]
    """Those stems that are numbers or names (capitals inside a sentence)."""
    negated: bool


@functools.lru_cache(maxsize=256)  # one new text is compared with a dozen old ones
def words(text: str, inside: bool = False) -> Words:
    """Return the words of ``text``; ``inside`` says that it does not begin a sentence."""
    plain = unicodedata.normalize("NFKC", text)
    stems: list[str] = []
    values: list[str] = []
    negated = False
    for match in TOKEN.finditer(plain):
        raw = match.group()
        word = raw.casefold().replace("’", "'")
        negated = negated or word in _NEGATIONS or word.endswith("n't")
        if word in _ME:
            stems.append("me")
            continue
        if word in _EMPTY or word in _NEGATIONS:
            continue
        stems.append(stem(word))
        if raw[0].isdigit() or (raw[0].isupper() and (inside or not _begins(plain, match.start()))):
            values.append(stems[-1])
    return Words(tuple(stems), tuple(values), negated)


def _begins(text: str, start: int) -> bool:
    before = text[:start].rstrip(" \"'(“")
    return not before or before[-1] in "!?\n:" or bool(_ENDS.search(before))  # not after "Dr."
