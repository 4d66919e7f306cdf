"""Tools of a goal's own: calls to ones the model has never seen, and goals that must leave them alone.

Seal-Tools queries come with their APIs as stubs, described after the built-ins; distractors are offered with
the right one. A third of the tool and argument names are replaced by made-up ones (function masking, as
Hammer does), so that the model reads descriptions instead of remembering names. The mirror image is
:func:`beside`: any task, with tools offered that have nothing to do with it. Without it the model
calls whatever it is shown, even when greeted.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..goals.load import Goal
from .data import is_train, read_records
from .expert import Task, call, finish, plan

_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
MASKED = 0.33
"""The share of goals with made-up tool names."""
_MASKS = ("alpha", "beta", "gamma", "delta", "kappa", "omega", "sigma", "theta", "zeta", "lambda")


def seal_tools(rng: random.Random, limit: int, strangers: int = 0) -> Iterator[Task]:
    """Yield tasks of one to three calls with literal arguments.

    Up to ``strangers`` tools of other fields are offered with a goal's own, so that one of many fits.
    """
    apis = {record["api_name"]: record for record in read_records("sealtools_apis")}
    unknown = [name for name in apis if is_train("sealtools", name)]
    records = [record for record in read_records("sealtools_train") if _usable(record, apis)]
    rng.shuffle(records)
    for record in records[:limit]:
        more = rng.sample(unknown, rng.randint(0, strangers)) if strangers else []
        task = _task({**record, "more": more}, apis, rng)
        if task is not None:
            yield task


def _usable(record: Mapping[str, Any], apis: Mapping[str, Any]) -> bool:
    calls = record["calls"]
    return (
        1 <= len(calls) <= 3
        and all(item["api"] in apis and is_train("sealtools", item["api"]) for item in calls)
        and len({item["api"] for item in calls}) == len(calls)
        and len(record["query"]) < 400
        and "API_call" not in str([item["parameters"] for item in calls])
    )


def _schema(api: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for name, info in api["parameters"].items():
        kind = _TYPES.get(info["type"], "string")
        properties[names.get(name, name)] = {"type": kind, **({"maxLength": 120} if kind == "string" else {})}
    required = [names.get(name, name) for name in api["required"] if name in api["parameters"]]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _typed(value: Any, kind: str) -> Any:
    try:
        if kind == "int":
            return int(float(value))
        if kind == "float":
            number = float(value)
            return int(number) if number.is_integer() else number
    except (TypeError, ValueError):
        return None
    if kind == "bool":
        return value if isinstance(value, bool) else str(value).lower() == "true"
    return str(value)


def _task(record: Mapping[str, Any], apis: Mapping[str, Any], rng: random.Random) -> Task | None:
    wanted = [item["api"] for item in record["calls"]]
    others = [name for name in record["candidates"] if name in apis and name not in wanted]
    shown = wanted + rng.sample(others, min(len(others), rng.randint(1, 2)))
    shown += [name for name in record["more"] if name not in shown]
    rng.shuffle(shown)
    masked = rng.random() < MASKED
    tool_names = {name: f"{rng.choice(_MASKS)}_{n}" if masked else name for n, name in enumerate(shown)}
    stubs, argument_names = [], {}
    for name in shown:
        api = apis[name]
        keys = {
            key: f"arg_{n}" if masked and rng.random() < 0.3 else key
            for n, key in enumerate(api["parameters"])
        }
        argument_names[name] = keys
        stubs.append(_stub(tool_names[name], api, keys))
    calls, checks = [], []
    for item in record["calls"]:
        api, keys = apis[item["api"]], argument_names[item["api"]]
        arguments = {
            keys[name]: _typed(item["parameters"][name], info["type"])
            for name, info in api["parameters"].items()
            if name in item["parameters"]
        }
        if None in arguments.values() or any(len(str(value)) > 110 for value in arguments.values()):
            return None
        calls.append(call(tool_names[item["api"]], **arguments))
        checks.append({"name": tool_names[item["api"]], "arguments": {k: [v] for k, v in arguments.items()}})
    goal = Goal.model_validate({"goal": record["query"], "stubs": stubs, "check": [{"calls": checks}]})
    steps = [plan(*[(item.name, _purpose(item.name)) for item in calls]), *calls]
    return Task("stubs", goal, [*steps, finish(f"${len(calls)}")])


def _stub(name: str, api: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    described = str(api["api_description"])[:90]
    return {"name": name, "description": described, "parameters": _schema(api, keys), "returns": "ok"}


def beside(tasks: Iterable[Task], rng: random.Random) -> Iterator[Task]:
    """Yield ``tasks`` with one to four tools of the goal's own that must not be called."""
    apis = [record for record in read_records("sealtools_apis") if is_train("sealtools", record["api_name"])]
    for task in tasks:
        masked = rng.random() < MASKED
        stubs = []
        for number, api in enumerate(rng.sample(apis, rng.choice((1, 1, 2, 2, 3, 4)))):
            name = api["api_name"] if rng.random() < 0.5 else snake_case(api["api_name"])
            stubs.append(_stub(f"{rng.choice(_MASKS)}_{number}" if masked else name, api, {}))
        data = task.goal.model_dump(mode="json", exclude={"id"})
        data["check"] = [*data["check"], {"calls": []}] if not task.turns else data["check"]
        yield replace(task, goal=Goal.model_validate({**data, "stubs": stubs}))


def snake_case(name: str) -> str:
    """Return ``getLevel`` as ``get_level``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _purpose(name: str) -> str:
    """Return what a call is for: the words of its name, or nothing much for a made-up name."""
    words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name)
    return "do it" if "_" in name else words.strip()[:60]
