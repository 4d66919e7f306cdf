"""Forgetting runs: what improvements keep of them on disk is deleted with them.

An improvement that could learn from a forgotten run loses everything but its figures: attempts, samples,
examples and the candidate's folder are deleted, and its page is drawn again without them. One that is under
way ends, and the old model stays. The gate's stored results are deleted too: it can play again. Versions in
the registry stay; ``Experience.models_that_saw`` names those that were trained on a forgotten run.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from ...files import replace_file
from .page import page
from .work import improvements, lock


def forget_runs(home: Path, runs: Iterable[str]) -> list[str]:
    """Delete what improvements keep of ``runs``; returns the improvements that had kept any.

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
            replace_file(work.state.page, page(work))
        shutil.rmtree(home / "improve" / "gate", ignore_errors=True)
    finally:
        held.release()
    return [work.state.id for work in known]
