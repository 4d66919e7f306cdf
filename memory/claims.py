"""How two remembered texts relate: the same, one within the other, a contradiction, or neither.

Judged by words, with the cosine as a second opinion, because embeddings alone cannot do it: "the port of
alpha is 80" lies nearer to "the port of beta is 80" than to its own paraphrases. So a pair is *the same*
only if no number and no name differs; it is a *contradiction* only if both say, in one short sentence,
what one thing is ("my dentist is A", "the deadline was moved to Friday"), about the same thing, with
another value. Doubt means neither: keeping two entries is cheaper than losing one. English and Chinese.
Not seen: contradictions that need knowledge ("I am vegetarian", "I had steak") or more than one sentence.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum

from .tables import STOP_WORDS

NEAR_COSINE = 0.95
"""Above it, texts whose words differ a little say the same, as far as names and numbers agree."""
NEAR_WORDS = 0.6
"""Share of common words that such texts must have at least."""
SHORT = 300
"""Characters up to which a text can be one claim."""


class Relation(StrEnum):
    """How a new text relates to an older one."""

    SAME = "same"
    WITHIN = "within"
    """All that the new text says is among the words of the older one, which says more."""
    CONTRADICTS = "contradicts"
    OTHER = "other"


def normal(text: str) -> str:
    """Return ``text`` for comparing: NFKC, one case, single blanks, no punctuation around it."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(plain.split()).strip(" .,;:!?\"'`\u3002\u201c\u201d\u2018\u2019\u3001")


def normal_hash(text: str) -> str:
    """Return the SHA-256 of the normalised text, hexadecimal."""
    return hashlib.sha256(normal(text).encode()).hexdigest()


_TOKEN = re.compile(r"[\u3400-\u9fff]|\d+(?:[.,:/-]\d+)*|[^\W\d_]+(?:['\u2019][^\W\d_]+)?|\w")
_NEGATIONS = frozenset("not no never none without nor cannot \u4e0d \u6ca1 \u65e0 \u672a \u522b".split())
_ME = frozenset("i me my mine our we us user users \u6211".split())
_EMPTY = STOP_WORDS | frozenset(
    "now currently current new actually really also today always just please note remember that the "
    "\u7684 \u4e86 \u662f \u73b0 \u5728 \u5427 \u554a".split()
)


def _stem(word: str) -> str:
    """Return a crude stem: enough that plural, tense and possessive do not make another word."""
    word = re.sub(r"['\u2019]s$|['\u2019]$", "", word)
    for ending in ("ing", "ed", "es", "s"):
        if len(word) > len(ending) + 3 and word.endswith(ending) and not word.endswith("ss"):
            return word[: -len(ending)]
    return word


@dataclass(frozen=True)
class _Words:
    """The words of a text: content stems in order, and which of them are names or numbers."""

    stems: tuple[str, ...]
    values: tuple[str, ...]
    negated: bool


def _words(text: str) -> _Words:
    plain = unicodedata.normalize("NFKC", text)
    stems: list[str] = []
    values: list[str] = []
    negated = False
    for match in _TOKEN.finditer(plain):
        raw = match.group()
        word = raw.casefold()
        negated = negated or word in _NEGATIONS or word.endswith(("n't", "n\u2019t"))
        if word in _ME:
            stems.append("me")
            continue
        if word in _EMPTY or word in _NEGATIONS:
            continue
        stem = _stem(word)
        stems.append(stem)
        if raw[0].isdigit() or (raw[0].isupper() and not _begins_sentence(plain, match.start())):
            values.append(stem)
    return _Words(tuple(stems), tuple(values), negated)


def _begins_sentence(text: str, start: int) -> bool:
    before = text[:start].rstrip(" \"'(\u201c")
    return not before or before[-1] in ".!?\n:"


def relate(new: str, old: str, cosine: float | None = None) -> Relation:
    """Return how ``new`` relates to ``old``; ``cosine`` of their vectors where both have one."""
    if normal(new) == normal(old):
        return Relation.SAME
    if _contradict(new, old):
        return Relation.CONTRADICTS
    ours, theirs = _words(new), _words(old)
    a, b = set(ours.stems), set(theirs.stems)
    if not a or not b or ours.negated != theirs.negated:
        return Relation.OTHER
    only_new, only_old = a - b, b - a
    if not only_new and not only_old:
        return Relation.SAME if _same_order(ours, theirs) else Relation.OTHER
    if not only_new:
        return Relation.SAME if len(only_old) == 1 and not _has_value(only_old, theirs) else Relation.WITHIN
    if _has_value(only_new, ours) or _has_value(only_old, theirs):
        return Relation.OTHER
    shared = len(a & b) / len(a | b)
    near = cosine is not None and cosine >= NEAR_COSINE and shared >= NEAR_WORDS
    return Relation.SAME if near else Relation.OTHER


def _same_order(a: _Words, b: _Words) -> bool:
    """Whether names and numbers come in the same order: "A beat B" is not "B beat A"."""
    return a.values == b.values or tuple(dict.fromkeys(a.stems)) == tuple(dict.fromkeys(b.stems))


def _has_value(stems: set[str], words: _Words) -> bool:
    return any(stem in words.values or stem[0].isdigit() for stem in stems)


# Claims: one short sentence that says what one thing is.


@dataclass(frozen=True)
class Claim:
    """``subject`` ``verb`` ``value``: "my dentist" "be" "dr schmidt"."""

    subject: frozenset[str]
    verb: str
    """``be``, ``be in``, ``place``, ``work``, ...; ``any`` after "changed to"."""
    value: frozenset[str]
    named: bool
    """Whether the value has a name or a number, else it is plain words."""
    update: bool
    """Whether the sentence says itself that something changed."""
    negated: bool


_LEAD = re.compile(
    r"^(?:(?:please\s+)?(?:remember|note)(?:\s+that|:)?|update:?|correction:?|actually,?|from now on,?|"
    r"as of \w+,?|now,?|by the way,?|btw,?)\s+", re.IGNORECASE,
)  # fmt: skip
_CHANGED = (
    r"(?:(?:has|have|had)\s+)?(?:(?:is|are|was|were|been|be|got)\s+)*(?:now\s+)?"
    r"(?:changed|moved|switched|updated|renamed|set|rescheduled|postponed|raised|lowered|reduced|increased)\s+to"
)
_VERB = re.compile(
    rf"""(?ix) \s+ (?: (?P<any> {_CHANGED} | (?:has\s+|have\s+)?bec[ao]me )
      | (?P<place> (?:now\s+)? (?: (?:lives?|living|is\s+based|am\s+based|is\s+located|are\s+located) \s+ (?:in|at|on)
           | (?:have\s+|has\s+)?moved\s+to | relocated\s+to ) )
      | (?P<work> (?:now\s+)? works? \s+ (?:at|for) )
      | (?P<own> (?:now\s+)? (?: costs? | takes | weighs | measures | (?:starts?|begins?|ends?|opens?|closes?|expires?)
           (?:\s+(?:at|on|in))? ) )
      | (?P<be> (?: is | are | am | equals ) (?:\s+(?:called|named))? ) ) (?=\s) | \s*(?P<sign> = | :(?=\s) )"""
)
_UPDATE = re.compile(
    r"(?i)\b(now|no longer|any ?more|instead|changed|new|from now on|update|correction|actually|switched|moved)\b"
)
_VALUE_END = re.compile(r"(?i)[,;(]|\s(?:because|since|instead|rather|and not|not|until|but|any ?more|from)\b")
_PREPOSITION = re.compile(r"(?i)^(in|at|on|from|under|with|for|by|near|behind|above|below|inside)\s+")
_ATTRIBUTES = frozenset(
    "favourite favorite preferred default name colour color size status state language format city country "
    "job role theme editor branch version mode unit currency diet brand day time deadline date level "
    "password limit priority owner address number email phone birthday shell browser timezone".split()
)
_SENTENCES = re.compile(r"(?<!\b[A-Z])(?<!\bDr)(?<!\bM[rs])(?<!\bMrs)(?<!\bSt)(?<!\bNo)(?<!\bProf)[.!?]\s+[A-Z]")
_NO_SUBJECT = frozenset("it this that he she they there here what which who these those you one".split())


def _contradict(new: str, old: str) -> bool:
    if len(new) > SHORT or len(old) > SHORT:
        return False
    return any(_claims_differ(a, b) for a in claims(new) for b in claims(old))


def _claims_differ(new: Claim, old: Claim) -> bool:
    if new.subject != old.subject or not (new.verb == old.verb or new.verb == "any" or old.verb == "any"):
        return False
    if new.negated or old.negated:
        return new.negated and not old.negated and new.value == old.value
    if new.value <= old.value or old.value <= new.value:
        return False  # a refinement, not another value
    if new.named or old.named:
        return (new.named and old.named) or new.update
    attribute = len(new.subject) > 2 or bool(new.subject & _ATTRIBUTES)
    return new.update or attribute


def claims(text: str) -> list[Claim]:
    """Return what one short sentence says that something is, in every reading; none for other texts."""
    plain = " ".join(unicodedata.normalize("NFKC", text).split()).strip(" .!\u3002")
    if re.search(r"[\u3400-\u9fff]", plain):
        return _chinese(plain)
    while lead := _LEAD.match(plain):
        plain = plain[lead.end() :]
    if _SENTENCES.search(plain) or plain.endswith("?"):
        return _numbers(plain)
    found = _VERB.search(plain)
    if found is None or not found.lastgroup:
        return _numbers(plain)
    verb = "be" if found.lastgroup == "sign" else found.lastgroup
    if verb == "own":
        verb = _stem(found.group().split()[0].casefold())
    subject, rest = plain[: found.start()], plain[found.end() :].strip()
    negation = re.match(r"(?i)(no longer|not)\s+", rest)
    rest = rest[negation.end() :] if negation else rest
    rest = re.sub(r"(?i)^(now|currently|actually|still|also)\s+", "", rest)
    update = bool(_UPDATE.search(text))
    if preposition := _PREPOSITION.match(rest):
        verb, rest = f"{verb} {preposition[1].casefold()}", rest[preposition.end() :]
    if re.match(r"(?i)(an?|one of|some|very|so|too)\s", rest):
        return []  # a description: a thing may have many
    value = _VALUE_END.split(rest, maxsplit=1)[0]
    made = [_claim(subject, verb, value, update, bool(negation))]
    if verb == "be" and re.match(r"(?i)(the|my|our)\s", rest) and not negation:
        made.append(_claim(rest, verb, subject, update, False))
    return [claim for claim in made if claim is not None]


def _claim(subject: str, verb: str, value: str, update: bool, negated: bool) -> Claim | None:
    about, said = _words(subject), _words("- " + value)
    first = _TOKEN.search(subject.casefold())
    if first is None or first.group() in _NO_SUBJECT or not about.stems or not said.stems:
        return None
    if len(about.stems) > 10 or len(said.stems) > 12:
        return None
    named = bool(said.values)
    return Claim(frozenset(about.stems), verb, frozenset(said.stems), named, update, negated)


_COUNT = re.compile(r"(?i)^(.{1,80}?)\s+(?:now\s+)?(has|have|owns?|needs?|gets?)\s+(?:now\s+)?(\d[\d.,]*)\s+(.{1,80})$")


def _numbers(plain: str) -> list[Claim]:
    """Return the claim of a count: "I have 3 dogs" is about how many dogs I have."""
    found = _COUNT.match(plain)
    if found is None:
        return []
    claim = _claim(f"{found[1]} {found[4]}", _stem(found[2].casefold()), found[3], True, False)
    return [claim] if claim else []


_CHINESE = re.compile(
    r"^(?P<subject>[^\uff0c,\u3002\uff1b;]{1,24}?)(?:\u73b0\u5728|\u76ee\u524d|\u5df2\u7ecf|\u5df2|\u4ee5\u540e|\u4eca\u540e|\u5df2\u7531)*"
    r"(?:(?P<any>\u6539\u6210|\u6539\u4e3a|\u6362\u6210|\u6362\u4e3a|\u53d8\u6210|\u53d8\u4e3a|\u66f4\u65b0\u4e3a|\u6539\u5230|\u63a8\u8fdf\u5230|\u63d0\u524d\u5230|\u8c03\u6574\u4e3a)"
    r"|(?P<place>\u4f4f\u5728|\u642c\u5230|\u642c\u53bb|\u4f4d\u4e8e)|(?P<work>\u5c31\u804c\u4e8e|\u4efb\u804c\u4e8e)"
    r"|(?P<no>\u4e0d\u518d\u662f|\u4e0d\u662f)|(?P<be>\u53eb\u505a|\u53eb|\u540d\u4e3a|\u662f|(?<![\u56e0\u8ba4\u4f5c\u4ee5\u6210\u884c])\u4e3a|\u7b49\u4e8e|[:\uff1a=]))"
    r"\u4e86?(?P<value>[^\uff0c,\u3002\uff1b;]{1,30}?)\u4e86?(?:[\uff0c,\u3002\uff1b;].*)?$"
)
_CHINESE_UPDATE = re.compile("\u73b0\u5728|\u6539|\u6362|\u53d8|\u66f4\u65b0|\u642c|\u63a8\u8fdf|\u63d0\u524d|\u4e0d\u518d|\u4eca\u540e|\u4ee5\u540e")


def _chinese(plain: str) -> list[Claim]:
    found = _CHINESE.match(plain)
    if found is None or re.match("\u4e00[\u4e2a\u79cd\u540d\u4f4d\u53ea\u4ef6\u5ea7\u5bb6]|\u5f88|\u975e\u5e38|\u5728", found["value"]):
        return []
    verb = "be" if found["no"] else found.lastgroup or "be"
    verb = next(name for name in ("any", "place", "work", "no", "be") if found[name])
    subject = re.sub("\u7528\u6237\u7684?|\u6211\u4eec\u7684?|\u6211\u7684?", "\u6211", found["subject"]).replace("\u7684", "")
    if subject in ("\u8fd9", "\u90a3", "\u5b83", "\u4ed6", "\u5979", "\u8fd9\u4e2a", "\u90a3\u4e2a"):
        return []
    value = re.sub("\u7684$", "", found["value"].strip(" \"'\u201c\u201d")).casefold()
    update = bool(_CHINESE_UPDATE.search(plain))
    named = "\u7684" in found["subject"] or update or verb in ("place", "work") or any(c.isdigit() or c.isascii() for c in value)
    return [
        Claim(
            frozenset([subject]), "be" if verb == "no" else verb, frozenset([value]), named, update, verb == "no"
        )
    ]
