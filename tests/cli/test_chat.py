"""The conversation on a terminal: the screen is the person's between messages."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from autogpt.agent.record.events import (
    Consent,
    Correction,
    Event,
    ModelTurn,
    PersonSaid,
    Rating,
    RunInterrupted,
    RunStarted,
)
from autogpt.cli.parser import main
from autogpt.cli.report import LiveReport

PLAN = {"name": "plan", "arguments": {"steps": [{"tool": "calculator", "for": "the sum of all"}]}}
CALL = {"name": "calculator", "arguments": {"expression": "2 + 2"}}
FINISH = {"name": "finish", "arguments": {"answer": "4"}}
PROMPT = "\x1b[?2004h"
"""What the line editor sends when it is ready for a line."""


@pytest.mark.parametrize(
    "later",
    [
        Rating(value=1.0),
        Correction(turn=1, rejected="a", chosen="b"),
        Consent(learn=False),
        RunInterrupted(cause=""),
    ],
)
def test_what_is_said_about_an_answer_brings_no_plan_back(later: Event) -> None:
    screen = io.StringIO()
    report = LiveReport(Console(file=screen, force_terminal=True, width=60))
    with report:
        report.on_event("r", RunStarted(run="r", goal={"goal": ""}, mode="chat"))
        report.on_event("r", PersonSaid(text="How much?"))
        report.on_event("r", ModelTurn(text="", call=PLAN))
        report.reply("r", "4")
        before = screen.getvalue()
        report.on_event("r", later)
        with report.busy("forgetting"):
            pass
        time.sleep(0.3)
        after = screen.getvalue()[len(before) :]
        assert "the sum of all" not in after
        time.sleep(0.3)
        assert screen.getvalue()[len(before) :] == after, "nothing moves while the person types"
        report.on_event("r", PersonSaid(text="And now?"))
        report.on_event("r", ModelTurn(text="", call=PLAN))
        time.sleep(0.3)
        assert screen.getvalue() != before + after, "the next message is shown at work again"


class Terminal:
    """A conversation on a pseudo-terminal."""

    def __init__(self, folder: Path, lines: int, columns: int) -> None:
        self.leader, follower = pty.openpty()
        size = {"COLUMNS": str(columns), "LINES": str(lines), "TERM": "xterm", "NO_COLOR": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "autogpt", "chat", "--model", "scripted:s.json"],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env={**os.environ, **size},
            cwd=folder,
        )
        os.close(follower)
        self.unread = ""

    def type(self, text: str) -> None:
        os.write(self.leader, text.encode())

    def until(self, text: str, seconds: float = 60.0) -> str:
        """Read until ``text`` was shown; return what was shown since the last call."""
        deadline = time.monotonic() + seconds
        while text not in self.unread:
            assert time.monotonic() < deadline, f"{text!r} was not shown: {self.unread!r}"
            if select.select([self.leader], [], [], 0.2)[0]:
                self.unread += os.read(self.leader, 65536).decode(errors="replace")
            if "\x1b[6n" in self.unread:  # the line editor asks where the cursor is
                self.unread = self.unread.replace("\x1b[6n", "")
                self.type("\x1b[1;1R")
        shown, _, self.unread = self.unread.partition(text)
        return shown + text


@pytest.mark.timeout(180)
def test_a_rated_answer_leaves_the_prompt_to_the_person(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps([PLAN, CALL, FINISH]))
    terminal = Terminal(tmp_path, lines=10, columns=40)
    try:
        terminal.until(PROMPT)
        terminal.type("How much is 2 + 2?\r")
        terminal.until("the sum of all")
        terminal.until(PROMPT)
        terminal.type("/good\r")
        shown = terminal.until("thanks, rated 1") + terminal.until(PROMPT)
        terminal.type("Z")
        shown += terminal.until("Z")
        assert "the sum of all" not in shown, "and what is typed is seen at once"
        terminal.type("\x03")
        terminal.until("Ctrl-C again leaves")
        terminal.until(PROMPT)
        terminal.type("\x03")
        terminal.until("autogpt resume")
        assert terminal.process.wait(30) == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.leader)


def test_ctrl_c_in_a_slash_command_stops_the_command_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from autogpt.cli import chat

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "s.json").write_text(json.dumps([FINISH]))
    monkeypatch.setattr(chat, "show_runs", stopped)
    monkeypatch.setattr(sys, "stdin", io.StringIO("/runs\nhello\n"))
    assert main(["chat", "--model", f"scripted:{tmp_path / 's.json'}"]) == 0
    said = capsys.readouterr()
    assert "stopped; say something else" in said.err and "answer  4" in said.out
