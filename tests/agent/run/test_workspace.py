"""Preparing a workspace, and delivering from it: idempotent, and never over what somebody changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autogpt.agent.goals.load import Goal
from autogpt.agent.run.workspace import (
    PREPARED,
    add_inputs,
    deliver,
    fingerprints,
    matching,
    prepare,
    undelivered,
    workspace_of,
)
from autogpt.errors import UsageError, UserError


class Place:
    """A goal's folder and a run's folder."""

    def __init__(self, root: Path) -> None:
        self.folder, self.run = root / "goal", root / "20260101-000000-aaaaaa"
        self.folder.mkdir()
        self.run.mkdir()
        self.workspace = self.run / "workspace"
        self.before: dict[str, str] = {}

    def goal(self, **fields: Any) -> Goal:
        return Goal.model_validate({"goal": "g", **fields}).at(self.folder)

    def prepare(self, **fields: Any) -> dict[str, str]:
        goal = self.goal(**fields)
        self.before = fingerprints(self.folder, goal.grants.write if goal.grants else [])
        return prepare(goal, workspace_of(goal, self.folder, self.run), self.run)

    def deliver(self, patterns: list[str], prepared: dict[str, str] | None = None) -> list[str]:
        return deliver(self.workspace, self.folder, patterns, self.before, prepared or {}, "r1")

    def file(self, path: str, text: str = "x") -> Path:
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_inputs_are_copied_with_their_names_binary_ones_and_folders_too(place: Place) -> None:
    place.file("data/in.csv", "a,b\n")
    (place.folder / "photo.bin").write_bytes(bytes(range(256)))
    place.prepare(inputs=["data/in.csv", "photo.bin", "data"], files={"sub/n.txt": "é"})
    assert tree(place.workspace) == {
        "in.csv": b"a,b\n",
        "photo.bin": bytes(range(256)),
        "data/in.csv": b"a,b\n",
        "sub/n.txt": "é".encode(),
    }


def test_a_half_prepared_workspace_is_made_again_and_a_whole_one_is_left(place: Place) -> None:
    source = place.file("in.txt", "new")
    place.workspace.mkdir()
    (place.workspace / "in.txt").write_text("n")  # a copy that a kill cut short
    (place.workspace / "stray.txt").write_text("s")
    hashes = place.prepare(inputs=["in.txt"], grants={"write": ["*.txt"]})
    assert tree(place.workspace) == {"in.txt": b"new"}
    source.write_text("changed later")
    (place.workspace / "in.txt").write_text("the run's own")
    assert place.prepare(inputs=["in.txt"], grants={"write": ["*.txt"]}) == hashes
    assert tree(place.workspace) == {"in.txt": b"the run's own"}


def test_what_cannot_be_prepared_is_said_and_no_marker_is_left(place: Place, tmp_path: Path) -> None:
    place.file("a/same.txt")
    place.file("b/same.txt")
    with pytest.raises(UsageError, match=r"two inputs are named same\.txt"):
        place.prepare(inputs=["a/same.txt", "b/same.txt"])
    with pytest.raises(UsageError, match=r"no such file: gone\.csv"):
        place.prepare(inputs=["gone.csv"])
    with pytest.raises(UsageError, match="not a folder"):
        place.prepare(workspace="nowhere")
    outside = tmp_path / "outside.txt"
    outside.write_text("x")
    with pytest.raises(UsageError, match=r"outside\.txt: lies outside the workspace"):
        place.prepare(workspace=".", inputs=[str(outside)])
    place.file("n.txt", "the user's")
    with pytest.raises(UsageError, match=r"n\.txt: exists already"):
        place.prepare(workspace=".", files={"n.txt": "inline"})
    assert not (place.run / PREPARED).exists()


def test_a_workspace_that_is_gone_is_said(place: Place) -> None:
    place.prepare()
    place.workspace.rmdir()
    with pytest.raises(UserError, match=f"the workspace of run {place.run.name} is gone"):
        place.prepare()


def test_inputs_of_a_message_may_come_twice_but_not_with_other_content(place: Place) -> None:
    place.workspace.mkdir()
    source = place.file("in.txt", "1")
    assert add_inputs(place.workspace, [source]) == ["in.txt"]
    assert add_inputs(place.workspace, [source]) == ["in.txt"]
    source.write_text("2")
    with pytest.raises(UsageError, match=r"already has another in\.txt"):
        add_inputs(place.workspace, [source])
    with pytest.raises(UsageError, match="no such file"):
        add_inputs(place.workspace, [place.folder])


def test_grants_name_files_patterns_and_folders(place: Place) -> None:
    for path in ("a.txt", "b.md", "out/c.txt", "out/deep/d.txt", ".git/config"):
        place.file(path)
    assert matching(place.folder, ["a.txt", "gone.txt"]) == ["a.txt"]
    assert matching(place.folder, ["*.txt"]) == ["a.txt"]
    assert matching(place.folder, ["out"]) == ["out/c.txt", "out/deep/d.txt"]
    assert matching(place.folder, ["."]) == ["a.txt", "b.md", "out/c.txt", "out/deep/d.txt"]
    assert matching(place.folder, []) == []


def test_delivering_again_changes_nothing_and_says_the_same(place: Place) -> None:
    old = place.file("late.txt", "old")
    old.chmod(0o640)
    place.prepare(grants={"write": ["late.txt", "new.txt"]})
    (place.workspace / "late.txt").write_text("result")
    (place.workspace / "new.txt").write_text("result")
    (place.workspace / "scratch.txt").write_text("not granted")
    assert place.deliver(["late.txt", "new.txt"]) == ["late.txt", "new.txt"]
    stamp = old.stat().st_ino
    assert place.deliver(["late.txt", "new.txt"]) == ["late.txt", "new.txt"]
    assert tree(place.folder) == {"late.txt": b"result", "new.txt": b"result"}
    assert (old.stat().st_ino, old.stat().st_mode & 0o777) == (stamp, 0o640)


@pytest.mark.parametrize("change", ["edited", "appeared", "removed", "folder"])
def test_what_changed_meanwhile_is_never_overwritten(place: Place, change: str) -> None:
    target = place.folder / "late.txt"
    if change != "appeared":
        target.write_text("old")
    place.prepare(grants={"write": ["late.txt"]})
    place.workspace.joinpath("late.txt").write_text("result")
    target.unlink(missing_ok=True)
    if change == "folder":
        target.mkdir()
    elif change != "removed":
        target.write_text("the user's")
    kept = None if change in ("folder", "removed") else target.read_text()
    assert place.deliver(["late.txt"]) == ["late.autogpt-r1.txt"]
    assert place.deliver(["late.txt"]) == ["late.autogpt-r1.txt"]
    assert (place.folder / "late.autogpt-r1.txt").read_text() == "result"
    assert (target.read_text() if target.is_file() else None) == kept


def test_inputs_left_as_they_were_are_not_delivered(place: Place) -> None:
    place.file("data/in.txt", "input")
    prepared = place.prepare(inputs=["data/in.txt"], grants={"write": ["*.txt"]})
    (place.workspace / "new.txt").write_text("new")
    assert place.deliver(["*.txt"], prepared) == ["new.txt"]


def test_delivery_does_not_follow_links(place: Place, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (place.folder / "out").symlink_to(outside)
    (place.folder / "link.txt").symlink_to(outside / "target.txt")
    place.prepare(grants={"write": ["out/x.txt", "link.txt"]})
    (place.workspace / "link.txt").write_text("x")
    assert place.deliver(["link.txt"]) == ["link.autogpt-r1.txt"]
    (place.workspace / "out").mkdir()
    (place.workspace / "out" / "x.txt").write_text("x")
    with pytest.raises(UserError, match=r"out/x.txt: a link leads out of"):
        place.deliver(["out/x.txt"])
    assert list(outside.iterdir()) == []


def test_files_written_in_place_are_reported_and_left_where_they_are(place: Place) -> None:
    place.file("old.txt", "old")
    place.file("same.txt", "same")
    prepared = place.prepare(workspace=".", grants={"write": ["*.txt"]})
    place.file("old.txt", "new")
    place.file("late.txt", "late")
    found = deliver(place.folder, place.folder, ["*.txt"], place.before, prepared, "r1")
    assert found == ["late.txt", "old.txt"]
    assert sorted(tree(place.folder)) == ["late.txt", "old.txt", "same.txt"]


def test_what_changed_in_the_copies_alone_is_said() -> None:
    goal = {"goal": "g", "inputs": ["data/friday.txt"], "workspace": None}
    files = {"friday.txt": None, "weekend.txt": {"bytes": 3}, "late.txt": {"bytes": 1}, "draft.txt": None}
    assert undelivered(goal, files, ["late.txt"]) == [
        "friday.txt itself was not moved or renamed, only the run's copy of it",
        "weekend.txt is in the run's own workspace only; --write weekend.txt delivers it",
    ]
    assert undelivered({**goal, "workspace": "."}, files, []) == []
    granted = {**goal, "inputs": [], "grants": {"write": ["late.txt"]}}
    assert undelivered(granted, {"late.txt": {"bytes": 1}}, []) == ["late.txt was written as it was before"]
    assert undelivered(granted, {"late.txt": {"bytes": 1}}, [], finished=False) == [
        "late.txt was not delivered: the run did not finish"
    ]


def test_an_input_in_place_that_leads_out_of_the_folder_is_refused(place: Place, tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("x")
    (place.folder / "link.txt").symlink_to(tmp_path / "outside.txt")
    with pytest.raises(UsageError, match=r"link\.txt: lies outside the workspace"):
        place.prepare(workspace=".", inputs=["link.txt"])
