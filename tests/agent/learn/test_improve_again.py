"""Improving again: rounds, resumed and undone improvements, and what happens to runs meanwhile."""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.pupil import RIGHT, School, goals, run_of, study, words

from autogpt import tool
from autogpt.agent.learn import promotion
from autogpt.agent.learn.collect import collect
from autogpt.agent.learn.improve import Improvement, ImproveOptions, ImproveReport, improve
from autogpt.agent.learn.work import improvements, lock, read_lines
from autogpt.agent.record.store import RunStore
from autogpt.cli.parser import main
from autogpt.llm.registry import ModelRegistry
from autogpt.llm.training.trainer import Report
from autogpt.memory.experience import Experience
from autogpt.memory.goals import family_hash, is_held_out
from autogpt.settings import load
from autogpt.tools.registry import Registry

pytestmark = pytest.mark.usefixtures("nano_in_use")


def stop(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize("named", ["", "nano"])
def test_a_round_begins_with_what_the_one_before_promoted(named: str) -> None:
    reports: list[ImproveReport] = []
    improve(
        load(model=named),
        ImproveOptions(method="sft", attempts=2, rounds=2),
        goals=goals(24),
        gate_goals=goals(40, 5000),
        trainer=School,
        on_round=reports.append,
    )
    assert [report.parent for report in reports] == ["nano", "nano@1"]
    assert [report.figures.goals for report in reports] == [24, 24]


def test_a_resumed_improvement_has_the_goals_it_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Improvement, "collect", stop)
        study()
    report = study(goals=())
    assert report.figures.goals == 24 and report.decision == "promoted"


def test_what_is_trained_on_is_on_disk_before_training(isolated: Path) -> None:
    """A kill while training may change nothing: the checkpoint belongs to these samples."""

    class Looking(School):
        def finetune(self, on_step: Any, **config: Any) -> Report:
            (begun,) = improvements(isolated)
            assert (begun.state.figures.samples or 0) > 0
            return super().finetune(on_step, **config)

    assert study(Looking).decision == "promoted"


def test_a_run_that_is_alike_to_a_judging_goal_is_not_learned_from(store: RunStore) -> None:
    judging = goals(40, 5000)
    taught = [text for text in words(20, 9000) if not is_held_out(family_hash(text))]
    same = next(goal.goal for goal in judging if not is_held_out(family_hash(goal.goal)))
    run_of(store, 1, same, RIGHT)
    run_of(store, 2, taught[0], RIGHT)
    report = study(gate_goals=judging)
    assert report.figures.refused == {"alike to a goal that judges": 1}
    assert report.figures.past_runs == 1


def test_what_a_person_undid_is_not_promoted_again(
    nano_in_use: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Experience, "record_training", stop)  # it is in use, and does not know yet
        study()
    assert nano_in_use.current() == "nano@1" and nano_in_use.rollback() == "nano"
    report = study()
    assert report.decision == "kept" and "went back" in report.reason
    assert nano_in_use.current() == "nano"


def test_a_model_replaced_on_trial_hands_its_trial_on(store: RunStore, isolated: Path) -> None:
    for number in range(30):
        run_of(store, number, f"old{number} x y", RIGHT)
    assert promotion.start_canary_release(isolated, store, "nano@1", "nano", 0.0)
    for number in range(3):  # too few to compare the next one with
        run_of(store, 100 + number, f"mid{number} x y", RIGHT, model="nano@1")
    assert promotion.start_canary_release(isolated, store, "nano@2", "nano@1", 0.0)
    kept = json.loads((isolated / "models" / "trial.json").read_text())
    assert (kept["version"], kept["parent"]) == ("nano@2", "nano")
    # another lineage: nothing to compare
    assert not promotion.start_canary_release(isolated, store, "nano@4", "nano@3", 0.0)


def test_nothing_is_half_forgotten_while_an_improvement_is_under_way(
    store: RunStore, isolated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(store, 1, "abq abw abz", RIGHT)
    assert study().decision == "promoted"
    held = lock(isolated)
    try:
        for command in (["experience", "forget", run], ["runs", "remove", run]):
            assert main(command) != 0
            assert "under way" in capsys.readouterr().err
    finally:
        held.release()
    assert [one.run for one in collect(store, load()).learnable()] == [run]


def test_results_of_the_gate_hold_only_for_the_same_tools() -> None:
    def played(description: str) -> str:
        def tide(harbour: str) -> str:
            return harbour

        tide.__doc__ = description
        registry = Registry()
        registry.register(tool(tide))
        trainer = SimpleNamespace(fingerprint=lambda adapter: "weights")
        asked: Any = SimpleNamespace(registry=registry, trainer=trainer)
        return Improvement.played_as(asked, None)

    assert played("Height of the tide.") == played("Height of the tide.") != played("Its height.")


def test_grpo_has_the_time_of_practice_as_well() -> None:
    from autogpt.agent.learn.methods import named

    assert named("sft").share("train") == pytest.approx(0.35)
    assert named("grpo").share("train") == pytest.approx(0.75) and named("grpo").share("practise") == 0


def test_private_takes_back_what_an_improvement_kept_and_names_the_model(
    store: RunStore, isolated: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A conversation that was learned from is gone on with, and made private."""
    turns = isolated / "turns.json"
    turns.write_text('[{"name": "finish", "arguments": {"answer": "ok"}}]')
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello there.\n"))
    assert main(["chat", "--model", f"scripted:{turns}"]) == 0
    run = store.resolve_run("last")
    report = study()
    report.folder.joinpath("runs.jsonl").write_text(json.dumps({"run": run, "held_out": False}) + "\n")
    Experience(store.database).record_training(report.version, [run], parent="nano")
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", io.StringIO("/private\n"))
    assert main(["resume", run, "--model", f"scripted:{turns}"]) == 0
    out = capsys.readouterr().out
    assert "no model learns from this" in out and "nano@1 was trained on" in out
    assert not (report.folder / "attempts.jsonl").exists()


def test_replayed_is_only_what_the_model_was_trained_on(isolated: Path, tmp_path: Path) -> None:
    from autogpt.agent.learn.samples import replay_count, replay_samples, shipped_replay

    file = tmp_path / "base.jsonl"
    line = '{"ids": [1, 2, 3], "mask": [0, 0, 1], "prefix": 1, "kind": "base"}\n'
    file.write_text(line * 9, encoding="utf-8")
    report = study(options=ImproveOptions(attempts=2, replay_data=(file,), replay=0.2))
    rows = list(read_lines(report.folder / "samples.jsonl"))
    kept = report.figures.kept or 0
    assert sum(row["kind"] == "base" for row in rows) == min(9, replay_count(kept, 0.2)) > 0
    assert study(options=ImproveOptions(method="sft")).figures.replayed == 0  # nano is no version of small
    small = "df3134c6ba870124af37983bb13ee62ec52942bed58ec1bf8527fd7d291ec82b"
    drawn = Counter(row["kind"] for row in replay_samples(shipped_replay(small), 90, 0))
    assert len(drawn) == 9 and set(drawn.values()) == {10}  # of every kind alike, conversations too
    assert replay_samples(shipped_replay(small), 0, 0) == [] == shipped_replay("0" * 64)
