"""Settings: the order of sources, and one clear line for every mistake."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autogpt import settings
from autogpt.errors import UsageError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_user(text: str) -> None:
    file = Path.home() / ".config" / "autogpt" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text(text)


def test_flag_beats_env_beats_project_beats_user_beats_default(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings.load().model == ""
    write_user('model = "user"\nparallel = 2\n')
    assert settings.load().model == "user"
    (here / "autogpt.toml").write_text('model = "project"\n')
    assert settings.load().model == "project"
    assert settings.load().parallel == 2, (
        "a value that the project file leaves out still comes from the user's"
    )
    monkeypatch.setenv("AUTOGPT_MODEL", "env")
    assert settings.load().model == "env"
    assert settings.load(model="flag").model == "flag"
    assert settings.load(model=None).model == "env"


def test_home_moves_everything(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOGPT_HOME", str(here / "elsewhere"))
    loaded = settings.load()
    for path in (loaded.database, loaded.runs, loaded.models, loaded.cache):
        assert path.is_relative_to(here / "elsewhere")
    monkeypatch.delenv("AUTOGPT_HOME")
    assert settings.load().home == Path.home() / ".local/share/autogpt"


def test_a_home_that_is_a_file_is_said_to_be_one(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "file").write_text("x")
    for home in (here / "file", here / "file" / "below"):
        monkeypatch.setenv("AUTOGPT_HOME", str(home))
        with pytest.raises(UsageError, match=r"AUTOGPT_HOME .*: a folder is wanted, not a file, got '.*file"):
            settings.load()


def test_loading_makes_no_folder(here: Path) -> None:
    assert not settings.load().home.exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("parallel = 0\n", "parallel"),
        ('modle = "x"\n', "modle"),
        ("model = \n", "autogpt.toml"),
    ],
)
def test_mistakes_in_files_are_one_line(here: Path, text: str, says: str) -> None:
    (here / "autogpt.toml").write_text(text)
    with pytest.raises(UsageError, match=says) as caught:
        settings.load()
    assert "\n" not in str(caught.value)


def test_a_wrong_variable_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOGPT_DEVICE", "gpu")
    with pytest.raises(UsageError, match="AUTOGPT_DEVICE"):
        settings.load()


def test_openmp_waits_actively_for_a_bounded_time_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    settings.bound_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    settings.bound_spinning()
    assert int(os.environ["GOMP_SPINCOUNT"]) > 0
