"""Grammars: from the calls allowed now to the tokens allowed next.

A grammar accepts one tool call in compact JSON whose arguments fit the named
call's schema, then the end of the message. llguidance does the work; this module writes its input
(framing tokens by id, schemas as ``%json``), bounds every schema, caches compiled grammars, and
tokenises a known text the way the engine would produce it (:func:`teacher_ids`) for training data. So
a malformed or schema-invalid call cannot be generated; one cut off by the token limit can, and counts
as invalid. Where a model goes round in a circle the engine ends the string (:meth:`Matcher.closer`).

Limits: property order is the schema's order; ``oneOf`` is treated as ``anyOf``; a string cannot
hold the DEL character.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...schemas import GrammarError, bound_schema
from ..message import CallSpec, ToolCall
from .tokenizer import CALL_CLOSE, CALL_OPEN, ChatTokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, TokenizerWrapper

__all__ = [
    "Grammar",
    "GrammarCompiler",
    "GrammarError",
    "Matcher",
    "NotAllowed",
    "mark_forced",
    "parse_call",
    "teacher_ids",
]


class NotAllowed(GrammarError, ValueError):
    """A known text that the grammar does not allow."""


_CACHED = 512
"""Compiled grammars kept; each is some hundred kilobytes."""
_IN_STRINGS = r'[^"\\\x00-\x1F\x7F]{1,30}'
"""Tokens that may follow anywhere in a string with 30 letters of room: their mask is made once. Of the four
such sets that llguidance proposes this one alone gives masks as fast, and is made in a sixth of the time."""
_COMPACT = {
    "whitespace_flexible": False,
    "item_separator": ",",
    "key_separator": ":",
    "coerce_one_of": True,
}


def parse_call(text: str) -> tuple[ToolCall | None, str | None]:
    """Read the call in an assistant's text: ``(call, None)``, or ``(None, what is wrong)``."""
    _, opened, rest = text.partition(CALL_OPEN)
    body, closed, after = rest.rpartition(CALL_CLOSE)
    if not opened or not closed:
        return None, "no complete <tool_call>...</tool_call> in the answer"
    if after.strip():
        return None, "text after the tool call"
    try:
        data = json.loads(body)
    except ValueError as error:
        return None, f"the call is not JSON: {error}"
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        return None, "the call has no name"
    arguments = data.get("arguments", {})
    if not isinstance(arguments, dict):
        return None, "the call's arguments are not an object"
    return ToolCall(data["name"], arguments), None


class GrammarCompiler:
    """Compiles grammars for one tokenizer, cached by the hash of what they allow."""

    def __init__(self, tokenizer: ChatTokenizer, n_vocab: int | None = None) -> None:
        """Prepare for ``tokenizer``; ``n_vocab`` is the model's (possibly padded) vocabulary size."""
        from llguidance import LLTokenizer

        self.tokenizer = tokenizer
        self.n_vocab = max(n_vocab or 0, tokenizer.vocab_size)
        # the grammar contains the end of a message as a token of its own; llguidance is given another
        # end token, since it would add its own to masks and omit it from forced runs
        others = [i for i in tokenizer.stop_ids if i != tokenizer.eos_id]
        eos = others[0] if others else tokenizer.eos_id
        vocabulary = _vocabulary(tokenizer, eos, self.n_vocab) or tokenizer.json
        self.ll = LLTokenizer(vocabulary, n_vocab=self.n_vocab, eos_token=eos, slices=[_IN_STRINGS])
        self.marks = (self._only('"'), self._only("a"))
        self._cache: OrderedDict[str, Grammar] = OrderedDict()
        self._lock = threading.Lock()

    def _only(self, text: str) -> int | None:
        """Return the id that is ``text`` alone, if there is one."""
        ids = self.ll.tokenize_bytes(text.encode())
        return int(ids[0]) if len(ids) == 1 else None

    def compile(self, calls: Sequence[CallSpec]) -> Grammar:
        """Return the grammar of one call among ``calls``.

        Raises GrammarError if there is no call, a name occurs twice, or a schema is unsupported or
        unsatisfiable.
        """
        key = _hash(calls)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        grammar = self._compile(calls)
        with self._lock:
            self._cache[key] = grammar
            if len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        return grammar

    def _compile(self, calls: Sequence[CallSpec]) -> Grammar:
        from llguidance import LLMatcher

        names = [call.name for call in calls]
        if not names:
            raise GrammarError("no call is allowed here, so there is nothing to say")
        if len(set(names)) < len(names):
            raise GrammarError(f"the same call is allowed twice: {', '.join(sorted(names))}")
        source = LLMatcher.grammar_from_lark(self.lark(calls))
        prototype = LLMatcher(self.ll, source, log_level=0)
        if prototype.is_error():
            raise GrammarError(self._blame(calls, prototype.get_error()))
        return Grammar(self, prototype)

    def _blame(self, calls: Sequence[CallSpec], error: str) -> str:
        """Name the call whose schema does not compile."""
        from llguidance import LLMatcher

        for call in calls:
            schema = {"x-guidance": _COMPACT, **bound_schema(call.parameters)}
            source = LLMatcher.grammar_from_lark(f"start: %json {json.dumps(schema)}")
            failed, messages = LLMatcher.validate_grammar_with_warnings(source, self.ll)
            if failed:
                line = " ".join(messages[0].split()).partition(" 1 | ")[0]
                reason = line.partition("failed to compile JSON schema: ")
                return f"the schema of the call {call.name!r}: {reason[2] or reason[0]}"
        return f"the grammar does not compile: {error.splitlines()[0]}"

    def lark(self, calls: Sequence[CallSpec]) -> str:
        """Write the grammar in llguidance's Lark dialect."""
        lines = [
            f"start: {self._mark(CALL_OPEN)} call {self._mark(CALL_CLOSE)} <[{self.tokenizer.eos_id}]>"
        ]
        lines.append("call: " + " | ".join(f"call_{i}" for i in range(len(calls))))
        for i, call in enumerate(calls):
            head = f'{{"name":{json.dumps(call.name, ensure_ascii=False)},"arguments":'
            schema = {"x-guidance": _COMPACT, **bound_schema(call.parameters)}
            lines.append(f'call_{i}: {json.dumps(head, ensure_ascii=False)} arguments_{i} "}}"')
            lines.append(f"arguments_{i}: %json {json.dumps(schema, ensure_ascii=False)}")
        return "\n".join(lines) + "\n"

    def _mark(self, token: str) -> str:
        single = self.tokenizer.single(token)
        return json.dumps(token) if single is None else f"<[{single}]>"


def _vocabulary(tokenizer: ChatTokenizer, eos: int, n_vocab: int) -> TokenizerWrapper | None:
    """Return a vocabulary of bytes as llguidance takes it, which would else parse a tokenizer of its own."""
    tokens = tokenizer.token_bytes()
    if tokens is None:
        return None
    from llguidance import TokenizerWrapper

    tokens += [b""] * (n_vocab - len(tokens))
    return TokenizerWrapper(_Bytes(tokenizer, tokens, eos))


class _Bytes:
    """What a ``TokenizerWrapper`` asks for."""

    bos_token_id = None

    def __init__(self, tokenizer: ChatTokenizer, tokens: list[bytes], eos: int) -> None:
        self.tokens, self.eos_token_id = tokens, eos
        self.special_token_ids = [i for i in range(tokenizer.vocab_size) if tokenizer.is_added(i)]
        self._plain = tokenizer.plain

    def __call__(self, text: str | bytes) -> list[int]:
        return list(self._plain(text.decode() if isinstance(text, bytes) else text))


class Grammar:
    """A compiled grammar; :meth:`matcher` starts a new output."""

    def __init__(self, compiler: GrammarCompiler, prototype: LLMatcher) -> None:
        self.compiler = compiler
        self._prototype = prototype

    def matcher(self) -> Matcher:
        """Return a matcher at the start of an output."""
        return Matcher(self._prototype.deep_copy(), self.compiler.n_vocab, self.compiler.marks)


class Matcher:
    """The state of a grammar along one output."""

    def __init__(self, ll: LLMatcher, n_vocab: int, marks: tuple[int | None, int | None]) -> None:
        """``marks``: the ids that are a quotation mark and a letter; for :meth:`closer`."""
        self._ll = ll
        self._marks = marks
        self._mask = np.zeros((1, (n_vocab + 31) // 32), dtype=np.int32)

    def forced(self) -> list[int]:
        """Return the ids that must come next (maybe none); the state does not change."""
        return list(self._ll.compute_ff_tokens())

    def bitmask(self) -> NDArray[np.int32]:
        """Return the allowed next ids, ``[ceil(V / 32)]`` words, one bit each, least significant first.

        The array is this matcher's own and is overwritten by the next call.
        """
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._ll, self._mask, 0)
        mask: NDArray[np.int32] = self._mask[0]
        return mask

    def must(self) -> list[int]:
        """Return :meth:`forced`, or the only id that the mask allows: what the engine appends unsampled."""
        run = self.forced()
        if run:
            return run
        mask = self.bitmask().view(np.uint32)
        words = np.flatnonzero(mask)
        word = int(mask[words[0]]) if len(words) == 1 else 0
        return [int(words[0]) * 32 + word.bit_length() - 1] if word.bit_count() == 1 else []

    def consume(self, token: int) -> bool:
        """Advance by one id; False if it is not allowed (the matcher is then of no further use)."""
        return bool(self._ll.consume_token(token))

    def validate(self, ids: Sequence[int]) -> int:
        """Return how many of ``ids`` could follow; the state does not change."""
        return int(self._ll.validate_tokens(list(ids)))

    def closer(self) -> int | None:
        """Return the id that ends the string that is being written; None if none may end here.

        Where it goes on a letter may follow too; where it only begins, just one of the two.
        """
        quote, letter = (
            token if token is not None and self.validate([token]) else None for token in self._marks
        )
        return None if letter is None else quote

    def done(self) -> bool:
        """Return True when the output is complete and nothing more may follow."""
        return bool(self._ll.is_stopped() and not self._ll.is_error())

    def rollback(self, count: int) -> None:
        """Undo the last ``count`` ids."""
        self._ll.rollback(count)


def mark_forced(grammar: Grammar, ids: Sequence[int]) -> list[bool] | None:
    """Say which of ``ids`` the engine would have appended without sampling.

    None if the ids are not a complete output of this grammar, or differ from what it forces.
    """
    matcher = grammar.matcher()
    marks: list[bool] = []
    while len(marks) < len(ids):
        run = matcher.must()
        step = run or [ids[len(marks)]]
        if list(ids[len(marks) : len(marks) + len(step)]) != step:
            return None
        if not all(matcher.consume(token) for token in step):
            return None
        marks.extend([bool(run)] * len(step))
    return marks if matcher.done() else None


def teacher_ids(grammar: Grammar, call_text: str) -> tuple[list[int], list[bool]]:
    """Return ``(ids, forced)`` of ``call_text`` as the engine would produce it, end included.

    Forced tokens are taken where the grammar has them, elsewhere the next token of the remaining text's
    own tokenisation. Raises NotAllowed if the text is not in the language.
    """
    text = _Text(grammar.compiler, call_text)
    matcher = grammar.matcher()
    ids: list[int] = []
    forced: list[bool] = []
    while not text.finished():
        run = matcher.must()
        for token in run or [text.peek()]:
            if not text.take(token) or not matcher.consume(token):
                raise NotAllowed(f"not a call the grammar allows: {call_text!r}, from {text.rest()!r}")
            ids.append(token)
            forced.append(bool(run))
    if not matcher.done():
        raise NotAllowed(f"an incomplete call: {call_text!r}")
    return ids, forced


class _Text:
    """A target text as bytes and framing ids, consumed token by token."""

    def __init__(self, compiler: GrammarCompiler, call_text: str) -> None:
        self._compiler = compiler
        self._queue = list(compiler.tokenizer.assistant_ids(call_text))
        self._units = [unit for token in self._queue for unit in self._units_of(token)]
        self._at = 0

    def finished(self) -> bool:
        return self._at == len(self._units)

    def peek(self) -> int:
        """Return the next id of the remaining text's tokenisation."""
        if not self._queue:
            self._queue = self._tokenise()
        return self._queue[0]

    def take(self, token: int) -> bool:
        """Consume ``token``; False if the text continues differently."""
        units = self._units_of(token)
        if self._units[self._at : self._at + len(units)] != units:
            return False
        self._at += len(units)
        self._queue = self._queue[1:] if self._queue[:1] == [token] else []
        return True

    def rest(self) -> str:
        """Return the remaining text, for error messages."""
        return bytes(unit for unit in self._units[self._at :] if unit < 256).decode(errors="replace")

    def _units_of(self, token: int) -> list[int]:
        """Return the bytes of an id, or [256 + id] for a framing token."""
        if self._compiler.tokenizer.is_added(token):
            return [256 + token]
        return list(self._compiler.ll.decode_bytes([token]))

    def _tokenise(self) -> list[int]:
        """Tokenise the remaining bytes up to the next framing id, from a character's start."""
        rest = self._units[self._at :]
        if rest[0] >= 256:
            return [rest[0] - 256]
        end = next((i for i, unit in enumerate(rest) if unit >= 256), len(rest))
        span = bytes(rest[:end])
        broken = next((i for i, byte in enumerate(span) if byte & 0xC0 != 0x80), len(span))
        if broken:  # a forced run ended inside a character: finish it before tokenising text
            return list(self._compiler.ll.tokenize_bytes(span[:broken]))
        return list(self._compiler.tokenizer.plain(span.decode()))


def _hash(calls: Sequence[CallSpec]) -> str:
    listed: list[Any] = [[call.name, call.parameters] for call in calls]
    return hashlib.sha256(json.dumps(listed, ensure_ascii=False).encode()).hexdigest()
