"""Goals that need no tool: greetings, small talk, plain questions; and questions back to the user.

Short exchanges from the ChatterBot corpus (English), requests of CLINC150 that are small talk, and our
own wordings about what the agent is and can do, and about the user's day. The expert finishes at once,
so that the model learns when not to call.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from ..goals.load import Goal
from .data import read_records
from .expert import Task, call, finish

GREETINGS = ("hi", "hello", "hey", "good morning", "good evening", "hi there", "hello there",
             "hey, how are you?",
             "how are you?", "good afternoon", "yo", "greetings")  # fmt: skip
REPLIES = ("Hello! What can I do for you?", "Hi! How can I help?", "Hello! Tell me what you would like done.")
THANKS = (
    "thanks", "thank you", "thanks a lot", "great, thank you", "perfect", "that was helpful", "well done",
    "ok thanks",
)  # fmt: skip
WELCOME = ("You're welcome!", "Glad to help!", "You're welcome. Anything else?")
BYES = ("bye", "goodbye", "see you", "see you later", "good night", "that's all for today")
PARTINGS = ("Goodbye!", "See you!", "Goodbye, until next time!")
WHO = (
    "who are you?", "what are you?", "what is your name?", "introduce yourself", "are you a human?",
    "are you a robot?",
)  # fmt: skip
IDENTITY = ("I am AutoGPT, an agent that works on your machine with its own small model.",
            "I am AutoGPT. I answer questions about your tables and files and do small jobs with them.",
            )  # fmt: skip
WHAT = (
    "what can you do?", "help", "how can you help me?", "what are you able to do?",
    "what tasks can you handle?", "what is this?",
)  # fmt: skip
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
    ("what is the capital of {}?", {"Spain": "Madrid", "Hungary": "Budapest", "Sweden": "Stockholm",
     "Egypt": "Cairo",
     "Canada": "Ottawa", "Kenya": "Nairobi", "Norway": "Oslo", "Poland": "Warsaw", "Greece": "Athens",
     "Portugal": "Lisbon", "Austria": "Vienna", "Peru": "Lima", "Cuba": "Havana", "India": "New Delhi"}),
    ("what language is spoken in {}?", {"Angola": "Portuguese", "Mexico": "Spanish", "Austria": "German",
                                        "Japan": "Japanese"}),
    ("on which continent is {}?", {"Peru": "South America", "China": "Asia", "Spain": "Europe",
                                   "Kenya": "Africa", "Canada": "North America"}),
    ("in which country is {}?", {"Berlin": "Germany", "the Taj Mahal": "India", "Lisbon": "Portugal",
                                 "the Colosseum": "Italy", "Sydney": "Australia",
                                 "Chicago": "The United States"}),
    ("which money do people use in {}?", {"Japan": "The yen", "the United Kingdom": "The pound",
                                     "India": "The rupee",
                                     "Germany": "The euro", "Mexico": "The peso"}),
    ("how many {}?", {"hours are in a day": "24", "minutes are in an hour": "60",
                      "seconds are in a minute": "60",
                      "days does April have": "30", "sides does a triangle have": "3",
                      "wheels does a bicycle have": "2", "legs does an ant have": "6",
                      "legs does a dog have": "4", "letters are in the English alphabet": "26",
                      "strings does a violin have": "4", "years are in a century": "100"}),
    ("what do you call a baby {}?", {"dog": "A puppy", "cow": "A calf", "sheep": "A lamb", "horse": "A foal",
                                     "goose": "A gosling", "bear": "A cub"}),
    ("which symbol stands for {} in chemistry?", {"gold": "Au", "iron": "Fe", "oxygen": "O", "salt": "NaCl"}),
    ("which {}?", {"day comes after Monday": "Tuesday", "month comes after June": "July",
                   "season comes after summer": "Autumn", "planet is closest to the sun": "Mercury",
                   "planet is called the red planet": "Mars", "animal gives us wool": "The sheep",
                   "bird cannot fly and lives in Antarctica": "The penguin",
                   "is the longest river in Africa": "The Nile",
                   "is the highest mountain on Earth": "Mount Everest",
                   "is the smallest ocean": "The Arctic Ocean", "gas do we breathe to live": "Oxygen"}),
    ("who {}?", {"painted the Mona Lisa": "Leonardo da Vinci", "wrote Hamlet": "William Shakespeare",
                 "wrote Oliver Twist": "Charles Dickens", "invented the telephone": "Alexander Graham Bell",
                 "was the first person on the moon": "Neil Armstrong",
                 "wrote The Odyssey": "Homer"}),
    ("what do {}?", {"cows give us to drink": "Milk", "hens lay": "Eggs", "silkworms make": "Silk",
                     "lemons taste like": "Sour", "fish breathe with": "Gills"}),
    ("what is the opposite of {}?", {"wet": "dry", "big": "small", "early": "late", "open": "closed",
                                     "empty": "full",
     "young": "old", "heavy": "light", "fast": "slow"}),
    ("what sound does a {} make?", {"dog": "A dog barks.", "cat": "A cat meows.", "cow": "A cow moos.",
                                    "duck": "A duck quacks."}),
    ("what colour is {}?", {"grass": "Grass is green.", "snow": "Snow is white.", "coal": "Coal is black.",
                            "a lemon": "A lemon is yellow."}),
)  # fmt: skip
STATEMENTS = (
    (("i slept badly", "my head hurts", "i am exhausted", "work was stressful", "i missed my bus",
      "i am in a bad mood", "my team lost", "i broke my favourite cup", "it has been a hard week",
      "i burnt my dinner", "i caught a cold", "the meeting went on forever"),
     ("I'm sorry to hear that. I hope it gets better soon.", "That sounds hard. Take it easy.",
      "Oh no. Tell me if I can help with something.")),
    (("i passed my driving test", "it is my birthday", "we won the match", "i am going on holiday",
      "my sister had a baby", "i found a new job", "i baked a cake", "the sun is out again",
      "i finished my book", "we adopted a kitten", "i had a great weekend", "i am happy"),
     ("That's wonderful, congratulations!", "How nice! I'm glad to hear it.", "Great news!")),
    (("it is so cold outside", "the wind is strong", "it snowed all night", "what a hot summer",
      "it is foggy this morning", "the leaves are falling"),
     ("I hope you can stay inside and be comfortable.", "Dress for it, then!",
      "Enjoy the day all the same.")),
    (("what do you think about football?", "do you like coffee?", "which colour do you like best?",
      "is winter better than summer?", "do you enjoy films?", "do you prefer cats or dogs?",
      "what is your favourite food?", "do you ever sleep?", "are you happy?", "do you like poems?"),
     ("I have no taste of my own, but I like to hear what you think.",
      "I am a program, so I can't really say. And you?")),
    (("keep your fingers crossed for me", "i have a job interview tomorrow", "i am nervous about my test",
      "tomorrow is my first day at work"),
     ("Good luck! You will do well.", "I wish you all the best!")),
    (("cheer me up", "make me smile", "tell me something nice to start the day", "give me a compliment"),
     ("You are doing better than you think.", "It's good to work with you.")),
)  # fmt: skip
"""What people say about themselves and ask about taste, and fitting replies."""
JOKES = ("Why did the table break up with the query? It was asked too many questions.",
         "I told a joke about files once. It was moved.",
         "Why do clocks never get lost? They always find the time.")  # fmt: skip
TALK = {
    "greeting": ("Hello! I'm well, thank you. What can I do for you?", *REPLIES),
    "goodbye": PARTINGS,
    "thank you": WELCOME,
    "are you a bot": ("I am a program, not a person.", *IDENTITY),
    "what can i ask you": ABILITIES,
    "tell joke": JOKES,
    "how old are you": ("I am a program, so I have no age.",),
    "what are your hobbies": (
        "I have none. I like to be useful.",
        "Working on tables and files, if that counts.",
    ),
    "do you have pets": ("No, I am a program and have no pets.",),
    "meaning of life": ("That is for you to find. I only help with the work.",),
    "where are you from": ("I live on your machine.",),
    "yes": ("Good. What shall I do next?", "All right."),
    "no": ("All right, I leave it.", "Fine. Tell me what you would like instead."),
}
"""Intents of CLINC150 that are small talk, with replies."""
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


def talk(rng: random.Random, count: int) -> Iterator[Task]:
    """Yield ``count`` pieces of small talk: about the user's day, about taste, and from CLINC150."""
    records = [record for record in read_records("clinc150_train") if record["intent"] in TALK]
    for _ in range(count):
        if rng.random() < 0.45:
            said, replies = rng.choice(STATEMENTS)
            yield _task(_said(rng.choice(said), rng), rng.choice(replies))
        else:
            record = rng.choice(records)
            yield _task(_said(record["text"], rng), rng.choice(TALK[record["intent"]]))


def small_talk(rng: random.Random) -> tuple[str, str]:
    """Return something that needs no tool, as a person may say it at any time, and a reply."""
    asked, replies = rng.choice(_PAIRS)
    return _said(rng.choice(asked), rng), rng.choice(replies)


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
