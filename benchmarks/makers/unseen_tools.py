"""Tools never seen: a user's request, the tools that an application offers, the call that is right.

Seal-Tools gives machine-made tools with one call or two to three; the Schema-Guided Dialogues (SGD) give
services with what people typed to crowd workers. Every goal needs a tool of which training may know nothing
(``autogpt/agent/experts/data.py``): of Seal-Tools one whose name is held out, of SGD one of a service that is
held out. Stubs say all that the source says: what the tool and each parameter is for, types, enumerations and
defaults.

A goal is taken only if the request says every argument. Text is compared without case, numbers as numbers;
a date or a time may be written as the source has it or as the request does. An argument that the source
leaves out may be left out or given with its default, but not made up.
"""

from __future__ import annotations

import datetime
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autogpt.agent.experts.data import is_train

from .common import Record, goal, read

TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
YEARS = (2019, 2023, 2024, 2025, 2026)
"""The year that the dialogues mean, and ones that a model may take a date without a year for."""
_CONFIRMS = re.compile(
    r"(?i)^\W*(yes|yeah|yep|sure|ok|okay|correct|right|that'?s? |sounds|perfect|great|no)\b"
)


def unseen_tools(data: Path, count: int = 200, seed: int = 31) -> list[Record]:
    """Half of the goals from Seal-Tools (as many with one call as there are), half from SGD."""
    rng = random.Random(seed)
    half = count // 2
    one, several = list(seal_goals(data, 1, 1, rng)), list(seal_goals(data, 2, 3, rng))
    rng.shuffle(several)
    made = [*one[:half], *several[: half - min(half, len(one))]]
    made += _alike(list(sgd_goals(data, rng)), count - len(made), rng)
    rng.shuffle(made)
    return [
        goal("unseen", number, item["category"], item["goal"], {}, *item["check"]) | {"stubs": item["stubs"]}
        for number, item in enumerate(made, start=1)
    ]


def seal_stub(api: Mapping[str, Any]) -> Record:
    """Return a Seal-Tools API as a stub that says all that the source does."""
    properties = {}
    for name, info in api["parameters"].items():
        properties[name] = {"type": TYPES.get(info["type"], "string"), "description": info["description"]}
    required = [name for name in api["required"] if name in properties]
    return {
        "name": api["api_name"],
        "description": api["api_description"],
        "parameters": {"type": "object", "properties": properties, "required": required},
        "returns": "done",
    }


def seal_goals(data: Path, least: int, most: int, rng: random.Random) -> Iterator[Record]:
    """Yield goals of ``least`` to ``most`` calls, at least one of them to a tool that is held out."""
    apis = {api["api_name"]: api for api in read(data, "sealtools_apis")}
    for record in read(data, "sealtools_train"):
        calls, said = record["calls"], record["query"]
        names = [item["api"] for item in calls]
        if not least <= len(calls) <= most or len(set(names)) < len(names) or not set(names) <= set(apis):
            continue
        if all(is_train("sealtools", name) for name in names):
            continue
        wanted = [_seal_call(apis[item["api"]], item["parameters"], said) for item in calls]
        if None in wanted:
            continue
        shown = list(dict.fromkeys([*names, *(name for name in record["candidates"] if name in apis)]))
        rng.shuffle(shown)
        yield {
            "category": "seal, one call" if len(calls) == 1 else "seal, several calls",
            "goal": said.replace("\\'", "'"),
            "stubs": [seal_stub(apis[name]) for name in shown],
            "check": [{"calls": wanted}],
        }


def _seal_call(api: Mapping[str, Any], given: Mapping[str, Any], said: str) -> Record | None:
    """Return the wanted call, or None if the request does not say all of it."""
    arguments: dict[str, list[Any]] = {}
    left_out = set(api["parameters"]) - set(given)
    if not set(api["required"]) <= set(given) <= set(api["parameters"]):
        return None
    if len(left_out) > 2 or (left_out and not given):
        return None  # where the source left out much, some of it was said: no fair judging
    for name, value in given.items():
        kind = api["parameters"][name]["type"]
        if kind == "bool" or "API_call" in str(value) or not _says(said, str(value)):
            return None
        if kind in ("int", "float") and not re.fullmatch(r"-?\d+(\.\d+)?", str(value)):
            return None
        if kind == "int" and not float(value).is_integer():
            return None
        if re.search(
            rf"(?i)\b(a|an|any|some|certain|specific|particular|given) {re.escape(str(value))}", said
        ):
            return None  # "in a certain country": a value that stands for one which was not said
        arguments[name] = [value, f"the {value}"] if f"the {value}" in said else [value]
    return {"name": api["api_name"], "arguments": arguments}


def sgd_stub(function: Mapping[str, Any], about: str = "") -> Record:
    """Return a function of an SGD service as a stub; numbers and yes or no get their types."""
    properties = {name: _sgd_parameter(info) for name, info in function["parameters"].items()}
    described = f"{function['description']} ({about})" if about else function["description"]
    return {
        "name": function["name"],
        "description": described,
        "parameters": {"type": "object", "properties": properties, "required": list(function["required"])},
        "returns": {"done": True},
    }


def _sgd_parameter(info: Mapping[str, Any]) -> Record:
    values = info.get("values")
    default = {"default": info["default"]} if info.get("default", "dontcare") != "dontcare" else {}
    said = {"description": info["description"]}
    if not values:
        return {"type": "string", **said, **default}
    if set(values) == {"True", "False"}:
        return {"type": "boolean", **said, **{key: value == "True" for key, value in default.items()}}
    if all(value.isdigit() for value in values):
        whole = {key: int(value) for key, value in default.items()}
        return {"type": "integer", "enum": [int(value) for value in values], **said, **whole}
    return {"type": "string", "enum": list(values), **said, **default}


def sgd_goals(data: Path, rng: random.Random) -> Iterator[Record]:
    """Yield what users said up to the first call of a dialogue, with a service that is held out."""
    services = {item["service"]: item for item in read(data, "sgd_services")}
    seen: set[str] = set()
    for dialogue in read(data, "sgd_train"):
        messages = dialogue["messages"]
        at = next((place for place, item in enumerate(messages) if item["role"] == "call"), 0)
        service = services.get(messages[at].get("service", ""))
        if service is None or is_train("sgd", service["service"]):
            continue
        said = _said(messages[:at])
        function = next(item for item in service["functions"] if item["name"] == messages[at]["name"])
        wanted = _sgd_call(function, messages[at]["arguments"], said)
        if wanted is None or said in seen:
            continue
        seen.add(said)
        offered = {item["name"]: sgd_stub(item) for item in service["functions"]}
        others = [other for name, other in services.items() if name.split("_")[0] not in service["service"]]
        for other in rng.sample(others, 3):
            stranger = rng.choice(other["functions"])
            offered.setdefault(stranger["name"], sgd_stub(stranger))
        shown = list(offered.values())[:5]
        rng.shuffle(shown)
        yield {
            "category": "sgd",
            "goal": said,
            "stubs": shown,
            "check": [{"calls": [wanted]}],
            "by": function["name"] + service["service"],
        }


def _said(messages: list[Record]) -> str:
    """Return the user's messages as one request: what only confirms or answers in a word says nothing new."""
    texts = [item["text"].strip() for item in messages if item["role"] == "user"]
    later = [text for text in texts[1:] if not (_CONFIRMS.match(text) and len(text.split()) < 12)]
    return " ".join([*texts[:1], *later])


def _sgd_call(function: Mapping[str, Any], given: Mapping[str, str], said: str) -> Record | None:
    arguments: dict[str, list[Any]] = {}
    if not set(function["required"]) <= set(given):
        return None
    for name, info in function["parameters"].items():
        default = info.get("default")
        if name not in given:
            arguments[name] = [default, None, "any"] if default == "dontcare" else [default, None]
            continue
        forms = _forms(given[name], said)
        if not forms:
            return None
        arguments[name] = [*forms, None] if given[name] == default else forms
    return {"name": function["name"], "arguments": arguments}


def _forms(value: str, said: str) -> list[Any]:
    """Return how an argument may be written, the source's way first; empty if the request does not say it."""
    if re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        return _date_forms(datetime.date.fromisoformat(value), said)
    if re.fullmatch(r"\d\d:\d\d", value):
        return _time_forms(value, said)
    if not _says(said, value):
        return []
    state = re.search(re.escape(value) + r",? [A-Z]{2}\b", said)
    return [value, *([state[0]] if state else [])]


def _date_forms(day: datetime.date, said: str) -> list[Any]:
    """Return ways to write a date that the request names by day and month, or by the day alone."""
    month, number = day.strftime("%B"), day.day
    ending = "th" if 10 < number < 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    ordinal = rf"{number}(?:st|nd|rd|th)"
    named = re.search(
        rf"(?i)\b(?:the )?(?:{month[:3]}[a-z]* (?:the )?(?:{ordinal}|{number})|"
        rf"(?:{ordinal}|{number}) (?:of )?{month[:3]}[a-z]*|{ordinal}(?: of this month)?)\b",
        said,
    )
    if named is None:
        return []
    texts = [
        f"{month} {number}{ending}",
        f"{month} {number}",
        f"{number} {month}",
        f"{number}{ending} of {month}",
    ]
    texts += [f"{month[:3]} {number}", f"{number}{ending}", f"the {number}{ending}", named[0]]
    years = [day.replace(year=year).isoformat() for year in YEARS]
    return list(dict.fromkeys([*years, *texts, f"{month} {number}, 2019", day.strftime("%m-%d")]))


def _time_forms(value: str, said: str) -> list[Any]:
    """Return ways to write a time of day that the request names by the clock."""
    hour, minute = (int(part) for part in value.split(":"))
    half, twelve = ("pm" if hour >= 12 else "am"), hour % 12 or 12
    clock = f"{twelve}:{minute:02}" if minute else rf"{twelve}(?::00)?"
    named = re.search(
        rf"(?i)\b(?:{clock} ?(?:{half[0]}\.?m\b\.?|o'?clock|in the \w+)(?: in the \w+)?|0?{value})", said
    )
    if named is None:
        return []
    texts = [f"{twelve}:{minute:02} {half}", f"{twelve}:{minute:02}{half}", named[0]]
    return [value, *dict.fromkeys([*texts, *([] if minute else [f"{twelve} {half}", f"{twelve}{half}"])])]


def _says(said: str, value: str) -> bool:
    """Return whether the request says ``value``: as words, or as a number or its word."""
    text, wanted = (" ".join(part.replace("\\'", "'").casefold().split()) for part in (said, value))
    words = [NUMBER_WORDS[int(wanted)]] if wanted.isdigit() and int(wanted) < len(NUMBER_WORDS) else []
    return bool(wanted) and any(
        re.search(rf"(?<!\w){re.escape(form)}(?!\w)", text) for form in (wanted, *words)
    )


def _alike(made: list[Record], count: int, rng: random.Random) -> list[Record]:
    """Return ``count`` goals, about as many of each function, so that none stands for all."""
    by: defaultdict[str, list[Record]] = defaultdict(list)
    rng.shuffle(made)
    for item in made:
        by[item["by"]].append(item)
    chosen: list[Record] = []
    while len(chosen) < count and any(by.values()):
        chosen += [items.pop() for items in by.values() if items][: count - len(chosen)]
    return chosen
