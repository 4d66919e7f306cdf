"""Tools are ranked by the words and the meaning of what they say they do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from autogpt.memory.recall.tool_search import ranked
from autogpt.tools.base import Tool, ToolContext, ToolResult


class Described(Tool):
    """A tool that does nothing."""

    def __init__(self, name: str, description: str, **arguments: Any) -> None:
        self.name, self.description = name, description
        self.parameters = {"type": "object", "properties": arguments}

    def run(self, args: Mapping[str, Any], ctx: ToolContext) -> ToolResult:
        return ToolResult(None, "")


def first(query: str, *tools: Tool) -> str:
    return ranked(query, {tool.name: tool for tool in tools})[0]


MAIL = Described("sendMail", "Send a letter.", to={"type": "string"})
RAIN = Described("get_forecast", "Tell how much rain and sun there will be.", place={"type": "string"})
ODD = Described("alpha_1", "Do it.", iban={"type": "string", "description": "Account that pays the invoice"})


def test_names_are_read_word_by_word() -> None:
    assert first("which mail came", RAIN, ODD, MAIL) == "sendMail"
    assert first("the forecast please", MAIL, ODD, RAIN) == "get_forecast"


def test_arguments_say_what_a_tool_is_for() -> None:
    assert first("pay this invoice", MAIL, RAIN, ODD) == "alpha_1"
    rows = {"type": "array", "items": {"type": "object", "properties": {
        "x": {"type": "string", "description": "A violin"}}}}  # fmt: skip
    assert first("tune my violin", MAIL, RAIN, Described("beta_2", "Do it.", rows=rows)) == "beta_2"


def test_a_tool_is_found_without_a_word_in_common() -> None:
    assert first("weather tomorrow", MAIL, ODD, RAIN) == "get_forecast"
    assert first("明天会下雨吗？", MAIL, ODD, RAIN) == "get_forecast"


def test_every_tool_has_a_place_and_those_alike_keep_their_order() -> None:
    tools = {name: Described(name, "") for name in ("_", "__", "___")}
    assert ranked("anything", tools) == list(tools)
    assert ranked("", tools) == list(tools)
    assert ranked("anything", {}) == []


def test_ranking_loads_no_torch() -> None:
    code = (
        "import sys; from autogpt.memory.recall.tool_search import ranked; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'chromadb')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
