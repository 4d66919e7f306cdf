"""Promotion of a candidate, and its canary release: the trial of its first live runs.

A candidate becomes a version in the registry and the model in use, once. The version's facts name the
improvement that made it, so a promotion that was killed between adding and using resumes with that version.

The gate's goals are held out but not the user's own. So the first :data:`RUNS` live runs after a promotion
that earned a reward are compared with the replaced model's last ones, at 10 and at 20 of them. If the new
model's success is lower than chance explains (Fisher's exact test, one-sided, 2.5 % at each look), the old
model comes back into use, and the command that noticed says so. The state is ``models/trial.json`` in the
home. A model that is replaced during its own canary release hands it on: the newer one is compared with the
last model that had enough runs, and that one returns if it is worse.

Limits: rewards come from checks and ratings, so runs without either do not count; with fewer than
:data:`LEAST_OLD` rewarded runs of the old model there is nothing to compare with, and no canary release.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from ...files import replace_file
from ...llm.registry import ModelRegistry, facts_of
from ...memory.experience import is_solved
from ...settings import Settings
from ..record.rewards import reward_of
from ..record.store import RunStore

if TYPE_CHECKING:
    from .trainer import Subject
    from .work import Work

TRIAL = Path("models") / "trial.json"
RUNS = 20
LOOKS = (10, 20)
ALPHA = 0.025
LEAST_OLD = 10
OLD = 100
"""How many of the old model's last rewarded runs are compared with."""


def _versions(home: Path) -> dict[str, dict[str, Any]]:
    """Return the facts of the registry's versions, by reference."""
    registry = ModelRegistry(home)
    return {version.reference: facts_of(registry.folder(version)) for version in registry.list()}


def promoted(home: Path, improvement: str) -> str:
    """Return the version that an improvement added, or an empty string."""
    found = (name for name, facts in _versions(home).items() if facts.get("improvement") == improvement)
    return next(found, "")


def undone(home: Path, work: Work) -> bool:
    """Return whether a person rolled back the version that ``work`` added to its parent."""
    registry = ModelRegistry(home)
    version = promoted(home, work.state.id)
    return bool(version) and (registry.current(), registry.before()) == (work.state.parent, version)


def method_of(home: Path, reference: str) -> str:
    """Return the method by which an improvement made this version; empty for any other model."""
    return str(_versions(home).get(reference, {}).get("method", ""))


def root_of(home: Path, reference: str) -> str:
    """Return the first model of a version's lineage; the reference itself if it has no parent."""
    known = {version.reference: version.parent for version in ModelRegistry(home).list()}
    seen: set[str] = set()
    while known.get(reference) and reference not in seen:
        seen.add(reference)
        reference = known[reference]
    return reference


def promote(home: Path, work: Work, subject: Subject) -> str:
    """Add the candidate and put it into use; returns its reference. May be called again after a kill."""
    registry = ModelRegistry(home)
    reference = promoted(home, work.state.id)
    if not reference:
        folder = work.trained
        describe(folder, work, subject)
        base = str(facts_of(folder).get("base") or subject.base)
        reference = registry.add(subject.name, folder, base=base, parent=work.state.parent).reference
    if registry.current() != reference:
        registry.use(reference)
    return reference


def describe(folder: Path, work: Work, subject: Subject) -> None:
    """Write the candidate's lineage and the gate's results into its facts and card."""
    from ...llm.training.card import add_scores, write_card

    state, figures = work.state, work.state.figures
    verdict = figures.verdict
    assert verdict is not None
    facts: dict[str, Any] = {
        **facts_of(folder),
        "improvement": state.id,
        "parent": state.parent,
        "method": state.method,
        "stands": subject.relation(state.options.full),
        "successes": figures.kept or 0,
        "replayed": figures.replayed or 0,
    }
    if figures.exposure:
        facts["exposure"] = ", ".join(f"{bits:.1f}" for bits in figures.exposure)
    replace_file(folder / "autogpt.json", json.dumps(facts, indent=2))
    write_card(folder, facts)
    scores = {
        f"gate, {row.category}": {
            "n": row.n,
            "current": round(row.current, 4),
            "candidate": round(row.candidate, 4),
            "difference95": f"{row.low:+.3f} to {row.high:+.3f}",
        }
        for row in figures.rows
    }
    scores["gate, McNemar"] = {"p": f"{verdict.p:.3g}", "won": verdict.wins, "lost": verdict.losses}
    add_scores(folder, scores)


class CanaryRelease(BaseModel):
    """What ``models/trial.json`` holds: which model's live runs are compared with what."""

    version: str
    parent: str
    """The model that returns if they are worse."""
    old: tuple[int, int]
    """Its successes, of how many runs."""
    since: float
    """Seconds since 1970."""
    looked: int = 0
    """Runs of the new model at the last look."""

    def save(self, home: Path) -> None:
        """Write it."""
        replace_file(home / TRIAL, self.model_dump_json())


def under_way(home: Path) -> CanaryRelease | None:
    """Return the canary release under way; a file that cannot be read is removed: the next begins afresh."""
    try:
        return CanaryRelease.model_validate_json((home / TRIAL).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        (home / TRIAL).unlink(missing_ok=True)
        return None


def start_canary_release(home: Path, store: RunStore, version: str, parent: str, now: float) -> bool:
    """Start watching the live runs of ``version``; returns False if there is nothing to compare them with."""
    old, running = _outcomes(store, parent, 0.0, newest=True)[:OLD], under_way(home)
    if len(old) >= LEAST_OLD:
        release = CanaryRelease(version=version, parent=parent, old=(sum(old), len(old)), since=now)
    elif running is not None and running.version == parent:
        release = CanaryRelease(version=version, parent=running.parent, old=running.old, since=now)
    else:
        (home / TRIAL).unlink(missing_ok=True)
        return False
    release.save(home)
    return True


def check_canary_release(settings: Settings, store: RunStore) -> str:
    """Look at the canary release under way, if any; returns what to tell the user, or an empty string."""
    from ..evaluate.statistics import fisher  # loads numpy, and every run comes by here

    release = under_way(settings.home)
    if release is None:
        return ""
    registry, file = ModelRegistry(settings.home), settings.home / TRIAL
    version, parent = release.version, release.parent
    if registry.current() != version:  # a person has chosen another model: it is theirs to judge
        file.unlink(missing_ok=True)
        return ""
    new = _outcomes(store, version, release.since)
    for size in LOOKS:
        if release.looked >= size or len(new) < size:
            continue
        solved, (before, of) = sum(new[:size]), release.old
        p = fisher(solved, size, before, of)
        runs = f"{solved} of its first {size} live runs"
        told = f"{version} achieved {runs}, {parent} {before} of its last {of}"
        if p < ALPHA:
            registry.use(parent)
            file.unlink(missing_ok=True)
            return f"{told} (p = {p:.2g}): {parent} is in use again"
        release.looked = size
        release.save(settings.home)
        if size == RUNS:
            file.unlink(missing_ok=True)
            return f"{told}: {version} stays, its trial is over"
    return ""


def _outcomes(store: RunStore, model: str, since: float, newest: bool = False) -> list[bool]:
    """Return for the model's rewarded live runs whether they succeeded, oldest first unless ``newest``."""
    infos = [
        info
        for info in store.list_runs(limit=None)
        if info.model == model and info.mode == "goal" and info.started >= since and info.ended is not None
    ]
    found = []
    for info in infos if newest else reversed(infos):
        reward = reward_of(store.load(info.run))
        if reward is not None:
            found.append(is_solved(reward.base, reward.source))
        if len(found) == OLD:
            break
    return found
