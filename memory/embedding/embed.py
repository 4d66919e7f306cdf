"""Which embedder is in force: the shipped one, a folder with an ONNX model, or any Hugging Face model.

The setting ``embedder`` names it: ``static`` (the table that ships, see :mod:`static`: no download, no
torch), ``minilm`` (all-MiniLM-L6-v2 in 8 bit, fetched once by ``autogpt model fetch minilm``), a folder with
``model.onnx`` and ``tokenizer.json``, or a sentence-transformers or Hugging Face model by folder or
hub name (needs torch at each query). ``none`` is words alone. Every embedder has an id that is kept with
its vectors; another id means that the entries are embedded again (:mod:`reembed`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import AutoGPTError, UserError
from ..entry import Embedder, Vectors
from .static import StaticEmbedder

STATIC, MINILM, NONE = "static", "minilm", "none"
MINILM_FOLDER = "all-minilm-l6-v2-int8"
"""Name of the fetched folder under ``home/models``."""
MOST_TOKENS = 256
_BATCH = 16


class EmbedderUnavailable(UserError):
    """The embedder that the settings name cannot be loaded; the message says what to do."""

    exit_code = 2


def load(name: str, home: Path) -> Embedder | None:
    """Return the embedder of the setting ``name``; None for ``none``.

    Raises :class:`EmbedderUnavailable` when its files are missing, damaged, or need a network.
    """
    if name == NONE:
        return None
    if name == STATIC:
        return StaticEmbedder()
    folder = home / "models" / MINILM_FOLDER if name == MINILM else Path(name).expanduser()
    if (folder / "model.onnx").is_file():
        return OnnxEmbedder(folder)
    if name == MINILM:
        raise EmbedderUnavailable(
            "the embedder minilm is not on this machine; fetch it with `autogpt model fetch minilm`, "
            "or set embedder = static"
        )
    return TransformersEmbedder(name)


def load_or_words(name: str, home: Path, say: Callable[[str], None]) -> Embedder | None:
    """Return the embedder ``name``, or None after one line to ``say``: words alone are searched then."""
    try:
        return load(name, home)
    except AutoGPTError as problem:
        say(f"memory is searched by words alone: {problem}")
        return None


def by_id(identity: str, home: Path) -> Embedder | None:
    """Return the embedder with this id, or None if it can no longer be loaded."""
    names = (STATIC, MINILM, identity.partition(":")[2])
    for name in names:
        try:
            found = load(name, home) if name else None
        except AutoGPTError:
            continue
        if found is not None and found.id == identity:
            return found
    return None


class OnnxEmbedder:
    """A BERT-like encoder as ``model.onnx`` with its ``tokenizer.json``; mean over tokens, length one.

    Runs on onnxruntime, which Chroma brings; no torch. Texts are cut at :data:`MOST_TOKENS` tokens.
    """

    def __init__(self, folder: Path) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        model = folder / "model.onnx"
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self._session: Any = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
            with model.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except Exception as problem:  # both libraries raise bare Exception for unreadable files
            raise EmbedderUnavailable(f"{folder}: not a usable ONNX embedder ({problem})") from problem
        self._tokenizer.enable_truncation(MOST_TOKENS)
        self._tokenizer.enable_padding()
        self._inputs = {wanted.name for wanted in self._session.get_inputs()}
        self._id = f"onnx:{folder.resolve() if folder.name != MINILM_FOLDER else MINILM}:{digest[:12]}"
        self._dimension = int(self.embed(["a"]).shape[1])

    @property
    def id(self) -> str:
        """Where it is, and the beginning of its file's SHA-256."""
        return self._id

    @property
    def dimension(self) -> int:
        """Width of a vector."""
        return self._dimension

    def embed(self, texts: Sequence[str], query: bool = False) -> Vectors:
        """Return vectors ``[n, dimension]``; questions and passages are treated alike."""
        return _in_batches(texts, self._embed)

    def _embed(self, texts: Sequence[str]) -> Vectors:
        read = self._tokenizer.encode_batch(list(texts))
        ids = np.array([text.ids for text in read], np.int64)
        mask = np.array([text.attention_mask for text in read], np.int64)
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (states, *_) = self._session.run(None, {name: given[name] for name in self._inputs})
        return _pooled(states, mask)


class TransformersEmbedder:
    """A sentence-transformers or Hugging Face encoder by folder or hub name; loads torch.

    Pooling (mean, or the first token) and the prompts before questions and passages are taken from the
    model's sentence-transformers files where it has them; E5 models get theirs by name.
    """

    def __init__(self, name: str) -> None:
        try:
            import torch
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils import logging

            # A bar would be printed among the hits of a search.
            logging.disable_progress_bar()  # type: ignore[no-untyped-call]
            self._torch: Any = torch
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name)
            self._model: Any = AutoModel.from_pretrained(name).eval()
            self._dimension = int(self._model.config.hidden_size)
        except Exception as problem:  # whatever a model's own files or the hub's client raise
            reason = str(problem).strip().partition("\n")[0]
            raise EmbedderUnavailable(
                f"embedder {name}: cannot be loaded ({reason[:200]}); give static, minilm, or a model "
                "that is on this machine"
            ) from problem
        self._id = f"hf:{name}"
        pooling = _side_file(name, "1_Pooling/config.json")
        self._first = bool(pooling.get("pooling_mode_cls_token", False))
        prompts = _side_file(name, "config_sentence_transformers.json").get("prompts") or {}
        known: dict[str, str] = {key: text for key, text in prompts.items() if text}
        if "e5" in Path(name).name.lower().split("-"):
            known = {"query": "query: ", "passage": "passage: "} | known
        self._before = {True: known.get("query", ""), False: known.get("passage", known.get("document", ""))}

    @property
    def id(self) -> str:
        """The model's name."""
        return self._id

    @property
    def dimension(self) -> int:
        """Width of a vector."""
        return self._dimension

    def embed(self, texts: Sequence[str], query: bool = False) -> Vectors:
        """Return vectors ``[n, dimension]``, with the model's own prompt before each text."""
        return _in_batches([self._before[query] + text for text in texts], self._embed)

    def _embed(self, texts: Sequence[str]) -> Vectors:
        given = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt"
        )
        with self._torch.inference_mode():
            states = self._model(**given).last_hidden_state.float().numpy()
        mask = given["attention_mask"].numpy()
        return _unit(states[:, 0]) if self._first else _pooled(states, mask)


def _in_batches(texts: Sequence[str], embed: Callable[[Sequence[str]], Vectors]) -> Vectors:
    """Embed ``texts`` (an empty one as a blank) in batches of like length."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    parts = [(part, embed([texts[i] or " " for i in part])) for part in _parts(order)]
    if not parts:
        return np.zeros((0, 0), np.float32)
    vectors = np.zeros((len(texts), parts[0][1].shape[1]), np.float32)
    for part, made in parts:
        vectors[part] = made
    return vectors


def _parts(order: list[int]) -> Iterator[list[int]]:
    return (order[i : i + _BATCH] for i in range(0, len(order), _BATCH))


def _pooled(states: Any, mask: Any) -> Vectors:
    """Return the mean over each text's tokens, of length one."""
    weights = mask[..., None].astype(np.float32)
    return _unit((states * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1))


def _unit(vectors: Any) -> Vectors:
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return np.asarray(vectors / lengths, np.float32)


def _side_file(name: str, file: str) -> dict[str, Any]:
    """Return a JSON file of the model's repository or folder; empty when it has none."""
    from transformers.utils.hub import cached_file

    found = cached_file(name, file, _raise_exceptions_for_missing_entries=False,
                        _raise_exceptions_for_connection_errors=False)  # fmt: skip
    content: Any = json.loads(Path(found).read_text()) if found else {}
    return content if isinstance(content, dict) else {}
