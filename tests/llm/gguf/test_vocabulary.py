"""Tokenizers from GGUF files: the ids are those of the tokenizer that the file was made from."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.gguf_files import BYTE, CONTROL, NORMAL, UNKNOWN, USER, Vocabulary, read_json, write_gguf
from support.tiny import tiny_module, tiny_shape
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Config

from autogpt.llm.gguf.vocabulary import PRE_TOKENIZERS, read_vocabulary
from autogpt.llm.message import ToolCall
from autogpt.llm.text.grammar import GrammarCompiler
from autogpt.llm.text.tokenizer import ChatTokenizer

MODEL = tiny_module(Qwen2Config(**tiny_shape(64, layers=1, tie_word_embeddings=True)), 1)
ODD = [
    "今天天气如何？请帮我写一篇关于人工智能的文章。",
    "12345 6789 3.14159 ١٢٣ ½ and 1,204.50",
    "def f(x):\n\treturn  x+1  # comment\n\n\nif __name__=='__main__':\r\n  f(2)\r\n",
    "👩‍👩‍👧‍👦🇩🇪 ok ❤️",
    "   leading   and trailing   ",
    "I'm WE'LL they'd O'Neil's",
    "한국어 テスト עברית हिन्दी ไทย",
    '<tool_call>{"name":1}</tool_call><|im_end|> <|im_start|>user',
    "\u3000\u00a0 x\t\t\n \n",
    "",
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CUTS = {
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""The expressions in the published tokenizers of Qwen2 and Llama 3."""


def byte_level(kind: str) -> Tokenizer:
    """Return a small tokenizer of a published kind, trained on the odd texts."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama-bpe"))
    whole = kind in ("gpt-2", "smollm")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=whole)
    cut: pre_tokenizers.PreTokenizer
    if kind in CUTS:
        cut = pre_tokenizers.Split(_expression(CUTS[kind]), "isolated")
    else:
        cut = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = level if kind == "gpt-2" else pre_tokenizers.Sequence([cut, level])
    tokenizer.normalizer = normalizers.NFC() if kind == "qwen2" else None
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(ODD * 3, trainer)
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in ("<tool_call>", "</tool_call>")])
    return tokenizer


def _expression(pattern: str) -> Any:
    from tokenizers import Regex

    return Regex(pattern)


def folder_of(tokenizer: Tokenizer, folder: Path) -> Path:
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    return folder


def pair(kind: str, place: Path) -> tuple[ChatTokenizer, ChatTokenizer]:
    """Return the tokenizer read from a GGUF file and the one read from its source folder."""
    folder = folder_of(byte_level(kind), place / kind)
    source = ChatTokenizer(folder)
    vocabulary = Vocabulary.of(read_json(folder), pre=kind, eos_token_id=source.eos_id, add_bos_token=False)
    path = write_gguf(place / f"{kind}.gguf", MODEL, vocabulary=vocabulary)
    return ChatTokenizer(path), source


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[ChatTokenizer, ChatTokenizer]]:
    place = tmp_path_factory.mktemp("vocabularies")
    return {kind: pair(kind, place) for kind in ("qwen2", "llama-bpe", "smollm", "gpt-2")}


some = st.sampled_from([*ODD, *SPECIAL, " ", "7", "a", "\n"])
letters = st.text(max_size=20) | st.lists(some, max_size=4).map("".join)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(letters)
def test_byte_level_ids_are_those_of_the_source(
    pairs: dict[str, tuple[ChatTokenizer, ChatTokenizer]], text: str
) -> None:
    for found, source in pairs.values():
        assert found.plain(text) == source.plain(text)
        assert found.decode(found.plain(text)) == source.decode(source.plain(text))


def test_control_tokens_are_single_ids_and_never_come_from_text(
    pairs: dict[str, tuple[ChatTokenizer, ChatTokenizer]],
) -> None:
    for found, source in pairs.values():
        for token in (*SPECIAL, "<tool_call>", "</tool_call>"):
            number = source.single(token)
            assert found.single(token) == number is not None
            assert number not in found.plain(f"{token} {token}")
        assert found.eos_id == source.eos_id and found.stop_ids == source.stop_ids
        assert found.decode([found.single("<|im_end|>") or 0]) == ""
        call = ToolCall("finish", {"answer": "café 7"}).text()
        assert found.assistant_ids(call) == source.assistant_ids(call)
        assert found.decode(found.assistant_ids(call)) == call


def test_every_named_pre_tokenizer_keeps_text_whole(tmp_path: Path) -> None:
    document = read_json(folder_of(byte_level("gpt-2"), tmp_path / "source"))
    for name in PRE_TOKENIZERS:
        vocabulary = Vocabulary.of(document, pre=name, eos_token_id=1)
        tokenizer = ChatTokenizer(write_gguf(tmp_path / "m.gguf", MODEL, vocabulary=vocabulary))
        for text in ODD:
            if name != "qwen2":  # which composes its text
                assert tokenizer.decode(tokenizer.plain(text)) == text, name


PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
JOINED = (
    "▁t he ▁the in er ▁a ▁th re ▁in ll ▁▁ ▁▁▁▁ ▁hello he ▁he hell hello 今天 天气 [ INST ] ▁[ ab abc bc "
    "</ s> ▁< / s"
)


def sentence_piece(**other: Any) -> Vocabulary:
    """Return a vocabulary of letters, bytes and pieces with falling scores."""
    single = sorted(set(JOINED.replace(" ", "") + "abcdefghijklmnopqrstuvwxyz<>▁"))
    words = [*dict.fromkeys(piece for piece in JOINED.split() if len(piece) > 1)]
    tokens = [*PIECES, *words, *single]
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * (len(words) + len(single))]
    scores = [0.0] * len(PIECES) + [-float(i) for i in range(len(words) + len(single))]
    settings = {"bos_token_id": 1, "eos_token_id": 2, "add_bos_token": True, **other}
    return Vocabulary(tokens, kinds, scores=scores, model="llama", pre="default", **settings)


def joined_by_score(text: str, vocabulary: Vocabulary) -> list[int]:
    """SentencePiece's rule, slowly: join those neighbours whose union has the best score, and again."""
    assert vocabulary.scores is not None
    score = {
        token: value
        for token, kind, value in zip(vocabulary.tokens, vocabulary.kinds, vocabulary.scores, strict=True)
        if kind == NORMAL
    }
    place = {token: i for i, token in enumerate(vocabulary.tokens)}
    parts = list(text.replace(" ", "▁"))
    while True:
        unions = [(score[a + b], -i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in score]
        if not unions:
            break
        at = -max(unions)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return [
        number
        for part in parts
        for number in ([place[part]] if part in score else [3 + byte for byte in part.encode()])
    ]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    folder = tmp_path_factory.mktemp("pieces")
    return ChatTokenizer(write_gguf(folder / "m.gguf", MODEL, vocabulary=sentence_piece()))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=12) | st.text("the lo▁ab[INST]<s/>今天气", max_size=16))
def test_sentence_pieces_are_joined_by_score(pieces: ChatTokenizer, text: str) -> None:
    ids = pieces.plain(text)
    assert list(ids) == joined_by_score(text, sentence_piece())
    assert not {1, 2} & set(ids)
    assert pieces.decode([*pieces.plain("x"), *ids])[1:] == text.replace("▁", " ")


def test_a_sentence_piece_vocabulary_writes_calls_under_a_grammar(pieces: ChatTokenizer) -> None:
    from autogpt.llm.message import CallSpec

    compiler = GrammarCompiler(pieces, 400)
    schema = {"type": "object", "properties": {"a": {"enum": ["hello the"]}}, "required": ["a"]}
    matcher = compiler.compile([CallSpec("finish", {**schema, "additionalProperties": False})]).matcher()
    ids: list[int] = []
    while not matcher.done():
        run = matcher.must()
        assert run and all(matcher.consume(token) for token in run)
        ids += run
    assert pieces.decode(ids) == ToolCall("finish", {"a": "hello the"}).text()


def test_user_defined_pieces_never_come_from_text_but_spaces_do(tmp_path: Path) -> None:
    vocabulary = sentence_piece()
    kinds = list(vocabulary.kinds)
    for token in ("abc", "▁▁"):
        kinds[list(vocabulary.tokens).index(token)] = USER
    vocabulary.kinds = kinds
    tokenizer = ChatTokenizer(write_gguf(tmp_path / "m.gguf", MODEL, vocabulary=vocabulary))
    assert tokenizer.plain("abc") != (vocabulary.tokens.index("abc"),)
    assert tokenizer.plain("  ") == (vocabulary.tokens.index("▁▁"),)


def test_all_end_tokens_stop(tmp_path: Path) -> None:
    vocabulary = sentence_piece(eot_token_id=1)
    path = write_gguf(tmp_path / "m.gguf", MODEL, vocabulary=vocabulary)
    assert read_vocabulary(path).ends == (1, 2)
    assert ChatTokenizer(path).stop_ids == (1, 2)
