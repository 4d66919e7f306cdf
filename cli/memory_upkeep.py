"""``autogpt memory forget|tidy|audit|stats|rebuild|backup|export|import``: keeping memory sound.

Forgetting clears our own files and names what else has seen the entry: the runs (removed too with
``--runs``) and the models. A run that is going on, or waits for a person, is not removed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ..agent.record.store import RunStore
from ..errors import UsageError, UserError
from ..memory.documents import documents
from ..memory.experience import Experience
from ..memory.store import MemoryStore
from ..memory.upkeep import upkeep
from ..memory.upkeep.backup import Lost, backup, check_file, export, import_lines
from ..memory.upkeep.forgetting import Forgotten, remains, seen_by
from ..memory.upkeep.forgetting import forget as forget_entries
from ..settings import load
from .memory import line, namespace, open_memory_store
from .tables import show_table
from .view import clean


def forget(args: argparse.Namespace) -> int:
    """Remove entries for good, and say which runs and models have seen them."""
    from ..agent.learn.forget import forget_runs
    from ..memory.vectors.chroma import FOLDER, purge

    settings = load()
    runs = RunStore(settings.home)
    with open_memory_store(settings) as store:
        ids = list(args.ids) + _of_documents(store, args.document, namespace(args.project))
        entries = store.get(ids)
        missing = sorted(set(ids) - {entry.id for entry in entries})
        if missing or not entries:
            what = f"entry {missing[0]}" if missing else "entry to forget; name its id or --document PATH"
            raise UserError(f"there is no {what}; 'autogpt memory list' shows them")
        seen = seen_by(store.database, entries)
        written = [entry.run for entry in entries if entry.run is not None]  # also of runs that are gone
        models = Experience(runs.database).models_that_saw([*seen, *written])
        forget_runs(settings.home, seen if args.runs else [])
        removed = _remove_runs(runs, seen) if args.runs else []
        runs.database.close()
        gone = forget_entries(store, ids)
        for path in args.document:
            documents.drop(store, str(path.absolute()), namespace(args.project))
        cleared = purge(settings.home / FOLDER, gone.change)
        left = remains(store, gone)
    _say(gone, left.runs, removed)
    say_models(models)
    for path in left.files:
        print(f"  its text still stands in {clean(str(path))}")
    if settings.chroma:
        print(f"  the collection on {settings.chroma} is made anew without it when memory is next used; "
              "what that server's own files keep is cleared there ('chroma vacuum')")  # fmt: skip
    if not cleared:
        print("the index is in use by another process and still holds vectors of it; end that process, "
              "then run 'autogpt memory rebuild'", file=sys.stderr)  # fmt: skip
    return 0


def _of_documents(store: MemoryStore, paths: Iterable[Path], space: str) -> list[int]:
    found: list[int] = []
    for path in paths:
        with store.database.read() as connection:
            pieces = documents.pieces_of(connection, str(path.absolute()), space)
        if not pieces:
            raise UsageError(f"{path}: no file of that name was added; 'autogpt memory list --kind document'")
        found += [piece.id for piece in pieces]
    return found


def _remove_runs(runs: RunStore, seen: Iterable[str]) -> list[str]:
    removed = []
    for run in seen:
        try:
            runs.remove(run)
        except UserError as error:
            print(f"run {run} stays: {error}", file=sys.stderr)
            continue
        removed.append(run)
    return removed


def _say(gone: Forgotten, seen: dict[str, list[int]], removed: list[str]) -> None:
    names = ", ".join(str(entry.id) for entry in gone.entries[:10])
    more = f" and {len(gone.entries) - 10} more" if len(gone.entries) > 10 else ""
    print(f"forgot {'entry' if len(gone.entries) == 1 else 'entries'} {names}{more}; nothing of it is left "
          "in memory, its index or its backups")  # fmt: skip
    for path in gone.backups:
        print(f"  cleared from the backup {clean(path)}")
    for path in gone.missing:
        print(f"  a backup was made as {clean(path)}, which is not there now: it still holds it")
    for run in removed:
        print(f"  removed run {run}, which had seen it")
    for run, ids in seen.items():
        print(
            f"  run {run} has seen it (entries {', '.join(map(str, ids[:10]))}) and keeps that in its journal"
        )
    if seen:
        print("  to remove those runs as well, next time add --runs, or use 'autogpt runs remove RUN'")


def say_models(models: Mapping[str, Sequence[str]]) -> None:
    """Say which models were trained on runs that are being forgotten, and what that means."""
    for model, runs in models.items():
        named = ", ".join(runs[:5]) + (f" and {len(runs) - 5} more" if len(runs) > 5 else "")
        print(f"  model {clean(model)} was trained on {named}: what it learned there goes only by training "
              "again without, or by not using it")  # fmt: skip
    if not models:
        print("  models: none is known to have been trained on it")


def tidy(args: argparse.Namespace) -> int:
    """Delete what expired or never helped, and make one entry of two that say the same."""
    with open_memory_store() as store:
        merged = upkeep.merge(store)
        pruned = upkeep.prune(store)
    for kept, other in merged:
        print(f"merged entry {other.id} into {kept.id}: {line(kept.text)}")
    for entry in pruned:
        print(f"deleted entry {entry.id}: {line(entry.text)}")
    print(f"{len(merged)} merged, {len(pruned)} deleted")
    return 0


def audit(args: argparse.Namespace) -> int:
    """Check the database file, then look for junk; exit code 3 above the share that is tolerated."""
    with open_memory_store() as store:
        store.count()
        check_file(store.database.path)
        found = upkeep.audit(store)
    if args.json:
        faults = [{"entry": f.entry.id, "fault": f.fault, "detail": f.detail} for f in found.faults]
        print(json.dumps({"entries": found.entries, "share": found.share, "faults": faults}))
    else:
        rows = [(str(f.entry.id), f.fault, f.detail, line(f.entry.text)) for f in found.faults[: args.limit]]
        if rows:
            show_table(("id", "fault", "detail", "text"), rows)
        kinds = ", ".join(f"{count} {fault}" for fault, count in found.by_fault().items())
        failing = f"{len(found.faults)} fail ({found.share:.1%})" + (f": {kinds}" if kinds else "")
        print(f"the file is sound; {found.entries} entries, {failing}")
    return 3 if found.share > args.tolerate / 100 else 0


def stats(args: argparse.Namespace) -> int:
    """Count what there is."""
    with open_memory_store() as store:
        found = upkeep.stats(store)
    if args.json:
        print(json.dumps(asdict(found), ensure_ascii=False))
        return 0
    print(f"{found.live} entries, {found.superseded} superseded, {found.expired} expired, "
          f"{found.documents} files, {found.bytes / 2**20:.1f} MB")  # fmt: skip
    for name, counts in (
        ("kinds", found.kinds),
        ("trust", found.labels),
        ("vectors", found.vectors),
        ("writes", found.verdicts),
    ):
        if counts:
            print(f"  {name:8} " + ", ".join(f"{count} {clean(what)}" for what, count in counts.items()))
    rows = [(str(count), clean(space) or "everywhere") for space, count in found.namespaces.items()]
    if rows:
        print()
        show_table(("entries", "where"), rows)
    return 0


def rebuild(args: argparse.Namespace) -> int:
    """Make the word index anew, embed what the embedder of the settings has not, drop the vector index."""
    from ..memory.embedding import embed
    from ..memory.upkeep.forgetting import scrub
    from ..memory.vectors import reembed
    from ..memory.vectors.chroma import FOLDER, purge

    settings = load()
    embedder = embed.load_or_words(
        settings.embedder, settings.home, lambda line: print(line, file=sys.stderr)
    )
    embedded = 0
    with open_memory_store(settings) as store:
        count = upkeep.rebuild_words(store)
        if embedder is not None:
            reembed.drop_unfit_vectors(store, embedder)
            embedded = reembed.embed_missing(store, embedder)
            reembed.drop_other_vectors(store, embedder.id)
        scrub(store.database)
        cleared = purge(settings.home / FOLDER, store.last_change())
    print(f"the word index is new ({count} entries)")
    if embedded:
        print(f"{embedded} entries were embedded by {clean(embedder.id if embedder else '')}")
    print("the vector index is made anew when memory is next used" if cleared
          else "another process is using the vector index; it was left as it is")  # fmt: skip
    return 0


def back_up(args: argparse.Namespace) -> int:
    """Copy the database, runs and memory, to a new file."""
    with open_memory_store() as store:
        path = backup(store, Path(args.file))
    print(f"wrote {path} ({path.stat().st_size / 2**20:.1f} MB, checked); to restore, put it in the place "
          f"of {store.database.path}")  # fmt: skip
    return 0


def export_entries(args: argparse.Namespace) -> int:
    """Write all entries as JSON lines; exit code 1 when a damaged file kept some back."""
    count = lost = 0
    home = load().home
    target = None if args.file in (None, "-") else Path(args.file)
    if not (home / "autogpt.db").exists():
        raise UserError(f"{home / 'autogpt.db'}: there is no memory yet")
    with open(sys.stdout.fileno() if target is None else target, "w", encoding="utf-8",
              closefd=target is not None) as out:  # fmt: skip
        for item in export(MemoryStore(home).database):
            if isinstance(item, Lost):
                lost += item.last - item.first + 1
                continue
            out.write(item + "\n")
            count += 1
    if target is not None:
        print(f"wrote {count} entries to {target}", file=sys.stderr)
    if lost:
        print(f"the file is damaged: up to {lost} entries could not be read", file=sys.stderr)
    return 1 if lost else 0


def import_entries(args: argparse.Namespace) -> int:
    """Read exported entries, all or none."""
    source = sys.stdin.fileno() if args.file == "-" else args.file
    with open(source, encoding="utf-8") as stream, open_memory_store() as store:
        try:
            done = import_lines(store, stream)
        except UnicodeDecodeError as error:
            raise UsageError(f"{args.file}: not UTF-8: {error}") from error
        except UsageError as error:
            raise UsageError(f"{args.file}, {error}") from error
    print(f"{done.written} entries imported, {done.known} were here already, {done.refused} refused")
    return 0
