"""Files that cannot be read: each is refused with one line that says what is wrong and what to do."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from support.gguf_files import Vocabulary, write_gguf
from support.tiny import tiny_module, tiny_shape
from transformers import Qwen2Config

from autogpt.errors import ModelUnavailable
from autogpt.llm.gguf.header import read_header
from autogpt.llm.gguf.vocabulary import read_vocabulary
from autogpt.llm.gguf.weights import read_weights, shape_header
from autogpt.llm.nn.light_loader import light_config, read_light
from autogpt.llm.nn.load import load_model
from autogpt.llm.text.tokenizer import ChatTokenizer

MODEL = tiny_module(Qwen2Config(**tiny_shape(64, layers=1, tie_word_embeddings=True)), 1)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "whole.gguf", MODEL)


def refused(path: Path, about: str) -> None:
    """Check that both model and tokenizer refuse a file in one line."""
    for read in (lambda: load_model(path, "cpu", "float32", light=True), lambda: ChatTokenizer(path)):
        with pytest.raises(ModelUnavailable, match=about) as caught:
            read()
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_file_cut_short_at_any_place_is_refused(whole: Path, tmp_path: Path) -> None:
    data = whole.read_bytes()
    path = tmp_path / "cut.gguf"
    for length in [6, 20, 60, *range(100, len(data) - 40, len(data) // 12), len(data) - 40]:
        path.write_bytes(data[:length])
        refused(path, "cut short")


def test_what_is_not_there_or_no_gguf_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    with pytest.raises(ModelUnavailable, match="no such file"):
        load_model(path, "cpu", "float32")
    with pytest.raises(ModelUnavailable, match="no such file"):
        ChatTokenizer(path)
    path.write_bytes(b"PK\x03\x04 an archive")
    refused(path, "not a GGUF file")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    refused(path, "Git LFS pointer")
    path.write_bytes(b"")
    refused(path, "not a GGUF file")


def test_other_versions_and_byte_orders_are_refused_by_name(whole: Path, tmp_path: Path) -> None:
    data = whole.read_bytes()
    path = tmp_path / "m.gguf"
    for version in (1, 4):
        path.write_bytes(data[:4] + struct.pack("<I", version) + data[8:])
        refused(path, f"GGUF version {version}")
    write_gguf(path, MODEL, endianess=gguf.GGUFEndian.BIG)
    refused(path, "big-endian")


def of_architecture(name: str, path: Path) -> Path:
    writer = gguf.GGUFWriter(path, name)
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    finish(writer)
    return path


@pytest.mark.parametrize(("architecture", "about"), [("clip", "mmproj"), ("bert", "embedding")])
def test_files_that_hold_no_language_model_are_refused(tmp_path: Path, architecture: str, about: str) -> None:
    refused(of_architecture(architecture, tmp_path / "m.gguf"), about)


def test_an_architecture_that_is_not_computed_here_is_refused_by_name(tmp_path: Path) -> None:
    """Its tokenizer may be read all the same: llama.cpp can run it."""
    with pytest.raises(ModelUnavailable, match=r"falcon.*supported are llama"):
        load_model(of_architecture("falcon", tmp_path / "m.gguf"), "cpu", "float32", light=True)


@pytest.mark.parametrize(
    ("keys", "about"),
    [
        ({"split.count": 3, "split.no": 1}, "part 2 of 3"),
        ({"general.type": "adapter"}, "is an adapter"),
    ],
)
def test_parts_and_adapters_are_refused(tmp_path: Path, keys: dict[str, Any], about: str) -> None:
    refused(write_gguf(tmp_path / "m-00002-of-00003.gguf", MODEL, settings=keys), about)


def test_what_would_be_computed_wrongly_is_refused(tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"qwen2.expert_count": 8}, "expert_count is 8"),
        ({"qwen2.rope.dimension_count": 4}, "dimension_count is 4"),
        ({"qwen2.rope.scaling.type": "longrope", "qwen2.rope.scaling.factor": 2.0}, "longrope"),
    ]
    for keys, about in wrong:
        path = write_gguf(tmp_path / "m.gguf", MODEL, settings=keys)
        with pytest.raises(ModelUnavailable, match=about):
            load_model(path, "cpu", "float32", light=True)
    path = write_gguf(tmp_path / "m.gguf", MODEL, extra={"blk.0.attn_sinks.weight": np.zeros(4, np.float32)})
    with pytest.raises(ModelUnavailable, match="attn_sinks"):
        load_model(path, "cpu", "float32", light=True)


def test_a_missing_tensor_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_tensor("token_embd.weight", np.zeros((4, 8), np.float32))
    for add in (writer.add_context_length, writer.add_block_count, writer.add_feed_forward_length):
        add(1)
    writer.add_embedding_length(8)
    writer.add_head_count(1)
    finish(writer)
    with pytest.raises(ModelUnavailable, match="not those of a qwen2 model"):
        load_model(path, "cpu", "float32", light=True)


def test_an_unknown_quantisation_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    kind = gguf.GGMLQuantizationType.IQ2_XXS
    writer.add_tensor("token_embd.weight", np.zeros((4, 66), np.uint8), raw_dtype=kind)
    finish(writer)
    refused(path, "IQ2_XXS.*Q4_K")


def test_a_file_without_a_tokenizer_or_with_an_unknown_one_is_refused(tmp_path: Path) -> None:
    for other, about in [
        (Vocabulary(model="rwkv"), "'rwkv' is not supported"),
        (Vocabulary(pre="falcon"), "pre-tokenizer 'falcon' is not supported"),
        (Vocabulary(eos_token_id=99), "names no end token"),
        (Vocabulary(model="llama"), "no scores"),
        (Vocabulary(kinds=[1, 1]), "differ in length"),
    ]:
        path = write_gguf(tmp_path / "m.gguf", MODEL, vocabulary=other)
        with pytest.raises(ModelUnavailable, match=about):
            ChatTokenizer(path)
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    finish(writer)
    with pytest.raises(ModelUnavailable, match="has no tokenizer"):
        ChatTokenizer(path)


HUGE = 1 << 60


@pytest.mark.parametrize(
    "body",
    [
        struct.pack("<QQ", 0, HUGE),
        struct.pack("<QQ", HUGE, 0),
        struct.pack("<QQ", 0, 1) + struct.pack("<Q", HUGE),
        struct.pack("<QQQ1sIIQ", 0, 1, 1, b"k", 9, 8, HUGE),
        struct.pack("<QQQ1sIIQ", 0, 1, 1, b"k", 9, 5, HUGE),
        struct.pack("<QQQ1sIIQ", 0, 1, 1, b"k", 9, 9, 3) + struct.pack("<IQ", 9, 1) * 3000,
        struct.pack("<QQQ1sI", 0, 1, 1, b"k", 77),
        struct.pack("<QQQ1sIQQIQ", 1, 0, 1, b"t", 2, HUGE, HUGE, 0, 0),
        struct.pack("<QQQ1sIQIQ", 1, 0, 1, b"t", 1, 32, 0, HUGE),
        struct.pack("<QQQ1sI", 1, 0, 1, b"t", 1 << 31),
    ],
)
def test_a_hostile_header_is_refused_and_allocates_nothing(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", 3) + body + bytes(200))
    tracemalloc.start()
    with pytest.raises(ModelUnavailable):
        read_header(path)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_a_header_with_any_byte_changed_is_read_or_refused(whole: Path, tmp_path: Path) -> None:
    data, path = whole.read_bytes(), tmp_path / "m.gguf"
    for place in range(0, read_header(whole).size, 5):
        path.write_bytes(data[:place] + b"\xf7" + data[place + 1 :])
        try:
            read_vocabulary(path)
            config = light_config(path)
            if config is not None:
                read_light(path, config, dict(read_weights(shape_header(path), torch.float32)))
        except ModelUnavailable as error:
            assert "\n" not in str(error)


def finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
