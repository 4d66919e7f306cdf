"""The file tools on a real workspace, and handles in what they write."""

from __future__ import annotations

import itertools
import os
import random
import resource
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from autogpt.errors import ToolError
from autogpt.labels import Label
from autogpt.tools import paths
from autogpt.tools.base import Tool, ToolContext, ToolResult, merge_facts
from autogpt.tools.files import tools
from autogpt.tools.handles import resolve, text_form, with_handles

TOOLS: Mapping[str, Tool] = {tool.name: tool for tool in tools()}


@pytest.fixture
def ctx(tmp_path: Path) -> ToolContext:
    workspace = tmp_path / "run" / "workspace"
    (workspace / "notes").mkdir(parents=True)
    (workspace / "a.txt").write_text("Hello\npay Invoice 7\n")
    (workspace / "notes" / "b.md").write_text("# Plan\npay rent\n")
    (workspace / "x.bin").write_bytes(b"\x00\x01pay")
    (workspace / ".hidden").write_text("pay")
    return ToolContext(workspace)


def call(ctx: ToolContext, name: str, **args: Any) -> ToolResult:
    """Run a tool as a driver would: facts are merged afterwards."""
    result = TOOLS[name].run(args, ctx)
    ctx.facts = merge_facts(ctx.facts, result.facts)
    return result


def test_list_shows_sizes_and_learns_what_exists(ctx: ToolContext) -> None:
    result = call(ctx, "files.list")
    assert result.value == ["a.txt", "notes/b.md", "x.bin"]
    assert result.preview == "3 files: a.txt (20 B), notes/b.md (16 B), x.bin (5 B)"
    assert ctx.facts["files"]["notes/b.md"] == {"bytes": 16}
    (ctx.workspace / "a.txt").unlink()
    call(ctx, "files.list")
    assert "a.txt" not in ctx.facts["files"], "a file that went away is forgotten"


def test_names_that_are_no_text_are_left_out(ctx: ToolContext) -> None:
    before = call(ctx, "files.list").value
    (ctx.workspace / "na\udcffme.csv").write_text("pay")
    assert call(ctx, "files.list").value == before
    assert "udcff" not in repr(call(ctx, "files.search", text="pay").value)


def test_list_matches_patterns_in_any_folder(ctx: ToolContext) -> None:
    assert call(ctx, "files.list", pattern="*.MD").value == ["notes/b.md"]
    assert call(ctx, "files.list", pattern="notes/*").value == ["notes/b.md"]
    assert call(ctx, "files.list", pattern="*.csv").preview == "no files"


def test_list_bounds_its_preview(ctx: ToolContext) -> None:
    for number in range(60):
        (ctx.workspace / f"f{number}.txt").write_text("x")
    result = call(ctx, "files.list")
    assert len(result.value) == 63
    assert result.preview.endswith("... and 43 more")


def test_read_gives_the_exact_text_and_a_bounded_preview(ctx: ToolContext) -> None:
    assert call(ctx, "files.read", path="a.txt").value == "Hello\npay Invoice 7\n"
    long = "".join(f"line {number}\n" for number in range(500))
    (ctx.workspace / "long.txt").write_text(long)
    result = call(ctx, "files.read", path="./long.txt")
    assert result.value == long
    assert result.label is Label.UNTRUSTED
    assert len(result.preview) < 700
    assert result.preview.endswith(f"... ({len(long)} chars, 500 lines)")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("Zürich".encode(), "Zürich"),
        (b"\xef\xbb\xbfwith a mark", "with a mark"),
        ("Zürich".encode("utf-16"), "Zürich"),
        (b"Z\xfcrich", "Zürich"),
    ],
)
def test_read_knows_common_encodings(ctx: ToolContext, data: bytes, text: str) -> None:
    (ctx.workspace / "t.txt").write_bytes(data)
    assert call(ctx, "files.read", path="t.txt").value == text


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("x.bin", "x.bin is not text"),
        ("nope.txt", "there is no file nope.txt"),
        ("notes", "notes is a folder"),
        ("a.txt/b", "a.txt is not a folder"),
    ],
)
def test_read_says_what_is_wrong(ctx: ToolContext, path: str, message: str) -> None:
    with pytest.raises(ToolError) as caught:
        call(ctx, "files.read", path=path)
    assert message in str(caught.value)


def test_a_huge_file_and_a_pipe_are_refused_without_reading(ctx: ToolContext) -> None:
    with open(ctx.workspace / "big.csv", "wb") as file:
        file.truncate(50_000_000)
    with pytest.raises(ToolError, match=r"big\.csv is too large to read \(50 MB\)"):
        call(ctx, "files.read", path="big.csv")
    os.mkfifo(ctx.workspace / "pipe")
    with pytest.raises(ToolError, match="not a regular file"):
        call(ctx, "files.read", path="pipe")
    assert "pipe" not in call(ctx, "files.list").value


def test_search_finds_lines_without_regard_to_case(ctx: ToolContext) -> None:
    result = call(ctx, "files.search", text="PAY")
    assert result.value == [["a.txt", 2, "pay Invoice 7"], ["notes/b.md", 2, "pay rent"]]
    assert result.preview == "2 matches: a.txt:2: pay Invoice 7; notes/b.md:2: pay rent"
    assert call(ctx, "files.search", text="pay", pattern="*.md").value == [["notes/b.md", 2, "pay rent"]]
    assert call(ctx, "files.search", text="zebra").preview == "no matches"


def test_write_creates_folders_and_replaces_whole_files(ctx: ToolContext) -> None:
    result = call(ctx, "files.write", path="out/late.txt", content="Nordfracht")
    assert (result.value, result.preview) == ("out/late.txt", "wrote out/late.txt (10 B)")
    assert ctx.facts["files"]["out/late.txt"] == {"bytes": 10}
    call(ctx, "files.write", path="out/late.txt", content="x")
    assert (ctx.workspace / "out/late.txt").read_text() == "x"
    assert [item.name for item in (ctx.workspace / "out").iterdir()] == ["late.txt"], "no temporary left"


def test_a_write_that_fails_half_way_keeps_the_old_file(ctx: ToolContext) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(ToolError, match=r"cannot write notes/b\.md: File too large"):
            call(ctx, "files.write", path="notes/b.md", content="x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (ctx.workspace / "notes/b.md").read_text() == "# Plan\npay rent\n"
    assert os.listdir(ctx.workspace / "notes") == ["b.md"], "no temporary left"


def test_write_verifies_by_content(ctx: ToolContext) -> None:
    tool, args = TOOLS["files.write"], {"path": "n.txt", "content": [1.0, "two"]}
    assert tool.verify(args, ctx) is None
    done = tool.run(args, ctx)
    assert (ctx.workspace / "n.txt").read_text() == "1\ntwo"
    assert tool.verify(args, ctx) == done
    (ctx.workspace / "n.txt").write_text("1\nthree")
    assert tool.verify(args, ctx) is None


def test_write_obeys_the_contexts_patterns(ctx: ToolContext) -> None:
    ctx.writable = ("out/*.txt",)
    call(ctx, "files.write", path="out/a.txt", content="x")
    for path in ("a.txt", "out/deep/a.txt", "out/a.md"):
        with pytest.raises(ToolError, match="may not be written; allowed: out"):
            call(ctx, "files.write", path=path, content="x")
    with pytest.raises(ToolError, match="may not be written"):
        call(ctx, "files.move", source="a.txt", target="out/b.txt")
    assert (ctx.workspace / "a.txt").exists()


def test_move_renames_and_never_overwrites(ctx: ToolContext) -> None:
    call(ctx, "files.list")
    result = call(ctx, "files.move", source="a.txt", target="done/c.txt")
    assert result.preview == "moved a.txt to done/c.txt"
    assert not (ctx.workspace / "a.txt").exists()
    assert ctx.facts["files"].keys() == {"done/c.txt", "notes/b.md", "x.bin"}
    with pytest.raises(ToolError, match="already exists"):
        call(ctx, "files.move", source="done/c.txt", target="notes/b.md")
    with pytest.raises(ToolError, match=r"no file a\.txt"):
        call(ctx, "files.move", source="a.txt", target="z.txt")
    with pytest.raises(ToolError, match="not a regular file"):
        call(ctx, "files.move", source="notes", target="z")
    assert (ctx.workspace / "notes/b.md").read_text() == "# Plan\npay rent\n"


def test_move_verifies_at_every_point_of_a_crash(ctx: ToolContext) -> None:
    tool, args = TOOLS["files.move"], {"source": "a.txt", "target": "c.txt"}
    assert tool.verify(args, ctx) is None, "nothing happened yet"
    os.link(ctx.workspace / "a.txt", ctx.workspace / "c.txt")
    assert tool.verify(args, ctx) is not None, "between link and unlink: completed"
    assert not (ctx.workspace / "a.txt").exists()
    assert tool.verify(args, ctx) is not None, "after both"
    (ctx.workspace / "a.txt").write_text("another")
    assert tool.verify(args, ctx) is None, "two different files: it did not happen"
    assert (ctx.workspace / "a.txt").exists()


OUTSIDE = ["/etc/hostname", "../secret.txt", "notes/../../secret.txt", "~/x", "C:\\x", "link", "dir/x", ""]


@pytest.mark.parametrize("path", OUTSIDE)
def test_nothing_outside_is_reachable(ctx: ToolContext, path: str) -> None:
    secret = ctx.workspace.parent / "secret.txt"
    secret.write_text("secret")
    (ctx.workspace / "link").symlink_to(secret)
    (ctx.workspace / "dir").symlink_to(ctx.workspace.parent)
    for name, args in [
        ("files.read", {"path": path}),
        ("files.write", {"path": path, "content": "gone"}),
        ("files.move", {"source": path, "target": "stolen.txt"}),
        ("files.move", {"source": "a.txt", "target": path}),
    ]:
        with pytest.raises(ToolError):
            call(ctx, name, **args)
    assert secret.read_text() == "secret"
    assert sorted(os.listdir(ctx.workspace.parent)) == ["secret.txt", "workspace"]
    assert "link" not in call(ctx, "files.list").value
    assert call(ctx, "files.search", text="secret").value == []


def test_swapping_a_folder_for_a_link_gains_nothing(ctx: ToolContext, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f.txt").write_text("outside")
    folder, aside = ctx.workspace / "d", ctx.workspace / "aside"
    folder.mkdir()
    (folder / "f.txt").write_text("inside")
    stop, pauses = threading.Event(), random.Random(0)

    def swap() -> None:
        while not stop.is_set():
            folder.rename(aside)
            with suppress(FileExistsError):
                folder.symlink_to(outside)
                folder.unlink()
            while aside.exists():
                try:
                    aside.rename(folder)
                except OSError:  # a write made the folder anew meanwhile
                    shutil.rmtree(folder, ignore_errors=True)
            time.sleep(pauses.random() * 5e-4)  # else a busy machine may never show the folder itself

    thread = threading.Thread(target=swap)
    thread.start()
    reads = 0
    try:
        deadline = time.monotonic() + 20
        for number in itertools.count():
            if number >= 700 and (reads or time.monotonic() > deadline):
                break
            with suppress(ToolError):
                assert call(ctx, "files.read", path="d/f.txt").value != "outside"
                reads += 1
            with suppress(ToolError):
                call(ctx, "files.write", path="d/new.txt", content=str(number))
    finally:
        stop.set()
        thread.join()
    assert reads > 0
    assert os.listdir(outside) == ["f.txt"]


def test_schemas_offer_what_exists(ctx: ToolContext) -> None:
    read, move, write = TOOLS["files.read"], TOOLS["files.move"], TOOLS["files.write"]
    assert read.narrow({}, ()) == read.parameters, "nothing is known yet"
    assert read.narrow({"files": {}}, ()) is None, "nothing to read"
    assert move.narrow({"files": {}}, ()) is None
    call(ctx, "files.list")
    schema = read.narrow(ctx.facts, ())
    assert schema and schema["properties"]["path"]["enum"] == ["a.txt", "notes/b.md", "x.bin"]
    many = {"files": {f"{number}.txt": {"bytes": 1} for number in range(500)}}
    assert "enum" not in (read.narrow(many, ()) or {})["properties"]["path"]
    odd = write.narrow({"files": {"März (1).txt": {"bytes": 1}, "b.txt": {"bytes": 1}}}, ())
    assert odd and odd["properties"]["path"]["anyOf"][1]["enum"] == ["März (1).txt"]


def test_random_paths_never_leave(ctx: ToolContext) -> None:
    rng = random.Random(5)
    pieces = ["..", ".", "/", "//", "a", "notes", "~", "\0", "b.md", " ", "é", "dir", "\\"]
    before = sorted(os.listdir(ctx.workspace.parent.parent))
    (ctx.workspace / "dir").symlink_to("/tmp")
    for _ in range(300):
        path = "".join(rng.choices(pieces, k=rng.randint(1, 6)))
        try:
            call(ctx, "files.write", path=path, content="x")
        except ToolError:
            continue
        assert (ctx.workspace / path).resolve().is_relative_to(ctx.workspace.resolve())
    assert sorted(os.listdir(ctx.workspace.parent.parent)) == before
    assert os.listdir(ctx.workspace.parent) == ["workspace"]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 KB"), (1560, "1.6 KB"), (120_400, "120 KB"), (5e7, "50 MB")],
)
def test_sizes_read_easily(size: int, text: str) -> None:
    assert paths.size_text(size) == text


VALUES = {"$1": [["a", 1.0], ["b,c", 2]], "$2": "text", "$3": 3.0, "$4": ["x", "y"], "$5": True, "$6": None}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("$1", VALUES["$1"]),
        (" $3 ", 3.0),
        ("{$4}", ["x", "y"]),
        ("total: {$3}", "total: 3"),
        ("{$2}\nnew line", "text\nnew line"),
        ("{$4}!", "x\ny!"),
        ("rows\n{$1}", 'rows\na,1\n"b,c",2'),
        ("{$5}{$6}.", "true."),
        ("$2 off, $50 or $3.99", "$2 off, $50 or $3.99"),
        ("{$x}", "{$x}"),
        ({"deep": ["$2", {"k": "{$3} kg"}]}, {"deep": ["text", {"k": "3 kg"}]}),
        (7, 7),
    ],
)
def test_handles_give_values_or_their_text(given: Any, expected: Any) -> None:
    assert resolve({"content": given}, VALUES) == {"content": expected}


@pytest.mark.parametrize("given", ["$7", "see {$7}", ["$7"]])
def test_an_unknown_handle_is_told_with_those_there_are(given: Any) -> None:
    with pytest.raises(ToolError, match=r"there is no \$7; handles so far: \$1, \$2"):
        resolve({"content": given}, {"$1": 1, "$2": 2})


def test_with_handles_widens_all_but_free_text() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "t": {"type": "string"}}}
    widened = with_handles(schema, ("$1",))
    assert widened["properties"]["n"]["anyOf"][1]["enum"] == ["$1"]
    assert widened["properties"]["t"] == {"type": "string"}
    assert with_handles(schema, ()) == schema


def test_appending_is_reading_and_writing(ctx: ToolContext) -> None:
    text = call(ctx, "files.read", path="a.txt").value
    args = resolve({"path": "a.txt", "content": "{$1}added"}, {"$1": text})
    call(ctx, "files.write", **args)
    assert (ctx.workspace / "a.txt").read_text() == "Hello\npay Invoice 7\nadded"


def test_a_path_may_be_a_handle_to_one_name(ctx: ToolContext) -> None:
    listed = call(ctx, "files.list", pattern="*.md").value
    assert call(ctx, "files.read", path=listed).value.startswith("# Plan")
    with pytest.raises(ToolError, match="path must be one file name"):
        call(ctx, "files.read", path=call(ctx, "files.list").value)


def test_text_form_of_objects_is_json() -> None:
    assert text_form({"a": [1, None]}) == '{"a":[1,null]}'
    assert text_form([{"a": 1}, {"a": 2}]) == '{"a":1}\n{"a":2}'
