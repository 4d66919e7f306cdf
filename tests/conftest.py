"""Every test runs in a world of its own: a fresh AUTOGPT_HOME, no settings leaking in, no network.

A test that needs the developer's data folder asks the environment before this fixture cleans it;
the suite itself needs none.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Two workers share two cores: more threads than cores only makes them wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Clear AUTOGPT_* and point home and data at a new folder; returns AUTOGPT_HOME."""
    for name in [name for name in os.environ if name.startswith("AUTOGPT_")]:
        monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AUTOGPT_HOME", str(home / "autogpt"))
    return home / "autogpt"


@pytest.fixture(scope="session")
def packed_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder (``AUTOGPT_DATA``) with a few records of each file."""
    import zstandard

    folder = tmp_path_factory.mktemp("data")
    for place in (Path(__file__).parent / "data").glob("*.jsonl"):
        raw = zstandard.ZstdCompressor().compress(place.read_bytes())
        (folder / f"{place.name}.zst").write_bytes(raw)
    return folder


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small real tokenizer, made like the base model's and prepared like it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from autogpt.llm.tokenizer import prepare_tokenizer

    folder = tmp_path_factory.mktemp("chat")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<repo_name>",
        "<reponame>",
        "<file_sep>",
        "<filename>",
    ]
    calls = [
        f'{{"name":"{name}","arguments":{{"{key}":"{word} {number}","{key}s":[["{word}","="]]}}}} tool_call'
        for name in ("tables.query", "tables.describe", "files.read", "calculator", "finish", "plan")
        for key in ("select", "where", "answer", "expression", "path")
        for word, number in (
            ("nationality", 12),
            ("player", 7),
            ("the answer is", 304),
            ("caf\u00e9 \u4e2d\u6587", 5),
        )
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(calls, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    prepare_tokenizer(folder)
    return folder
