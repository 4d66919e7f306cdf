"""The pure decision: masks, plans, limits, what is inspected, and what the model reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from autogpt.agent.goals.load import Goal
from autogpt.agent.record.events import (
    RULES,
    Event,
    ModelTurn,
    PersonAnswered,
    PersonAsked,
    PersonSaid,
    RunEnded,
    RunStarted,
    ToolIntent,
    ToolOutcome,
    dump_event,
    parse_event,
)
from autogpt.agent.record.result import resolved_answer
from autogpt.agent.record.state import State, input_names
from autogpt.agent.record.transcript import messages
from autogpt.agent.run.calls import MAX_PLANS, MAX_STEPS_IN_PLAN
from autogpt.agent.run.loop import Act, Ask, Stop, Think, decide
from autogpt.agent.run.workbench import opening
from autogpt.llm.message import CallSpec, ToolCall, why_invalid
from autogpt.llm.models.scripted import ScriptedModel
from autogpt.llm.text.grammar import GrammarCompiler, NotAllowed, teacher_ids
from autogpt.llm.text.tokenizer import ChatTokenizer
from autogpt.tools.base import Tool
from autogpt.tools.registry import builtins

TOOLS: dict[str, Tool] = dict(builtins().select())
Mode = Literal["goal", "chat", "eval"]
Outcome = Literal["done", "failed", "refused", "uncertain"]


class Run:
    """Events written by hand, as a driver would append them."""

    def __init__(self, mode: Mode = "eval", plan: bool = True, rules: int = RULES, **goal: Any) -> None:
        made = Goal.model_validate({"goal": "do it", **goal}).model_dump(mode="json")
        started = opening("r", made, ScriptedModel([]), TOOLS, {}, mode=mode, plan=plan)
        self.events: list[Event] = [started.model_copy(update={"rules": rules})]
        self.calls = 0
        self.handles = 0

    def turn(self, name: str | None, /, **arguments: Any) -> Run:
        call = None if name is None else {"name": name, "arguments": arguments}
        said = "?" if name is None else ToolCall(name, arguments).text()
        self.calls += 1
        invalid = "no call" if name is None else None
        self.events.append(ModelTurn(text=said, call=call, invalid=invalid, ids=[1, 2], forced=[True, False],
                                     prompt_tokens=10, cached_tokens=4, seconds=0.5))  # fmt: skip
        return self

    def plan(self, *tools: str) -> Run:
        return self.turn("plan", steps=[{"tool": name, "for": "it"} for name in tools])

    def outcome(self, tool: str, preview: str = "ok", state: Outcome = "done", **fields: Any) -> Run:
        handle = None
        if state == "done":
            self.handles += 1
            handle = f"${self.handles}"
        fields = {"call_id": f"c{self.calls}", **fields}
        self.events.append(
            ToolOutcome(tool=tool, state=state, preview=preview, handle=handle, seconds=0.25, **fields)
        )
        return self

    def compute(self, expression: str = "1 + 1", preview: str = "2", state: Outcome = "done") -> Run:
        self.turn("calculator", expression=expression)
        return self.outcome("calculator", preview, state)

    def add(self, event: Event) -> Run:
        self.events.append(event)
        return self

    def next(self) -> Any:
        return decide(self.events, TOOLS)

    def allowed(self) -> list[str]:
        request = self.next()
        assert isinstance(request, Think), request
        return [call.name for call in request.calls]

    def spec(self, name: str) -> CallSpec:
        request = self.next()
        assert isinstance(request, Think), request
        return next(call for call in request.calls if call.name == name)


# --- plan first, then the plan's tools ----------------------------------------------------------


def test_first_only_plan_finish_or_ask() -> None:
    run = Run()
    assert run.allowed() == ["plan", "finish", "ask"]
    tools = run.spec("plan").parameters["properties"]["steps"]["items"]["properties"]["tool"]["enum"]
    assert tools == list(TOOLS)


def test_a_plan_is_bounded() -> None:
    calls = Run().next().calls
    step = {"tool": "calculator", "for": "x"}

    def wrong(steps: Any) -> str | None:
        return why_invalid(ToolCall("plan", {"steps": steps}), calls)

    assert wrong([step] * MAX_STEPS_IN_PLAN) is None
    assert wrong([])
    assert wrong([step] * (MAX_STEPS_IN_PLAN + 1))
    assert wrong([{"tool": "shell", "for": "x"}])
    assert wrong([{"tool": "calculator", "for": "x" * 81}])


def test_then_the_tools_of_the_plan_and_finish_only_after_an_outcome() -> None:
    run = Run().plan("calculator", "files.write")
    assert run.allowed() == ["calculator", "files.write", "ask"]
    run.compute()
    assert run.allowed() == ["calculator", "files.write", "finish", "plan", "ask"]


def test_a_tool_that_makes_no_sense_yet_is_left_out() -> None:
    """Nothing is loaded, so nothing can be queried; with no call left the run may finish."""
    assert Run().plan("tables.query", "calculator").allowed() == ["calculator", "ask"]
    assert Run().plan("tables.query").allowed() == ["finish", "ask"]


def test_without_a_plan_every_tool_is_there_at_once() -> None:
    allowed = Run(plan=False).allowed()
    assert "plan" not in allowed
    assert {"calculator", "files.write", "finish", "ask"} <= set(allowed)


def test_finish_offers_the_handles_that_exist() -> None:
    run = Run().plan("calculator").compute()
    calls = run.next().calls
    for answer, fits in (("$1", True), ("$2", False), ("two", True), ("$", False), ("", False),
                         ("x" * 8000, True), ("x" * 8001, False), ("a\nb", True)):  # fmt: skip
        assert (why_invalid(ToolCall("finish", {"answer": answer}), calls) is None) == fits, answer


AMOUNTS = ["$18,076.57 is your balance.", "$2.50", "$USD", "$77 off" + " and more" * 200]


@pytest.mark.parametrize("answer", AMOUNTS)
def test_an_answer_may_begin_with_an_amount(answer: str, chat_folder: Path) -> None:
    compiler = GrammarCompiler(ChatTokenizer(chat_folder))
    said = ToolCall("finish", {"answer": answer})
    for run in (Run(), Run().plan("calculator").compute().compute("2 + 2", "4")):
        calls = run.next().calls
        assert why_invalid(said, calls) is None
        teacher_ids(compiler.compile(calls), said.text())
    assert resolved_answer(answer, {"$1": 3, "$2": 4, "$18": 5}) == answer


@pytest.mark.parametrize("answer", ["$12", "$12 ", "$3", "$2 off", "$", "$ 5"])
def test_a_handle_alone_is_no_text(answer: str, chat_folder: Path) -> None:
    calls = Run().plan("calculator").compute().compute("2 + 2", "4").next().calls
    said = ToolCall("finish", {"answer": answer})
    assert why_invalid(said, calls)
    with pytest.raises(NotAllowed):
        teacher_ids(GrammarCompiler(ChatTokenizer(chat_folder)).compile(calls), said.text())


def test_an_amount_may_be_followed_by_words_where_no_result_has_its_number() -> None:
    said = ToolCall("finish", {"answer": "$5 off"})
    assert why_invalid(said, Run().next().calls) is None
    many = Run().plan("calculator")
    for number in range(12):
        many.compute(f"{number} + 1", str(number + 1))
    assert why_invalid(said, many.next().calls)


def test_the_drivers_table_description_is_read_but_is_no_value() -> None:
    """Its handle counts, so that later ones keep their numbers, but no call is offered it."""
    run = Run(files={"t.csv": "a\n1\n"}).outcome("tables.describe", call_id="d:t.csv", by="driver")
    assert State.of(run.events).handles == ["$1"]
    assert why_invalid(ToolCall("finish", {"answer": "$1"}), run.next().calls)
    run.plan("calculator").compute()
    assert why_invalid(ToolCall("finish", {"answer": "$2"}), run.next().calls) is None
    assert why_invalid(ToolCall("finish", {"answer": "$1"}), run.next().calls)
    listed = Run(files={"n.txt": "1"}).outcome("files.list", call_id="d:list1", by="driver")
    assert why_invalid(ToolCall("finish", {"answer": "$1"}), listed.next().calls) is None


# --- unread inputs and empty results --------------------------------------------------------------


def unread(*names: str, **fields: Any) -> Run:
    """A run after the driver looked at tables of which none could be read."""
    run = Run(files=dict.fromkeys(names, ""), **fields)
    for name in names:
        error = f"error: {name} is empty"
        run.outcome("tables.describe", error, "failed", call_id=f"d:{name}", by="driver")
    return run


def may_finish(run: Run, answer: str) -> bool:
    return why_invalid(ToolCall("finish", {"answer": answer}), run.next().calls) is None


def test_the_model_reads_that_an_inspection_failed() -> None:
    run = Run(files={"b.csv": ""})
    act = run.next()
    run.add(ToolIntent(call_id=act.call_id, tool=act.tool, arguments=act.arguments, by="driver"))
    run.outcome(act.tool, "error: b.csv is empty", "failed", call_id=act.call_id, by="driver")
    assert run.next().conversation[-1].content == "Goal: do it\ntables.describe b.csv: error: b.csv is empty"


def test_with_an_unread_input_the_only_free_answer_names_it() -> None:
    run = unread("b.csv")
    assert run.allowed() == ["plan", "finish", "ask"]
    for answer, fits in (("2", False), ("I could not read b.csv", True), ("I could not read bacsv", False),
                         ("I could not read b.csv: it is empty.\nSend it again?", True),
                         ("Sorry, I could not read b.csv", False)):  # fmt: skip
        assert may_finish(run, answer) == fits, answer
    assert "I could not read b.csv" in run.spec("finish").description
    assert not may_finish(run.plan("tables.query"), "2")
    either = unread("a b(1).csv", "c.csv")
    for name in ("a b(1).csv", "c.csv"):
        assert may_finish(either, f"I could not read {name}, sorry")


def test_the_grammar_takes_the_honest_answer_and_no_other(chat_folder: Path) -> None:
    name = "a b-(1) [x]+^$|ü\"\\.csv"
    run = unread(name)
    grammar = GrammarCompiler(ChatTokenizer(chat_folder)).compile(run.next().calls)
    honest = ToolCall("finish", {"answer": f"I could not read {name}."}).text()
    assert teacher_ids(grammar, honest)[0]
    with pytest.raises(NotAllowed):
        teacher_ids(grammar, ToolCall("finish", {"answer": "2"}).text())


def test_a_value_of_a_tool_frees_the_answer() -> None:
    run = unread("b.csv").plan("files.read").turn("files.read", path="b.csv")
    run.outcome("files.read", "there is no text", "failed")
    assert not may_finish(run, "2")
    run.turn("files.write", path="o.txt", content="2").outcome("files.write", "wrote o.txt")
    assert not may_finish(run, "2"), "what the model made up is not read from anywhere"
    run.turn("files.read", path="b.csv").outcome("files.read", "n 2")
    assert may_finish(run, "2") and may_finish(run, "$2")
    assert State.of(run.events).unread == {}


def test_an_input_that_the_question_does_not_need_binds_nothing() -> None:
    run = Run(goal="How many rows has b.csv?", files={"a.csv": "", "b.csv": "n\n1\n"})
    run.outcome("tables.describe", "error: a.csv is empty", "failed", call_id="d:a.csv", by="driver")
    run.outcome("tables.describe", "table b (1 row)", call_id="d:b.csv", by="driver")
    assert may_finish(run, "1")
    started = run.events[0]
    assert isinstance(started, RunStarted)
    run.events[0] = started.model_copy(update={"goal": {**started.goal, "goal": "Rows of a.csv?"}})
    assert not may_finish(run, "1")


def test_an_unread_input_binds_the_message_that_brought_it() -> None:
    run = Run("chat").add(PersonSaid(text="hello", inputs=["b.csv"]))
    run.outcome("tables.describe", "error: b.csv is empty", "failed", call_id="d:b.csv", by="driver")
    assert not may_finish(run, "hi")
    run.turn("finish", answer="I could not read b.csv").add(PersonSaid(text="never mind, hello"))
    assert may_finish(run, "hi")


def test_records_of_before_are_decided_as_they_were() -> None:
    assert may_finish(unread("b.csv", rules=0), "2")
    assert "finish" in empty(Run(rules=0)).allowed()


def test_the_rules_are_part_of_the_record() -> None:
    started = Run().events[0]
    assert dump_event(started)["rules"] == RULES == 3
    old = dump_event(started)
    del old["rules"]
    read = parse_event(old)
    assert isinstance(read, RunStarted) and read.rules == 0


QUERY = {"table": "t", "select": ["n"], "where": [["n", "=", 9]]}
HINT = "0 rows; no row has n = 9"


def empty(run: Run) -> Run:
    facts = {"tables": {"t": {"path": "t.csv", "source": "t", "rows": 1, "joins": [],
                              "columns": [{"name": "n", "type": "integer"}]}}}  # fmt: skip
    run.outcome("tables.describe", call_id="d:t.csv", by="driver", facts=facts).plan("tables.query")
    return run.turn("tables.query", **QUERY).outcome("tables.query", HINT, value=[])


def test_after_an_empty_result_one_more_try_comes_before_an_answer() -> None:
    run = empty(Run())
    assert run.allowed() == ["tables.query", "plan", "ask"]
    assert run.next().conversation[-1].content == f"$2 = {HINT}"
    run.plan("tables.query")
    assert "finish" not in run.allowed(), "a new plan is no try yet"
    run.turn("tables.query", table="t", select=["n"]).outcome("tables.query", "0 rows", value=[])
    assert "finish" in run.allowed(), "once is enough: there may be nothing"


def test_a_result_with_rows_forces_nothing() -> None:
    run = empty(Run()).turn("tables.query", table="t", select=["n"])
    assert run.outcome("tables.query", "1 row: 1", value=[1]).allowed()[-3:] == ["finish", "plan", "ask"]


def test_an_empty_result_forces_no_step_beyond_the_limit() -> None:
    assert "finish" in empty(Run(limits={"steps": 3})).allowed()
    assert "finish" not in empty(Run(limits={"steps": 4})).allowed()


def test_each_message_has_its_own_try() -> None:
    run = empty(Run("chat").add(PersonSaid(text="which?")))
    run.turn("finish", answer="none").add(PersonSaid(text="and which now?")).plan("tables.query")
    run.turn("tables.query", **QUERY).outcome("tables.query", HINT, value=[])
    assert "finish" not in run.allowed()


# --- planning anew, repetition, refusal ---------------------------------------------------------


def test_two_failures_in_a_row_force_a_plan() -> None:
    run = Run().plan("calculator").compute(state="failed")
    assert "calculator" in run.allowed()
    run.compute("2 +", state="failed")
    assert run.allowed() == ["plan"]
    run.plan("calculator")
    assert "calculator" in run.allowed()


def test_a_success_between_failures_counts_anew() -> None:
    run = Run().plan("calculator").compute(state="failed").compute("2").compute("3 +", state="failed")
    assert "calculator" in run.allowed()


def test_plans_are_counted() -> None:
    run = Run()
    for number in range(MAX_PLANS):
        run.plan("calculator").compute(f"{number} +", state="failed").compute(f"{number} -", state="failed")
    assert run.allowed() == ["finish", "ask"]


def test_a_repeated_call_is_masked_and_then_stops_the_run() -> None:
    run = Run().plan("calculator").compute().compute()
    assert run.allowed() == ["finish", "plan", "ask"]
    run.plan("calculator").compute().plan("calculator")
    assert "calculator" in run.allowed()
    run.compute()
    stop = run.next()
    assert isinstance(stop, Stop)
    assert (stop.status, stop.cause) == ("failed", "the run repeats the same call with the same result")


def test_another_result_or_other_arguments_are_no_repetition() -> None:
    run = Run().plan("calculator").compute("1", "1").compute("1", "changed").compute("2", "changed")
    assert "calculator" in run.allowed()


def test_a_later_plan_may_not_add_writing() -> None:
    run = Run().plan("calculator").compute(state="failed").compute("2 +", state="failed")
    steps = run.spec("plan").parameters["properties"]["steps"]
    names = steps["items"]["properties"]["tool"]["enum"]
    assert "files.read" in names
    assert not {"files.write", "files.move"} & set(names)
    named = Run().plan("files.write").turn("files.write", path="a", content="b").outcome("files.write")
    steps = named.spec("plan").parameters["properties"]["steps"]
    assert "files.write" in steps["items"]["properties"]["tool"]["enum"]


def test_a_refused_tool_is_masked_until_the_next_message() -> None:
    run = Run("chat").add(PersonSaid(text="save it")).plan("files.write", "calculator")
    run.turn("files.write", path="a", content="b").outcome("files.write", "refused: no", "refused")
    assert run.allowed() == ["calculator", "finish", "plan", "ask"]
    assert "files.write" not in str(run.spec("plan").parameters)
    run.turn("finish", answer="not allowed").add(PersonSaid(text="now you may"))
    assert "files.write" in str(run.spec("plan").parameters)


# --- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "cause"),
    [
        ({"steps": 3}, "the limit of 3 steps was reached"),
        ({"tokens": 24}, "the limit of 24 tokens was reached"),
        ({"seconds": 2.0}, "the limit of 2 seconds was reached"),
    ],
)
def test_limits(limits: dict[str, Any], cause: str) -> None:
    """Each turn is 2 tokens and 6 new ones of its prompt, and half a second; a call a quarter."""
    run = Run(limits=limits).plan("calculator").compute()
    assert isinstance(run.next(), Think)
    run.compute("2")
    assert run.next() == Stop("limit", cause)


def test_a_finished_run_is_not_over_its_limit() -> None:
    run = Run(limits={"steps": 2}).plan("calculator").turn("finish", answer="2")
    assert run.next() == Stop("finished", "the model finished", "2")
    run.add(RunEnded(status="achieved", cause="finished", answer="2"))
    assert run.next() == Stop("ended", "finished", "2")


def test_three_invalid_calls_in_a_row_end_the_run() -> None:
    run = Run().turn(None).turn(None).plan("calculator").turn(None).turn(None)
    assert isinstance(run.next(), Think)
    run.turn(None)
    assert run.next().status == "failed"


# --- what needs no decision ----------------------------------------------------------------------


def test_inputs_are_inspected_in_order_tables_described_and_others_listed() -> None:
    run = Run(files={"b.csv": "x\n1\n", "note.txt": "hi", "a.TSV": "x\n"})
    seen: list[tuple[str, str, dict[str, Any]]] = []
    while isinstance(act := run.next(), Act):
        assert act.by == "driver"
        seen.append((act.call_id, act.tool, act.arguments))
        run.outcome(act.tool, call_id=act.call_id, by="driver")
    assert seen == [
        ("d:b.csv", "tables.describe", {"path": "b.csv"}),
        ("d:a.TSV", "tables.describe", {"path": "a.TSV"}),
        ("d:list3", "files.list", {}),
    ]
    assert run.allowed() == ["plan", "finish", "ask"]
    assert State.of(run.events).outcomes == []


def test_a_failed_inspection_is_not_tried_again() -> None:
    run = Run(files={"b.csv": ""})
    run.outcome("tables.describe", "error: empty", "failed", call_id="d:b.csv", by="driver")
    assert isinstance(run.next(), Think)


def test_input_names() -> None:
    goal = {"inputs": ["/x/data/a.csv", "data\\b.csv"], "files": {"c/d.txt": ""}}
    assert input_names(goal) == ["a.csv", "b.csv", "c/d.txt"]
    assert input_names({"inputs": ["data/a.csv"], "workspace": "."}) == ["data/a.csv"]
    assert input_names({"inputs": ["data/a.csv"], "workspace": "data"}) == ["a.csv"]


def test_a_call_without_outcome_is_asked_for_again() -> None:
    """After a crash: with or without its intent, the call is what comes next."""
    run = Run().plan("calculator").turn("calculator", expression="1 + 1")
    act = Act("c2", "calculator", {"expression": "1 + 1"})
    assert run.next() == act
    run.add(ToolIntent(call_id="c2", tool="calculator", arguments={"expression": "1 + 1"}))
    assert run.next() == act
    run.outcome("calculator", "2")
    assert isinstance(run.next(), Think)


def test_handles_are_numbered_over_inspections_and_calls() -> None:
    run = Run(files={"n.txt": "1"}).outcome("files.list", call_id="d:list1", by="driver")
    run.plan("calculator").compute().compute("1 +", state="failed").compute("3", "3")
    assert State.of(run.events).handles == ["$1", "$2", "$3"]
    said = [message.content for message in messages(run.events) if message.role == "tool"]
    assert [text.split(" = ")[0] for text in said] == ["$2", "2", "$3"]


# --- people --------------------------------------------------------------------------------------


def test_a_question_waits_for_its_answer() -> None:
    run = Run().turn("ask", question="which?")
    assert run.next() == Ask("question", "which?")
    run.add(PersonAsked(kind="question", text="which?"))
    assert run.next() == Ask("question", "which?")
    run.add(PersonAnswered(text="the red one"))
    assert run.allowed() == ["plan", "finish", "ask"]
    assert messages(run.events)[-1].content == "the red one"


def test_an_approval_is_no_text_for_the_model() -> None:
    run = Run().plan("files.write").turn("files.write", path="a", content="b")
    run.add(PersonAsked(kind="approval", text="may it?", call_id="c2"))
    assert run.next() == Ask("approval", "may it?", "c2")
    before = messages(run.events)
    run.add(PersonAnswered(text="yes", decision="once", call_id="c2"))
    assert isinstance(run.next(), Act)
    assert messages(run.events) == before


def test_a_new_message_drops_an_open_question() -> None:
    run = Run("chat").add(PersonSaid(text="fix it")).turn("ask", question="what?")
    run.add(PersonSaid(text="never mind, hello"))
    assert run.allowed() == ["plan", "finish", "ask"]


# --- conversations -------------------------------------------------------------------------------


def test_a_conversation_waits_starts_afresh_and_counts_per_message() -> None:
    run = Run("chat", limits={"steps": 2})
    assert run.next() == Stop("idle", "waiting for a message")
    run.add(PersonSaid(text="what is 1 + 1?")).plan("calculator").compute()
    assert run.next().status == "limit"
    run.add(PersonSaid(text="again"))
    assert run.allowed() == ["plan", "finish", "ask"]
    run.plan("calculator").turn("finish", answer="$1")
    assert run.next() == Stop("idle", "the model finished", "$1")


def test_asking_again_in_a_new_message_is_no_repetition() -> None:
    run = Run("chat").add(PersonSaid(text="1 + 1?")).plan("calculator").compute().turn("finish", answer="$1")
    run.add(PersonSaid(text="1 + 1, and save it")).plan("calculator", "files.write").compute()
    assert run.allowed() == ["calculator", "files.write", "finish", "plan", "ask"]


def test_new_inputs_are_inspected_and_shown_with_their_message() -> None:
    run = Run("chat").add(PersonSaid(text="hello")).turn("finish", answer="hi")
    run.add(PersonSaid(text="how many rows?", inputs=["t.csv"]))
    act = run.next()
    assert (act.tool, act.arguments, act.by) == ("tables.describe", {"path": "t.csv"}, "driver")
    run.add(ToolIntent(call_id=act.call_id, tool=act.tool, arguments=act.arguments, by="driver"))
    run.outcome(act.tool, "one column", call_id=act.call_id, by="driver")
    texts = [(message.role, message.content) for message in run.next().conversation]
    assert texts[1] == ("user", "Goal: hello")
    assert texts[3] == ("user", "how many rows?\n$1 = tables.describe t.csv: one column")


def test_an_invalid_call_is_answered_with_what_is_wrong() -> None:
    run = Run().turn(None)
    assert [message.role for message in run.next().conversation] == ["system", "user", "assistant", "tool"]
    assert run.next().conversation[-1].content == "invalid call: no call"


def test_own_tools_stand_with_the_goal_and_built_ins_in_the_system_text() -> None:
    tools = {"calculator": TOOLS["calculator"], "mine": TOOLS["files.read"]}
    started = opening("r", {"goal": "g"}, ScriptedModel([]), tools, {"mine": "caller"})
    system, user = messages([started])
    assert "calculator(expression)" in system.content
    assert "mine(" not in system.content
    assert user.content.startswith("mine(")


def test_sampled_ids_go_back_as_they_were() -> None:
    run = Run().plan("calculator")
    assert run.next().conversation[-1].ids == (1, 2)


def test_a_prompt_that_the_model_refused_ends_the_goal_at_once() -> None:
    refused = ModelTurn(text="", call=None, invalid="9000 tokens, 8191 at most", prompt_refused=True)
    assert Run(files={"t.csv": "n"}).add(refused).next() == Stop("failed", "9000 tokens, 8191 at most")


def test_a_message_that_the_model_refused_is_as_if_never_said() -> None:
    def talk(refuse: bool) -> list[Event]:
        run = Run(mode="chat").add(PersonSaid(text="hi")).turn("finish", answer="hello")
        if refuse:
            refused = ModelTurn(text="", call=None, invalid="too long", prompt_refused=True)
            run.add(PersonSaid(text="a long one")).add(refused)
            assert run.next() == Stop("failed", "too long")
        return run.add(PersonSaid(text="and now?")).events

    with_it, without = talk(True), talk(False)
    assert messages(with_it) == messages(without)
    assert State.of(with_it).context == State.of(without).context > 0
    assert isinstance(decide(with_it, TOOLS), Think)
