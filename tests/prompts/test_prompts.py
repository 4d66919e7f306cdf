"""The prompts: strict templates, a short system text, one hash over all of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from autogpt import prompts
from autogpt.agent.run.workbench import opening
from autogpt.errors import DefectError
from autogpt.llm.models.scripted import ScriptedModel
from autogpt.llm.text.tokenizer import ChatTokenizer
from autogpt.text import Prompting
from autogpt.tools.registry import builtins

LINES = [
    prompts.ToolLine("look", {"properties": {"a": {}, "b": {}}, "required": ["a"]}, "looks at a"),
    prompts.ToolLine("rest", {}, "does nothing"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The templates in a folder that a test may change."""
    copied = tmp_path / "prompts"
    shutil.copytree(prompts._FOLDER, copied, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(prompts, "_FOLDER", copied)
    caches = (prompts._environment, prompts._variables, prompts.prompt_hash)
    for cached in caches:
        cached.cache_clear()
    yield copied
    monkeypatch.undo()
    for cached in caches:
        cached.cache_clear()


def test_texts_show_tools_handles_and_results() -> None:
    system = prompts.system(LINES)
    assert system.splitlines()[-2:] == ["look(a, b?): looks at a", "rest(): does nothing"]
    seen = [prompts.Observation("$1", "look x", "one row"), prompts.Observation(None, "rest", "error: no")]
    assert prompts.goal("Count", LINES[1:], seen) == (
        "rest(): does nothing\nGoal: Count\n$1 = look x: one row\nrest: error: no"
    )
    assert prompts.said("And now?", [], seen[:1]) == "And now?\n$1 = look x: one row"
    assert prompts.observation(seen[0]) == "$1 = one row"
    assert prompts.observation(seen[1]) == "error: no"


def test_texts_are_not_templates() -> None:
    """What a user or a file says is shown as it is, markup and all."""
    text = "{{ 1 + 1 }} {% for %} <b>&amp;</b>"
    assert text in prompts.goal(text, [], [prompts.Observation("$1", "x", text)])
    assert prompts.goal(text, [], [prompts.Observation("$1", "x", text)]).count(text) == 2


@pytest.mark.parametrize("change", ["{{ user }}", "{{ tools[0].nothing }}"])
def test_a_template_cannot_ask_for_what_it_is_not_given(folder: Path, change: str) -> None:
    place = folder / "system.jinja"
    place.write_text(place.read_text() + change)
    with pytest.raises(Exception, match=r"system\.jinja.*user|has no attribute 'nothing'"):
        prompts.system(LINES)


def test_a_template_must_use_what_it_is_given(folder: Path) -> None:
    (folder / "said.jinja").write_text("{{ text }}")
    with pytest.raises(DefectError, match=r"prompts/said\.jinja: .*observations"):
        prompts.said("hello", [], [])


@pytest.mark.parametrize(("prompting", "other"), [("names", "teaching.jinja"), ("teaching", "system.jinja")])
def test_the_hash_covers_every_template_that_the_model_reads(
    folder: Path, prompting: Prompting, other: str
) -> None:
    first = prompts.prompt_hash(prompting)
    seen = {first}
    read = [place for place in sorted(folder.glob("*.jinja")) if place.name != other]
    for place in [*read, folder / other]:
        before = place.read_text()
        place.write_text(before + " ")
        prompts.prompt_hash.cache_clear()
        seen.add(prompts.prompt_hash(prompting))
        place.write_text(before)
    assert len(seen) == 1 + len(read) >= 6
    prompts.prompt_hash.cache_clear()
    assert prompts.prompt_hash(prompting) == first


def test_system_and_core_calls_are_short(chat_folder: Path) -> None:
    """At most 300 tokens; with the tools, at most 300 of the base, whose tokens hold 3.5 characters."""
    started = opening("r", {"goal": "x"}, ScriptedModel([]), builtins().select(), {})
    core = prompts.system([])
    assert all(f"\n{name}(" in core for name in ("plan", "finish", "ask"))
    assert ChatTokenizer(chat_folder).count(core) <= 300
    tools = [prompts.ToolLine(spec.name, spec.parameters, spec.description) for spec in started.tools]
    assert len(prompts.system(tools)) <= 300 * 3.5
    assert started.prompt_hash == prompts.texts_hash(tools)
    other = [*tools[:-1], prompts.ToolLine(tools[-1].name, tools[-1].parameters, "something else")]
    assert prompts.texts_hash(other) != prompts.texts_hash(tools)
