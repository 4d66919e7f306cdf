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

from ...files import replace_file
from ...llm.registry import ModelRegistry, facts_of
from ...memory.experience import is_solved
from ...settings import Settings
from ..record.rewards import reward_of
from ..record.store import RunStore

if TYPE_CHECKING:
    from .trainer import Subject
    from .work import Work

RUNS = 20
LOOKS = (10, 20)
ALPHA = 0.025
LEAST_OLD = 10
OLD = 100
"""How many of the old model's last rewarded runs are compared with."""


def promoted(home: Path, improvement: str) -> str:
    """Return the version that an improvement added, or an empty string."""
    registry = ModelRegistry(home)
    for version in registry.list():
        if facts_of(registry.folder(version)).get("improvement") == improvement:
            return version.reference
    return ""


def undone(home: Path, work: Work) -> bool:
    """Return whether a person rolled back the version that ``work`` added to its parent."""
    registry = ModelRegistry(home)
    version = promoted(home, work.state.id)
    return bool(version) and (registry.current(), registry.before()) == (work.state.parent, version)


def method_of(home: Path, reference: str) -> str:
    """Return the method by which an improvement made this version; empty for any other model."""
    registry = ModelRegistry(home)
    known = {version.reference: version for version in registry.list()}
    facts = facts_of(registry.folder(known[reference])) if reference in known else {}
    return str(facts.get("method", ""))


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


def start_canary_release(home: Path, store: RunStore, version: str, parent: str, now: float) -> bool:
    """Start watching the live runs of ``version``; returns False if there is nothing to compare them with."""
    old = _outcomes(store, parent, 0.0, newest=True)[:OLD]
    compared: dict[str, Any]
    if len(old) >= LEAST_OLD:
        compared = {"parent": parent, "old": [sum(old), len(old)]}
    elif (running := _read(home)) is not None and running["version"] == parent:
        compared = {"parent": running["parent"], "old": running["old"]}
    else:
        _file(home).unlink(missing_ok=True)
        return False
    trial = {**compared, "version": version, "since": now, "looked": 0}
    replace_file(_file(home), json.dumps(trial))
    return True


def check_canary_release(settings: Settings, store: RunStore) -> str:
    """Look at the canary release under way, if any; returns what to tell the user, or an empty string."""
    from ..evaluate.statistics import fisher  # loads numpy, and every run comes by here

    trial = _read(settings.home)
    if trial is None:
        return ""
    registry = ModelRegistry(settings.home)
    version, parent = str(trial["version"]), str(trial["parent"])
    if registry.current() != version:  # a person has chosen another model: it is theirs to judge
        _file(settings.home).unlink(missing_ok=True)
        return ""
    new = _outcomes(store, version, float(trial["since"]))
    for size in LOOKS:
        if trial["looked"] >= size or len(new) < size:
            continue
        solved, (before, of) = sum(new[:size]), trial["old"]
        p = fisher(solved, size, before, of)
        told = (
            f"{version} achieved {solved} of its first {size} live runs, {parent} {before} of its last {of}"
        )
        if p < ALPHA:
            registry.use(parent)
            _file(settings.home).unlink(missing_ok=True)
            return f"{told} (p = {p:.2g}): {parent} is in use again"
        trial["looked"] = size
        replace_file(_file(settings.home), json.dumps(trial))
        if size == RUNS:
            _file(settings.home).unlink(missing_ok=True)
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


def _file(home: Path) -> Path:
    return home / "models" / "trial.json"


def _read(home: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(_file(home).read_text(encoding="utf-8"))
        return {**found, "old": (int(found["old"][0]), int(found["old"][1])), "looked": int(found["looked"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        _file(home).unlink(missing_ok=True)  # it is made again with the next promotion
        return None
