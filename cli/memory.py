"""``autogpt memory``: look at what is remembered, add to it, change it, keep it sound, forget it for good.

Thin: each command asks the store or its upkeep and prints. Texts of entries may come from anywhere, so they
are printed without control characters. Exit codes: 0 done, 1 refused or not found, 2 a wrong command,
3 an audit that found more than it tolerates.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ..agent.open import open_memory, open_store
from ..agent.record.store import RunStore
from ..errors import UsageError, UserError
from ..memory.documents import documents
from ..memory.documents.documents import Added, known_files
from ..memory.documents.documents import add as add_documents
from ..memory.entry import GLOBAL, Draft, Entry, Kind, Verdict
from ..memory.experience import Experience
from ..memory.store import MemoryStore
from ..memory.upkeep import upkeep
from ..memory.upkeep.backup import Lost, backup, check_file, export, import_lines
from ..memory.upkeep.forgetting import Forgotten, seen_by, traces
from ..memory.upkeep.forgetting import forget as forget_entries
from ..settings import Settings, load
from .tables import show_table, when
from .view import clean, one_line

_LOOKS_LIKE_A_PATH = (".md", ".txt", ".html", ".csv", ".pdf", ".rst", ".py", ".json")
_SEARCH_BUDGET = 4_000
MOST_DAYS = 36_500


@contextlib.contextmanager
def open_memory_store(settings: Settings | None = None) -> Iterator[MemoryStore]:
    """Open the memory of this home, and close it again."""
    store = MemoryStore((settings or load()).home)
    try:
        yield store
    finally:
        store.close()


def add(args: argparse.Namespace) -> int:
    """Remember a text, or bring memory in step with a file or folder; exit code 1 when all is refused."""
    from ..memory.embedding.embed import load_or_words

    space = namespace(args.project)
    failed = False
    settings = load()
    if args.expires is not None and not 0 < args.expires <= MOST_DAYS:
        raise UsageError(f"--expires takes a number of days above 0, at most {MOST_DAYS:,}")
    embedder = load_or_words(settings.embedder, settings.home, lambda line: print(line, file=sys.stderr))
    with open_memory_store(settings) as store:
        for what in args.what:
            path = Path(what).expanduser()
            if _exists(what) or (
                _like_a_path(what) and known_files(store, Path(os.path.abspath(path)), space)
            ):
                if args.expires is not None:
                    raise UsageError(f"{what}: --expires is for texts; the pieces of a file go with the file")
                done = add_documents(store, path, space, embedder)
                print(_added(what, done))
                failed |= not (done.added or done.changed or done.removed or done.unchanged)
                for file, reason in done.skipped:
                    print(f"  skipped {clean(file)}: {reason}", file=sys.stderr)
                for answer in done.refused[:5]:
                    print(f"  a piece was refused: {answer.reason}", file=sys.stderr)
                if len(done.refused) > 5:
                    print(f"  and {len(done.refused) - 5} more pieces", file=sys.stderr)
                continue
            if _like_a_path(what):
                raise UsageError(f"{what}: no such file or folder")
            vectors = None if embedder is None else embedder.embed([what])
            expires = None if args.expires is None else store.clock() + args.expires * 86_400
            draft = Draft(Kind(args.kind), what, space, expires=expires)
            answer = store.write_many([draft], vectors, embedder.id if embedder else None)[0]
            failed |= answer.verdict is Verdict.REFUSED
            if answer.verdict is Verdict.REFUSED:
                print(f"refused: {answer.reason}", file=sys.stderr)
            else:
                assert answer.entry is not None
                print(f"remembered as entry {answer.entry.id}" + _instead(store, answer.replaced))
    return 1 if failed else 0


def _instead(store: MemoryStore, replaced: int | None) -> str:
    if replaced is None:
        return ""
    older = store.get([replaced])
    return f", in place of entry {replaced}: {line(older[0].text)}" if older else ""


def _exists(what: str) -> bool:
    try:
        return bool(what) and Path(what).expanduser().exists()  # an empty path would be this folder
    except (OSError, ValueError):  # too long for a name, or a zero byte: a text
        return False


def _like_a_path(what: str) -> bool:
    """Whether a text without blanks looks as if a file was meant."""
    return not any(c.isspace() for c in what) and (
        os.sep in what or what.lower().endswith(_LOOKS_LIKE_A_PATH)
    )


def _added(what: str, done: Added) -> str:
    files = [
        f"{len(names)} {word}"
        for names, word in ((done.added, "new"), (done.changed, "changed"), (done.removed, "gone"))
        if names
    ]
    files += [f"{done.unchanged} unchanged"] if done.unchanged else []
    pieces = f"{done.written} piece{'s' * (done.written != 1)} remembered"
    pieces += f", {done.forgotten} forgotten" if done.forgotten else ""
    return (
        f"{clean(what)}: files: {', '.join(files)}; {pieces}" if files else f"{clean(what)}: no file to read"
    )


def list_entries(args: argparse.Namespace) -> int:
    """List entries, newest first."""
    kinds = [Kind(args.kind)] if args.kind else None
    spaces = None if args.project is None else [namespace(args.project)]
    with open_memory_store() as store:
        live = None if args.all else True
        entries = store.entries(spaces, kinds, live=live, limit=args.limit, newest=True)
        total = store.count(live=not args.all)
    _show(entries, args.json)
    if not args.json and not entries:
        print("nothing is remembered" + (" that fits" if total else " yet; 'autogpt memory add' adds"))
    elif not args.json and sys.stdout.isatty() and len(entries) == args.limit < total:
        print(f"{len(entries)} of {total}; --limit shows more")
    return 0


def search(args: argparse.Namespace) -> int:
    """Show what a recall would bring for a query; exit code 1 when nothing is relevant."""
    settings = load().model_copy(update={"memory": True})
    memory = open_memory(settings, open_store(settings))
    assert memory is not None
    memory.background = False  # one query: what there is must answer it
    try:
        spaces = [namespace(args.project), GLOBAL] if args.project else memory.store.namespaces()
        found = memory.recall(args.query, spaces, _SEARCH_BUDGET)
    finally:
        memory.close()
    hits = found.hits[: args.limit]
    if args.json:
        for hit in hits:
            print(
                json.dumps(
                    {"score": hit.score, "cosine": hit.cosine, **asdict(hit.entry)}, ensure_ascii=False
                )
            )
    elif hits:
        rows = [(str(h.entry.id), _likely(h.score), h.entry.kind.value, line(h.entry.text)) for h in hits]
        show_table(("id", "likely", "kind", "text"), rows)
    else:
        print("nothing relevant")
    return 0 if hits else 1


def _likely(log_odds: float) -> str:
    return f"{1 / (1 + math.exp(-max(-50.0, min(50.0, log_odds)))):.0%}"


def show(args: argparse.Namespace) -> int:
    """Show an entry whole, with where it comes from."""
    with open_memory_store() as store:
        entry = _entry(store, args.id)
    if args.json:
        print(json.dumps(asdict(entry), ensure_ascii=False))
        return 0
    where = clean(entry.source or "") or (f"run {entry.run}, event {entry.event}" if entry.run else "by hand")
    facts = [
        ("kind", entry.kind.value),
        ("trust", entry.label.value),
        ("from", where),
        ("holds", clean(entry.namespace) or "everywhere"),
        ("written", when(entry.created)),
        ("used", _uses(entry)),
        ("expires", when(entry.expires) if entry.expires else ""),
        ("now", f"superseded by entry {entry.superseded_by}" if entry.superseded_by is not None else ""),
    ]
    print(f"entry {entry.id}")
    for name, value in facts:
        if value:
            print(f"  {name:8} {value}")
    print("\n" + clean(entry.text))
    return 0


def edit(args: argparse.Namespace) -> int:
    """Give an entry another text."""
    with open_memory_store() as store:
        entry = _entry(store, args.id)
        if entry.kind is Kind.DOCUMENT:
            raise UsageError(f"entry {entry.id} is a piece of {entry.source}; edit the file and add it again")
        answer = store.edit(entry.id, args.text)
    if answer.verdict is Verdict.REFUSED:
        print(f"refused: {answer.reason}", file=sys.stderr)
        return 1
    print(f"entry {entry.id} is changed")
    return 0


def _show(entries: Sequence[Entry], as_json: bool) -> None:
    if as_json:
        for entry in entries:
            print(json.dumps(asdict(entry), ensure_ascii=False))
    elif entries:
        rows = [(str(e.id), e.kind.value, when(e.created), _uses(e), line(e.text)) for e in entries]
        show_table(("id", "kind", "written", "used", "text"), rows)


def _uses(entry: Entry) -> str:
    return f"{entry.uses}x, {entry.successes} helped" if entry.uses else "never"


def line(text: str) -> str:
    """Return an entry's text for one row of a table."""
    return one_line(clean(text))


def _entry(store: MemoryStore, entry: int) -> Entry:
    found = store.get([entry])
    if not found:
        raise UserError(f"there is no entry {entry}; 'autogpt memory list' shows them")
    return found[0]


def namespace(project: str | None) -> str:
    """Return the namespace of a project folder; of everywhere without one."""
    return GLOBAL if project is None else os.path.abspath(os.path.expanduser(project))


def forget(args: argparse.Namespace) -> int:
    """Remove entries for good, and say what else still has them: runs, models, files."""
    from ..agent.learn import forget as learned
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
        removed = learned.remove(runs, list(seen)) if args.runs and seen else None
        runs.database.close()
        gone = forget_entries(store, ids)
        for path in args.document:
            documents.drop(store, str(path.absolute()), namespace(args.project))
        cleared = purge(settings.home / FOLDER, gone.change)
    if removed is not None:
        for run, why in removed.left.items():
            print(f"run {run} stays: {why}", file=sys.stderr)
        seen = {run: entries for run, entries in seen.items() if run in removed.left}
    _say(gone, cleared, [] if removed is None else removed.runs, _left(gone, seen, settings))
    say_models(models)
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


def _left(gone: Forgotten, seen: Mapping[str, Sequence[int]], settings: Settings) -> list[str]:
    """Return where the text of forgotten entries still is, one line each; ``seen``: by runs that stay."""
    lines = [f"a backup was made as {clean(path)}, which is not there now" for path in gone.missing]
    lines += [
        f"run {run} has seen it (entries {', '.join(map(str, ids[:10]))}) and keeps that in its journal; "
        f"'autogpt runs remove {run}' deletes it, next time --runs does"
        for run, ids in seen.items()
    ]
    known = [settings.runs / run for run in seen]
    if seen:  # the lines above explain what the database still holds
        known += [settings.database.with_name(settings.database.name + end) for end in ("", "-wal")]
    files = [path for path in traces(settings.home, gone.entries) if not {path, *path.parents} & set(known)]
    lines += [f"its text still stands in {clean(str(path))}" for path in files]
    if settings.chroma:
        lines.append(f"the collection on {settings.chroma} is made again without it when memory is used; "
                     "what that server's own files keep is cleared there ('chroma vacuum')")  # fmt: skip
    return lines


def _say(gone: Forgotten, cleared: bool, removed: Sequence[str], left: Sequence[str]) -> None:
    names = ", ".join(str(entry.id) for entry in gone.entries[:10])
    more = f" and {len(gone.entries) - 10} more" if len(gone.entries) > 10 else ""
    places = "memory, its index and its backups" if cleared else "memory and its backups"
    print(f"forgot {'entry' if len(gone.entries) == 1 else 'entries'} {names}{more}: gone from {places}"
          + (", but not from these:" if left else ""))  # fmt: skip
    for text in left:
        print(f"  {text}")
    for path in gone.backups:
        print(f"  cleared from the backup {clean(path)}")
    for run in removed:
        print(f"  removed run {run}, which had seen it")


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
    """Rebuild the word index, embed the entries that lack a vector, and drop the vector index."""
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
    print("the vector index is rebuilt when memory is next used" if cleared
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
