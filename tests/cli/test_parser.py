"""The command line as a whole: every command leads somewhere, and none loads more than it needs."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autogpt.cli.parser import build_parser

LOADED = (
    "import sys; from autogpt.cli import main; code = main({argv!r}); print('LOADED', code, *sys.modules)"
)


def commands(parser: argparse.ArgumentParser, name: str = "autogpt") -> Iterator[tuple[str, str]]:
    """Yield every command with the ``module:function`` that carries it out."""
    if call := parser.get_default("call"):
        yield name, call
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, inner in action.choices.items():
                yield from commands(inner, f"{name} {word}")


def test_every_command_leads_to_a_function() -> None:
    found = dict(commands(build_parser()))
    assert len(found) > 40
    for name, call in found.items():
        module, _, function = call.partition(":")
        home = importlib.import_module(f".{module}", "autogpt.cli")
        assert callable(getattr(home, function)), name


def loaded(argv: list[str], folder: Path) -> tuple[int, set[str]]:
    """Run a command in a process of its own; return its exit code and the modules that it loaded."""
    code = LOADED.format(argv=argv)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, timeout=120
    )
    status, *modules = done.stdout.rpartition("LOADED ")[2].split()
    return int(status), set(modules)


def test_running_a_goal_loads_nothing_of_training(tmp_path: Path) -> None:
    (tmp_path / "deliveries.csv").write_text("supplier,status\nNordfracht,late\nBlitz,on time\n")
    query = {"table": "deliveries", "select": ["supplier"], "where": [["status", "=", "late"]]}
    turns = [
        {"name": "plan", "arguments": {"steps": [{"tool": "tables.query", "for": "who was late"}]}},
        {"name": "tables.query", "arguments": query},
        {"name": "finish", "arguments": {"answer": "$2"}},
    ]
    (tmp_path / "s.json").write_text(json.dumps(turns))
    status, modules = loaded(
        ["run", "Who was late?", "deliveries.csv", "--model", "scripted:s.json"], tmp_path
    )
    assert status == 0 and "autogpt.agent.run.runner" in modules
    assert not {
        name for name in modules if name.startswith(("autogpt.llm.training", "torch", "transformers"))
    }


@pytest.mark.parametrize("argv", [["runs", "list"], ["tools", "list"], ["model", "list"], ["experience"],
                                  ["memory", "list"], ["version"]])  # fmt: skip
def test_commands_that_only_look_load_no_torch(argv: list[str], tmp_path: Path) -> None:
    status, modules = loaded(argv, tmp_path)
    assert status == 0 and "torch" not in modules
