"""Proof that memory loses nothing it acknowledged: SIGKILL at random instants of everything that writes.

    python benchmarks/prove_memory.py [--kills 200] [--seed 0]

A process works on one store: it writes facts, supersedes them, writes batches with vectors, edits, counts
uses, forgets (with the rewriting of the file that this takes), tidies words and makes backups. It
announces each operation on a pipe before it begins and acknowledges it afterwards; the parent kills it at
a random instant, and the next process goes on in the same store. After each kill the parent compares the
store with what was acknowledged: every entry with its text, uses and state, nothing that was forgotten, the
operation that was cut off either whole or not at all; and the store with itself: SQLite's own check, words,
vectors and change numbers as the entries say, no half backup under its name. The control acknowledges
before it writes, and must be caught. Exit status 1 if anything failed, or if the control was not caught.

``prove_index.py`` is the same for Chroma. Not covered: power loss (the disk keeps what the kernel has).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from autogpt.labels import Label
from autogpt.memory.entry import Draft, Kind
from autogpt.memory.store import MemoryStore
from autogpt.memory.upkeep.backup import backup, check_file
from autogpt.memory.upkeep.forgetting import forget
from autogpt.memory.upkeep.upkeep import rebuild_words

EMBEDDER = "prove-1"
BATCH = 20
LONGEST = 1.2
"""Seconds a process may work before it is killed."""
Step = dict[str, Any]


def steps(rng: random.Random, trial: int, ids: list[int]) -> Iterator[Step]:
    """Yield operations without end; ``ids`` are the live entries, kept up by the caller."""
    for number in range(1_000_000):
        tag = f"{trial}-{number}"
        kinds = ["write", "write", "change", "batch", "edit", "used", "used", "forget", "words", "backup"]
        kind = rng.choice(kinds if ids else kinds[:2])
        step: Step = {"do": kind, "tag": tag}
        if kind in ("edit", "used", "forget"):
            step["id"] = rng.choice(ids)
        if kind == "backup" and rng.random() < 0.7:
            continue
        yield step


def carry_out(store: MemoryStore, step: Step) -> list[int]:
    """Do it; return the ids of what was written, or of what was superseded before it."""
    tag = step["tag"]
    match step["do"]:
        case "write":
            return _ids(store.write(Draft(Kind.FACT, f"The colour of item {tag} is blue")))
        case "change":
            first = store.write(Draft(Kind.FACT, f"The size of item {tag} is 4"))
            second = store.write(Draft(Kind.FACT, f"The size of item {tag} is now 5"))
            assert first.entry is not None and second.replaced == first.entry.id
            return [first.entry.id, *_ids(second)]
        case "batch":
            rows = np.zeros((BATCH, 8), np.float32)
            rows[:, 0] = 1
            drafts = [
                Draft(Kind.DOCUMENT, f"piece {tag} {n}", label=Label.UNTRUSTED, source=f"/{tag}#{n}")
                for n in range(BATCH)
            ]
            return [id for answer in store.write_many(drafts, rows, EMBEDDER) for id in _ids(answer)]
        case "edit":
            store.edit(step["id"], f"edited {tag}")
        case "used":
            store.used([step["id"]], True)
        case "forget":
            forget(store, [step["id"]])
        case "words":
            rebuild_words(store)
        case "backup":
            backup(store, store.home / f"backup-{tag}.db")
    return []


def _ids(answer: Any) -> list[int]:
    assert answer.entry is not None, answer.reason
    return [answer.entry.id]


def work(home: Path, seed: int, trial: int, ids: list[int], say: Connection, careless: bool) -> None:
    """Work until killed; ``careless`` acknowledges before the work is done (the control)."""
    store = MemoryStore(home)
    live = list(ids)
    for step in steps(random.Random(f"{seed}-{trial}"), trial, live):
        say.send_bytes(json.dumps({"begins": step}).encode())
        if careless:
            say.send_bytes(json.dumps({"done": step, "ids": []}).encode())
        made = carry_out(store, step)
        live += [] if careless else made[1:] if step["do"] == "change" else made
        if step["do"] == "forget":
            live.remove(step["id"])
        if not careless:
            say.send_bytes(json.dumps({"done": step, "ids": made}).encode())


class Expected:
    """What the store must hold by what was acknowledged."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}
        self.uses: Counter[int] = Counter()
        self.gone: set[int] = set()
        self.superseded: set[int] = set()
        self.backups: list[str] = []
        self.promised: list[str] = []

    def apply(self, step: Step, ids: list[int]) -> None:
        tag, kind = step["tag"], step["do"]
        if kind == "write" and ids:
            self.texts[ids[0]] = f"The colour of item {tag} is blue"
        elif kind == "change" and ids:
            self.texts |= {ids[0]: f"The size of item {tag} is 4", ids[1]: f"The size of item {tag} is now 5"}
            self.superseded.add(ids[0])
        elif kind == "batch" and ids:
            self.texts |= {id: f"piece {tag} {n}" for n, id in enumerate(ids)}
        elif kind == "edit":
            self.texts[step["id"]] = f"edited {tag}"
        elif kind == "used":
            self.uses[step["id"]] += 1
        elif kind == "forget":
            self.texts.pop(step["id"], None)
            self.gone.add(step["id"])
        elif kind == "backup":
            self.backups.append(f"backup-{tag}.db")
        if kind == "write" and not ids:  # by the control alone
            self.promised.append(f"The colour of item {tag} is blue")

    def broken_promises(self, store: MemoryStore) -> list[str]:
        """Return what the control acknowledged and did not write (it forgets and edits nothing of it)."""
        texts = {entry.text for entry in store.entries(live=None)}
        return [text for text in self.promised if text not in texts]

    def faults(self, store: MemoryStore, cut_off: Step | None) -> list[str]:
        """Compare; what the operation that was cut off touched may be either way."""
        found = {entry.id: entry for entry in store.entries(live=None)}
        open_id = cut_off.get("id") if cut_off else None
        wrong = []
        for id, text in self.texts.items():
            entry = found.get(id)
            if id == open_id:
                continue
            if entry is None or entry.text != text or entry.uses != self.uses[id]:
                wrong.append(f"entry {id} is {entry and entry.text!r}, acknowledged as {text!r}")
            elif (entry.superseded_by is not None) != (id in self.superseded):
                wrong.append(f"entry {id} has the wrong state")
        wrong += [f"entry {id} was forgotten and is there" for id in self.gone if id in found]
        extra = [entry for id, entry in found.items() if id not in self.texts and id != open_id]
        tag = cut_off["tag"] if cut_off else "nothing"
        wrong += [f"nobody wrote {e.text!r}" for e in extra if tag not in e.text]
        if cut_off and cut_off["do"] == "batch" and len(extra) not in (0, BATCH):
            wrong.append(f"a batch is there in part: {len(extra)}")
        self._adopt(found, cut_off, extra)
        return wrong

    def _adopt(self, found: dict[int, Any], cut_off: Step | None, extra: list[Any]) -> None:
        """From now on, what the cut-off operation left is what is expected."""
        for entry in extra:
            self.texts[entry.id] = entry.text
            if entry.superseded_by is not None:
                self.superseded.add(entry.id)
        if cut_off and (id := cut_off.get("id")) is not None:
            if id in found:
                self.texts[id], self.uses[id] = found[id].text, found[id].uses
            else:
                self.texts.pop(id, None)
                self.gone.add(id)


def sound(store: MemoryStore, expected: Expected) -> list[str]:
    """Compare the store with itself."""
    wrong = []
    check_file(store.database.path)
    entries = store.entries(live=None)
    live = {entry.id for entry in entries if entry.superseded_by is None}
    with store.database.read() as connection:
        words = connection.exec_driver_sql("SELECT count(*) FROM memory_words").scalar_one()
        connection.exec_driver_sql("INSERT INTO memory_words(memory_words) VALUES ('integrity-check')")
        orphans = connection.exec_driver_sql(
            "SELECT count(*) FROM memory_vectors WHERE entry NOT IN (SELECT id FROM memory_entries)"
        ).scalar_one()
    if words != len(entries) or orphans:
        wrong.append(f"{words} rows of words for {len(entries)} entries, {orphans} vectors without one")
    if {change.entry for change in store.changes() if change.live} != live:
        wrong.append("the change numbers do not say what is live")
    for name in expected.backups[-3:]:
        check_file(store.home / name)
    wrong += [
        f"{path.name} is not whole" for path in store.home.glob("backup-*.db") if path.stat().st_size == 0
    ]
    return wrong


def trial(
    home: Path, seed: int, number: int, expected: Expected, careless: bool
) -> tuple[list[str], Step | None, int]:
    """One process, one kill; return what is wrong, what was cut off, and how much was acknowledged."""
    context = multiprocessing.get_context("fork")
    hear, say = context.Pipe(duplex=False)
    ids = sorted(set(expected.texts) - expected.superseded)
    process = context.Process(target=work, args=(home, seed, number, ids, say, careless))
    delay = random.Random(f"kill {seed} {number}").uniform(0.0, LONGEST)
    process.start()
    say.close()
    begun: Step | None = None
    acknowledged = 0
    first = hear.recv_bytes()
    time.sleep(delay)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    messages = [first]
    try:
        while True:
            messages.append(hear.recv_bytes())
    except EOFError:
        pass
    for message in map(json.loads, messages):
        if "begins" in message:
            begun = message["begins"]
        else:
            expected.apply(message["done"], message["ids"])
            begun = None
            acknowledged += 1
    store = MemoryStore(home)
    if careless:
        wrong = expected.broken_promises(store)
    else:
        wrong = [*expected.faults(store, begun), *sound(store, expected)]
    store.close()
    return wrong, begun, acknowledged


def campaign(kills: int, seed: int, careless: bool = False) -> tuple[int, Counter[str], int]:
    """Kill ``kills`` times; return failed trials, what was cut off, and acknowledged operations."""
    failed = total = 0
    cut: Counter[str] = Counter()
    expected, where = Expected(), tempfile.TemporaryDirectory(prefix="autogpt-prove-")
    with where:
        home = Path(where.name)
        MemoryStore(home).count()
        for number in range(kills):
            if careless or number % 25 == 24:  # now and then from nothing, so that stores stay small
                expected, home = Expected(), Path(where.name) / str(number)
                MemoryStore(home).count()
            wrong, begun, acknowledged = trial(home, seed, number, expected, careless)
            total += acknowledged
            cut[begun["do"] if begun else "between"] += 1
            failed += bool(wrong)
            if wrong and not careless:
                print(f"kill {number}: {wrong[:3]}", flush=True)
    return failed, cut, total


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--control", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    failed, cut, total = campaign(args.kills, args.seed)
    kinds = ", ".join(f"{count} in {kind}" for kind, count in cut.most_common())
    print(f"{args.kills} kills ({kinds}), {total} operations acknowledged: {failed} trials failed")
    caught = campaign(args.control, args.seed, careless=True)[0] if args.control else 1
    print(f"control, acknowledging before writing: caught in {caught} of {args.control} kills")
    return 1 if failed or not caught else 0


if __name__ == "__main__":
    sys.exit(main())
