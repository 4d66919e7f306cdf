"""The file tools: list, read, search, write and move text files inside the run's workspace.

They keep one family of facts, ``files: {path: {"bytes": n}}``, from which ``files.read`` and
``files.move`` offer the paths that exist. Writing always replaces the whole file; to append, read
it and write ``{$1}`` followed by the new text, which a crash cannot double. Both effects can be
verified, so they are idempotent and run without the shim. Paths are checked in ``paths.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import ToolError
from ..labels import Label
from . import paths
from .base import Effect, Facts, Replay, Tool, ToolContext, ToolResult
from .handles import text_form

MAX_READ = 8_000_000
MAX_WRITE = 50_000_000
_PREVIEW = 600
_LISTED = 20
_MATCHES = 8
_ENUM = 200

NEW_PATH: Mapping[str, Any] = {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_./ -]{0,79}$"}
_PATTERN: Mapping[str, Any] = {
    "type": "string",
    "maxLength": 60,
    "description": 'only files of such a name, as "*.txt"; left out for all files',
}
_ANY_PATH: Mapping[str, Any] = {"type": "string", "minLength": 1, "maxLength": 120}


def tools() -> list[Tool]:
    """Return the family's tools, in the order they are shown."""
    return [FilesList(), FilesRead(), FilesSearch(), FilesWrite(), FilesMove()]


def _object(required: list[str], **properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": required,
        "additionalProperties": False,
    }


def _existing(facts: Facts) -> Mapping[str, Any] | None:
    """Return the schema of a path that exists, or None when it is known that there is none."""
    known = facts.get("files")
    if known is None:
        return _ANY_PATH
    names = sorted(known)
    if not names:
        return None
    return {"type": "string", "enum": names} if len(names) <= _ENUM else _ANY_PATH


def _writable_path(facts: Facts) -> Mapping[str, Any]:
    """Return the schema of a path to write: a plain new name, or one that is there already."""
    odd = [name for name in sorted(facts.get("files", {})) if not re.fullmatch(NEW_PATH["pattern"], name)]
    return {"anyOf": [NEW_PATH, {"type": "string", "enum": odd[:_ENUM]}]} if odd else NEW_PATH


def decode(data: bytes) -> str | None:
    """Return text for bytes in UTF-8, UTF-16 with a mark, or Windows-1252; None for binary."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError:
            return None
    if re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", data):
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return None


def _read_text(ctx: ToolContext, path: str) -> str:
    data = paths.read_bytes(ctx.workspace, path, MAX_READ)
    text = decode(data)
    if text is None:
        raise ToolError(f"{path} is not text")
    return text


def _count(number: int, noun: str) -> str:
    plural = noun + ("es" if noun.endswith("ch") else "s")
    return f"{number} {noun if number == 1 else plural}"


def _path(args: Mapping[str, Any], name: str) -> str:
    """Return an argument as a normal path; it may have been a handle and so be anything."""
    value = args[name]
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str):
        raise ToolError(f"{name} must be one file name, not {text_form(value)[:40]!r}")
    return paths.normal(value)


def _target(args: Mapping[str, Any], name: str) -> str:
    """Return what the policy judges: the normal path, or as it was said if it is none."""
    try:
        return _path(args, name)
    except ToolError:
        return text_form(args[name])


def _check_writable(path: str, ctx: ToolContext) -> str:
    if not any(paths.covers(pattern, path) for pattern in ctx.writable):
        raise ToolError(f"{path} may not be written; allowed: {', '.join(ctx.writable) or 'nothing'}")
    return path


class FilesList(Tool):
    """Value: the list of paths."""

    name = "files.list"
    description = "List files."
    parameters: Mapping[str, Any] = _object([], pattern=_PATTERN)

    def run(self, args: Mapping[str, Any], ctx: ToolContext) -> ToolResult:
        """List the workspace, matching ``pattern`` leniently; refreshes the facts."""
        everything = paths.walk(ctx.workspace)
        pattern = args.get("pattern") or "*"
        shown = [(path, size) for path, size in everything if paths.like(path, pattern)]
        facts: dict[str, Any] = dict.fromkeys(ctx.facts.get("files", {}))
        facts.update({path: {"bytes": size} for path, size in everything})
        names = [f"{path} ({paths.size_text(size)})" for path, size in shown[:_LISTED]]
        if len(shown) > _LISTED:
            names.append(f"... and {len(shown) - _LISTED} more")
        count = _count(len(shown), "file") if shown else "no files"
        preview = count + (": " + ", ".join(names) if names else "")
        return ToolResult([path for path, _ in shown], preview, {"files": facts}, Label.STRUCTURED)


class FilesRead(Tool):
    """Value: the exact text."""

    name = "files.read"
    description = "Read a text file."
    parameters: Mapping[str, Any] = _object(["path"], path=_ANY_PATH)

    def run(self, args: Mapping[str, Any], ctx: ToolContext) -> ToolResult:
        """Read one file; the preview shows its beginning."""
        path = _path(args, "path")
        return ToolResult(text := _read_text(ctx, path), _beginning(text))

    def narrow(self, facts: Facts, handles: tuple[str, ...]) -> Mapping[str, Any] | None:
        """Offer the paths that exist."""
        existing = _existing(facts)
        return None if existing is None else _object(["path"], path=existing)


def _beginning(text: str) -> str:
    if not text.strip():
        return "(empty)"
    if len(text) <= _PREVIEW:
        lines = len(text.splitlines())
        return text.rstrip("\r\n") + (f"\n({lines} lines)" if lines > 1 else "")
    cut = text[:_PREVIEW]
    last = cut.rfind("\n")
    cut = cut[:last] if last > _PREVIEW // 2 else cut
    return f"{cut.rstrip()}\n... ({len(text)} chars, {_count(len(text.splitlines()), 'line')})"


class FilesSearch(Tool):
    """Value: a list of [path, line number from 1, line]."""

    name = "files.search"
    description = "Find the lines that contain a text."
    parameters: Mapping[str, Any] = _object(
        ["text"],
        text={"type": "string", "minLength": 1, "maxLength": 80},
        pattern=_PATTERN,
    )

    def run(self, args: Mapping[str, Any], ctx: ToolContext) -> ToolResult:
        """Search without regard to case; binary and very large files are left out."""
        wanted = str(args["text"]).casefold()
        pattern = args.get("pattern") or "*"
        found: list[list[Any]] = []
        for path, size in paths.walk(ctx.workspace):
            if size > MAX_READ or not paths.like(path, pattern):
                continue
            text = decode(paths.read_bytes(ctx.workspace, path, MAX_READ))
            lines = text.splitlines() if text is not None else []
            found.extend([path, i, line] for i, line in enumerate(lines, 1) if wanted in line.casefold())
        return ToolResult(found, _matches(found))

    def narrow(self, facts: Facts, handles: tuple[str, ...]) -> Mapping[str, Any] | None:
        """Not offered in a workspace that is known to be empty."""
        return None if _existing(facts) is None else self.parameters


def _matches(found: list[list[Any]]) -> str:
    if not found:
        return "no matches"
    files = list(dict.fromkeys(path for path, _, _ in found))
    where = f" in {_count(len(files), 'file')}" if len(files) < len(found) else ""
    if where and len(files) <= 5:
        where += f" ({', '.join(files)})"
    lines = [f"{path}:{number}: {line.strip()[:120]}" for path, number, line in found[:_MATCHES]]
    if len(found) > _MATCHES:
        lines.append(f"... and {len(found) - _MATCHES} more")
    return f"{_count(len(found), 'match')}{where}: " + "; ".join(lines)


class FilesWrite(Tool):
    """Value: the path."""

    name = "files.write"
    description = "Write a file; content is text, $1, or text with {$1}."
    parameters: Mapping[str, Any] = _object(
        ["path", "content"], path=NEW_PATH, content={"type": "string", "maxLength": 1000}
    )
    effect = Effect.WRITE
    replay = Replay.IDEMPOTENT

    def run(self, args: Mapping[str, Any], ctx: ToolContext) -> ToolResult:
        """Replace the file by the text form of ``content``, which may be any JSON value."""
        path = _check_writable(_path(args, "path"), ctx)
        data = self._data(args)
        if len(data) > MAX_WRITE:
            raise ToolError(f"{path} would be too large ({paths.size_text(len(data))})")
        paths.write_bytes(ctx.workspace, path, data)
        return self._result(path, data)

    def narrow(self, facts: Facts, handles: tuple[str, ...]) -> Mapping[str, Any] | None:
        """Offer new names and those that exist."""
        content = {"type": "string", "maxLength": 1000}
        return _object(["path", "content"], path=_writable_path(facts), content=content)

    def verify(self, args: Mapping[str, Any], ctx: ToolContext) -> ToolResult | None:
        """The write has happened if the file has exactly this content."""
        path = _path(args, "path")
        data = self._data(args)
        try:
            written = paths.read_bytes(ctx.workspace, path, MAX_WRITE) == data
        except ToolError:
            return None
        return self._result(path, data) if written else None

    def targets(self, args: Mapping[str, Any]) -> list[str]:
        """The file that is written."""
        return [_target(args, "path")]

    @staticmethod
    def _data(args: Mapping[str, Any]) -> bytes:
        return text_form(args["content"]).encode("utf-8", "replace")

    @staticmethod
    def _result(path: str, data: bytes) -> ToolResult:
        facts = {"files": {path: {"bytes": len(data)}}}
        return ToolResult(path, f"wrote {path} ({paths.size_text(len(data))})", facts, Label.STRUCTURED)


class FilesMove(Tool):
    """Value: the new path."""

    name = "files.move"
    description = "Move or rename a file."
    parameters: Mapping[str, Any] = _object(["source", "target"], source=_ANY_PATH, target=NEW_PATH)
    effect = Effect.WRITE
    replay = Replay.IDEMPOTENT

    def run(self, args: Mapping[str, Any], ctx: ToolContext) -> ToolResult:
        """Give a file a new name, creating folders; an existing target is an error."""
        source, target = (_check_writable(_path(args, name), ctx) for name in ("source", "target"))
        paths.move(ctx.workspace, source, target)
        return self._result(source, target, ctx)

    def narrow(self, facts: Facts, handles: tuple[str, ...]) -> Mapping[str, Any] | None:
        """Offer the paths that exist as sources."""
        existing = _existing(facts)
        return None if existing is None else _object(["source", "target"], source=existing, target=NEW_PATH)

    def verify(self, args: Mapping[str, Any], ctx: ToolContext) -> ToolResult | None:
        """The move has happened if the source is gone and the target is there."""
        source, target = _path(args, "source"), _path(args, "target")
        if not paths.finish_move(ctx.workspace, source, target):
            return None
        return self._result(source, target, ctx)

    def targets(self, args: Mapping[str, Any]) -> list[str]:
        """The new name."""
        return [_target(args, "target")]

    def removes(self, args: Mapping[str, Any]) -> list[str]:
        """The old name."""
        return [_target(args, "source")]

    @staticmethod
    def _result(source: str, target: str, ctx: ToolContext) -> ToolResult:
        status = paths.status_of(ctx.workspace, target)
        size = status.st_size if status else 0
        facts: Facts = {"files": {source: None, target: {"bytes": size}}}
        return ToolResult(target, f"moved {source} to {target}", facts, Label.STRUCTURED)
