"""The one place that reads the environment and configuration files.

A value comes from the first of: a flag, a variable ``AUTOGPT_*``, ``autogpt.toml`` in the current
folder, ``~/.config/autogpt/config.toml``, the default here. Nothing is read at import: whoever
needs settings calls :func:`load`, and folders are made by whoever first writes into them.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from .errors import UsageError

PROJECT_FILE = "autogpt.toml"


class Settings(BaseSettings):
    """All that can be configured. Field names are the keys of the files, and ``AUTOGPT_<NAME>``."""

    model_config = SettingsConfigDict(env_prefix="AUTOGPT_", extra="forbid", frozen=True)

    home: Path = Field(default_factory=lambda: Path.home() / ".local/share/autogpt")
    """Where runs, models and memory live; moving it moves all of them."""
    data: Path | None = None
    """Folder of the public data sets, for building suites and training; nothing else needs it."""
    model: str = ""
    """A registered name, a folder, a GGUF file, a hub name, ``openai:URL#MODEL``,
    ``langchain:provider/name`` or ``scripted:FILE``. Empty: the one in use (``autogpt model use``), at first
    the default of this machine."""
    openai_key: SecretStr = Field(
        default=SecretStr(""),
        validation_alias=AliasChoices("openai_key", "AUTOGPT_OPENAI_KEY", "OPENAI_API_KEY"),
    )
    """The key that ``openai:`` servers are sent; never recorded."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"
    """Number format of the model; on a CPU float16 and int8 are weights, with fp32 arithmetic."""
    memory: bool = True
    """Whether runs remember and recall. Entries are kept in ``home`` and stay on this machine."""
    parallel: int = Field(default=1, ge=1, le=64)
    """How many goals run at once."""
    embedder: str = "static"
    """What gives memory's texts their vectors: ``static`` (ships with the package), ``minilm`` (fetched by
    ``autogpt model fetch minilm``), a folder, a hub name; ``none``: memory is searched by words alone."""
    chroma: str = ""
    """A Chroma server for memory's index, ``http://host:8000``; empty: a local one, under ``home``."""
    learn: bool = True
    """Whether runs may become experience to train on; a run can say otherwise (``autogpt experience``)."""
    reward_step: float = Field(default=0.005, ge=0, le=1)
    """What each turn of the model costs a run that earned something."""
    reward_error: float = Field(default=0.02, ge=0, le=1)
    """What each invalid, failed or refused call costs."""
    reward_approval: float = Field(default=0.02, ge=0, le=1)
    """What each approval that a person was asked for costs."""
    reward_most: float = Field(default=0.2, ge=0, le=1)
    """What all of these cost at most, so that a goal that was met is worth more than one that was not."""

    @field_validator("home", "data")
    @classmethod
    def _expand(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @field_validator("home")
    @classmethod
    def _is_folder(cls, value: Path) -> Path:
        if any(map(os.path.isfile, (value, *value.parents))):
            raise ValueError("a folder is wanted, not a file")
        return value

    @field_validator("chroma")
    @classmethod
    def _server(cls, value: str) -> str:
        url = urlsplit(value)
        if value and (url.scheme not in ("http", "https") or not url.hostname):
            raise ValueError("a URL such as http://host:8000 is wanted")
        return value.rstrip("/")

    @property
    def database(self) -> Path:
        """The one SQL database: runs, events, memory, experience."""
        return self.home / "autogpt.db"

    @property
    def runs(self) -> Path:
        """Parent of the runs' folders (workspace, blobs, lock)."""
        return self.home / "runs"

    @property
    def models(self) -> Path:
        """Fetched, trained and registered models."""
        return self.home / "models"

    @property
    def cache(self) -> Path:
        """What can be made again at any time."""
        return self.home / "cache"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources; .env files and secret folders are not read."""
        files = [TomlConfigSettingsSource(settings_cls, toml_file=file) for file in config_files()]
        return (init_settings, env_settings, *files)


def config_files() -> list[Path]:
    """Return the configuration files that are looked for, strongest first."""
    return [Path.cwd() / PROJECT_FILE, Path.home() / ".config" / "autogpt" / "config.toml"]


def load(**flags: Any) -> Settings:
    """Return the settings in force; a flag of None counts as not given.

    Raises :class:`UsageError` naming the file, variable or flag that is wrong.
    """
    for file in config_files():
        try:
            with file.open("rb") as stream:
                tomllib.load(stream)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise UsageError(f"{file}: not readable as TOML: {error}") from error
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(Settings.model_fields)
            raise UsageError(f"setting {name!r} is unknown; known settings: {known}") from error
        reason = first["msg"].removeprefix("Value error, ")
        where = f"--{name}, AUTOGPT_{name.upper()} or {PROJECT_FILE}"
        raise UsageError(f"setting {name!r} ({where}): {reason}, got {first['input']!r}") from error


def debugging() -> bool:
    """Whether ``AUTOGPT_DEBUG`` asks for tracebacks; works also when the settings are broken."""
    return os.environ.get("AUTOGPT_DEBUG", "0") not in ("", "0")


def bound_spinning() -> None:
    """Let OpenMP's threads wait actively for some 20 us, then sleep; only before torch is imported.

    Sleeping at once costs more than the product it waits for: a token of the small model took 24 ms
    with two threads that sleep, 15 ms with these. Spinning without bound starves the tools that run
    at the same time. A choice in the environment is respected.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = "20000"
