"""The journal and its database: what is appended is there after anything, or one clear line says why not."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import sqlite3
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support.calls import of

from autogpt.agent.record.events import (
    Event,
    ModelTurn,
    PersonAnswered,
    PersonAsked,
    RunEnded,
    RunInterrupted,
    RunStarted,
    ToolOutcome,
    Unknown,
    dump_event,
)
from autogpt.agent.record.journal import INLINE_BYTES, DatabaseJournal, MemoryJournal, Paused
from autogpt.agent.record.store import RunStore, new_run_id
from autogpt.errors import UsageError, UserError
from autogpt.memory.database import MIGRATIONS, Database, StorageError, schema_versions

FORK = multiprocessing.get_context("fork")


def begin(store: RunStore, goal: str = "count", run: str | None = None) -> DatabaseJournal:
    return store.create(RunStarted(run=run or new_run_id(), goal={"goal": goal}))


def outcome(call: str, value: object) -> ToolOutcome:
    return ToolOutcome(call_id=call, tool="t.t", state="done", handle="$1", preview="p", value=value)


def test_what_is_appended_is_what_a_later_process_loads(tmp_path: Path) -> None:
    journal = begin(RunStore(tmp_path))
    large = [["row", number, "é"] for number in range(1000)]
    turn = ModelTurn(text="<x>\ud800\x00", call=None, invalid="no", ids=[1, 2], logprobs=[-0.5, 0.0])
    journal.append(turn)
    kept = journal.append(outcome("c1", large))
    journal.append(outcome("c2", {"small": (1, 2)}))
    assert kept.blob and kept.value is None
    assert journal.value(kept) == large
    journal.close()

    again = RunStore(tmp_path)
    assert again.load(journal.run) == list(journal.events)
    with again.open(journal.run) as reopened:
        assert reopened.value(kept) == large
        assert [turn.text for turn in of(ModelTurn, reopened.events)] == ["<x>\ud800\x00"]
        assert [event.at > 0 for event in reopened.events] == [True] * 4


def test_small_values_stay_in_the_event_and_blobs_are_checked(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    journal = begin(store)
    assert journal.append(outcome("c1", "x" * (INLINE_BYTES - 2))).blob is None
    kept = journal.append(outcome("c2", "x" * INLINE_BYTES))
    assert kept.blob is not None
    blob = journal.folder / "blobs" / kept.blob
    assert stat.S_IMODE(blob.stat().st_mode) == 0o600
    blob.write_text('"other"')
    with pytest.raises(UserError, match=r"blobs/.* is damaged"):
        store.value(journal.run, kept)
    blob.unlink()
    with pytest.raises(UserError, match=r"cannot be read: No such file"):
        store.value(journal.run, kept)


def test_an_event_of_a_later_version_is_kept(tmp_path: Path) -> None:
    journal = begin(RunStore(tmp_path))
    newer = {"type": "weather.changed", "at": 5.0, "wind": [1, 2]}
    journal.append(Unknown(at=5.0, original=newer))
    loaded = RunStore(tmp_path).load(journal.run)[1]
    assert isinstance(loaded, Unknown) and loaded.original == newer


def test_memory_journal_has_the_same_face() -> None:
    journal = MemoryJournal("r", [RunStarted(run="r", goal={})])
    kept = journal.append(outcome("c1", "x" * 9000))
    assert journal.value(kept) == "x" * 9000
    assert kept.at > 0
    assert len(journal.events) == 2


def test_a_second_process_may_not_take_a_live_run(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    journal = begin(store)
    assert store.list_runs()[0].status == "running"
    with pytest.raises(UserError, match=f"run {journal.run} is held by process {os.getpid()}"):
        RunStore(tmp_path).open(journal.run)
    journal.close()
    with RunStore(tmp_path).open(journal.run) as taken:
        taken.append(RunEnded(status="achieved", cause="finished"))
    info = store.list_runs()[0]
    assert (info.status, info.goal, info.resumable) == ("achieved", "count", False)


def test_the_list_tells_killed_waiting_and_interrupted_runs_apart(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    killed, waiting, stopped = begin(store), begin(store), begin(store)
    waiting.append(PersonAsked(kind="question", text="which?"))
    stopped.append(RunInterrupted(cause="stopped by the user"))
    for journal in (killed, waiting, stopped):
        journal.close()
    found = {info.run: info.status for info in store.list_runs()}
    assert found == {killed.run: "interrupted", waiting.run: "waiting", stopped.run: "interrupted"}
    with store.open(waiting.run) as journal:
        journal.append(PersonAnswered(text="this"))
        assert store.info(waiting.run).status == "running"


def test_runs_are_found_by_short_names(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    with pytest.raises(UsageError, match="there are no runs yet"):
        store.resolve_run("last")
    for number, run in enumerate(("20260101-000000-aaaa11", "20260102-000000-aabb22")):
        store.create(RunStarted(at=1.0 + number, run=run, goal={"goal": "g"})).close()
    assert store.resolve_run("last") == "20260102-000000-aabb22"
    assert store.resolve_run("aaaa") == "20260101-000000-aaaa11"
    assert store.resolve_run("20260102") == "20260102-000000-aabb22"
    with pytest.raises(UsageError, match="names 2 runs"):
        store.resolve_run("aa")
    with pytest.raises(UsageError, match="no run 'zz'; the last is 20260102-000000-aabb22"):
        store.resolve_run("zz")
    with pytest.raises(UsageError, match="no run"):
        store.load("20260103-000000-cccc33")
    assert store.last_resumable() == "20260102-000000-aabb22"


def test_an_export_has_every_event_and_value(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "a")
    journal = begin(store, "größe")
    journal.append(outcome("c1", list(range(3000))))
    journal.append(RunEnded(status="not_met", cause="a check failed", reward=0.5))
    lines = [json.loads(line) for line in store.export(journal.run)]
    assert [(line.pop("run"), line.pop("seq")) for line in lines] == [(journal.run, n) for n in range(3)]
    assert lines[1].pop("value") == list(range(3000))
    events = [dump_event(event) for event in store.load(journal.run)]
    del events[0]["run"], events[1]["value"]
    assert lines == events


def _append_many(home: Path, count: int) -> None:
    with begin(RunStore(home)) as journal:
        for number in range(count):
            journal.append(PersonAnswered(text=str(number)))


def test_processes_may_write_at_once_even_the_first_time(tmp_path: Path) -> None:
    workers = [FORK.Process(target=_append_many, args=(tmp_path, 40)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    store = RunStore(tmp_path)
    runs = store.list_runs()
    assert len(runs) == 4
    for info in runs:
        events = store.load(info.run)
        assert len(events) == 41
        texts = [event.text for event in of(PersonAnswered, events)]
        assert texts == [str(number) for number in range(40)]


def _append_until_killed(home: Path, report: int) -> None:
    with begin(RunStore(home)) as journal:
        for number in range(100_000):
            journal.append(PersonAnswered(text=str(number)))
            os.write(report, b".")


def test_what_was_acknowledged_survives_kill(tmp_path: Path) -> None:
    read, write = os.pipe()
    worker = FORK.Process(target=_append_until_killed, args=(tmp_path, write))
    worker.start()
    os.close(write)
    acknowledged = len(os.read(read, 60))
    os.kill(worker.pid or 0, signal.SIGKILL)
    while data := os.read(read, 65536):
        acknowledged += len(data)
    worker.join()
    os.close(read)
    store = RunStore(tmp_path)
    events = store.load(store.resolve_run("last"))
    assert acknowledged <= len(events) - 1 <= acknowledged + 1
    texts = [event.text for event in of(PersonAnswered, events)]
    assert texts == [str(number) for number in range(len(events) - 1)]


def test_the_database_is_private_and_durable(tmp_path: Path) -> None:
    begin(RunStore(tmp_path / "home"))
    names = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "home").glob("autogpt.db*")}
    assert names["autogpt.db"] == 0o600
    assert all(mode == 0o600 for mode in names.values())
    for folder in (tmp_path / "home", tmp_path / "home" / "runs"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with Database(tmp_path / "home").read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_a_newer_schema_is_refused_by_name(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    begin(store).close()
    newer = len(MIGRATIONS) + 1
    insert = sa.insert(schema_versions).values(version=newer, applied=1.0)
    store.database.write(lambda connection: connection.execute(insert))
    with pytest.raises(StorageError, match=rf"autogpt.db: schema version {newer} is newer .*upgrade autogpt"):
        RunStore(tmp_path).list_runs()


def test_a_file_that_is_no_database_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "autogpt.db").write_bytes(b"this is text, not a database" * 100)
    with pytest.raises(StorageError, match=r"autogpt.db: is not an AutoGPT database"):
        RunStore(tmp_path).list_runs()
    assert (tmp_path / "autogpt.db").read_bytes().startswith(b"this is text")


def test_a_wrong_database_url_is_said_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(
        StorageError, match=r"user:\*\*\*@db/x: no such kind of database: postgresql\+nodriver"
    ):
        RunStore(tmp_path, "postgresql+nodriver://user:secret@db/x").list_runs()
    with pytest.raises(StorageError, match="not a URL") as caught:
        RunStore(tmp_path, "host=db password=secret")
    assert "secret" not in str(caught.value)


def _fill(journal: DatabaseJournal) -> Paused:
    for number in range(100_000):
        try:
            journal.append(PersonAnswered(text="x" * 3000 + str(number)))
        except Paused as error:
            return error
    raise AssertionError("the disk never filled")


def test_a_full_database_pauses_the_run_and_loses_nothing(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    journal = begin(store)
    with store.database.read() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 60")
    error = _fill(journal)
    where = tmp_path / "autogpt.db"
    assert str(error) == (
        f"paused: disk full while journalling {where}; free space and run 'autogpt resume {journal.run}'"
    )
    assert not (tmp_path / "autogpt.db.reserve").exists()
    journal.close()
    again = RunStore(tmp_path)
    assert again.load(journal.run) == list(journal.events)
    with again.open(journal.run) as reopened:
        reopened.append(RunEnded(status="achieved", cause="finished"))
    assert (tmp_path / "autogpt.db.reserve").stat().st_size > 1_000_000


def _full_disk(home: Path, result: Path) -> None:
    """In a process whose files may not grow beyond a size: the kernel refuses the write itself."""
    store = RunStore(home)
    journal = begin(store)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    error = _fill(journal)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    result.write_text(json.dumps([journal.run, len(journal.events), str(error)]))


def test_a_write_that_the_system_refuses_pauses_too(tmp_path: Path) -> None:
    worker = FORK.Process(target=_full_disk, args=(tmp_path / "home", tmp_path / "result"))
    worker.start()
    worker.join()
    run, count, error = json.loads((tmp_path / "result").read_text())
    assert error.startswith("paused: disk full while journalling")
    events: list[Event] = RunStore(tmp_path / "home").load(run)
    assert len(events) == count > 10


def test_a_commit_cut_off_by_ctrl_c_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = begin(RunStore(tmp_path))
    armed = True

    def strike(connection: sa.Connection) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    sa.event.listen(sa.Engine, "commit", strike)  # before the commit: it does not happen
    with pytest.raises(KeyboardInterrupt):
        journal.append(PersonAnswered(text="lost"))
    sa.event.remove(sa.Engine, "commit", strike)
    write = Database.write

    def write_then_strike(database: Database, work: Any) -> None:  # after the commit: it has happened
        write(database, work)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Database, "write", write_then_strike)
        journal.append(PersonAnswered(text="kept"))
    journal.append(PersonAnswered(text="next"))
    assert [event.text for event in of(PersonAnswered, journal.events)] == ["kept", "next"]
    assert len(journal.events) == 3
    assert RunStore(tmp_path).load(journal.run) == list(journal.events)


def test_a_locked_database_is_waited_for_with_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("autogpt.memory.database.BUSY_SECONDS", 0.02)
    store = RunStore(tmp_path)
    journal = begin(store)
    holder = sqlite3.connect(tmp_path / "autogpt.db", isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.15, lambda: holder.execute("ROLLBACK"))
    release.start()
    journal.append(PersonAnswered(text="patient"))
    release.join()
    assert "Retrying" in caplog.text
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match=r"autogpt\.db: locked by another process"):
        journal.append(PersonAnswered(text="never"))
    holder.close()
    assert [type(event).__name__ for event in store.load(journal.run)] == ["RunStarted", "PersonAnswered"]
