"""Goals that need what earlier runs kept: told 1 to 50 runs before, changed since, among look-alikes, never.

``remembered`` of a record is what was kept before, oldest first, so a fact that stands n from the end was
told n runs ago; ``earlier`` are goals that the model itself is given first, with the same memory. Names,
wordings and domains are not those of the training episodes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .common import Record, answer, csv_text, file, says

# fmt: off
_PEOPLE = (
    "Dora", "Kofi", "Mirek", "Saskia", "Thandi", "Ruben", "Ayumi", "Bogdan", "Celine", "Farid",
    "Gitte", "Hamza", "Ingrid", "Jorge", "Katya", "Lorenzo", "Maren", "Noor", "Osman", "Petra",
)
_FAMILY = (
    "Lindqvist", "Achebe", "Castellano", "Dvorak", "Eriksen", "Fontaine", "Galanis", "Hoxha",
    "Iyer", "Jablonski", "Kuznetsov", "Laurent", "Mbeki", "Nakamura", "Oduya", "Petrov",
)
# fmt: on
_WHO = (
    "osteopath",
    "notary",
    "godmother",
    "handball trainer",
    "estate agent",
    "optician",
    "choir leader",
    "driving instructor",
    "physiotherapist",
    "insurance agent",
    "beekeeper",
    "upstairs tenant",
)
_WHERE = {
    "snow shovel": "in the shed",
    "fuse box": "behind the mirror",
    "tax folder": "on the third shelf",
    "picnic blanket": "in the red trunk",
    "bicycle pump": "under the bench",
    "spare bulbs": "in the laundry room",
    "birth certificate": "in the metal box",
    "hammock": "in the attic",
    "cake tin": "above the oven",
    "dog lead": "on the hook by the window",
    "tripod": "in the wardrobe",
    "jump leads": "in the boot",
}
_IS = {
    "wifi network": ("Bluebird", "Foxhole", "Larch 5"),
    "gym": ("Ironworks", "Pulse", "Northside"),
    "tram stop": ("Mill Lane", "Harbour Gate", "Elm Park"),
    "blood group": ("AB", "0 positive", "B negative"),
    "allotment plot": ("17", "C4", "32"),
    "boat": ("Kittiwake", "Seldom", "Marlin"),
    "choir voice": ("alto", "tenor", "bass"),
    "coffee order": ("a flat white", "a cortado", "filter coffee"),
    "ticket zone": ("2", "B", "4"),
    "hotel in Ghent": ("Hotel Orpheus", "The Weaver", "Poortje"),
    "ski size": ("168", "172", "176"),
    "mobile provider": ("Telvia", "Onda", "Kolibri"),
    "favourite board game": ("Hive", "Carcassonne", "Azul"),
    "licence plate": ("OX-418", "KR-77", "LM-2051"),
}
_DAYS = (
    "4 April",
    "19 October",
    "27 January",
    "8 August",
    "30 June",
    "13 February",
    "22 November",
    "2 September",
)
_EVENTS = (
    "parents' concert",
    "boiler inspection",
    "quarterly audit",
    "chess final",
    "roof repair",
    "eye test",
    "street party",
    "licence renewal",
    "blood donation",
    "harvest fair",
)
_STUFF = ("penicillin", "sesame", "latex", "pollen", "mustard", "cat hair", "kiwi", "bee stings")


@dataclass(frozen=True)
class Told:
    """Something told and how it is asked for. Facts of one key are about the same thing."""

    key: str
    kept: str
    asked: tuple[str, ...]
    value: str


def _name(rng: random.Random) -> str:
    return f"{rng.choice(_PEOPLE)} {rng.choice(_FAMILY)}"


def _person(rng: random.Random) -> Told:
    who, name = rng.choice(_WHO), _name(rng)
    kept = rng.choice((f"My {who} is {name}.", f"The {who} I go to is {name}.", f"{name} is my {who}."))
    asked = (
        f"Who is my {who}?",
        f"Could you give me the name of my {who}?",
        f"My {who}'s name, please.",
        f"Whom do I call when I need my {who}?",
    )
    return Told(who, kept, asked, name)


def _place(rng: random.Random) -> Told:
    thing = rng.choice(tuple(_WHERE))
    where = rng.choice(tuple(_WHERE.values()))
    kept = rng.choice(
        (f"The {thing} hangs or lies {where}.", f"We store the {thing} {where}.", f"The {thing} is {where}.")
    )
    asked = (
        f"Where do we keep the {thing}?",
        f"I can't find the {thing}, where is it?",
        f"In what place is the {thing}?",
    )
    return Told(thing, kept, asked, where)


def _thing(rng: random.Random) -> Told:
    what = rng.choice(tuple(_IS))
    value = rng.choice(_IS[what])
    kept = rng.choice(
        (f"My {what} is {value}.", f"Our {what} is {value}.", f"The name of my {what}: {value}.")
    )
    if kept.startswith("The name") and what not in (
        "wifi network",
        "gym",
        "tram stop",
        "boat",
        "hotel in Ghent",
    ):
        kept = f"My {what} is {value}."
    asked = (
        f"What is my {what}?",
        f"Which {what} is mine?",
        f"Remind me of my {what}.",
        f"my {what}, please",
    )
    return Told(what, kept, asked, value)


def _event(rng: random.Random) -> Told:
    what, day = rng.choice(_EVENTS), rng.choice(_DAYS)
    kept = rng.choice(
        (f"The {what} is on {day}.", f"The {what} has been set to {day}.", f"{day} is the {what}.")
    )
    asked = (f"When is the {what}?", f"What day is the {what}?", f"On what date do we have the {what}?")
    return Told(what, kept, asked, day)


def _health(rng: random.Random) -> Told:
    who, what = rng.choice(_PEOPLE), rng.choice(_STUFF)
    kept = rng.choice((f"{who} is allergic to {what}.", f"{who} reacts badly to {what}."))
    asked = (
        f"What does {who} react badly to?",
        f"What is {who} allergic to?",
        f"Which allergy does {who} have?",
    )
    return Told(f"allergy of {who}", kept, asked, what)


def _job(rng: random.Random) -> Told:
    who, where = (
        rng.choice(_PEOPLE),
        rng.choice(
            (
                "Solvang Bakery",
                "the tax office",
                "Quantix",
                "Delft University",
                "the harbour police",
                "Meyer Optics",
            )
        ),
    )
    kept = rng.choice((f"{who} works for {where}.", f"{who} has a post at {where}."))
    asked = (f"Who does {who} work for?", f"Where is {who} employed?", f"What is {who}'s employer?")
    return Told(f"job of {who}", kept, asked, where)


KINDS: tuple[Callable[[random.Random], Told], ...] = (
    _person,
    _person,
    _place,
    _thing,
    _thing,
    _event,
    _health,
    _job,
)


def _any(
    rng: random.Random, taken: set[str], kinds: Sequence[Callable[[random.Random], Told]] = KINDS
) -> Told:
    """Return a fact whose key is not ``taken``, and take it."""
    while (made := rng.choice(kinds)(rng)).key in taken:
        pass
    taken.add(made.key)
    return made


def _again(old: Told, rng: random.Random) -> Told:
    """Return another fact about the same thing, with another value."""
    while True:
        new = rng.choice(KINDS)(rng)
        if new.key == old.key and new.value != old.value:
            return new


def _ago(rng: random.Random, told: Told, taken: set[str]) -> list[str]:
    """Return what was kept: ``told`` 1 to 50 runs ago, other things since, and some before."""
    ago = rng.choice((1, 2, 3, 5, 8, 12, 20, 30, 40, 50))
    since = [_any(rng, taken).kept for _ in range(ago - 1)]
    before = [_any(rng, taken).kept for _ in range(rng.randint(0, 6))]
    return [*before, told.kept, *since]


def told(rng: random.Random) -> Record:
    """A fact told once."""
    taken: set[str] = set()
    fact = _any(rng, taken)
    return {"goal": rng.choice(fact.asked), "remembered": _ago(rng, fact, taken), "check": [says(fact.value)]}


def updated(rng: random.Random) -> Record:
    """A fact that has changed: the older value must not come back."""
    taken: set[str] = set()
    old = _any(rng, taken)
    new = _again(old, rng)
    kept = [old.kept, *(_any(rng, taken).kept for _ in range(rng.randint(0, 12))), *_ago(rng, new, taken)]
    return {"goal": rng.choice(new.asked), "remembered": kept, "check": [says(new.value)]}


def alike(rng: random.Random) -> Record:
    """A fact among others of its kind: other people's allergies, other things' places."""
    taken: set[str] = set()
    kind = rng.choice(KINDS)
    fact = _any(rng, taken, [kind])
    kept = [
        fact.kept,
        *(_any(rng, taken, [kind]).kept for _ in range(4)),
        *(_any(rng, taken).kept for _ in range(6)),
    ]
    rng.shuffle(kept)
    return {"goal": rng.choice(fact.asked), "remembered": kept, "check": [says(fact.value)]}


def never(rng: random.Random) -> Record:
    """Nobody said it, though others of its kind were told."""
    taken: set[str] = set()
    kind = rng.choice(KINDS)
    fact = _any(rng, taken, [kind])
    kept = [*(_any(rng, taken, [kind]).kept for _ in range(3)), *(_any(rng, taken).kept for _ in range(10))]
    rng.shuffle(kept)
    honest = answer(matches=r"(?i)\b(do not|don't|cannot|can't|not) (know|been told|told|find|say)\b|nothing")
    return {"goal": rng.choice(fact.asked), "remembered": kept, "check": [honest]}


def computed(rng: random.Random) -> Record:
    """A number that was told is computed with."""
    taken: set[str] = set()
    what = rng.choice(("cleaning fee", "club dues", "hourly wage", "electricity tariff", "parking charge"))
    number, other = rng.randint(3, 49), rng.randint(11, 400)
    fact = Told(what, f"My {what} is {number}.", (), str(number))
    text, value = rng.choice(
        (
            (f"What is my {what} times {other}?", number * other),
            (f"Add {other} to my {what}.", number + other),
            (f"How much are {other} and my {what} together?", number + other),
        )
    )
    return {"goal": text, "remembered": _ago(rng, fact, taken), "check": [answer(number=value)]}


def filtered(rng: random.Random) -> Record:
    """A table is asked about what was told."""
    taken: set[str] = set()
    branches = ("Lund", "Aarhus", "Turku", "Kiel")
    rows = [[f"V-{100 + i}", rng.choice(branches), rng.randint(2, 80)] for i in range(12)]
    mine = rng.choice(rows)[1]
    fact = Told("branch", rng.choice((f"My branch is {mine}.", f"The branch I run is {mine}.")), (), mine)
    total = sum(row[2] for row in rows if row[1] == mine)
    return {
        "goal": rng.choice(
            ("What is the total of visits for my branch?", "How many visits did my branch have in all?")
        ),
        "files": {"visits.csv": csv_text(["sheet", "branch", "visits"], rows)},
        "remembered": _ago(rng, fact, taken),
        "check": [answer(number=total)],
    }


def written(rng: random.Random) -> Record:
    """Something told goes into a file."""
    taken: set[str] = set()
    fact = _any(rng, taken, [_person, _event, _thing])
    target = rng.choice(("card", "memo", "label", "invite")) + ".txt"
    asked = fact.asked[0] if fact.asked[0].endswith("?") else fact.asked[0] + "."
    return {
        "goal": f"{asked} Write it to {target}.",
        "remembered": _ago(rng, fact, taken),
        "check": [file(target, equals=fact.value)],
    }


def looked_up(rng: random.Random) -> Record:
    """What to recall is known only after a file was read."""
    taken: set[str] = set()
    people = [_name(rng) for _ in range(4)]
    extensions = rng.sample(range(1000, 9999), 4)
    kept = [f"The extension of {who} is {number}." for who, number in zip(people, extensions, strict=True)]
    kept += [_any(rng, taken).kept for _ in range(rng.randint(2, 20))]
    rng.shuffle(kept)
    name = rng.choice(("caller", "driver", "speaker", "tenant")) + ".txt"
    return {
        "goal": rng.choice(
            (
                f"{name} names somebody. What is the extension of that person?",
                f"Read {name} and give me the extension of the person in it.",
            )
        ),
        "files": {name: people[0] + "\n"},
        "remembered": kept,
        "check": [says(str(extensions[0]))],
    }


def said(rng: random.Random) -> Record:
    """The model itself is told in an earlier goal, perhaps corrected in the next, and then asked."""
    taken: set[str] = set()
    fact = _any(rng, taken)
    form = rng.choice(("Remember this: {s}", "Please keep in mind: {s}", "{s}", "Take a note: {s}"))
    earlier = [form.format(s=fact.kept)]
    if rng.random() < 0.3:
        fact = _again(fact, rng)
        earlier.append(f"That has changed. {fact.kept}")
    kept = [_any(rng, taken).kept for _ in range(rng.randint(0, 8))]
    return {
        "goal": rng.choice(fact.asked),
        "remembered": kept,
        "earlier": earlier,
        "check": [says(fact.value)],
    }


PARTS: tuple[tuple[Callable[[random.Random], Record], int], ...] = (
    (told, 40),
    (updated, 18),
    (alike, 14),
    (never, 10),
    (computed, 8),
    (filtered, 6),
    (written, 6),
    (looked_up, 8),
    (said, 10),
)


def memory(seed: int = 19) -> list[Record]:
    """Make the suite: 120 goals, in random order."""
    rng = random.Random(seed)
    records = [
        {"category": make.__name__.replace("_", " "), **make(rng)} for make, n in PARTS for _ in range(n)
    ]
    rng.shuffle(records)
    return [{"id": f"memory-{number:04d}", **record} for number, record in enumerate(records, 1)]
