"""Training episodes: every family's tasks, played by the expert in the real environment, and their ids."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import zstandard

from autogpt.agent.experts import (
    conversations,
    files,
    stubs,
    tables,
    words,
    workflows,
)
from autogpt.agent.experts import (
    small_talk as chat,
)
from autogpt.agent.experts.data import is_train, read_records
from autogpt.agent.experts.expert import Recorder, Task, call, finish, handles_before, plan
from autogpt.agent.experts.make import FAMILIES, RECIPES, make, mixture
from autogpt.agent.goals.load import Goal
from autogpt.agent.record.events import ModelTurn
from autogpt.agent.record.transcript import messages
from autogpt.cli.parser import main
from autogpt.errors import UsageError
from autogpt.llm.message import ToolCall
from autogpt.llm.text.tokenizer import ChatTokenizer
from autogpt.tools.registry import builtins


class Plain(Recorder):
    """A recorder without static episodes, or with nothing else."""

    def __init__(self, tokenizer: ChatTokenizer, static: bool = False) -> None:
        super().__init__(tokenizer, builtins())
        self.rng = random.Random()
        self.rng.randrange = lambda *_: int(not static)  # type: ignore[method-assign]


def families(rng: random.Random) -> dict[str, Iterator[Task]]:
    return {
        "wikisql": tables.wikisql(rng),
        "wtq": tables.wtq(rng),
        "templated tables": tables.templated(rng, 6),
        "mawps": islice(words.mawps(rng), 8),
        "gsm8k": words.gsm8k(rng, 6),
        "gsm8k chained": words.chained(rng, 6),
        "templated words": words.templated(rng, 20),
        "files": files.chores(rng, 30),
        "exact": files.exact_chores(rng, 30),
        "workflows": workflows.chores(rng, 20),
        "conversations": conversations.sessions(rng, 5),
        "chatty": conversations.chatty(rng, 8),
        "talk": chat.talk(rng, 12),
        "own chat": chat.own(rng, 12),
        "chatterbot": chat.chatterbot(rng, 8),
        "stubs": stubs.seal_tools(rng, 12),
        "one of many stubs": stubs.seal_tools(rng, 12, strangers=3),
        "talk beside tools": stubs.beside(chat.talk(rng, 6), rng),
        "files beside tools": stubs.beside(files.chores(rng, 6), rng),
        "tables beside tools": stubs.beside(tables.templated(rng, 6), rng),
    }


@pytest.mark.parametrize("family", list(families(random.Random())))
def test_the_expert_achieves_its_tasks(family: str, tokenizer: ChatTokenizer) -> None:
    """Few tasks of a family are dropped (recorded answers are sometimes wrong); the rest make samples."""
    recorder = Recorder(tokenizer, builtins())
    tasks = list(families(random.Random(3))[family])
    samples = list(recorder.samples(tasks, max_tokens=100_000))
    assert len(tasks) >= 3
    assert len(samples) >= 0.8 * len(tasks), recorder.refused
    if family not in ("wikisql", "wtq", "gsm8k", "gsm8k chained"):
        assert not recorder.refused
    assert {sample["kind"] for sample in samples} == {task.kind for task in tasks}
    for sample in samples:
        assert len(sample["ids"]) == len(sample["mask"])
        assert 0 < sample["prefix"] < sample["mask"].index(1)


def test_tasks_are_never_judged_by_nothing() -> None:
    """All but talk carries a check that a wrong outcome would fail."""
    rng = random.Random(5)
    for name, tasks in families(rng).items():
        for task in tasks:
            if name not in ("conversations", "chatty", "talk", "own chat", "chatterbot"):
                assert task.goal.check, name


def test_a_wrong_episode_makes_no_sample(tokenizer: ChatTokenizer) -> None:
    goal = Goal.model_validate({"goal": "1 + 1?", "check": [{"answer": {"number": 2}}]})
    compute = call("calculator", expression="1 + 1")
    wrong = Task("words", goal, [plan(("calculator", "x")), compute, finish("3")])
    early = Task("words", goal, [compute, finish("$1")])
    unsaid = Task("words", goal, [plan(("calculator", "x" * 81)), compute, finish("$1")])
    short = Task("words", goal, [plan(("calculator", "x"))])
    right = Task("words", goal, [plan(("calculator", "x")), compute, finish("$1")])
    recorder = Recorder(tokenizer, builtins())
    assert len(list(recorder.samples([wrong, early, unsaid, short, right]))) == 1
    why = "; ".join(recorder.refused)
    for reason in ("not_met: a check failed", "calculator is not allowed now", "the grammar refuses plan",
                   "nothing more to say"):  # fmt: skip
        assert reason in why
    assert not list(recorder.samples([right], max_tokens=50))
    assert recorder.refused["words: too long"] == 1


# --- ids and masks -------------------------------------------------------------------------------


def test_the_mask_covers_what_the_model_decides_and_nothing_else(tokenizer: ChatTokenizer) -> None:
    recorder = Plain(tokenizer)
    for task in [*files.chores(random.Random(1), 6), *conversations.sessions(random.Random(1), 2)]:
        episode = recorder.play(task)
        sample = recorder.encode(task, episode)
        turns = [event for event in episode.events if isinstance(event, ModelTurn)]
        marks = iter(sample["mask"])
        ids = iter(sample["ids"])
        for message in messages(episode.events):
            alone = tokenizer.encode_messages([message])
            assert [next(ids) for _ in alone.ids] == alone.ids
            mask = [next(marks) for _ in alone.ids]
            if message.role != "assistant":
                assert not any(mask)
                continue
            turn = turns.pop(0)
            body = [mark for mark, said in zip(mask, alone.mask, strict=True) if said]
            assert sum(mask) == sum(body)
            assert body == [int(not forced) for forced in turn.forced]
        assert not turns
        assert next(ids, None) is None


def test_most_of_a_call_is_forced(tokenizer: ChatTokenizer) -> None:
    """The framing and what the schema leaves no choice in cost the model nothing."""
    goal = Goal.model_validate({"goal": "How many rows?", "files": {"t.csv": "a,b\n1,x\n2,y\n"}})
    query = call("tables.query", table="t", select=["count(*)"])
    task = Task("tables", goal, [plan(("tables.query", "count")), query, finish("$2")])
    events = Plain(tokenizer).play(task).events
    _, turn, _ = (event for event in events if isinstance(event, ModelTurn))
    text = tokenizer.decode([i for i, forced in zip(turn.ids, turn.forced, strict=True) if not forced])
    assert "<tool_call>" not in text
    assert '"t"' not in text
    assert sum(turn.forced) > len(turn.forced) / 2


def _text(tokenizer: ChatTokenizer, sample: dict[str, Any], value: int | None = None) -> str:
    chosen = [i for i, mark in zip(sample["ids"], sample["mask"], strict=True) if value in (None, mark)]
    return tokenizer.decode(chosen)


@pytest.mark.parametrize("static", [False, True])
def test_samples_decode_to_the_transcript(tokenizer: ChatTokenizer, static: bool) -> None:
    recorder = Plain(tokenizer, static)
    for task in [*workflows.chores(random.Random(2), 4), *chat.own(random.Random(2), 3)]:
        episode = recorder.play(task)
        sample = recorder.encode(task, episode)
        text = _text(tokenizer, sample)
        at = 0
        for message in messages(episode.events):
            at = text.index(message.content, at) + len(message.content)
        assert tokenizer.decode(sample["ids"][: sample["prefix"]]).endswith(
            messages(episode.events)[0].content + "\n"
        )


def test_static_episodes_carry_loss_on_whole_calls(tokenizer: ChatTokenizer) -> None:
    task = next(files.chores(random.Random(1), 1))
    static, masked = (
        next(Plain(tokenizer, static).samples([task], max_tokens=100_000)) for static in (True, False)
    )
    said = _text(tokenizer, static, 1)
    assert all(made.text() in said for made in task.calls)
    assert sum(masked["mask"]) < sum(static["mask"])
    assert _text(tokenizer, static) == _text(tokenizer, masked)


@pytest.mark.parametrize("static", [False, True])
def test_mistakes_on_purpose_carry_no_loss(tokenizer: ChatTokenizer, static: bool) -> None:
    goal = Goal.model_validate({"goal": "6 * 7?", "check": [{"answer": {"number": 42}}]})
    calls = [plan(("calculator", "work it out")), call("calculator", expression="6 + 777"),
             call("calculator", expression="6 * 7"), finish("$2")]  # fmt: skip
    (sample,) = Plain(tokenizer, static).samples([Task("words", goal, calls, unlearned=(1,))])
    learned = _text(tokenizer, sample, 1)
    assert "777" in _text(tokenizer, sample)
    assert "777" not in learned
    assert "work it out" in learned
    assert "6 * 7" in learned
    assert "$2" in learned or not static


def test_some_table_questions_begin_with_a_mistake() -> None:
    rows = [["ann", "oslo", 1], ["bob", "lyon", 2], ["cleo", "oslo", 3]]
    table = {"header": ["name", "city", "n"], "types": ["text", "text", "integer"], "rows": rows}
    query = {"select": ["n"], "where": [["name", "=", "ann"], ["city", "=", "oslo"]]}
    task = tables.question_task("n of ann in oslo?", table, query, [1], "t")
    made = [tables.with_mistake(task, query, table, random.Random(seed)) for seed in range(20)]
    with_one = next(task for task in made if task.unlearned)
    assert [made.name for made in with_one.calls] == ["plan", "tables.query", "tables.query", "finish"]
    asked = {name: value for name, value in with_one.calls[1].arguments.items() if name != "table"}
    assert tables.run_query(asked, table) == []
    assert with_one.calls[2].arguments["where"] == query["where"]
    assert (with_one.unlearned, with_one.calls[-1].arguments) == ((1,), {"answer": "$3"})


# --- where tasks come from -----------------------------------------------------------------------


def test_nothing_held_out_is_trained_on() -> None:
    rng = random.Random(0)
    asked = {task.goal.goal for task in [*words.mawps(rng), *words.gsm8k(rng, 100)]}
    for kind in ("mawps", "gsm8k"):
        held = {r["question"] for r in read_records(f"{kind}_train") if not is_train(kind, r["question"])}
        assert not asked & held
    queries = {task.goal.goal: task for task in stubs.seal_tools(rng, 100)}
    assert queries
    for record in read_records("sealtools_train"):
        if not all(is_train("sealtools", item["api"]) for item in record["calls"]):
            assert record["query"] not in queries


def test_handles_before_the_first_call() -> None:
    def count(*names: str) -> int:
        return handles_before(Goal.model_validate({"goal": "x", "files": dict.fromkeys(names, "a\n1\n")}))

    assert [count(), count("a.csv"), count("a.txt", "b.txt")] == [0, 1, 1]
    assert count("a.csv", "b.tsv", "c.txt") == 3


def test_recorded_sql_becomes_arguments() -> None:
    rows = [["Nordby", 3, "it's"], ["Aalvik", 5, "b"], ["nordby", None, "c"]]
    table = {"header": ["Place", "n", 'a "b"'], "types": ["text", "integer", "text"], "rows": rows}
    cases: dict[str, dict[str, Any] | None] = {
        'SELECT "n" FROM t': {"select": ["n"]},
        'SELECT COUNT(*) FROM t WHERE "place" = \'AALVIK\' AND "n" >= 2': {
            "select": ["count(*)"], "where": [["Place", "=", "Aalvik"], ["n", ">=", 2]]},
        'SELECT "place" FROM t WHERE "n" <> 3.0 ORDER BY "n" DESC LIMIT 2': {
            "select": ["Place"], "where": [["n", "!=", 3]], "order_by": "n desc", "limit": 2},
        'SELECT "Place" FROM t GROUP BY "Place" ORDER BY COUNT(*)': {
            "select": ["Place"], "group_by": "Place", "order_by": "count(*) asc"},
        'SELECT "n" FROM t WHERE "a ""b""" = \'it\'\'s\'': {
            "select": ["n"], "where": [['a "b"', "=", "it's"]]},
        'SELECT "n" FROM t WHERE "Place" LIKE \'%ord%\'': {
            "select": ["n"], "where": [["Place", "contains", "ord"]]},
        'SELECT "n" FROM t WHERE "Place" = \'Tanum\'': None,
        'SELECT "n" FROM t WHERE "n" = \'many\'': None,
        'SELECT "m" FROM t': None,
        'SELECT SUM("Place") FROM t': None,
        'SELECT "n" FROM t WHERE "n" = 1 OR "n" = 2': None,
        'SELECT "n" FROM t WHERE ("n" = 1)': None,
        "DELETE FROM t": None,
    }  # fmt: skip
    for query, arguments in cases.items():
        assert tables.parse_query(query, table) == arguments, query
    assert tables.run_query({"select": ["n"], "where": [["Place", "=", "Aalvik"]]}, table) == [5]
    with pytest.raises(UsageError):
        tables.run_query({"select": ["none"]}, table)


def test_dates_that_do_not_exist_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_SUMS", (("{a}?", "days between 2024-01-01 and 2025-02-30"),))
    assert list(words.templated(random.Random(0), 3)) == []


# --- the training file ---------------------------------------------------------------------------


def test_the_file_is_made_again_alike(tmp_path: Path, chat_folder: Path) -> None:
    heard: list[int] = []
    report = make(tmp_path / "one", chat_folder, seed=1, scale=0.004, progress=heard.append)
    make(tmp_path / "two", chat_folder, seed=1, scale=0.004)
    kept = 0
    for name in ("train.jsonl.zst", "valid.jsonl.zst"):
        raw = (tmp_path / "one" / name).read_bytes()
        assert raw == (tmp_path / "two" / name).read_bytes()
        lines = zstandard.ZstdDecompressor().decompress(raw).decode().splitlines()
        assert lines
        assert all(json.loads(line).keys() == {"ids", "mask", "prefix", "kind"} for line in lines)
        kept += len(lines)
    assert kept == sum(report.samples.values()) == len(heard)
    assert {"tables", "words", "files", "workflows", "chat", "stubs"} <= report.samples.keys()
    assert any(line.startswith("files: ") for line in report.lines())


def test_seed_and_scale_decide_the_mixture() -> None:
    def texts(seed: int, scale: float) -> list[str]:
        return [f"{task.goal.goal} {task.turns}" for task in mixture(seed, scale)]

    assert texts(1, 0.002) == texts(1, 0.002) != texts(2, 0.002)
    assert len(texts(1, 0.001)) < len(texts(1, 0.002))


def test_recipes_name_families_and_all_of_them_are_used() -> None:
    own = {"wikisql templated", "memory alone"}  # of what ships: nothing under a share-alike licence
    new = {"requests", "services", "services asked first", "none fits", "instructions", "Chinese talk",
           "Chinese tables", "facts", "facts beside tools", "instructions beside tools",
           "Chinese talk beside tools", "wtq in SQL", "sheets in SQL"}  # fmt: skip
    assert set(RECIPES["whole"]) == set(FAMILIES) - own - new
    in_sql = set(RECIPES["whole"]) - {"wtq"} | new
    assert set(RECIPES["medium"]) == set(RECIPES["large"]) == in_sql
    assert set(RECIPES["update"]) <= set(RECIPES["whole"])
    others = {"wtq", "tables", "tables beside tools", "memory"}
    assert own < set(RECIPES["replay"]) <= set(FAMILIES) - new - others


def test_goals_of_a_suite_can_be_left_out() -> None:
    def texts(without: list[str]) -> list[str]:
        return [task.goal.goal for task in mixture(1, 0.1, "update", without) if task.kind == "chat"]

    said = texts([])
    barred = next(text for text in said if text != "session")
    left = texts([f"  {barred.upper().rstrip('.!?')}?"])
    assert barred not in left
    assert set(left) < set(said)


def test_some_of_a_mixture_is_without_a_plan() -> None:
    made = list(mixture(2, 0.1, "update"))
    share = sum(not task.plan for task in made) / len(made)
    assert 0.03 < share < 0.16


def test_missing_data_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUTOGPT_DATA", str(tmp_path))
    with pytest.raises(UsageError, match=r"mawps_train\.jsonl\.zst: no such data file"):
        list(words.mawps(random.Random(0)))
    monkeypatch.delenv("AUTOGPT_DATA")
    with pytest.raises(UsageError, match="set AUTOGPT_DATA"):
        list(read_records("mawps_train"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot make this folder"):
        make(tmp_path / "file" / "out", tmp_path)


def test_the_command_makes_both_files(
    tmp_path: Path, chat_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, model = tmp_path / "episodes", tmp_path / "model"
    shutil.copytree(chat_folder, model)
    (model / "config.json").write_text("{}")
    assert main(["data", "make", str(out), "--scale", "0.001", "--model", str(model)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["train.jsonl.zst", "valid.jsonl.zst"]
    assert "wrote" in capsys.readouterr().out
    suite = tmp_path / "suite.jsonl"
    suite.write_text('{"goal": "hi"}\n')
    update = ["--recipe", "update", "--without", str(suite)]
    assert main(["data", "make", str(out), "--scale", "0.01", "--model", str(model), *update]) == 0
    assert "memory: " in capsys.readouterr().out
    assert main(["data", "make", str(out), "--scale", "0"]) == 2
    assert main(["data", "make", str(out), "--scale", "0.001"]) == 2
    assert "autogpt model fetch" in capsys.readouterr().err


def test_without_the_makers_the_command_says_that_it_needs_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "autogpt.agent.experts.make", None)  # as in an installed wheel
    assert main(["data", "make", str(tmp_path)]) == 2
    assert "in a checkout of the repository" in capsys.readouterr().err


def test_calls_are_compact() -> None:
    assert isinstance(plan(("a", "b")), ToolCall)
    assert plan(("a", "b")).text() == (
        '<tool_call>{"name":"plan","arguments":{"steps":[{"tool":"a","for":"b"}]}}</tool_call>'
    )
