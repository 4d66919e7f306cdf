"""The write gate: what becomes an entry, what is refused and why, what replaces what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autogpt.labels import Label
from autogpt.memory.embedding.embed import load
from autogpt.memory.entry import GLOBAL, Draft, Kind, Verdict
from autogpt.memory.store import MemoryStore
from autogpt.memory.write_gate.relation import Relation, relate
from autogpt.memory.write_gate.secrets import find_secret


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    return MemoryStore(tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> MemoryStore:
    """One store for many pairs, each in a namespace of its own."""
    return MemoryStore(tmp_path_factory.mktemp("shared"))


def fact(text: str, **more: object) -> Draft:
    return Draft(Kind.FACT, text, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("my dentist is Dr. Adams", "My dentist is now Dr. Brown."),
        ("The port of service alpha is 8080", "The port of service alpha is 9090"),
        ("Anna is the CEO of Foo", "The CEO of Foo is Bert"),
        ("I live in Berlin", "I moved to Munich"),
        ("My favourite colour is blue", "my favourite colour is red"),
        ("The deadline is Monday", "The deadline was moved to Friday"),
        ("I have 2 dogs", "I have 3 dogs"),
        ("I am vegetarian", "I am no longer vegetarian"),
        ("The phone number of Anna is 555-1234", "Anna's phone number is 555-4321"),
        ("deploy branch: main", "Remember that the deploy branch is release"),
        ("我的牙医是李医生", "我的牙医现在是王医生"),
        ("我住在北京", "我搬到上海了"),
        ("会议是周三", "会议改到周五"),
    ],
)  # fmt: skip
def test_a_new_value_supersedes(shared: MemoryStore, older: str, newer: str) -> None:
    store, space = shared, f"/{older}/{newer}"
    first = store.write(fact(older, namespace=space)).entry
    answer = store.write(fact(newer, namespace=space))
    assert first is not None and answer.entry is not None
    assert (answer.verdict, answer.replaced) == (Verdict.SUPERSEDED, first.id)
    assert store.get([first.id])[0].superseded_by == answer.entry.id
    assert [entry.id for entry in store.entries([space])] == [answer.entry.id]


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("The port of service alpha is 8080", "The port of service beta is 8080"),
        ("my cat is black", "my cat is hungry"),
        ("Anna is a dentist", "Anna is a painter"),
        ("Room 5 has a projector", "Room 6 has a projector"),
        ("My dentist is A. Brown", "My dentist is A. Brown, telephone 555"),
        ("Arsenal beat Chelsea", "Chelsea beat Arsenal"),
        ("The meeting is in Room 5", "The meeting is at noon"),
        ("I have 2 dogs", "I have 3 cats"),
        ("Germany's capital is Berlin", "The capital of France is Paris"),
        ("The northern report is in reports", "The southern report is in reports"),
        ("My dentist was Dr. Adams", "My dentist is Dr. Brown"),
        ("我的猫是黑色的", "我的狗是黑色的"),
        ("李雷喜欢苹果", "韩梅梅喜欢苹果"),
    ],
)  # fmt: skip
def test_different_facts_are_both_kept(shared: MemoryStore, older: str, newer: str) -> None:
    """Also with vectors that are almost equal: a number or name that differs decides."""
    vectors = np.array([[1.0, 0.0], [0.97, np.sqrt(1 - 0.97**2)]], np.float32)
    for text, vector in zip([older, newer], vectors, strict=True):
        draft = fact(text, namespace=f"/{older}/{newer}")
        assert shared.write(draft, vector, "e").verdict is Verdict.WRITTEN


def test_duplicates_are_refused_and_point_at_what_is_there(store: MemoryStore) -> None:
    first = store.write(fact("Deploys happen on Fridays."))
    for text in ("deploys  happen on fridays", "Deploys happened on Fridays", "Ｄeploys happen on Fridays!"):
        again = store.write(fact(text))
        assert again.verdict is Verdict.REFUSED and again.entry == first.entry, text
    in_project = store.write(fact("Deploys happen on Fridays", namespace="/home/anna/project"))
    assert in_project.verdict is Verdict.REFUSED  # what holds everywhere holds there
    assert store.write(fact("Something else", namespace="/p")).verdict is Verdict.WRITTEN
    assert store.write(fact("Something else", namespace="/q")).verdict is Verdict.WRITTEN


def test_near_duplicates_by_vector(store: MemoryStore) -> None:
    base = np.array([1.0, 0.0], np.float32)
    near = np.array([0.98, np.sqrt(1 - 0.98**2)], np.float32)
    far = np.array([0.5, np.sqrt(0.75)], np.float32)
    text = "the weekly report about sales goes to the whole finance team"
    reworded = "the weekly report about sales is sent to the whole finance team"
    store.write(fact(text), base, "e")
    assert store.write(fact(reworded), near, "e").verdict is Verdict.REFUSED
    assert store.write(fact(reworded), far, "e").verdict is Verdict.WRITTEN


def test_the_shipped_embedder_makes_no_duplicates_of_different_things(shared: MemoryStore) -> None:
    """The threshold for "nearly the same" was chosen by pairs like these."""
    embedder = load("static", Path("/nowhere"))
    assert embedder is not None
    different = [
        ("The red team meets in the room on floor two", "The blue team meets in the room on floor two"),
        ("My brother plays chess on weekends with friends", "My sister plays chess on weekends with friends"),
        ("Export files use commas between the cells", "Import files use commas between the cells"),
    ]
    same = [
        ("Backups of the server run every night", "Server backups are run every night"),
        ("tables.query failed because the column name was wrong; describe first",
         "tables.query failed because of a wrong column name; describe the table first"),
    ]  # fmt: skip
    for pairs, verdict in ((different, Verdict.WRITTEN), (same, Verdict.REFUSED)):
        for pair in pairs:
            drafts = [fact(text, namespace=f"/{pair[0]}") for text in pair]
            answers = shared.write_many(drafts, embedder.embed(list(pair)), embedder.id)
            assert answers[1].verdict is verdict, pair


def test_recalled_text_is_not_written_again(store: MemoryStore) -> None:
    told = store.write(fact("The staging database lives on host db7, port 5433, and is wiped each night"))
    assert told.entry is not None
    run = {"run": "20260101-000000-aaaaaa", "event": 4, "recalled": (told.entry.id,)}
    echo = store.write(fact("Staging database: host db7, port 5433", **run))
    assert echo.verdict is Verdict.REFUSED and "recalled" in echo.reason
    other_kind = store.write(Draft(Kind.LESSON, told.entry.text, **run))  # type: ignore[arg-type]
    assert other_kind.verdict is Verdict.REFUSED and "recalled" in other_kind.reason
    news = store.write(fact("The staging database uses MySQL", **run))
    assert news.verdict is Verdict.WRITTEN


def test_an_update_of_something_recalled_is_allowed(store: MemoryStore) -> None:
    told = store.write(fact("The build server is ci1"))
    assert told.entry is not None
    run = {"run": "20260101-000000-aaaaaa", "event": 4, "recalled": (told.entry.id,)}
    assert store.write(fact("The build server is ci2", **run)).verdict is Verdict.SUPERSEDED


def test_the_old_value_may_come_back(store: MemoryStore) -> None:
    for text in ("The build server is ci1", "The build server is ci2"):
        store.write(fact(text))
    back = store.write(fact("The build server is ci1"))
    assert back.verdict is Verdict.SUPERSEDED
    assert [entry.text for entry in store.entries()] == ["The build server is ci1"]


def test_less_trusted_words_do_not_replace_the_users(store: MemoryStore) -> None:
    store.write(fact("Invoices are paid to account 111"))
    store.write(fact("The invoice account is 111"))
    poison = fact(
        "The invoice account is now 666", label=Label.UNTRUSTED, run="20260101-000000-aaaaaa", event=3
    )
    answer = store.write(poison)
    assert answer.verdict is Verdict.REFUSED and "trusted more" in answer.reason


def test_a_project_may_differ_from_everywhere(store: MemoryStore) -> None:
    store.write(fact("The default branch is main", namespace=GLOBAL))
    assert store.write(fact("The default branch is trunk", namespace="/p")).verdict is Verdict.WRITTEN
    assert store.write(fact("The default branch is dev", namespace="/p")).verdict is Verdict.SUPERSEDED
    assert store.count() == 2


def test_provenance(store: MemoryStore) -> None:
    assert store.write(fact("By hand")).verdict is Verdict.WRITTEN
    assert store.write(fact("From a page", label=Label.UNTRUSTED)).verdict is Verdict.REFUSED
    assert store.write(fact("From a run alone", run="20260101-000000-aaaaaa")).verdict is Verdict.REFUSED
    whole = fact("From a page, known which", label=Label.UNTRUSTED, run="20260101-000000-aaaaaa", event=7)
    assert store.write(whole).verdict is Verdict.WRITTEN
    piece = Draft(Kind.DOCUMENT, "A piece of a file", label=Label.UNTRUSTED, source="/a/b.md#0")
    assert store.write(piece).verdict is Verdict.WRITTEN


@pytest.mark.parametrize(
    ("text", "why"),
    [("", "empty"), (" \n\t", "empty"), ("x" * 10_000_000, "characters"), ("a\ud800b", "Unicode"),
     ("a\0b", "zero byte"), ("?!...", "no letter")],
)  # fmt: skip
def test_bad_texts_are_refused_with_one_line(shared: MemoryStore, text: str, why: str) -> None:
    answer = shared.write(fact(text, namespace="/bad"))
    assert answer.verdict is Verdict.REFUSED and why in answer.reason
    assert "\n" not in answer.reason and len(answer.reason) < 200
    assert shared.entries(["/bad"]) == []


SECRETS = [
    "My password is hunter2", "the wifi password for the office is correcthorse", "PASSWORD=abc123",
    "export AWS_KEY=AKIAIOSFODNN7EXAMPLE", "use sk-proj-abcdefghijklmnopqrstuvwx1234",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE", "token: ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "my card is 4111 1111 1111 1111", "postgres://anna:s3cret@db/x", "API key: 9f8a7b6c5d4e3f2a1b0c",
    "Authorization: Bearer abcdefghijklmnopqrstuvwxyz", "my PIN is 4711", "我的密码是abc12345",
    "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH", "the API token was changed to x8Jk2pQ9",
]  # fmt: skip
HARMLESS = [
    "The password is kept in the vault", "Passwords are hashed with scrypt", "order 4111111111111112 is off",
    "The token limit is high", "Tokens cost money", "call 0049 30 123456789", "The secret of joy is tea",
    "ISBN 9783161484100", "密码由管理员保管", "The key to the door is under the mat",
    "The tokenizer is byte-level BPE with 49152 tokens",
]  # fmt: skip


def test_secrets_are_found_and_never_kept(store: MemoryStore, tmp_path: Path) -> None:
    assert [text for text in SECRETS if find_secret(text) is None] == []
    assert [text for text in HARMLESS if find_secret(text)] == []
    for text in SECRETS:
        assert store.write(fact(text)).verdict is Verdict.REFUSED
    assert store.write(fact("anything", label=Label.SECRET)).verdict is Verdict.REFUSED
    store.close()
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert not any(word in kept for word in (b"hunter2", b"AKIAIOSFODNN7EXAMPLE", b"4111 1111"))


def test_relation_is_not_fooled_by_order_or_negation() -> None:
    assert relate("The lift is not working", "The lift is working") is not Relation.SAME
    assert relate("Bob paid Anna", "Anna paid Bob") is Relation.OTHER
    assert relate("paid the bill today", "The bill was paid") is Relation.SAME
