"""Goals that need the memory, and goals that must not be led astray by it.

The user tells something and the expert keeps it; later it is asked for, and what the driver recalled
shows it among other things; what was never told is answered honestly. What is recalled is also computed
with, written down and filtered by; and all other kinds of work are done with unrelated entries in sight.
Retrieval alone is played (:class:`Shelf`), so that an episode decides what is in sight.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from ...labels import Label
from ...llm.message import ToolCall
from ...memory.entry import (
    GLOBAL,
    Draft,
    Entry,
    Hit,
    Kind,
    Recalled,
    Verdict,
    Written,
)
from ..goals.load import Goal
from ..run.memory import RunMemory
from . import (
    conversations,
    facts,
    files,
    mixed,
    tables,
    words,
    workflows,
)
from . import (
    small_talk as chat,
)
from .expert import Task, call, finish, plan
from .facts import Fact
from .sheets import Query, sheet, sheet_files, target_name
from .tables import run_query, simple_name


@dataclass
class Shelf:
    """A memory with scripted recalls: the n-th shows ``shown[n]``, later ones nothing.

    An episode must hold the right entry, its older version or only what looks alike, whatever a retrieval
    would have found; the calls, the events and the prompt are real.
    """

    shown: list[list[str]] = field(default_factory=list)
    refuse: str | None = None
    """Why the gate keeps nothing, where the episode wants that."""
    seed: int = 0
    kept: int = 0

    def recall(
        self, query: str, namespaces: Sequence[str], budget: int, kinds: Sequence[Kind] | None = None
    ) -> Recalled:
        """Return the entries of the next recall, with growing ids."""
        texts = self.shown.pop(0) if self.shown else []
        rng = random.Random(f"{self.seed} {texts}")
        ids = sorted(rng.sample(range(1, 40 if rng.random() < 0.5 else 3000), len(texts)))
        hits = tuple(Hit(entry(number, text), 1.0, 0.5) for number, text in zip(ids, texts, strict=True))
        return Recalled(hits, sum(len(text) // 4 for text in texts), len(texts))

    def write(self, draft: Draft) -> Written:
        """Keep everything, or nothing."""
        if self.refuse:
            return Written(Verdict.REFUSED, self.refuse)
        self.kept += 1
        number = random.Random(self.seed).randint(1, 3000) + self.kept
        return Written(Verdict.WRITTEN, "new", entry(number, draft.text))

    def used(self, ids: Sequence[int], success: bool | None) -> None:
        """Ignore: uses in episodes are not counted."""


def entry(number: int, text: str) -> Entry:
    """Return a fact of the user as an entry."""
    return Entry(
        number, Kind.FACT, text, GLOBAL, Label.TRUSTED, None, None, None, "", 0.0, None, None, 0, 0, None
    )


UNKNOWN = "I do not know: you have not told me."
NOTED = "Noted."
_STRAY = (
    "lesson: tables.query failed: no column amount in orders; tables.describe showed that it is called sum.",
    "lesson: files.read failed: there is no notes.txt; files.list showed notes/today.txt.",
    "document: handbook.md: Requests for leave are sent to the office two weeks ahead.",
    "document: readme.txt: Start the program with run.sh; it prints its version and stops.",
    "lesson: the answer was not met: a name was asked for, not a number.",
)


def _memory(rng: random.Random, *shown: list[str], refuse: str | None = None) -> RunMemory:
    return RunMemory(Shelf(list(shown), refuse, rng.randrange(10**6)))


def _mixed_in(rng: random.Random, wanted: Sequence[Fact], most: int = 4) -> list[str]:
    """Return the sentences of ``wanted`` among those of other facts, their own order kept."""
    noise = facts.others(rng, rng.randint(0, most), *(fact.key for fact in wanted))
    lines = [fact.sentence for fact in noise]
    places = sorted(rng.randint(0, len(lines)) for _ in wanted)
    for shift, (place, fact) in enumerate(zip(places, wanted, strict=True)):
        lines.insert(place + shift, fact.sentence)
    return lines


def _noise(rng: random.Random, most: int, *keys: str) -> list[str]:
    """Return unrelated entries: facts, now and then a lesson or a piece of a file."""
    lines = [fact.sentence for fact in facts.others(rng, rng.randint(0, most), *keys)]
    if rng.random() < 0.15:
        lines.append(rng.choice(_STRAY))
    return lines


def _goal(text: str, **fields: object) -> Goal:
    return Goal.model_validate({"goal": text, **fields})


def _says(value: str) -> dict[str, object]:
    return {"check": [{"answer": {"equals": value}}]}


def telling(rng: random.Random) -> Task:
    """Something is told; now and then the same or its older version is in sight, or it is refused."""
    fact = facts.fact(rng)
    draw = rng.random()
    if draw < 0.12:
        other = facts.others(rng, 1, fact.key)[0]
        text = rng.choice((
            "Remember that {a}, and that {b}.", "Two things: {a}. {B}.", "{A}. {B}.",
            "Please note: {a}; {b}.", "Remember both: {a} and {b}.",
        ))  # fmt: skip
        text = text.format(a=fact.statement, A=fact.sentence[:-1], b=other.statement, B=other.sentence[:-1])
        calls = [call("remember", text=fact.sentence), call("remember", text=other.sentence), finish(NOTED)]
        return Task("memory", _goal(text), calls, memory=_memory(rng, _noise(rng, 2)))
    if draw < 0.22:
        why = rng.choice((
            "it is known already",
            f"the same as [{rng.randint(1, 900)}]",
            "it looks like a secret",
            "nearly the same is known already",
            "this was recalled, not told",
        ))  # fmt: skip
        calls = [call("remember", text=fact.sentence), finish(f"Not kept: {why}")]
        memory = _memory(rng, _noise(rng, 2), refuse=why)
        return Task("memory", _goal(facts.told(fact, rng)), calls, memory=memory)
    seen = _noise(rng, 3)
    if draw < 0.45:
        fact = facts.updated(old := fact, rng)
        seen = _mixed_in(rng, [old], 2)
    calls = [call("remember", text=fact.sentence), finish(NOTED)]
    return Task("memory", _goal(facts.told(fact, rng)), calls, memory=_memory(rng, seen))


def asking(rng: random.Random) -> Task:
    """Something told is asked for; of two versions the later one counts."""
    fact = facts.fact(rng)
    wanted = [fact]
    if rng.random() < 0.25:
        fact = facts.updated(fact, rng)
        wanted.append(fact)
    text = rng.choice(fact.questions)
    return Task(
        "memory",
        _goal(text, **_says(fact.value)),
        [finish(fact.value)],
        memory=_memory(rng, _mixed_in(rng, wanted)),
    )


def never_told(rng: random.Random) -> Task:
    """Nobody told: nothing is in sight, or things that only look alike."""
    fact = facts.fact(rng)
    word = fact.questions[0].split()[0]
    alike = [made for made in facts.others(rng, 12, fact.key) if made.questions[0].split()[0] == word]
    seen = [made.sentence for made in alike[: rng.randint(0, 3)]]
    seen += [made.sentence for made in facts.others(rng, rng.randint(0, 2), fact.key)]
    rng.shuffle(seen)
    seen = [] if rng.random() < 0.3 else seen
    goal = _goal(rng.choice(fact.questions), **_says(UNKNOWN))
    return Task("memory", goal, [finish(UNKNOWN)], memory=_memory(rng, seen))


_AMOUNTS = (
    ("discount", "%"),
    ("budget", ""),
    ("hourly rate", ""),
    ("tax rate", "%"),
    ("rent", ""),
    ("fee", "%"),
    ("bonus", "%"),
    ("daily target", ""),
    ("car's mileage limit", ""),
    ("shipping cost", ""),
)


def computing(rng: random.Random) -> Task:
    """A number that was told is computed with, and perhaps written down."""
    what, unit = rng.choice(_AMOUNTS)
    told_number, number = rng.randint(2, 60), rng.randint(20, 900)
    value = f"{told_number}{rng.choice((' %', '%', ' percent')) if unit else ''}"
    fact = Fact(what, rng.choice((f"my {what} is {value}", f"the {what} is {value}")), (), value)
    if unit:
        text, expression = rng.choice((
            (f"What is {number} minus my {what}?", f"{number} - {told_number}%"),
            (f"Take my {what} off {number}.", f"{number} - {told_number}%"),
            (f"Add my {what} to {number}.", f"{number} + {told_number}%"),
            (f"How much is my {what} of {number}?", f"{told_number}% of {number}"),
            (f"Reduce {number} by my {what}.", f"{number} - {told_number}%"),
            (f"Raise {number} by my {what}.", f"{number} + {told_number}%"),
        ))  # fmt: skip
    else:
        text, expression = rng.choice((
            (f"What is {number} times my {what}?", f"{number} * {told_number}"),
            (f"Add {number} to my {what}.", f"{told_number} + {number}"),
            (f"How much is my {what} plus {number}?", f"{told_number} + {number}"),
            (f"Multiply my {what} by {number}.", f"{told_number} * {number}"),
            (f"How much is my {what} for {number} days?", f"{told_number} * {number}"),
            (f"What do {number} and my {what} make?", f"{told_number} + {number}"),
            (f"Take {number} and multiply it by my {what}.", f"{number} * {told_number}"),
            (f"Put my {what} on top of {number}.", f"{number} + {told_number}"),
            (f"Sum up my {what} and {number}.", f"{told_number} + {number}"),
            (f"Calculate {number} times my {what}.", f"{number} * {told_number}"),
        ))  # fmt: skip
    steps, calls, answer = (
        [("calculator", f"with the {what}")],
        [call("calculator", expression=expression)],
        "$1",
    )
    if rng.random() < 0.3:
        target = target_name(rng)
        text += f" Write the result to {target}."
        steps.append(("files.write", target))
        calls.append(call("files.write", path=target, content="$1"))
    return Task(
        "memory",
        _goal(text),
        [plan(*steps), *calls, finish(answer)],
        memory=_memory(rng, _mixed_in(rng, [fact], 3)),
    )


def writing(rng: random.Random) -> Task:
    """Something told goes into a file."""
    fact, target = facts.fact(rng), target_name(rng)
    asked = rng.choice(fact.questions)
    asked = asked if asked[-1] in ".?" else asked + "?"
    text = asked + rng.choice((
        f" Write it to {target}.",
        f" Write the answer to {target}.",
        f" Save it in {target}.",
        f" Put the answer into {target}.",
    ))  # fmt: skip
    goal = _goal(text, check=[{"file": {"path": target, "equals": fact.value}}])
    calls = [
        plan(("files.write", target)),
        call("files.write", path=target, content=fact.value),
        finish(fact.value),
    ]
    return Task("memory", goal, calls, memory=_memory(rng, _mixed_in(rng, [fact])))


def filtering(rng: random.Random) -> Task:
    """A table is asked about what was told."""
    item = sheet(rng)
    value = rng.choice([row[1] for row in item.table["rows"]])
    number, group = rng.choice(item.numbers), item.group
    fact = Fact(
        f"my {group}",
        rng.choice(
            (f"my {group} is {value}", f"{value} is my {group}", f"the {group} I look after is {value}")
        ),
        (),
        value,
    )
    select, text = rng.choice((
        (f"sum({number})", f"What is the total {number} for my {group}?"),
        (f"max({number})", f"What is the highest {number} in my {group}?"),
        ("count(*)", f"How many rows does my {group} have?"),
        (f"avg({number})", f"What is the average {number} of my {group}?"),
    ))  # fmt: skip
    query: Query = {"select": [select], "where": [[group, "=", value]]}
    goal = _goal(text, files=sheet_files(item), check=[{"answer": {"items": run_query(query, item.table)}}])
    calls = [
        plan(("tables.query", select)),
        call("tables.query", table=simple_name(item.name), **query),
        finish("$2"),
    ]
    return Task("memory", goal, calls, memory=_memory(rng, _mixed_in(rng, [fact], 3)))


def looking_back(rng: random.Random) -> Task:
    """What to recall is known only after a file was read; or the user says to look it up."""
    who = facts.person(rng)
    fact = rng.choice((
        Fact(
            f"birthday of {who}",
            f"{who}'s birthday is {(day := facts.date(rng))}",
            ("birthday of {p}",),
            day,
        ),
        Fact(
            f"phone of {who}",
            f"the phone number of {who} is {(tel := str(rng.randint(10**5, 10**6)))}",
            ("phone number of {p}",),
            tel,
        ),
        Fact(
            f"desk of {who}",
            f"{who} sits at desk {(desk := str(rng.randint(1, 80)))}",
            ("desk of {p}",),
            desk,
        ),
    ))  # fmt: skip
    thing = fact.questions[0]
    name = rng.choice(("who", "guest", "person", "contact", "next", "visitor")) + ".txt"
    text = rng.choice((
        "{f} names a person. What is the {t}?", "Read {f} and tell me the {t}.",
        "What is the {t} named in {f}?", "Who is in {f}? Give me the {t}.",
    )).format(f=name, t=thing.format(p=rng.choice(("that person", "the person"))))  # fmt: skip
    known = rng.random() < 0.75
    answer = fact.value if known else UNKNOWN
    found = _mixed_in(rng, [fact], 2) if known else _noise(rng, 2)
    calls = [
        plan(("files.read", name)),
        call("files.read", path=name),
        call("recall", query=thing.format(p=who)),
        finish(answer),
    ]
    goal = _goal(text, files={name: who + rng.choice(("", "\n"))}, **_says(answer))
    return Task("memory", goal, calls, memory=_memory(rng, _noise(rng, 2), found))


def told_and_asked(rng: random.Random) -> Task:
    """One goal tells something and wants something done."""
    what, _ = rng.choice(_AMOUNTS)
    number, factor = rng.randint(10, 900), rng.choice((2, 3, 5, 10, 12))
    fact = Fact(what, f"my {what} is {number}", (), str(number))
    text = rng.choice((
        "Remember that {s}. What is {k} times that?",
        "{S}, remember it. How much is that times {k}?",
        "Note that {s}, then multiply it by {k}.",
    ))  # fmt: skip
    text = text.format(s=fact.statement, S=fact.sentence[:-1], k=factor)
    goal = _goal(text, check=[{"answer": {"number": number * factor}}])
    calls = [
        call("remember", text=fact.sentence),
        plan(("calculator", f"times {factor}")),
        call("calculator", expression=f"{number} * {factor}"),
        finish("$1"),
    ]
    return Task("memory", goal, calls, memory=_memory(rng, _noise(rng, 2)))


def talking(rng: random.Random) -> Task:
    """A conversation in which things are told, changed and asked for, some of them told long before."""
    known = facts.others(rng, rng.randint(1, 2))
    before = facts.others(rng, 2, *(fact.key for fact in known))
    turns: list[tuple[str, list[ToolCall]]] = []
    shown: list[list[str]] = []

    def say(text: str, calls: list[ToolCall], seen: list[str] | None = None) -> None:
        turns.append((text, calls))
        shown.append(seen or [])

    for fact in known:
        say(
            facts.told(fact, rng),
            [call("remember", text=fact.sentence), finish(NOTED)],
            _noise(rng, 1, *(made.key for made in (*known, *before))),
        )
    if rng.random() < 0.5:
        text, answer = rng.choice((("thanks", "You're welcome!"), ("hello", "Hello! What can I do for you?")))
        say(text, [finish(answer)])
    if rng.random() < 0.4:
        known[0] = facts.updated(known[0], rng)
        say(facts.told(known[0], rng), [call("remember", text=known[0].sentence), finish(NOTED)])
    say(rng.choice(known[0].questions), [finish(known[0].value)])
    say(rng.choice(before[0].questions), [finish(before[0].value)], _mixed_in(rng, [before[0]], 1))
    if rng.random() < 0.5:
        say(rng.choice(before[1].questions), [finish(UNKNOWN)])
    return Task("memory", _goal("session"), turns=turns, memory=_memory(rng, *shown))


def other_work(rng: random.Random, number: int) -> Iterator[Task]:
    """Yield ``number`` tasks of the other families with unrelated entries in sight, or none."""
    sources: list[Iterator[Task]] = [
        tables.templated(rng, number),
        words.templated(rng, number),
        files.chores(rng, number),
        workflows.chores(rng, number),
        mixed.chores(rng, number),
        conversations.sessions(rng, number),
        chat.own(rng, number),
        chat.own(rng, number),
    ]
    for source in itertools.islice(itertools.cycle(sources), number):
        yield beside(next(source), rng)


def beside(task: Task, rng: random.Random) -> Task:
    """Return the task with a memory that recalls nothing, or things that have nothing to do with it."""
    shown = [_noise(rng, 4) if rng.random() < 0.6 else [] for _ in range(max(1, len(task.turns)))]
    return replace(task, memory=_memory(rng, *shown))


MAKERS: tuple[tuple[Callable[[random.Random], Task], int], ...] = (
    (telling, 17),
    (asking, 26),
    (never_told, 13),
    (computing, 8),
    (writing, 5),
    (filtering, 6),
    (looking_back, 7),
    (told_and_asked, 3),
    (talking, 9),
)
"""What makes a task, and how often of a hundred (the rest is other work)."""
OTHER_WORK = 0.25
"""Share of tasks that need no memory."""


def chores(rng: random.Random, number: int) -> Iterator[Task]:
    """Yield ``number`` tasks of all kinds."""
    makers, weights = zip(*MAKERS, strict=True)
    rest = other_work(rng, number)
    for _ in range(number):
        yield next(rest) if rng.random() < OTHER_WORK else rng.choices(makers, weights)[0](rng)
