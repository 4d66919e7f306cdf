"""Commands that only look: ``tools list``, ``validate``, ``doctor``, ``prompts show`` and ``version``.

Nothing is changed, except that ``doctor`` makes the database if there is none, because whether it can be
made is the question. ``prompts show`` really inspects the goal's inputs, in a scratch folder, and loads no
model, only its tokenizer where it is on this machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..agent.goals.load import Goal, adapt, load_goals
from ..agent.goals.load import validate as validate_goals
from ..agent.open import open_registry, open_store, tool_names, with_model
from ..agent.run.memory import NoMemory, RunMemory
from ..errors import AutoGPTError, ModelUnavailable, UsageError
from ..llm.models.scripted import ScriptedModel
from ..settings import Settings, config_files, load
from ..text import Prompting
from .models import OTHER_KINDS, others
from .runs import disk_use
from .tables import show_table, size


def tools(args: argparse.Namespace) -> int:
    """List the tools with what each may do."""
    registry = open_registry()
    chosen = registry.select(None)
    if args.json:
        for name, tool in chosen.items():
            spec = {
                "name": name,
                "description": tool.description,
                "parameters": dict(tool.parameters),
                "effect": str(tool.effect),
                "replay": str(tool.replay),
                "source": registry.source(name),
            }
            print(json.dumps(spec, ensure_ascii=False))
        return 0
    rows = [
        (name, str(tool.effect), registry.source(name), tool.description) for name, tool in chosen.items()
    ]
    show_table(("tool", "effect", "source", "what it does"), rows)
    return 0


def validate(args: argparse.Namespace) -> int:
    """Print every mistake of the goal files; exit code 2 if there is one."""
    known = tool_names(open_registry())
    mistakes = 0
    for name in args.files:
        try:
            problems = [str(problem) for problem in validate_goals(name, known)]
        except UsageError as error:
            problems = [str(error)]
        for problem in problems:
            print(problem, file=sys.stderr)
        if not problems:
            print(f"{name}: fine")
        mistakes += len(problems)
    return 2 if mistakes else 0


def version(args: argparse.Namespace) -> int:
    """Print the version."""
    from .. import __version__

    print(f"autogpt {__version__}")
    return 0


def doctor(args: argparse.Namespace) -> int:
    """Say what works on this machine and what is missing; exit code 1 if something is."""
    findings = examine(load())
    if args.json:
        print(json.dumps([vars(finding) for finding in findings], ensure_ascii=False))
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.fine else 'MISSING'} {finding.what}: {finding.detail}")
    return 0 if all(finding.fine for finding in findings) else 1


def prompts(args: argparse.Namespace) -> int:
    """Show what the model reads first for a goal, part by part, with token counts."""
    settings = with_model(load(model=args.model))
    goal = load_goals(args.goal)[0]
    parts = first_prompt(adapt(goal, args.inputs), settings)
    for part in parts:
        tokens = "" if not part.tokens else f", {part.tokens} tokens"
        print(f"--- {part.name}{tokens}")
        print(part.text)
    if any(part.tokens is None for part in parts):
        print("(no token counts: the model is not on this machine; autogpt model fetch)", file=sys.stderr)
    return 0


ENOUGH_DISK = 2_000_000_000


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    fine: bool
    detail: str
    """What was found; where it is not fine, what to do."""


def examine(settings: Settings) -> list[Finding]:
    """Look at everything that a run needs; a failing look is a finding, never an error."""
    looks: list[tuple[str, Callable[[Settings], Iterator[str]]]] = [
        ("python", _python),
        ("settings", _settings),
        ("home", _home),
        ("database", _database),
        ("device", _device),
        ("grammar", _grammar),
        ("default", _default),
        ("model", _model),
        ("memory", _memory),
        ("tools", _tools),
    ]
    findings = []
    for what, look in looks:
        try:
            findings.append(Finding(what, True, "; ".join(look(settings))))
        except (AutoGPTError, ImportError, OSError) as error:
            findings.append(Finding(what, False, " ".join(str(error).split())))
    return findings


def _python(settings: Settings) -> Iterator[str]:
    yield f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield sys.prefix


def _settings(settings: Settings) -> Iterator[str]:
    files = [str(file) for file in config_files() if file.is_file()]
    yield "from " + ", ".join(files) if files else "no configuration file; defaults and AUTOGPT_* variables"


def _home(settings: Settings) -> Iterator[str]:
    existing = next(place for place in (settings.home, *settings.home.parents) if place.is_dir())
    free = shutil.disk_usage(existing).free
    if free < ENOUGH_DISK:
        raise OSError(f"{settings.home}: only {free / 1e9:.1f} GB free; fetching a model may need 2 GB")
    yield f"{settings.home}, {free / 1e9:.0f} GB free"


def _database(settings: Settings) -> Iterator[str]:
    store = open_store(settings)
    runs = store.list_runs(limit=None)
    waiting = sum(run.status in ("interrupted", "waiting") for run in runs)
    yield f"{store.database.where}, {len(runs)} runs, {waiting} can be resumed"
    yield f"the runs' files take {size(disk_use(settings.runs))} ('autogpt runs remove --older-than 30d')"


def _device(settings: Settings) -> Iterator[str]:
    import torch

    from ..llm.nn.device import chip, probe_device

    choice = probe_device(settings.device, settings.dtype, settings.cache)
    widths = f" (linear layers in {' or '.join(choice.precisions)})" if choice.precisions else ""
    yield f"{choice.device} in {choice.dtype}{widths}, {choice.threads} threads, torch {torch.__version__}"
    if choice.device.startswith("cuda"):
        gpu = torch.cuda.get_device_properties(choice.device)
        yield f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB, compute capability {gpu.major}.{gpu.minor}"
    else:
        yield chip()


def _grammar(settings: Settings) -> Iterator[str]:
    import llguidance

    yield f"llguidance {llguidance.__version__}"


def _default(settings: Settings) -> Iterator[str]:
    from ..llm.registry import ModelRegistry, default_model

    choice = default_model()
    yield f"{choice.name} on this machine: {choice.why}"
    yield others(ModelRegistry(settings.home), choice.name)


def _model(settings: Settings) -> Iterator[str]:
    from ..llm.registry import ModelRegistry

    name = with_model(settings).model
    if name.startswith(OTHER_KINDS):
        yield name
        return
    found = ModelRegistry(settings.home).resolve(name)
    yield f"{found.name} in {found.source}"
    yield f"adapter {found.adapter}" if found.adapter else "no adapter"


def _memory(settings: Settings) -> Iterator[str]:
    from ..llm.nn.machine import memory
    from ..llm.registry import ModelRegistry

    has, name = memory(), with_model(settings).model
    free = "unknown" if has.available is None else f"{has.available / 1e9:.1f} GB"
    yield f"{free} available" + ("" if has.total is None else f" of {has.total / 1e9:.1f} GB")
    if name.startswith(OTHER_KINDS):
        return
    registry = ModelRegistry(settings.home)
    try:
        found = registry.resolve(name)
    except ModelUnavailable:  # said above
        return
    if line := registry.too_little_memory(found, has):
        raise ModelUnavailable(line)
    if needed := registry.memory_needed(found):
        yield f"{found.name} needs about {needed / 1e9:.1f} GB"


def _tools(settings: Settings) -> Iterator[str]:
    registry = open_registry()
    yield f"{len(registry.select(None))} tools: {', '.join(registry.families())}"
    yield "tools work on files and tables only: this version runs no shell, code or network tool"


@dataclass(frozen=True)
class Part:
    """One part of the prompt; ``tokens`` is None where no tokenizer is at hand."""

    name: str
    text: str
    tokens: int | None


def first_prompt(goal: Goal, settings: Settings) -> list[Part]:
    """Return the parts of the first prompt for ``goal``, in the order in which they are read."""
    from ..agent.run.rollout import Rollout

    count = _counter(settings)
    nothing = RunMemory(NoMemory()) if settings.memory else None
    model = ScriptedModel([])
    model.prompting = _prompting(settings)
    rollout = Rollout(model, open_registry(), memory=lambda goal: nothing)
    episode = rollout.open(goal)
    try:
        think = episode.advance()
    finally:
        episode.close()
    if think is None:
        return []
    parts = [(message.role, message.content) for message in think.conversation]
    schemas = [(call.name, json.dumps(call.parameters, ensure_ascii=False)) for call in think.calls]
    told = [Part(name, text, count(text) if count else None) for name, text in parts]
    return told + [Part(f"call {name} (a mask, not read: no tokens)", text, 0) for name, text in schemas]


def _prompting(settings: Settings) -> Prompting:
    """Return how the model wants to be prompted; models of other kinds were not trained here."""
    from ..llm.models.local import prompting_of
    from ..llm.registry import ModelRegistry

    if settings.model.startswith(OTHER_KINDS):
        return "teaching"
    try:
        found = ModelRegistry(settings.home).resolve(settings.model)
    except ModelUnavailable:
        return "names"
    return prompting_of(Path(found.source), found.adapter)


def _counter(settings: Settings) -> Callable[[str], int] | None:
    from ..llm.registry import ModelRegistry
    from ..llm.text.tokenizer import ChatTokenizer

    try:
        source = ModelRegistry(settings.home).resolve(settings.model).source
    except ModelUnavailable:
        return None
    return ChatTokenizer(Path(source)).count if Path(source).exists() else None
