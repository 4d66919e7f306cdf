"""Every method trains for real inside an improvement: nano's weights move, and the card says how.

What plays is a pupil, since nano achieves nothing; what it tries is in nano's own tokens, so samples, pairs,
ratings and rounds of attempts go through the trainers as they do for a big model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.pupil import Pupil, School, goals, study

from autogpt.agent.learn.improve import ImproveOptions
from autogpt.agent.learn.trainer import Trainer
from autogpt.agent.learn.work import read_lines
from autogpt.errors import UsageError
from autogpt.llm.models.local import LocalModel
from autogpt.llm.registry import NANO, ModelRegistry, facts_of
from autogpt.llm.text.tokenizer import ChatTokenizer

pytestmark = pytest.mark.usefixtures("nano_in_use")


class Real(School):
    """Trains as a user's machine does."""

    finetune, prefer, reinforce = Trainer.finetune, Trainer.prefer, Trainer.reinforce  # type: ignore[assignment]
    log_probabilities = Trainer.log_probabilities

    def load(self, adapter: Path | None) -> Any:
        trained = adapter is not None and "rounds" not in str(adapter) and self.subject.adapter != adapter
        return self.models.setdefault(adapter, Pupil(self.taught if trained else self.start, "pupil"))


@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "grpo"])
def test_a_method_trains_weights_and_is_promoted(method: str, nano_in_use: ModelRegistry) -> None:
    attempts = 4 if method == "dpo" else 2
    options = ImproveOptions(method=method, attempts=attempts, epochs=1, replay=0.0)
    report = study(Real, options, goals=goals(24))
    assert (report.method, report.decision) == (method, "promoted"), report.reason
    folder = nano_in_use.folder(nano_in_use.show(report.version))
    facts = facts_of(folder)
    assert (
        facts["method"] == method
        and (report.figures.steps or 0) > 0
        and report.figures.loss == report.figures.loss
    )
    moved = load_file(folder / "adapter_model.safetensors")
    second = [value for name, value in moved.items() if "lora_B" in name]
    assert second and any(torch.count_nonzero(value) for value in second)  # LoRA begins with B at zero
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "a first adapter on the whole model nano" in card and "| Trained from | nano |" in card
    steps = [row["step"] for row in read_lines(report.folder / "curve.jsonl")]
    assert steps == sorted(set(steps)) and steps
    text = report.page.read_text(encoding="utf-8")
    assert "<svg" in text and all(row.category in text for row in report.rows)
    if method == "grpo":
        tries = [row["tries"] for row in read_lines(report.folder / "rewards.jsonl")]
        assert tries == sorted(tries) and tries[-1] == report.figures.tries


def test_full_trains_all_weights_and_the_result_is_a_model(
    nano_in_use: ModelRegistry, isolated: Path
) -> None:
    options = ImproveOptions(attempts=2, epochs=1, replay=0.0, full=True)
    report = study(Real, options)
    assert (report.method, report.decision) == ("sft", "promoted"), report.reason
    found = nano_in_use.resolve(report.version)
    assert found.adapter is None and isinstance(found.source, Path)
    before = load_file(NANO / "model.safetensors")
    after = load_file(found.source / "model.safetensors")
    assert before.keys() == after.keys()
    moved = [name for name, value in before.items() if not torch.equal(value.half(), after[name].half())]
    assert len(moved) > len(before) / 2
    assert "a whole model: nano, all weights trained further" in nano_in_use.card(report.version)
    model = LocalModel.load(found.source, device="cpu", dtype="float32", cache_dir=isolated / "cache")
    assert model.tokenizer.fingerprint == ChatTokenizer(NANO).fingerprint
    again = study(Real, options)  # it is improved in its turn
    assert again.parent == report.version


@pytest.mark.parametrize("more", [{"method": "dpo"}, {"method": "sft", "dp_epsilon": 3.0}])
def test_full_goes_with_rejection_sampling_alone(more: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--full"):
        study(options=ImproveOptions(full=True, **more))
