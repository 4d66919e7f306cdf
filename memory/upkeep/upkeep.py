"""Keeping memory worth having: what never helped goes, what is said twice becomes one, junk is counted.

``worth`` falls by half every :data:`HALF_LIFE` days since an entry was last used (or written) and rises with
the share of its uses that ended well; below :data:`LEAST_WORTH` an entry is pruned. What the user wrote by
hand and pieces of files never decay: the user and the files say when they go. Expired entries go. Merging
keeps the entry that helped more and gives it the uses of the other. The audit looks at live entries with
the eyes of the write gate, and at the journal, which the gate does not see: it finds what came in otherwise.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ...labels import Label
from .. import tables as t
from ..database import events as event_rows
from ..entry import GLOBAL, Entry, Kind
from ..lexical import search
from ..rows import (
    delete_entries,
    fetch,
    insert_words,
    is_live,
    parts,
    record,
    same_topic,
    to_entry,
)
from ..store import NEIGHBOURS, MemoryStore
from ..write_gate.relation import NEAR_COSINE, Relation, relate
from ..write_gate.secrets import find_secret

HALF_LIFE = 60.0
"""Days; an entry that is never used is pruned after about seven months, one that never helps sooner."""
LEAST_WORTH = 0.05
DAY = 86_400.0
"""Seconds."""
_PRUNED = "pruned"


def worth(entry: Entry, now: float) -> float:
    """Return what an entry is worth, 0 to 1: how often it helped, and how long ago it was of use."""
    helped = (entry.successes + 1) / (entry.uses + 2)
    idle = max(0.0, now - max(entry.created, entry.used or 0.0)) / DAY
    return float(helped * 0.5 ** (idle / HALF_LIFE))


def decays(entry: Entry) -> bool:
    """Return whether an entry may go on its own: not the user's own words, not a piece of a file."""
    return entry.kind is not Kind.DOCUMENT and not (entry.run is None and entry.label is Label.TRUSTED)


def prune(store: MemoryStore, every: float = 0.0) -> list[Entry]:
    """Delete entries that have expired or are worth too little; return them.

    Does nothing where the last time was less than ``every`` seconds ago, so that runs may call it.
    """
    now = store.clock()
    own = sa.and_(t.entries.c.run.is_(None), t.entries.c.label == Label.TRUSTED.value)
    old = t.entries.c.expires <= now
    may_go = sa.or_(old, sa.and_(t.entries.c.kind != Kind.DOCUMENT.value, sa.not_(own)))
    last = sa.select(sa.func.max(t.writes.c.at)).where(t.writes.c.verdict == _PRUNED)
    with store.database.read() as connection:
        if every and now - (connection.execute(last).scalar() or 0.0) < every:
            return []
        found = [to_entry(row) for row in connection.execute(sa.select(t.entries).where(may_go)).mappings()]
    expired = [entry for entry in found if entry.expires is not None and entry.expires <= now]
    gone = {entry.id for entry in expired}
    idle = [e for e in found if e.id not in gone and decays(e) and worth(e, now) < LEAST_WORTH]
    count = str(len(expired) + len(idle))
    row = {"at": now, "verdict": _PRUNED, "reason": count, "kind": "", "namespace": ""}
    store.database.write(lambda connection: connection.execute(sa.insert(t.writes).values(row)))
    return [
        *store.forget([entry.id for entry in expired], "expired"),
        *store.forget([entry.id for entry in idle], "of no use for a long time"),
    ]


def merge(store: MemoryStore, embedder: str | None = None) -> list[tuple[Entry, Entry]]:
    """Make one entry of two that say the same; return pairs (kept, deleted)."""
    pairs: list[tuple[Entry, Entry]] = []
    gone: set[int] = set()
    for newer, older in _same(store, embedder):
        if newer.id in gone or older.id in gone:
            continue
        kept, other = sorted((older, newer), key=lambda e: (-e.successes, -e.uses, e.id))
        _fold(store, kept, other)
        gone.add(other.id)
        pairs.append((kept, other))
    return pairs


def _fold(store: MemoryStore, kept: Entry, other: Entry) -> None:
    """Give ``kept`` the uses of ``other`` and delete that, in one transaction."""
    used = max(kept.used or 0.0, other.used or 0.0) or None

    def work(connection: Connection) -> None:
        values = {"uses": kept.uses + other.uses, "successes": kept.successes + other.successes, "used": used}
        connection.execute(sa.update(t.entries).where(t.entries.c.id == kept.id).values(values))
        older = t.entries.c.superseded_by == other.id
        connection.execute(sa.update(t.entries).where(older).values(superseded_by=kept.id))
        delete_entries(connection, [other])
        record(connection, other, "merged", f"into entry {kept.id}", other.id, store.clock())

    store.database.write(work)


def _same(store: MemoryStore, embedder: str | None) -> list[tuple[Entry, Entry]]:
    """Return pairs (newer, older) of live entries of one kind and place that say the same.

    Judged by the vectors of ``embedder``, or of the one that most entries have.
    """
    by_id = {entry.id: entry for entry in store.entries(kinds=[k for k in Kind if k is not Kind.DOCUMENT])}
    counts = stats(store).vectors
    embedder = embedder or max(counts, key=counts.__getitem__, default=None)
    cosines = _near(store, embedder, by_id) if embedder else {}
    found: list[tuple[Entry, Entry]] = []
    with store.database.read() as connection:
        for entry in by_id.values():
            spaces = list(dict.fromkeys([entry.namespace, GLOBAL]))
            like = search(connection, entry.text, NEIGHBOURS, spaces, store.clock(), (entry.kind,))
            for other in {id for id, _ in like} | {b for a, b in cosines if a == entry.id}:
                older = by_id.get(other)
                if older is None or older.id >= entry.id or older.kind is not entry.kind:
                    continue
                if relate(entry.text, older.text, cosines.get((entry.id, older.id))) is Relation.SAME:
                    found.append((entry, older))
    return found


def _near(store: MemoryStore, embedder: str, among: Iterable[int]) -> dict[tuple[int, int], float]:
    """Return the cosines of pairs (newer, older) above :data:`NEAR_COSINE`."""
    ids, matrix = store.vectors(embedder)
    keep = np.isin(ids, np.fromiter(among, np.int64))
    ids, matrix = ids[keep], matrix[keep]
    near: dict[tuple[int, int], float] = {}
    for start in range(0, len(ids), 512):
        products = matrix[start : start + 512] @ matrix.T
        for row, column in np.argwhere(products >= NEAR_COSINE):
            if start + row > column:
                near[int(ids[start + row]), int(ids[column])] = float(products[row, column])
    return near


def rebuild_words(store: MemoryStore) -> int:
    """Rebuild the word index and the facts' topics from the texts; return the number of entries."""

    def work(connection: Connection) -> int:
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {t.FTS}")
        connection.exec_driver_sql(t.CREATE_FTS)
        connection.execute(sa.delete(t.claims))
        ids = connection.execute(sa.select(t.entries.c.id)).scalars().all()
        for part in parts(ids):
            for entry in fetch(connection, part):
                insert_words(connection, entry.id, entry.kind, entry.text)
        return len(ids)

    return int(store.database.write(work))


@dataclass(frozen=True)
class Stats:
    """What there is in memory, counted."""

    live: int
    superseded: int
    expired: int
    documents: int
    bytes: int
    """Of the database file, runs included."""
    kinds: dict[str, int]
    labels: dict[str, int]
    namespaces: dict[str, int]
    vectors: dict[str, int]
    """By the id of their embedder."""
    verdicts: dict[str, int]
    """What the write gate said so far."""


def stats(store: MemoryStore) -> Stats:
    """Count the entries, by kind, trust and place, their vectors, and what the gate said."""
    live = is_live(store.clock())
    number = sa.func.count()

    with store.database.read() as connection:

        def by(column: sa.Column[str], *which: sa.ColumnElement[bool]) -> dict[str, int]:
            rows = connection.execute(
                sa.select(column, number).where(*which).group_by(column).order_by(column)
            )
            return {str(row[0]): int(row[1]) for row in rows}

        everything = int(connection.execute(sa.select(number).select_from(t.entries)).scalar_one())
        old = sa.select(number).where(t.entries.c.superseded_by.is_not(None))
        superseded = int(connection.execute(old).scalar_one())
        kinds = by(t.entries.c.kind, live)
        return Stats(
            live=sum(kinds.values()),
            superseded=superseded,
            expired=everything - superseded - sum(kinds.values()),
            documents=int(connection.execute(sa.select(number).select_from(t.documents)).scalar_one()),
            bytes=store.database.path.stat().st_size,
            kinds=kinds,
            labels=by(t.entries.c.label, live),
            namespaces=by(t.entries.c.namespace, live),
            vectors=by(t.vectors.c.embedder),
            verdicts=by(t.writes.c.verdict),
        )


@dataclass(frozen=True)
class Fault:
    """An entry that fails the audit."""

    entry: Entry
    fault: str
    """``duplicate``, ``recalled``, ``provenance``, ``contradicted`` or ``secret``."""
    detail: str


@dataclass(frozen=True)
class Audit:
    """What an audit found. An entry with several faults is counted once, by the first."""

    entries: int
    faults: tuple[Fault, ...]

    @property
    def share(self) -> float:
        """Share of the entries that fail, 0 to 1."""
        return len(self.faults) / self.entries if self.entries else 0.0

    def by_fault(self) -> dict[str, int]:
        """Return how many entries have each fault."""
        return dict(Counter(fault.fault for fault in self.faults))


def audit(store: MemoryStore, embedder: str | None = None) -> Audit:
    """Look at all live entries for duplicates, recalled text, no provenance, contradictions, secrets."""
    everything = store.entries()
    faults: dict[int, Fault] = {}

    def note(entry: Entry, fault: str, detail: str) -> None:
        faults.setdefault(entry.id, Fault(entry, fault, detail))

    seen: dict[tuple[str, str], int] = {}
    for entry in everything:
        first = seen.setdefault((entry.namespace, entry.hash), entry.id)
        if first != entry.id:
            note(entry, "duplicate", f"of entry {first}")
        if entry.label is not Label.TRUSTED and entry.source is None and None in (entry.run, entry.event):
            note(entry, "provenance", "no run and event")
        if secret := find_secret(entry.text):
            note(entry, "secret", f"looks like {secret}")
    for newer, older in _same(store, embedder):
        note(newer, "duplicate", f"of entry {older.id}")
    for entry, other in _contradicted(store, everything):
        note(entry, "contradicted", f"by entry {other}")
    for entry, other in _recalled(store, everything):
        note(entry, "recalled", f"its run had been shown entry {other}")
    return Audit(len(everything), tuple(faults[id] for id in sorted(faults)))


def _contradicted(store: MemoryStore, everything: Sequence[Entry]) -> list[tuple[Entry, int]]:
    """Return live facts with the newer live fact that contradicts each."""
    found: list[tuple[Entry, int]] = []
    by_id = {entry.id: entry for entry in everything}
    with store.database.read() as connection:
        for entry in everything:
            if entry.kind is not Kind.FACT:
                continue
            for other in same_topic(connection, entry.text, entry.namespace, store.clock()):
                older = by_id.get(other)
                if older and older.id < entry.id and relate(entry.text, older.text) is Relation.CONTRADICTS:
                    found.append((older, entry.id))
    return found


def _recalled(store: MemoryStore, everything: Sequence[Entry]) -> list[tuple[Entry, int]]:
    """Return entries that say what their own run had just been shown, by its journal."""
    written: dict[str, list[Entry]] = defaultdict(list)
    for entry in everything:
        if entry.run is not None:
            written[entry.run].append(entry)
    found: list[tuple[Entry, int]] = []
    query = sa.select(event_rows.c.run, event_rows.c.seq, event_rows.c.body)
    with store.database.read() as connection:
        for row in connection.execute(query.where(event_rows.c.type == "memory.recalled")):
            ours = [entry for entry in written.get(row.run, ()) if row.seq < (entry.event or 0)]
            shown = {shown["id"]: shown.get("text", "") for shown in json.loads(row.body)["entries"]}
            texts = shown | {entry.id: entry.text for entry in fetch(connection, list(shown))}
            for entry in ours:
                for other, text in texts.items():
                    same = text and relate(entry.text, text) in (Relation.SAME, Relation.WITHIN)
                    if same and other != entry.id:
                        found.append((entry, other))
    return found
