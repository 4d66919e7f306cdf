"""A tool's line: by the names of its arguments, or with all that is needed to use it unseen."""

from __future__ import annotations

import pytest

from autogpt import prompts
from autogpt.prompts import ToolLine
from autogpt.text import Prompting

WEATHER = ToolLine(
    "get_weather",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "the city's\nname"},
            "days": {"type": "integer", "default": 3},
            "unit": {"enum": ["c", "f"]},
            "places": {"type": "array", "items": {"properties": {"lat": {"type": "number"}}}},
            "at": {"type": ["string", "null"]},
            "span": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}]},
        },
        "required": ["city"],
    },
    "Weather of a city.",
)


def test_names() -> None:
    shown = WEATHER.shown("names")
    assert shown.text == "get_weather(city, days?, unit?, places?, at?, span?): Weather of a city."


def test_typed() -> None:
    signature, _, about = WEATHER.shown("typed").text.partition("): ")
    assert signature == (
        'get_weather(city: str, days: int = 3, unit?: "c" | "f", places?: list[{lat?: float}], '
        "at?: str | None, span?: [int, bool]"
    )
    assert about == "Weather of a city.\n  city: the city's name"


def test_long_enumerations_and_descriptions_are_cut_short() -> None:
    long = {"enum": list(range(40)), "description": "x" * 500}
    many = ToolLine("f", {"properties": {"a": long}}, "y" * 900)
    text = many.shown("typed").text
    assert "11 | ..." in text and "12" not in text
    assert len(text) < 500 and text.count("…") == 2


def test_schemas_that_say_nothing_are_shown_as_any() -> None:
    odd = ToolLine("f", {"properties": {"a": True, "b": {}, "c": {"type": "object"}}}, "d")
    assert odd.shown("typed").signature == "f(a?: Any, b?: Any, c?: dict)"


@pytest.mark.parametrize("prompting", ["names", "typed", "teaching"])
def test_every_prompt_shows_the_core_calls_and_the_tools(prompting: Prompting) -> None:
    text = prompts.system([WEATHER], memory=True, prompting=prompting)
    for name in ("plan(", "finish(", "ask(", "remember(", "recall(", "get_weather(city"):
        assert name in text
    assert ("city: str" in text) is (prompting != "names")
    assert "remember(" not in prompts.system([WEATHER], prompting=prompting)


def test_only_the_teaching_prompt_shows_worked_examples() -> None:
    assert "Example 1" in prompts.system([], prompting="teaching")
    assert "Example 1" not in prompts.system([], prompting="typed")
