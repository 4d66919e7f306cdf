"""From files to plain data with line numbers; knows nothing of what a goal is.

``validate`` promises file, line and field of every mistake. So YAML is read as a node tree first,
which keeps the position of each key, and becomes data second. JSON is YAML enough for the same
road; suites (JSON lines) take the fast one, where a record's line is all there is to say. YAML's
dates and its yes/no/on/off booleans are left as text: a goal that says ``NO`` means the word.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ...errors import UsageError

Where = tuple[str | int, ...]
"""A place inside a document: keys and list positions from the top."""

SUITE_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
GOAL_SUFFIXES = (".yaml", ".yml", ".json")


class SourceError(UsageError):
    """A file that cannot be read or parsed; ``line`` is 0 when no line is to blame."""

    def __init__(self, path: str, line: int, message: str) -> None:
        """``message`` says what is wrong, without the place."""
        super().__init__(f"{path}:{line}: {message}" if line else f"{path}: {message}")
        self.path, self.line, self.message = path, line, message


@dataclass
class Record:
    """One parsed object, with the line (from 1) of every place in it."""

    data: Any
    line: int = 1
    lines: dict[Where, int] = field(default_factory=dict)
    repeated: list[Where] = field(default_factory=list)
    """Keys that are given twice in one mapping."""
    cut: dict[Where, str] = field(default_factory=dict)
    """Unquoted texts that YAML ended at `` #``, with the rest of the line that it left out."""

    def line_of(self, where: Where) -> int:
        """Return the line of ``where``, or of the nearest place around it."""
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines.get(where, self.line)


class _Loader(yaml.SafeLoader):
    """YAML with JSON's scalars: no dates, no yes/no, no ``12:30`` that means 750."""


_JSON_SCALARS = {
    "bool": (r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    "int": (r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    "float": (r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
}
_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0].rpartition(":")[2] in ("null", "merge")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, (_expression, _first) in _JSON_SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_expression), list(_first))


def suffix_of(path: Path) -> str:
    """Return the suffix with a compression's before it, e.g. ``.jsonl.zst``."""
    return "".join(path.suffixes[-2:]) if path.suffix in (".gz", ".zst") else path.suffix


def read_text(path: Path) -> str:
    """Return a file's text, unpacked by its suffix. Raises SourceError when it is not UTF-8 text."""
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
        elif path.suffix == ".zst":
            raw = _unzstd(raw)
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(str(path), 0, f"is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise SourceError(str(path), 0, f"cannot be read: {error.strerror or error}") from error
    except (EOFError, zlib.error, _Broken) as error:
        raise SourceError(str(path), 0, f"is not a whole {path.suffix} file: {error}") from error


class _Broken(Exception):
    """Compressed data that does not unpack."""


def _unzstd(raw: bytes) -> bytes:
    import zstandard

    try:
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(raw)) as stream:
            return stream.read()
    except zstandard.ZstdError as error:
        raise _Broken(str(error)) from error


def parse_yaml(text: str, name: str) -> list[Record]:
    """Parse one YAML or JSON document: a mapping is one record, a list one record per item.

    Raises SourceError with line and column when it is malformed; an empty document gives [].
    """
    loader, lines = _Loader(text), text.splitlines()
    try:
        node = loader.get_single_node()
        if node is None:
            return []
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        records = []
        for item in nodes:
            data = loader.construct_object(item, deep=True)  # first: it refuses nodes that hold themselves
            record = Record(data, line=item.start_mark.line + 1)
            _walk(item, (), record, lines)
            records.append(record)
        return records
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" (column {mark.column + 1})" if mark else ""
        what = " ".join(str(error.problem or error.context).split())
        if error.context and error.context_mark and error.context_mark.line != (mark and mark.line):
            what += f", {error.context} that begins in line {error.context_mark.line + 1}"
        raise SourceError(name, mark.line + 1 if mark else 0, f"malformed YAML: {what}{place}") from error
    except yaml.YAMLError as error:
        raise SourceError(name, 0, f"malformed YAML: {' '.join(str(error).split())}") from error
    finally:
        loader.dispose()


def _walk(node: yaml.Node, where: Where, record: Record, lines: Sequence[str]) -> None:
    """Note the line of every key and item under ``node``, and the texts that a comment cuts."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
            place = (*where, name)
            if name in seen and name != "<<":
                record.repeated.append(place)
            seen.add(name)
            record.lines[place] = key.start_mark.line + 1
            _walk(value, place, record, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            record.lines[(*where, index)] = value.start_mark.line + 1
            _walk(value, (*where, index), record, lines)
    elif isinstance(node, yaml.ScalarNode) and node.style is None and node.tag.endswith(":str"):
        rest = lines[node.end_mark.line][node.end_mark.column :] if node.end_mark.line < len(lines) else ""
        if re.match(r"\s+#", rest):
            record.cut[where] = rest.strip()


def parse_jsonl(text: str, name: str) -> Iterator[Record | SourceError]:
    """Yield a record per non-empty line, or a SourceError for a line that is not JSON."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield Record(json.loads(line), line=number)
        except json.JSONDecodeError as error:
            yield SourceError(name, number, f"malformed JSON: {error.msg} (column {error.colno})")


def find_source(source: str) -> Path | None:
    """Return the file or folder that ``source`` names, ``<source>.zst`` or ``.gz`` included.

    None means that it is no path. A name that looks like a goal file but is missing is an error.
    """
    for name in (source, source + ".zst", source + ".gz"):
        try:
            if Path(name).exists():
                return Path(name)
        except OSError:  # a long goal is no file name
            return None
    looks = suffix_of(Path(source)) in (*SUITE_SUFFIXES, *GOAL_SUFFIXES)
    if looks and not re.search(r"\s", source):  # "What is in a.json" is a goal, "a.json" is not
        raise SourceError(source, 0, "no such goal file")
    return None
