"""From settings to the live objects that commands and the facade share: store, tools, model.

A model is named by one word everywhere: a registered name (``small``), a folder, a GGUF file or hub name,
or ``KIND:REST`` for other kinds of models: ``openai:URL#MODEL`` for a server that speaks OpenAI's protocol,
``llamacpp:FILE.gguf`` for a GGUF file that llama.cpp runs, ``langchain:PROVIDER/NAME``, and
``scripted:FILE`` for demonstrations and tests. The name that was given is the name that is recorded, so that
a resumed run finds its model again.

An installed package can add three kinds of things, each by one entry point and one file:

- ``autogpt.tools``: a :class:`~autogpt.tools.base.Tool`, a function under ``@tool``, or a callable that
  returns a list of them. Goals and plans use it by its own name (:mod:`autogpt.tools.registry`).
- ``autogpt.checks``: a subclass of :class:`~autogpt.agent.goals.checks.Check`. The entry point's name is the
  kind, as in ``- length: {at_most: 3}``.
- ``autogpt.models``: a callable that takes the REST of the name and the settings and returns a
  :class:`~autogpt.llm.message.Model`. The entry point's name is the KIND.

A tool that cannot be loaded is a warning, since runs may not need it; a check or a model that is asked for
and cannot be loaded is an error. Such code runs in this process, so installing it is trusting it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..llm.message import Model
from ..settings import Settings, bound_spinning
from ..tools.registry import Registry, builtins, load_plugins
from .record.store import RunStore

if TYPE_CHECKING:
    from .run.memories import HomeMemory

log = logging.getLogger(__name__)

MODELS = "autogpt.models"
"""Entry points of other packages' models."""
ModelProvider = Callable[[str, Settings], Model]
"""Opens a model, given what follows ``KIND:`` in its name, and the settings."""


def open_store(settings: Settings) -> RunStore:
    """Return the runs of this home; the database is made on first use."""
    return RunStore(settings.home)


def open_memory(settings: Settings, store: RunStore) -> HomeMemory | None:
    """Return the memory of this home, or None where the settings want none; it opens on first use."""
    from .run.memories import HomeMemory

    if not settings.memory:
        return None
    return HomeMemory(settings.home, store.database, embedder=settings.embedder, server=settings.chroma)


@contextmanager
def with_memory(settings: Settings, store: RunStore) -> Iterator[HomeMemory | None]:
    """Yield :func:`open_memory`'s memory, and stop what it does in the background afterwards."""
    memory = open_memory(settings, store)
    try:
        yield memory
    finally:
        if memory is not None:
            memory.close()


def open_registry(own: Iterable[object] = ()) -> Registry:
    """Return built-ins, plugins and ``own`` tools; a plugin that fails is a logged warning."""
    registry = builtins()
    for warning in load_plugins(registry):
        log.warning("%s", warning)
    for thing in own:
        registry.register(thing)
    return registry


def tool_names(registry: Registry) -> Collection[str]:
    """Return every name that a goal's ``tools`` may hold: tools and families."""
    return [*registry.select(None), *registry.families()]


def with_model(settings: Settings) -> Settings:
    """Return the settings with ``model`` filled in: the one in use where none is named."""
    if settings.model:
        return settings
    from ..llm.registry import ModelRegistry

    return settings.model_copy(update={"model": ModelRegistry(settings.home).current()})


def check_best_of(count: int, model: Model) -> int:
    """Return ``count`` candidates per turn if ``model`` can write them; raises UsageError."""
    if count < 1:
        raise UsageError("--best-of must be at least 1")
    if count > 1:
        from ..llm.models.local import LocalModel

        if not isinstance(model, LocalModel):
            raise UsageError(f"--best-of: {model.name} cannot rank candidates; take a local model")
    return count


def heads_folder(settings: Settings, fingerprint: str) -> Path:
    """Return where this home keeps the value head that was fitted for the model with ``fingerprint``."""
    return settings.home / "models" / "heads" / fingerprint[:16]


def open_model(settings: Settings) -> Model:
    """Load the model that the settings name. Raises ModelUnavailable or UsageError."""
    name = with_model(settings).model
    kind, colon, rest = name.partition(":")
    provider = _provider(kind) if colon else None
    if provider is None:
        return _local(name, settings)
    opened = provider(rest, settings)
    opened.name = name
    return opened


def _provider(kind: str) -> ModelProvider | None:
    """Return what opens models of ``kind``; None where there is no such kind."""
    if kind in PROVIDERS:
        return PROVIDERS[kind]
    for point in entry_points(group=MODELS, name=kind):
        package = point.dist.name if point.dist is not None else point.value.partition(":")[0]
        try:
            found: ModelProvider = point.load()
        except Exception as error:  # other people's code may fail in any way
            reason = f"{type(error).__name__}: {error}"
            raise UsageError(f"models of kind {kind}, from {package}, cannot be loaded: {reason}") from error
        return found
    return None


def _scripted(rest: str, settings: Settings) -> Model:
    from ..llm.models.scripted import ScriptedModel

    if not rest:
        raise UsageError("scripted: needs a file, as in scripted:turns.yaml")
    return ScriptedModel.from_file(rest)


def _langchain(rest: str, settings: Settings) -> Model:
    from ..llm.models.langchain import LangChainModel

    return LangChainModel.load(rest)


def _llamacpp(rest: str, settings: Settings) -> Model:
    bound_spinning()
    from ..llm.models.llamacpp import LlamaCppModel

    if not rest:
        raise UsageError("llamacpp: needs a file, as in llamacpp:model.gguf")
    return LlamaCppModel.load(rest, cache_dir=settings.cache)


def _openai(rest: str, settings: Settings) -> Model:
    from ..llm.models.openai import OpenAIModel

    return OpenAIModel.load(rest, settings.openai_key.get_secret_value())


def _local(name: str, settings: Settings) -> Model:
    bound_spinning()
    from ..llm.registry import ModelRegistry

    registry = ModelRegistry(settings.home)
    found = registry.resolve(name)  # a wrong name is answered before torch is imported
    from ..llm.models.llamacpp import LlamaCppModel, llamacpp_could_run, only_llamacpp_runs
    from ..llm.models.local import LocalModel, value_in

    line, source = registry.too_little_memory(found), Path(found.source)
    smaller = bool(line) and found.adapter is None and llamacpp_could_run(source)
    if smaller or only_llamacpp_runs(source, settings.cache):
        return LlamaCppModel.load(source, found.name, cache_dir=settings.cache)
    if line:
        log.warning("%s", line)
    model = LocalModel.load(
        found.source,
        adapter=found.adapter,
        device=settings.device,
        dtype=settings.dtype,
        cache_dir=settings.cache,
        name=found.name,
    )
    model.value = value_in(heads_folder(settings, model.fingerprint), model.loaded) or model.value
    return model


PROVIDERS: dict[str, ModelProvider] = {
    "scripted": _scripted,
    "langchain": _langchain,
    "openai": _openai,
    "llamacpp": _llamacpp,
}
"""Kinds of models that are built in, besides local ones."""
