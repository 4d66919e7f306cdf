"""File chores in which not one character may be wrong: long numbers, counted lines, joined files.

A telephone number or a customer number of up to fourteen digits is copied from what a file or a search
shows; the number of matching lines is the one that ``files.search`` states; files are joined by their
handles, ``{$2}`` and ``{$3}``, so that their text is not copied at all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from ..goals.load import Goal
from .expert import Task, call, finish, handles_before, plan
from .files import PEOPLE, WORDS, workspace


def _digits(rng: random.Random, count: int) -> str:
    return "".join(str(rng.randint(0, 9)) for _ in range(count))


def telephone(rng: random.Random) -> str:
    """Return a telephone number in one of many spellings, 8 to 14 digits."""
    country = str(rng.randint(1, 998))
    parts = [_digits(rng, rng.choice((2, 3, 3, 4))) for _ in range(rng.randint(2, 4))]
    while sum(map(len, parts)) < 7:
        parts.append(_digits(rng, 3))
    mark = rng.choice((" ", " ", "-", "", "."))
    area = rng.randint(10, 999)
    lead = rng.choice((f"+{country} ", f"+{country}{mark}", f"00{country} ", f"({area}) ", "0"))
    return lead + mark.join(parts)


def number_of_letters(rng: random.Random) -> str:
    """Return an identifier of letters and digits, such as an account or an order has."""
    return rng.choice((
        lambda: _digits(rng, rng.randint(8, 14)),
        lambda: "".join(rng.choices("ABCDEKMNPRSTX", k=2)) + _digits(rng, rng.randint(8, 12)),
        lambda: "-".join(_digits(rng, rng.choice((3, 4, 5))) for _ in range(3)),
        lambda: " ".join(_digits(rng, 4) for _ in range(3)),
        lambda: rng.choice(("INV-20", "ORD-20", "CUST-19")) + _digits(rng, 2) + "-" + _digits(rng, 6),
    ))()  # fmt: skip


_FIELDS: dict[str, Callable[[random.Random], str]] = {
    "mobile": telephone,
    "phone": telephone,
    "telephone number": telephone,
    "phone number": telephone,
    "fax number": telephone,
    "account number": number_of_letters,
    "customer id": number_of_letters,
    "passport number": number_of_letters,
    "order number": number_of_letters,
}


def _target(rng: random.Random) -> str:
    stem = rng.choice(("contact", "reach", "to_ring", "copied", "noted", "value", "slip", "line", "entry"))
    return rng.choice(("", "", "out/", "desk/")) + stem + rng.choice((".txt", ".txt", ".md"))


def _made(kind: str, text: str, files: dict[str, str], check: dict[str, object]) -> tuple[Goal, int]:
    goal = Goal.model_validate({"goal": text, "files": files, "check": [{kind: check}]})
    return goal, handles_before(goal)


def long_value(rng: random.Random) -> Task:
    """Read or search for a long number; say it or write it down."""
    field = rng.choice(tuple(_FIELDS))
    people = rng.sample(PEOPLE, rng.randint(2, 7))
    values = [_FIELDS[field](rng) for _ in people]
    form = rng.choice(("{p}: {v}", "{p} - {v}", "{p}, {v}", "{p} = {v}", "{p}\t{v}", "{v} {p}", "{p} ({v})"))
    person, value = rng.choice(list(zip(people, values, strict=True)))
    files = workspace(rng, 0, 3)
    source = rng.choice(("directory", "customers", "clients", "suppliers", "callers", "partners", "guests",
                         "patients")) + rng.choice((".txt", ".md", ".log"))  # fmt: skip
    lines = [form.format(p=p, v=v) for p, v in zip(people, values, strict=True)]
    files[source] = "\n".join(lines) + "\n"
    short = person.split()[0] if rng.random() < 0.3 else person
    named = rng.random() < 0.65
    target = _target(rng) if rng.random() < 0.5 else None
    look = call("files.read", path=source) if named else call("files.search", text=short)
    step = (look.name, f"{field} of {short}"[:60])
    text = rng.choice(_ASKED[named, target is not None]).format(p=short, f=field, s=source, t=target)
    if target:
        goal, _ = _made("file", text, files, {"path": target, "equals": value})
        calls = [plan(step, ("files.write", target)), look, call("files.write", path=target, content=value)]
        return Task("files", goal, [*calls, finish(f"Wrote {value} to {target}.")])
    goal, _ = _made("answer", text, files, {"equals": value})
    return Task("files", goal, [plan(step), look, finish(value)])


_ASKED: dict[tuple[bool, bool], tuple[str, ...]] = {
    (True, False): (
        "Which {f} does {s} list for {p}?",
        "Give me the {f} that belongs to {p}; see {s}.",
        "Tell me {p}'s {f}, as {s} has it.",
        "{s}: {f} of {p}?",
        "According to {s}, what is the {f} of {p}?",
        "{p}'s {f} please, from {s}",
    ),
    (False, False): (
        "Somewhere in my files is {p}'s {f}. Which is it?",
        "Search for {p} and tell me the {f}.",
        "Which {f} do my files give for {p}?",
        "{f} of {p}?",
    ),
    (True, True): (
        "Copy {p}'s {f} out of {s} into {t}.",
        "{t} should hold the {f} that {s} lists for {p}.",
        "Take the {f} of {p} from {s} and note it in {t}.",
        "Put down the {f} of {p} in {t}; you find it in {s}.",
        "Open {s}, get the {f} of {p}, store it as {t}.",
    ),
    (False, True): (
        "Search my files for {p} and put the {f} into {t}.",
        "Note {p}'s {f} in {t}; it is in one of the files.",
        "{t} should hold {p}'s {f}. Search for it.",
    ),
}
"""Questions for a long number, by whether the file is named and whether the value is written down."""

_STATES = ("FAIL", "OK", "RETRY", "TIMEOUT", "LOGIN", "LOGOUT", "denied", "started", "paid", "shipped",
           "returned", "late", "absent", "present", "sold out", "Critical", "Notice", "NOT FOUND",
           )  # fmt: skip
_ENTRIES = (
    "{d} {h} {s} job {n}",
    "[{h}] {s}: {w}",
    "{n};{w};{s}",
    "{h} {w} {s}",
    "{s} - {w} ({n})",
    "{d}: {w} was {s}",
)


def _record(rng: random.Random, states: list[str]) -> list[str]:
    """Return the lines of a log with these states, one form for all."""
    form = rng.choice(_ENTRIES)
    start = rng.randint(0, 15)
    return [
        form.format(d=f"{1 + n % 28}.3.", h=f"{start + n // 4:02d}:{n * 13 % 60:02d}", s=state,
                    n=rng.randint(1, 99), w=rng.choice(WORDS))
        for n, state in enumerate(states)
    ]  # fmt: skip


def count_matches(rng: random.Random) -> Task:
    """How many lines of a log, or of all files, hold a word."""
    states = rng.sample(_STATES, rng.randint(2, 4))
    stem = rng.choice(("events", "door", "shop", "jobs", "visits", "parcels", "night", "sync"))
    source = stem + rng.choice((".log", ".log", ".txt"))
    lines = _record(rng, [rng.choice(states) for _ in range(rng.randint(4, 22))])
    word = rng.choice(states)
    files = workspace(rng, 0, 2)
    files[source] = "\n".join(lines) + "\n"
    one = rng.random() < 0.75
    if one and rng.random() < 0.3:
        files["old_" + source] = "\n".join(_record(rng, [rng.choice(states) for _ in range(6)])) + "\n"
    body = [files[source]] if one else list(files.values())
    hits = sum(word.casefold() in line.casefold() for text in body for line in text.splitlines())
    many = len(files) > 1
    text = rng.choice((
        "How many lines of {s} have {w} in them?",
        "{s}: number of lines with {w}?",
        "In {s}, how many entries say {w}?",
        "Count all entries of {s} that mention {w}.",
        "How many times is {w} recorded in {s}?",
        "How many {w} entries are there in {s}?",
        "Give me the number of {w} lines that {s} holds.",
        "how often is {w} found in {s}, by lines?",
    ) if one else (
        "How many lines of my files say {w}?",
        "Over all files, count the lines with {w} in them.",
        "In how many lines does {w} stand?",
    )).format(s=source, w=word)  # fmt: skip
    goal, _ = _made("answer", text, files, {"number": hits})
    scope = {"pattern": source} if one and many else {}
    look = call("files.search", text=word, **scope)
    return Task("files", goal, [plan(("files.search", f"count {word}")), look, finish(str(hits))])


def join(rng: random.Random) -> Task:
    """Two or three files made into one, by handles; sometimes under a heading."""
    count = rng.choice((2, 2, 2, 3))
    files = workspace(rng, count + 1, count + 3)
    while len(files) < count:
        files = workspace(rng, count + 1, count + 3)
    parts = rng.sample(list(files), count)
    target = _target(rng).replace("slip", rng.choice(("whole", "merged", "united", "sum", "collection")))
    heading = rng.choice(("Everything", "Collected notes", "All of it")) if rng.random() < 0.12 else None
    named = ", ".join(parts[:-1]) + rng.choice((" and ", " and then ")) + parts[-1]
    text = rng.choice((
        "Merge {n} into {t}.",
        "Concatenate {n}; the result goes to {t}.",
        "{t} should hold the lines of {n}.",
        "Make {t} out of {n}, one after the other.",
        "Put the text of {n} together as {t}.",
        "Glue {n} together and save the whole as {t}.",
        "One file {t} from {n}, please.",
        "Read {n}, then store both texts in {t}." if count == 2 else "Read {n}, then store all texts in {t}.",
    )).format(n=named, t=target)  # fmt: skip
    if heading:
        text += f' Begin with the line "{heading}".'
    checks = [{"file": {"path": target, "contains": files[part].strip()}} for part in parts]
    if heading:
        checks.append({"file": {"path": target, "contains": heading}})
    goal = Goal.model_validate({"goal": text, "files": files, "check": checks})
    base = handles_before(goal)
    content = "\n".join(f"{{${base + number}}}" for number in range(1, count + 1))
    return Task(
        "files",
        goal,
        [
            plan(*[("files.read", part) for part in parts], ("files.write", target)),
            *[call("files.read", path=part) for part in parts],
            call("files.write", path=target, content=f"{heading}\n{content}" if heading else content),
            finish(f"Joined {named.replace(' and then ', ' and ')} in {target}."[:590]),
        ],
    )


MAKERS = (long_value, long_value, long_value, count_matches, count_matches, join, join)


def chores(rng: random.Random, number: int) -> Iterator[Task]:
    """Yield ``number`` chores of these kinds."""
    for _ in range(number):
        yield rng.choice(MAKERS)(rng)
