"""From a conversation to token ids and a loss mask: one function for serving and all training.

The format is ChatML with Hermes tool calls, or that of the model's own chat template (:mod:`.chat_format`).
In ChatML each message is ``<|im_start|>role``, a new line, the body, ``<|im_end|>``, a new line. Every piece
is tokenised on its own, so the ids of n messages are a prefix of the ids of n+1: a KV cache stays valid and
masks never shift. Framing ids come only from this module. Text from users, files and tools goes through a
second tokenizer without added tokens, so ``<|im_end|>`` in a web page stays ten harmless characters.

Built on ``tokenizers`` alone, because importing transformers takes seconds. Limits: a framing token
that a model's vocabulary lacks is spelt in ordinary tokens; results of tools are messages of the user in
every format.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ModelUnavailable
from ..gguf.header import is_gguf
from ..gguf.known import vocabulary_of
from ..gguf.vocabulary import Vocabulary
from ..message import Message
from .chat_format import CHATML, ChatFormat, is_chatml, read_template, template_in

if TYPE_CHECKING:
    from tokenizers import Tokenizer

START, END = "<|im_start|>", "<|im_end|>"
CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
RESULT_OPEN, RESULT_CLOSE = "<tool_response>", "</tool_response>"
_RENAMED = {3: CALL_OPEN, 4: CALL_CLOSE, 5: RESULT_OPEN, 6: RESULT_CLOSE}
log = logging.getLogger(__name__)
_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_LETTERS = [*_PRINTED, *range(0x100, 0x100 + 256 - len(_PRINTED))]
"""How byte-level vocabularies write bytes: the printed ones of Latin-1 as themselves, the others in their
order from U+0100 on (GPT-2's ``bytes_to_unicode``)."""
_BYTES = [*_PRINTED, *(byte for byte in range(256) if byte not in _PRINTED)]
_CALL = re.compile(r"([^<]*)<tool_call>(.*)</tool_call>", re.DOTALL)


@dataclass(frozen=True)
class Encoded:
    """A rendered conversation: ``mask[i]`` is True where ``ids[i]`` was said by the assistant."""

    ids: list[int]
    mask: list[bool]


class ChatTokenizer:
    """The tokenizer of a model folder or GGUF file together with our chat format."""

    def __init__(self, folder: Path, cache_dir: Path | None = None) -> None:
        """Read ``folder/tokenizer.json`` or a GGUF file; ModelUnavailable if that is missing or broken.

        ``cache_dir`` keeps what is read of a GGUF file.
        """
        from tokenizers import Tokenizer

        folder = Path(folder)
        found = vocabulary_of(folder, cache_dir) if is_gguf(folder) else None
        path = folder if found else folder / "tokenizer.json"
        try:
            self.json: str = found.json if found else path.read_bytes().decode()
            self._full: Tokenizer = Tokenizer.from_str(self.json)
        except FileNotFoundError:
            raise ModelUnavailable(f"{path}: no such file; a model folder needs a tokenizer.json") from None
        except Exception as error:  # the library raises bare Exception for malformed files
            raise ModelUnavailable(f"{path}: not a readable tokenizer ({error})") from error
        self._plain: Tokenizer = _without_added_tokens(self._full)
        self._added: dict[str, int] = {
            token.content: i for i, token in self._full.get_added_tokens_decoder().items()
        }
        self._added_ids = frozenset(self._added.values())
        self.vocab_size: int = (
            found.size if found else max(self._full.get_vocab(with_added_tokens=True).values()) + 1
        )
        bos, eos = (found.bos, found.eos) if found else _declared(folder)
        self.format: ChatFormat = self._chat_format(folder, found, bos, eos)
        self.eos_id: int = self._eos(folder, eos)
        ends = (self._added[end] for end in (eos, "<|endoftext|>") if end in self._added)
        self.stop_ids: tuple[int, ...] = tuple(sorted({self.eos_id, *ends, *(found.ends if found else ())}))
        answer_end = _first(self.format.ends["assistant"], [*self._added, END]) or ""
        self._ends = {**self.format.ends}
        self._ends["assistant"] = self._ends["assistant"].removeprefix(answer_end)
        self._adds_space = found is not None and found.adds_space
        known = sorted({*self._added, START, END}, key=len, reverse=True)
        self._controls = re.compile(f"({'|'.join(map(re.escape, known))})")
        opening = self.format.headers["assistant"]
        self._lead = opening[len(opening.rstrip(" ")) :] + self.format.lead or self._space_after(opening)
        about = "" if self.format == CHATML else repr(self.format)
        self.fingerprint: str = hashlib.sha256((self.json + about).encode()).hexdigest()
        self.framing = lru_cache(maxsize=64)(self._encode_framing)
        self.plain = lru_cache(maxsize=4096)(self._encode_plain)

    def frame(self, token: str) -> tuple[int, ...]:
        """Return the ids of one framing token: a single id if the vocabulary has it."""
        if token == END:
            return (self.eos_id,)
        return self._ids_of(token) or self.plain(token)

    def single(self, token: str) -> int | None:
        """Return the id of a framing token, or None if the vocabulary lacks it."""
        return self._added.get(token)

    def is_added(self, token_id: int) -> bool:
        """Say whether ``token_id`` is an added (framing or special) token, not ordinary text."""
        return token_id in self._added_ids

    def assistant_ids(self, text: str) -> tuple[int, ...]:
        """Return the ids of an assistant body, the end-of-message token included.

        A body of the form ``thought<tool_call>json</tool_call>`` gets framing ids around the call;
        anything else, markup inside the JSON too, is ordinary text.
        """
        match = _CALL.fullmatch(text)
        if match is None:
            return (*self.plain(self._lead + text), self.eos_id)
        thought, body = match.groups()
        thought = self._lead + thought if thought else ""  # a call alone begins with its mark
        opened, closed = self.frame(CALL_OPEN), self.frame(CALL_CLOSE)
        return (*self.plain(thought), *opened, *self.plain(body), *closed, self.eos_id)

    def encode_messages(self, messages: Sequence[Message], continue_assistant: bool = False) -> Encoded:
        """Return ids and mask of a conversation; with ``continue_assistant`` ready for an answer.

        Assistant messages that carry ``ids`` contribute exactly these. The mask covers assistant
        bodies with their end-of-message token and nothing else.
        """
        ids: list[int] = []
        mask: list[bool] = []

        def add(piece: Iterable[int], said: bool = False) -> None:
            before = len(ids)
            ids.extend(piece)
            mask.extend([said] * (len(ids) - before))

        before = ""
        for message in messages:
            role = self._role(message, before)
            header = self._header(role, before)
            add(self.framing(header.rstrip(" ")))
            if message.role == "assistant":
                add(self.assistant_ids(message.content) if message.ids is None else message.ids, said=True)
            else:
                add(self._quoted(message, header))
            add(self.framing(self._ends[role]))
            before = role
        if continue_assistant:
            add(self.framing(self._header("assistant", before).rstrip(" ")))
        return Encoded(ids, mask)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``; control tokens vanish, tool-call markup stays."""
        text = str(self._full.decode(list(ids), skip_special_tokens=True))
        return text.removeprefix(self._lead)

    def token_bytes(self) -> list[bytes] | None:
        """Return what each token stands for, by id; None where the vocabulary is not one of bytes.

        An added token's own text; empty for an id that has no token.
        """
        if type(self._full.decoder).__name__ != "ByteLevel":
            return None
        import numpy as np

        byte_of = np.full(max(_LETTERS) + 2, -1)
        byte_of[_LETTERS] = _BYTES
        texts = [self._full.id_to_token(i) or "" for i in range(self.vocab_size)]
        for i in self._added_ids:
            texts[i] = ""
        # one letter is one byte; a single long text is translated a hundred times faster than 150,000
        letters = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
        translated = byte_of[np.minimum(letters, len(byte_of) - 1)]
        if (translated < 0).any():
            return None
        joined = translated.astype(np.uint8).tobytes()
        ends = list(accumulate(map(len, texts)))
        found = [joined[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        for text, i in self._added.items():
            found[i] = text.encode()
        return found

    def count(self, text: str) -> int:
        """Return how many tokens ``text`` costs as ordinary text."""
        return len(self.plain(text))

    def _role(self, message: Message, before: str) -> str:
        """Return the role under which a message is framed."""
        late = message.role == "system" and before and self.format.first_user is not None
        return "user" if message.role == "tool" or late else message.role

    def _header(self, role: str, before: str) -> str:
        """Return the text before a body; ``before`` is the role of the message above, "" for none."""
        chat = self.format
        header = chat.headers[role]
        if before == "system" and chat.first_user is not None:  # the user's turn is still open
            return chat.first_user if role == "user" else chat.ends["user"] + header
        return header if before or header.startswith(chat.begin) else chat.begin + header

    def _quoted(self, message: Message, header: str) -> tuple[int, ...]:
        lead = header[len(header.rstrip(" ")) :] or self._space_after(header)
        if message.role != "tool":
            return self.plain(lead + message.content)
        body = self.plain(message.content)
        return (*self.plain(lead), *self.frame(RESULT_OPEN), *body, *self.frame(RESULT_CLOSE))

    def _space_after(self, framing: str) -> str:
        """Return the space that SentencePiece vocabularies put between a control token and text."""
        return " " if self._adds_space and framing.endswith(tuple(self._added)) else ""

    def _encode_framing(self, text: str) -> tuple[int, ...]:
        """Return the ids of what stands around messages; here alone control tokens are read from text."""
        found: list[int] = []
        after = True  # a control token, or nothing
        for number, piece in enumerate(self._controls.split(text)):
            if number % 2:
                found += self.frame(piece)
            elif piece:
                found += self.plain(" " + piece if after and self._adds_space else piece)
            after = bool(number % 2) or (after and not piece)
        return tuple(found)

    def _encode_plain(self, text: str) -> tuple[int, ...]:
        return tuple(self._plain.encode(text, add_special_tokens=False).ids)

    def _ids_of(self, token: str) -> tuple[int, ...]:
        found = self._added.get(token)
        return () if found is None else (found,)

    def _eos(self, folder: Path, declared: str) -> int:
        """Return the id that ends a message: the format's own end token, or the model's eos token."""
        end = _first(self.format.ends["assistant"], self._added)
        found = self._full.token_to_id(declared if end is None else end)
        if found is None:
            raise ModelUnavailable(f"{folder}: the tokenizer has neither {END} nor a declared eos_token")
        return int(found)

    def _chat_format(self, place: Path, found: Vocabulary | None, bos: str, eos: str) -> ChatFormat:
        """Return the format of the model's own template; ChatML where there is none, or none that fits."""
        template = template_in(place) if found is None else found.chat_template
        chosen = CHATML
        if template and not (START in self._added and END in self._added and is_chatml(template)):
            read = read_template(template, bos, eos, list(self._added))
            if read is None:
                log.warning("%s: its chat template cannot be kept append-only; ChatML is used instead", place)
            chosen = read or CHATML
        adds_bos = found is not None and found.adds_bos and not chosen.headers["user"].startswith(bos)
        return replace(chosen, begin=bos) if adds_bos else chosen


def _declared(folder: Path) -> tuple[str, str]:
    """Return the texts of a folder's bos and eos tokens, "" where it declares none."""
    settings = folder / "tokenizer_config.json"
    found: Any = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    tokens = [found.get(name) for name in ("bos_token", "eos_token")]
    bos, eos = (token.get("content") if isinstance(token, dict) else token for token in tokens)
    return bos or "", eos or ""


def _first(text: str, tokens: Iterable[str]) -> str | None:
    """Return the one of ``tokens`` that comes first in ``text``."""
    return min((token for token in tokens if token in text), key=text.index, default=None)


def prepare_tokenizer(folder: Path) -> None:
    """Give the base model's tokenizer our framing tokens, in place (idempotent).

    Four unused special tokens (ids 3 to 6) become the Hermes markers, marked as not special so that
    decoding keeps them: standard Hermes text with one token per marker. Digits are split singly again,
    as in the original SmolLM2; the conversion from GGUF loses that, which changes the ids of runs of
    spaces before a number. The chat template is copied too.
    """
    path = Path(folder) / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = data["model"]["vocab"]
    for token in data["added_tokens"]:
        new = _RENAMED.get(token["id"])
        if new is None:
            continue
        vocabulary.pop(token["content"], None)
        vocabulary[new] = token["id"]
        token.update(content=new, special=False, normalized=False, lstrip=False, rstrip=False)
    if "Digits" not in json.dumps(data["pre_tokenizer"]):
        digits = {"type": "Digits", "individual_digits": True}
        data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, data["pre_tokenizer"]]}
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    (Path(folder) / "chat_template.jinja").write_text(chat_template(), encoding="utf-8")


def chat_template() -> str:
    """Return the chat format as a Jinja template, for transformers, vLLM and llama.cpp."""
    return (Path(__file__).parents[2] / "prompts" / "chat_template.jinja").read_text(encoding="utf-8")


def _without_added_tokens(full: Tokenizer) -> Tokenizer:
    """Return a tokenizer of the same vocabulary that reads every marker as ordinary text."""
    from tokenizers import Tokenizer

    plain = Tokenizer(full.model)
    if full.normalizer is not None:
        plain.normalizer = full.normalizer
    if full.pre_tokenizer is not None:
        plain.pre_tokenizer = full.pre_tokenizer
    return plain
