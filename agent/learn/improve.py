"""``autogpt improve``: runs become rewards, rewards become weights, and only a proven gain is promoted.

One improvement is a walk through five stages, each of which leaves what it made on disk (``improve_state``):
*collect* what may be learned from, *practise* goals that check themselves, *train* a candidate from the
best successes, let the *gate* play both models on held-out goals, and *decide*. Nothing before the last
step touches the model in use, so a kill at any point changes nothing, and the next call goes on there.

Limits: goals must be checkable or runs rated; a gate plays at least a hundred goals twice, and sees gains
of five points, not of one. What a tool returned is context and never a target or a reward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ...settings import Settings
from ..goals.load import Goal
from . import promotion
from .goal_split import kept_record, restored_line
from .improve_report import ImproveReport, Say
from .improvement import Improvement
from .machine import Machine, Subject, subject_of
from .work import GIVEN, Options, Work, begin, improvements, lock

__all__ = ["ImproveOptions", "ImproveReport", "improve"]

ImproveOptions = Options


def improve(
    settings: Settings,
    options: Options | None = None,
    *,
    goals: Sequence[Goal] = (),
    gate_goals: Sequence[Goal] | None = None,
    say: Say | None = None,
    machine: Callable[[Settings, Subject], Machine] = Machine,
    on_round: Callable[[ImproveReport], None] | None = None,
) -> list[ImproveReport]:
    """Improve the model in use, and return how each round ended.

    Args:
        goals: to practise on, beside those of past runs; what is alike to a goal that judges is left out.
        gate_goals: what judges, in place of the user's held-out goals and the shipped gate.
        say: hears what is being done (text, share or None, detail).
        machine: loads and trains; another one for tests.

    Raises UsageError where the model cannot be trained, UserError where another improvement is under way.
    An improvement that was interrupted goes on with the goals and options it began with.
    """
    options = options or Options()
    reports: list[ImproveReport] = []
    held = lock(settings.home)
    try:
        subject = subject_of(settings)
        work = unfinished(settings.home, subject.reference)
        if work is None:
            work = begin(settings.home, subject.reference, options, given=map(kept_record, goals))
        elif given := work.read(GIVEN):
            goals = [restored_line(line) for line in given]
        options = work.state.options
        for number in range(work.state.round, options.rounds + 1):
            if number != work.state.round:
                subject = subject_of(settings)
                work = begin(settings.home, subject.reference, options, number, map(kept_record, goals))
            one = Improvement(work, settings, machine(settings, subject), goals, gate_goals, say)
            reports.append(one.run())
            if on_round:
                on_round(reports[-1])
            if reports[-1].decision == "nothing":
                break
            settings = following(settings, reports[-1])
    finally:
        held.release()
    return reports


def following(settings: Settings, report: ImproveReport) -> Settings:
    """Return the settings to go on with: where they name a model, they name what it became."""
    named = settings.model and report.version
    return settings.model_copy(update={"model": report.version}) if named else settings


def unfinished(home: Path, current: str) -> Work | None:
    """Return the improvement to go on with; one of another model is closed, for its parent is not in use."""
    open_ones = [work for work in improvements(home) if not work.state.decision]
    for work in open_ones:
        if current not in (work.state.parent, promotion.promoted(home, work.state.id)):
            work.state.decision, work.state.reason = "kept", "another model came into use meanwhile"
            work.reach("done")
    return next((work for work in reversed(open_ones) if not work.state.decision), None)
