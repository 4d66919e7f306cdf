"""What was read of a GGUF file is kept while the file does not change."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support.gguf_files import write_gguf
from support.tiny import tiny_module, tiny_shape
from transformers import Qwen2Config

from autogpt.errors import ModelUnavailable
from autogpt.llm.gguf.known import facts_of, is_known, vocabulary_of
from autogpt.llm.text.tokenizer import ChatTokenizer

CONFIG = Qwen2Config(**tiny_shape(256, width=64))


def made(folder: Path, seed: int = 1, name: str = "m.gguf") -> Path:
    return write_gguf(folder / name, tiny_module(CONFIG, seed))


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    path, cache = made(tmp_path), tmp_path / "cache"
    assert not is_known(path, cache) and not is_known(path, None)
    facts, vocabulary = facts_of(path, cache), vocabulary_of(path, cache)
    assert (facts, vocabulary) == (facts_of(path), vocabulary_of(path))
    state = path.stat()
    path.write_bytes(bytes(state.st_size))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (facts_of(path, cache), vocabulary_of(path, cache)) == (facts, vocabulary)
    assert is_known(path, cache)
    with pytest.raises(ModelUnavailable, match="not a GGUF file"):
        vocabulary_of(path)


def test_a_changed_or_missing_file_is_noticed(tmp_path: Path) -> None:
    path, cache = made(tmp_path), tmp_path / "cache"
    before = facts_of(path, cache)
    shutil.copy(made(tmp_path, 2, "other.gguf"), path)
    os.utime(path, (1, 1))
    assert not is_known(path, cache)
    assert facts_of(path, cache).fingerprint != before.fingerprint
    path.unlink()
    with pytest.raises(ModelUnavailable, match="cannot read"):
        facts_of(path, cache)


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"length": 3, "ends": []}\nabc', b"\xff\xfe"])
def test_a_damaged_copy_is_made_again(tmp_path: Path, damage: bytes) -> None:
    path, cache = made(tmp_path), tmp_path / "cache"
    facts, first = facts_of(path, cache), ChatTokenizer(path, cache)
    for kept in (cache / "gguf").iterdir():
        kept.write_bytes(damage)
    assert facts_of(path, cache) == facts
    again = ChatTokenizer(path, cache)
    assert (again.fingerprint, again.vocab_size) == (first.fingerprint, first.vocab_size)
    assert again.plain("a table of 12 rows") == first.plain("a table of 12 rows")


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    path, cache = made(tmp_path), tmp_path / "cache"
    cache.write_text("in the way")
    assert facts_of(path, cache) == facts_of(path)
    assert vocabulary_of(path, cache) == vocabulary_of(path)
