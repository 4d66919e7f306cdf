"""Made-up things that a user tells: how they are said, asked for later, and what the answer is.

A :class:`Fact` keeps one wording of the statement; :func:`questions` asks in other words. Names, numbers,
dates, places and preferences are drawn at random, so that nothing can be learnt but to read what the
memory shows. The benchmark's facts are made elsewhere, of other names, wordings and domains.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

_FIRST = ("Maria", "Ben", "Chloe", "David", "Elif", "Finn", "Grace", "Hassan", "Isla", "Jakub", "Kira",
          "Liam", "Mona", "Nils", "Olga", "Pedro", "Rosa", "Sven", "Tara", "Umar", "Vera", "Wim", "Yuki",
          "Zoe", "Anna", "Paul", "Lena", "Omar", "Ines", "Karl")  # fmt: skip
_LAST = (
    "Wu", "Lee", "Novak", "Berg", "Fox", "Silva", "Klein", "Haas", "Ito", "Park", "Moreau", "Rossi", "Lind",
    "Okafor", "Weber", "Duarte", "Stone", "Malik", "Jansen", "Reyes", "Falk", "Adler",
)  # fmt: skip
_ROLES = ("dentist", "doctor", "plumber", "landlord", "accountant", "boss", "neighbour", "hairdresser",
          "piano teacher", "vet", "lawyer", "electrician", "coach", "mechanic", "tax adviser", "tutor",
          "gardener", "supervisor", "babysitter", "tailor", "architect", "cleaner", "dog walker", "baker",
          "German teacher", "trainer", "editor", "agent", "caretaker", "carpenter", "guide", "nurse",
          "optometrist", "singing teacher", "team lead", "banker", "cobbler", "butcher")  # fmt: skip
_CODES = (
    "bus pass", "membership number", "tax number", "passport number", "bike code", "shirt size",
    "ring size", "frequent flyer number", "registration number", "voucher", "meter number", "box number",
)  # fmt: skip
"""What has letters and figures."""
_NUMBERS = (*_CODES, "locker number", "shoe size", "customer number", "seat number", "room number",
            "bus line", "library card number", "house number", "employee number", "parking space",
            "extension", "flight number", "team number", "order number")  # fmt: skip
_THINGS = (
    "spare key", "passport", "blue umbrella", "drill", "first-aid kit", "ladder", "charger", "camera",
    "sewing kit", "tent", "toolbox", "old laptop", "contract", "good scissors", "flashlight",
    "winter tyres", "suitcase", "paint", "wine glasses", "batteries", "tape measure", "warranty card",
    "Christmas lights", "sleeping bag", "iron", "garden hose", "stapler", "vaccination card",
)  # fmt: skip
_PLACES = ("under the flower pot", "in the top drawer", "behind the door", "in the cellar", "on the shelf",
           "in the blue box", "under the stairs", "in the garage", "in the hall cupboard", "at the office",
           "in the green bag", "on the balcony", "in the car", "next to the printer")  # fmt: skip
_KINDS = {
    "colour": ("green", "teal", "orange", "purple", "navy", "yellow"),
    "tea": ("mint tea", "oolong", "rooibos", "green tea", "chai"),
    "fruit": ("mango", "plum", "cherry", "pear", "fig"),
    "season": ("autumn", "spring", "winter"),
    "composer": ("Bach", "Ravel", "Satie", "Grieg"),
    "dish": ("lasagne", "ramen", "goulash", "paella", "pierogi"),
    "sport": ("rowing", "tennis", "climbing", "handball"),
    "editor": ("Vim", "Emacs", "Kate", "nano"),
}
_FOODS = ("nuts", "milk", "shrimp", "wheat", "strawberries", "eggs", "soy", "celery")
_FIRMS = ("Nordwind", "Helios", "Brightly", "Kestrel Labs", "the city library", "Tramo", "Acme", "Borealis")
_CITIES = ("Oslo", "Lyon", "Porto", "Graz", "Ghent", "Turin", "Malmo", "Cork", "Bergen", "Krakow", "Leipzig")
_PETS = ("cat", "dog", "parrot", "hamster", "rabbit", "tortoise", "pony")
_PET_NAMES = ("Mia", "Rex", "Coco", "Luna", "Bruno", "Pip", "Simba", "Nala", "Otto")
_MEETINGS = ("team meeting", "choir practice", "yoga class", "dentist appointment", "board call",
             "book club", "swimming lesson", "parents' evening", "budget review")  # fmt: skip
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September",
           "October", "November", "December")  # fmt: skip
_PROJECTS = ("Falcon", "Aurora", "Cedar", "Delta", "Ember", "Granite", "Horizon", "Juniper")
_SECRET_FREE = ("printer", "router", "staging server", "backup disk", "scanner", "build machine")
_HOSTS = ("orion", "vega", "atlas", "luna", "rigel", "mimas", "titan")
_FIELDS = (
    "spring", "travel", "kitchen", "garden", "school", "summer", "office", "wedding", "client", "invoice",
    "party", "holiday", "newsletter", "website", "database", "course", "winter", "camping", "museum",
)  # fmt: skip
_PROPERTIES: dict[str, str | tuple[str, ...]] = {
    "theme": ("forest", "ocean", "jazz", "masks", "stars"),
    "deadline": "date",
    "contact": "person",
    "supplier": ("Norda", "Velox", "Hansen & Co", "Miller Foods", "Tramo"),
    "colour": ("beige", "dark red", "sky blue", "olive"),
    "format": ("A4", "PDF", "CSV", "landscape", "Markdown"),
    "venue": ("the town hall", "the Boathouse", "Hotel Astoria", "room 12"),
    "motto": ("less is more", "safety first", "one step at a time"),
    "version": ("2.4", "3.0.1", "11", "1.9-beta"),
    "budget": ("400 EUR", "1,200 EUR", "90 dollars", "2500"),
    "manager": "person",
    "opening date": "date",
}

_TOLD = (
    "Remember that {s}.", "Please remember that {s}.", "Remember: {s}", "Note that {s}.", "{S}.", "{S}.",
    "Keep in mind that {s}.", "Don't forget: {s}.", "For later: {s}.", "FYI, {s}.", "By the way, {s}.",
    "Just so you know, {s}.", "Make a note: {s}.", "Save this: {s}.", "{S}. Remember that.",
    "{S}, keep that.", "remember {s}", "note: {s}", "You should know that {s}.",
    "I want you to remember that {s}.",
)  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """Something told: ``statement`` starts in lower case where it can and has no full stop."""

    key: str
    """What it is about; two facts of one key contradict each other."""
    statement: str
    questions: tuple[str, ...]
    value: str
    """The answer to each of the questions."""

    @property
    def sentence(self) -> str:
        """The statement as it is kept."""
        return self.statement[:1].upper() + self.statement[1:] + "."


def person(rng: random.Random) -> str:
    """Return a name."""
    first, last = rng.choice(_FIRST), rng.choice(_LAST)
    return rng.choice((f"Dr. {last}", f"{first} {last}", f"{first} {last}", f"Mrs. {last}", first))


def date(rng: random.Random) -> str:
    """Return a day of the year."""
    day, month = rng.randint(1, 28), rng.choice(_MONTHS)
    return rng.choice((f"{day} {month}", f"{day} {month}", f"{month} {day}"))


_ASKED = (
    "Remind me what {w} is.", "Could you tell me {w}?", "Please tell me {w}.", "Can you give me {w}?",
    "I have forgotten {w}.", "I forgot {w}, can you help?", "What was {w}, please?",
    "Say {w} again, please.", "Do I still have {w} with you? What is it?", "Let me have {w}.", "{W} again?",
    "I want to know {w}.", "What did I say {w} was?", "Quick: {w}.",
)  # fmt: skip
"""Ways to ask for anything that has a name, ``w``."""
_ASKED_WHO = (
    "Remind me who {w} is.", "Could you tell me who {w} is?", "Who did I say {w} was?",
    "I forgot who {w} is.", "Who is {w}, please?", "Whom do I call as {w}?",
)  # fmt: skip


def _ways(what: str, rng: random.Random, who: bool = False) -> tuple[str, ...]:
    """Return some of the ways to ask for ``what``, such as ``my shoe size``."""
    ways = rng.sample(_ASKED_WHO if who else _ASKED, 3)
    return tuple(way.format(w=what, W=what[:1].upper() + what[1:]) for way in ways)


def _fact(key: str, rng: random.Random, said: tuple[str, ...], asked: tuple[str, ...], value: str) -> Fact:
    return Fact(key, rng.choice(said).replace("{v}", value), asked, value)


def role(rng: random.Random) -> Fact:
    """Who does something for the user."""
    who = rng.choice(_ROLES)
    said = (f"my {who} is {{v}}", f"my {who} is called {{v}}", f"{{v}} is my {who}",
            f"my {who}'s name is {{v}}", f"our {who} is {{v}}")  # fmt: skip
    asked = (f"Who is my {who}?", f"What is my {who}'s name?", f"What is my {who} called?",
             f"Do you remember who my {who} is?", f"Tell me the name of my {who}.", f"who's my {who}",
             f"Which {who} do I have?", f"I need the name of my {who}.")  # fmt: skip
    return _fact(who, rng, said, asked + _ways(f"my {who}", rng, who=True), person(rng))


def number(rng: random.Random) -> Fact:
    """A number of the user's."""
    what = rng.choice(_NUMBERS)
    value = rng.choice((str(rng.randint(2, 99)), str(rng.randint(100, 9999)),
                        f"{rng.choice('ABCDEFHK')}{rng.randint(1, 99)}",
                        f"{rng.choice('ABC')}{rng.choice('LMNRST')}-{rng.randint(10, 9999)}"))  # fmt: skip
    said = (f"my {what} is {{v}}", f"{{v}} is my {what}")
    asked = (f"What is my {what}?", f"What was my {what} again?", f"Tell me my {what}.", f"my {what}?",
             f"Which {what} do I have?", f"Do you know my {what}?", f"Look up my {what}.")  # fmt: skip
    return _fact(what, rng, said, asked + _ways(f"my {what}", rng), value)


def place(rng: random.Random) -> Fact:
    """Where something lies."""
    thing = rng.choice(_THINGS)
    said = (f"the {thing} is {{v}}", f"I put the {thing} {{v}}", f"I keep the {thing} {{v}}",
            f"you find the {thing} {{v}}", f"the {thing} lies {{v}}", f"we left the {thing} {{v}}",
            f"the place of the {thing} is {{v}}")  # fmt: skip
    asked = (f"Where does the {thing} belong?", f"Tell me where the {thing} is.",
             f"Where have we left the {thing}?", f"Do you know where the {thing} is?",
             f"Remind me where I put the {thing}.", f"the {thing} is where?",
             f"Where is the {thing}?", f"Where did I put the {thing}?", f"Where do I find the {thing}?",
             f"I am looking for the {thing}. Where is it?", f"Where's my {thing}?")  # fmt: skip
    return _fact(thing, rng, said, asked, rng.choice(_PLACES))


def favourite(rng: random.Random) -> Fact:
    """What the user likes best."""
    kind = rng.choice(tuple(_KINDS))
    said = (
        f"my favourite {kind} is {{v}}",
        f"the {kind} I like best is {{v}}",
        f"{{v}} is my favourite {kind}",
    )
    asked = (f"What is my favourite {kind}?", f"Which {kind} do I like best?", f"What {kind} do I prefer?",
             f"Do you know my favourite {kind}?", f"Name my favourite {kind}.")  # fmt: skip
    ways = asked + _ways(f"my favourite {kind}", rng)
    return _fact(f"favourite {kind}", rng, said, ways, rng.choice(_KINDS[kind]))


def birthday(rng: random.Random) -> Fact:
    """When somebody was born."""
    who = rng.choice(_FIRST)
    said = (f"{who}'s birthday is {{v}}", f"{who} has her birthday on {{v}}", f"{who} was born on {{v}}",
            f"the birthday of {who} is {{v}}")  # fmt: skip
    asked = (
        f"When is {who}'s birthday?",
        f"On which day does {who} have a birthday?",
        f"What is the birthday of {who}?",
        f"When was {who} born?",
        f"{who}'s birthday?",
    )
    ways = asked + _ways(f"{who}'s birthday", rng)
    return _fact(f"birthday of {who}", rng, said, ways, date(rng))


def about_person(rng: random.Random) -> Fact:
    """Where somebody works or lives, or what they cannot eat."""
    who, draw = rng.choice(_FIRST), rng.random()
    said: tuple[str, ...]
    asked: tuple[str, ...]
    if draw < 0.35:
        said = (f"{who} works at {{v}}", f"{who} has a job at {{v}}", f"{who} is employed at {{v}}")
        asked = (f"Where does {who} work?", f"Which company does {who} work at?", f"Who employs {who}?")
        return _fact(f"work of {who}", rng, said, asked, rng.choice(_FIRMS))
    if draw < 0.7:
        said = (f"{who} lives in {{v}}", f"{who} moved to {{v}}", f"{who}'s home is in {{v}}")
        asked = (f"Where does {who} live?", f"In which city does {who} live?", f"What city is {who} in?")
        return _fact(f"city of {who}", rng, said, asked, rng.choice(_CITIES))
    said = (f"{who} is allergic to {{v}}", f"{who} must not eat {{v}}", f"{who} cannot eat {{v}}",
            f"{who} gets ill from {{v}}")  # fmt: skip
    asked = (f"What is {who} allergic to?", f"What makes {who} ill?", f"What should {who} avoid?",
             f"What must {who} not eat?", f"Which food is bad for {who}?")  # fmt: skip
    return _fact(f"food of {who}", rng, said, asked, rng.choice(_FOODS))


def pet(rng: random.Random) -> Fact:
    """What an animal is called."""
    animal = rng.choice(_PETS)
    said = (f"our {animal} is called {{v}}", f"my {animal}'s name is {{v}}", f"the {animal} is named {{v}}")
    asked = (
        f"What is our {animal} called?",
        f"What is the name of my {animal}?",
        f"How is my {animal} named?",
    )
    return _fact(f"{animal} name", rng, said, asked, rng.choice(_PET_NAMES))


def meeting(rng: random.Random) -> Fact:
    """When something takes place."""
    what = rng.choice(_MEETINGS)
    hour = f"{rng.randint(7, 20)}:{rng.choice(('00', '15', '30', '45'))}"
    value = rng.choice((f"{rng.choice(_DAYS)} at {hour}", rng.choice(_DAYS), date(rng)))
    said = (f"the {what} is on {{v}}", f"my {what} is on {{v}}", f"the {what} takes place on {{v}}")
    asked = (f"When is the {what}?", f"On which day is my {what}?", f"When do I have the {what}?",
             f"What is the date of the {what}?")  # fmt: skip
    return _fact(what, rng, said, asked + _ways(f"the date of the {what}", rng), value)


def project(rng: random.Random) -> Fact:
    """Who leads a project, or what a machine is called."""
    if rng.random() < 0.5:
        name = rng.choice(_PROJECTS)
        said = (f"the project {name} is led by {{v}}", f"{{v}} leads the project {name}",
                f"{{v}} is in charge of project {name}")  # fmt: skip
        asked = (
            f"Who leads the project {name}?",
            f"Who is in charge of {name}?",
            f"Who runs project {name}?",
        )
        return _fact(f"lead of {name}", rng, said, asked, person(rng))
    what = rng.choice(_SECRET_FREE)
    said = (f"the {what} is called {{v}}", f"the name of the {what} is {{v}}", f"our {what} is {{v}}")
    asked = (f"What is the {what} called?", f"What is the name of the {what}?", f"Which {what} do we use?")
    return _fact(f"{what} name", rng, said, asked, rng.choice(_HOSTS))


def compound(rng: random.Random) -> Fact:
    """A property of something at work or at home, in two nouns."""
    prop = rng.choice(tuple(_PROPERTIES))
    what = f"{rng.choice(_FIELDS)} {prop}"
    given = _PROPERTIES[prop]
    value = {"date": date, "person": person}[given](rng) if isinstance(given, str) else rng.choice(given)
    said = (f"the {what} is {{v}}", f"our {what} is {{v}}", f"for the {what} we use {{v}}",
            f"we chose {{v}} as the {what}", f"the {what} has changed to {{v}}")  # fmt: skip
    asked = (f"What is the {what}?", f"What was the {what} again?", f"Tell me the {what}.",
             f"Which {what} did we agree on?", f"Do you remember the {what}?", f"the {what}?")  # fmt: skip
    return _fact(what, rng, said, asked + _ways(f"the {what}", rng), value)


def going(rng: random.Random) -> Fact:
    """Where or when somebody goes, meets, parks or starts."""
    who = rng.choice(("I", "we", rng.choice(_FIRST)))
    s, do = ("", "do") if who in ("I", "we") else ("s", "does")
    verb, rest, value, word = rng.choice((
        ("travel", "to", rng.choice(_CITIES), "Where {do} {w} travel to?"),
        ("start", "work at", f"{rng.randint(6, 11)}:{rng.choice(('00', '30'))}", "When {do} {w} start work?"),
        ("park", "on level", str(rng.randint(1, 9)), "On which level {do} {w} park?"),
        ("meet", "at", rng.choice(("the Blue Cafe", "the old mill", "gate 4", "the library")),
         "Where {do} {w} meet?"),
        ("fly", "on", rng.choice(_DAYS), "On which day {do} {w} fly?"),
        ("sit", "in row", str(rng.randint(1, 40)), "In which row {do} {w} sit?"),
        ("pay", "with", rng.choice(("the blue card", "cash", "a bank transfer")), "How {do} {w} pay?"),
    ))  # fmt: skip
    asked = word.format(do=do, w=who)
    also = f"Do you know {asked[:1].lower()}{asked[1:].replace(f' {do} {who} {verb}', f' {who} {verb}{s}')}"
    return Fact(f"{who} {verb}", f"{who} {verb}{s} {rest} {value}", (asked, also), value)


MAKERS: tuple[Callable[[random.Random], Fact], ...] = (
    role, role, number, place, favourite, birthday, about_person, pet, meeting, project, compound, compound,
    going,
)  # fmt: skip


def fact(rng: random.Random) -> Fact:
    """Return a fact of any kind."""
    return rng.choice(MAKERS)(rng)


def others(rng: random.Random, count: int, *keys: str) -> list[Fact]:
    """Return ``count`` facts of different keys, none of them among ``keys``."""
    found: dict[str, Fact] = {}
    while len(found) < count:
        made = fact(rng)
        if made.key not in keys:
            found.setdefault(made.key, made)
    return list(found.values())


def updated(old: Fact, rng: random.Random) -> Fact:
    """Return another fact of the same key with another value."""
    while True:
        new = fact(rng)
        if new.key == old.key and new.value != old.value:
            now = new.statement.replace(" is ", " is now ", 1) if rng.random() < 0.5 else new.statement
            return Fact(new.key, now, new.questions, new.value)


def told(fact: Fact, rng: random.Random) -> str:
    """Return what the user says to have ``fact`` kept."""
    text = rng.choice(_TOLD).format(s=fact.statement, S=fact.sentence[:-1])
    return text if rng.random() < 0.8 else text.rstrip(".")
