"""Requests to services, from the Schema-Guided Dialogue data (SGD): one call, or questions first and then it.

A dialogue's calls become goals of their own where the user's last message holds every argument word for word.
Where the assistant had to ask for something first, the questions become ``ask`` calls and the user's replies
their answers. Functions of other services stand beside the right one; :func:`none_fits` offers only those of
other subjects, and the right end is to say so. Services that measure are not touched: a dialogue with any of
them is left out.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...goals.load import Goal
from ..data import is_train, read_records
from ..expert import Task, call, finish
from ..stubs import Function, calls_task, distractors, offer

_REFERS = re.compile(r"(yes|yeah|yep|no|nope|ok|okay|sure|that|it|this|great|perfect|fine|thanks?)\b", re.I)
_NONE = (
    "None of the tools that I have can do that.", "I have no tool for that, so I cannot do it.",
    "Sorry, that is not something my tools can do.", "I cannot do that with the tools I have here.",
    "There is no tool here that fits this request.",
)  # fmt: skip
_LONGEST = 320
"""Characters of a request, at most."""


@dataclass(frozen=True)
class Request:
    """What a user wanted: messages with the questions between them, and the call that came of it."""

    said: tuple[str, ...]
    asked: tuple[str, ...]
    service: str
    name: str
    arguments: Mapping[str, Any]
    first: Mapping[str, Any] | None
    """The first result, as the service gave it."""
    reply: str


def functions() -> dict[tuple[str, str], Function]:
    """Return the functions of the services that may be trained on, by service and name."""
    seen = _values_seen()
    return {
        (record["service"], item["name"]): Function(
            item["name"],
            item["description"],
            {
                key: _schema(info, seen[record["service"], item["name"], key])
                for key, info in item["parameters"].items()
            },
            tuple(item["required"]),
            record["service"].partition("_")[0],
        )
        for record in read_records("sgd_services")
        if is_train("sgd", record["service"])
        for item in record["functions"]
    }


def _values_seen() -> dict[tuple[str, str, str], set[str]]:
    seen: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for record in read_records("sgd_train"):
        for message in record["messages"]:
            if message["role"] == "call":
                for key, value in message["arguments"].items():
                    seen[message["service"], message["name"], key].add(str(value))
    return seen


def _schema(info: Mapping[str, Any], seen: set[str]) -> dict[str, Any]:
    """Return a parameter as JSON schema: booleans and whole numbers by the values that occur."""
    values = [str(value) for value in info.get("values", ())]
    schema: dict[str, Any] = {"type": "string", "description": info["description"]}
    if {value.casefold() for value in values} - {"dontcare"} == {"true", "false"}:
        schema["type"] = "boolean"
    elif all(value.isdigit() for value in (values or seen)) and (values or seen):
        schema["type"] = "integer"
    elif values:
        schema["enum"] = [value for value in values if value != "dontcare"]
    else:
        schema["maxLength"] = 120
    if "default" in info and info["default"] not in (None, "dontcare"):
        schema["default"] = _typed(info["default"], schema)
    return schema


def _typed(value: Any, schema: Mapping[str, Any]) -> Any:
    if schema["type"] == "boolean":
        return str(value).casefold() == "true"
    return int(value) if schema["type"] == "integer" and str(value).isdigit() else str(value)


def recorded(known: Mapping[tuple[str, str], Function], rng: random.Random) -> Iterator[Request]:
    """Yield the calls of the dialogues that may be trained on, in random order, each with what led to it."""
    dialogues = [
        record
        for record in read_records("sgd_train")
        if all(is_train("sgd", service) for service in record["services"])
    ]
    rng.shuffle(dialogues)
    for record in dialogues:
        said: list[str] = []
        asked: list[str] = []
        messages = record["messages"]
        for place, message in enumerate(messages):
            match message["role"]:
                case "user":
                    said.append(message["text"].strip())
                case "assistant":
                    asked.append(message["text"].strip())
                case "call" if (message["service"], message["name"]) in known:
                    after = messages[place + 1 : place + 3]
                    first = next((m["first"][0] for m in after if m["role"] == "result" and m["first"]), None)
                    reply = next((m["text"] for m in after if m["role"] == "assistant"), "")
                    service, name = message["service"], message["name"]
                    spoken = " ".join(said + asked)
                    arguments = _arguments(message["arguments"], known[service, name], spoken)
                    yield Request(tuple(said), tuple(asked), service, name, arguments, first, reply)
                    said, asked = [], []


def _arguments(given: Mapping[str, Any], function: Function, text: str) -> dict[str, Any]:
    """Return a call's arguments in their types; a default that nobody spoke of is left out."""
    found = {}
    for key, value in given.items():
        schema = function.properties.get(key)
        if schema is None or value == "dontcare":
            continue
        typed = _typed(value, schema)
        if key not in function.required and typed == schema.get("default") and not _spoken(typed, text):
            continue
        found[key] = typed
    return found


def _spoken(value: Any, text: str) -> bool:
    """Say whether a value stands in a text, as a word."""
    if isinstance(value, bool):
        return False
    small = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    words = [str(value)] + ([small[value]] if isinstance(value, int) and value <= 10 else [])
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.I) for word in words)


def requests(rng: random.Random, number: int) -> Iterator[Task]:
    """Yield ``number`` goals of one message that holds every argument; the right function among others."""
    known = functions()
    for request in _self_contained(known, rng, number):
        made, wanted = _offered(request, known, rng)
        shown = offer(made, rng)
        yield calls_task(
            request.said[-1], shown, [shown.call(wanted.name, request.arguments)], answer=_reply(request, rng)
        )


def _self_contained(
    known: Mapping[tuple[str, str], Function], rng: random.Random, number: int
) -> Iterator[Request]:
    """Yield requests whose last message says all: no reference back, every argument in it."""
    texts: set[str] = set()
    for request in recorded(known, rng):
        if len(texts) >= number:
            return
        text = request.said[-1] if request.said else ""
        function = known[request.service, request.name]
        if (
            request.arguments
            and text not in texts
            and 20 < len(text) < _LONGEST
            and not _REFERS.match(text)
            and all(_spoken(value, text) for value in request.arguments.values())
            and all(key in request.arguments for key in function.required)
        ):
            texts.add(text)
            yield replace(request, asked=())


def _offered(
    request: Request, known: Mapping[tuple[str, str], Function], rng: random.Random
) -> tuple[list[Function], Function]:
    """Return the right function among up to five others, and that one, giving what was recorded."""
    wanted = replace(known[request.service, request.name], returns=_result(request))
    near, far = rng.randint(0, 3), rng.randint(0, 2)
    return [wanted, *distractors(list(known.values()), [wanted], near, far, rng)], wanted


def _result(request: Request) -> Any:
    """Return up to five fields of the first result, those that the reply speaks of first."""
    if not request.first:
        return "nothing found"
    pairs = sorted(request.first.items(), key=lambda item: not _spoken(item[1], request.reply))
    return dict(pairs[:5])


def _reply(request: Request, rng: random.Random) -> str:
    """Return what the assistant said about the result, where that is an answer; "" for the result itself."""
    reply = " ".join(request.reply.split())
    told = request.first is not None and any(_spoken(v, reply) for v in request.first.values())
    return reply if told and "?" not in reply and len(reply) < 200 and rng.random() < 0.6 else ""


def asked_first(rng: random.Random, number: int) -> Iterator[Task]:
    """Yield ``number`` goals for which something had to be asked: one to three questions, then the call."""
    known = functions()
    made = 0
    for request in recorded(known, rng):
        if made >= number:
            return
        function = known[request.service, request.name]
        questions, text = request.asked, " ".join(request.said)
        first, later = (request.said[0], request.said[1:]) if request.said else ("", ())
        missing = [key for key in function.required if not _spoken(request.arguments.get(key), first)]
        if (
            not 1 <= len(questions) <= 3
            or len(later) != len(questions)
            or not missing
            or _REFERS.match(first)
            or any(not question.endswith("?") or len(question) > 160 for question in questions)
            or not all(_given(v, function.properties[k], text) for k, v in request.arguments.items())
            or any(key not in request.arguments for key in function.required)
            or len(text) > _LONGEST
        ):
            continue
        made += 1
        offered, wanted = _offered(request, known, rng)
        shown = offer(offered, rng)
        task = calls_task(first, shown, [shown.call(wanted.name, request.arguments)],
                          answer=_reply(request, rng))  # fmt: skip
        asks = [call("ask", question=question) for question in questions]
        yield replace(task, calls=[*asks, *task.calls], answers=list(later))


def _given(value: Any, schema: Mapping[str, Any], text: str) -> bool:
    """Say whether a value can be had from a text: word for word, or one of a few to choose from."""
    return _spoken(value, text) or "enum" in schema or schema["type"] == "boolean"


def none_fits(rng: random.Random, number: int) -> Iterator[Task]:
    """Yield ``number`` requests beside functions of other subjects only; nothing is called."""
    known = functions()
    for request in _self_contained(known, rng, number):
        others = [
            function for function in known.values() if function.topic != request.service.partition("_")[0]
        ]
        shown = offer(distractors(others, [], 0, rng.randint(1, 4), rng), rng)
        data = {"goal": request.said[-1], "stubs": shown.stubs, "check": [{"calls": []}]}
        yield Task("none fits", Goal.model_validate(data), [finish(rng.choice(_NONE))])


