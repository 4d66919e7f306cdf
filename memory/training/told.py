"""Small memories as users have them: facts told in passing, and questions about some of them.

Each memory is a handful of short facts about people, projects and preferences. Questions ask in other
words than the fact was told in, in English and Chinese; half of them about something that was never
told but resembles what was: another person's number, another project's deadline. They calibrate when
"nothing relevant" is the answer.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

PEOPLE = (
    "Anna", "Ben", "Clara", "Dmitri", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Keiko", "Liam",
    "Mona", "Nils", "Olga", "Pavel", "Rosa", "Samir", "Tara", "Umar", "Vera", "Wanda", "Yusuf", "Zoe",
)  # fmt: skip
THINGS = (
    "Atlas", "Birch", "Comet", "Delta", "Ember", "Falcon", "Granite", "Harbor", "Indigo", "Juniper",
    "Kestrel", "Lagoon", "Maple", "Nimbus", "Orchid", "Pioneer", "Quartz", "Raven", "Saffron", "Tundra",
)  # fmt: skip
CHINESE_PEOPLE = (
    "小明", "小红", "张伟", "李娜", "王芳", "刘洋", "陈静", "赵磊", "孙丽", "周杰", "吴敏", "郑强",
)  # fmt: skip
VALUES = (
    "tulip", "4417", "blue", "Tuesday", "9 May", "the third floor", "peanuts", "Lisbon", "Kraków", "Python",
    "17:30", "green tea", "Osaka", "a grey cat", "room 204", "the red folder", "version 3.2", "port 8081",
    "250 euros", "jazz",
)  # fmt: skip
ENGLISH = (
    (
        "{p}'s phone extension is {v}.",
        ("What extension does {p} have?", "How do I reach {p} by phone?"),
        "Put the extension of {p} at the top of calls.txt.",
    ),
    (
        "{p} is allergic to {v}.",
        ("What must {p} not eat?", "Which allergy does {p} have?"),
        "Write a menu for Friday into menu.txt that {p} can eat as well.",
    ),
    (
        "{p} prefers {v}.",
        ("What does {p} like best?", "Which preference did {p} mention?"),
        "Order something for {p} that suits, and note it in order.txt.",
    ),
    (
        "{p} moved to {v} last year.",
        ("Where does {p} live now?", "In which city is {p}?"),
        "Make a label with {p}'s city for the parcel.",
    ),
    (
        "{p} works from {v}.",
        ("Where does {p} work?", "From where is {p} working?"),
        "Book a desk for {p} where {p} works, and confirm it in desk.txt.",
    ),
    (
        "Project {t} is due on {v}.",
        ("When is the deadline of {t}?", "By when must {t} be finished?"),
        "Count the days that are left for project {t}.",
    ),
    (
        "{t} is run by {p}.",
        ("Who leads {t}?", "Who is responsible for project {t}?"),
        "Draft a mail to whoever leads {t}, in mail.txt.",
    ),
    (
        "The password for {t} is in {v}.",
        ("Where do I find the password of {t}?", "Where is the {t} password kept?"),
        "Note for the new colleague where the {t} password is.",
    ),
    (
        "The {t} server listens on {v}.",
        ("Which port does {t} use?", "How do I connect to the {t} server?"),
        "Fill the port of {t} into hosts.csv.",
    ),
    (
        "For {t} we agreed on a budget of {v}.",
        ("How much may {t} cost?", "What is the budget for {t}?"),
        "How much of the budget for {t} is left after spending 40?",
    ),
    (
        "User prefers reports about {t} as {v}.",
        ("In what form do I want reports about {t}?",),
        "Save the summary of {t} in the form that I like.",
    ),
    (
        "Invoices of {t} go to {p}.",
        ("Who gets the invoices of {t}?", "Where do I send an invoice for {t}?"),
        "Address the envelope for the {t} invoice.",
    ),
    (
        "My {r} is {p}.",
        ("Who is my {r}?", "What is the name of my {r}?", "Whom do I see as {r}?"),
        "Write a thank-you note to my {r}.",
    ),
    (
        "{p} is the {r} I go to.",
        ("Who is my {r}?", "Could you say who my {r} is?"),
        "Add my {r} to the list in people.txt.",
    ),
    (
        "The {o} is {l}.",
        ("Where is the {o}?", "Where did I put the {o}?", "Where do we keep the {o}?"),
        "Tell the visitor where the {o} is, in note.txt.",
    ),
    (
        "We keep the {o} {l}.",
        ("Where is the {o}?", "Where can I find the {o}?"),
        "Pack a list for the trip, with the place of the {o}.",
    ),
    (
        "My {n} is {v}.",
        ("What is my {n}?", "Do you remember my {n}?", "Tell me my {n}."),
        "Fill in the form with my {n}.",
    ),
    (
        "Our {n} is {v}.",
        ("What is our {n}?", "Which {n} do we have?"),
        "Put our {n} on the sheet for guests.",
    ),
    (
        "The {e} is on {v}.",
        ("When is the {e}?", "On which day is the {e}?"),
        "Make a reminder for the day of the {e}.",
    ),
    (
        "The {e} was moved to {v}.",
        ("When is the {e}?", "What is the date of the {e}?"),
        "Which rows of calendar.csv fall on the day of the {e}?",
    ),
    (
        "{p} is employed at {t}.",
        ("Where does {p} work?", "What company is {p} with?"),
        "Look up the address of the firm that {p} is with in firms.csv.",
    ),
    (
        "Remember that {p} has a {a} called {v}.",
        ("What is the {a} of {p} called?", "Name {p}'s {a}."),
        "Write a birthday card to the {a} of {p}.",
    ),
    (
        "The host of the {m} is {v}.",
        ("On which host is the {m}?", "What machine runs the {m}?"),
        "Write the host of the {m} into servers.txt.",
    ),
    (
        "Write the {t} report in {v}.",
        ("How do I write the report for {t}?", "In what is {t} reported?"),
        "Start the {t} report in the language that is used for it.",
    ),
)
"""What is told, how it is asked for, and a goal that needs it and names it in passing."""
ROLES = (
    "dentist", "doctor", "landlord", "lawyer", "tutor", "barber", "coach", "neighbour", "plumber", "boss",
)  # fmt: skip
OBJECTS = (
    "spare key", "passport", "tent", "ladder", "drill", "charger", "camera", "umbrella", "toolbox", "map",
)  # fmt: skip
PLACES = (
    "in the cellar", "behind the door", "on the top shelf", "in the garage", "under the bed",
    "at the office",
)  # fmt: skip
NUMBERS = ("shoe size", "locker number", "customer number", "favourite colour", "favourite dish", "bus line",
           "wifi name", "bank", "gym", "seat number")  # fmt: skip
EVENTS = ("team meeting", "book club", "board call", "yoga class", "school play", "tax audit", "boat trip")
PETS = ("dog", "parrot", "hamster", "pony", "rabbit")
MACHINES = ("wiki", "build server", "printer", "backup", "mail server", "dashboard")
CHINESE = (
    ("{p}的分机号是{v}。", ("怎么打电话给{p}？", "{p}的分机是多少？"), "把{p}的分机号写进calls.txt。"),
    ("{p}对{v}过敏。", ("{p}不能吃什么？", "{p}有什么过敏？"), "给{p}准备一份能吃的菜单。"),
    ("{p}住在{v}。", ("{p}家在哪里？", "{p}现在住哪儿？"), "写一个寄给{p}家的地址标签。"),
    ("{p}负责{t}项目。", ("谁负责{t}？", "{t}项目的负责人是谁？"), "起草一封给{t}负责人的邮件。"),
    ("{t}项目的截止日期是{v}。", ("{t}什么时候要完成？", "{t}的期限是哪天？"), "离{t}的截止日期还有几天？"),
    ("{p}喜欢{v}。", ("{p}的爱好是什么？", "{p}最喜欢什么？"), "给{p}选一件合心意的礼物。"),
)


@dataclass(frozen=True)
class Memory:
    """Facts, and questions with the number of the fact that answers them; None: never told."""

    facts: list[str]
    questions: list[tuple[str, int | None]]


def memories(count: int, seed: int, passing: bool = False) -> list[Memory]:
    """Return ``count`` memories of 8 to 80 facts; ``passing``: asked for by goals that only name them."""
    rng = random.Random(seed)
    return [_memory(rng, passing) for _ in range(count)]


def _memory(rng: random.Random, passing: bool) -> Memory:
    facts: list[str] = []
    questions: list[tuple[str, int | None]] = []
    seen: set[str] = set()
    wanted = rng.randrange(8, 80)
    for _ in range(wanted * 3):
        chinese = rng.random() < 0.3
        statement, asked, chore = rng.choice(CHINESE if chinese else ENGLISH)
        who = {
            "p": rng.choice(CHINESE_PEOPLE if chinese else PEOPLE), "t": rng.choice(THINGS),
            "v": rng.choice(VALUES), "r": rng.choice(ROLES), "o": rng.choice(OBJECTS),
            "l": rng.choice(PLACES), "n": rng.choice(NUMBERS), "e": rng.choice(EVENTS),
            "a": rng.choice(PETS), "m": rng.choice(MACHINES),
        }  # fmt: skip
        # What its questions name makes a fact: each is told once, in one wording.
        question = chore.format(**who) if passing else rng.choice(asked).format(**who)
        topic = asked[0].format(**who)
        if topic in seen:
            continue
        seen.add(topic)
        if len(facts) < wanted and rng.random() < 0.7:
            facts.append(statement.format(**who))
            questions.append((question, len(facts) - 1))
        else:
            questions.append((question, None))
    return Memory(facts, rng.sample(questions, min(len(questions), 12)))
