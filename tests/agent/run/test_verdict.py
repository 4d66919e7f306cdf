"""The verdict on a finished run: what ends not met and why, and which right answers are left alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.calls import finish, plan, write

from autogpt.agent.goals.load import Goal
from autogpt.agent.record.events import PersonAnswered
from autogpt.agent.record.result import RunResult, summarise
from autogpt.agent.record.rewards import reward_of
from autogpt.agent.record.store import RunStore
from autogpt.agent.run.rollout import Rollout
from autogpt.agent.run.runner import Runner
from autogpt.llm.message import ToolCall
from autogpt.llm.models.scripted import Line, ScriptedModel
from autogpt.tools.registry import Registry, builtins

TOWNS = "town,n\nOslo,3\nBergen,4\nRome,9\n"


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name, arguments)


def read(path: str) -> ToolCall:
    return call("files.read", path=path)


def move(source: str, target: str) -> ToolCall:
    return call("files.move", source=source, target=target)


def query(*conditions: list[Any], select: str = "sum(n)") -> ToolCall:
    return call("tables.query", table="t", select=[select], where=list(conditions))


def run(question: str, *script: Line, masked: bool = False, **fields: Any) -> RunResult:
    """Run a goal with a scripted model; unmasked, it may say what the loop would not offer."""
    goal = Goal.model_validate({"goal": question, **fields})
    (episode,) = Rollout(ScriptedModel(script, masked), builtins()).run([goal])
    assert episode.result is not None
    return episode.result


def ended(result: RunResult) -> tuple[str, int, str]:
    return result.status, result.exit_code, result.cause


def not_met(cause: str) -> tuple[str, int, str]:
    return "not_met", 3, cause


ANSWERED = ("answered", 0, "finished")


class World:
    """A home and a folder, for runs that deliver."""

    def __init__(self, root: Path) -> None:
        self.store = RunStore(root / "home")
        self.folder = root / "goal"
        self.folder.mkdir()

    def run(self, question: str, *script: Line, registry: Registry | None = None, **fields: Any) -> RunResult:
        goal = Goal.model_validate({"goal": question, **fields}).at(self.folder)
        return Runner(self.store, ScriptedModel(script), registry or builtins()).run(goal)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# --- statuses -------------------------------------------------------------------------------------


def test_a_run_without_checks_is_answered_and_one_with_checks_achieved() -> None:
    free = run("What is 6 * 7?", plan("calculator"), call("calculator", expression="6 * 7"), finish("$1"))
    assert (ended(free), free.checked, free.answer) == (ANSWERED, False, 42)
    check = [{"answer": {"number": 42}}]
    checked = run("What is 6 * 7?", finish("42"), check=check)
    assert (ended(checked), checked.checked) == (("achieved", 0, "finished"), True)
    wrong = run("What is 6 * 7?", finish("43"), check=check)
    assert (ended(wrong), wrong.checked) == (not_met("a check failed"), True)


def test_checks_that_did_not_run_do_not_count_as_checked() -> None:
    limits = {"steps": 1}
    result = run("What is 6 * 7?", plan("calculator"), check=[{"answer": {"number": 42}}], limits=limits)
    assert (result.status, result.checked, result.reward) == ("limit", False, 0.0)


def test_what_the_checks_say_stands_against_every_rule() -> None:
    """The input is broken, a call failed and the answer claims an effect; yet what was asked for is there."""
    result = run(
        "Delete x.txt",
        plan("files.read"),
        read("gone.txt"),
        finish("Deleted x.txt"),
        files={"t.csv": ""},
        check=[{"file": {"path": "x.txt", "exists": False}}],
    )
    assert ended(result) == ("achieved", 0, "finished")


def test_talk_stays_answered() -> None:
    for said, answer in (("Hello!", "Hello!"), ("Good morning to you", "Good morning to you"),
                         ("thanks", "You are welcome."), ("Tell me a joke", "Why did ...")):  # fmt: skip
        assert ended(run(said, finish(answer))) == ANSWERED


def test_an_unchecked_answer_has_no_reward_until_somebody_rates_it() -> None:
    goal = Goal.model_validate({"goal": "What is the capital of France?"})
    (episode,) = Rollout(ScriptedModel([finish("Paris")]), builtins()).run([goal])
    assert episode.result is not None and episode.result.reward is None
    assert reward_of(episode.events) is None


# --- 1: an input could not be read ----------------------------------------------------------------

BROKEN = {"sales.xlsx": "damaged"}
CANNOT = not_met("an input could not be read: sales.xlsx is not a readable XLSX file")


@pytest.mark.parametrize(
    "script",
    [
        [plan("tables.query"), finish("2")],
        [finish("I could not read sales.xlsx, it is damaged")],
        [plan("calculator"), call("calculator", expression="1 + 1"), finish("$1")],
        [plan("files.list"), call("files.list"), finish("2")],
        [plan("files.search"), call("files.search", text="sum"), finish("2")],
        [plan("files.write"), write("out.txt", "2"), finish("out.txt")],
    ],
)
def test_nothing_makes_up_for_an_input_that_could_not_be_read(script: list[ToolCall]) -> None:
    assert ended(run("What is the sum of sales?", *script, files=BROKEN)) == CANNOT


def test_an_input_that_only_the_model_tried_to_read_counts_too() -> None:
    script = [plan("files.read", "calculator"), read("p.jpg"), call("calculator", expression="3")]
    found = run("How many people are there?", *script, finish("$2"), files={"p.jpg": "\0\1"})
    assert ended(found) == not_met("an input could not be read: p.jpg is not text")


def test_the_file_that_the_question_names_counts_among_others() -> None:
    files = {"t.csv": TOWNS, **BROKEN}
    script = [plan("tables.query"), query(), finish("$2")]
    assert ended(run("What is the sum in sales.xlsx?", *script, files=files)) == CANNOT
    assert ended(run("What is the sum in t.csv?", *script, files=files)) == ANSWERED
    assert ended(run("What is the sum?", *script, files=files)) == ANSWERED
    which = run("Which of t.csv and sales.xlsx is damaged?", finish("sales.xlsx"), files=files)
    assert ended(which) == ANSWERED


def test_what_a_person_supplied_is_an_answer(world: World) -> None:
    ask = call("ask", question="It is damaged; what is the sum?")
    goal = Goal.model_validate({"goal": "What is the sum of sales?", "files": BROKEN})
    runner = Runner(
        world.store,
        ScriptedModel([ask, finish("2")], check=False),
        builtins(),
        ask=lambda run, asked: PersonAnswered(text="2"),
    )
    assert ended(runner.run(goal)) == ANSWERED


def test_what_something_else_supplied_is_an_answer() -> None:
    """A table that is no table is read as text, a size is listed, a sum needs no file."""
    notes = {"notes.json": '"the meeting is at ten"'}
    script = [plan("files.read"), read("notes.json"), finish("at ten")]
    assert ended(run("When is the meeting?", *script, files=notes)) == ANSWERED
    sized = [plan("files.list"), call("files.list"), finish("7 B")]
    assert ended(run("How large is the file?", *sized, files=BROKEN)) == ANSWERED
    sums = [plan("calculator"), call("calculator", expression="3 * 4"), finish("$1")]
    assert ended(run("Never mind the file, what is 3 * 4?", *sums, files=BROKEN)) == ANSWERED


# --- 2: failed and refused calls --------------------------------------------------------------------


def test_an_answer_after_nothing_but_failures_is_not_met() -> None:
    found = run("What is in a.txt?", plan("files.read"), read("a.txt"), finish("a letter"))
    assert ended(found) == not_met("the call failed: files.read: there is no file a.txt")
    wrong = [call("calculator", expression=text) for text in ("1 +", "2 +")]
    found = run("How much is it?", plan("calculator"), *wrong, plan("calculator"), finish("3"))
    assert found.cause.startswith("every call failed: calculator: ")


def test_a_refused_effect_that_was_asked_for_is_not_met() -> None:
    script = [plan("tables.query", "files.write"), query(), write("sum.txt", "{$2}"), finish("$2")]
    fields: dict[str, Any] = {"files": {"t.csv": TOWNS}, "grants": {"write": ["out/*"]}}
    found = run("Sum n and save it in sum.txt", *script, **fields)
    assert ended(found) == not_met(
        "files.write: refused: writing sum.txt is not granted (granted: out/*)"
    )
    assert ended(run("What is the sum of n?", *script, **fields)) == ANSWERED


@pytest.mark.parametrize("answer", ["B", "I cannot delete files."])
def test_an_order_that_no_call_carried_out_is_not_met(answer: str) -> None:
    files = {"odd.csv": "a,b\n1,2\n"}
    found = run("Delete odd.csv.", finish(answer), files=files)
    assert ended(found) == not_met('no call did what was asked: "Delete odd.csv"')
    moved = [plan("files.move"), call("files.move", source="odd.csv", target="even.csv"), finish("Renamed.")]
    assert ended(run("Rename odd.csv to even.csv", *moved, files=files)) == ANSWERED
    assert ended(run("Copy the first line of odd.csv here", finish("a,b"), files=files)) == ANSWERED


def test_the_name_of_the_file_that_could_not_be_read_is_no_answer() -> None:
    files = {"x.jpg": "\0\1", "y.txt": "hello"}
    script = [plan("files.read"), read("x.jpg"), finish("x.jpg")]
    found = run("What is the sum of amount?", *script, files=files)
    assert ended(found) == not_met("the call failed: files.read: x.jpg is not text")
    assert ended(run("Which file is damaged?", *script, files=files)) == ANSWERED


def test_a_failure_on_the_way_is_no_verdict() -> None:
    tries = [call("calculator", expression=text) for text in ("6 *", "6 * 7")]
    assert ended(run("What is 6 * 7?", plan("calculator"), *tries, finish("$1"))) == ANSWERED


def test_what_the_inspection_showed_needs_no_call() -> None:
    script = [plan("files.read"), read("other.txt"), finish("Oslo")]
    assert ended(run("Where is the shop in Oslo?", *script, files={"t.csv": TOWNS})) == ANSWERED


# --- 3: files for delivery --------------------------------------------------------------------------


def test_a_granted_file_that_is_missing_is_named() -> None:
    grants = {"write": ["out.txt"]}
    assert ended(run("Write hello", finish("hello"), grants=grants)) == not_met("out.txt was not written")
    script = [plan("files.write"), write("result.txt"), finish("done")]
    assert ended(run("Write hello", *script, grants=grants)) == not_met(
        "out.txt was not written: files.write: refused: writing result.txt is not granted (granted: out.txt)"
    )
    both = {"write": ["out.txt", "result.txt"]}
    assert ended(run("Write hello", *script, grants=both)) == not_met(
        "out.txt was not written; the run wrote result.txt"
    )


def test_a_delivered_file_is_no_reason() -> None:
    script = [plan("files.write"), write("out.txt"), finish("done")]
    assert ended(run("Write x", *script, grants={"write": ["out.txt"]})) == ANSWERED


def test_patterns_and_folders_name_no_file() -> None:
    for grant in ("*.txt", "**", "out/", "."):
        assert ended(run("What is new?", finish("Nothing."), grants={"write": [grant]})) == ANSWERED


def test_a_file_that_was_moved_away_is_not_missing() -> None:
    script = [plan("files.move"), move("a.txt", "b.txt"), finish("$2")]
    grants = {"write": ["a.txt", "b.txt"]}
    assert ended(run("Rename a.txt to b.txt", *script, files={"a.txt": "x"}, grants=grants)) == ANSWERED


def test_a_result_under_another_name_is_not_met(world: World) -> None:
    """Somebody changed the file while the run worked, so its own result had to go beside it."""
    out = world.folder / "out.txt"
    out.write_text("old")

    def late(_: Any) -> ToolCall:
        out.write_text("changed meanwhile")
        return write("out.txt", "new")

    result = world.run("Write new", plan("files.write"), late, finish("done"), grants={"write": ["out.txt"]})
    name = f"out.autogpt-{result.run}.txt"
    cause = f"out.txt was changed by someone else meanwhile; the result is in {name}"
    assert (ended(result), result.delivered) == (not_met(cause), [name])


def test_an_old_file_in_the_folder_is_no_delivery(world: World) -> None:
    (world.folder / "out.txt").write_text("of yesterday")
    result = world.run("Write the news", finish("done"), grants={"write": ["out.txt"]})
    assert ended(result) == not_met("out.txt was not written")


def test_a_granted_folder_needs_no_file(world: World) -> None:
    (world.folder / "reports").mkdir()
    result = world.run("Is anything new?", finish("No."), grants={"write": ["reports"]})
    assert ended(result) == ANSWERED


def test_the_verdict_is_what_is_stored_and_shown_again(world: World) -> None:
    met, missed = world.run("Hi", finish("Hi!")), world.run("Hi", finish(" "))
    assert [world.store.info(one.run).status for one in (met, missed)] == ["answered", "not_met"]
    assert summarise(world.store.load(met.run), met.journal) == met


# --- 4: what the answer says ------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["", "  \n", '""', "[]", "null"])
def test_an_empty_answer_is_not_met(answer: str) -> None:
    assert ended(run("What is the sum?", finish(answer))) == not_met("the answer is empty")


def test_an_empty_result_is_an_empty_answer() -> None:
    script = [plan("tables.query"), query(["town", "=", "Oslo"], ["town", "=", "Bergen"])]
    found = run("What is the sum of n in Oslo and Bergen?", *script, finish("$2"), files={"t.csv": TOWNS})
    assert ended(found) == not_met("the answer is empty: 0 rows; no row meets all conditions together")


@pytest.mark.parametrize("answer", ["0", "none", "no", "-", "+"])
def test_a_short_answer_is_not_empty(answer: str) -> None:
    assert ended(run("What is left?", finish(answer))) == ANSWERED


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the sum of sales?", "sum of sales"),
        ("What is the sum of sales?", "sales"),
        ("How many rows are in the table?", "rows"),
        ("How much did Anna pay in Oslo?", "Oslo"),
        ("Calculate the average of the prices", "the average of the prices"),
        ("What is the capital of France", "the capital of France"),
        ("Who wrote the letter to the king?", "the letter to the king"),
        ("List the towns in the file", "List the towns in the file"),
    ],
)
def test_a_piece_of_the_question_is_no_answer(question: str, answer: str) -> None:
    cause = f'the answer only repeats the question: "{answer}"'
    assert ended(run(question, finish(answer))) == not_met(cause)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Is A or B larger?", "A"),
        ("Say hello", "hello"),
        ("Which is older, New York City or the Tower of London?", "the Tower of London"),
        ("How many of 3 and 4 are odd?", "3"),
        ("How much is ten minus none?", "ten"),
        ("What colour is a red apple?", "red"),
        ("Extract the name: John Ronald Tolkien was born in 1892", "John Ronald Tolkien"),
        ('What is the title of "The Old Man and the Sea"?', "The Old Man and the Sea"),
        ("Repeat after me that all is well", "all is well"),
        ("What is the capital of France?", "Paris"),
        ("What's my name? I am Anna Maria Berg.", "Anna Maria Berg"),
        ("Is the sum of n 16?", "yes"),
    ],
)
def test_an_answer_that_stands_in_the_question_may_be_right(question: str, answer: str) -> None:
    assert ended(run(question, finish(answer))) == ANSWERED


def test_a_piece_of_the_question_that_a_tool_gave_is_an_answer() -> None:
    files = {"t.csv": "town,n\nNew York City,3\n"}
    question = "What is the town in New York City with n 3?"
    script = [plan("tables.query"), query(select="town")]
    for answer in ("$2", "New York City"):
        assert ended(run(question, *script, finish(answer), files=files)) == ANSWERED


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Delete old.txt", "Deleted old.txt"),
        ("Delete old.txt", "Done: deleted old.txt."),
        ("Please delete it", "I have deleted it."),
        ("Copy a.txt to b.txt", "Copied a.txt to b.txt"),
        ("Move a.txt to b.txt", "Successfully moved a.txt to b.txt"),
        ("Can you rename a.txt?", "Renamed a.txt to b.txt"),
        ("Write hello to out.txt", "Wrote hello to out.txt"),
        ("Tidy up", "The file tmp.txt was removed"),
        ("Send the mail to Bob", "Sent the mail to Bob"),
        ("Delete x", "Deleted x"),
    ],
)
def test_an_effect_that_no_call_had_is_not_met(question: str, answer: str) -> None:
    found = run(question, finish(answer))
    assert found.status == "not_met"
    assert found.cause.startswith('the answer says "') and found.cause.endswith("but no call had this effect")


@pytest.mark.parametrize(
    ("question", "script", "answer"),
    [
        ("Delete a.txt", [plan("files.write"), write("a.txt", "")], "Deleted a.txt"),
        ("Copy a.txt to b.txt", [plan("files.move"), move("a.txt", "b.txt")], "Copied a.txt to b.txt"),
        ("Move a.txt to b.txt", [plan("files.write"), write("b.txt")], "Moved a.txt to b.txt"),
        ("Write it to b.txt", [plan("files.write"), write("c.txt")], "Wrote it to b.txt"),
        ("Save a.txt and send it", [plan("files.write"), write("b.txt")], "Sent it"),
    ],
)
def test_another_effect_than_the_one_claimed_does_not_count(
    question: str, script: Sequence[ToolCall], answer: str
) -> None:
    found = run(question, *script, finish(answer), files={"a.txt": "x"})
    assert found.cause == f'the answer says "{answer}", but no call had this effect'


@pytest.mark.parametrize(
    ("question", "script", "answer"),
    [
        ("Copy a.txt to b.txt", [plan("files.write"), write("b.txt")], "Copied a.txt to b.txt"),
        ("Move a.txt to c/b.txt", [plan("files.move"), move("a.txt", "c/b.txt")], "Moved a.txt to c/b.txt."),
        ("Rename a.txt", [plan("files.move"), move("a.txt", "b.txt")], "a.txt was renamed to b.txt"),
        ("Put a.txt away", [plan("files.move"), move("a.txt", "b.txt")], "Removed a.txt"),
        ("Write x to b.txt", [plan("files.write"), write("b.txt")], "Wrote b.txt"),
        ("Save it", [plan("files.write"), write("b.txt")], "Saved."),
        ("Remove the blanks of a.txt in b.txt", [plan("files.write"), write("b.txt")],
         "Removed the blanks and saved b.txt"),
        ("Move the sum to b.txt", [plan("files.write"), write("b.txt")], "Moved the sum to b.txt"),
        ("Delete the file if there is one", [plan("files.list"), call("files.list")], "Deleted nothing"),
        ("Who wrote a.txt?", [plan("files.read"), read("a.txt")], "Written by Bob in a.txt"),
        ("Translate 'Ich habe es kopiert'", [], "I copied it"),
        ("What is the last entry of a.txt?", [plan("files.read"), read("a.txt")], "Deleted b.txt"),
        ("Name the last entry", [plan("files.read"), read("a.txt")], "Deleted b.txt"),
    ],
)  # fmt: skip
def test_a_recorded_effect_or_a_text_is_no_false_claim(
    question: str, script: Sequence[ToolCall], answer: str
) -> None:
    found = run(question, *script, finish(answer), files={"a.txt": "copied it\nDeleted b.txt\n"})
    assert ended(found) == ANSWERED


def test_a_tool_that_is_not_built_in_is_believed() -> None:
    to = {"type": "object", "properties": {"to": {"type": "string"}}}
    script = [plan("mail.send"), call("mail.send", to="Bob"), finish("Sent the mail to Bob")]
    stub = {"name": "mail.send", "parameters": to}
    assert ended(run("Send Bob the mail", *script, stubs=[stub])) == ANSWERED
