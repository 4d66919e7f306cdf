"""A second net against secrets: texts that look like a key, a token, a password or a card number.

Known patterns only, so this misses what has no shape (a password that is a plain word in a sentence that
does not say so); the first net is the label ``secret`` on values that are known to be secret. Found things
are named by their kind, never quoted.
"""

from __future__ import annotations

import re

from .lexicon import word_set

_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("a private key", r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----"),
        ("an AWS key", r"\b(AKIA|ASIA|AROA|AIDA)[0-9A-Z]{16}\b"),
        ("a Google key", r"\bAIza[0-9A-Za-z_\-]{35}\b"),
        ("an API key", r"\b(sk|rk|pk)[-_](live|test|proj|ant|or|svcacct)?[-_]?[0-9A-Za-z_\-]{16,}"),
        ("a GitHub token", r"\b(gh[pousr]_[0-9A-Za-z]{30,}|github_pat_[0-9A-Za-z_]{40,})"),
        ("a GitLab token", r"\bglpat-[0-9A-Za-z_\-]{18,}"),
        ("a Hugging Face token", r"\bhf_[0-9A-Za-z]{28,}\b"),
        ("a Slack token", r"\bxox[abeoprs]-[0-9A-Za-z-]{10,}"),
        ("a package registry token", r"\b(pypi-[0-9A-Za-z_\-]{40,}|npm_[0-9A-Za-z]{30,})"),
        ("a Telegram token", r"\b\d{8,10}:AA[0-9A-Za-z_\-]{32,}"),
        ("a web token", r"\beyJ[0-9A-Za-z_\-]{8,}\.eyJ[0-9A-Za-z_\-]{8,}\.[0-9A-Za-z_\-]+"),
        ("a bearer token", r"(?i)\bbearer\s+[0-9a-z_\-.=+/]{20,}"),
        ("a password in an address", r"\b[a-z][a-z0-9+.\-]*://[^\s/:@]+:[^\s/@]{3,}@"),
    )
)
_NAMED = re.compile(
    r"""(?ix) \b ( (?P<word> pass(?:word|wd|phrase|code)s? | pwd )
        | (?P<key> (?:api|access|secret|private|auth|client|encryption|signing) [\s_-]*
            (?:key|token|secret) s? | (?:bot|session|refresh|auth) [\s_-]* token | secret | token
            | pin(?:[\s_-]*(?:code|number))? ) ) \b
        [^.\n:=]{0,40}? (?: \s*[:=]+\s* | \s+to\s+
            | \s+(?:is|was|are)(?:\s+now)?(?:\s+(?:re)?set\s+to|\s+changed\s+to)?\s+ )
        ["'`\u201c]? (?P<value> [^\s"'`\u201d]{3,} )"""
)
_NAMED_CHINESE = re.compile(r"(密码|口令|密钥|私钥|令牌|验证码)[^，。,.\n]{0,6}?[是为:：=]\s*[!-~]{4,}")
_NAMES = ("pass", "pwd", "key", "token", "secret", "pin")
_CARD = re.compile(r"(?<![\w.])(?:\d[ -]?){12,18}\d(?![\w.]*\d)")
_NOT_A_VALUE = word_set(
    "a an the not never no in on at of kept stored required needed expired missing wrong invalid optional "
    "too very long short secure weak empty unset changed rotated hashed encrypted managed there here "
    "valid correct incorrect for used only case-sensitive be been being reset your my their his her our "
    "none null true false"
)


def find_secret(text: str) -> str | None:
    """Return what kind of secret ``text`` seems to hold, or None."""
    for name, pattern in _PATTERNS:
        if pattern.search(text):
            return name
    lower = text.casefold()
    for found in _NAMED.finditer(text) if any(word in lower for word in _NAMES) else ():
        value = found["value"].rstrip(".,;!?)")
        plain = value.casefold() in _NOT_A_VALUE
        coded = any(c.isdigit() for c in value) or (len(value) > 7 and not value.isalpha())
        if not plain and (found["word"] or coded):
            return "a password" if found["word"] else "a key, token or PIN"
    if _NAMED_CHINESE.search(text):
        return "a password"
    if any(_is_card(found.group()) for found in _CARD.finditer(text)):
        return "a card number"
    return None


def _is_card(found: str) -> bool:
    """Whether the digits have a card's beginning and length, and Luhn's check digit."""
    digits = [int(c) for c in found if c.isdigit()]
    if not 13 <= len(digits) <= 19 or digits[0] not in (2, 3, 4, 5, 6) or len(set(digits)) < 2:
        return False
    doubled = [d if i % 2 == 0 else (d * 2 - 9 if d > 4 else d * 2) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0
