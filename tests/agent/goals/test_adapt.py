"""What the command line adds to a goal: inputs, a folder to work in, files to write."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from autogpt.agent.goals.load import Goal, adapt, load_goals
from autogpt.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "desk"
    made.mkdir()
    (made / "b.csv").write_text("a\n1\n")
    (made / "notes.txt").write_text("x")
    return made


def test_without_additions_a_goal_stays_what_it_is() -> None:
    goal = Goal(goal="g")
    assert adapt(goal) is goal and adapt("Count.") == Goal(goal="Count.")


def test_a_folder_to_work_in_is_shown_and_read_but_not_written(folder: Path) -> None:
    goal = adapt("Count the rows.", workspace=folder)
    assert (goal.base, goal.workspace, goal.inputs) == (folder, ".", ["b.csv", "."])
    assert goal.grants is not None and (goal.grants.read, goal.grants.write) == (["."], [])
    assert goal.input_paths() == [folder / "b.csv", folder]
    granted = adapt("Write it.", workspace=folder, write=["."]).grants
    assert granted is not None and granted.write == ["."]


def test_of_a_folder_with_many_tables_only_the_list_is_shown(folder: Path) -> None:
    for number in range(5):
        (folder / f"{number}.csv").write_text("a\n1\n")
    assert adapt("Count.", workspace=folder).inputs == ["."]


def test_inputs_are_found_from_the_folder_that_they_were_named_in(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    own = Goal(goal="g", inputs=["desk/notes.txt"]).at(tmp_path)
    assert adapt(own, ["b.csv"]).input_paths() == [folder / "notes.txt", folder / "b.csv"]
    assert adapt(own, ["b.csv"], workspace=".").inputs == ["notes.txt", "b.csv"]  # relative to the workspace


def test_what_cannot_be_added_is_one_clear_line(folder: Path, tmp_path: Path) -> None:
    (folder / "out").symlink_to(tmp_path)
    for arguments, said in [
        ({"workspace": folder / "gone"}, "gone: no such folder to work in"),
        ({"write": ["../x"]}, r"--write.*: `\.\./x` leaves the goal's folder"),
        ({"workspace": folder, "write": ["out/x"]}, "--write: `out/x` leaves .* through a symbolic link"),
    ]:
        with pytest.raises(UsageError, match=said) as caught:
            adapt("g", **arguments)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="the goal is empty"):
        adapt(" ")
    with pytest.raises(UsageError, match="goal: input should be a valid string"):
        adapt(5)  # type: ignore[arg-type]


def test_bytes_that_are_no_text_are_refused_as_a_goal_and_as_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="the goal is not valid UTF-8 text"):
        adapt("Say \udcff.")
    with pytest.raises(UsageError, match="the goal is not valid UTF-8 text"):
        load_goals("Say \udcff.")
    monkeypatch.setattr("sys.stdin", io.StringIO("\udc80\udcff"))
    with pytest.raises(UsageError, match="the goal is not valid UTF-8 text"):
        load_goals("-")
    odd = tmp_path / "data" / "na\udcffme.csv"
    odd.parent.mkdir()
    odd.write_text("a,b")
    wanted = r"'na\\udcffme\.csv': the file's name is not valid UTF-8; rename it"
    assert adapt("How many rows?", workspace=odd.parent).inputs == ["."]
    for given in (odd, odd.parent):
        with pytest.raises(UsageError, match=wanted):
            adapt("How many rows?", inputs=[given]).input_paths()
