"""Experience: what the journals give to learn from, what they do not, and that the split holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from autogpt.agent.learn.collect import collect, missing, read_run, runs_of
from autogpt.agent.record.events import (
    Consent,
    Correction,
    Event,
    ModelTurn,
    PersonAnswered,
    PersonSaid,
    Rating,
    RunEnded,
    RunStarted,
    ToolOutcome,
)
from autogpt.agent.record.rewards import Prices
from autogpt.agent.record.store import RunStore
from autogpt.cli.parser import main
from autogpt.errors import UserError
from autogpt.labels import Label
from autogpt.memory.experience import GoalRecord
from autogpt.memory.goals import family_hash, goal_hash, is_held_out, words_of
from autogpt.settings import load

FREE = Prices(0, 0, 0, 0)


def turn(*ids: int) -> ModelTurn:
    call = {"name": "finish", "arguments": {"answer": "4"}}
    size = len(ids)
    return ModelTurn(
        text="t",
        call=call,
        ids=list(ids),
        forced=[True] + [False] * (size - 1),
        logprobs=[0.0] + [-0.5] * (size - 1),
    )


def started(number: int, goal: str = "Count the red boats", tokenizer: str = "tok") -> RunStarted:
    run = f"20261122-{number:06d}-aaaaaa"
    return RunStarted(run=run, goal={"goal": goal}, model="small", model_hash="m1", tokenizer_hash=tokenizer)


def ended(reward: float | None = 1.0) -> RunEnded:
    return RunEnded(status="achieved" if reward else "not_met", cause="", reward=reward)


def outcome(label: Label) -> ToolOutcome:
    return ToolOutcome(call_id="c1", tool="files.read", state="done", label=label)


def record(store: RunStore, first: RunStarted, *events: Event) -> str:
    with store.create(first) as journal:
        for event in events:
            journal.append(event)
    return first.run


def on_side(held_out: bool, count: int) -> list[str]:
    """Goals without a common word, all on one side of the split."""
    letters = ("".join(chr(97 + (i // 26**k) % 26) for k in range(3)) for i in range(2000))
    goals = (f"{word}q {word}w {word}z" for word in letters)
    found = [goal for goal in goals if is_held_out(family_hash(goal)) == held_out]
    return found[:count]


def test_a_finished_run_gives_its_turns_with_masks_and_rewards(store: RunStore) -> None:
    (goal,) = on_side(False, 1)
    run = record(store, started(1, goal), turn(5, 6, 7), turn(8, 9), ended())
    experience = collect(store, load(reward_step=0.1))
    first, second = experience.samples(held_out=False)
    assert (first.run, first.seq, first.ids, first.sampled) == (run, 1, (5, 6, 7), (False, True, True))
    assert first.logprobs == (0.0, -0.5, -0.5)
    assert (first.base, first.source) == (1.0, "checks") and first.reward == pytest.approx(0.8)
    assert first.parts["steps"] == pytest.approx(0.2) and first.parts["person"] is None
    assert second.seq == 2 and second.hash != first.hash
    assert experience.samples(held_out=True) == []


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([turn(1, 2)], "not ended"),
        ([turn(1, 2), ended(None)], "no reward"),
        ([turn(), ended()], "no token ids"),
        ([turn(1, 2), outcome(Label.SECRET), ended()], "holds a secret"),
        ([turn(1, 2), ended(), Consent(learn=False)], "private"),
        ([turn(1, 2), ended(), Consent(learn=False), Consent(learn=True)], ""),
        ([turn(1, 2), outcome(Label.UNTRUSTED), ended()], ""),
    ],
)
def test_a_run_that_may_not_be_learned_from_says_why(events: Sequence[Event], reason: str) -> None:
    found = read_run([started(1), *events], FREE)
    assert found.reason == reason and bool(found.samples) == (not reason)


def test_the_setting_holds_where_nothing_was_said(store: RunStore) -> None:
    record(store, started(1), turn(1, 2), ended())
    record(store, started(2), turn(1, 2), ended(), Consent(learn=True))
    assert collect(store, load(learn=False)).stats().reasons == {"the setting `learn` is off": 1}
    assert collect(store, load()).stats().learnable == 2  # read again, as the setting changed


def test_a_later_rating_is_read_and_a_second_look_reads_nothing(store: RunStore) -> None:
    run = record(store, started(1), turn(1, 2), ended(None))
    assert collect(store, load()).stats().samples == 0
    with store.open(run) as journal:
        journal.append(Rating(value=0.75, by="ann"))
    experience = collect(store, load())
    assert experience.stats().sources == {"person": 1}
    before = experience.database.write(lambda c: c.exec_driver_sql("SELECT total_changes()").scalar())
    collect(store, load())
    assert experience.database.write(lambda c: c.exec_driver_sql("SELECT total_changes()").scalar()) == before


def test_equal_samples_are_one_with_the_mean_reward(store: RunStore) -> None:
    (goal,) = on_side(False, 1)
    for number, reward in enumerate((1.0, 0.0, 0.0, 0.0)):
        record(store, started(number, goal), turn(1, 2), turn(3, number), ended(reward))
    found = collect(store, load(reward_step=0)).samples(held_out=False)
    assert [sample.reward for sample in found if sample.ids == (1, 2)] == [0.25]
    assert len(found) == 5


def test_messages_of_a_conversation_count_alone_and_stay_on_one_side(store: RunStore) -> None:
    chat = started(1).model_copy(update={"mode": "chat"})
    said = [PersonSaid(text="one"), turn(1, 2), Rating(value=1.0), PersonSaid(text="two"), turn(3, 4)]
    found = read_run([chat, *said, Correction(turn=5, rejected="t", chosen="better")], FREE)
    assert [(s.seq, s.reward, s.chosen) for s in found.samples] == [(2, 1.0, None), (5, None, "better")]
    assert found.wording == "one"


def test_the_split_goes_by_words_and_leaks_are_not_trained_on(store: RunStore) -> None:
    assert family_hash("How many boats are over 3 m?") == family_hash("how many BOATS are over 47 m")
    assert goal_hash("Over 3 m?") == goal_hash("over  3 M?") != goal_hash("over 4 m?")
    shared = [f"common{letter}" for letter in "abcdefghi"]
    alike = [f"{' '.join(shared)} {tail[:4]}" for tail in on_side(False, 60)]
    train = next(goal for goal in alike if not is_held_out(family_hash(goal)))
    other = next(goal for goal in alike if is_held_out(family_hash(goal)))
    assert words_of(train) != words_of(other)
    (apart,) = on_side(False, 1)
    for number, goal in enumerate((train, other, apart)):
        record(store, started(number, goal), turn(number, 2), ended())
    experience = collect(store, load())
    assert experience.leaks() == [(goal_hash(train), goal_hash(other))]
    assert [sample.ids for sample in experience.samples(held_out=False)] == [(2, 2)]
    assert [sample.ids for sample in experience.samples(held_out=True)] == [(1, 2)]


def test_goals_solved_sometimes_are_drawn_first(store: RunStore) -> None:
    def weight(solved: int, attempts: int) -> float:
        return GoalRecord("g", "g", False, solved, attempts).weight

    assert weight(4, 8) == 1.0 > weight(7, 8) > weight(8, 8) > weight(100, 100) == 0.1
    always, sometimes = on_side(False, 2)
    for number in range(20):
        record(store, started(number, always), turn(1, number), ended())
        record(store, started(100 + number, sometimes), turn(2, number), ended(float(number % 2)))
    experience = collect(store, load())
    drawn = [sample.ids[0] for seed in range(20) for sample in experience.draw(10, "tok", seed)]
    assert 120 < drawn.count(2) < 200  # 74 % are expected: 1 against 0.36 on the way to equal numbers
    assert experience.draw(10, "tok", 3) == experience.draw(10, "tok", 3)
    assert len({sample.hash for sample in experience.draw(99, "tok")}) == 40


def test_samples_of_another_tokenizer_are_not_drawn(store: RunStore) -> None:
    (goal,) = on_side(False, 1)
    record(store, started(1, goal, "old"), turn(1, 2), ended())
    with pytest.raises(UserError, match="1 samples are of other tokenizers"):
        collect(store, load()).draw(5, "new")


def test_lengths_that_disagree_are_refused(store: RunStore) -> None:
    record(store, started(1), turn(1, 2), ended())
    found = read_run(store.load(started(1).run), FREE)
    damaged = replace(found, samples=[replace(found.samples[0], logprobs=(0.0,))])
    with pytest.raises(ValueError, match="differ in length"):
        collect(store, load()).put(damaged)


def test_a_conversation_that_holds_bytes_that_are_no_text_is_collected(store: RunStore) -> None:
    chat = started(1, "").model_copy(update={"mode": "chat"})
    record(store, chat, PersonSaid(text="Count \udcff boats"), turn(1, 2), ended())
    assert collect(store, load()).stats().runs == 1


def test_removing_a_run_removes_its_samples(store: RunStore) -> None:
    kept, gone = (record(store, started(n), turn(n, 2), ended()) for n in (1, 2))
    experience = collect(store, load())
    assert main(["runs", "remove", gone]) == 0
    with store.database.read() as connection:
        rows = connection.exec_driver_sql("SELECT run FROM experience_samples").scalars().all()
    assert rows == [kept] and experience.stats().runs == 1


def test_commands_show_forget_and_allow(store: RunStore, capsys: pytest.CaptureFixture[str]) -> None:
    run = record(store, started(1), turn(1, 2), ended())
    assert main(["experience", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["runs"], found["samples"], found["goals"]) == (1, 1, 1)
    assert len(found["missing"]) >= 2
    assert main(["experience", "forget", run]) == 0
    assert main(["experience", "stats"]) == 0
    out = capsys.readouterr().out
    assert "0 to learn from" in out and "private\t1" in out and "missing: 20 more goals" in out
    assert store.info(run).status == "achieved"
    assert main(["experience", "allow", run]) == 0
    assert "1 samples" in capsys.readouterr().out
    assert main(["experience", "forget", "ffff"]) == 2


def test_what_models_were_trained_on_is_kept_and_inherited(store: RunStore) -> None:
    experience = collect(store, load())
    experience.record_training("small@1", (f"r{n}" for n in (1, 2)))
    experience.record_training("small@2", ["r3"], parent="small@1")
    experience.record_training("small@2", ["r3", "r4"], parent="small@1")  # said again
    assert experience.models_that_saw(["r1"]) == {"small@1": ["r1"], "small@2": ["r1"]}
    many = [f"x{n}" for n in range(1200)]
    assert experience.models_that_saw([*many, "r4", "r3"]) == {"small@2": ["r3", "r4"]}
    assert experience.models_that_saw(["r9"]) == experience.models_that_saw([]) == {}


def test_forgetting_and_removing_name_the_models(store: RunStore, capsys: pytest.CaptureFixture[str]) -> None:
    seen, other = (record(store, started(n), turn(n, 2), ended()) for n in (1, 2))
    experience = collect(store, load())
    experience.record_training("small@7", [seen])
    for command in (["experience", "forget"], ["runs", "remove"]):
        assert main([*command, seen]) == 0
        assert f"model small@7 was trained on {seen}" in capsys.readouterr().out
        assert main([*command, other]) == 0
        assert "models: none is known" in capsys.readouterr().out
    assert experience.models_that_saw([seen]) == {"small@7": [seen]}  # the run is gone, the model is not


def test_all_runs_of_one_user_are_forgotten(store: RunStore, capsys: pytest.CaptureFixture[str]) -> None:
    begun = record(store, started(1).model_copy(update={"by": "ada"}), turn(1, 2), ended())
    rated = record(store, started(2), turn(2, 2), ended(), Rating(value=1.0, by="ada"))
    spoken = record(store, started(3), PersonAnswered(text="yes", by="ada"), turn(3, 2), ended())
    other = record(store, started(4).model_copy(update={"by": "bob"}), turn(4, 2), ended())
    busy = record(store, started(5).model_copy(update={"by": "ada"}), turn(5, 2), ended())
    experience = collect(store, load())
    experience.record_training("small@3", [rated, other])
    with store.open(busy):  # a run that is going on keeps what it has, and that is said
        assert main(["experience", "forget", "--user", "ada"]) == 1
    said, warned = capsys.readouterr()
    assert all(f"{run}: no model learns from it" in said for run in (begun, rated, spoken))
    assert f"model small@3 was trained on {rated}:" in said and f"run {busy} is as it was" in warned
    assert {sample.run for side in (True, False) for sample in experience.samples(held_out=side)} == {
        other,
        busy,
    }
    assert main(["experience", "forget", "--user", "ada"]) == 0
    assert main(["experience", "forget", "--user", "eve"]) == 2
    assert main(["experience", "forget", other, "--user", "ada"]) == 2
    assert main(["experience", "forget"]) == 2


def test_a_run_says_who_began_it(store: RunStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    plan = {"name": "plan", "arguments": {"steps": ["answer"]}}
    turns = [plan, {"name": "finish", "arguments": {"answer": "4"}}]
    (tmp_path / "s.json").write_text(json.dumps(turns), encoding="utf-8")
    model = f"scripted:{tmp_path / 's.json'}"
    assert main(["run", "What is 2 + 2?", "--model", model, "--no-memory"]) == 0
    assert runs_of(store, "ada") == [info.run for info in store.list_runs()]
    assert runs_of(store, "bob") == []


def test_enough_is_said_to_be_enough(store: RunStore) -> None:
    empty = collect(store, load()).stats()
    assert len(missing(empty)) == 3
    assert missing(replace(empty, goals=30, train_goals=25, sometimes=1)) == []
