"""Changing the embedder without losing a query, and LangChain's face of memory, over a real store."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from autogpt.cli.parser import main
from autogpt.memory.database import StorageError
from autogpt.memory.embedding import embed
from autogpt.memory.entry import GLOBAL, Draft, Embedder, Kind, Vectors
from autogpt.memory.store import MemoryStore
from autogpt.memory.vectors.chroma import MemoryIndex, open_index
from autogpt.memory.vectors.reembed import BATCH, Reembedding, vector_counts

COLOURS = ("amber", "beige", "coral", "denim", "ebony", "fawn", "green", "hazel", "ivory", "jade")
THINGS = ("boat", "chair", "door", "engine", "fence", "gate", "house", "island", "jacket", "kettle")


class Words:
    """An embedder of ours: words hashed into a few dimensions. ``gate`` lets a test hold it up."""

    def __init__(self, id: str, dimension: int) -> None:
        self.id, self.dimension = id, dimension
        self.gate = threading.Event()
        self.gate.set()
        self.calls = 0

    def embed(self, texts: Sequence[str], query: bool = False) -> Vectors:
        if not query:
            self.gate.wait(20)
            self.calls += 1
        vectors = np.full((len(texts), self.dimension), 1e-3, np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word in text.lower().replace(".", "").split():
                row[zlib.crc32(f"{self.id}{word}".encode()) % self.dimension] += 1.0
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def remember(store: MemoryStore, embedder: Words | None, texts: Sequence[str]) -> list[int]:
    """Write documents, with vectors or without."""
    drafts = [Draft(Kind.DOCUMENT, text, source=f"/notes#{i}") for i, text in enumerate(texts)]
    vectors = embedder.embed(texts) if embedder else None
    written = store.write_many(drafts, vectors, embedder.id if embedder else None)
    return [answer.entry.id for answer in written if answer.entry]


def nearest(work: Reembedding, text: str) -> str:
    serving = work.serving
    ((entry, _),) = serving.index.search(serving.embedder.embed([text], query=True)[0], 1, [GLOBAL])
    (found,) = serving.index.exact.store.get([entry])
    return found.text


def test_old_vectors_answer_until_the_new_are_complete(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path)
    texts = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
    old, new = Words("old", 256), Words("new", 512)
    remember(store, old, texts[:-1])
    remember(store, None, texts[-1:])
    new.gate.clear()

    def index(embedder: Embedder) -> MemoryIndex:
        return open_index(store, embedder)

    work = Reembedding(store, new, {"old": old}.get, index)
    work.start()
    assert work.serving.embedder is old
    assert [nearest(work, text) for text in texts[:5]] == texts[:5], "the old vectors answer"
    late = "purple lamp"
    remember(store, old, [late])
    assert nearest(work, late) == late and not work.wait(0.05)
    new.gate.set()
    deadline = time.monotonic() + 20
    while not work.wait(0) and time.monotonic() < deadline:
        assert nearest(work, texts[7]) == texts[7], "no query is lost while they are exchanged"
    assert work.serving.embedder is new
    assert [nearest(work, text) for text in (*texts, late)] == [*texts, late]
    remember(store, None, ["silver spoon"])
    assert work.wait(20) and nearest(work, "silver spoon") == "silver spoon"
    assert vector_counts(store) == {"new": len(texts) + 2}
    work.close()
    assert new.calls <= len(texts) // BATCH + 4


def test_embedding_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path)
    old, new = Words("old", 256), Words("new", 512)
    ids = remember(store, old, [f"{colour} {thing}" for colour in COLOURS for thing in THINGS])
    store.set_vectors(ids[:60], new.embed(["x"] * 60), "new")
    first = Reembedding(store, new, {"old": old}.get, lambda embedder: open_index(store, embedder))
    assert first.serving.embedder is old
    first.start()
    assert first.wait(20) and new.calls == 2, "only what was missing is embedded"
    first.close()
    again = Reembedding(store, new, lambda _: None, lambda embedder: open_index(store, embedder))
    assert again.serving.embedder is new


def test_an_embedder_that_is_gone_is_said_and_not_in_the_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore(tmp_path)
    remember(store, Words("old", 256), ["amber boat", "beige chair"])
    new = Words("new", 512)
    work = Reembedding(store, new, lambda _: None, lambda embedder: open_index(store, embedder))
    assert work.serving.embedder is new and "old is not there any more" in caplog.text
    work.start()
    assert work.wait(20) and nearest(work, "amber boat") == "amber boat"
    work.close()


def test_a_model_exchanged_under_its_name_costs_no_entry(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore(tmp_path)
    texts = ["amber boat", "beige chair"]
    remember(store, Words("model", 256), texts)
    changed = Words("model", 512)
    with pytest.raises(
        StorageError, match=r"gives 512 numbers .* has its vectors with 256; .*memory rebuild"
    ):
        store.write(Draft(Kind.FACT, "coral door"), changed.embed(["coral door"])[0], "model")
    work = Reembedding(store, changed, lambda _: None, lambda embedder: open_index(store, embedder))
    (line,) = [record.getMessage() for record in caplog.records]
    assert "gives 512 numbers" in line and "2 vectors of before" in line
    work.start()
    assert work.wait(20) and [nearest(work, text) for text in texts] == texts
    work.close()


def test_rebuild_embeds_what_the_new_embedder_lacks(
    isolated: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = MemoryStore(isolated)
    remember(store, Words("old", 256), ["amber boat", "beige chair"])
    store.close()
    monkeypatch.setattr(embed, "load_or_words", lambda *_: Words("new", 64))
    assert main(["memory", "rebuild"]) == 0
    assert "2 entries were embedded by new" in capsys.readouterr().out
    assert vector_counts(store) == {"new": 2}
    assert main(["memory", "rebuild"]) == 0 and "embedded" not in capsys.readouterr().out
