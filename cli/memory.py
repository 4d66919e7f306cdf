"""``autogpt memory``: look at what is remembered, add to it, change it, and forget it for good.

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
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from ..agent.open import open_memory, open_store
from ..errors import UsageError, UserError
from ..memory.documents.documents import Added, known_files
from ..memory.documents.documents import add as add_documents
from ..memory.entry import GLOBAL, Draft, Entry, Kind, Verdict
from ..memory.store import MemoryStore
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
    pieces = f"{done.written} pieces remembered"
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
