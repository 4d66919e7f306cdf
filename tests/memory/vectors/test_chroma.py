"""The index of memory against brute force, with a real Chroma in this process and a real server."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from autogpt.errors import UsageError
from autogpt.memory.entry import GLOBAL, Draft, Kind, Vectors
from autogpt.memory.store import MemoryStore
from autogpt.memory.upkeep.forgetting import forget
from autogpt.memory.vectors import chroma
from autogpt.memory.vectors.chroma import Collection, MemoryIndex, purge
from autogpt.memory.vectors.exact import Exact
from autogpt.settings import load

DIMENSION = 24
PROJECT = "/home/ada/project"
BOTH = (GLOBAL, PROJECT)


def unit(count: int, seed: int) -> Vectors:
    """Return ``count`` random vectors of length one."""
    vectors = np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def fill(store: MemoryStore, count: int, seed: int = 0, namespace: str = GLOBAL) -> list[int]:
    """Write ``count`` entries that have nothing in common; return their ids."""
    rng = random.Random(seed)
    texts = ["".join(rng.choices("bcdfghjklmnpqrstvwxz", k=16)) for _ in range(count)]
    drafts = [Draft(Kind.DOCUMENT, text, namespace, source=f"/notes/{seed}#{text}") for text in texts]
    written = store.write_many(drafts, unit(count, seed), "test-1")
    return [answer.entry.id for answer in written if answer.entry]


def brute(store: MemoryStore, vector: Vectors, k: int, namespaces: tuple[str, ...]) -> list[int]:
    """Return the ids of the nearest live entries, from the truth alone."""
    ids, vectors = store.vectors("test-1", list(namespaces))
    order = np.lexsort((ids, -(vectors @ vector)))[:k]
    return [int(ids[i]) for i in order]


def found(
    index: MemoryIndex | Exact, vector: Vectors, k: int = 10, where: tuple[str, ...] = BOTH
) -> list[int]:
    """Return the ids that a search finds, nearest first."""
    return [entry for entry, _ in index.search(vector, k, where)]


def test_exact_search_follows_every_kind_of_change(tmp_path: Path) -> None:
    now = [1000.0]
    store = MemoryStore(tmp_path, clock=lambda: now[0])
    other = MemoryStore(tmp_path, clock=lambda: now[0])
    exact = Exact(store, "test-1", DIMENSION)
    assert exact.search(unit(1, 0)[0], 3, BOTH) == []
    ids = fill(store, 60) + fill(store, 40, 1, PROJECT) + fill(store, 10, 2, "/elsewhere")
    queries = unit(20, 9)
    rng = random.Random(0)
    expiring = store.write(Draft(Kind.FACT, "passing", expires=2000.0), queries[0], "test-1").entry
    assert expiring is not None and found(exact, queries[0], 1) == [expiring.id]
    for step in range(12):
        ids += fill(other, 5, 100 + step, rng.choice(BOTH))
        gone = rng.sample(ids, 4)
        forget(other, gone)
        ids = [entry for entry in ids if entry not in gone]
        other.set_vectors(ids[:2], unit(2, 200 + step), "test-1")
        for query in queries[:4]:
            for namespaces in (BOTH, (GLOBAL,), (PROJECT, PROJECT), ("/unknown",)):
                assert found(exact, query, 7, namespaces) == brute(store, query, 7, tuple(set(namespaces)))
    now[0] = 3000.0
    assert expiring.id not in found(exact, queries[0], 200)
    assert len(found(exact, queries[0], 200)) == len(store.vectors("test-1", list(BOTH))[0])


def test_superseded_entries_and_other_embedders_are_not_found(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path)
    exact = Exact(store, "test-1", DIMENSION)
    first = store.write(Draft(Kind.FACT, "The office is in Lyon."), unit(1, 1)[0], "test-1").entry
    assert first is not None and found(exact, unit(1, 1)[0]) == [first.id]
    second = store.write(Draft(Kind.FACT, "The office is in Ghent."), unit(1, 1)[0], "test-1")
    assert second.replaced == first.id and second.entry is not None
    assert found(exact, unit(1, 1)[0]) == [second.entry.id]
    store.set_vectors([second.entry.id], unit(1, 5), "other-model")
    assert found(exact, unit(1, 1)[0]) == [second.entry.id]
    assert found(Exact(store, "other-model", DIMENSION), unit(1, 5)[0]) == [second.entry.id]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> MemoryStore:
    """A store of 1,300 entries in two namespaces: enough for Chroma to write its graph to files."""
    store = MemoryStore(tmp_path_factory.mktemp("memory"))
    fill(store, 1000)
    fill(store, 300, 1, PROJECT)
    return store


@pytest.fixture(scope="module")
def running(store: MemoryStore) -> Iterator[MemoryIndex]:
    with MemoryIndex(store, "test-1", DIMENSION, store.home / "index", exact_rows=0) as index:
        assert found(index, unit(1, 0)[0], 1), "the exact search answers at once"
        assert index.wait(60), index.status()
        yield index


@pytest.fixture
def index(running: MemoryIndex) -> MemoryIndex:
    """The one index of this module, ready, with Chroma answering whatever the size."""
    assert running.wait(60), running.status()
    return running


def test_chroma_answers_like_brute_force_and_sees_every_write(index: MemoryIndex, store: MemoryStore) -> None:
    for query in unit(20, 30):
        assert found(index, query) == brute(store, query, 10, BOTH)
        assert found(index, query, 5, (PROJECT,)) == brute(store, query, 5, (PROJECT,))
    assert index.answered >= 20, "Chroma was not asked at all"
    vector = unit(1, 31)[0]
    entry = store.write(Draft(Kind.FACT, "Seen at once."), vector, "test-1").entry
    assert entry is not None and found(index, vector, 1) == [entry.id]
    assert index.wait(30)
    before = index.answered
    assert found(index, vector, 1) == [entry.id] and index.answered == before + 1
    assert index.exact.search(vector, 1, BOTH) == index.search(vector, 1, BOTH)


def test_a_kill_in_use_or_damage_while_closed_costs_a_rebuild_and_no_answer(
    index: MemoryIndex, store: MemoryStore
) -> None:
    """The marker is what a kill would not have left; other damage is found by it."""
    query = unit(1, 40)[0]
    folder = store.home / "index"

    def kill() -> None:
        (folder / "clean.json").unlink()

    def tear_the_graph() -> None:
        level = next((folder / "chroma").glob("*/data_level0.bin"))
        level.write_bytes(os.urandom(level.stat().st_size))

    def grow_the_graph() -> None:
        with next((folder / "chroma").glob("*/link_lists.bin")).open("r+b") as file:
            file.truncate(1 << 40)

    def ruin_the_database() -> None:
        (folder / "chroma" / "chroma.sqlite3").write_bytes(b"not a database")

    def claim_another_embedder() -> None:
        path = folder / "clean.json"
        path.write_text(path.read_text().replace('"change": ', '"change": 9'))

    for damage in (kill, tear_the_graph, grow_the_graph, ruin_the_database, claim_another_embedder):
        index.close()
        before = index.status().rebuilt
        damage()
        index.start()
        assert found(index, query) == brute(store, query, 10, BOTH)
        assert index.wait(60), (damage.__name__, index.status())
        assert index.status().rebuilt == before + 1, damage.__name__
        assert found(index, query) == brute(store, query, 10, BOTH)


def test_a_build_that_is_stopped_goes_on_at_the_next_start(store: MemoryStore, tmp_path: Path) -> None:
    for _ in range(20):  # each start may end anywhere in the build
        with MemoryIndex(store, "test-1", DIMENSION, tmp_path / "index", exact_rows=0) as index:
            if index.wait(0.3):
                break
    else:
        raise AssertionError(index.status())
    (mode,) = {(tmp_path / "index" / "chroma").stat().st_mode & 0o777}
    assert mode == 0o700


def test_a_query_that_hangs_is_answered_exactly(
    index: MemoryIndex, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chroma, "QUERY_SECONDS", 0.05)
    monkeypatch.setattr(Collection, "nearest", lambda *_: [[]] if time.sleep(0.5) else [[]])
    query = unit(1, 41)[0]
    begun = time.monotonic()
    assert found(index, query) == brute(store, query, 10, BOTH)
    assert time.monotonic() - begun < 0.4
    monkeypatch.undo()
    assert index.wait(60) and found(index, query) == brute(store, query, 10, BOTH)


def test_forgetting_leaves_no_vector_and_no_text_in_chromas_files(
    index: MemoryIndex, store: MemoryStore
) -> None:
    vector = unit(1, 50)[0]
    entry = store.write(Draft(Kind.FACT, "Zanzibar marmalade"), vector, "test-1").entry
    assert entry is not None and index.wait(30)
    files = store.home / "index" / "chroma"

    def bytes_of_chroma() -> bytes:
        return b"".join(path.read_bytes() for path in files.rglob("*") if path.is_file())

    assert vector.tobytes() in bytes_of_chroma() and b"armalade" not in bytes_of_chroma()
    change = forget(store, [entry.id]).change
    assert purge(store.home / "index", change)
    assert entry.id not in found(index, vector)
    assert vector.tobytes() not in bytes_of_chroma()
    assert index.wait(60) and vector.tobytes() not in bytes_of_chroma()
    assert entry.id not in found(index, vector)


def test_a_second_process_waits_for_the_lock_and_answers_meanwhile(
    index: MemoryIndex, store: MemoryStore
) -> None:
    query = unit(1, 60)[0]
    with MemoryIndex(store, "test-1", DIMENSION, store.home / "index", exact_rows=0) as second:
        assert not second.wait(0.5) and second.status().state == "waiting"
        fill(store, 3, 61)
        assert found(second, query) == found(index, query) == brute(store, query, 10, BOTH)


def test_other_tools_open_the_collection(index: MemoryIndex, store: MemoryStore) -> None:
    """In a process of its own, as other tools are, and as Chroma keeps its clients for ever."""
    index.close()
    code = f"""
import chromadb, numpy
client = chromadb.PersistentClient({str(store.home / "index" / "chroma")!r})
collection = client.get_collection("autogpt-memory", embedding_function=None)
rows = collection.get(include=["metadatas", "documents", "embeddings"])
print(len(rows["ids"]), sorted({{m["namespace"] for m in rows["metadatas"]}}), rows["documents"][0])
print(sorted(rows["metadatas"][0]), rows["embeddings"].shape[1], collection.metadata["embedder"])
where = {{"namespace": {PROJECT!r}}}
print(collection.query(query_embeddings=rows["embeddings"][:1], n_results=1, where=where)["ids"])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == f"{store.count()} {['', PROJECT]} None"
    assert lines[1] == f"['created', 'kind', 'label', 'namespace'] {DIMENSION} test-1"
    (expected,) = brute(store, store.vectors("test-1")[1][0], 1, (PROJECT,))
    assert lines[2] == f"[['{expected}']]"
    before = index.status().rebuilt
    index.start()
    assert index.wait(60) and index.status().rebuilt == before, "the index of the last time is opened"


def test_a_collection_that_grows_too_large_is_one_line_and_no_harm(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(chroma, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(chroma, "ROOM", -(10**12))
    query = unit(1, 90)[0]
    with MemoryIndex(store, "test-1", DIMENSION, tmp_path / "index", exact_rows=0) as index:
        assert not index.wait(30) and index.status().state == "off"
        assert "cannot be built" in index.status().detail and "\n" not in index.status().detail
        assert found(index, query) == brute(store, query, 10, BOTH)
    assert len([each for each in caplog.records if each.levelname == "WARNING"]) == 1


def test_a_server_is_used_like_the_folder_and_its_absence_is_one_line(
    store: MemoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = f"http://127.0.0.1:{port}"
    query = unit(1, 80)[0]
    with MemoryIndex(store, "test-1", DIMENSION, tmp_path / "index", server, exact_rows=0) as index:
        assert not index.wait(0.5)
        assert found(index, query) == brute(store, query, 10, BOTH)
        lines = [record.getMessage() for record in caplog.records if record.name.startswith("autogpt.memory")]
        assert len(lines) == 1 and server in lines[0] and "\n" not in lines[0]
        command = [str(Path(sys.executable).with_name("chroma")), "run", "--path", str(tmp_path / "server")]
        running = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path,
        )  # fmt: skip
        try:
            assert index.wait(60), index.status()
            assert found(index, query) == brute(store, query, 10, BOTH)
            assert index.answered == 1
            assert not (tmp_path / "index" / "chroma").exists()
            running.kill()
            running.wait()
            assert found(index, query) == brute(store, query, 10, BOTH)
        finally:
            running.kill()
            running.wait()


def test_the_setting_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOGPT_CHROMA", "localhost:8000")
    with pytest.raises(UsageError, match="http://host:8000"):
        load()
    monkeypatch.setenv("AUTOGPT_CHROMA", "http://localhost:8000/")
    assert load().chroma == "http://localhost:8000"
