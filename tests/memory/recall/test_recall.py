"""Recall: what is found, what never comes, when it stays silent, what fits the budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.drafts import fact

from autogpt.errors import DefectError, UserError
from autogpt.labels import Label
from autogpt.memory.embedding.static import StaticEmbedder, shipped
from autogpt.memory.entry import GLOBAL, Embedder, Entry, Kind, VectorIndex, Vectors
from autogpt.memory.recall import rank
from autogpt.memory.recall.rank import (
    FEATURES,
    Candidate,
    Ranker,
    base_form,
    features,
    read_ranker,
    read_text,
    shipped_ranker,
)
from autogpt.memory.recall.recall import Recaller, bonus, tokens_at_most
from autogpt.memory.store import MemoryStore
from autogpt.memory.training import ranker as training
from autogpt.memory.training.pairs import collection, for_judge, is_test
from autogpt.memory.training.told import memories
from autogpt.memory.vectors.exact import Exact

FACTS = (
    "The user's dentist is Dr. Adams in Lisbon.",
    "The deploy branch of project Falcon is release.",
    "Anna's phone extension is 4417.",
    "Ben is allergic to peanuts.",
    "The staging server listens on port 8081.",
    "Invoices of project Maple go to Clara.",
    "我的自行车锁密码放在红色文件夹里。",
    "小明对花生过敏。",
    "Clara prefers green tea.",
    "Project Tundra is due on 9 May.",
)


@dataclass(frozen=True)
class Pair:
    embedder: Embedder
    index: VectorIndex


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def write(store: MemoryStore, text: str, **more: Any) -> Entry:
    embedder = StaticEmbedder()
    entry = store.write(fact(text, **more), embedder.embed([text])[0], embedder.id).entry
    assert entry is not None
    return entry


def open_recaller(store: MemoryStore) -> Recaller:
    embedder = StaticEmbedder()
    pair = Pair(embedder, Exact(store, embedder.id, embedder.dimension))
    return Recaller(store, lambda: pair)


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    made = MemoryStore(tmp_path, clock=Clock())
    for text in FACTS:
        write(made, text)
    return made


def texts(recaller: Recaller, query: str, namespaces: Sequence[str] = (GLOBAL,)) -> list[str]:
    return [hit.entry.text for hit in recaller.recall(query, namespaces, 500).hits]


@pytest.mark.parametrize(
    ("query", "fact"),
    [
        ("Who is my dentist?", FACTS[0]),
        ("Which branch do we deploy Falcon from?", FACTS[1]),
        ("What is the extension of Anna?", FACTS[2]),
        ("Which port does the staging server use?", FACTS[4]),
        ("Who gets the invoices for Maple?", FACTS[5]),
        ("自行车锁的密码在哪里？", FACTS[6]),
        ("小明对什么过敏？", FACTS[7]),
    ],
)
def test_a_told_fact_comes_first(store: MemoryStore, query: str, fact: str) -> None:
    assert texts(open_recaller(store), query)[:1] == [fact]


@pytest.mark.parametrize(
    "query",
    ["What is the boiling point of mercury?", "Sort these numbers: 4, 2, 9", "今天天气怎么样？", "", " \n"],
)
def test_nothing_relevant_is_a_result(store: MemoryStore, query: str) -> None:
    found = open_recaller(store).recall(query, [GLOBAL], 500)
    assert found.hits == () and found.tokens == 0


def test_without_an_embedder_words_answer(store: MemoryStore) -> None:
    assert texts(Recaller(store), "What is the extension of Anna?")[:1] == [FACTS[2]]


class Broken:
    """An index that cannot answer."""

    def search(self, vector: Vectors, k: int, namespaces: Sequence[str]) -> list[tuple[int, float]]:
        raise UserError("the index is gone")


class Liar:
    """An index that names everything, forgotten and superseded entries too."""

    def search(self, vector: Vectors, k: int, namespaces: Sequence[str]) -> list[tuple[int, float]]:
        return [(entry, 0.99) for entry in range(1, 60)]


def test_a_failing_index_leaves_the_words(store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    recaller = Recaller(store, lambda: Pair(StaticEmbedder(), Broken()))
    assert texts(recaller, "Who is my dentist?")[:1] == [FACTS[0]]
    assert "words alone answer" in caplog.text


def test_superseded_expired_forgotten_and_foreign_entries_never_come(store: MemoryStore) -> None:
    gone = write(store, "The port of the wiki is 8080")
    newer = write(store, "The port of the wiki is 9090")
    assert newer.id != gone.id and store.get([gone.id])[0].superseded_by == newer.id
    write(store, "The wiki backup lives on host dogwood.", expires=store.clock() + 5)
    write(store, "The wiki mirror lives on host elm.", namespace="/elsewhere")
    forgotten = write(store, "The wiki archive lives on host ginkgo.")
    store.forget([forgotten.id])
    assert isinstance(store.clock, Clock)
    store.clock.now += 10
    honest, liar = open_recaller(store), Recaller(store, lambda: Pair(StaticEmbedder(), Liar()))
    for recaller in (honest, liar):
        found = recaller.search("On which port does the wiki listen?", [GLOBAL])
        assert [hit.entry.id for hit in found if "wiki" in hit.entry.text] == [newer.id]


def test_kinds_and_labels_choose(store: MemoryStore) -> None:
    write(store, "Falcon is mentioned on a web page.", label=Label.UNTRUSTED, run="r1", event=3)
    recaller = open_recaller(store)
    assert {hit.entry.label for hit in recaller.search("Falcon", [GLOBAL])} == {
        Label.TRUSTED,
        Label.UNTRUSTED,
    }
    trusted = recaller.search("Falcon", [GLOBAL], labels=[Label.TRUSTED])
    assert {hit.entry.label for hit in trusted} == {Label.TRUSTED}
    assert recaller.search("Falcon", [GLOBAL], kinds=[Kind.LESSON]) == []


def test_the_budget_is_hard_and_smaller_entries_still_fit(store: MemoryStore) -> None:
    write(store, "Falcon retrospective: " + "the release was late because of flaky checks, " * 30)
    recaller = open_recaller(store)
    for budget in (0, 10, 30, 200, 2000):
        found = recaller.recall("What about project Falcon and its release?", [GLOBAL], budget)
        assert found.tokens == sum(tokens_at_most(hit.entry.text) for hit in found.hits) <= budget
    small = recaller.recall("What about project Falcon and its release branch?", [GLOBAL], 40)
    assert [hit.entry.text for hit in small.hits] == [FACTS[1]]
    own = recaller.recall("Falcon release branch", [GLOBAL], 3, count=lambda text: 1)
    assert own.tokens == len(own.hits) <= 3


def test_use_that_helped_decides_between_equals(store: MemoryStore) -> None:
    first = write(store, "Backups of Raven run on Monday.", namespace="/a")
    second = write(store, "Backups of Raven run on Monday.", namespace="/b")
    recaller = open_recaller(store)
    for better, other in ((first, second), (second, first)):
        for _ in range(6):
            store.used([better.id], success=True)
            store.used([other.id], success=False)
        hits = recaller.recall("When do backups of Raven run?", ["/a", "/b"], 500).hits
        assert [hit.entry.id for hit in hits][:1] == [better.id] or store.get([other.id])[0].successes
    entry = store.get([second.id])[0]
    assert bonus(replace(entry, uses=9, successes=9), store.clock()) > bonus(
        replace(entry, uses=0, successes=0), store.clock()
    )
    assert bonus(replace(entry, uses=20, successes=0), 0.0) < bonus(replace(entry, uses=1, successes=0), 0.0)
    assert abs(bonus(replace(entry, uses=10**6, successes=10**6), 0.0)) <= 0.5


@pytest.mark.parametrize("query", ["\ud800 dentist", '"AND OR NOT* (', "x" * 200_000, "\0", "🦷" * 500])
def test_any_query_is_answered(store: MemoryStore, query: str) -> None:
    open_recaller(store).recall(query, [GLOBAL], 100)


def test_a_vector_finds_what_shares_no_word(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path)
    for text in ("我有一只猫。", "明天下雨。", "他会说法语。"):
        write(store, text)
    first = open_recaller(store).search("I have a cat", [GLOBAL])[0]
    assert first.entry.text == "我有一只猫。" and first.cosine > 0.3


def test_recall_beats_word_search_on_the_samples(packed_data: Path, tmp_path: Path) -> None:
    everything = collection(packed_data)
    store, numbers = training.filled(tmp_path, everything.texts, StaticEmbedder())
    recaller = open_recaller(store)
    asked = [one for some in everything.test.values() for one in some]
    assert len(asked) > 40

    def share(search: Callable[[str], list[int]]) -> float:
        return float(
            np.mean([bool({numbers[i] for i in search(one.question)} & one.answers) for one in asked])
        )

    words = share(lambda text: [entry for entry, _ in store.search_words(text, 1, [GLOBAL])])
    both = share(lambda text: [hit.entry.id for hit in recaller.search(text, [GLOBAL])[:1]])
    assert both >= words and both > 0.7


def test_training_and_test_questions_are_apart(packed_data: Path) -> None:
    everything = collection(packed_data)
    asked = {one.question for one in everything.test["medquad"]}
    assert asked and all(is_test(question) for question in asked)
    assert all(
        for_judge(one.question) and one.question not in asked for one in everything.tune.get("medquad", ())
    )


def test_features_see_words_pairs_and_places() -> None:
    words = shipped()
    near = Candidate(read_text("The red folder holds the bicycle key", words), 3.0, 0.5, 0, 0)
    late = "A key. " + "nothing here. " * 30 + "A folder that is red."
    far = Candidate(read_text(late, words), 3.0, 0.5, 1, 1)
    rows = features("the red folder", [near, far], words)
    column = {name: rows[:, i] for i, name in enumerate(FEATURES)}
    assert column["pairs"][0] > 0.99 and column["pairs"][1] < 1
    assert column["rare words in the head"][0] > column["rare words in the head"][1]
    assert column["length"][0] < column["length"][1]
    assert features("", [near], words).shape == (1, len(FEATURES))
    assert features("red", [], words).shape == (0, len(FEATURES))
    assert base_form("listening") == base_form("listens") == "listen" and base_form("猫狗们") == "猫狗们"


def test_features_see_what_is_asked_beside_the_topic() -> None:
    """Both texts are of the topic; only one of them answers, in other words than the question's."""
    words = shipped()
    texts = ("Glaucoma damages the eye. Surgery and drops lower the pressure.", "Glaucoma runs in families.")
    candidates = [Candidate(read_text(text, words), 1.0, 0.5, 0, 0) for text in texts]
    rows = features("What are the treatments for glaucoma in Anna?", candidates, words)
    column = {name: rows[:, i] for i, name in enumerate(FEATURES)}
    assert column["lacking and text"][0] > column["lacking and text"][1]
    assert column["names"][0] == 0.0 and column["rarest word that lacks"][0] > 0.3
    assert column["opening that the query names"][1] > column["opening that the query names"][0] > 0
    assert features("what of glaucoma", candidates, words)[0, FEATURES.index("names")] == -1.0


def test_the_reach_leaves_few_told_facts_out(tmp_path: Path) -> None:
    passing = training.told(tmp_path, StaticEmbedder(), memories(3, 5, passing=True))
    assert list(tmp_path.iterdir()) == []
    judge, found = training.with_reach(replace(shipped_ranker(), reach=0.0), passing)
    told = [sample for sample in passing if sample.right.any()]
    reached = [judge.scores(sample.rows)[sample.right].max() >= judge.reach for sample in told]
    assert np.mean(reached) >= 1 - training.MISSED - 1 / len(told) and found["reach"] == judge.reach


def test_the_judge_learns_calibrates_and_is_read_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(200):
        rows = rng.normal(0, 0.3, (12, len(FEATURES))).astype(np.float32)
        right = np.zeros(12, np.bool_)
        right[rng.integers(12)] = True
        rows[right, FEATURES.index("cosine")] += 2
        samples.append(training.Sample(rows, right))
    seen = [*samples[50:], *training.never_told(samples[50:])]
    judge, found = training.calibrate(training.train(seen), samples[:50])
    assert found["recall"] > 0.8 and found["silent when never told"] > 0.8
    first = [judge.scores(sample.rows).argmax() == sample.right.argmax() for sample in samples[:50]]
    assert np.mean(first) > 0.95
    judge.save(tmp_path / "judge.json")
    again = read_ranker(tmp_path / "judge.json")
    np.testing.assert_allclose(again.scores(samples[0].rows), judge.scores(samples[0].rows), atol=1e-2)


def test_a_judge_for_other_features_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ones = np.ones(2, np.float32)
    judge = Ranker(ones, ones, ones, ones, ones, scale=1.0, bias=0.0, threshold=0.0, reach=0.0)
    judge.save(tmp_path / "judge.json")
    monkeypatch.setattr(rank, "FEATURES", ("other",))
    with pytest.raises(DefectError, match="made for other features"):
        read_ranker(tmp_path / "judge.json")
    (tmp_path / "judge.json").write_text("{")
    with pytest.raises(DefectError, match=r"judge\.json"):
        read_ranker(tmp_path / "judge.json")


def test_a_thinner_store_is_measured_anew() -> None:
    rows = np.zeros((3, len(FEATURES)), np.float32)
    rows[:, FEATURES.index("bm25 of the best")] = [1.0, 0.5, 0.25]
    rows[:, FEATURES.index("word place")] = [1 / 10, 1 / 11, 1 / 12]
    rows[:, FEATURES.index("cosine below the best")] = [0.0, -0.2, -0.3]
    left = training.thinned(
        training.Sample(rows, np.array([True, False, False])), np.array([False, True, True])
    ).rows
    np.testing.assert_allclose(left[:, FEATURES.index("bm25 of the best")], [1.0, 0.5])
    np.testing.assert_allclose(left[:, FEATURES.index("word place")], [1 / 10, 1 / 11])
    np.testing.assert_allclose(left[:, FEATURES.index("cosine below the best")], [0.0, -0.1], atol=1e-6)


def test_generated_memories_ask_for_told_and_for_untold_things() -> None:
    made = memories(10, 3)
    asked = [at for memory in made for _, at in memory.questions]
    assert made == memories(10, 3) and None in asked and any(at is not None for at in asked)
    assert all(at is None or at < len(memory.facts) for memory in made for _, at in memory.questions)
