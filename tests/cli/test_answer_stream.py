"""An answer on the screen while it is being written, in any script and at any width."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from itertools import pairwise

import pytest
from rich.cells import cell_len
from rich.console import Console
from support.calls import finish

from autogpt.agent.record.events import STOPPED, ModelTurn, RunInterrupted, RunStarted
from autogpt.cli.answer_stream import AnswerStream, last_rows
from autogpt.cli.report import LiveReport, PlainReport
from autogpt.llm.message import ToolCall

ARTICLE = "人工智能正在改变世界。" * 30 + "\n\n第二段：“引号”、\\反斜杠 and \U0001f600."


def written(pieces: Iterable[str]) -> list[str]:
    stream, seen = AnswerStream(), []
    for piece in pieces:
        stream.feed(piece)
        seen.append(stream.text)
    return seen


@pytest.mark.parametrize("ascii_only", [False, True])
def test_an_answer_grows_with_whole_characters_only(ascii_only: bool) -> None:
    body = {"name": "finish", "arguments": {"answer": ARTICLE}}
    text = f"<tool_call>{json.dumps(body, ensure_ascii=ascii_only)}</tool_call>"
    seen = written(text)
    assert seen[-1] == ARTICLE
    assert all(ARTICLE.startswith(part) for part in seen)
    assert all(len(before) <= len(after) for before, after in pairwise(seen))


def test_other_calls_and_handles_are_not_shown() -> None:
    assert not any(written(ToolCall("files.write", {"path": "a", "content": "hello"}).text()))
    assert not any(written(finish("$2").text()))
    assert not any(written('hm "answer":"no"' + ToolCall("ask", {"question": "which?"}).text()))


def test_an_amount_is_shown_as_soon_as_it_is_no_handle() -> None:
    seen = written(finish("$18,076 is left").text())
    assert seen[-1] == "$18,076 is left" and "$18" not in seen and "$18," in seen


def test_an_answer_asked_for_again_begins_again() -> None:
    assert written(["<tool_call>", '{"name": "finish", "arguments": {"answer": "a', finish("b").text()]) == [
        "",
        "a",
        "b",
    ]


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert written(finish("a\x1b[2Jb\nc").text())[-1] == "a [2Jb\nc"


@pytest.mark.parametrize("width", [7, 20, 80])
def test_the_end_that_fits_is_cut_between_characters(width: int) -> None:
    shown = last_rows(ARTICLE, width, 5)
    rows = shown.split("\n")
    assert len(rows) == 5 and all(cell_len(row) <= width for row in rows)
    assert ARTICLE.replace("\n", "").endswith(shown.replace("\n", ""))
    assert last_rows("", width, 5) == ""


@pytest.fixture(autouse=True)
def no_dumb_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dumb terminal would have a size of its own."""
    monkeypatch.setenv("TERM", "xterm")


def screen() -> Console:
    return Console(file=io.StringIO(), width=24, height=12, force_terminal=True, color_system=None)


def test_the_screen_shows_what_is_being_answered_under_the_tree() -> None:
    report = LiveReport(screen())
    with report:
        report.on_event("r", RunStarted(run="r", goal={"goal": "写一篇文章"}))
        report.on_text("r", finish(ARTICLE).text()[:-40])
        with (console := screen()).capture() as capture:
            console.print(report)
        rows = capture.get().splitlines()
        assert rows[0].startswith("写一篇文章") and 6 < len(rows) <= 12
        assert any("改变世界" in row for row in rows) and "\ufffd" not in capture.get()
        assert all(cell_len(row) <= 24 for row in rows)
        turn = ModelTurn(text="", call={"name": "finish", "arguments": {"answer": "完"}})
        report.on_event("r", turn)
        with (console := screen()).capture() as capture:
            console.print(report)
        assert "改变世界" not in capture.get() and "完" in capture.get()


def test_what_was_said_before_an_interruption_stays(capsys: pytest.CaptureFixture[str]) -> None:
    plain = PlainReport()
    live = LiveReport(screen())
    for report in (plain, live):
        report.on_event("r", RunStarted(run="r", goal={"goal": "写"}, mode="chat"))
        report.on_text("r", finish("今天天气").text()[:-15])
        report.on_event("r", RunInterrupted(cause=STOPPED))  # recorded before the screen is left
        capsys.readouterr()
        report.cut_off()
        assert capsys.readouterr().out == "今天天气…\n"
        report.cut_off()
        assert capsys.readouterr().out == ""
