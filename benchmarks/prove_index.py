"""Proof that memory's index may break in any way: damaged files, kills during Chroma's writes, two writers.

    python benchmarks/prove_index.py [--damages 56] [--kills 40] [--writers 2] [--seed 0]

**Damage**: an index of 3,000 entries is copied, one of its files is truncated, emptied, zeroed, flipped,
filled with noise, removed, made to claim more than it has, or replaced by an older state, and the index
is opened in this very process. It must stay alive, answer exactly all the while, and end with an index
that is checked and answers like the exact search; the index's folder must not grow.
**Kills**: a process writes and reports what was acknowledged while Chroma follows; the moment Chroma
begins to rewrite its graph, Chroma's process, or the writer, or both are killed with SIGKILL 0 to 40 ms
later. Every acknowledged entry must be in the store with its vector, and the index must come up, opened
or rebuilt. **Writers**: processes that write at once; nothing may be missing, and Chroma must find all.
**Control**: the same damages and Chroma alone, in a process that it may crash: how many it survives.
Exit status 1 if anything failed.

Needs about 2 GB of memory and a few hundred megabytes of disk. Not covered: power loss.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from index_damage import cases, victim

from autogpt.memory.entry import GLOBAL, Draft, Kind, Vectors
from autogpt.memory.store import MemoryStore
from autogpt.memory.vectors.chroma import MemoryIndex

DIMENSION = 384
EMBEDDER = "prove-1"
ENTRIES = 3_000
LARGEST = 200 * 1024 * 1024
WAIT = 240.0


def vectors_for(count: int, seed: int) -> Vectors:
    """Return vectors of length one in groups of about twenty, as texts on the same thing have."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(150, DIMENSION))
    found = centres[rng.integers(0, len(centres), count)] + 0.7 * rng.normal(size=(count, DIMENSION))
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def write(store: MemoryStore, count: int, seed: int) -> list[int]:
    """Write ``count`` pieces of documents in one transaction; return the ids once they are durable."""
    rng = random.Random(seed)
    drafts = [
        Draft(Kind.DOCUMENT, "".join(rng.choices("bcdfghjklmnp", k=20)), source=f"/d{seed}#{i}")
        for i in range(count)
    ]
    answers = store.write_many(drafts, vectors_for(count, seed), EMBEDDER)
    return [answer.entry.id for answer in answers if answer.entry is not None]


def open_index(store: MemoryStore) -> MemoryIndex:
    """Return the index of ``store`` with Chroma answering whatever the size."""
    return MemoryIndex(store, EMBEDDER, DIMENSION, store.home / "index", exact_rows=0)


def agreement(index: MemoryIndex, seed: int) -> float:
    """Return the share of the exact search's ten nearest that the index finds, over 30 queries."""
    hits = total = 0
    for query in vectors_for(30, seed):
        exact = {entry for entry, _ in index.exact.search(query, 10, [GLOBAL])}
        hits += len(exact & {entry for entry, _ in index.search(query, 10, [GLOBAL])})
        total += len(exact)
    return hits / total


def size(folder: Path) -> int:
    """Return the bytes that the files of ``folder`` claim; they may go away meanwhile."""
    with contextlib.suppress(OSError):
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return 0


def told(outcomes: Counter[str]) -> str:
    """Return the outcomes in one line."""
    return ", ".join(f"{number} {what}" for what, number in sorted(outcomes.items()))


# Damage


def template(folder: Path) -> MemoryStore:
    """Make the store and its index, with the files of an older state kept beside."""
    store = MemoryStore(folder / "template")
    data = store.home / "index" / "chroma"
    with open_index(store) as index:
        for part in range(2):
            write(store, ENTRIES // 2, part)
            assert index.wait(WAIT), index.status()
            if part == 0:
                index.close()
                older = folder / "older"
                older.mkdir()
                for path in data.rglob("*"):
                    if path.is_file():
                        shutil.copyfile(path, older / path.name)
                index.start()
        assert agreement(index, 99) == 1.0
    shutil.copytree(older, data / "older")
    return store


def damages(count: int, seed: int, folder: Path) -> int:
    """Run the campaign of damages; return how many failed."""
    store = template(folder)
    data = store.home / "index" / "chroma"
    kept = folder / "kept"
    shutil.copytree(data, kept)
    outcomes: Counter[str] = Counter()
    for name, damage, rng in cases(count, seed):
        shutil.rmtree(data, ignore_errors=True)
        shutil.copytree(kept, data)
        damage(victim(data, name), rng)
        index = open_index(store)
        index.start()
        first = index.search(vectors_for(1, 5)[0], 10, [GLOBAL])
        largest = size(data)
        deadline, ready = time.monotonic() + WAIT, False
        while not ready and time.monotonic() < deadline:
            ready = index.wait(0.5)
            largest = max(largest, size(store.home / "index"))
        found = agreement(index, 100 + seed)
        right = ready and found >= 0.99 and largest < LARGEST
        right = right and first == index.exact.search(vectors_for(1, 5)[0], 10, [GLOBAL])
        outcome = ("rebuilt" if index.status().rebuilt else "harmless") if right else "FAILED"
        outcomes[outcome] += 1
        index.close()
        kind = damage.__name__[1:]
        print(f"{kind:8} {name:22} {outcome:8} recall {found:.3f} {largest >> 20} MB", flush=True)
    print(f"damages: {count}; {told(outcomes)}", flush=True)
    return outcomes["FAILED"]


def control(count: int, seed: int, folder: Path) -> None:
    """Give the same damages to Chroma alone, in processes of its own."""
    kept, data = folder / "kept", folder / "control"
    code = (
        "import sys, chromadb, numpy\n"
        "c = chromadb.PersistentClient(sys.argv[1])\n"
        "c = c.get_collection('autogpt-memory', embedding_function=None)\n"
        "rows = numpy.load(sys.argv[2])\n"
        "found = c.query(query_embeddings=rows['vectors'], n_results=1)['ids']\n"
        "good = sum(f == [str(i)] for f, i in zip(found, rows['ids']))\n"
        "print('right' if good >= 98 and c.count() == int(rows['count']) else 'silently wrong')\n"
    )
    store = MemoryStore(folder / "template")
    ids, vectors = store.vectors(EMBEDDER)
    np.savez(folder / "rows.npz", ids=ids[::30], vectors=vectors[::30], count=len(ids))
    outcomes: Counter[str] = Counter()
    for name, damage, rng in cases(count, seed):
        shutil.rmtree(data, ignore_errors=True)
        shutil.copytree(kept, data)
        damage(victim(data, name), rng)
        limited = ["bash", "-c", 'ulimit -f 400000; ulimit -v 8000000; exec "$0" "$@"']
        command = [*limited, sys.executable, "-c", code, str(data), str(folder / "rows.npz")]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            outcome = f"killed by signal {-done.returncode}" if done.returncode < 0 else done.stdout.strip()
            outcomes[outcome or "error"] += 1
        except subprocess.TimeoutExpired:
            outcomes["hangs"] += 1
    print(f"control, Chroma alone: {count}; {told(outcomes)}", flush=True)


# Kills and writers


def child(home: Path, seed: int, batches: int) -> None:
    """Write, let Chroma follow, and report every acknowledged batch and Chroma's process."""
    store = MemoryStore(home)
    with open_index(store) as index:
        index.wait(WAIT)
        for number in range(batches):
            ids = write(store, 250, seed * 1000 + number)
            print("wrote", len(ids), index.worker or 0, flush=True)
            index.wait(WAIT)
        print("done", index.wait(WAIT), flush=True)


def start_child(home: Path, seed: int, batches: int) -> subprocess.Popen[bytes]:
    """Start :func:`child` in a process of its own."""
    command = [sys.executable, __file__, "--child", str(home), "--seed", str(seed), "--batches", str(batches)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)


def stamp(data: Path) -> int:
    """Return the time of the last write to the graph's largest file."""
    try:
        return max((path.stat().st_mtime_ns for path in data.glob("*/data_level0.bin")), default=0)
    except OSError:
        return 0


class Reports:
    """What a child has printed so far: acknowledged entries, Chroma's process, how it ended."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._pipe, self._rest = process.stdout, b""
        os.set_blocking(self._pipe.fileno(), False)
        self.acknowledged = self.worker = 0
        self.repaired = False

    def read(self) -> None:
        """Take in what is there; does not wait."""
        self._rest += self._pipe.read() or b""
        *lines, self._rest = self._rest.split(b"\n")
        for words in (line.split() for line in lines):
            if words[0] == b"wrote":
                self.acknowledged, self.worker = self.acknowledged + int(words[1]), int(words[2])
            elif words[0] == b"done":
                self.repaired = words[1] == b"True"


def kill_once(home: Path, number: int, rng: random.Random) -> tuple[str, int]:
    """Kill at a persist; return whom and how many entries had been acknowledged before."""
    process = start_child(home, number, 8)
    reports, data = Reports(process), home / "index" / "chroma"
    seen, deadline = 0, time.monotonic() + WAIT
    while time.monotonic() < deadline and process.poll() is None:
        reports.read()
        now = stamp(data)
        if reports.worker and seen and now != seen:
            break
        seen = now
        time.sleep(0.0005)
    time.sleep(rng.random() * 0.04)
    reports.read()
    whom = ("worker", "host", "both")[number % 3] if process.poll() is None else "nobody, too late"
    for target, who in ((reports.worker, "worker"), (process.pid, "host")):
        if target and whom in (who, "both"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(target, signal.SIGKILL)
    if whom == "worker":
        # The host has to survive and repair it; what it goes on to acknowledge counts as well.
        while process.poll() is None and time.monotonic() < deadline + WAIT:
            reports.read()
            time.sleep(0.01)
    process.wait(WAIT)
    reports.read()
    if whom == "worker" and (process.returncode or not reports.repaired):
        whom = "worker, and the host did not repair it"
    return whom, reports.acknowledged


def kills(count: int, seed: int, folder: Path) -> int:
    """Run the campaign of kills; return how many failed."""
    outcomes: Counter[str] = Counter()
    base = MemoryStore(folder / "base")
    with open_index(base) as index:
        write(base, 5_000, 9_999)
        assert index.wait(WAIT), index.status()
    base.close()
    for number in range(count):
        home = folder / f"kill{number}"
        shutil.copytree(base.home, home)
        whom, acknowledged = kill_once(home, number, random.Random(seed * 1000 + number))
        store = MemoryStore(home)
        ids, _ = store.vectors(EMBEDDER)
        kept = store.count()
        with open_index(store) as index:
            ready = index.wait(WAIT)
            rebuilt = index.status().rebuilt
            right = ready and agreement(index, 55) >= 0.99 and "did" not in whom
        right = right and kept >= 5_000 + acknowledged and len(ids) == kept
        outcome = f"{whom}: " + (("rebuilt" if rebuilt else "opened") if right else "FAILED")
        outcomes[outcome] += 1
        print(f"kill {number:2} {outcome:20} 5000 + {acknowledged} acknowledged, {kept} kept", flush=True)
        store.close()
        shutil.rmtree(home)
    print(f"kills: {count}; {told(outcomes)}", flush=True)
    return sum(n for what, n in outcomes.items() if "FAILED" in what)


def writers(count: int, folder: Path) -> int:
    """Let ``count`` processes write at once; return 1 if anything is missing."""
    home = folder / "writers"
    processes = [start_child(home, 500 + number, 8) for number in range(count)]
    acknowledged = 0
    for process in processes:
        out, _ = process.communicate(timeout=WAIT)
        acknowledged += sum(int(line.split()[1]) for line in out.splitlines() if line.startswith(b"wrote"))
    store = MemoryStore(home)
    ids, vectors = store.vectors(EMBEDDER)
    with open_index(store) as index:
        ready = index.wait(WAIT)
        pairs = zip(ids.tolist(), vectors, strict=True)
        found = sum(index.search(vector, 1, [GLOBAL])[0][0] == entry for entry, vector in pairs)
    right = ready and store.count() == len(ids) == acknowledged == found
    print(f"writers: {count}; {acknowledged} acknowledged, {len(ids)} kept, {found} find themselves")
    return 0 if right and acknowledged else 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("--damages", 56), ("--kills", 40), ("--writers", 2)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--no-control", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--batches", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.seed, options.batches)
        return
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.damages:
            failed += damages(options.damages, options.seed, folder)
            if not options.no_control:
                control(options.damages, options.seed, folder)
        failed += kills(options.kills, options.seed, folder)
        failed += writers(options.writers, folder) if options.writers else 0
    print("all right" if not failed else f"FAILED: {failed}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
