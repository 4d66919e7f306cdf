"""The write gate: what becomes an entry, what is refused and why, what replaces what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.drafts import fact

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
        ("Olga is employed at Raven", "Olga is allergic to Brie"),
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
    run: dict[str, Any] = {"run": "20260101-000000-aaaaaa", "event": 4, "recalled": (told.entry.id,)}
    echo = store.write(fact("Staging database: host db7, port 5433", **run))
    assert echo.verdict is Verdict.REFUSED and "recalled" in echo.reason
    other_kind = store.write(Draft(Kind.LESSON, told.entry.text, **run))
    assert other_kind.verdict is Verdict.REFUSED and "recalled" in other_kind.reason
    news = store.write(fact("The staging database uses MySQL", **run))
    assert news.verdict is Verdict.WRITTEN


def test_an_update_of_something_recalled_is_allowed(store: MemoryStore) -> None:
    told = store.write(fact("The build server is ci1"))
    assert told.entry is not None
    run: dict[str, Any] = {"run": "20260101-000000-aaaaaa", "event": 4, "recalled": (told.entry.id,)}
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
    assert relate("The man bit the dog", "The dog bit the man") is Relation.OTHER
    assert relate("paid the bill today", "The bill was paid") is Relation.SAME


CORRECTIONS = [
    ("I love Chinese food", "I hate Chinese food"),
    ("I prefer tabs over spaces", "I prefer spaces over tabs"),
    ("The server runs on port 8080", "The server now runs on port 9090"),
    ("The freezer is at 18 degrees", "The freezer is at -18 degrees"),
    ("The outside temperature is 18 degrees", "The outside temperature is -18 degrees"),
    ("My favourite language is C", "My favourite language is C++"),
    ("The project is written in C", "The project is written in C++"),
    ("I use Vim", "I now use Emacs"),
    ("Our team uses Slack", "Our team now uses Teams"),
    ("The warehouse is in Lyon", "The warehouse has moved to Ghent"),
    ("I am vegetarian", "I am not vegetarian"),
    ("I am not a member", "I am a member"),
    ("I like coffee", "I do not like coffee"),
    ("I like coffee", "I don't like coffee anymore"),
    ("I drink coffee", "I no longer drink coffee"),
    ("I drive a Volvo", "I now drive a Tesla"),
    ("The lift is working", "The lift is not working"),
    ("The library is open", "The library is closed"),
    ("Notifications are enabled", "Notifications are disabled"),
    ("I prefer tea to coffee", "I prefer coffee to tea"),
    ("I can eat nuts", "I cannot eat nuts"),
    ("The limit is 5", "The limit is 5%"),
    ("The factor is 1.5", "The factor is 15"),
    ("The price is 5 EUR", "The price is 5 USD"),
    ("My brother lives in Berlin", "My brother has moved to Madrid"),
    ("Ich mag Kaffee", "Ich mag keinen Kaffee"),
    ("Ich mag Kaffee", "Ich hasse Kaffee"),
    ("Ich wohne in Berlin", "Ich bin nach München gezogen"),
    ("Ich wohne in Berlin", "Ich wohne jetzt in Hamburg"),
    ("Mein Zahnarzt ist Dr. Adams", "Mein Zahnarzt ist jetzt Dr. Braun"),
    ("Der Server läuft auf Port 8080", "Der Server läuft jetzt auf Port 9090"),
    ("Ich bin Vegetarier", "Ich bin kein Vegetarier"),
    ("Ich arbeite bei Siemens", "Ich arbeite jetzt bei Bosch"),
    ("Wir nutzen Slack", "Wir nutzen jetzt Teams"),
    ("Die Besprechung ist am Montag", "Die Besprechung ist am Freitag"),
    ("J'aime le café", "Je n'aime pas le café"),
    ("J'aime le café", "Je déteste le café"),
    ("J'habite à Paris", "J'habite maintenant à Lyon"),
    ("J'habite à Paris", "J'ai déménagé à Lyon"),
    ("Mon dentiste est le Dr Martin", "Mon dentiste est maintenant le Dr Petit"),
    ("Je suis végétarien", "Je ne suis plus végétarien"),
    ("Le serveur utilise le port 8080", "Le serveur utilise maintenant le port 9090"),
    ("La réunion est lundi", "La réunion est vendredi"),
    ("Nous utilisons Slack", "Nous utilisons maintenant Teams"),
    ("Me gusta el café", "No me gusta el café"),
    ("Me encanta el café", "Odio el café"),
    ("Vivo en Madrid", "Ahora vivo en Sevilla"),
    ("Vivo en Madrid", "Me he mudado a Sevilla"),
    ("Mi dentista es el Dr. Ruiz", "Mi dentista ahora es la Dra. Vega"),
    ("Soy vegetariano", "Ya no soy vegetariano"),
    ("El servidor usa el puerto 8080", "El servidor ahora usa el puerto 9090"),
    ("La reunión es el lunes", "La reunión es el viernes"),
    ("Usamos Slack", "Ahora usamos Teams"),
    ("我喜欢咖啡", "我不喜欢咖啡"),
    ("我喜欢咖啡", "我讨厌咖啡"),
    ("I enjoy running", "I no longer enjoy running"),
    ("Anna loves opera", "Anna hates opera"),
    ("We host our site on Netlify", "We now host our site on Vercel"),
    ("The gate is open", "The gate is closed"),
    ("My bus line is 12", "My bus line is 21"),
    ("The API listens on port 80", "The API no longer listens on port 80"),
    ("I prefer email over phone", "I prefer phone over email"),
    ("I am allergic to nuts", "I am not allergic to nuts"),
    ("The sauna is at 80 degrees", "The sauna is at 60 degrees"),
    ("My sister is in Oslo", "My sister has moved to Bergen"),
    ("The keys are under the mat", "The key is under the mat"),
    ("My shell is fish", "My shell is zsh"),
    ("We meet on Monday", "We don't meet on Monday"),
    ("Python 3.11 is required", "Python 3.11 is no longer required"),
    ("The minimum is +5", "The minimum is -5"),
    ("My grade is B-", "My grade is B"),
    ("I write F#", "I don't write F#"),
    ("Ich trinke Kaffee", "Ich trinke keinen Kaffee mehr"),
    ("Ich fahre einen Golf", "Ich fahre jetzt einen Polo"),
    ("Unser Chef ist Herr Meier", "Unser Chef ist jetzt Frau Kunz"),
    ("Das Fenster ist offen", "Das Fenster ist geschlossen"),
    ("Ich liebe Jazz", "Ich hasse Jazz"),
    ("Meine Schwester wohnt in Köln", "Meine Schwester ist nach Bonn gezogen"),
    ("Je bois du café", "Je ne bois plus de café"),
    ("Mon chef est Paul", "Mon chef est maintenant Julie"),
    ("La porte est ouverte", "La porte est fermée"),
    ("Ma sœur habite à Lille", "Ma sœur a déménagé à Nantes"),
    ("J'adore le jazz", "Je déteste le jazz"),
    ("Je travaille chez Airbus", "Je travaille maintenant chez Thales"),
    ("Bebo café", "Ya no bebo café"),
    ("Mi jefe es Pablo", "Mi jefe ahora es Lucía"),
    ("La puerta está abierta", "La puerta está cerrada"),
    ("Mi hermana vive en Bilbao", "Mi hermana se ha mudado a Cádiz"),
    ("Trabajo en Telefónica", "Ahora trabajo en Iberia"),
    ("我住在北京", "我现在住在上海"),
    ("我爱爵士乐", "我讨厌爵士乐"),
]
"""A correction in every kind: sign, symbol, order, plural, negation, opposite, "now"; five languages."""
BOTH_TRUE = [
    ("The backup runs at 2 am", "The backup runs at 3 am"),
    ("The dog bit the man", "The man bit the dog"),
    ("I love Chinese food", "I love Italian food"),
    ("I love Chinese food", "My brother hates Chinese food"),
    ("I use Vim", "I use Git"),
    ("I like coffee", "I like tea"),
    ("I have a cat", "I have a dog"),
    ("I drink coffee", "I drink tea"),
    ("The server runs on port 8080", "The proxy runs on port 9090"),
    ("The server runs on port 8080", "The server runs Debian"),
    ("Our team uses Slack", "Our team uses Python"),
    ("I am a teacher", "I am a father"),
    ("I am tired", "I am hungry"),
    ("My brother lives in Berlin", "My sister lives in Madrid"),
    ("The warehouse is in Lyon", "The warehouse is full"),
    ("I prefer tabs over spaces", "I prefer tea over coffee"),
    ("Anna likes Bob", "Bob likes Anna"),
    ("Anna works with Bob", "Anna works with Carl"),
    ("I hate mornings", "I love evenings"),
    ("The freezer is at 18 degrees", "The fridge is at 4 degrees"),
    ("I was in Rome", "I am in Paris"),
    ("Arsenal beat Chelsea", "Chelsea beat Arsenal"),
    ("I know C", "I know C++"),
    ("I speak French", "I speak German"),
    ("The office is closed on Sunday", "The office is open on Monday"),
    ("Ich mag Kaffee", "Ich mag Tee"),
    ("Ich mag Kaffee", "Meine Frau mag keinen Kaffee"),
    ("Ich wohne in Berlin", "Meine Schwester wohnt in Hamburg"),
    ("Mein Zahnarzt ist Dr. Adams", "Mein Hausarzt ist Dr. Braun"),
    ("Ich bin Vegetarier", "Ich bin Lehrer"),
    ("Der Server läuft auf Port 8080", "Die Datenbank läuft auf Port 5432"),
    ("Wir nutzen Slack", "Wir nutzen Git"),
    ("J'aime le café", "J'aime le thé"),
    ("J'habite à Paris", "Ma sœur habite à Lyon"),
    ("Mon dentiste est le Dr Martin", "Mon médecin est le Dr Petit"),
    ("Je suis végétarien", "Je suis professeur"),
    ("Le serveur utilise le port 8080", "Le serveur utilise Debian"),
    ("Nous utilisons Slack", "Nous utilisons Git"),
    ("Me gusta el café", "Me gusta el té"),
    ("Vivo en Madrid", "Mi hermana vive en Sevilla"),
    ("Mi dentista es el Dr. Ruiz", "Mi médico es la Dra. Vega"),
    ("Soy vegetariano", "Soy profesor"),
    ("El servidor usa el puerto 8080", "La base de datos usa el puerto 5432"),
    ("Usamos Slack", "Usamos Git"),
    ("我喜欢咖啡", "我喜欢茶"),
    ("我喜欢咖啡", "我妻子不喜欢咖啡"),
    ("I enjoy running", "I enjoy swimming"),
    ("Anna loves opera", "Anna loves Bob"),
    ("The gate is open", "The window is closed"),
    ("My bus line is 12", "My train line is 21"),
    ("I am allergic to nuts", "I am allergic to milk"),
    ("My sister is in Oslo", "My sister is a doctor"),
    ("I drink tea in the morning", "I drink wine in the evening"),
    ("The report uses euros", "The invoice uses dollars"),
    ("Open issues are listed weekly", "Closed issues are listed weekly"),
    ("We meet on Monday", "We meet on Thursday"),
    ("I also use Emacs", "I use Vim"),
    ("I use Vim", "I now also use Emacs"),
    ("The server runs on port 8080", "The server now runs on Debian"),
    ("Bob likes Anna", "Anna does not like Bob"),
    ("Ich trinke Kaffee", "Ich trinke Wein"),
    ("Ich fahre einen Golf", "Mein Bruder fährt jetzt einen Polo"),
    ("Das Fenster ist offen", "Die Tür ist geschlossen"),
    ("Ich liebe Jazz", "Ich liebe Klassik"),
    ("Mein Hund ist braun", "Mein Hund ist hungrig"),
    ("Je bois du café", "Je bois du thé"),
    ("La porte est ouverte", "La fenêtre est fermée"),
    ("Mon chien est noir", "Mon chien est malade"),
    ("Bebo café", "Bebo té"),
    ("La puerta está abierta", "La ventana está cerrada"),
    ("Mi perro es negro", "Mi perro es grande"),
    ("Trabajo en Telefónica", "Mi hermano trabaja en Iberia"),
    ("我住在北京", "我妹妹住在上海"),
    ("我爱爵士乐", "我爱古典音乐"),
]
"""As like as the corrections, and both may hold."""


@pytest.mark.parametrize("pairs", [CORRECTIONS, BOTH_TRUE], ids=["corrections", "both true"])
def test_a_correction_supersedes_and_what_may_both_hold_is_kept(
    shared: MemoryStore, pairs: list[tuple[str, str]]
) -> None:
    """With the shipped embedder's vectors, as users have them."""
    embedder = load("static", Path("/nowhere"))
    assert embedder is not None
    wanted = Verdict.SUPERSEDED if pairs is CORRECTIONS else Verdict.WRITTEN
    wrong = []
    for older, newer in pairs:
        drafts = [fact(text, namespace=f"/pairs/{older}/{newer}") for text in (older, newer)]
        answers = shared.write_many(drafts, embedder.embed([older, newer]), embedder.id)
        if answers[1].verdict is not wanted:
            wrong.append((older, newer, str(answers[1].verdict)))
    assert wrong == []


def test_now_replaces_only_where_one_thing_can_be_meant(store: MemoryStore) -> None:
    store.write_many([fact("I use Vim"), fact("I use Git")])
    assert store.write(fact("I now use Emacs")).verdict is Verdict.WRITTEN
    assert store.count() == 3
