"""What was read of GGUF files before, kept in a cache folder: a vocabulary of 150,000 tokens takes a second.

A file is known again by its path, length and time of change, without reading any of it; what was derived
from it is kept by its fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...errors import ModelUnavailable
from ...files import read_object, replace_file
from .header import fingerprint
from .vocabulary import Vocabulary, read_vocabulary

_FOLDER = "gguf"
_VERSION = 1
"""Raised when anything that is derived from a file changes."""


@dataclass(frozen=True)
class Facts:
    """What is asked of a file at each start."""

    fingerprint: str
    settings: dict[str, Any]
    """See :func:`~.weights.settings_of`."""


def facts_of(path: Path, cache_dir: Path | None = None) -> Facts:
    """Return a file's facts; :class:`~autogpt.errors.ModelUnavailable` for one that is not supported."""
    kept, about = _kept(path, cache_dir), _state(path)
    found = {} if kept is None else read_object(kept)
    if found.get("of") == about:
        return Facts(str(found["fingerprint"]), dict(found["settings"]))
    facts = _read(path, *about)
    if kept is not None:
        with suppress(OSError):  # a full disk only costs the next start time
            replace_file(kept, json.dumps({"of": about, **asdict(facts)}))
    return facts


def is_known(path: Path, cache_dir: Path | None) -> bool:
    """Say whether a file's facts are kept, so that it is supported and unchanged."""
    kept = _kept(path, cache_dir)
    return kept is not None and read_object(kept).get("of") == _state(path)


def _kept(path: Path, cache_dir: Path | None) -> Path | None:
    return None if cache_dir is None else cache_dir / _FOLDER / f"{_name(str(path.absolute()))}.json"


def _state(path: Path) -> list[int]:
    """Return by what a file is known again."""
    try:
        state = path.stat()
    except OSError as problem:
        raise ModelUnavailable(f"cannot read {path}: {problem.strerror or problem}") from problem
    return [_VERSION, state.st_size, state.st_mtime_ns]


@lru_cache(maxsize=4)
def _read(path: Path, version: int, size: int, changed: int) -> Facts:
    from .weights import settings_of, shape_header  # torch, which commands that only look do without

    return Facts(fingerprint(shape_header(path)), settings_of(path))


def vocabulary_of(path: Path, cache_dir: Path | None = None) -> Vocabulary:
    """Return a file's vocabulary; raises what :func:`~.vocabulary.read_vocabulary` does.

    Kept are a line of JSON and the tokenizer as it is, which is long.
    """
    if cache_dir is None:
        return read_vocabulary(path)
    kept = cache_dir / _FOLDER / f"{_name(facts_of(path, cache_dir).fingerprint)}.tokenizer"
    with suppress(OSError, ValueError, KeyError, TypeError):
        line, _, text = kept.read_text("utf-8").partition("\n")
        about = json.loads(line)
        if about.pop("length") == len(text):
            return Vocabulary(json=text, **{**about, "ends": tuple(about["ends"])})
    found = read_vocabulary(path)
    about = {name: value for name, value in asdict(found).items() if name != "json"}
    with suppress(OSError):
        replace_file(kept, f"{json.dumps(about | {'length': len(found.json)})}\n{found.json}")
    return found


def _name(of: str) -> str:
    return hashlib.sha256(f"{_VERSION} {of}".encode()).hexdigest()[:16]
