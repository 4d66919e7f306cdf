"""A training method is one class: what defines it is offered, chosen and run. And old state is read."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
from support.pupil import School, study

from autogpt.agent.learn.improve import ImproveOptions
from autogpt.agent.learn.methods import Method, OnStep, Say, methods
from autogpt.agent.learn.page import page
from autogpt.agent.learn.trainer import Trainer
from autogpt.agent.learn.work import Figures, Work, improvements
from autogpt.cli.parser import main
from autogpt.llm.registry import ModelRegistry, facts_of
from autogpt.llm.training.trainer import Report

pytestmark = pytest.mark.usefixtures("nano_in_use")


class Toy(Method):
    """Trains on the goals' number; all that a new method has to say."""

    name = "toy"
    unit = "goals"
    practises = False
    gate_goals = 30

    def suits(self, figures: Figures, parent: str) -> bool:
        return False

    def gather(self, work: Work) -> int:
        work.samples.write([{"goals": work.state.figures.goals}])
        return work.state.figures.goals

    def train(self, trainer: Trainer, work: Work, on_step: OnStep, say: Say) -> Report:
        return trainer.finetune(on_step, data=[work.samples.path], epsilon=None, **self.config(work))


def test_a_method_from_outside_is_offered_and_planned(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["improve", "--help"])
    assert "auto, sft, toy" in " ".join(capsys.readouterr().out.split())
    assert main(["improve", "--method", "toy", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["method"] == "toy" and told["gate"].startswith("up to 30 of")
    with pytest.raises(SystemExit):
        main(["improve", "--method", "ppo", "--dry-run"])
    assert "invalid choice: 'ppo'" in capsys.readouterr().err


def test_a_method_from_outside_trains_what_is_promoted(nano_in_use: ModelRegistry) -> None:
    report = study(School, ImproveOptions(method="toy"))
    assert (report.method, report.decision) == ("toy", "promoted") and report.figures.samples == 24
    assert facts_of(nano_in_use.folder(nano_in_use.show(report.version)))["method"] == "toy"
    assert report.figures.verdict is not None and report.figures.verdict.planned == 30
    assert not (report.folder / "attempts.jsonl").exists()  # it makes none beforehand


def test_every_shipped_method_is_a_file_of_its_own() -> None:
    folder = Path(inspect.getfile(Method)).parent
    files = {file.stem for file in folder.glob("*.py")} - {"__init__"}
    assert files == set(methods()) - {"toy"} == {"sft", "dpo", "kto", "grpo"}


OLD = {
    "id": "20261101-120000-abcd",
    "stage": "decide",
    "round": 1,
    "created": 1793534400.5,
    "parent": "nano",
    "fingerprint": "f",
    "options": {"method": "auto", "attempts": 2, "full": False},
    "method": "kto",
    "seconds": {"collect": 0.5, "practise": 3.0},
    "planned": 40,
    "facts": {
        "goals": 24,
        "own_held_out": 0,
        "dropped": {"no check": 2},
        "tries": 48,
        "solved_tries": 20,
        "kept": 18,
        "said": {"wins": 9, "losses": 3, "p": 0.04},
        "verdict": {
            "decision": "keep", "reason": "no gain beyond chance", "seen": 40, "planned": 40,
            "wins": 3, "losses": 2, "p": 1.0, "worse": [],
        },
        "rows": [
            {"category": "all", "n": 40, "current": 0.5, "candidate": 0.525, "low": -0.1, "high": 0.15,
             "worse": False, "difference": 0.025}
        ],
        "a key of another version": [1, 2],
    },
    "decision": "",
    "reason": "",
    "version": "",
}  # fmt: skip
"""``state.json`` as it was written before figures had a type."""


def test_a_state_of_an_earlier_version_opens_and_goes_on(isolated: Path) -> None:
    folder = isolated / "improve" / str(OLD["id"])
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps(OLD))
    (work,) = improvements(isolated)
    figures = work.state.figures
    assert (figures.goals, figures.kept, figures.samples) == (24, 18, None)
    assert figures.feedback is not None and (figures.feedback.wins, figures.feedback.losses) == (9, 3)
    assert figures.rows[0].difference == pytest.approx(0.025)
    report = study()
    assert (report.id, report.decision, report.reason) == (OLD["id"], "kept", "no gain beyond chance")
    assert "9 : 3" in page(improvements(isolated)[0])
    kept = json.loads((folder / "state.json").read_text())
    assert kept["facts"]["said"]["wins"] == 9 and kept["decision"] == "kept"


def test_time_spent_practising_is_on_disk_before_the_stage_ends(
    isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed cannot note it any more; its share of the budget would begin again."""
    monkeypatch.setattr("autogpt.agent.learn.improve.CHARGED_EVERY", 0.0)
    seen: list[float] = []

    def say(text: str, share: float | None, detail: str) -> None:
        if text == "practising":
            (work,) = improvements(isolated)
            seen.append(work.state.seconds["practise"])

    assert study(say=say).decision == "promoted"
    assert seen == sorted(seen) and 0 < seen[0] < seen[-1]
