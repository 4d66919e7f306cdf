"""Practice goals about text files: which one mentions a word, how many lines do, what a line says.

A word counts only where searching for it is unambiguous: it occurs in the same lines as a whole word and
as part of one. What copying and renaming leave behind is checked in the run's own
workspace; the user's files stay as they are.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

Check = dict[str, Any]

_WORD = re.compile(r"[^\W\d_]{4,20}")
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "about after also been before being between both could does each every from have having here "
        "into just like more most much only other over same should some still such than that their them "
        "then there these they this those through under until very want well were what when where which "
        "while will with would your file files line lines",
    )
)
_PAIR = re.compile(r"\s*[-*]?\s*([A-Za-z][\w .'-]{1,30}?)\s*[:=]\s*(\S[^\n]{0,60}?)\s*")
_SMALL = 2000
"""Characters of a file that a copy is checked against."""

_MENTIONS = (
    'One of these files has the word "{w}" in it. Which one?',
    "Tell me the name of the file where {w} comes up.",
    "Search the files for {w} and give me the file name.",
    "Which text talks about {w}? Answer with its file name.",
)
_COUNT = (
    'In {f}, on how many lines does "{w}" occur?',
    "Search {f} for {w}: how many lines match?",
    "Go through {f} and count every line that has {w} in it.",
)
_LENGTH = ("How long is {f}, in lines?", "Give me the number of lines of {f}.", "{f} has how many lines?")
_VALUE = (
    "What does {f} say for {k}?",
    "Look up {k} in {f}.",
    "Which value stands behind {k} in {f}?",
    "I need the entry for {k} from {f}.",
)
_COPY = (
    "Keep a second version of {f} under the name {t}.",
    "{t} should hold exactly what {f} holds; leave {f} alone.",
    "Save what {f} says as {t} too.",
)
_RENAME = (
    "Give {f} the new name {t}.",
    "From now on {f} is to be called {t}.",
    "Let {t} be the name of {f}.",
)
_NAMES = ("backup", "second", "kept", "newer", "checked", "sorted-out", "later", "mine")


@dataclass(frozen=True)
class Chore:
    """A goal about text files: its words, the files it needs, and its checks."""

    kind: str
    asked: str
    """What of the files is asked for, so that nothing is asked twice in other words."""
    question: str
    inputs: tuple[str, ...]
    check: tuple[Check, ...]


def draw(texts: Mapping[str, str], rng: random.Random) -> Chore | None:
    """Return a chore over some of ``texts`` (path to text), or None when what was drawn does not suit."""
    makers: list[Callable[[Mapping[str, str], random.Random], Chore | None]]
    makers = [_mentions, _mentions, _count, _length, _value, _copy, _rename]
    return rng.choice(makers)(texts, rng)


def says(value: str) -> Check:
    """Return the check that the answer is ``value``, perhaps at the end of a short sentence."""
    return {"answer": {"matches": rf"^[^\n]{{0,40}}(?<![\w.]){re.escape(value)}\W{{0,3}}$"}}


def _file(texts: Mapping[str, str], rng: random.Random) -> tuple[str, str, str]:
    """Return path, name and text of one file."""
    path = rng.choice(list(texts))
    return path, PurePosixPath(path).name, texts[path]


def _lines_with(word: str, text: str) -> int | None:
    """Return how many lines hold ``word``; None where a piece of a longer word would count as well."""
    lines = text.casefold().splitlines()
    pieces = [line for line in lines if word in line]
    whole = [line for line in pieces if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", line)]
    return len(whole) if len(whole) == len(pieces) else None


def _word(text: str, rng: random.Random) -> str | None:
    words = sorted({word.casefold() for word in _WORD.findall(text)} - _COMMON)
    return rng.choice(words) if words else None


def _mentions(texts: Mapping[str, str], rng: random.Random) -> Chore | None:
    named: dict[str, str] = {}
    for path in rng.sample(list(texts), min(len(texts), rng.randint(2, 5))):
        named.setdefault(PurePosixPath(path).name, path)
    if len(named) < 2:
        return None
    name = rng.choice(list(named))
    word = _word(texts[named[name]], rng)
    if word is None or word in " ".join(named).casefold():
        return None
    counts = {other: _lines_with(word, texts[path]) for other, path in named.items()}
    if not counts[name] or any(count != 0 for other, count in counts.items() if other != name):
        return None
    return Chore(
        "which file", word, rng.choice(_MENTIONS).format(w=word), tuple(named.values()), (says(name),)
    )


def _count(texts: Mapping[str, str], rng: random.Random) -> Chore | None:
    path, name, text = _file(texts, rng)
    word = _word(text, rng)
    found = word and _lines_with(word, text)
    if not found or found == len(text.splitlines()) or (found == 1 and rng.random() < 0.8):
        return None
    return Chore(
        "count lines",
        str(word),
        rng.choice(_COUNT).format(w=word, f=name),
        (path,),
        ({"answer": {"number": found}},),
    )


def _length(texts: Mapping[str, str], rng: random.Random) -> Chore | None:
    path, name, text = _file(texts, rng)
    lines = text.splitlines()
    if len(lines) < 2 or not all(line.strip() for line in lines):  # do blank lines count? not asked
        return None
    return Chore(
        "count lines", "", rng.choice(_LENGTH).format(f=name), (path,), ({"answer": {"number": len(lines)}},)
    )


def _value(texts: Mapping[str, str], rng: random.Random) -> Chore | None:
    path, name, text = _file(texts, rng)
    pairs = [match.groups() for line in text.splitlines() if (match := _PAIR.fullmatch(line))]
    keys = [key.casefold() for key, _ in pairs]
    single = [(key, value) for key, value in pairs if keys.count(key.casefold()) == 1]
    if len(single) < 2:
        return None
    key, value = rng.choice(single)
    return Chore("read", key, rng.choice(_VALUE).format(k=key, f=name), (path,), (says(value),))


def _target(name: str, rng: random.Random) -> str:
    return f"{rng.choice(_NAMES)}{PurePosixPath(name).suffix}"


def _copy(texts: Mapping[str, str], rng: random.Random) -> Chore | None:
    path, name, text = _file(texts, rng)
    target = _target(name, rng)
    if len(text) > _SMALL or target == name or not _plain(name):
        return None
    checks = tuple({"file": {"path": place, "equals": text}} for place in (target, name))
    return Chore("copy", "", rng.choice(_COPY).format(f=name, t=target), (path,), checks)


def _rename(texts: Mapping[str, str], rng: random.Random) -> Chore | None:
    path, name, text = _file(texts, rng)
    target = _target(name, rng)
    if len(text) > _SMALL or target == name or not _plain(name):
        return None
    checks = ({"file": {"path": target, "equals": text}}, {"file": {"path": name, "exists": False}})
    return Chore("rename", "", rng.choice(_RENAME).format(f=name, t=target), (path,), checks)


def _plain(name: str) -> bool:
    """Whether the file tools may write the name."""
    return bool(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,79}", name))
