"""What other packages add: a tool, a check and a model, each by one entry point and one file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autogpt.agent.goals.load import load_goals, validate
from autogpt.agent.open import open_model, open_registry, open_store, tool_names
from autogpt.agent.run.runner import Runner
from autogpt.errors import UsageError
from autogpt.settings import Settings

TOOL = '''
from autogpt.tools.functions import tool

@tool(replay="pure")
def shout(text: str) -> str:
    """Write in capitals."""
    return text.upper()
'''
CHECK = '''
from autogpt.agent.goals.checks import Check, Finding, Outcome, need

class ToyLength(Check, kind="toy_length"):
    at_most: int

    def verdict(self, outcome: Outcome) -> Finding:
        length = len(str(outcome.value))
        return need(length <= self.at_most, f"the answer has {length} characters", f"at most {self.at_most}")
'''
MODEL = '''
from autogpt.llm.message import ToolCall, Turn

class Parrot:
    """Shouts the word that its name holds."""

    name, fingerprint, tokenizer_hash = "", "parrot", ""
    prompting = "names"

    def __init__(self, word):
        self.calls = [
            ToolCall("plan", {"steps": [{"tool": "shout", "for": "it"}]}),
            ToolCall("shout", {"text": word}),
            ToolCall("finish", {"answer": "$1"}),
        ]

    def respond(self, prompts, on_text=None):
        return [Turn(self.calls.pop(0), "") for _ in prompts]

    def close_session(self, session):
        pass

def open_parrot(rest, settings):
    return Parrot(rest)
'''
ENTRY_POINTS = """[autogpt.tools]
shout = toy_tool:shout
[autogpt.checks]
toy_length = toy_check:ToyLength
toy_broken = toy_check:Missing
toy_other = toy_tool:shout
[autogpt.models]
parrot = toy_model:open_parrot
mute = toy_missing:open_mute
"""


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package with one thing of each kind; a folder for goals."""
    site = tmp_path / "site"
    info = site / "toys-1.0.dist-info"
    info.mkdir(parents=True)
    for name, text in (("toy_tool", TOOL), ("toy_check", CHECK), ("toy_model", MODEL)):
        (site / f"{name}.py").write_text(text)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(site))
    yield tmp_path
    for name in ("toy_tool", "toy_check", "toy_model"):
        sys.modules.pop(name, None)


def test_a_tool_a_check_and_a_model_from_outside_work_in_one_run(toys: Path) -> None:
    file = toys / "goal.yaml"
    file.write_text(
        "goal: Shout it.\nid: toy\ntools: [shout]\ncheck:\n"
        "  - toy_length: {at_most: 3}\n  - toy_length: {at_most: 2}\n"
    )
    registry, settings = open_registry(), Settings(home=toys / "home", model="parrot:hey", memory=False)
    (goal,) = load_goals(file, tool_names(registry))
    store = open_store(settings)
    result = Runner(store, open_model(settings), registry).run(goal)
    assert (result.answer, result.model, registry.source("shout")) == ("HEY", "parrot:hey", "plugin toys")
    assert [(check["kind"], check["passed"], check["detail"]) for check in result.checks] == [
        ("toy_length", True, "the answer has 3 characters"),
        ("toy_length", False, "the answer has 3 characters, wanted at most 2"),
    ]


def test_mistakes_in_what_other_packages_offer_name_the_package(toys: Path) -> None:
    file = toys / "goal.yaml"
    file.write_text(
        "goal: x\ncheck:\n  - toy_length: {at_mots: 3}\n  - toy_length: {at_most: 3, unit: m}\n"
        "  - toy_broken: {}\n  - toy_other: {}\n  - zzz: {}\n"
    )
    found = {(problem.line, problem.message): problem.suggestion for problem in validate(file)}
    assert found[(3, "unknown field `at_mots`")] == "at_most"
    assert found[(4, "unknown field `unit` (there are at_most)")] == ""
    said = {line: message for line, message in found if line > 4}
    assert said[5].startswith("check `toy_broken` of toys: AttributeError: ")
    assert said[6] == "check `toy_other` of toys: toy_tool:shout defines no Check of this kind"
    assert said[7].startswith("unknown check `zzz` (there are answer, calls, ") and "toy_length" in said[7]
    with pytest.raises(UsageError, match="models of kind mute, from toys, cannot be loaded: ModuleNotFound"):
        open_model(Settings(home=toys, model="mute:x"))
