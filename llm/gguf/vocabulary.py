"""The tokenizer of a GGUF file, as the ``tokenizer.json`` that it was converted from.

Two kinds are read: byte-level BPE (``gpt2``) with the pre-tokenizers of :data:`PRE_TOKENIZERS`, and
SentencePiece BPE (``llama``), whose merges follow from the scores of its pieces. The patterns are those
that the models were published with; llama.cpp's converter names them in ``tokenizer.ggml.pre``.
"""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ModelUnavailable
from .header import Header, read_header
from .shape import check_complete

_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = range(1, 7)
"""Kinds of tokens (``tokenizer.ggml.token_type``)."""
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_GPT2 = [r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"]
_QWEN2 = [rf"{_SHORT}|{_WORD}|\p{{N}}|{_REST}"]
_LLAMA3 = [rf"{_SHORT}|{_WORD}|\p{{N}}{{1,3}}|{_REST}"]
_TEKKEN = [
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
]
_OLD = [r"[\p{P}\$\+<=>\^~\|]+", *_GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"]
PRE_TOKENIZERS = {
    "default": _OLD,
    "gpt-2": _GPT2,
    "phi-2": _GPT2,
    "olmo": _GPT2,
    "smollm": [r"\p{N}", *_GPT2],
    "starcoder": [r"\p{N}", *_GPT2],
    "refact": [r"\p{N}", *_GPT2],
    "command-r": [r"\p{N}", *_GPT2],
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "stablelm2": _QWEN2,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "dbrx": _LLAMA3,
    "smaug-bpe": _LLAMA3,
    "tekken": _TEKKEN,
}
"""What cuts text into the pieces that are merged, one expression after another, by the name in the file."""
_WHOLE_WORDS = frozenset({"llama-bpe", "llama3", "llama-v3", "tekken"})
"""Pre-tokenizers of vocabularies in which a piece that is a token is not merged from its letters."""
_COMPOSED = frozenset({"qwen2"})
"""Those of models that read text in Unicode's composed form (NFC)."""


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says about its tokens."""

    json: str
    """The text of a ``tokenizer.json``."""
    size: int
    """One more than the highest id of a token."""
    eos_id: int
    """The token that ends a text or a message."""
    bos: str
    """The text of the token that begins a conversation; "" where there is none."""
    eos: str
    """The text of the end token."""
    adds_bos: bool
    """Whether that token comes first even where the chat template does not write it."""
    adds_space: bool
    """Whether a text that follows a control token is read as if a space stood before it (SentencePiece)."""
    ends: tuple[int, ...]
    """All tokens after which nothing follows."""
    chat_template: str
    """Jinja; "" where there is none."""


def read_vocabulary(path: Path) -> Vocabulary:
    """Read the tokenizer of a GGUF file; raises :class:`~autogpt.errors.ModelUnavailable` if it has none."""
    header = read_header(path)
    check_complete(header, any_shape=True)
    about = header.metadata
    tokens = about.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise ModelUnavailable(f"{path} has no tokenizer: get a file with one, or the Hugging Face folder")
    kind = about.get("tokenizer.ggml.model")
    if kind == "gpt2":
        made = _byte_level(header, tokens)
    elif kind == "llama":
        made = _sentence_piece(header, tokens)
    else:
        raise ModelUnavailable(
            f"{path}: a tokenizer of kind {kind!r} is not supported "
            "(gpt2, byte-level BPE, and llama, SentencePiece, are)"
        )
    bos, eos = (_place(header, f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos"))
    if eos is None:
        raise ModelUnavailable(f"{path}: its tokenizer names no end token (tokenizer.ggml.eos_token_id)")
    others = (_place(header, f"tokenizer.ggml.{name}_token_id") for name in ("eot", "eom"))
    spm = kind == "llama"
    whole = about.get("tokenizer.ggml.pre") in _WHOLE_WORDS
    return Vocabulary(
        json=json.dumps(made, ensure_ascii=False),
        size=1 + max([0, *made["model"]["vocab"].values(), *(token["id"] for token in made["added_tokens"])]),
        eos_id=eos,
        bos="" if bos is None else tokens[bos],
        eos=tokens[eos],
        adds_bos=bos is not None and bool(about.get("tokenizer.ggml.add_bos_token", spm or whole)),
        adds_space=spm and bool(about.get("tokenizer.ggml.add_space_prefix", True)),
        ends=tuple(sorted({eos, *(place for place in others if place is not None)})),
        chat_template=str(about.get("tokenizer.chat_template", "")),
    )


def _place(header: Header, key: str) -> int | None:
    """Return a token id from the metadata; None if it is missing or beyond the vocabulary."""
    found = header.metadata.get(key)
    known = isinstance(found, int) and 0 <= found < len(header.metadata["tokenizer.ggml.tokens"])
    return found if known else None


def _kinds(header: Header, tokens: Sequence[str]) -> Sequence[int]:
    """Return each token's kind."""
    kinds = header.metadata.get("tokenizer.ggml.token_type")
    if kinds is None:
        return [_NORMAL] * len(tokens)
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        raise ModelUnavailable(f"{header.path}: its tokenizer's lists differ in length; fetch it again")
    return kinds


def _byte_level(header: Header, tokens: Sequence[str]) -> dict[str, Any]:
    """Return the ``tokenizer.json`` of a byte-level BPE vocabulary."""
    name = str(header.metadata.get("tokenizer.ggml.pre", "default"))
    patterns = PRE_TOKENIZERS.get(name)
    if patterns is None:
        raise ModelUnavailable(
            f"{header.path}: the pre-tokenizer {name!r} is not supported ({', '.join(PRE_TOKENIZERS)} are)"
        )
    merges = header.metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, list):
        raise ModelUnavailable(f"{header.path}: its tokenizer has no merges; fetch it again")
    kinds = _kinds(header, tokens)
    vocabulary = _texts(tokens, kinds)
    pieces = {token for token, kind in zip(tokens, kinds, strict=True) if kind == _NORMAL}
    pairs = [pair for pair in (merge.split(" ") for merge in merges) if _fits(pair, pieces)]
    cut = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in patterns
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return _document(
        model={"type": "BPE", "vocab": vocabulary, "merges": pairs, "ignore_merges": name in _WHOLE_WORDS},
        added=_added(tokens, kinds),
        normalizer={"type": "NFC"} if name in _COMPOSED else None,
        pre_tokenizer={"type": "Sequence", "pretokenizers": [*cut, byte_level]},
        decoder=byte_level,
    )


def _sentence_piece(header: Header, tokens: Sequence[str]) -> dict[str, Any]:
    """Return the ``tokenizer.json`` of a SentencePiece vocabulary, without the space before a text."""
    scores = header.metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise ModelUnavailable(f"{header.path}: its tokenizer's pieces have no scores; fetch it again")
    kinds = _kinds(header, tokens)
    vocabulary = _texts(tokens, kinds)
    unknown = next((token for token, kind in zip(tokens, kinds, strict=True) if kind == _UNKNOWN), None)
    model = {
        "type": "BPE",
        "vocab": vocabulary,
        "merges": _merges(tokens, kinds, scores),
        "unk_token": unknown,
        "fuse_unk": True,
        "byte_fallback": _BYTE in kinds,
    }
    space = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
    return _document(
        model=model,
        added=_added(tokens, kinds),
        normalizer={"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        pre_tokenizer=None,
        decoder={"type": "Sequence", "decoders": [space, {"type": "ByteFallback"}, {"type": "Fuse"}]},
    )


def _merges(tokens: Sequence[str], kinds: Sequence[int], scores: Sequence[float]) -> list[list[str]]:
    """Return the merges that give what joining the neighbours with the best-scored union would give.

    A pair may merge if its union is a piece; the better the piece's score, the earlier.
    """
    rank = {
        token: (-score, place)
        for place, (token, kind, score) in enumerate(zip(tokens, kinds, scores, strict=True))
        # spaces and line breaks are the only added tokens that text may become
        if kind == _NORMAL or (kind == _USER and not token.strip("\u2581 \n\t"))
    }
    found: list[tuple[tuple[float, int], list[str]]] = []
    for token, order in rank.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in rank and right in rank:
                found.append((order, [left, right]))
    found.sort(key=lambda item: item[0])
    return [pair for _, pair in found]


def _texts(tokens: Sequence[str], kinds: Sequence[int]) -> dict[str, int]:
    """Return the ids by text; unused ones, which only fill the matrix up, have none."""
    found: dict[str, int] = {}
    for place, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind != _UNUSED:
            found.setdefault(token, place)
    return found


def _fits(pair: Sequence[str], pieces: Container[str]) -> bool:
    """Say whether a merge is one: two ordinary pieces whose union is one too, so never a control token."""
    return len(pair) == 2 and pair[0] in pieces and pair[1] in pieces and "".join(pair) in pieces


def _added(tokens: Sequence[str], kinds: Sequence[int]) -> list[dict[str, Any]]:
    """Return the tokens that are never merged from text; control tokens vanish when ids are decoded."""
    return [
        {
            "id": place,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind != _USER,
        }
        for place, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (_CONTROL, _USER, _UNKNOWN)
    ]


def _document(model: dict[str, Any], added: list[dict[str, Any]], **parts: Any) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": parts["normalizer"],
        "pre_tokenizer": parts["pre_tokenizer"],
        "post_processor": None,
        "decoder": parts["decoder"],
        "model": model,
    }
