"""Goals that need no tool: greetings, thanks, small talk, plain facts, questions about the agent.

Tools that would be wrong to call are offered beside them. A fact must be in the answer; small talk
only needs an answer at all.
"""

from __future__ import annotations

from .common import Record, answer

STUBS: tuple[Record, ...] = (
    {
        "name": "get_forecast",
        "description": "Weather forecast for a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 60}},
            "required": ["city"],
        },
        "returns": {"sky": "cloudy", "degrees": 14},
    },
    {
        "name": "send_message",
        "description": "Send a message to a person.",
        "parameters": {
            "type": "object",
            "properties": {
                "to": {"type": "string", "maxLength": 60},
                "text": {"type": "string", "maxLength": 200},
            },
            "required": ["to", "text"],
        },
        "returns": "sent",
    },
    {
        "name": "book_table",
        "description": "Book a table in a restaurant.",
        "parameters": {
            "type": "object",
            "properties": {"people": {"type": "integer", "minimum": 1, "maximum": 20}},
            "required": ["people"],
        },
        "returns": {"booked": True},
    },
)

TALK = {
    "greeting": (
        "Hi!", "Hello there", "Good morning!", "hey", "Good evening to you.", "Hello, how are you today?",
        "Hi, nice to meet you.", "Hey there, how's it going?", "Greetings!", "Happy Monday!",
    ),
    "thanks": (
        "Thanks a lot!", "Thank you, that was helpful.", "Great work, thanks.", "Cheers, bye!",
        "Perfect, that's all for now.", "Ok, thank you very much.", "Much appreciated!", "Goodbye!",
    ),
    "about": (
        "What can you do?", "Who are you?", "How can you help me?", "Are you a human?",
        "What are you good at?",
        "Do you have a name?", "Can you help me with my work?", "Tell me about yourself in one sentence.",
    ),
    "talk": (
        "Tell me a joke.", "I had a long day.", "I feel a bit tired today.", "Do you like music?",
        "Say something nice.", "Wish me luck for my exam!", "I just got a new puppy!", "It is raining again.",
    ),
}  # fmt: skip

FACTS = (
    ("What is the capital of France?", r"\bparis\b"),
    ("What is the capital of Japan?", r"\btokyo\b"),
    ("Which city is the capital of Italy?", r"\brome\b"),
    ("What colour do you get when you mix blue and yellow?", r"\bgreen\b"),
    ("How many days are in a week?", r"\b(7|seven)\b"),
    ("How many legs does a spider have?", r"\b(8|eight)\b"),
    ("What is the largest planet in our solar system?", r"\bjupiter\b"),
    ("Which planet do we live on?", r"\bearth\b"),
    ("Who wrote Romeo and Juliet?", r"\bshakespeare\b"),
    ("What is the opposite of hot?", r"\b(cold|cool)\b"),
    ("What is the largest ocean on Earth?", r"\bpacific\b"),
    ("On which continent is Egypt?", r"\bafrica\b"),
    ("What do bees make?", r"\bhoney\b"),
    ("Which gas do plants take in from the air?", r"\b(carbon dioxide|co2)\b"),
    ("What is the chemical symbol for water?", r"h\W{0,2}2\W{0,2}o|h₂o"),
    ("How many months are there in a year?", r"\b(12|twelve)\b"),
    ("Which animal is known as man's best friend?", r"\bdogs?\b"),
    ("What is the frozen form of water called?", r"\bice\b"),
    ("In which country is the Eiffel Tower?", r"\bfrance\b"),
    ("What language is spoken in Brazil?", r"\bportuguese\b"),
    ("Which season comes after winter?", r"\bspring\b"),
    ("What is the first letter of the alphabet?", r"\ba\b"),
    ("What star is at the centre of our solar system?", r"\bsun\b"),
    ("What is the currency of the United States?", r"\bdollars?\b"),
    ("Which metal is liquid at room temperature?", r"\bmercury\b"),
    ("What do you call a baby cat?", r"\bkitten\b"),
)


def chat() -> list[Record]:
    """Return 60 goals that are answered without calling any tool of the goal's own."""
    items = [(kind, text, r"\w\w") for kind, texts in TALK.items() for text in texts]
    items += [("fact", text, pattern) for text, pattern in FACTS]
    return [
        {
            "id": f"chat-{number:04d}",
            "category": kind,
            "goal": text,
            "stubs": [STUBS[number % 3], STUBS[(number + 1) % 3]][: 1 + number % 2],
            "check": [{"calls": []}, answer(matches=pattern)],
        }
        for number, (kind, text, pattern) in enumerate(items, start=1)
    ]
