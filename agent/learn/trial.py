"""The canary period: a promoted model's first live runs against those of the model it replaced.

The gate's goals are held out but not a user's own; so after a promotion the first :data:`RUNS` live runs
that earned a reward are compared with the old model's last ones, at 10 and at 20 of them. When the new
model's success is lower than chance explains (Fisher's exact test, one-sided, 2.5 % at each look), the old
model is in use again, and the command that noticed says so. The state is ``models/trial.json`` in the home.

A model that is replaced while it is on trial itself hands its trial on: the newer one is compared with the
last model that had enough runs, and that one returns if it is worse.

Limits: rewards come from checks and ratings, so runs without either do not count; with fewer than
:data:`LEAST_OLD` rewarded runs of the old model there is nothing to compare with, and no trial.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...files import replace_file
from ...llm.registry import ModelRegistry
from ...memory.experience import is_solved
from ...settings import Settings
from ..record.rewards import reward_of
from ..record.store import RunInfo, RunStore

RUNS = 20
LOOKS = (10, 20)
ALPHA = 0.025
LEAST_OLD = 10
OLD = 100
"""How many of the old model's last rewarded runs are compared with."""


def begin(home: Path, store: RunStore, version: str, parent: str, now: float) -> bool:
    """Begin the trial of ``version``; returns False where there is nothing to compare with."""
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
    _file(home).parent.mkdir(parents=True, exist_ok=True)
    replace_file(_file(home), json.dumps(trial).encode())
    return True


def look(settings: Settings, store: RunStore) -> str:
    """Look at the trial that is under way, if any; returns what a person should know, or nothing."""
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
        p = fisher_worse(solved, size, before, of)
        told = (
            f"{version} achieved {solved} of its first {size} live runs, {parent} {before} of its last {of}"
        )
        if p < ALPHA:
            registry.use(parent)
            _file(settings.home).unlink(missing_ok=True)
            return f"{told} (p = {p:.2g}): {parent} is in use again"
        trial["looked"] = size
        replace_file(_file(settings.home), json.dumps(trial).encode())
        if size == RUNS:
            _file(settings.home).unlink(missing_ok=True)
            return f"{told}: {version} stays, its trial is over"
    return ""


def fisher_worse(solved: int, size: int, before: int, of: int) -> float:
    """Return P(at most ``solved`` of ``size``) if both succeed alike, given all successes (Fisher, 1922)."""
    total, wins = size + of, solved + before
    ways = math.comb(total, size)
    least = max(0, size - (total - wins))
    return (
        sum(math.comb(wins, k) * math.comb(total - wins, size - k) for k in range(least, solved + 1)) / ways
    )


def _outcomes(store: RunStore, model: str, since: float, newest: bool = False) -> Sequence[bool]:
    """Return which of the model's live runs with a reward were achieved, oldest first unless ``newest``."""
    infos: list[RunInfo] = [
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
