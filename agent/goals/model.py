"""What a user asks for, as typed records: a goal with its inputs, grants, limits and checks.

The models refuse what cannot be meant (an unknown field, an empty goal, a grant that leaves the
folder). Reading them from files, with line numbers for every mistake, is the work of ``load``.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue, PrivateAttr, field_validator, model_validator

from ...errors import UsageError
from ...text import is_unicode
from .checks import AnyCheck, Strict, inside
from .inputs import copy, look, named, near_file

InsidePath = Annotated[str, AfterValidator(inside)]
"""A relative path that stays inside its folder."""


class Grants(Strict):
    """What a run may touch; with any grants given, nothing else is possible."""

    read: list[InsidePath] = []
    write: list[InsidePath] = []
    """Files or globs, relative to the goal's folder; delivered there when the run ends."""
    net: list[str] = []
    """Hosts that may be asked."""
    run: list[str] = []
    """Programs that may be started."""


class Limits(Strict):
    """Where a run stops; it then ends with exit code 4."""

    steps: int = Field(default=20, ge=1)
    tokens: int = Field(default=20_000, ge=1)
    """Tokens that the model computes: generated ones, and those of prompts that no cache held."""
    seconds: float = Field(default=300, gt=0)
    chance: float = Field(default=0, ge=0, lt=1)
    """Chance of success, as the model's value head sees it, below which a run ends after three turns in a
    row; 0: never. For models without a value head it does nothing."""


class Stub(Strict):
    """A tool that exists only for this goal and always gives the same value."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$")
    description: str = ""
    parameters: dict[str, JsonValue] = {"type": "object", "properties": {}}
    """JSON schema of its arguments."""
    returns: JsonValue = None


class Goal(Strict):
    """One goal, ready to run."""

    goal: str
    id: str = ""
    """Name in reports; made from the text when not given."""
    category: str = ""
    inputs: list[str] = []
    """Paths, relative to the goal file's folder; copied into the run's own workspace."""
    files: dict[InsidePath, str] = {}
    """Small inputs given inline: name to text."""
    workspace: InsidePath | None = None
    """A folder to work in, in place; without it the run gets its own."""
    tools: list[str] | None = None
    """Tools or families (``tables``, ``files.read``); default: all that the grants allow."""
    params: dict[str, JsonValue] = {}
    """Values for ``{{ name }}`` in ``goal``; filled in, and emptied, when the goal is made."""
    grants: Grants | None = None
    limits: Limits = Limits()
    stubs: list[Stub] = []
    check: list[AnyCheck] = []
    on_approval: Literal["refuse", "park"] = "refuse"
    remembered: list[str] = []
    """What earlier runs kept in memory, oldest first; for suites, where each goal has its own memory."""
    earlier: list[str] = []
    """Goals that the model is given before this one, with the same memory; for suites."""

    _base: Path | None = PrivateAttr(default=None)
    _origin: str = PrivateAttr(default="")

    @property
    def base(self) -> Path:
        """The folder that paths are relative to: the goal file's, else the current one."""
        return self._base or Path.cwd()

    @property
    def origin(self) -> str:
        """Where the goal was read, ``file:line``; empty when it was made in code."""
        return self._origin

    def at(self, base: Path, origin: str = "") -> Goal:
        """Set the folder that paths are relative to, and where the goal was read; returns the goal."""
        self._base, self._origin = base, origin
        return self

    @property
    def _place(self) -> str:
        """How a mistake in the inputs begins: with the goal's file, or for arguments of a call."""
        return f"{self._origin}: inputs: " if self._origin else "input: "

    def text(self) -> str:
        """Return what the model reads; parameters were filled in when the goal was made."""
        return self.goal

    def input_paths(self) -> list[Path]:
        """Return the inputs as absolute paths.

        Raises UsageError for a missing one, one that cannot be copied, and two of one name.
        """
        paths = [named(self.base / name) for name in self.inputs]
        for name, path in zip(self.inputs, paths, strict=True):
            if path.is_symlink() and not path.exists():
                raise UsageError(f"{self._place}{name} is a link to nothing (to {path.readlink()})")
            if not path.exists():
                looked = "" if Path(name).is_absolute() else f" (looked in {self.base})"
                near = near_file(path)
                hint = f"; did you mean {near}?" if near else ""
                raise UsageError(f"{self._place}no such file: {name}{looked}{hint}")
            if self.workspace is None:
                look(path)
        names = [*(path.name for path in paths), *self.files] if self.workspace is None else []
        if twice := {name for name in names if names.count(name) > 1}:
            raise UsageError(f"{self._place}two inputs are named {', '.join(sorted(twice))}; rename one")
        return paths

    def fill_workspace(self, workspace: Path) -> None:
        """Copy the inputs into ``workspace`` and write the inline files there; raises UsageError."""
        for path in self.input_paths():
            copy(path, workspace / path.name)
        for name, content in self.files.items():
            target = workspace / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode())

    @field_validator("goal")
    @classmethod
    def _not_empty(cls, goal: str) -> str:
        if not goal.strip():
            raise ValueError("the goal is empty; say what should be done")
        if not is_unicode(goal):
            raise ValueError("the goal is not valid UTF-8 text; a file of bytes can only be an input")
        return goal

    @model_validator(mode="after")
    def _filled(self) -> Goal:
        """Fill in the parameters, so that every record of the goal holds what the model read."""
        self.goal, self.params = render(self.goal, self.params), {}
        return self

    @model_validator(mode="after")
    def _named(self) -> Goal:
        if not self.id:
            data = self.model_dump(mode="json", exclude={"id"})
            for name in ("remembered", "earlier"):  # later fields: without them ids stay as they were
                data = data if data[name] else {key: data[key] for key in data if key != name}
            if not data["limits"]["chance"]:  # a later field as well
                del data["limits"]["chance"]
            body = json.dumps(data, sort_keys=True)
            slug = "-".join(re.findall(r"[a-z0-9]+", self.goal.lower())[:6])[:40].strip("-")
            self.id = f"{slug or 'goal'}-{hashlib.sha256(body.encode()).hexdigest()[:6]}"
        return self


def render(text: str, params: dict[str, JsonValue]) -> str:
    """Fill ``{{ name }}`` in ``text``. Without params the text is left as it is. Raises ValueError."""
    if not params:
        return text
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        return ImmutableSandboxedEnvironment(undefined=StrictUndefined).from_string(text).render(params)
    except TemplateError as error:
        raise ValueError(f"the goal's text: {error.message}; `params` has {', '.join(params)}") from error


class Say(Strict):
    """One turn of a scripted session: what the user says and what must hold afterwards."""

    say: str
    check: list[AnyCheck] = []


class Conversation(Strict):
    """A scripted session of several turns over the same workspace."""

    id: str
    category: str = ""
    inputs: list[str] = []
    files: dict[InsidePath, str] = {}
    tools: list[str] | None = None
    limits: Limits = Limits()
    turns: list[Say] = Field(min_length=1)
