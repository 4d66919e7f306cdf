"""File chores over made-up workspaces, in many wordings.

Each maker returns a goal with inline files, the expert's calls and a check of the outcome: list and
count, read a value, search, write, copy, append, move. In the exact ones not one character may be wrong: a
long number is copied from what a file or a search shows, the number of matching lines is the one that
``files.search`` states, and files are joined by their handles, so that their text is not copied at all. The
benchmark's file chores are made elsewhere with other names, contents and wordings.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from ..goals.load import Goal
from .expert import Task, call, finish, handles_before, plan

PEOPLE = ("Ada Brooks", "Ben Castillo", "Chloe Diaz", "David Egan", "Elif Faruk", "Finn Gallo", "Grace Hill",
          "Hassan Idris", "Isla Jung", "Jakub Kral", "Kira Lopez", "Liam Moore", "Mona Novak", "Noah Ortiz",
          "Olga Petrov", "Pia Quist", "Rosa Silva", "Sami Toure", "Tara Usman", "Uwe Vogel")  # fmt: skip
WORDS = ("garden", "rocket", "winter", "coffee", "bridge", "planet", "silver", "market", "forest", "engine",
         "window", "castle", "dragon", "pepper", "violin", "harbor", "copper", "meadow", "puzzle", "lantern",
         "budget", "meeting", "invoice", "ticket", "server", "password reset", "delivery", "refund",
         )  # fmt: skip
STEMS = ("notes", "todo", "report", "draft", "minutes", "letter", "plan", "ideas", "log", "summary", "memo",
         "list", "journal", "recipe", "readme", "contacts", "agenda", "old", "final", "january", "q3",
         "backup")  # fmt: skip
FOLDERS = ("", "", "", "docs/", "work/", "archive/", "texts/")
ENDINGS = (".txt", ".txt", ".txt", ".md", ".log", ".cfg")
LINES = ("The {a} is near the {b}.", "Remember to check the {a}.", "Call about the {a} on Monday.",
         "No news on the {a}.",
         "The {a} and the {b} were moved.", "Status of {a}: done.", "Buy a new {a}.", "The {b} needs a {a}.",
         "{a}: see page {n}", "Total for {a}: {n}", "We talked about the {b}.", "Item {n}: {a}")  # fmt: skip


def _line(rng: random.Random) -> str:
    a, b = rng.sample(WORDS, 2)
    return rng.choice(LINES).format(a=a, b=b, n=rng.randint(2, 900))


def _text(rng: random.Random, low: int = 1, high: int = 7) -> str:
    lines = [_line(rng) for _ in range(rng.randint(low, high))]
    return "\n".join(lines) + rng.choice(("\n", ""))


def _name(rng: random.Random, ending: str | None = None) -> str:
    stem = rng.choice(STEMS) + rng.choice(("", "", "_2", "-new", "1"))
    return rng.choice(FOLDERS) + stem + (ending or rng.choice(ENDINGS))


def workspace(rng: random.Random, low: int = 1, high: int = 5) -> dict[str, str]:
    """Return a few files with short texts."""
    files: dict[str, str] = {}
    for _ in range(rng.randint(low, high)):
        files.setdefault(_name(rng), _text(rng))
    return files


def _new_name(rng: random.Random, files: dict[str, str]) -> str:
    while True:
        folder = rng.choice(("", "", "", "out/", "results/"))
        stem = rng.choice(("copy", "result", "answer", "out", "new", "saved", "greeting", "message",
                           "extract", "found", "info"))  # fmt: skip
        name = folder + stem + rng.choice((".txt", ".txt", ".md"))
        if name not in files:
            return name


def _task(
    goal: str, files: dict[str, str], check: list[dict[str, Any]], steps: Callable[[int], list[Any]]
) -> Task:
    made = Goal.model_validate({"goal": goal, "files": files, "check": check})
    return Task("files", made, steps(handles_before(made)))


def count(rng: random.Random) -> Task:
    """How many files, all or of one kind."""
    files = workspace(rng, 2, 6)
    if rng.random() < 0.4:
        text = rng.choice(("How many files are there?", "Count the files.", "How many files do I have here?",
                           "Tell me the number of files.", "how many files are in the folder?"))  # fmt: skip
        number, pattern = len(files), None
    else:
        ending = rng.choice(list(files)).rsplit(".", 1)[1]
        text = rng.choice(("How many .{e} files are there?", "Count the {e} files.",
                           "How many files end with .{e}?",
                           "number of {e} files?")).format(e=ending)  # fmt: skip
        number, pattern = sum(name.endswith("." + ending) for name in files), f"*.{ending}"
    listing = call("files.list", **({"pattern": pattern} if pattern else {}))
    return _task(text, files, [{"answer": {"number": number}}],
                 lambda base: [plan(("files.list", "count")), listing, finish(str(number))])  # fmt: skip


def listing(rng: random.Random) -> Task:
    """Which files there are, all or of one kind."""
    files = workspace(rng, 2, 6)
    if rng.random() < 0.5:
        text = rng.choice((
            "Which files are there?", "List all files.", "Show me the files.", "Name every file.",
            "what is in the folder?", "Give me a list of my files.",
        ))  # fmt: skip
        pattern, found = None, list(files)
    else:
        ending = rng.choice(list(files)).rsplit(".", 1)[1]
        text = rng.choice((
            "List the .{e} files.", "Which files end in .{e}?", "Show all {e} files.",
            "Name the .{e} files.",
        )).format(e=ending)  # fmt: skip
        pattern, found = f"*.{ending}", [name for name in files if name.endswith("." + ending)]
    look = call("files.list", **({"pattern": pattern} if pattern else {}))
    return _task(text, files, [{"answer": {"items": found}}],
                 lambda base: [plan(("files.list", "list")), look, finish(f"${base + 1}")])  # fmt: skip


_CITIES = ("Oslo", "Lyon", "Quito", "Porto", "Kyoto", "Bergen", "Malmo", "Turin", "Graz")
_FIELDS: dict[str, Callable[[random.Random], str]] = {
    "phone number": lambda rng: f"555-{rng.randint(1000, 9999)}",
    "email": lambda rng: f"{rng.choice(WORDS).replace(' ', '')}{rng.randint(1, 99)}@example.org",
    "city": lambda rng: rng.choice(_CITIES),
    "birthday": lambda rng: f"{rng.randint(1, 28)} {rng.choice(('March', 'June', 'August', 'November'))}",
    "age": lambda rng: str(rng.randint(18, 80)),
    "room": lambda rng: f"{rng.choice('ABCD')}{rng.randint(100, 499)}",
    "salary": lambda rng: str(rng.randint(20, 90) * 100),
}


def _directory(rng: random.Random) -> tuple[str, str, str, str, str]:
    """Return (file text, field, person, value, line) of a small directory of people."""
    field = rng.choice(tuple(_FIELDS))
    form = rng.choice(("{p}: {v}", "{p} - {v}", "{p}, {v}", "{p} = {v}", "{p} | {v}"))
    people = rng.sample(PEOPLE, rng.randint(3, 7))
    rows = [(person, _FIELDS[field](rng)) for person in people]
    person, value = rng.choice(rows)
    text = "\n".join(form.format(p=p, v=v) for p, v in rows) + "\n"
    return text, field, person, value, form.format(p=person, v=value)


def lookup(rng: random.Random) -> Task:
    """Read one value from a file, or find it by searching; sometimes write it down."""
    text, field, person, value, _ = _directory(rng)
    files = workspace(rng, 0, 3)
    source = rng.choice(
        ("people", "contacts", "staff", "members", "team", "address book", field.replace(" ", "_") + "s")
    )
    name = source.replace(" ", "_") + rng.choice((".txt", ".md"))
    files[name] = text
    by_search = rng.random() < 0.5
    short = person.split()[0] if rng.random() < 0.4 else person
    if by_search:
        goal = rng.choice(
            ("What is {p}'s {f}?", "Find the {f} of {p}.", "Look up the {f} for {p}.", "{p}'s {f}?")
        )
        look = call("files.search", text=short)
        step = ("files.search", f"{field} of {short}"[:60])
    else:
        goal = rng.choice(("What is {p}'s {f} in {s}?", "In {s}, what is the {f} of {p}?",
                           "Read {s} and tell me the {f} of {p}.",
                           "What {f} does {s} give for {p}?"))  # fmt: skip
        look = call("files.read", path=name)
        step = ("files.read", f"{field} of {short}"[:60])
    question = goal.format(p=short, f=field, s=name)
    if rng.random() < 0.35:
        target = _new_name(rng, files)
        question = rng.choice((
            "Find the {f} of {p} in {s} and write it to {t}.", "Write the {f} of {p} (see {s}) to {t}.",
            "Save {p}'s {f} from {s} in {t}.", "Look up {p}'s {f} in {s}, then put it into {t}.",
        )).format(p=short, f=field, s=name, t=target)  # fmt: skip
        return _task(question, files, [{"file": {"path": target, "equals": value}}], lambda base: [
            plan(step, ("files.write", target)), look, call("files.write", path=target, content=value),
            finish(f"Wrote {value} to {target}."),
        ])  # fmt: skip
    return _task(
        question, files, [{"answer": {"equals": value}}], lambda base: [plan(step), look, finish(value)]
    )


def which_file(rng: random.Random) -> Task:
    """Which file mentions a word; how many lines do."""
    files = workspace(rng, 2, 5)
    word = rng.choice(WORDS)
    files = {name: text.replace(word, "thing") for name, text in files.items()}
    target = rng.choice(list(files))
    hits = rng.randint(1, 3)
    extra = [rng.choice(LINES[:6]).format(a=word, b="chair") for _ in range(hits)]
    extra = [line if word in line else f"The {word} is here." for line in extra]
    lines = files[target].splitlines() + extra
    rng.shuffle(lines)
    files[target] = "\n".join(lines) + "\n"
    draw = rng.random()
    if draw < 0.5:
        goal = rng.choice(("Which file mentions {w}?", "Which file contains the word {w}?",
                           "Find the file that talks about {w}.",
                           "In which file is {w} mentioned?", "where is '{w}' written?",
                           "Which of the files has {w} in it?"))  # fmt: skip
        return _task(goal.format(w=word), files, [{"answer": {"equals": target}}], lambda base: [
            plan(("files.search", word)), call("files.search", text=word), finish(target)])  # fmt: skip
    if draw < 0.8:
        goal = rng.choice(("How many lines mention {w}?", "How many lines contain {w}?",
                           "Count the lines with {w}.",
                           "How often does {w} appear, counted in lines?"))  # fmt: skip
        return _task(goal.format(w=word), files, [{"answer": {"number": hits}}], lambda base: [
            plan(("files.search", f"count {word}")), call("files.search", text=word),
            finish(str(hits))])  # fmt: skip
    out = _new_name(rng, files)
    goal = rng.choice(("Which file mentions {w}? Write its name to {t}.",
                       "Find the file about {w} and save its name in {t}.",
                       "Write the name of the file that contains {w} into {t}."))  # fmt: skip
    return _task(goal.format(w=word, t=out), files, [{"file": {"path": out, "equals": target}}],
                 lambda base: [
        plan(("files.search", word), ("files.write", out)), call("files.search", text=word),
        call("files.write", path=out, content=target), finish(f"Wrote {target} to {out}.")])  # fmt: skip


def lines(rng: random.Random) -> Task:
    """How many lines a file has; what its first line is."""
    files = workspace(rng, 1, 4)
    name = rng.choice(list(files))
    body = files[name].splitlines()
    if rng.random() < 0.6:
        goal = rng.choice(("How many lines does {s} have?", "Count the lines of {s}.",
                           "Number of lines in {s}?",
                           "how long is {s} in lines?"))  # fmt: skip
        check: dict[str, Any] = {"answer": {"number": len(body)}}
        answer = str(len(body))
    else:
        goal = rng.choice((
            "What is the first line of {s}?",
            "Read me the first line of {s}.",
            "How does {s} begin? Give the first line.",
        ))  # fmt: skip
        check, answer = {"answer": {"equals": body[0]}}, body[0]
    return _task(goal.format(s=name), files, [check], lambda base: [
        plan(("files.read", name)), call("files.read", path=name), finish(answer)])  # fmt: skip


def write(rng: random.Random) -> Task:
    """Write a given text to a file."""
    files = workspace(rng, 0, 2) if rng.random() < 0.5 else {}
    target = _new_name(rng, files)
    text = rng.choice((lambda: " ".join(rng.sample(WORDS, rng.randint(1, 4))), lambda: _line(rng),
                       lambda: f"Hello {rng.choice(PEOPLE)}!",
                       lambda: str(rng.randint(1, 99999))))()  # fmt: skip
    goal = rng.choice((
        'Write "{x}" to {t}.', "Create a file {t} with the text: {x}",
        "Make a file called {t} containing '{x}'.",
        "Save the text '{x}' in {t}.", "Put \"{x}\" into {t}", "Please write {x} into the file {t}",
        "new file {t}: {x}",
        "Store '{x}' as {t}.",
    )).format(x=text, t=target)  # fmt: skip
    return _task(goal, files, [{"file": {"path": target, "equals": text}}], lambda base: [
        plan(("files.write", target)), call("files.write", path=target, content=text),
        finish(f"Wrote {target}.")])  # fmt: skip


def copy(rng: random.Random) -> Task:
    """Copy a file's text, or copy it with a line added."""
    files = workspace(rng, 1, 4)
    source, target = rng.choice(list(files)), _new_name(rng, files)
    if rng.random() < 0.65:
        goal = rng.choice(("Copy {s} to {t}.", "Make a copy of {s} called {t}.",
                           "Copy the content of {s} into {t}.",
                           "Duplicate {s} as {t}.", "Save what is in {s} also as {t}."))  # fmt: skip
        return _task(goal.format(s=source, t=target), files,
                     [{"file": {"path": target, "equals": files[source]}}], lambda base: [
            plan(("files.read", source), ("files.write", target)), call("files.read", path=source),
            call("files.write", path=target, content=f"${base + 1}"),
            finish(f"Copied {source} to {target}.")])  # fmt: skip
    extra = _line(rng)
    goal = rng.choice(
        ("Add the line '{x}' to the end of {s}.", 'Append "{x}" to {s}.', "Add '{x}' at the end of {s}.")
    )
    return _task(goal.format(s=source, x=extra), files, [{"file": {"path": source, "contains": extra}},
                 {"file": {"path": source, "contains": files[source].splitlines()[0]}}], lambda base: [
        plan(("files.read", source), ("files.write", source)), call("files.read", path=source),
        call("files.write", path=source, content=f"{{${base + 1}}}\n{extra}"),
        finish(f"Added the line to {source}.")])  # fmt: skip


def move(rng: random.Random) -> Task:
    """Rename a file or move it to a folder."""
    files = workspace(rng, 1, 4)
    source = rng.choice(list(files))
    if rng.random() < 0.5:
        target = _new_name(rng, files)
        goal = rng.choice((
            "Rename {s} to {t}.", "Change the name of {s} to {t}.", "{s} should be called {t}.",
            "Give {s} the new name {t}.",
        ))  # fmt: skip
    else:
        folder = rng.choice(("done", "sorted", "storage", "2024", "keep", "old_files"))
        target = f"{folder}/{source.rsplit('/', 1)[-1]}"
        goal = rng.choice(("Move {s} to {t}.", "Move {s} into the folder {f}.", "Put {s} into {f}."))
        goal = goal.replace("{f}", folder)
    if target in files:
        return move(rng)
    check = [{"file": {"path": target, "exists": True}}, {"file": {"path": source, "exists": False}}]
    return _task(goal.format(s=source, t=target), files, check, lambda base: [
        plan(("files.move", target)), call("files.move", source=source, target=target),
        finish(f"Moved {source} to {target}.")])  # fmt: skip


MAKERS = (count, listing, lookup, lookup, lookup, which_file, which_file, lines, write, write, copy, move)


def chores(rng: random.Random, number: int) -> Iterator[Task]:
    """Yield ``number`` chores of all kinds."""
    for _ in range(number):
        yield rng.choice(MAKERS)(rng)


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


_NUMBERS: dict[str, Callable[[random.Random], str]] = {
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
    field = rng.choice(tuple(_NUMBERS))
    people = rng.sample(PEOPLE, rng.randint(2, 7))
    values = [_NUMBERS[field](rng) for _ in people]
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
    text = rng.choice(_NUMBER_ASKED[named, target is not None]).format(p=short, f=field, s=source, t=target)
    if target:
        goal, _ = _made("file", text, files, {"path": target, "equals": value})
        calls = [plan(step, ("files.write", target)), look, call("files.write", path=target, content=value)]
        return Task("files", goal, [*calls, finish(f"Wrote {value} to {target}.")])
    goal, _ = _made("answer", text, files, {"equals": value})
    return Task("files", goal, [plan(step), look, finish(value)])


_NUMBER_ASKED: dict[tuple[bool, bool], tuple[str, ...]] = {
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
    "{d} {h} {s} job {n}", "[{h}] {s}: {w}", "{n};{w};{s}", "{h} {w} {s}", "{s} - {w} ({n})",
    "{d}: {w} was {s}",
)  # fmt: skip


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


EXACT_MAKERS = (long_value, long_value, long_value, count_matches, count_matches, join, join)


def exact_chores(rng: random.Random, number: int) -> Iterator[Task]:
    """Yield ``number`` chores in which not one character may be wrong."""
    for _ in range(number):
        yield rng.choice(EXACT_MAKERS)(rng)
