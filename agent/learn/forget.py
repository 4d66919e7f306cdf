"""Forgetting runs: consent withdrawn, samples and what improvements keep of them deleted, traces cleared.

``/private`` and ``autogpt experience forget`` are :func:`forget` (the run stays, no model learns from it);
``autogpt runs remove`` is :func:`remove` (the run goes as well). Both begin with the improvements, so that
nothing is half forgotten while one is under way in another process.

An improvement that could learn from a forgotten run loses everything but its figures: attempts, samples,
examples and the candidate's folder are deleted and its page is drawn again without them. An unfinished one
ends, and the old model stays. The gate's kept results go as well: they can be played again. Versions in
the registry stay; the models that were trained on what is gone are named.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError
from ...files import replace_file
from ...memory.experience import Collected, Experience
from ...memory.upkeep.forgetting import scrub
from ...settings import Settings
from ..record.events import Consent
from ..record.rewards import Prices
from ..record.store import RunStore
from .collect import read_run
from .page import page
from .work import improvements, lock


@dataclass(frozen=True)
class Forgotten:
    """What became of runs that were to be forgotten or removed."""

    runs: list[str]
    """Those that were."""
    left: dict[str, str]
    """Those that another process holds, which are as they were, and why."""
    models: Mapping[str, Sequence[str]]
    """Models that were trained on any of ``runs``, each with those it has seen."""


def forget(
    store: RunStore,
    settings: Settings,
    runs: Sequence[str],
    by: str,
    record: Callable[[Consent], object] | None = None,
) -> Forgotten:
    """Let no model learn from ``runs`` (exact ids), and clear the database file of their samples.

    ``record``: how an event is committed to the one run that this process holds already, as a conversation
    does. Raises UserError, with nothing changed, while an improvement that has one of them is under way,
    and where there is one run and another process holds it.
    """
    forget_improvements(store.home, runs)
    done = _each(runs, lambda run: consent(store, settings, run, False, by, record))
    scrub(store.database)
    return Forgotten(*done, Experience(store.database).models_that_saw(done[0]))


def remove(store: RunStore, runs: Sequence[str]) -> Forgotten:
    """Delete ``runs`` (exact ids) for good, and clear the database file of them. Raises as :func:`forget`."""
    forget_improvements(store.home, runs)
    done = _each(runs, store.remove)
    scrub(store.database)
    return Forgotten(*done, Experience(store.database).models_that_saw(done[0]))


def _each(runs: Sequence[str], work: Callable[[str], object]) -> tuple[list[str], dict[str, str]]:
    """Return the runs that ``work`` was done for, and the others with the reason; a single one raises."""
    done, left = [], {}
    for run in runs:
        try:
            work(run)
        except UserError as error:
            if len(runs) == 1:
                raise
            left[run] = str(error)
        else:
            done.append(run)
    return done, left


def consent(
    store: RunStore,
    settings: Settings,
    run: str,
    learn: bool,
    by: str,
    record: Callable[[Consent], object] | None = None,
) -> Collected:
    """Record whether models may learn from ``run``, and return what experience now holds of it."""
    with ExitStack() as held:
        append = record or held.enter_context(store.open(run)).append
        append(Consent(learn=learn, by=by))
        live = record is not None
        found = read_run(store.load(run), Prices.of(settings), live=live, learn=settings.learn)
        Experience(store.database).put(found)
    return found


def forget_improvements(home: Path, runs: Iterable[str]) -> list[str]:
    """Delete what improvements keep of ``runs``; returns the improvements that had any of them.

    Raises UserError while an improvement is under way in another process.
    """
    gone = set(runs)
    known = [work for work in improvements(home) if gone & {row["run"] for row in work.runs.read()}]
    if not known:
        return []
    held = lock(home)
    try:
        for work in known:
            if not work.state.decision:
                work.close("a run that it could learn from was forgotten")
            for path in work.folder.iterdir():
                if path not in work.impersonal:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            replace_file(work.page, page(work))
        shutil.rmtree(home / "improve" / "gate", ignore_errors=True)
    finally:
        held.release()
    return [work.state.id for work in known]
