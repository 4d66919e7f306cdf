"""The value head: fitted, calibrated and refused as it should be; ranking candidates and ending runs."""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autogpt.agent.goals.load import Goal
from autogpt.agent.open import heads_folder, open_model, with_model
from autogpt.agent.record.events import Event, ModelTurn, RunStarted
from autogpt.agent.run.loop import Stop, Think, decide
from autogpt.agent.run.rollout import Episode, Rollout
from autogpt.cli.parser import main
from autogpt.errors import ModelUnavailable, UsageError
from autogpt.llm.engine.value_head import FILE, SURENESS, ValueHead, sureness
from autogpt.llm.kv.cache import Cache
from autogpt.llm.message import CallSpec, Message, Prompt, Sampling, ToolCall, Turn
from autogpt.llm.models.best_of import best
from autogpt.llm.models.local import LocalModel, value_in
from autogpt.llm.nn.build import make_forward
from autogpt.llm.nn.forward import FusedForward
from autogpt.llm.registry import NANO
from autogpt.llm.training.card import read_card
from autogpt.llm.training.fit_value_head import (
    Outcome,
    assess,
    auc,
    fit_value,
    write_value,
)
from autogpt.settings import load
from autogpt.tools.registry import builtins

CALLS = (CallSpec("finish", {"type": "object", "properties": {"answer": {"type": "string", "maxLength": 8}},
                             "required": ["answer"], "additionalProperties": False}),)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> LocalModel:
    return LocalModel.load(str(NANO), device="cpu", dtype="float32")


def prompt(session: str, text: str = "hello") -> Prompt:
    return Prompt(session, (Message("user", text),), CALLS, Sampling(max_tokens=24))


def made_up(goals: int = 60, attempts: int = 4, width: int = 6, seed: int = 0) -> list[Outcome]:
    """Outcomes whose chance is a known logistic function of the first input."""
    rng = random.Random(seed)
    found = []
    for goal in range(goals):
        for _ in range(attempts):
            x = [rng.gauss(0, 1) for _ in range(width)]
            won = rng.random() < 1 / (1 + 2.718281828 ** (-2.5 * x[0]))
            found.append(Outcome(f"goal {goal}", torch.tensor(x), won))
    return found


def head_of(model: LocalModel, weight: float = 1.0, bias: float = 0.0) -> ValueHead:
    width = int(model.loaded.config.hidden_size) + SURENESS
    return ValueHead(
        model.fingerprint, torch.zeros(width), torch.ones(width), torch.full((width,), weight), bias
    )


def test_a_state_is_the_cold_forward_s_and_costs_few_rows(
    model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[list[int]] = []
    hidden = FusedForward.hidden

    def counting(
        forward: FusedForward, batch: Sequence[tuple[Cache, Sequence[int]]], *more: Any, **named: Any
    ) -> torch.Tensor:
        rows.append([len(ids) for _, ids in batch])
        return hidden(forward, batch, *more, **named)

    model.engine.clear()
    asked = [prompt("a"), prompt("b", "good morning")]
    turns = model.respond(asked)
    with monkeypatch.context() as patch:
        patch.setattr(FusedForward, "hidden", counting)
        states = model.states(asked, turns)
        again = model.states(asked, turns)
    assert max(rows[0]) <= 4, "what the turn has computed is not computed again"
    assert rows[1:] == [[1, 1]], "and what the state has computed is kept"
    assert torch.allclose(again, states, atol=1e-4)
    forward = make_forward(model.loaded.model, model.loaded.config)
    for one, turn, state in zip(asked, turns, states, strict=True):
        ids = [*model.tokenizer.encode_messages(one.messages, continue_assistant=True).ids, *turn.ids]
        cold = forward.hidden([(forward.new_cache(), ids)])[0]
        assert torch.allclose(state, cold, atol=1e-4)
    said = Message("assistant", turns[0].text, turns[0].ids)
    longer = [replace(asked[0], messages=(*asked[0].messages, said, Message("user", "and now?")))]
    kept = model.respond(longer)[0]
    model.engine.clear()
    assert model.respond(longer)[0].ids == kept.ids, "the session goes on as if nobody had looked"


def test_sureness_counts_what_the_model_chose() -> None:
    turn = Turn(None, "", ids=(1, 2, 3), origins="sfc", logprobs=(-1.0, 0.0, -3.0))
    assert sureness(turn) == (-2.0, -3.0, -4.0, 2.0)
    assert sureness(Turn(None, "")) == (0.0, 0.0, 0.0, 0.0)


def test_fitting_finds_the_chance_and_says_how_well(tmp_path: Path) -> None:
    head, report = fit_value(made_up(150), "f" * 64)
    fresh = made_up(300, seed=9)
    inputs, won = torch.stack([o.inputs for o in fresh]), torch.tensor([float(o.won) for o in fresh])
    said = assess(head.logits(inputs).sigmoid(), won, [o.goal for o in fresh])
    assert said.auc > 0.85 and said.within > 0.8 and said.ece < 0.08 and said.brier < 0.17
    assert report.auc > 0.75 and report.goals == 150 and sum(n for *_, n in report.bins) == report.turns
    path = write_value(head, report, tmp_path)
    assert path.stat().st_size < 1_000_000
    assert read_card(tmp_path)["scores"]["value head"]["auc"] == round(report.auc, 4)
    assert "value head" in (tmp_path / "README.md").read_text()
    loaded = ValueHead.load(path, "f" * 64, 6 - SURENESS)
    assert torch.allclose(loaded.logits(inputs), head.logits(inputs), atol=0.02)


def test_what_cannot_be_fitted_is_one_clear_line() -> None:
    with pytest.raises(UsageError, match="30 goals or more"):
        fit_value(made_up(10), "f")
    with pytest.raises(UsageError, match="runs that succeeded and runs that failed"):
        fit_value([replace(outcome, won=True) for outcome in made_up(60)], "f")


def test_auc_by_hand() -> None:
    assert auc(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0.0, 0.0, 1.0, 1.0])) == 0.75
    assert auc(torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0])) == 0.5
    assert auc(torch.tensor([0.5, 0.6]), torch.tensor([1.0, 1.0])) == 0.5


def test_a_head_of_other_weights_or_a_damaged_one_is_refused(
    model: LocalModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, width = tmp_path / FILE, int(model.loaded.config.hidden_size)
    head_of(model).save(path)
    assert ValueHead.load(path, model.fingerprint, width).fingerprint == model.fingerprint
    for fingerprint, size in (("0" * 64, width), (model.fingerprint, width + 1)):
        with pytest.raises(ModelUnavailable, match="belongs to another model"):
            ValueHead.load(path, fingerprint, size)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelUnavailable, match="is damaged"):
        ValueHead.load(path, model.fingerprint, width)
    assert value_in(tmp_path / "none", model.loaded) is None
    with caplog.at_level(logging.WARNING):
        assert value_in(tmp_path, model.loaded) is None
    assert "is damaged" in caplog.text
    head_of(model).save(path)
    assert value_in(tmp_path, model.loaded) is not None
    shutil.rmtree(tmp_path)


def turn_of(answer: str, logprob: float) -> Turn:
    call = ToolCall("finish", {"answer": answer})
    return Turn(call, call.text(), ids=(1,), origins="s", logprobs=(logprob,))


def test_agreement_and_chance_decide_before_sureness() -> None:
    turns = [turn_of("a", -0.1), turn_of("b", -2.0), turn_of("b", -3.0), Turn(None, "x", invalid="cut")]
    assert best(turns) == 0
    assert best(turns, chances=[0.5, 0.4, 0.3, None]) == 1, "two that agree, 0.7 in all"
    assert best(turns, chances=[0.8, 0.4, 0.3, None]) == 0
    assert best(turns[3:], chances=[None]) == 0


def test_candidates_are_ranked_by_the_head_and_the_chance_is_recorded(model: LocalModel) -> None:
    model.engine.clear()
    head = head_of(model, weight=0.02)
    rolled: dict[bool, list[ModelTurn]] = {}
    for with_head in (False, True):
        model.value = head if with_head else None
        try:
            goal = Goal.model_validate({"goal": "hello", "limits": {"steps": 2}})
            episode = Rollout(model, builtins(), best_of=4).run([goal])[0]
        finally:
            model.value = None
        rolled[with_head] = [event for event in episode.events if isinstance(event, ModelTurn)]
    assert all(turn.value is None for turn in rolled[False])
    assert all(turn.value is not None and 0 <= turn.value <= 1 for turn in rolled[True] if not turn.invalid)
    assert any(turn.value is not None for turn in rolled[True])


def test_a_single_answer_is_judged_only_where_a_limit_asks(model: LocalModel) -> None:
    model.value = head_of(model, weight=0.0, bias=-3.0)  # a chance of 5 % whatever is said
    try:
        plain = Goal.model_validate({"goal": "hello", "limits": {"steps": 5}})
        doubted = Goal.model_validate({"goal": "hello", "limits": {"steps": 9, "chance": 0.1}})
        first, second = Rollout(model, builtins()).run([plain, doubted])
    finally:
        model.value = None
    assert all(event.value is None for event in first.events if isinstance(event, ModelTurn))
    turns = [event for event in second.events if isinstance(event, ModelTurn)]
    assert all(abs((turn.value or 0) - 0.0474) < 1e-3 for turn in turns if not turn.invalid)
    assert second.result is not None and len(turns) <= 3


def test_the_rule_reads_recorded_chances_only() -> None:
    def events(*chances: float | None, chance: float = 0.2) -> list[Event]:
        started = RunStarted(run="r", goal={"goal": "x"}, limits={"steps": 20, "chance": chance})
        return [started, *(ModelTurn(text="?", call=None, value=value) for value in chances)]

    for told, stopped in (
        (events(0.1, 0.1), False),
        (events(0.1, 0.1, 0.1), True),
        (events(0.1, 0.3, 0.1), False),
        (events(0.1, 0.1, 0.1, chance=0.0), False),
    ):
        request = decide(told, {})
        doubted = isinstance(request, Stop) and "chance of success was below 20 %" in request.cause.replace(
            "%", " %"
        )
        assert doubted == stopped
    request = decide(events(0.1), {})
    assert isinstance(request, Think) and request.judged and request.prompt("s", Sampling()).sampling.judged
    request = decide(events(0.1, chance=0.0), {})
    assert isinstance(request, Think) and not request.prompt("s", Sampling()).sampling.judged


def test_last_states_start_from_what_another_session_holds(model: LocalModel) -> None:
    model.engine.clear()
    ids = list(range(5, 105))
    first = model.engine.last_states([("one", ids)])
    rows = model.engine.stats.rows
    second = model.engine.last_states([("two", [*ids, 7])])
    assert model.engine.stats.rows - rows < 90
    assert first.shape == second.shape and not torch.equal(first, second)


def test_a_head_is_fitted_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], isolated: Path
) -> None:
    """The attempts are nano's own; their verdicts are set here, because nano achieves nothing by itself."""
    from autogpt.agent.learn import value_head as judging

    suite = tmp_path / "suite.jsonl"
    goals = [
        {"goal": f"say {n}", "limits": {"steps": 1}, "check": [{"answer": {"number": n}}]} for n in range(16)
    ]
    suite.write_text("".join(json.dumps(goal) + "\n" for goal in goals))
    tried = []
    row_of = judging.row_of

    def told(episode: Episode, opened: judging.Watched) -> judging.Row:
        row = row_of(episode, opened)
        tried.append(episode.name)
        return {**row, "won": len(tried) % 2 == 0}

    monkeypatch.setattr(judging, "row_of", told)
    monkeypatch.setattr("autogpt.llm.training.fit_value_head.LEAST_GOALS", 16)
    arguments = ["model", "judge", str(suite), "--attempts", "2", "--model", "nano", "--device", "cpu"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "auc" in said and "--best-of N uses it" in said
    assert len(tried) == 32 == len(set(tried)), "each attempt has a session, and so draws, of its own"
    settings = with_model(load(model="nano", device="cpu"))
    model = open_model(settings)
    assert isinstance(model, LocalModel) and model.value is not None
    assert model.value.fingerprint == model.fingerprint
    folder = heads_folder(settings, model.fingerprint)
    assert len(list((folder / "parts").glob("*.pt"))) == 2 and (folder / FILE).exists()
    assert main(arguments) == 0 and len(tried) == 32, "what was tried is not tried again"
    for change, words in ((["--attempts", "1"], "at least 2"), (["--limit", "0"], "no goal has a check")):
        assert main([*arguments, *change]) == 2
        assert words in capsys.readouterr().err
