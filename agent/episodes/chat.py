"""Goals that need no tool: greetings, small talk, plain questions; and questions back to the user.

Short exchanges from the ChatterBot corpus (English) and our own wordings about what the agent is
and can do. The expert finishes at once, so that the model learns when not to call.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from ..goal import Goal
from .data import read_records
from .expert import Task, call, finish

GREETINGS = ("hi", "hello", "hey", "good morning", "good evening", "hi there", "hello there",
             "hey, how are you?",
             "how are you?", "good afternoon", "yo", "greetings")  # fmt: skip
REPLIES = ("Hello! What can I do for you?", "Hi! How can I help?", "Hello! Tell me what you would like done.")
THANKS = ("thanks", "thank you", "thanks a lot", "great, thank you", "perfect", "that was helpful",
          "well done", "ok thanks")
WELCOME = ("You're welcome!", "Glad to help!", "You're welcome. Anything else?")
BYES = ("bye", "goodbye", "see you", "see you later", "good night", "that's all for today")
PARTINGS = ("Goodbye!", "See you!", "Goodbye, until next time!")
WHO = ("who are you?", "what are you?", "what is your name?", "introduce yourself", "are you a human?",
       "are you a robot?")
IDENTITY = ("I am AutoGPT, an agent that works on your machine with its own small model.",
            "I am AutoGPT. I answer questions about your tables and files and do small jobs with them.",
            )  # fmt: skip
WHAT = ("what can you do?", "help", "how can you help me?", "what are you able to do?",
        "what tasks can you handle?", "what is this?")
ABILITIES = ("I can answer questions about tables, calculate, read, search, write and move files, "
             "and use tools you add.",
             "Give me a goal: I can query tables, do exact arithmetic, and work with files.")  # fmt: skip
VAGUE = (
    ("send it to her", "What should I send, and to whom?"),
    ("compare the two", "Which two things should I compare?"),
    ("do the same as yesterday", "What did you do yesterday that I should repeat?"),
    ("fix it", "What should I fix?"),
    ("write it down", "What should I write, and to which file?"),
    ("rename the file", "Which file should I rename, and to what?"),
    ("change the number", "Which number should I change, and to what?"),
    ("open the other one", "Which one do you mean?"),
    ("calculate it", "What should I calculate?"),
    ("convert this", "What should I convert, and to which unit?"),
    ("add them up", "Which numbers should I add up?"),
    ("look it up", "What should I look up?"),
)  # fmt: skip
FACTS = (
    ("what is the capital of {}?", {"Spain": "Madrid", "Italy": "Rome", "Japan": "Tokyo", "Egypt": "Cairo",
     "Canada": "Ottawa", "Kenya": "Nairobi", "Norway": "Oslo", "Poland": "Warsaw", "Greece": "Athens",
     "Portugal": "Lisbon", "Austria": "Vienna", "Peru": "Lima", "Cuba": "Havana", "India": "New Delhi"}),
    ("what language is spoken in {}?", {"Brazil": "Portuguese", "Mexico": "Spanish", "Austria": "German",
                                        "Japan": "Japanese"}),
    ("what is the opposite of {}?", {"hot": "cold", "big": "small", "early": "late", "open": "closed",
                                     "empty": "full",
     "young": "old", "heavy": "light", "fast": "slow"}),
    ("what sound does a {} make?", {"dog": "A dog barks.", "cat": "A cat meows.", "cow": "A cow moos.",
                                    "duck": "A duck quacks."}),
    ("what colour is {}?", {"grass": "Grass is green.", "snow": "Snow is white.", "coal": "Coal is black.",
                            "a lemon": "A lemon is yellow."}),
)  # fmt: skip
_PAIRS = ((GREETINGS, REPLIES), (THANKS, WELCOME), (BYES, PARTINGS), (WHO, IDENTITY), (WHAT, ABILITIES))


def _said(text: str, rng: random.Random) -> str:
    if rng.random() < 0.5:
        text = text[:1].upper() + text[1:]
    return text.rstrip("?.!") + rng.choice(("", "!", ".")) if rng.random() < 0.3 else text


def _task(goal: str, answer: str) -> Task:
    return Task("chat", Goal.model_validate({"goal": goal}), [finish(answer)])


def own(rng: random.Random, count: int) -> Iterator[Task]:
    """Yield ``count`` exchanges of our own: greetings, thanks, who and what, plain facts, vague goals."""
    for _ in range(count):
        draw = rng.random()
        if draw < 0.55:
            asked, replies = rng.choice(_PAIRS)
            yield _task(_said(rng.choice(asked), rng), rng.choice(replies))
        elif draw < 0.85:
            form, facts = rng.choice(FACTS)
            key = rng.choice(tuple(facts))
            yield _task(_said(form.format(key), rng), facts[key])
        else:
            text, question = rng.choice(VAGUE)
            goal = Goal.model_validate({"goal": _said(text, rng)})
            yield Task("ask", goal, [call("ask", question=question)], may_miss=True)


def chatterbot(rng: random.Random, limit: int) -> Iterator[Task]:
    """Yield short English exchanges of the ChatterBot corpus."""
    records = [
        record
        for record in read_records("chatterbot_chat")
        if record["lang"] == "en" and len(record["turns"]) >= 2
    ]
    rng.shuffle(records)
    for record in records[:limit]:
        said, answer = record["turns"][0].strip(), record["turns"][1].strip()
        if 2 < len(said) < 200 and 1 < len(answer) < 200 and not answer.startswith("$"):
            yield _task(said, answer)
