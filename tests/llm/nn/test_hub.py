"""Models by their names on the Hugging Face hub, which is played here."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

from autogpt.errors import ModelUnavailable
from autogpt.llm.nn.hub import fetch_hub, is_hub_file


class Hub:
    """Repositories by name, each with its files; what was fetched is kept."""

    def __init__(self, kept: Path, repositories: dict[str, list[str]]) -> None:
        self.kept, self.repositories, self.asked = kept, repositories, 0

    def files(self, name: str) -> list[str]:
        if name not in self.repositories:
            raise RuntimeError(f"404 for {name}\nRequest ID: 1")
        return self.repositories[name]

    def snapshot(self, name: str, local_files_only: bool = False, allow_patterns: object = None) -> str:
        return self._get(name, name.replace("/", "--"), local_files_only)

    def file(self, name: str, file: str, local_files_only: bool = False) -> str:
        if not local_files_only and file not in self.files(name):
            raise RuntimeError(f"{name} has no {file}")
        return self._get(name, file, local_files_only)

    def _get(self, name: str, kept: str, local: bool) -> str:
        place = self.kept / kept
        if not place.exists():
            if local:
                raise FileNotFoundError(name)
            self.files(name)
            self.asked += 1
            if kept.endswith(".gguf"):
                place.touch()
            else:
                place.mkdir()
                for file in self.repositories[name]:
                    if not file.endswith(".gguf"):
                        (place / file).touch()
        return str(place)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub with a model and a repository of GGUF files."""
    repositories = {
        "org/model": ["config.json", "model.safetensors"],
        "org/G": ["a.gguf", "b.gguf", "README.md"],
    }
    played = Hub(tmp_path, repositories)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", played.snapshot)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", played.file)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", played.files)
    return played


def test_a_repository_or_one_gguf_file_of_it_is_fetched_once(hub: Hub) -> None:
    for _ in range(2):
        assert fetch_hub("org/model").name == "org--model"
        assert fetch_hub("org/G:b.gguf").name == "b.gguf"
    assert hub.asked == 2


def test_a_repository_of_gguf_files_alone_names_them(hub: Hub) -> None:
    with pytest.raises(ModelUnavailable, match=r"name one, as org/G:a\.gguf \(a\.gguf, b\.gguf\)$"):
        fetch_hub("org/G")


@pytest.mark.parametrize("name", ["org/away", "org/away:a.gguf", "org/G:c.gguf"])
def test_what_the_hub_does_not_give_is_one_line_that_says_what_to_do(hub: Hub, name: str) -> None:
    with pytest.raises(
        ModelUnavailable, match=r"could not be fetched from the hub \(.*\): check the name"
    ) as caught:
        fetch_hub(name)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(name)


def test_only_a_repository_and_a_file_make_a_hub_file() -> None:
    assert is_hub_file("Qwen/Qwen3-0.6B-GGUF:q8.gguf")
    for name in ("q8.gguf", "./org/q8.gguf", "org/model", "openai:http://h/v1#x.gguf", "a/b/c:q8.gguf"):
        assert not is_hub_file(name)
