"""The words of a text, for comparing texts: normal form, content stems, names and numbers, negation."""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from dataclasses import dataclass

from .lexicon import (
    ATTITUDES,
    CHINESE,
    EMPTY,
    EMPTY_AFTER,
    EMPTY_ANYWHERE,
    ENGLISH,
    FRENCH,
    GERMAN,
    ME,
    NEGATIONS,
    PAST,
    SPANISH,
    STATES,
    TELLING,
    TELLS_ENGLISH,
)


def normal(text: str) -> str:
    """Return ``text`` for comparing: NFKC, one case, single blanks, no punctuation around it."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(plain.split()).strip(" .,;:!?\"'`。“”‘’、")


def normal_hash(text: str) -> str:
    """Return the SHA-256 of the normalised text, hexadecimal."""
    return hashlib.sha256(normal(text).encode()).hexdigest()


TOKEN = re.compile(
    r"[\u3400-\u9fff]|(?:(?<![\w)])[-−+])?[$€£]?\d+(?:[.,:/-]\d+)*[%°€]?"
    r"|\b[A-Za-z][+-](?![\w+-])|[^\W\d_]+(?:['’][^\W\d_]+)?(?:\+\+|#)?|\w"
)
"""Words and numbers; a sign, "%", "++" or "#" belongs to its word: C is not C++, 18 not -18."""
ELIDED = re.compile(r"\b(?:[cdjlmnst]|qu)['’](?=\w)", re.IGNORECASE)
"""French: "j'aime" is two words."""

_BE = re.compile(
    r"(?i)\b(?:is|are|am|be|'s|ist|sind|bin|est|sont|suis|es|son|está|están|estoy)"
    r"(?:\s+(?:now|not|no|nicht|jetzt|currently|still|pas|ahora|maintenant))*\s+$"
)
_ENDS = re.compile(r"[^\W\d_]{4}\.$|\d\.$")


def language_of(text: str) -> str:
    """Return the language of a short text as far as the gate knows it: English where nothing tells."""
    if re.search(r"[\u3400-\u9fff]", text):
        return CHINESE
    found = set(re.findall(r"[^\W\d_]+['’]?", text.casefold().replace("’", "'")))
    found |= {word.rstrip("'") for word in found}
    scores = {name: len(found & telling) for name, telling in TELLING.items()}
    best = max(scores, key=lambda name: scores[name])
    return best if scores[best] > len(found & TELLS_ENGLISH) else ENGLISH


@functools.lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """Return a crude stem: enough that plural, tense and possessive do not make another word.

    Hashes of such stems are stored (the topics of facts), so changing this takes a rebuild of the words.
    """
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
    spelt: tuple[str, ...]
    """The same words as the stems, not stemmed."""
    topic: tuple[str, ...]
    """The stems, with words for one attitude or for one state and its opposite made one."""
    positive: bool
    """Whether the text affirms its topic: "I hate tea" denies what "I love tea" says."""
    past: bool


@functools.lru_cache(maxsize=256)  # one new text is compared with a dozen old ones
def words(text: str, inside: bool = False, language: str | None = None) -> Words:
    """Return the words of ``text``; ``inside`` says that it does not begin a sentence.

    ``language`` is given for a part of a sentence, which would not tell it.
    """
    plain = unicodedata.normalize("NFKC", text)
    language = language or language_of(plain)
    if language == CHINESE:
        plain = re.sub("讨厌|恨", "不喜欢", re.sub("热爱|爱(?!好|人)", "喜欢", plain))
    if language == FRENCH:
        plain = ELIDED.sub(lambda found: f"{found.group()} ", plain)
    empty, negations = EMPTY[language] | EMPTY_ANYWHERE, NEGATIONS[language] | NEGATIONS[CHINESE]
    stems: list[str] = []
    values: list[str] = []
    spelt: list[str] = []
    topic: list[str] = []
    negated, positive, past, before = False, True, False, ""
    for match in TOKEN.finditer(plain):
        raw = match.group()
        word, previous = raw.casefold().replace("’", "'").replace("−", "-"), before
        before = word
        if word + "'" in negations or word in negations or word.endswith("n't"):
            negated = True
            continue
        if negated and (language, word) in ((FRENCH, "plus"), (GERMAN, "mehr")):
            continue
        past = past or word in PAST
        good = ATTITUDES.get(word)
        state = STATES.get(word) if _BE.search(plain, 0, match.start()) else None
        if word in ME or word + "'" in ME:
            if language == SPANISH and word in ("me", "nos"):
                continue  # "me gusta", "me he mudado": the verb says who
            stems.append("me")
            spelt.append("me")
            topic.append("me")
            continue
        says_nothing = word in empty or word + "'" in empty or previous == EMPTY_AFTER.get(word)
        if says_nothing and state is None:
            continue
        stems.append(stem(word))
        spelt.append(word)
        topic.append("like" if good is not None else stem(state[0]) if state else stem(word))
        positive = positive == (good if good is not None else state[1] if state else True)
        named = raw[0].isupper() and (inside or not _begins(plain, match.start()))
        if named or raw[-1] in "#+-" or any(character.isdigit() for character in raw):
            values.append(stems[-1])
    return Words(tuple(stems), tuple(values), negated, tuple(spelt), tuple(topic), positive != negated, past)


def _begins(text: str, start: int) -> bool:
    before = text[:start].rstrip(" \"'(“")
    return not before or before[-1] in "!?\n:" or bool(_ENDS.search(before))  # not after "Dr."
