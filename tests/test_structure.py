"""The house rules as tests: sizes, layers, light start-up, and a wheel that holds everything.

A number here is a decision; raise one only in a commit of its own that says why.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES = 600
FUNCTION_LINES = 60
HELP_SECONDS = 0.3
HEAVY = {"torch", "transformers", "chromadb", "langchain", "langchain_core", "sqlalchemy", "openpyxl", "rich"}
FLOORS = {
    "settings": 0,
    "errors": 0,
    "labels": 0,
    "files": 0,
    "text": 0,
    "schemas": 0,
    "llm": 1,
    "tools": 1,
    "prompts": 1,
    "memory": 2,
    "agent": 3,
    "cli": 4,
}
TOP = 4
CHECKOUT_ONLY = {"autogpt.agent.experts", "autogpt.llm.training.pretraining", "autogpt.memory.training"}
"""Packages that make training data and weights: in the repository, not in the wheel."""


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def packages() -> list[str]:
    listed: list[str] = pyproject()["tool"]["setuptools"]["packages"]
    return listed


def modules() -> dict[str, Path]:
    """Dotted names below the package (``cli``, ``llm.message``, ``llm`` for its init) and files."""
    found: dict[str, Path] = {}
    for package in (*packages(), *sorted(CHECKOUT_ONLY)):
        inner = package.split(".")[1:]
        for file in sorted(ROOT.joinpath(*inner).glob("*.py")):
            parts = inner if file.stem == "__init__" else [*inner, file.stem]
            found[".".join(parts)] = file
    return found


MODULES = modules()


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def imports(name: str, file: Path, *, at_import_time: bool) -> Iterator[str]:
    """Names of our modules that ``name`` imports; without TYPE_CHECKING blocks when at import time."""
    here = name.split(".") if file.stem == "__init__" else name.split(".")[:-1]
    here = [part for part in here if part]
    pending: list[ast.AST] = [parse(file)]
    while pending:
        node = pending.pop()
        if at_import_time and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_import_time and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        pending.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
            targets = [parts[1:] for parts in targets if parts[0] == "autogpt"]
        elif isinstance(node, ast.ImportFrom):
            targets = list(from_targets(node, here))
        else:
            continue
        for parts in targets:
            while parts and ".".join(parts) not in MODULES:
                parts = parts[:-1]
            if parts:
                yield ".".join(parts)


def from_targets(node: ast.ImportFrom, here: list[str]) -> Iterator[list[str]]:
    base = node.module.split(".") if node.module else []
    if node.level:
        base = here[: len(here) - node.level + 1] + base
    elif base[:1] == ["autogpt"]:
        base = base[1:]
    else:
        return
    for alias in node.names:
        yield [*base, alias.name]


def floor(module: str) -> int:
    return FLOORS.get(module.split(".")[0], TOP)


def room(module: str) -> str:
    """What may import freely inside itself: a folder, or one of the floor 0 and 4 files."""
    return module.split(".")[0]


@pytest.mark.parametrize(
    "folder",
    sorted(
        {str(file.parent.relative_to(ROOT)) for file in MODULES.values()}
        | {str(file.parent.relative_to(ROOT)) for file in ROOT.glob("tests/**/*.py")}
        | {str(file.parent.relative_to(ROOT)) for file in ROOT.glob("benchmarks/**/*.py")}
    ),
)
def test_sizes(folder: str) -> None:
    """Files and functions stay small enough to be read in one sitting."""
    too_long: list[str] = []
    for file in sorted((ROOT / folder).glob("*.py")):
        lines = file.read_text(encoding="utf-8").count("\n")
        if lines > FILE_LINES:
            too_long.append(f"{file.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(parse(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES:
                    too_long.append(f"{file.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines")
    assert not too_long


def test_every_package_is_listed() -> None:
    """pyproject's list is explicit, so a new folder must be added to it, or to ``CHECKOUT_ONLY``."""
    ignored = {"tests", "examples", "benchmarks", "build", "dist"}
    found = {"autogpt"}
    for file in ROOT.glob("*/**/__init__.py"):
        parts = file.relative_to(ROOT).parts[:-1]
        if parts[0] not in ignored and not parts[0].startswith("."):
            found.add(".".join(("autogpt", *parts)))
    assert not CHECKOUT_ONLY & set(packages())
    assert found == CHECKOUT_ONLY | set(packages())


def test_every_module_says_what_it_is_for() -> None:
    silent = [name for name, file in MODULES.items() if not ast.get_docstring(parse(file))]
    assert not silent


def test_layers() -> None:
    """Lower floors never reach up, and siblings do not know each other, not even in functions."""
    wrong: list[str] = []
    for name, file in MODULES.items():
        if not name:
            continue
        for target in imports(name, file, at_import_time=False):
            inside = room(name) == room(target) or floor(name) == TOP == floor(target)
            if not inside and floor(target) >= floor(name) and floor(name) != 0:
                wrong.append(f"{name} imports {target}")
            if floor(name) == 0 and floor(target) > 0:
                wrong.append(f"{name} imports {target}")
    assert set(wrong) <= {
        "agent.learn.learning imports cli.tables",  # these four: command bodies on their way to cli/
        "agent.learn.learning imports cli.memory_upkeep",
        "agent.learn.page imports cli.gate_commands",
        "agent.learn.value_head imports cli.progress",
    }


def test_training_is_not_loaded_by_what_serves() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, file in MODULES.items()
        if name and floor(name) <= 2 and not name.startswith("llm.training")
        for target in imports(name, file, at_import_time=True)
        if target.startswith("llm.training")
    ]
    assert not wrong


def test_no_import_cycles() -> None:
    """Import-time edges between modules form no loop."""
    edges = {name: set(imports(name, file, at_import_time=True)) - {name} for name, file in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            for target in edges[name]:
                visit(target, (*path, name))
            done.add(name)

    for name in edges:
        visit(name, ())


@pytest.mark.parametrize("code", ["import autogpt", "from autogpt.cli import main; main(['--help'])"])
def test_start_up_is_light(code: str, tmp_path: Path) -> None:
    """Neither the package nor its help loads a heavy library."""
    script = (
        f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint('LOADED', *sorted(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=60, check=True
    )
    loaded = set(result.stdout.rpartition("LOADED")[2].split())
    assert "autogpt" in loaded
    assert not loaded & HEAVY
    assert not list(tmp_path.iterdir())


def test_help_is_quick(tmp_path: Path) -> None:
    """Counted in processor time, so that a busy machine does not make it slow; best of five."""
    command = [sys.executable, "-m", "autogpt", "--help"]
    times = []
    for _ in range(5):
        before = os.times()
        subprocess.run(command, capture_output=True, cwd=tmp_path, timeout=60, check=True)
        after = os.times()
        user = after.children_user - before.children_user
        times.append(user + after.children_system - before.children_system)
    assert min(times) < HELP_SECONDS


def test_the_wheel_holds_every_module_and_text(tmp_path: Path) -> None:
    """Build the wheel, then import every module from it alone, away from the checkout."""
    source = tmp_path / "my-clone.x"
    skip = shutil.ignore_patterns(
        ".*", "build", "dist", "*.egg-info", "__pycache__", "runs", "benchmarks", "examples"
    )
    shutil.copytree(ROOT, source, ignore=skip)
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(source),
    ]
    subprocess.run(build, check=True, capture_output=True, timeout=100)
    (wheel,) = tmp_path.glob("autogpt-*.whl")
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        archive.extractall(unpacked)
    shipped = {
        name: file
        for name, file in MODULES.items()
        if ".".join(("autogpt", *file.relative_to(ROOT).parts[:-1])) not in CHECKOUT_ONLY
    }
    want = {f"autogpt/{file.relative_to(ROOT)}" for file in shipped.values()}
    want |= {f"autogpt/prompts/{file.name}" for file in (ROOT / "prompts").glob("*.jinja")}
    for folder in ("llm/adapters", "llm/nano", "llm/replay", "memory/weights", "agent/learn/held_out"):
        files = [
            file for file in (ROOT / folder).rglob("*") if file.is_file() and "__pycache__" not in file.parts
        ]
        want |= {f"autogpt/{file.relative_to(ROOT)}" for file in files}
    assert names == want | {"autogpt/py.typed"}
    dotted = [".".join(("autogpt", name)).rstrip(".") for name in shipped if not name.endswith("__main__")]
    script = (
        f"import importlib, autogpt\nfor name in {dotted!r}:\n    importlib.import_module(name)\n"
        "print(autogpt.__file__)"
    )
    alone = {**os.environ, "PYTHONPATH": str(unpacked)}
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=110, cwd=tmp_path, env=alone
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(unpacked / "autogpt" / "__init__.py"), (
        "something else was imported, or printed"
    )
