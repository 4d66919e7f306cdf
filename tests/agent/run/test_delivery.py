"""What a run may touch of the user's files, and what it says of them: in copies and in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.calls import finish, plan

from autogpt.agent.goals.load import adapt
from autogpt.agent.record.events import Event, ToolOutcome
from autogpt.agent.record.result import RunResult
from autogpt.agent.record.store import RunStore
from autogpt.agent.run.runner import Runner
from autogpt.cli.report import plain_end
from autogpt.cli.view import RunView
from autogpt.llm.message import ToolCall
from autogpt.llm.models.scripted import ScriptedModel
from autogpt.tools.registry import builtins

MOVE = [
    plan("files.move"),
    ToolCall("files.move", {"source": "friday.txt", "target": "weekend.txt"}),
    finish(),
]


class Desk:
    """A folder of the user's and the runs over it."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "desk"
        self.folder.mkdir()
        (self.folder / "friday.txt").write_text("hi")
        self.store = RunStore(root / "home")

    def run(self, **additions: Any) -> tuple[RunResult, list[Event]]:
        goal = adapt("Rename friday.txt to weekend.txt.", **additions)
        result = Runner(self.store, ScriptedModel(MOVE), builtins()).run(goal)
        return result, list(self.store.load(result.run))

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    made = Desk(tmp_path)
    monkeypatch.chdir(made.folder)
    return made


def said(events: list[Event]) -> list[str]:
    """The lines about files at the end of a run's report."""
    return [line for line in plain_end(RunView.of(events)) if line.startswith(("file", "note"))]


def outcome(events: list[Event]) -> ToolOutcome:
    return next(event for event in events if isinstance(event, ToolOutcome) and event.by == "model")


def test_moving_a_copy_needs_a_grant_for_the_new_name_only_and_leaves_the_original(desk: Desk) -> None:
    result, events = desk.run(inputs=["friday.txt"], write=["weekend.txt"])
    assert outcome(events).state == "done" and result.delivered == ["weekend.txt"]
    assert desk.names() == ["friday.txt", "weekend.txt"]
    assert said(events) == [
        "file    weekend.txt",
        "note    friday.txt itself was not moved or renamed, only the run's copy of it",
    ]


def test_a_move_that_stays_in_the_copies_is_said_to_do_so(desk: Desk) -> None:
    result, events = desk.run(inputs=["friday.txt"])
    assert outcome(events).state == "done" and result.delivered == []
    assert desk.names() == ["friday.txt"]
    assert "note    weekend.txt is in the run's own workspace only; --write weekend.txt delivers it" in said(
        events
    )


@pytest.mark.parametrize(
    ("write", "moved"), [([], False), (["weekend.txt"], False), (["*.txt"], True), (["."], True)]
)
def test_in_place_both_names_of_a_move_must_be_granted(desk: Desk, write: list[str], moved: bool) -> None:
    _, events = desk.run(workspace=".", write=write)
    assert outcome(events).state == ("done" if moved else "refused")
    assert desk.names() == (["weekend.txt"] if moved else ["friday.txt"])
    assert said(events) == (["file    weekend.txt"] if moved else [])


def test_the_model_sees_the_folder_that_it_works_in(desk: Desk) -> None:
    (desk.folder / "sales.csv").write_text("city,n\nOslo,3\n")
    _, events = desk.run(workspace=desk.folder)
    seen = [event.preview for event in events if isinstance(event, ToolOutcome) and event.by == "driver"]
    assert "city text" in seen[0] and seen[1] == "2 files: friday.txt (2 B), sales.csv (14 B)"


def test_a_granted_file_that_did_not_change_is_not_called_ungranted(desk: Desk) -> None:
    desk.run(inputs=["friday.txt"], write=["weekend.txt"])
    result, events = desk.run(inputs=["friday.txt"], write=["weekend.txt"])
    assert result.delivered == []
    assert "note    weekend.txt was written as it was before" in said(events)
