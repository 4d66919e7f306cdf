"""Tools of a goal's own: calls to ones the model has never seen, and goals that must leave them alone.

Seal-Tools queries come with their APIs as stubs, described after the built-ins; distractors, most of the same
field, are offered with the right one. A third of the tool and argument names are replaced by made-up ones
(function masking, as Hammer does, arXiv:2410.04587), so that the model reads descriptions instead of
remembering names. :func:`requests` asks for one call in words made from a tool's own description, so that
each tool of the training part is called, not only those that Seal-Tools has queries for. The mirror image is
:func:`beside`: any task, with tools offered that have nothing to do with it. Without it the model calls
whatever it is shown, even when greeted.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...llm.message import ToolCall
from ..goals.load import Goal
from .data import is_train, read_records
from .expert import Task, call, finish, plan

_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
MASKED = 0.33
"""The share of goals with made-up tool names."""
_MASKS = ("alpha", "beta", "gamma", "delta", "kappa", "omega", "sigma", "theta", "zeta", "lambda")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_LONGEST = 110
"""Characters of an argument, at most; the schemas allow 120."""


@dataclass(frozen=True)
class Function:
    """A function that a goal may offer, with the schema of each parameter."""

    name: str
    description: str
    properties: Mapping[str, Mapping[str, Any]]
    required: tuple[str, ...]
    topic: str
    """Functions of one topic are alike: the distractors that are hard to tell from the right one."""
    returns: Any = "ok"


@dataclass
class Offer:
    """Functions as a goal shows them: the stubs, and what each function and argument is called there."""

    stubs: list[dict[str, Any]] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, dict[str, str]] = field(default_factory=dict)

    def call(self, name: str, arguments: Mapping[str, Any]) -> ToolCall:
        """Return a call of the function ``name``, under the names that are shown."""
        shown = self.arguments[name]
        ordered = {shown[key]: arguments[key] for key in shown if key in arguments}
        return call(self.names[name], **ordered)


def offer(functions: Sequence[Function], rng: random.Random) -> Offer:
    """Return the functions as stubs in random order; in a part of the goals under made-up names."""
    masked, snake = rng.random() < MASKED, rng.random() < 0.3
    mask = _mask(rng)
    made = Offer()
    for number, function in enumerate(rng.sample(functions, len(functions))):
        plain = snake_case(function.name) if snake else function.name
        shown = mask(number) if masked else plain
        keys = {key: key for key in function.properties}
        if masked and rng.random() < 0.4:
            keys = {key: f"arg_{place}" for place, key in enumerate(keys)}
        made.names[function.name], made.arguments[function.name] = shown, keys
        schema = {
            "type": "object",
            "properties": {keys[key]: dict(part) for key, part in function.properties.items()},
            "required": [keys[key] for key in function.required],
            "additionalProperties": False,
        }
        made.stubs.append(
            {"name": shown, "description": function.description, "parameters": schema,
             "returns": function.returns}
        )  # fmt: skip
    return made


def _mask(rng: random.Random) -> Any:
    """Return what makes a name that says nothing from a tool's number."""
    kind, start = rng.randrange(3), rng.randint(1, 40)
    if kind == 0:
        greek = rng.sample(_MASKS, len(_MASKS))
        return lambda number: f"{greek[number % len(greek)]}_{number}"
    if kind == 1:
        word = rng.choice(("func", "tool", "fn", "api", "method"))
        return lambda number: f"{word}_{start + number}"
    salt = rng.random()
    return lambda number: "".join(random.Random(f"{salt}{number}").choices(_LETTERS, k=6)) + str(number)


def distractors(
    functions: Sequence[Function], wanted: Sequence[Function], near: int, far: int, rng: random.Random
) -> list[Function]:
    """Return ``near`` functions of the topics of ``wanted`` and ``far`` others, no two of one name."""
    taken = {snake_case(function.name) for function in wanted}
    topics = {function.topic for function in wanted}
    others = rng.sample(functions, len(functions))
    found: list[Function] = []
    for alike, number in ((True, near), (False, far)):
        for function in others:
            if number and (function.topic in topics) == alike and snake_case(function.name) not in taken:
                taken.add(snake_case(function.name))
                found.append(function)
                number -= 1
    return found


def calls_task(
    text: str, shown: Offer, calls: Sequence[ToolCall], kind: str = "stubs", answer: str = ""
) -> Task:
    """Return the goal that wants exactly these calls; ``answer`` ends it, else the last result does."""
    checks = [{"name": made.name, "arguments": {k: [v] for k, v in made.arguments.items()}} for made in calls]
    goal = Goal.model_validate({"goal": text, "stubs": shown.stubs, "check": [{"calls": checks}]})
    steps = plan(*[(made.name, _purpose(made.name)) for made in calls])
    return Task(kind, goal, [steps, *calls, finish(answer or f"${len(calls)}")])


def apis(part: bool = True) -> dict[str, Function]:
    """Return Seal-Tools' functions of the part that is trained on, or of the other one."""
    return {
        record["api_name"]: Function(
            record["api_name"],
            " ".join(str(record["api_description"]).split())[:160],
            {name: _schema(info) for name, info in record["parameters"].items()},
            tuple(name for name in record["required"] if name in record["parameters"]),
            str(record["field"]),
        )
        for record in read_records("sealtools_apis")
        if is_train("sealtools", record["api_name"]) == part
    }


def _schema(info: Mapping[str, Any]) -> dict[str, Any]:
    kind = _TYPES.get(info["type"], "string")
    schema: dict[str, Any] = {"type": kind, "description": " ".join(str(info["description"]).split())}
    return {**schema, "maxLength": 120} if kind == "string" else schema


def seal_tools(rng: random.Random, limit: int, strangers: int = 0) -> Iterator[Task]:
    """Yield tasks of one to three calls with literal arguments.

    Up to ``strangers`` tools of other fields are offered with a goal's own, so that one of many fits.
    """
    known = apis()
    records = [record for record in read_records("sealtools_train") if _usable(record, known)]
    rng.shuffle(records)
    for record in records[:limit]:
        task = _task(record, known, strangers, rng)
        if task is not None:
            yield task


def _usable(record: Mapping[str, Any], known: Mapping[str, Function]) -> bool:
    calls = record["calls"]
    return (
        1 <= len(calls) <= 3
        and all(item["api"] in known for item in calls)
        and len({item["api"] for item in calls}) == len(calls)
        and len(record["query"]) < 400
        and "API_call" not in str([item["parameters"] for item in calls])
    )


def _typed(value: Any, kind: str) -> Any:
    try:
        if kind == "integer":
            return int(float(value))
        if kind == "number":
            number = float(value)
            return int(number) if number.is_integer() else number
    except (TypeError, ValueError):
        return None
    if kind == "boolean":
        return value if isinstance(value, bool) else str(value).lower() == "true"
    return str(value)


def _task(
    record: Mapping[str, Any], known: Mapping[str, Function], strangers: int, rng: random.Random
) -> Task | None:
    wanted = [known[item["api"]] for item in record["calls"]]
    others = [known[name] for name in record["candidates"] if name in known and known[name] not in wanted]
    shown = wanted + rng.sample(others, min(len(others), rng.randint(1, 2)))
    far = rng.randint(0, strangers)
    shown += distractors(list(known.values()), shown, rng.randint(0, 1) if far else 0, far, rng)
    made = offer(shown, rng)
    calls = []
    for item, function in zip(record["calls"], wanted, strict=True):
        arguments = {
            name: _typed(item["parameters"][name], schema["type"])
            for name, schema in function.properties.items()
            if name in item["parameters"]
        }
        if None in arguments.values() or any(len(str(value)) > _LONGEST for value in arguments.values()):
            return None
        calls.append(made.call(function.name, arguments))
    return calls_task(record["query"], made, calls)


_EXAMPLES = re.compile(r"\((?:e\.g\.|for example|such as)[:,]? ?([^()]+)\)")
_POLITE = ("{what}{how}.", "Please {lower}{how}.", "{what}{how}", "I need you to {lower}{how}.",
           "Can you {lower}{how}?", "Could you {lower}{how}, please?", "I want to {lower}{how}.",
           "Help me {lower}{how}.")  # fmt: skip
_VALUES = ("{key}: {value}", "{key} {value}", "the {key} is {value}", "with {key} {value}",
           "{value} as {key}", "{key} = {value}", "use {value} for the {key}")  # fmt: skip


def requests(rng: random.Random, number: int) -> Iterator[Task]:
    """Yield up to ``number`` goals of one call each, worded from the tool's description and its examples."""
    known = [function for function in apis().values() if re.match(r"[A-Z][a-z]+ ", function.description)]
    made = 0
    for _ in range(50 * number):
        if made >= number:
            return
        function = rng.choice(known)
        arguments = {
            key: value
            for key, schema in function.properties.items()
            if (key in function.required or rng.random() < 0.4)
            and (value := _example(key, schema, rng)) is not None
        }
        if not arguments or any(key not in arguments for key in function.required):
            continue
        form = rng.choice(_VALUES)
        parts = [form.format(key=_words(key), value=_said(value)) for key, value in arguments.items()]
        what = function.description.split("(")[0].strip().rstrip(".")
        how = f"{rng.choice((', ', ' - ', ' (', ': '))}{rng.choice((', ', ', ', '; ')).join(parts)}"
        how += ")" if "(" in how and how.startswith(" (") else ""
        text = rng.choice(_POLITE).format(what=what, lower=what[:1].lower() + what[1:], how=how)
        shown = [function, *distractors(known, [function], rng.randint(0, 2), rng.randint(0, 3), rng)]
        shown_as = offer(shown, rng)
        yield calls_task(text, shown_as, [shown_as.call(function.name, arguments)])
        made += 1


def _example(key: str, schema: Mapping[str, Any], rng: random.Random) -> Any:
    """Return a value that a parameter's description gives as an example, or a number; None for neither."""
    kind = schema["type"]
    if kind == "boolean":
        return rng.random() < 0.5
    found = _EXAMPLES.search(schema["description"])
    if found is None:
        if kind == "integer":
            return rng.choice((rng.randint(1, 12), rng.randint(1, 60), rng.randint(100, 5000)))
        return round(rng.uniform(1, 400), rng.choice((1, 2))) if kind == "number" else None
    examples = [part.strip(" '\".") for part in re.split(r",| or ", found[1])]
    examples = [part for part in examples if 0 < len(part) < 40 and not part.startswith(("etc", "and "))]
    return _typed(rng.choice(examples), kind) if examples else None


def _words(key: str) -> str:
    return snake_case(key).replace("_", " ")


def _said(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def beside(tasks: Iterable[Task], rng: random.Random) -> Iterator[Task]:
    """Yield ``tasks`` with one to four tools of the goal's own that must not be called."""
    known = list(apis().values())
    for task in tasks:
        made = offer(rng.sample(known, rng.choice((1, 1, 2, 2, 3, 4))), rng)
        data = task.goal.model_dump(mode="json", exclude={"id"})
        data["check"] = [*data["check"], {"calls": []}] if not task.turns else data["check"]
        yield replace(task, goal=Goal.model_validate({**data, "stubs": made.stubs}))


def snake_case(name: str) -> str:
    """Return ``getLevel`` as ``get_level``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _purpose(name: str) -> str:
    """Return what a call is for: the words of its name, or nothing much for a made-up name."""
    words = _words(name)
    return words[:60] if re.search(r"[a-z]{2,} [a-z]{2,}", words) and not re.search(r"\d", name) else "do it"
