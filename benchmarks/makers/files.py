"""File chores over small generated folders: list, count, look up, search, write, copy, rename.

Every chore is drawn with its own names, contents and wording; distractor files stand beside the
ones that matter. What is asked for can be read or found with the file tools alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from .common import Record, answer, file, goal, says

PEOPLE = (
    "Ingrid Solberg", "Tomasz Wilk", "Farah Haddad", "Kwame Boateng", "Lucia Ferri", "Pavel Novak",
    "Yuki Tanabe", "Beatriz Lopes", "Declan Byrne", "Noor Rahman", "Henrik Dahl", "Chloe Marchand",
)  # fmt: skip
CITIES = ("Tromso", "Gdansk", "Amman", "Kumasi", "Bologna", "Brno", "Nagoya", "Porto", "Cork", "Dhaka")
TOPICS = (
    "boiler", "orchard", "kayak", "telescope", "bakery",
    "printer", "greenhouse", "piano", "ferry", "toaster",
)  # fmt: skip
SENTENCES = (
    "The {0} needs a new part before winter.",
    "We agreed to look at the {0} again on Friday.",
    "Nobody has used the {0} since the holidays.",
    "The quote for the {0} came in lower than expected.",
    "Please ask the neighbours about the {0}.",
    "A short report on the {0} is still missing.",
)
FILLERS = (
    "Lunch is at half past twelve.",
    "The meeting room is booked until four.",
    "Remember to water the plants.",
    "Invoices go out at the end of the month.",
    "The keys hang next to the back door.",
    "Parking is free on Sundays.",
)
STEMS = ("minutes", "ideas", "journal", "errands", "report", "summary", "letter", "agenda", "memo", "recap")
MESSAGES = (
    "The delivery arrives on Tuesday at 9.",
    "Call the dentist before noon.",
    "Budget approved, start next week.",
    "Bring two chairs and the blue folder.",
    "Password reset is done.",
    "Train leaves from platform 7.",
    "Thank you all for a great season!",
    "Out of office until 14 May.",
)

Folder = dict[str, str]
Chore = tuple[str, Folder, list[Record]]
"""Goal text, the files to start with, and the checks."""


def pages(rng: random.Random, count: int, suffix: str = ".txt") -> tuple[list[str], Folder]:
    """Return ``count`` different topics and a folder with a page about each."""
    topics = rng.sample(TOPICS, count)
    names = [f"{stem}{suffix}" for stem in rng.sample(STEMS, count)]
    folder = {}
    for name, topic in zip(names, topics, strict=True):
        lines = [rng.choice(SENTENCES).format(topic), *rng.sample(FILLERS, rng.randint(1, 3))]
        rng.shuffle(lines)
        folder[name] = "\n".join(lines) + "\n"
    return topics, folder


def _beside(rng: random.Random, folder: Folder, most: int = 2) -> Folder:
    """Add up to ``most`` distractor files."""
    extra = pages(rng, rng.randint(0, most))[1]
    return {**extra, **folder}


def phone_number(rng: random.Random) -> str:
    return f"+{rng.randint(30, 99)} {rng.randint(20, 99)} {rng.randint(200, 999)} {rng.randint(1000, 9999)}"


def _contacts(rng: random.Random) -> tuple[str, str, str, Folder]:
    """Return a file name, a person in it, their number, and the folder."""
    people = rng.sample(PEOPLE, rng.randint(3, 6))
    numbers = [phone_number(rng) for _ in people]
    form = rng.choice(("{0}: {1}", "{0} - {1}", "{0}, {1}"))
    name = rng.choice(("phones.txt", "people.txt", "addressbook.txt", "numbers.txt"))
    text = "\n".join(form.format(*pair) for pair in zip(people, numbers, strict=True)) + "\n"
    chosen = rng.randrange(len(people))
    return name, people[chosen], numbers[chosen], _beside(rng, {name: text})


def list_files(rng: random.Random) -> Chore:
    """Name every file."""
    _, folder = pages(rng, rng.randint(2, 5), rng.choice((".txt", ".md")))
    text = rng.choice(
        (
            "Which files are here?",
            "List all files in this folder.",
            "What files do I have?",
            "Show me the names of the files in the workspace.",
            "Give me a list of my files.",
        )
    )
    return text, folder, [answer(items=list(folder))]


def count_files(rng: random.Random) -> Chore:
    """Count files, all or of one kind."""
    _, notes = pages(rng, rng.randint(2, 5), ".txt")
    other = {f"{stem}.md": "# Draft\n" for stem in rng.sample(STEMS, rng.randint(1, 3))}
    if rng.random() < 0.5:
        text = rng.choice(
            ("How many files are in this folder?", "Count the files here.", "How many files do I have?")
        )
        return text, {**notes, **other}, [answer(number=len(notes) + len(other))]
    text = rng.choice(
        ("How many .txt files are there?", "Count the .txt files.", "How many files end in .txt?")
    )
    return text, {**notes, **other}, [answer(number=len(notes))]


def look_up(rng: random.Random) -> Chore:
    """Read one value from a file of lines."""
    name, person, number, folder = _contacts(rng)
    text = rng.choice(
        (
            f"What is {person}'s phone number? It is in {name}.",
            f"Look in {name}: what number does {person} have?",
            f"Find the phone number of {person} in {name}.",
            f"I need {person}'s number from {name}.",
        )
    )
    return text, folder, [says(number)]


def settings_value(rng: random.Random) -> Chore:
    """Read one setting."""
    values = {
        "port": str(rng.randint(3000, 9000)),
        "owner": rng.choice(PEOPLE).split()[0].lower(),
        "city": rng.choice(CITIES),
        "timeout": str(rng.randint(5, 90)),
        "retries": str(rng.randint(2, 9)),
    }
    name = rng.choice(("app.ini", "server.conf", "settings.txt", "service.cfg"))
    mark = rng.choice((" = ", "=", ": "))
    keys = rng.sample(list(values), 4)
    wanted = rng.choice(keys)
    folder = _beside(rng, {name: "".join(f"{key}{mark}{values[key]}\n" for key in keys)})
    text = rng.choice(
        (
            f"What is the {wanted} in {name}?",
            f"Which {wanted} is set in {name}?",
            f"Open {name} and tell me the value of {wanted}.",
        )
    )
    return text, folder, [says(values[wanted])]


def which_file(rng: random.Random) -> Chore:
    """Say which file mentions a word."""
    topics, folder = pages(rng, rng.randint(3, 5), rng.choice((".txt", ".md")))
    index = rng.randrange(len(topics))
    topic, name = topics[index], list(folder)[index]
    text = rng.choice(
        (
            f"Which file mentions the {topic}?",
            f"In which file is the {topic} mentioned?",
            f'Find the file that contains the word "{topic}".',
            f"Where do I write about the {topic}? Give the file name.",
        )
    )
    return text, folder, [says(name)]


def count_lines(rng: random.Random) -> Chore:
    """Count the lines of a log that hold a word."""
    name = rng.choice(("app.log", "server.log", "backup.log", "gate.log"))
    words = ("ERROR", "WARNING", "INFO", "DEBUG")
    lines = [
        f"{8 + i // 6:02d}:{i * 7 % 60:02d} {rng.choice(words)} task {rng.randint(1, 40)}" for i in range(12)
    ]
    word = rng.choice([word for word in words if any(word in line for line in lines)])
    count = sum(word in line for line in lines)
    text = rng.choice(
        (
            f"How many lines in {name} contain {word}?",
            f"Count the {word} lines in {name}.",
            f"How often does {word} appear in {name}?",
        )
    )
    return text, _beside(rng, {name: "\n".join(lines) + "\n"}, 1), [answer(number=count)]


def write_text(rng: random.Random) -> Chore:
    """Write a given text."""
    message = rng.choice(MESSAGES)
    name = rng.choice(("reminder.txt", "todo.md", "sign.txt", "message.txt", "out.txt"))
    text = rng.choice(
        (
            f'Write "{message}" to {name}.',
            f"Create a file {name} with this text: {message}",
            f'Please save the sentence "{message}" in {name}.',
            f"Make {name}. It should say: {message}",
        )
    )
    return text, _beside(rng, {}), [file(name, equals=message)]


def copy_file(rng: random.Random) -> Chore:
    """Copy a file; the original stays."""
    _, folder = pages(rng, rng.randint(1, 3))
    source = rng.choice(list(folder))
    target = rng.choice(("copy.txt", "spare.txt", "archive.txt", "duplicate.txt"))
    text = rng.choice(
        (
            f"Copy {source} to {target}.",
            f"Make a copy of {source} called {target}.",
            f"Put the content of {source} into a new file {target}.",
            f"Duplicate {source} as {target}.",
        )
    )
    return text, folder, [file(target, equals=folder[source]), file(source, equals=folder[source])]


def rename_file(rng: random.Random) -> Chore:
    """Rename a file, or move it into a folder."""
    _, folder = pages(rng, rng.randint(1, 4))
    source = rng.choice(list(folder))
    if rng.random() < 0.4:
        where = rng.choice(("old", "done", "papers", "2023"))
        target = f"{where}/{source}"
        text = rng.choice((f"Move {source} into the folder {where}.", f"Put {source} in {where}/."))
    else:
        target = rng.choice(("final.txt", "version2.txt", "signed.txt", "public.txt"))
        text = rng.choice(
            (
                f"Rename {source} to {target}.",
                f"Change the name of {source} to {target}.",
                f"{source} should be called {target} from now on.",
            )
        )
    return text, folder, [file(target, equals=folder[source]), file(source, exists=False)]


def search_and_write(rng: random.Random) -> Chore:
    """Write down which file mentions a word."""
    topics, folder = pages(rng, rng.randint(3, 5))
    index = rng.randrange(len(topics))
    topic, name = topics[index], list(folder)[index]
    target = rng.choice(("found.txt", "result.txt", "hit.txt"))
    text = rng.choice(
        (
            f"Find out which file mentions the {topic} and write its name to {target}.",
            f"Search for {topic} and save the name of the file in {target}.",
            f"Write the name of the file about the {topic} to {target}.",
        )
    )
    return text, folder, [file(target, matches=rf"^\W{{0,3}}{re.escape(name)}\W{{0,3}}$")]


def value_to_file(rng: random.Random) -> Chore:
    """Write a looked-up value to a new file."""
    name, person, number, folder = _contacts(rng)
    target = rng.choice(("call.txt", "number.txt", "dial.txt"))
    text = rng.choice(
        (
            f"Look up {person} in {name} and write the phone number to {target}.",
            f"Save the number of {person} (see {name}) in {target}.",
            f"Write {person}'s phone number from {name} into {target}.",
        )
    )
    return text, folder, [file(target, matches=rf"^[^\n]{{0,40}}{re.escape(number)}\s*$")]


def join_files(rng: random.Random) -> Chore:
    """Put two files into one, in order."""
    _, folder = pages(rng, 2)
    one, two = rng.sample(list(folder), 2)
    target = rng.choice(("all.txt", "both.txt", "together.txt"))
    text = rng.choice(
        (
            f"Join {one} and {two} into {target}, in this order.",
            f"Write {one} followed by {two} to {target}.",
            f"Combine {one} and {two} in a new file {target}.",
        )
    )
    parts = [re.escape(folder[name].strip()) for name in (one, two)]
    return text, folder, [file(target, matches=rf"^\s*{parts[0]}\s*{parts[1]}\s*$")]


CHORES: tuple[Callable[[random.Random], Chore], ...] = (
    list_files, count_files, look_up, settings_value, which_file, count_lines,
    write_text, copy_file, rename_file, search_and_write, value_to_file, join_files,
)  # fmt: skip


def chores(count: int = 150, seed: int = 14) -> list[Record]:
    """Make ``count`` file chores, the kinds in turn, no two with the same text and files."""
    rng = random.Random(seed)
    records: list[Record] = []
    seen: set[str] = set()
    while len(records) < count:
        make = CHORES[len(records) % len(CHORES)]
        text, folder, checks = make(rng)
        if (key := text + repr(folder)) not in seen:
            seen.add(key)
            records.append(goal("files", len(records) + 1, make.__name__, text, folder, *checks))
    return records
