"""Improving: a better model is promoted, any other is not, and a kill anywhere changes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.pupil import RIGHT, School, goals, study

from autogpt.agent.learn.improve import Improvement, ImproveOptions
from autogpt.agent.learn.work import improvements
from autogpt.llm.registry import NANO, ModelRegistry, facts_of

pytestmark = pytest.mark.usefixtures("nano_in_use")


class Worse(School):
    taught = 0.2


class Same(School):
    taught = 0.5


def test_a_better_candidate_is_promoted_and_rolled_back(nano_in_use: ModelRegistry, isolated: Path) -> None:
    report = study()
    assert (report.decision, report.version, report.parent) == ("promoted", "nano@1", "nano")
    assert nano_in_use.current() == "nano@1"
    version = nano_in_use.show("nano@1")
    facts = facts_of(nano_in_use.folder(version))
    assert (version.parent, facts["improvement"], facts["method"]) == ("nano", report.id, "sft")
    assert "gate, all" in nano_in_use.card("nano@1")
    overall = report.rows[-1]
    assert overall.category == "all" and overall.difference > 0.2
    assert report.verdict is not None and report.verdict.p < 0.05
    assert nano_in_use.rollback() == "nano"


@pytest.mark.parametrize("school", [Worse, Same])
def test_what_is_no_better_is_discarded(school: type[School], nano_in_use: ModelRegistry) -> None:
    report = study(school)
    assert report.decision == "kept" and ("worse" in report.reason or "gain" in report.reason)
    assert nano_in_use.current() == "nano" and not report.version


def test_only_successes_are_kept_each_way_once_and_never_what_judges(isolated: Path) -> None:
    report = study(goals=[*goals(24), *goals(3, 5000)])  # three goals of the gate itself
    assert report.figures.goals == 24 and report.figures.dropped == {"alike to a held-out goal": 3}
    (work,) = improvements(isolated)
    kept = work.kept.read()
    assert kept and all(attempt.base == 1.0 and RIGHT in attempt.said for attempt in kept)
    assert len({(attempt.id, attempt.said) for attempt in kept}) == len(kept)
    assert not {goal.goal for goal in work.judging.read()} & {goal.goal for goal in work.goals.read()}
    lines = work.samples.read()
    for line in lines:  # the prompt carries no loss, and something does
        assert len(line["ids"]) == len(line["mask"]) and 0 < sum(line["mask"]) < 20
        assert not any(line["mask"][: line["prefix"]])


@pytest.mark.parametrize("stage", ["collect", "practise", "train", "gate", "decide"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_stop_at_any_stage_keeps_the_old_model_and_goes_on(
    stage: str, moment: str, nano_in_use: ModelRegistry, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(Improvement, stage)

    def stopped(self: Improvement) -> None:
        if moment == "after":
            real(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Improvement, stage, stopped)
        study()
    promoted = (stage, moment) == ("decide", "after")
    assert nano_in_use.current() == ("nano@1" if promoted else "nano")
    (begun,) = improvements(isolated)
    if promoted:
        assert begun.state.decision == "promoted"
        return
    report = study(options=ImproveOptions(attempts=1, seed=5))  # other options: those it began with stand
    assert (report.id, report.decision, report.version) == (begun.state.id, "promoted", "nano@1")
    assert len(improvements(isolated)) == 1 and nano_in_use.current() == "nano@1"


def test_a_kill_between_adding_and_using_goes_on_with_the_version_that_is_there(
    nano_in_use: ModelRegistry, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: ModelRegistry, reference: str) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ModelRegistry, "use", killed)
        study()
    assert nano_in_use.current() == "nano"
    assert study().version == "nano@1" == nano_in_use.current()
    assert [version.reference for version in nano_in_use.list()][-1] == "nano@1"  # added once


def test_another_model_in_use_closes_what_was_under_way(
    nano_in_use: ModelRegistry, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(School, "finetune", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        study()
    folder = isolated / "mine"
    shutil.copytree(NANO, folder)
    nano_in_use.use(str(folder))
    report = study()
    begun = improvements(isolated)[0]
    assert begun.state.decision == "kept" and "another model" in begun.state.reason
    assert report.parent == str(folder) and report.version == "mine@1"
