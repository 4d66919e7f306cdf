"""Forgetting for improvements: what they keep on disk of runs goes with the runs.

An improvement that could learn from a forgotten run loses everything but its figures: attempts, samples,
examples and the candidate's folder are deleted and its page is drawn again without them. One that is under
way ends, and the old model stays. The gate's kept results go as well: they can be played again. Versions in
the registry stay; ``Experience.models_that_saw`` names those that were trained on what is gone.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from ...files import replace_file
from .page import page
from .work import improvements, lock

FIGURES = ("state.json", "curve.jsonl", "rates.jsonl", "rewards.jsonl")
"""Files without a word or token of a run: numbers, and hashes of wordings."""


def forget_runs(home: Path, runs: Iterable[str]) -> list[str]:
    """Delete what improvements keep of ``runs``; returns the improvements that had any of them.

    Raises UserError while an improvement is under way in another process.
    """
    gone = set(runs)
    known = [work for work in improvements(home) if gone & {row["run"] for row in work.read("runs.jsonl")}]
    if not known:
        return []
    held = lock(home)
    try:
        for work in known:
            if not work.state.decision:
                work.state.decision, work.state.reason = (
                    "kept",
                    "a run that it could learn from was forgotten",
                )
                work.reach("done")
            for path in work.folder.iterdir():
                if path.name in FIGURES:
                    continue
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            replace_file(work.folder / "index.html", page(work).encode())
        shutil.rmtree(home / "improve" / "gate", ignore_errors=True)
    finally:
        held.release()
    return [work.state.id for work in known]
