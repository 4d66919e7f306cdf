"""Goals from a user's own files: every answer is what the tools give, and bad folders are one line."""

from __future__ import annotations

import csv
import json
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from autogpt.agent.goals.compare import normal_text, same_items
from autogpt.agent.goals.load import load_goals
from autogpt.agent.goals.model import Goal
from autogpt.agent.open import open_registry
from autogpt.agent.practice import chores, generate, queries
from autogpt.agent.practice.fields import View, role_of, singular, words_of
from autogpt.agent.practice.folder import read_folder
from autogpt.agent.practice.generate import answer_check, given_away, practise
from autogpt.agent.run.rollout import Rollout
from autogpt.cli.parser import main
from autogpt.errors import UsageError
from autogpt.llm.message import ToolCall
from autogpt.llm.models.scripted import ScriptedModel
from autogpt.tools.base import ToolContext, merge_facts
from autogpt.tools.tables.tools import TablesDescribe, TablesQuery

PLANTS = """plant,bed,planted,height_cm,buds
fern,shade,2023-04-02,40,0
rose,south,2023-05-11,90,12
iris,south,2023-05-20,60,4
mint,shade,2023-06-01,30,2
sage,south,2023-06-15,55,7
lily,pond,2023-07-03,80,9
moss,shade,2023-07-20,5,1
reed,pond,2023-08-08,150,3
"""
BEDS = "bed,soil\nshade,clay\nsouth,sand\npond,silt\nterrace,gravel\n"


@pytest.fixture
def garden(tmp_path: Path) -> Path:
    folder = tmp_path / "garden"
    folder.mkdir()
    (folder / "plants.csv").write_text(PLANTS)
    (folder / "beds.csv").write_text(BEDS)
    (folder / "spring.txt").write_text("Cut the roses.\nOrder compost.\n")
    (folder / "autumn.txt").write_text("Collect leaves.\nCover the fountain.\nEmpty the fountain.\n")
    return folder


def shelf(folder: Path, tmp_path: Path, seed: int = 0) -> Any:
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    return read_folder(folder, scratch, random.Random(seed))


def test_every_query_gives_its_answer_in_the_goal_s_own_workspace(garden: Path, tmp_path: Path) -> None:
    """What the expert would ask, run in a workspace with nothing but the goal's inputs, meets the check."""
    rng = random.Random(1)
    views: list[View] = shelf(garden, tmp_path).views
    kinds = set()
    for _ in range(250):
        view = rng.choice(views)
        made = queries.draft(view, rng)
        check = None if made is None else answer_check(made, view)
        if made is None or check is None:
            continue
        kinds.add(("join " if view.joined else "") + made.kind)
        context = ToolContext(garden)
        for path in view.inputs:
            found = TablesDescribe().run({"path": path}, context)
            context.facts = merge_facts(context.facts, found.facts)
        value = TablesQuery().run(made.query, context).value
        [wanted] = check["answer"].values()
        assert same_items(value, wanted if isinstance(wanted, list) else [wanted]), made
        assert not any(given_away(item, made.question) for item in value), made
        narrowed = TablesQuery().narrow(context.facts, ())
        assert narrowed and made.query["select"][0] in json.dumps(narrowed)
    assert {"lookup", "list", "count", "compute", "extreme", "top", "group", "join list"} <= kinds


def test_a_goal_of_the_suite_is_met_by_the_right_query_only(garden: Path, tmp_path: Path) -> None:
    out = tmp_path / "practice.jsonl"
    assert main(["practice", str(garden), "--out", str(out), "--count", "40"]) == 0
    goals = {goal.goal: goal for goal in load_goals(out)}
    assert len(goals) == 40
    goal = next(goal for goal in goals.values() if goal.category == "lookup")
    [check] = goal.check
    [wanted] = check.model_dump(exclude_none=True).values()

    def status(value: Any) -> str:
        turns = [ToolCall("plan", {"steps": [{"tool": "tables.query", "purpose": "x"}]}),
                 ToolCall("finish", {"answer": str(value)})]  # fmt: skip
        episode = Rollout(ScriptedModel(turns), open_registry()).run([goal])[0]
        assert episode.result
        return episode.result.status

    assert (status(wanted), status("nonsense")) == ("achieved", "not_met")


def test_the_suite_is_distinct_repeatable_and_leaves_the_folder_alone(
    garden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in garden.iterdir()}
    out = garden / "practice.jsonl"
    assert main(["practice", str(garden), "--out", str(out), "--count", "60", "--seed", "7"]) == 0
    first = out.read_text()
    assert main(["practice", str(garden), "--out", str(out), "--count", "60", "--seed", "7"]) == 0
    assert out.read_text() == first, "the suite itself is no input, and the seed decides"
    assert {path: path.read_bytes() for path in garden.iterdir() if path != out} == before
    records = [json.loads(line) for line in first.splitlines()]
    assert len({normal_text(record["goal"]) for record in records}) == len(records) == 60
    assert all(
        name in ("plants.csv", "beds.csv", "spring.txt", "autumn.txt")
        for r in records
        for name in r["inputs"]
    )
    assert {"files", "join", "lookup"} <= {record["category"] for record in records}
    assert "60 goals: " in capsys.readouterr().out
    assert main(["validate", str(out)]) == 0
    assert main(["practice", str(garden), "--count", "5"]) == 0
    printed = capsys.readouterr().out.splitlines()[-5:]
    assert all(Path(name).is_absolute() for line in printed for name in json.loads(line)["inputs"])


def test_words_that_search_would_misread_are_not_asked_for() -> None:
    texts = {
        "a.txt": "Open the car door.\nAsk the carpenter.\n",
        "b.txt": "Nothing here.\nstock: 12\ncode: 7\n",
    }
    rng = random.Random(0)
    found = [chore for _ in range(300) if (chore := chores.draw(texts, rng))]
    assert not any(chore.asked == "carp" or chore.asked == "car" for chore in found)
    assert {chore.kind for chore in found} == {"which file", "count lines", "read", "copy", "rename"}
    assert all("12" not in chore.question for chore in found if chore.asked == "stock")


def test_formats_and_odd_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from openpyxl import Workbook

    folder = tmp_path / "odd"
    folder.mkdir()
    book = Workbook()
    sheet = book.active
    assert sheet is not None
    for row in csv.reader(PLANTS.splitlines()):
        sheet.append([int(cell) if cell.isdigit() else cell for cell in row])
    book.save(folder / "plants.xlsx")
    conn = sqlite3.connect(folder / "shop.sqlite")
    conn.execute("CREATE TABLE sales (item TEXT, shop TEXT, price REAL)")
    conn.execute("CREATE TABLE one (item TEXT)")
    conn.executemany(
        "INSERT INTO sales VALUES (?, ?, ?)", [(f"item{n}", "ab"[n % 2], n * 1.5) for n in range(9)]
    )
    conn.commit()
    conn.close()
    (folder / "double.csv").write_text(
        "name,score,score,team\n" + "".join(f"n{i},{i * 3 % 7},{i},{'ab'[i % 2]}\n" for i in range(7))
    )
    (folder / "weird.csv").write_text('"!!",,"a | b\nc"\n' + "".join(f"{i},{i},x{i}\n" for i in range(9)))
    (folder / "broken.csv").write_text('a,b\n1,"2\n')
    (folder / "binary.txt").write_bytes(b"\x00\x01")
    with (folder / "huge.csv").open("w") as file:
        file.write("customer,region,spent\n")
        file.writelines(f"customer {n},{'north' if n % 3 else 'south'},{n * 7 % 991}\n" for n in range(6000))
    out = tmp_path / "odd.jsonl"
    assert main(["practice", str(folder), "--out", str(out), "--count", "120"]) == 0
    said = capsys.readouterr().out
    for note in (
        "shop.sqlite, one: a table of one column gives no questions; left out",
        "double.csv: columns that stand twice are left out: score, score_2",
        "broken.csv line 2: broken quoting",
        "binary.txt: is not text; left out",
        "huge.csv: more than 5,000 rows; goals bring 500 of them, as CSV",
    ):
        assert note in said
    records = [json.loads(line) for line in out.read_text().splitlines()]
    sampled = [record for record in records if "huge.csv" in record.get("files", {})]
    assert sampled and all(
        len(r["files"]["huge.csv"].splitlines()) == 501 and "inputs" not in r for r in sampled
    )
    assert {Path(r["inputs"][0]).suffix for r in records if "inputs" in r} >= {".xlsx", ".sqlite", ".csv"}
    assert any("sales table" in record["goal"] for record in records)
    assert not any("score" in record["goal"] for record in records)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, "holds nothing to make goals of; wanted: .csv"),
        (lambda folder: (folder / "one.csv").write_text("a\n1\n2\n3\n4\n5\n"), "a table of one column"),
        (lambda folder: (folder / "few.csv").write_text("a,b\n1,2\n"), "a table of 1 rows"),
        (lambda folder: (folder / "x.xlsx").write_text("no"), "is not a readable XLSX file"),
    ],
)
def test_a_folder_without_questions_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any, said: str
) -> None:
    make(tmp_path)
    assert main(["practice", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_bad_arguments_are_one_line(garden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        ([str(tmp_path / "none")], "no such folder"),
        ([str(garden), "--count", "0"], "--count must be at least 1"),
        ([str(garden), "--out", str(garden / "plants.csv")], "must end with .jsonl"),
        ([str(garden), "--out", str(tmp_path / "none" / "x.jsonl")], "no such folder"),
    ):
        assert main(["practice", *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert (garden / "plants.csv").read_text() == PLANTS


def test_few_questions_are_said_and_answers_are_worth_asking(tmp_path: Path) -> None:
    (tmp_path / "tiny.csv").write_text("who,what\na,x\nb,x\nc,y\nd,x\n")
    made = practise(tmp_path, count=60)
    assert 3 <= len(made.goals) < 60
    assert any("60 were asked for" in line for line in made.lines())
    with pytest.raises(UsageError, match="none of its tables and texts"):
        folder = tmp_path / "same"
        folder.mkdir()
        (folder / "same.csv").write_text("who,what\n" + "".join(f"{who},\n" for who in "abcd"))
        practise(folder)


def test_roles() -> None:
    counted = list(range(100, 110))
    assert role_of("delivery", "integer", [5, 9, 1, 2], "deliveries") == "key"
    assert role_of("row_id", "integer", [5, 9, 1, 2], "t") == "key"
    assert role_of("anything", "integer", counted, "t") == "key"
    assert role_of("year", "integer", [1999, 2001, 2001, 2004], "t") == "year"
    assert role_of("price", "real", [1.5, 2.0, 2.5, 3.0], "t") == "measure"
    assert role_of("day", "text", ["2024-01-01", "2024-01-02", "2024-02-03", "2024-02-04"], "t") == "date"
    assert role_of("town", "text", ["a", "b", "a", "b"], "t") == "group"
    assert role_of("name", "text", ["a", "b", "c", "d"], "t") == "label"
    assert role_of("column_2", "text", ["a", "b", "c", "d"], "t") is None
    assert role_of("empty", "text", [None, None, None, "d"], "t") is None
    assert [singular(word) for word in ("deliveries", "boxes", "orders", "status", "glass")] == [
        "delivery", "box", "order", "status", "glass"]  # fmt: skip
    assert (words_of("daysLate"), words_of("days_late"), words_of("GDP")) == ("days late", "days late", "GDP")


def test_trivial_answers_are_refused(garden: Path, tmp_path: Path) -> None:
    view = next(v for v in shelf(garden, tmp_path).views if v.title == "plants" and not v.joined)

    def kept(question: str, whole: bool = False, **query: Any) -> bool:
        made = queries.Draft("count", {"table": "plants", **query}, question, whole)
        return answer_check(made, view) is not None

    assert kept("How many are in the shade?", select=["count(*)"], where=[["bed", "=", "shade"]])
    assert not kept("How many, 3 or so?", select=["count(*)"], where=[["bed", "=", "shade"]]), "gives it away"
    assert not kept("How many?", select=["count(*)"], where=[["bed", "=", "attic"]]), "finds nothing"
    assert not kept("How many?", select=["count(*)"], where=[["height_cm", ">", 1]]), "is the whole table"
    assert not kept("Which beds?", select=["bed"], where=[["height_cm", ">", 50]]), "says a value twice"
    assert kept("The mean height?", whole=True, select=["avg(height_cm)"])
    assert isinstance(generate.practise(garden, 3).goals[0], dict) and Goal.model_validate(
        generate.practise(garden, 1).goals[0]
    )
