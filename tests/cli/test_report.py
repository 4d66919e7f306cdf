"""What a person sees of a run: the fold from events, the plain lines, the tree at any width."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from rich.console import Console

from autogpt.agent.record.events import (
    CheckResult,
    Event,
    ModelTurn,
    PersonSaid,
    RunEnded,
    RunInterrupted,
    RunStarted,
    ToolIntent,
    ToolOutcome,
)
from autogpt.cli.report import PlainReport, tree
from autogpt.cli.view import RunView, answer_text, brief, clean


def plan(*steps: tuple[str, str]) -> ModelTurn:
    call = {
        "name": "plan",
        "arguments": {"steps": [{"tool": tool, "for": purpose} for tool, purpose in steps]},
    }
    return ModelTurn(
        text="", call=call, prompt_tokens=100, cached_tokens=60, ids=[1, 2], forced=[True, False]
    )


def called(call_id: str, tool: str, state: str = "done", preview: str = "fine") -> list[Event]:
    turn = ModelTurn(text="", call={"name": tool, "arguments": {}})
    outcome = {"call_id": call_id, "tool": tool, "state": state, "preview": preview}
    handle = f"${call_id[1:]}" if state == "done" else None
    return [
        turn,
        ToolIntent(call_id=call_id, tool=tool, arguments={"path": "a.txt"}),
        ToolOutcome.model_validate({**outcome, "handle": handle, "value": [[int(call_id[1:])]]}),
    ]


def finish(answer: object) -> ModelTurn:
    return ModelTurn(text="", call={"name": "finish", "arguments": {"answer": answer}})


def run(*events: Event) -> list[Event]:
    return [RunStarted(run="r", goal={"goal": "do it"}, at=10.0), *events]


def drawn(events: Sequence[Event], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(tree(RunView.of(events)))
    text = console.file
    assert isinstance(text, io.StringIO)
    return text.getvalue()


def test_the_plan_fills_in_step_by_step() -> None:
    first = plan(("files.read", "read it"), ("files.write", "write it"))
    view = RunView.of(run(first))
    assert [step.state for step in view.steps] == ["waiting", "waiting"]
    events = run(first, *called("c1", "files.read"))
    assert [step.state for step in RunView.of(events).steps] == ["done", "waiting"]
    assert [step.state for step in RunView.of(events[:-1]).steps] == ["running", "waiting"]


def test_a_second_try_stays_under_its_step() -> None:
    events = run(
        plan(("files.read", "read it")), *called("c1", "files.read", "failed"), *called("c2", "files.read")
    )
    (step,) = RunView.of(events).steps
    assert [call.state for call in step.calls] == ["failed", "done"]
    assert step.state == "done"


def test_a_new_plan_drops_what_was_not_begun() -> None:
    events = run(
        plan(("files.read", "read it"), ("files.write", "write it")),
        *called("c1", "files.read"),
        plan(("calculator", "add")),
    )
    assert [step.state for step in RunView.of(events).steps] == ["done", "dropped", "waiting"]


def test_an_unplanned_call_is_shown_too() -> None:
    assert "calculator" in drawn(run(*called("c1", "calculator")))


def test_figures_count_every_turn() -> None:
    view = RunView.of(
        run(plan(("files.read", "x")), finish("done"), RunEnded(status="achieved", cause="", at=12.5))
    )
    assert view.figures == "2.5 s · 2 turns · 100 tokens read (60 kept) · 2 written (1 forced)"


def test_a_handle_as_answer_shows_its_value() -> None:
    events = run(*called("c1", "tables.query"), finish("$1"))
    assert answer_text(RunView.of(events).answer) == "1"


def test_a_conversation_starts_anew_with_each_message() -> None:
    events = run(PersonSaid(text="one"), plan(("files.read", "x")), finish("a"), PersonSaid(text="two"))
    view = RunView.of(events)
    assert (view.goal, view.steps, view.answer, view.use.turns) == ("two", [], None, 0)
    assert "2 turns" in view.totals


def test_an_interrupted_run_that_goes_on_is_not_interrupted_any_more() -> None:
    events = run(plan(("files.read", "x")), RunInterrupted(cause="stopped by the user"))
    assert RunView.of(events).status == "interrupted"
    assert RunView.of([*events, *called("c1", "files.read")]).status == ""


def test_failed_checks_and_causes_are_shown() -> None:
    check = CheckResult(index=0, kind="answer", passed=False, detail="wanted 3, got 2")
    text = drawn(run(finish("2"), check, RunEnded(status="not_met", cause="a check failed", answer="2")))
    assert "wanted 3, got 2" in text
    assert "not met: a check failed" in text


@pytest.mark.parametrize("width", [20, 40, 200])
def test_every_line_fits_the_window(width: int) -> None:
    long = "a very long result " * 50
    events = run(
        plan(("files.read", "read " * 20)), *called("c1", "files.read", preview=long), finish("x " * 100)
    )
    assert max(len(line) for line in drawn(events, width).splitlines()) <= width


def test_results_cannot_speak_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither escape sequences nor rich's markup of a tool's result reach the screen."""
    evil = "\x1b]0;owned\x07\x1b[2J[bold]x[/bold]\r\u009b31m"
    events = run(*called("c1", "files.read", preview=evil), finish(evil))
    text = drawn(events)
    assert "[bold]x[/bold]" in text
    assert not any(char in text for char in "\x1b\x07\r\u009b")
    report = PlainReport()
    for event in [*events, RunEnded(status="achieved", cause="", answer=evil)]:
        report.on_event("r", event)
    out = capsys.readouterr().out
    assert "[bold]x[/bold]" in out
    assert not any(char in out for char in "\x1b\x07\r\u009b")


def test_small_helpers() -> None:
    assert clean("a\x00b\nc") == "a b\nc"
    assert brief({"path": "a.txt", "rows": [1, 2]}) == "path=a.txt rows=[1, 2]"
    assert answer_text({"columns": ["n"], "rows": [["x"], ["y"]]}) == "x, y"
    assert answer_text([[1, 2], [3, 4]]) == "[[1, 2], [3, 4]]"
