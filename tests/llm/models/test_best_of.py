"""``--best-of`` from the command line to the engine, on the shipped tiny GPT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from autogpt.agent.goals.load import Goal
from autogpt.agent.record.events import ModelTurn
from autogpt.agent.run.rollout import Rollout
from autogpt.cli.parser import main
from autogpt.llm.message import Turn
from autogpt.llm.models.local import LocalModel
from autogpt.llm.registry import NANO
from autogpt.tools.registry import builtins


def test_the_driver_keeps_the_chosen_candidates_and_their_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LocalModel.load(str(NANO), device="cpu", dtype="float32")
    scored: list[str] = []

    def longest(states: object, turns: Sequence[Turn]) -> list[float]:
        scored.extend(turn.text for turn in turns)
        same = [sum(a.call == b.call for b in turns) for a in turns]  # their chances are added up
        return [len(turn.text) / count for turn, count in zip(turns, same, strict=True)]

    monkeypatch.setattr(model, "value", SimpleNamespace(chances=longest))
    goal = Goal.model_validate({"goal": "hello", "limits": {"steps": 3}})
    episode = Rollout(model, builtins(), best_of=3).run([goal])[0]
    turns = [event for event in episode.events if isinstance(event, ModelTurn)]
    assert turns and len(scored) <= 3 * len(turns)
    for turn in turns:
        assert len(turn.ids) == len(turn.forced) == len(turn.logprobs)
        assert all(0 <= place < len(turn.ids) and not turn.forced[place] for place in turn.copied)
    assert turns[0].text == max(scored[:3], key=len)


@pytest.mark.parametrize(("count", "words"), [("0", "at least 1"), ("2", "take a local model")])
def test_what_cannot_be_done_is_one_clear_line(
    count: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "s.yaml"
    script.write_text("- {name: finish, arguments: {answer: hi}}\n")
    code = main(["run", "say hello now", "--best-of", count, "--model", f"scripted:{script}"])
    assert code == 2 and words in capsys.readouterr().err
