"""What one short sentence claims that something is, and when two claims exclude each other.

"My dentist is A" and "my dentist is now B" cannot both hold; "my cat is black" and "my cat is hungry" can.
A claim is a subject, a verb of a kind that has one value at a time (is, was moved to, lives in, works for,
costs, starts at, has N ...), and the value. Subjects are compared as sets of stems, so that "Anna's phone
number" is "the phone number of Anna". Values are names and numbers, or plain words where the subject is an
attribute or the sentence says that something changed. Of verbs that may have several values at once (uses,
drives, runs on ...) a new value replaces an old one only if the sentence says "now" (:func:`replaces`).
English, German, French, Spanish, Chinese. Not seen: contradictions that need knowledge ("I am vegetarian",
"I had steak") or more than one sentence; the past ("was") claims nothing.
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from dataclasses import dataclass, replace

from .lexicon import (
    ALSO,
    CHINESE,
    DENIES,
    DESCRIBES,
    ENGLISH,
    FRENCH,
    GERMAN,
    NOW,
    PREPOSITIONS,
    SPANISH,
    SPANISH_FIRST,
    TIMES,
    VERBS,
    word_set,
)
from .wording import ELIDED, TOKEN, language_of, stem, words

SHORT = 300
"""Characters up to which a text can be one claim."""
_MOST_SUBJECT, _MOST_VALUE = 10, 12
"""Stems; beyond them the sentence says more than one thing."""


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
    """Whether the sentence itself says that something changed."""
    negated: bool
    several: bool = False
    """Whether the verb may have several values at once."""

    @property
    def topic(self) -> str:
        """A short hash of the subject, under which the store finds other claims about it."""
        return hashlib.sha256(" ".join(sorted(self.subject)).encode()).hexdigest()[:16]


def differ(new: Claim, old: Claim) -> bool:
    """Return whether ``new`` says that ``old`` does not hold any more."""
    if new.subject != old.subject or not _one_verb(new, old) or new.several or old.several:
        return False
    if new.negated or old.negated:
        return new.negated and not old.negated and new.value == old.value
    if new.value <= old.value or old.value <= new.value:
        return False  # a refinement, not another value
    if bool(new.value & TIMES) != bool(old.value & TIMES):
        return False  # "on Monday" and "on floor 5" may both hold
    if new.value <= TIMES and old.value <= TIMES:
        return True
    if new.named or old.named:
        return (new.named and old.named) or new.update
    return new.update or len(new.subject) > 2 or bool(new.subject & _ATTRIBUTES)


def replaces(new: Claim, old: Claim) -> bool:
    """Return whether ``new`` says that something is so now, of which ``old`` says that it is otherwise.

    Which of several things it was that changed, the sentence does not say.
    """
    if not (new.several and new.update) or new.negated or old.negated:
        return False
    if new.subject != old.subject or new.verb != old.verb:
        return False
    if new.value <= old.value or old.value <= new.value:
        return False
    return _has_digit(new.value) == _has_digit(old.value)


def _one_verb(new: Claim, old: Claim) -> bool:
    if new.verb == old.verb or "any" in (new.verb, old.verb):
        return True
    return new.update and new.verb == "place" and old.verb in ("be in", "be at")


def _has_digit(value: frozenset[str]) -> bool:
    return any(character.isdigit() for word in value for character in word)


_LEAD = re.compile(
    r"^(?:(?:please\s+)?(?:remember|note)(?:\s+that|:)?|update:?|correction:?|actually,?|from now on,?|"
    r"as of \w+,?|now,?|by the way,?|btw,?)\s+",
    re.IGNORECASE,
)
_ANY = (
    r"(?:(?:has|have|had)\s+)?(?:(?:is|are|was|were|been|be|got)\s+)*(?:now\s+)?(?:changed|moved|switched|"
    r"updated|renamed|set|rescheduled|postponed|raised|lowered|reduced|increased)\s+to"
    r"|(?:has\s+|have\s+)?bec[ao]me"
)
_PLACE = (
    r"(?:now\s+)?(?:(?:lives?|living|(?:is|am|are)\s+(?:based|located))\s+(?:in|at|on)"
    r"|(?:have\s+|has\s+)?moved\s+to|relocated\s+to)"
)
_OWN = (
    r"(?:now\s+)?(?:costs?|takes|weighs|measures"
    r"|(?:starts?|begins?|ends?|opens?|closes?|expires?)(?:\s+(?:at|on|in))?)"
)
_VERB = re.compile(
    rf"\s+(?:(?P<place>{_PLACE})|(?P<any>{_ANY})|(?P<work>(?:now\s+)?works?\s+(?:at|for))|(?P<own>{_OWN})"
    r"|(?P<be>(?:is|are|am|equals)(?:\s+(?:called|named))?))(?=\s)|\s*(?P<sign>=|:(?=\s))",
    re.IGNORECASE,
)
_UPDATE = re.compile(
    r"\b(now|no longer|any ?more|instead|changed|new|update|correction|actually|switched|moved)\b",
    re.IGNORECASE,
)
_VALUE_END = re.compile(
    r"[,;(]|\s(?:because|since|instead|rather|and not|not|until|but|any ?more|from)\b", re.IGNORECASE
)
_PREPOSITION = re.compile(
    r"(in|at|on|from|under|with|for|by|near|behind|above|below|inside)\s+", re.IGNORECASE
)
_STATE = re.compile(r"(?!(?:the|my|our|his|her|its|all|part)\b)[a-z]+ (?:to|at|of|with|by|for|in|on|from) ")
_ATTRIBUTES = word_set(
    "favourite favorite preferred default name colour color size status state language format city country "
    "job role theme editor branch version mode unit currency diet brand day time deadline date level "
    "limit priority owner address number email phone birthday shell browser timezone"
)
_NO_SUBJECT = word_set("it this that he she they there here what which who these those you one")
_ABBREVIATED = (
    r"(?<!\b[A-Z])(?<!\b[DS]r)(?<!\bM[rs])(?<!\bMrs)(?<!\bMme)(?<!\b[DS]ra)(?<!\bSt)(?<!\bNo)(?<!\bProf)"
)
_SENTENCES = re.compile(_ABBREVIATED + r"[.!?]\s+[A-Z]")
_COUNT = re.compile(
    r"^(.{1,80}?)\s+(?:now\s+)?(has|have|owns?|needs?|gets?)\s+(?:now\s+)?(\d[\d.,]*)\s+(.{1,80})$",
    re.IGNORECASE,
)


@functools.lru_cache(maxsize=256)  # one new text is compared with a dozen old ones
def claims(text: str) -> list[Claim]:
    """Return what one short sentence says that something is, in every reading; none for other texts."""
    if len(text) > SHORT:
        return []
    plain = " ".join(unicodedata.normalize("NFKC", text).split()).strip(" .!。")
    language = language_of(plain)
    if language == CHINESE:
        return _chinese(plain)
    while lead := _LEAD.match(plain):
        plain = plain[lead.end() :]
    if _SENTENCES.search(plain) or plain.endswith("?"):
        return []
    if language != ENGLISH:
        return _by_verb(plain, language)
    found = _VERB.search(plain)
    if found is not None:
        return _english(plain, found, bool(_UPDATE.search(text)))
    return _count(plain) or _by_verb(plain, language)


def _english(plain: str, found: re.Match[str], update: bool) -> list[Claim]:
    verb = str(found.lastgroup)
    if verb == "sign":
        verb = "be"
    elif verb == "own":
        verb = stem(found.group().casefold().replace("now", "").split()[0])
    subject, rest = plain[: found.start()], plain[found.end() :].strip()
    negation = re.match(r"(?i)(no longer|not)\s+", rest)
    rest = rest[negation.end() :] if negation else rest
    rest = re.sub(r"(?i)^(now|currently|actually|still|also)\s+", "", rest)
    if preposition := _PREPOSITION.match(rest):
        verb, rest = f"{verb} {preposition[1].casefold()}", rest[preposition.end() :]
    elif verb == "be" and (state := _STATE.match(rest)):
        verb, rest = f"be {state[0].strip()}", rest[state.end() :]  # "employed at" is not "allergic to"
    if re.match(r"(?i)(an?|one of|some|very|so|too)\s", rest):
        return []  # a description: a thing may have many
    value = _VALUE_END.split(rest, maxsplit=1)[0]
    made = [_claim(subject, verb, value, update, bool(negation))]
    if verb == "be" and re.match(r"(?i)(the|my|our)\s", rest) and not negation:
        made.append(_claim(rest, verb, subject, update, False))  # "Anna is the owner of X"
    return [claim for claim in made if claim is not None]


def _count(plain: str) -> list[Claim]:
    """Return the claim of a count: "I have 3 dogs" is about how many dogs I have."""
    found = _COUNT.match(plain)
    if found is None:
        return []
    claim = _claim(f"{found[1]} {found[4]}", stem(found[2].casefold()), found[3], True, False)
    return [claim] if claim else []


_CLAUSE_END = re.compile(r"[,;(]|\s(?:weil|denn|aber|parce|car|mais|porque|pero|because|but|since)\s")


def _by_verb(plain: str, language: str) -> list[Claim]:
    """Return the claim of a sentence, split into subject and value at the first known verb form."""
    if language == FRENCH:
        plain = ELIDED.sub(lambda found: f"{found.group()} ", plain)
    said = _CLAUSE_END.split(plain)[0].split()
    plainly = [word.casefold() for word in said]
    if set(plainly) & DENIES:
        return []  # what is denied is seen by the words (``relation``)
    forms = VERBS[language]
    at = next((i for i, word in enumerate(plainly) if word in forms), None)
    if at is None:
        return []
    family = forms[plainly[at]]
    if language == GERMAN and family == "be" and plainly[-1] in ("gezogen", "umgezogen"):
        family = "place"
    skipped = NOW | ALSO
    subject = [word for word, low in zip(said[:at], plainly[:at], strict=True) if low not in skipped]
    rest = [word for word, low in zip(said[at + 1 :], plainly[at + 1 :], strict=True) if low not in skipped]
    if language == SPANISH and set(plainly[: at + 1]) & SPANISH_FIRST:
        subject = ["yo"]
    if rest and rest[0].casefold() in DESCRIBES:
        if family == "be":
            return []
        del rest[0]
    verb = family
    if rest and rest[0].casefold() in PREPOSITIONS:
        frame = rest.pop(0).casefold()
        verb = family if family == "place" else f"{family} {frame}"
    update = bool(set(plainly) & NOW) and not set(plainly) & ALSO
    claim = _claim(" ".join(subject), verb, " ".join(rest), update, False, language)
    if claim is None:
        return []
    one = family in ("place", "work") or (family == "be" and _is_attribute(claim))
    return [replace(claim, several=not one)]


def _is_attribute(claim: Claim) -> bool:
    """Whether what "is" has one value: a time, a number, or something of mine."""
    mine = "me" in claim.subject and len(claim.subject) > 1
    return mine or bool(claim.value & TIMES) or _has_digit(claim.value)


def _claim(
    subject: str, verb: str, value: str, update: bool, negated: bool, language: str = ENGLISH
) -> Claim | None:
    about, said = words(subject, False, language), words(value, True, language)
    first = TOKEN.search(subject.casefold())
    if first is None or first.group() in _NO_SUBJECT or not about.stems or not said.stems:
        return None
    if len(about.stems) > _MOST_SUBJECT or len(said.stems) > _MOST_VALUE:
        return None
    return Claim(frozenset(about.stems), verb, frozenset(said.stems), bool(said.values), update, negated)


_VERBS_ZH = {
    "any": "改成|改为|换成|换为|变成|变为|更新为|改到|推迟到|提前到|调整为",
    "place": "住在|搬到|搬去|位于",
    "work": "就职于|任职于",
    "no": "不再是|不是",
    "be": "叫做|叫|名为|是|(?<![因认作以成行])为|等于|[:：=]",
}
_CLAIM_ZH = re.compile(
    r"(?P<subject>[^，,。；;]{1,24}?)(?:现在|目前|已经|已由|已|以后|今后)*(?:"
    + "|".join(f"(?P<{name}>{verbs})" for name, verbs in _VERBS_ZH.items())
    + r")了?(?P<value>[^，,。；;]{1,30}?)了?(?:[，,。；;].*)?"
)
_UPDATE_ZH = re.compile("现在|改|换|变|更新|搬|推迟|提前|不再|今后|以后")
_DESCRIPTION_ZH = re.compile("一[个种名位只件座家]|很|非常|在")
_NO_SUBJECT_ZH = word_set("这 那 它 他 她 这个 那个")


def _chinese(plain: str) -> list[Claim]:
    found = _CLAIM_ZH.fullmatch(plain)
    if found is None or _DESCRIPTION_ZH.match(found["value"]) or found["subject"] in _NO_SUBJECT_ZH:
        return []
    verb = next(name for name in _VERBS_ZH if found[name])
    subject = re.sub("用户的?|我们的?|我的?", "我", found["subject"]).replace("的", "")
    value = found["value"].strip(" \"'“”").removesuffix("的").casefold()
    update = bool(_UPDATE_ZH.search(plain))
    said = any(character.isascii() for character in value)
    named = update or said or "的" in found["subject"] or verb in ("place", "work")
    negated = verb == "no"
    return [
        Claim(frozenset([subject]), "be" if negated else verb, frozenset([value]), named, update, negated)
    ]
