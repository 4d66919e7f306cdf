"""Learning from preferences: masks, direction, the shared computation, resumption, the folder written."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from autogpt.errors import UsageError
from autogpt.llm.training import adapter_run, logprobs, prefix
from autogpt.llm.training.data import Sample
from autogpt.llm.training.preference import Pair, PreferenceConfig, Rated, train_dpo, train_kto

VOCABULARY = 96


def tokens(rng: random.Random, count: int) -> tuple[int, ...]:
    return tuple(rng.randrange(1, VOCABULARY) for _ in range(count))


def pairs(count: int, seed: int = 0) -> list[Pair]:
    """Pairs after one system text; the middle third of a continuation is a tool's."""
    rng = random.Random(seed)
    head = tokens(rng, 11)
    mask = (True, True, True, False, False, False, True, True)
    return [
        Pair(head + tokens(rng, rng.randrange(9, 14)), tokens(rng, 8), mask, tokens(rng, 8), mask)
        for _ in range(count)
    ]


def thumbs(count: int) -> list[Rated]:
    made = pairs(count)
    return [
        Rated(p.context, p.chosen if i % 2 else p.rejected, p.chosen_mask, bool(i % 2))
        for i, p in enumerate(made)
    ]


def computed_rows(model: Any, rows: list[logprobs.Row]) -> list[int]:
    """How many rows each forward pass has when these are scored."""
    seen: list[int] = []
    hook = model.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    logprobs.score(model, rows)
    hook.remove()
    return seen


Make = Callable[..., PreferenceConfig]


@pytest.fixture
def make(tiny_base: Path, tiny_adapter: Path, tmp_path: Path) -> Make:
    """Makes the settings of a run in a folder of the test's own."""

    def made(out: str = "out", **more: Any) -> PreferenceConfig:
        usual = {"steps": 1, "learning_rate": 1e-3, "batch": 4, "dtype": "float32", "device": "cpu"}
        return PreferenceConfig(
            base=tiny_base, init=tiny_adapter, out=tmp_path / out, name="new", warmup=0.0, **{**usual, **more}
        )

    return made


def test_rows_that_share_tokens_score_like_each_alone_values_and_gradients(tiny_model: Any) -> None:
    rng = random.Random(3)
    head, middle, one = tokens(rng, 9), tokens(rng, 10), tokens(rng, 6)
    rows = [
        logprobs.Row([*head, *middle, *one], [False] * 19 + [True, False, True, True, True, True]),
        logprobs.Row([*head, *middle, *one[:2], *tokens(rng, 9)], [False] * 20 + [True] * 10),
        logprobs.Row([*head, *tokens(rng, 7)], [False] * 10 + [True] * 6),
    ]
    model = tiny_model
    weights = list(model.parameters())

    def alone(row: logprobs.Row) -> torch.Tensor:
        logs = model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
        wanted = [i for i, flag in enumerate(row.mask) if flag]
        return logs[[i - 1 for i in wanted], [row.ids[i] for i in wanted]]

    with torch.no_grad():  # the first two are folded together: two rows are computed, after the beginning
        assert computed_rows(model, rows) == [1, 2]
    expected = [alone(row) for row in rows]
    scale = torch.linspace(0.5, 2.0, len(torch.cat(expected)))
    wanted = torch.autograd.grad((torch.cat(expected) * scale).sum(), weights)
    for outside in (False, True):
        model.zero_grad()
        shared = logprobs.begin(model, rows, grad=True) if outside else None
        found = logprobs.score(model, rows, shared)
        torch.testing.assert_close(torch.cat(found.logprobs), torch.cat(expected), rtol=1e-4, atol=1e-5)
        (torch.cat(found.logprobs) * scale).sum().backward()
        if shared:
            prefix.backward_shared(shared)
        for weight, gradient in zip(weights, wanted, strict=True):
            torch.testing.assert_close(weight.grad, gradient, rtol=1e-3, atol=1e-5)


def test_long_rows_that_share_little_are_not_folded(tiny_model: Any) -> None:
    rng = random.Random(4)
    mask = [False, True] + [True] * 298
    head = tokens(rng, 20)
    rows = [logprobs.Row([*head, *tokens(rng, 280)], mask) for _ in range(4)]
    twins = [logprobs.Row([*rows[0].ids[:290], *tokens(rng, 10)], mask) for _ in range(4)]
    with torch.no_grad():
        assert computed_rows(tiny_model, rows) == [4]
        assert computed_rows(tiny_model, twins) == [1]


def test_dpo_takes_tokens_as_they_are_and_favours_the_chosen(
    make: Make, tiny_adapter: Path, tiny_score: Any
) -> None:
    made = pairs(4)
    report = train_dpo(make(steps=3), made, progress=lambda _: None)
    assert (report.finished, report.steps, report.samples) == (True, 3, 12)

    def margin(adapter: Path, pair: Pair) -> float:
        chosen = tiny_score(adapter, pair.context, pair.chosen, pair.chosen_mask)
        return float(chosen - tiny_score(adapter, pair.context, pair.rejected, pair.rejected_mask))

    gains = [margin(report.folder, pair) - margin(tiny_adapter, pair) for pair in made]
    assert min(gains) > 0
    # The first step's loss is that of a policy equal to its reference: log 2.
    again = train_dpo(make("one"), made, progress=lambda _: None)
    assert again.loss == pytest.approx(0.6931, abs=1e-3)


def test_kto_raises_good_answers_and_lowers_bad_ones(make: Make, tiny_adapter: Path, tiny_score: Any) -> None:
    made = thumbs(6)
    report = train_kto(make(steps=4, batch=6), made, progress=lambda _: None)
    for one in made:
        before, after = (
            tiny_score(adapter, one.context, one.ids, one.mask) for adapter in (tiny_adapter, report.folder)
        )
        moved = after - before
        assert moved > 0 if one.good else moved < 0


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_a_tools_tokens_have_no_influence_of_their_own(
    make: Make, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What carries no loss is never a target: with it as target of nothing, the loss is the same sum."""
    seen: list[tuple[list[int], list[bool]]] = []
    inner = logprobs.score

    def score(model: Any, rows: Any, shared: Any = None, temperature: float = 1.0) -> Any:
        seen.extend((list(row.ids), list(row.mask)) for row in rows)
        return inner(model, rows, shared, temperature)

    monkeypatch.setattr(logprobs, "score", score)
    monkeypatch.setattr(adapter_run, "score", score)
    settings = make()
    if method == "dpo":
        made = pairs(4)
        train_dpo(settings, made, progress=lambda _: None)
        allowed = {(*p.context, *ids): p.chosen_mask for p in made for ids in (p.chosen, p.rejected)}
    else:
        rated = thumbs(4)
        train_kto(settings, rated, progress=lambda _: None)
        allowed = {(*a.context, *b.ids): b.mask for a in rated for b in rated}
    assert len(seen) >= 8
    for ids, mask in seen:
        wanted = allowed[tuple(ids)]
        assert mask == [False] * (len(ids) - len(wanted)) + list(wanted)


def test_replayed_samples_join_the_step_and_lower_their_loss(make: Make, tiny_score: Any) -> None:
    from array import array

    rng = random.Random(5)
    kept = [Sample(tokens(rng, 6), array("i", tokens(rng, 9)), bytes([0] + [1] * 8), "t") for _ in range(3)]
    shares = {}
    for share in (0.0, 0.3):
        settings = make(str(share), steps=4, replay_share=share)
        report = train_dpo(settings, pairs(4), kept, progress=lambda _: None)
        shares[share] = sum(
            tiny_score(report.folder, (*s.prefix, s.rest[0]), tuple(s.rest[1:]), (True,) * 8) for s in kept
        )
        assert json.loads((report.folder / "card.json").read_text())["replay_share"] == share
    assert shares[0.3] > shares[0.0] + 0.1


def test_a_run_that_was_killed_goes_on_to_the_same_weights(make: Make, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def die(shown: Any) -> None:
        if shown.step == 3:
            raise Killed

    made = pairs(3)
    whole = train_dpo(make("a", steps=4), made, progress=lambda _: None)
    broken = make("b", steps=4, checkpoint_minutes=0)
    with pytest.raises(Killed):
        train_dpo(broken, made, progress=die)
    rest: list[int] = []
    resumed = train_dpo(broken, made, progress=lambda shown: rest.append(shown.step))
    assert rest == [3, 4]  # what came after the last checkpoint is done again
    one, two = (
        torch.load(folder / "checkpoint.pt", weights_only=True)["weights"]
        for folder in (tmp_path / "a", tmp_path / "b")
    )
    assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))
    assert resumed.loss == pytest.approx(whole.loss)
    with pytest.raises(UsageError, match="another run"):
        train_dpo(broken.model_copy(update={"learning_rate": 1e-4}), made, progress=lambda _: None)


def test_the_folder_says_what_was_done(make: Make) -> None:
    report = train_dpo(make(), pairs(4), progress=lambda _: None)
    card = json.loads((report.folder / "card.json").read_text())
    assert card["method"] == "dpo" and len(card["data_sha256"]) == 64 and len(card["init_sha256"]) == 64
    assert "current" in card["adapter"]
    assert "went on from" in (report.folder / "README.md").read_text()
    saved = json.loads((report.folder / "adapter_config.json").read_text())
    assert saved["r"] == 4
    assert not any("ref" in path.name for path in report.folder.iterdir() if path.suffix != ".json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen_mask": (False,) * 8}, "no token carries loss"),
        ({"chosen_mask": (True,)}, "8 ids but 1 mask values"),
        ({"context": ()}, "no context"),
    ],
)
def test_a_pair_that_teaches_nothing_is_refused(make: Make, change: dict[str, Any], message: str) -> None:
    broken = Pair(**{**vars(pairs(1)[0]), **change})
    with pytest.raises(UsageError, match=message):
        train_dpo(make(), [broken])


def test_kto_draws_by_weight_and_wants_two(make: Make) -> None:
    one, two = thumbs(2)
    heavy = Rated(**{**vars(one), "weight": 2.5})
    report = train_kto(make(batch=8, replay_share=0.0), [heavy, two], progress=lambda _: None)
    assert report.samples == 4  # 2.5 is drawn as 3, and the other once
    with pytest.raises(UsageError, match="two or more"):
        train_kto(make(), [one])
    with pytest.raises(UsageError, match="nothing to learn from"):
        train_kto(make(longest=5), [one, two])
