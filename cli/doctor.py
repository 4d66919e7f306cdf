"""``autogpt doctor``: what works on this machine, what is missing, and what to do about it.

Each finding is one line. Nothing is changed, except that the database is made if it is not there,
because whether it can be made is the question.
"""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..agent.open import open_registry, open_store, with_model
from ..errors import AutoGPTError
from ..settings import Settings, config_files

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
        ("model", _model),
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
        raise OSError(f"{settings.home}: only {free / 1e9:.1f} GB free; fetching the base model needs 2 GB")
    yield f"{settings.home}, {free / 1e9:.0f} GB free"


def _database(settings: Settings) -> Iterator[str]:
    store = open_store(settings)
    runs = store.list_runs(limit=None)
    waiting = sum(run.status in ("interrupted", "waiting") for run in runs)
    yield f"{store.database.where}, {len(runs)} runs, {waiting} can be resumed"


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


def _model(settings: Settings) -> Iterator[str]:
    from ..llm.registry import ModelRegistry

    name = with_model(settings).model
    if name.startswith(("scripted:", "langchain:")):
        yield name
        return
    found = ModelRegistry(settings.home).resolve(name)
    yield f"{found.name} in {found.source}"
    yield f"adapter {found.adapter}" if found.adapter else "no adapter"


def _tools(settings: Settings) -> Iterator[str]:
    registry = open_registry()
    yield f"{len(registry.select(None))} tools: {', '.join(registry.families())}"
    yield "tools work on files and tables only: this version runs no shell, code or network tool"
