"""The truth of memory: what is written stays, is found, and can be followed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import sqlite3
import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.drafts import fact

from autogpt.labels import Label
from autogpt.memory.database import MIGRATIONS, Database, StorageError, StorageFull
from autogpt.memory.entry import Draft, Kind, Verdict
from autogpt.memory.store import MemoryStore
from autogpt.memory.upkeep.upkeep import merge, prune, rebuild_words


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    return MemoryStore(tmp_path)


def piece(text: str, namespace: str = "", place: str = "/f.md#0") -> Draft:
    return Draft(Kind.DOCUMENT, text, namespace, Label.UNTRUSTED, source=place)


def unit(*rows: list[float]) -> NDArray[np.float32]:
    matrix = np.array(rows, np.float32)
    lengths: NDArray[np.float32] = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / lengths


def test_every_field_comes_back(store: MemoryStore, tmp_path: Path) -> None:
    draft = Draft(
        Kind.LESSON, "Read  the log – first\n二", "/p", Label.UNTRUSTED, "20260101-000000-aaaaaa", 7,
        expires=time.time() + 60,
    )  # fmt: skip
    written = store.write(draft).entry
    assert written is not None
    again = MemoryStore(tmp_path).get([written.id])
    assert again == [written]
    for name in ("kind", "text", "namespace", "label", "run", "event", "source", "expires"):
        assert getattr(written, name) == getattr(draft, name)
    assert (written.uses, written.successes, written.used, written.superseded_by) == (0, 0, None, None)


def test_words_are_found_in_english_and_chinese(store: MemoryStore) -> None:
    texts = [
        "The cafés were closing early", "Invoices are paid by transfer", "我最喜欢的水果是苹果",
        "会议在北京举行", "snake_case_name is used in v2.5", 'He said "so be it" (twice)',
    ]  # fmt: skip
    ids = [entry.entry.id for entry in store.write_many([fact(text) for text in texts]) if entry.entry]
    for query, place in [
        ("cafe closed", 0), ("INVOICE", 1), ("which fruit 苹果", 2), ("北京的会议", 3), ("京", 3),
        ("case name", 4), ("2.5", 4), ('said "twice"', 5), ("水果", 2),
    ]:  # fmt: skip
        assert [id for id, _ in store.search_words(query, 1)] == [ids[place]], query
    for query in ("", "   ", '"', "*", "AND OR NOT", "x" * 5000, "\ud800", "unknown", "苹 果园"):
        assert len(store.search_words(query, 5)) <= 1


def test_scores_fall_and_filters_hold(store: MemoryStore) -> None:
    store.write_many([
        fact("tea"), fact("tea and milk and bread and butter"), fact("black tea", namespace="/p"),
        piece("tea in a file"), fact("coffee"), fact("old tea", expires=time.time() - 1),
    ])  # fmt: skip
    found = store.search_words("tea", 10)
    assert len(found) == 4 and [score for _, score in found] == sorted((s for _, s in found), reverse=True)
    assert found[0][1] > 0
    assert len(store.search_words("tea", 10, [""])) == 3
    assert len(store.search_words("tea", 10, ["", "/p"], kinds=[Kind.FACT])) == 3
    assert len(store.search_words("tea", 10, ["/p"], labels=[Label.UNTRUSTED])) == 0
    assert len(store.search_words("tea", 2)) == 2


def test_frequent_words_only_order_what_rare_ones_find(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the words of a query have too many rows, the order is as FTS5 alone would give it."""
    texts = [f"report number {n} about harbours" for n in range(60)]
    texts += [f"page {n} of something else altogether" for n in range(240)]
    texts += ["a quokka was seen", "a quokka in the report about harbours", "harbours"]
    store.write_many([piece(text, place=f"/f#{n}") for n, text in enumerate(texts)])
    full = store.search_words("quokka report harbour", 2)
    monkeypatch.setattr("autogpt.memory.lexical.MOST_ROWS", 10)
    bounded = store.search_words("quokka report harbour", 2)
    assert [id for id, _ in bounded] == [id for id, _ in full] == [302, 301]


def test_vectors_follow_what_is_live(store: MemoryStore) -> None:
    matrix = unit([1, 0], [0, 1], [1, 1])
    drafts = [fact("The host is db1"), fact("tea", namespace="/p"), fact("The host is db2")]
    store.write_many(drafts, matrix, "small:1")
    ids, vectors = store.vectors("small:1")
    assert ids.tolist() == [2, 3] and vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, matrix[1:])
    assert store.vectors("small:1", ["/p"])[0].tolist() == [2]
    assert store.vectors("other")[0].tolist() == []
    assert store.missing_vectors("other") == [(2, "tea"), (3, "The host is db2")]
    store.set_vectors([3, 2, 99], unit([1, 2, 3], [3, 2, 1], [1, 1, 1]), "other")
    assert store.missing_vectors("other") == [] and store.vectors("other")[0].tolist() == [2, 3]
    assert store.vectors("small:1")[0].tolist() == [2, 3]  # until they are replaced, the old ones serve
    with pytest.raises(StorageError, match="embedder other gives 2 numbers a text"):
        store.set_vectors([2], unit([1, 0]), "other")


def test_changes_can_be_followed(store: MemoryStore) -> None:
    """Whoever applies the changes since the last number knows what is live, whatever happened."""
    live: set[int] = set()
    last = 0

    def follow() -> set[int]:
        nonlocal last
        for change in store.changes(last):
            assert change.number > last
            last = change.number
            (live.add if change.live else live.discard)(change.entry)
        return live

    store.write_many([fact("The host is db1"), fact("tea")])
    assert follow() == {1, 2}
    store.write(fact("The host is db2"))
    assert follow() == {2, 3}
    store.forget([2])
    store.write(fact("milk"))
    assert follow() == {3, 4} and store.changes(last) == [] and store.last_change() == last
    assert {change.entry for change in store.changes()} == {1, 2, 3, 4}  # the forgotten stays a number


def test_ids_are_never_used_again(store: MemoryStore) -> None:
    first = store.write(fact("tea")).entry
    assert first is not None
    store.forget([first.id])
    second = store.write(fact("milk")).entry
    assert second is not None and second.id > first.id


def test_uses_are_counted(store: MemoryStore) -> None:
    store.write_many([fact("tea"), fact("milk")])
    store.used([1, 1, 2], True)
    store.used([1], False)
    assert [(e.uses, e.successes) for e in store.get([1, 2])] == [(2, 1), (1, 1)]
    assert (store.get([1])[0].used or 0) > 0


def test_edit_changes_words_topics_and_vector(store: MemoryStore) -> None:
    store.write(fact("The host is db1"), unit([1.0, 0.0])[0], "e")
    assert store.edit(1, "The printer is p1").verdict is Verdict.WRITTEN
    assert store.search_words("host", 5) == [] and store.search_words("printer", 5)[0][0] == 1
    assert store.missing_vectors("e") == [(1, "The printer is p1")]
    assert store.write(fact("The printer is p2")).replaced == 1
    assert store.edit(2, "password is hunter2").verdict is Verdict.REFUSED
    assert store.edit(9, "x").verdict is Verdict.REFUSED


def test_two_writers_store_it_once(tmp_path: Path) -> None:
    stores = [MemoryStore(tmp_path) for _ in range(4)]
    verdicts: list[Verdict] = []

    def work(store: MemoryStore) -> None:
        verdicts.extend(store.write(fact(f"fact number {n} about tea")).verdict for n in range(10))

    stores[0].count()
    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts.count(Verdict.WRITTEN) == 10 and stores[0].count() == 10


def _write_until_killed(home: Path, said: Any) -> None:
    store = MemoryStore(home)
    for n in count():
        answer = store.write(fact(f"the number {n} was drawn"), unit([1.0, float(n)])[0], "e")
        assert answer.entry is not None
        said.send_bytes(f"{answer.entry.id} {n}".encode())


@pytest.mark.parametrize("after", [0.0, 0.013, 0.06])
def test_nothing_acknowledged_is_lost_by_a_kill(tmp_path: Path, after: float) -> None:
    context = multiprocessing.get_context("fork")
    hear, say = context.Pipe(duplex=False)
    process = context.Process(target=_write_until_killed, args=(tmp_path, say))
    process.start()
    say.close()
    acknowledged = [hear.recv_bytes() for _ in range(3)]
    time.sleep(after)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    try:
        while True:
            acknowledged.append(hear.recv_bytes())
    except EOFError:
        pass
    store = MemoryStore(tmp_path)
    texts = {entry.id: entry.text for entry in store.entries()}
    ids, _ = store.vectors("e")
    for line in acknowledged:
        entry, number = line.decode().split()
        assert texts[int(entry)] == f"the number {number} was drawn"
    assert len(ids) == len(texts) and len(store.search_words("drawn", 10_000)) == len(texts)


def test_prune_takes_what_expired_or_never_helped(tmp_path: Path) -> None:
    day = 86_400.0
    now = [1_000_000_000.0]
    store = MemoryStore(tmp_path, clock=lambda: now[0])
    run: dict[str, Any] = {"run": "20260101-000000-aaaaaa", "event": 1}
    store.write_many([
        fact("by hand, never used"), fact("found once, never used", **run),
        fact("found, always helps", **run), fact("found, useless in every run", **run),
        fact("for a day", expires=now[0] + day), piece("of a file"),
    ])  # fmt: skip
    for _ in range(10):
        store.used([3], True)
        store.used([4], False)
    now[0] += 3 * day
    assert [entry.text for entry in prune(store)] == ["for a day"]
    now[0] += 60 * day
    assert [entry.text for entry in prune(store)] == ["found, useless in every run"]
    now[0] += 160 * day
    assert prune(store, every=161 * day) == []
    assert [entry.text for entry in prune(store, every=day)] == ["found once, never used"]
    assert store.count() == 3


def test_merge_keeps_the_one_that_helped_with_the_uses_of_both(store: MemoryStore) -> None:
    text = "the weekly report about sales goes to the whole finance team"
    other = "the weekly report about sales is sent to the whole finance team"
    store.write(fact(text), unit([1.0, 0.0])[0], "e")
    store.write(fact(other))
    store.used([2], True)
    store.used([1], False)
    store.set_vectors([2], unit([1.0, 0.05]), "e")
    assert [(kept.id, gone.id) for kept, gone in merge(store, "e")] == [(2, 1)]
    kept = store.entries()
    assert [(e.id, e.uses, e.successes) for e in kept] == [(2, 2, 1)]


# A bad machine


def test_a_newer_store_is_refused_in_one_line(store: MemoryStore) -> None:
    store.count()
    store.close()
    with sqlite3.connect(store.database.path) as raw:
        raw.execute("INSERT INTO schema_versions VALUES (?, 0)", (len(MIGRATIONS) + 1,))
    raw.close()
    with pytest.raises(StorageError, match=r"newer than this program knows.*upgrade autogpt") as caught:
        MemoryStore(store.home).count()
    assert "\n" not in str(caught.value)


def test_a_store_from_before_memory_gets_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as older:
        older.setattr("autogpt.memory.database.MIGRATIONS", MIGRATIONS[:1])
        database = Database(tmp_path)
        database.write(lambda connection: None)
        database.close()
    assert MemoryStore(tmp_path).write(fact("tea")).verdict is Verdict.WRITTEN


@pytest.mark.parametrize("table", ["memory_entries", "memory_words_data"])
def test_a_damaged_page_is_one_clear_line(store: MemoryStore, table: str) -> None:
    store.write_many([piece(f"piece {n} about harbours " + "x" * 600, place=f"/f#{n}") for n in range(200)])
    store.close()
    with sqlite3.connect(store.database.path) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = raw.execute("PRAGMA page_size").fetchone()[0]
        root = raw.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
    raw.close()
    with open(store.database.path, "r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xde\xad" * (size // 2))
    with pytest.raises(StorageError) as caught:
        store.entries()
        store.search_words("harbours", 3)
    line = str(caught.value)
    assert str(store.database.path) in line and "damaged" in line and "export" in line and "\n" not in line


def test_words_can_be_made_anew(store: MemoryStore) -> None:
    store.write_many([piece(f"piece {n} about harbours", place=f"/f#{n}") for n in range(50)])
    store.database.write(lambda c: c.exec_driver_sql("UPDATE memory_words_data SET block = x'dead'"))
    store.close()
    with contextlib.suppress(StorageError):
        assert store.search_words("harbours", 3) == []
    assert rebuild_words(store) == 50 and len(store.search_words("harbours", 60)) == 50


def _fill(home: Path, said: Any) -> None:
    store = MemoryStore(home)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for n in range(10_000):
            store.write_many([piece(f"{n} {k} " + "y" * 5000, place=f"/f#{n}.{k}") for k in range(20)])
            said.send(n)
    except StorageFull as error:
        said.send(str(error))


def test_a_full_disk_is_one_clear_line_and_loses_nothing(store: MemoryStore) -> None:
    store.write(fact("tea"))
    store.close()
    context = multiprocessing.get_context("fork")
    hear, say = context.Pipe(duplex=False)
    process = context.Process(target=_fill, args=(store.home, say))
    process.start()
    say.close()
    heard = []
    try:
        while True:
            heard.append(hear.recv())
    except EOFError:
        process.join()
    assert "disk full; free space" in heard[-1] and len(heard) > 1
    assert store.count() == 1 + 20 * (len(heard) - 1)
    assert store.write(fact("milk")).verdict is Verdict.WRITTEN
