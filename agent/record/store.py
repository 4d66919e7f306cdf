"""All runs of one home: create, open, list, find by a short name, export, remove.

A run is a row and its events in the database, and a folder ``<home>/runs/<run>`` with its lock,
blobs and workspace. The row is there for listing; whatever matters is in the events. A run that is
marked as running while no process holds its lock has crashed or was killed, and is listed as interrupted.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ...errors import UsageError
from ...memory.database import Database, runs
from ...memory.database import events as event_rows
from .events import Event, RunStarted, ToolOutcome, dump_event
from .journal import DatabaseJournal, RunLock, decode_event, encode_event, is_held, load_events, read_blob
from .record import Record

_RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")


@dataclass(frozen=True)
class RunInfo:
    """A line of ``autogpt runs list``. Times are seconds since the epoch."""

    run: str
    goal: str
    status: str
    """``running`` (a live process holds it), ``interrupted``, ``waiting`` (for a person), or its end."""
    mode: str
    model: str
    started: float
    ended: float | None
    reward: float | None
    parent: str | None
    workspace: str
    owner: str

    @property
    def resumable(self) -> bool:
        """Whether ``autogpt resume`` has anything to do (a waiting run first needs its answer)."""
        return self.status in ("interrupted", "waiting")


def new_run_id(now: float | None = None) -> str:
    """Return a short id that sorts by start time (UTC), e.g. ``20261122-173501-a1b2c3``."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    return f"{stamp}-{secrets.token_hex(3)}"


def _owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


class RunStore:
    """The runs under ``home``, over one database (SQLite there, or the one that ``url`` names)."""

    def __init__(self, home: Path, url: str | None = None, database: Database | None = None) -> None:
        self.home = home
        self.database = database or Database(home, url)

    def folder(self, run: str) -> Path:
        """Return the run's own folder (workspace, blobs, lock)."""
        return self.home / "runs" / run

    def create(self, started: RunStarted, *, workspace: Path | None = None) -> DatabaseJournal:
        """Begin the run ``started.run`` and return its journal with that first event committed."""
        run = started.run
        if not _RUN_ID.fullmatch(run):
            raise ValueError(f"not a run id: {run!r}")
        self._make_home()
        folder = self.folder(run)
        lock = RunLock(folder)
        body = encode_event(started if started.at else started.model_copy(update={"at": time.time()}))
        kept = decode_event(body)
        row = {
            "run": run,
            "goal": str(started.goal.get("goal", "")),
            "mode": started.mode,
            "model": started.model,
            "started": kept.at,
            "workspace": str(workspace or folder / "workspace"),
            "status": "running",
            "owner": _owner(),
        }
        first = {"run": run, "seq": 0, "at": kept.at, "type": started.type, "body": body}

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.insert(runs).values(row))
            connection.execute(sa.insert(event_rows).values(first))

        try:
            self.database.write(work)
        except BaseException:
            lock.release()
            raise
        return DatabaseJournal(self.database, folder, [kept], lock)

    def open(self, run: str) -> DatabaseJournal:
        """Take over ``run`` (an exact id) to continue it; raises ``UserError`` if it is held."""
        lock = RunLock(self.folder(self._existing(run)))
        change = sa.update(runs).where(runs.c.run == run).values(owner=_owner())
        try:
            self.database.make_reserve()
            events = self.load(run)
            if not Record(events).ended:
                self.database.write(lambda connection: connection.execute(change))
        except BaseException:
            lock.release()
            raise
        return DatabaseJournal(self.database, self.folder(run), events, lock)

    def load(self, run: str) -> list[Event]:
        """Return the events of ``run`` (an exact id); raises ``UsageError`` if there is none."""
        events = load_events(self.database, run)
        if not events:
            self._existing(run)
        return events

    def value(self, run: str, outcome: ToolOutcome) -> Any:
        """Return the exact value of an outcome of ``run``."""
        return outcome.value if outcome.blob is None else read_blob(self.folder(run), outcome.blob)

    def info(self, run: str) -> RunInfo:
        """Return the line of one run (an exact id)."""
        with self.database.read() as connection:
            row = connection.execute(sa.select(runs).where(runs.c.run == run)).mappings().first()
        if row is None:
            raise UsageError(f"no run {run!r}; 'autogpt runs list' shows them")
        return self._info(row)

    def list_runs(self, limit: int | None = 50) -> list[RunInfo]:
        """Return runs, newest first."""
        query = sa.select(runs).order_by(runs.c.started.desc(), runs.c.run.desc()).limit(limit)
        with self.database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return [self._info(row) for row in rows]

    def resolve_run(self, text: str) -> str:
        """Return the run id that ``text`` names: ``last``, an id, or the start of one or of its suffix.

        Raises ``UsageError`` when there is none or more than one.
        """
        with self.database.read() as connection:
            query = sa.select(runs.c.run).order_by(runs.c.started.desc(), runs.c.run.desc())
            known = [str(run) for run in connection.execute(query).scalars()]
        if not known:
            raise UsageError("there are no runs yet; 'autogpt run \"...\"' makes one")
        if text == "last":
            return known[0]
        wanted = text.strip().lower()
        found = [run for run in known if run == wanted] or [
            run for run in known if wanted and (run.startswith(wanted) or run[16:].startswith(wanted))
        ]
        if len(found) == 1:
            return found[0]
        if not found:
            raise UsageError(f"no run {text!r}; the last is {known[0]}, 'autogpt runs list' shows all")
        raise UsageError(f"{text!r} names {len(found)} runs: {', '.join(found[:5])}; give more characters")

    def last_resumable(self) -> str:
        """Return the newest run that was interrupted; raises ``UsageError`` if there is none."""
        for info in self.list_runs(limit=None):
            if info.status == "interrupted":
                return info.run
        raise UsageError("no interrupted run to resume; 'autogpt runs list' shows all runs")

    def remove(self, run: str) -> None:
        """Delete a run for good: its events, its folder, and what the database file holds of them.

        Raises ``UserError`` when a live process holds it. Call :func:`forgetting.scrub` after the last.
        """
        lock = RunLock(self.folder(self._existing(run)))
        try:
            gone = sa.delete(runs).where(runs.c.run == run)
            self.database.write(lambda connection: connection.execute(gone))
            shutil.rmtree(self.folder(run), ignore_errors=True)
        finally:
            lock.release()

    def export(self, run: str) -> Iterator[str]:
        """Yield the run as JSON lines, one event each, with large values written out."""
        for seq, event in enumerate(self.load(run)):
            data = dump_event(event)
            if isinstance(event, ToolOutcome) and event.blob:
                data = {**data, "value": self.value(run, event)}
            yield json.dumps({"run": run, "seq": seq, **data}, ensure_ascii=True, separators=(",", ":"))

    def _make_home(self) -> None:
        """Make the home for its owner alone; one that exists keeps its mode."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.home / "runs").mkdir(mode=0o700, exist_ok=True)

    def _existing(self, run: str) -> str:
        return self.info(run).run

    def _info(self, row: Any) -> RunInfo:
        info = RunInfo(**row)
        if info.status == "running" and not is_held(self.folder(info.run)):
            return replace(info, status="interrupted")
        return info
