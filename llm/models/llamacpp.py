"""A GGUF file run by llama.cpp, behind the same interface as our engine.

For what our engine does not compute or cannot hold: any architecture that llama.cpp knows, at the width
of the file. It comes in the wheel ``xllamacpp`` (the extra ``gguf``). Prompts go in as our token ids and
calls as our grammar's own text, which llama.cpp's llguidance compiles; its ids come back, so a turn has the
same parts as a local one and keeps the same promise: a call that was not cut off is allowed and fits its
schema.

Limits: prompts are answered one after another, in one slot that keeps the longest common prefix of the last
one; what the grammar forces is computed token by token; probabilities are known for the best
:data:`RANKED` tokens of a place; of a character in several tokens llama.cpp names the last one, and the
others are read off its bytes (with probability 1); no adapters, no candidates (``Sampling.best_of``), no
value head.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import json
import logging
import math
import os
import secrets
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import ModelUnavailable, UserError
from ...text import Prompting
from ..gguf.header import fingerprint, is_gguf, read_header
from ..gguf.known import is_known
from ..gguf.shape import MODEL_TYPES, VOCABULARY
from ..message import Message, OnText, Prompt, Sampling, Turn
from ..text.grammar import GrammarCompiler, Matcher, parse_call
from ..text.tokenizer import ChatTokenizer
from .token_budget import ledger, overflow

log = logging.getLogger(__name__)

CONTEXT = 8192
"""Most tokens of a prompt and its answer: keys and values of a model with 8B parameters take 1 GB then."""
BATCH = 256
"""Prompt tokens of a forward."""
RANKED = 40
"""Tokens whose probability is asked for at each place."""
WORTH_SAVING = 64
"""System messages of fewer tokens are not kept on disk."""
MOST_SAVED = 8
"""System messages that a folder keeps: the last ones used."""
KEPT_MIB = 256
"""Most memory for the keys and values of prompts that another prompt has displaced."""


def only_llamacpp_runs(path: Path, cache_dir: Path | None = None) -> bool:
    """Say whether ``path`` is a GGUF file whose architecture our engine does not compute.

    What ``cache_dir`` knows of a file that our engine has opened saves reading it.
    """
    if not is_gguf(path) or is_known(path, cache_dir):
        return False
    return read_header(path, VOCABULARY).architecture not in MODEL_TYPES


def llamacpp_could_run(path: Path) -> bool:
    """Say whether ``path`` is a GGUF file and llama.cpp is installed."""
    return is_gguf(path) and importlib.util.find_spec("xllamacpp") is not None


class LlamaCppModel:
    """A GGUF file in a llama.cpp server of this process."""

    prompting: Prompting = "teaching"

    def __init__(
        self,
        server: Any,
        tokenizer: ChatTokenizer,
        name: str,
        fingerprint: str,
        context: int = CONTEXT,
        saved: SavedPrefixes | None = None,
    ) -> None:
        """Wrap an ``xllamacpp.Server`` with one slot of ``context`` tokens; :meth:`load` opens one."""
        self._server = server
        self._lock = threading.RLock()
        self._saved = saved
        self.tokenizer = tokenizer
        self.compiler = GrammarCompiler(tokenizer)
        self.name = name
        self.fingerprint = fingerprint
        self.tokenizer_hash = tokenizer.fingerprint
        self.context = context

    @classmethod
    def load(
        cls,
        path: str | Path,
        name: str | None = None,
        threads: int = -1,
        cache_dir: Path | None = None,
    ) -> LlamaCppModel:
        """Open a GGUF file; ``threads`` is at first the number of cores.

        ``cache_dir`` keeps the keys and values of system messages.

        Raises :class:`~autogpt.errors.ModelUnavailable`: no such file, not one that llama.cpp takes, or the
        package is not installed.
        """
        path = Path(path).expanduser()
        header, tokenizer = read_header(path, VOCABULARY), ChatTokenizer(path)
        context = min(CONTEXT, int(header.of("context_length", CONTEXT)))
        key, identity = secrets.token_hex(32), fingerprint(header)
        folder = None if cache_dir is None else cache_dir / "llamacpp"
        server = _serve(path, context, threads, key, folder)
        saved = None if folder is None else SavedPrefixes(server.listening_address, key, folder, identity)
        return cls(server, tokenizer, name or path.stem, identity, context, saved)

    def respond(self, prompts: Sequence[Prompt], on_text: OnText | None = None) -> list[Turn]:
        """Answer each prompt with one of its calls, one prompt after another.

        A single prompt that cannot be served raises :class:`~.token_budget.ContextOverflow` or
        :class:`~autogpt.schemas.GrammarError`; among several it becomes an invalid turn.
        """
        turns = []
        for number, prompt in enumerate(prompts):
            stream = None if on_text is None else lambda piece, number=number: on_text(number, piece)
            try:
                turns.append(self._answer(prompt, stream))
            except UserError as error:
                if len(prompts) == 1:
                    raise
                turns.append(Turn(None, "", invalid=str(error)))
        return turns

    def generate(
        self,
        text: str,
        max_tokens: int = 256,
        sampling: Sampling | None = None,
        system: str | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> str:
        """Answer ``text`` freely, without grammar or tools; greedy unless ``sampling`` says otherwise.

        ``max_tokens`` applies when no ``sampling`` is given.
        """
        messages = [Message("user", text)]
        if system is not None:
            messages.insert(0, Message("system", system))
        chosen = sampling or Sampling(max_tokens=max_tokens)
        answer = self._complete(self._encode(messages), None, chosen, on_text)
        return self.tokenizer.decode(answer.ids)

    def close_session(self, session: str) -> None:
        """Nothing is kept by session: the slot holds the last prompt, whoever asked it."""

    def _answer(self, prompt: Prompt, on_text: Callable[[str], None] | None) -> Turn:
        started = time.perf_counter()
        grammar = self.compiler.compile(prompt.calls)  # llama.cpp ignores a grammar that does not compile
        ids = self._encode(prompt.messages)
        with self._lock:
            self._prepare(prompt.messages)
            answer = self._complete(ids, self.compiler.lark(prompt.calls), prompt.sampling, on_text)
        origins, logprobs = _weigh(grammar.matcher(), answer.places)
        text = self.tokenizer.decode(answer.ids)
        if answer.ids and answer.ids[-1] == self.tokenizer.eos_id:
            call, invalid = parse_call(text)
        else:
            call, invalid = None, "cut by the token limit"
        return Turn(
            call=call,
            text=text,
            ids=tuple(answer.ids),
            origins=origins,
            logprobs=logprobs,
            invalid=invalid,
            prompt_tokens=len(ids),
            cached_tokens=answer.cached,
            seconds=time.perf_counter() - started,
        )

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        ids = self.tokenizer.encode_messages(messages, continue_assistant=True).ids
        if len(ids) >= self.context:
            raise overflow(self.name, self.context - 1, ledger(self.tokenizer, messages))
        return ids

    def _prepare(self, messages: Sequence[Message]) -> None:
        """Have a system message that is new to this process in the slot: from disk, or computed and kept."""
        core = self.tokenizer.encode_messages([m for m in messages[:1] if m.role == "system"]).ids
        if self._saved is not None and len(core) >= WORTH_SAVING and not self._saved.restore(core):
            self._complete(core, None, Sampling(max_tokens=1), None)
            self._saved.save(core)

    def _complete(
        self, ids: list[int], lark: str | None, sampling: Sampling, on_text: Callable[[str], None] | None
    ) -> _Answer:
        """Continue ``ids``. Raises UserError where llama.cpp refuses."""
        request: dict[str, Any] = {
            "prompt": ids,
            "n_predict": min(sampling.max_tokens, self.context - len(ids)),
            "temperature": sampling.temperature,
            "seed": sampling.seed,
            "samplers": ["temperature"],  # nothing else, as in our engine
            "logprobs": RANKED,
            "cache_prompt": True,
            "stream": True,  # by token, and the prompt by batch, so that an interrupt is heard
            "return_progress": True,
        }
        if lark is not None:
            request["grammar"] = f"%llguidance {{}}\n{lark}"
        answer = _Answer(self.compiler, on_text)
        with self._lock:
            self._server.handle_completions(request, answer.take)
        if answer.raised is not None:
            raise answer.raised
        if answer.error:
            raise UserError(f"{self.name} could not answer: {answer.error}")
        return answer


class SavedPrefixes:
    """Keys and values of system messages on disk, written and read by llama.cpp's server.

    A file's name holds what it depends on and its checksum, since llama.cpp notices no altered byte. As with
    our engine's, the folder reveals nothing but the program's own prompts.
    """

    def __init__(self, address: str, key: str, folder: Path, identity: str) -> None:
        """``identity`` is the model's; ``folder`` is the server's own for such files."""
        self._host, self._key = address.removeprefix("http://"), key
        self._folder, self._identity = folder, identity
        self._done: set[str] = set()

    def restore(self, ids: Sequence[int]) -> bool:
        """Put ``ids`` into the slot; True too if this process did that before."""
        name = self._name(ids)
        if name in self._done:
            return True
        for file in self._folder.glob(f"{name}-*.bin"):
            if file.stem.endswith(_checksum(file)) and self._ask("restore", file.name):
                os.utime(file)
                self._done.add(name)
                return True
            file.unlink(missing_ok=True)
        return False

    def save(self, ids: Sequence[int]) -> None:
        """Keep the slot, which begins with ``ids``; a disk that is full costs the file only."""
        name = self._name(ids)
        self._done.add(name)
        part = self._folder / f"{name}.{os.getpid()}.part"
        try:
            if self._ask("save", part.name):
                part.chmod(0o600)
                part.replace(self._folder / f"{name}-{_checksum(part)}.bin")
            kept = sorted(self._folder.glob("*.bin"), key=lambda file: file.stat().st_mtime, reverse=True)
            for file in kept[MOST_SAVED:]:
                file.unlink(missing_ok=True)
        except OSError as problem:
            log.warning("%s: a system message could not be kept (%s)", self._folder, problem)
        finally:
            part.unlink(missing_ok=True)

    def _name(self, ids: Sequence[int]) -> str:
        about = json.dumps([_version(), self._identity, list(ids)])
        return hashlib.sha256(about.encode()).hexdigest()[:32]

    def _ask(self, action: str, name: str) -> bool:
        """Have the server do something with a file of its folder; say whether it did."""
        connection = http.client.HTTPConnection(self._host)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        try:
            connection.request("POST", f"/slots/0?action={action}", json.dumps({"filename": name}), headers)
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def _checksum(file: Path) -> str:
    return f"{zlib.crc32(file.read_bytes()):08x}"


def _version() -> str:
    from importlib.metadata import version

    return version("xllamacpp")


class _Answer:
    """What llama.cpp streams: its tokens with their probabilities, and how much of the prompt was kept."""

    def __init__(self, compiler: GrammarCompiler, on_text: Callable[[str], None] | None) -> None:
        self.ids: list[int] = []
        self.places: list[Mapping[str, Any]] = []
        """By token: ``id``, ``logprob`` and ``top_logprobs`` over the whole vocabulary."""
        self.cached = 0
        self.error = ""
        self.raised: BaseException | None = None
        self._compiler = compiler
        self._on_text = on_text

    def take(self, chunk: Mapping[str, Any]) -> bool:
        """Keep a chunk; True says that no more is wanted. What is raised here would be lost in C++."""
        try:
            self._keep(chunk)
        except BaseException as raised:
            self.raised = raised
        return self.raised is not None

    def _keep(self, chunk: Mapping[str, Any]) -> None:
        if "error" in chunk:
            self.error = str(chunk["error"].get("message", chunk["error"]))
            return
        self.cached = chunk.get("timings", {}).get("cache_n", self.cached)
        choice = chunk["choices"][0]
        for place in (choice["logprobs"] or {}).get("content", ()):
            held = [{"id": token, "logprob": 0.0, "top_logprobs": []} for token in self._held(place)]
            self.places += [*held, place]
            self.ids += [entry["id"] for entry in (*held, place)]
        if self._on_text is not None and choice["text"]:
            self._on_text(choice["text"])


    def _held(self, place: Mapping[str, Any]) -> list[int]:
        """Return the tokens that began a character which this one completes."""
        if self._compiler.tokenizer.is_added(place["id"]):
            return []
        whole, own = bytes(place["bytes"]), bytes(self._compiler.ll.decode_bytes([place["id"]]))
        begun = whole.removesuffix(own)
        return list(self._compiler.ll.tokenize_bytes(begun)) if begun else []


def _weigh(matcher: Matcher, places: Sequence[Mapping[str, Any]]) -> tuple[str, tuple[float, ...]]:
    """Return origins and log-probabilities of tokens, as :class:`~..message.Turn` has them.

    Given are probabilities over the whole vocabulary; those of tokens that the grammar forbids are taken out,
    as far as they are among the best.
    """
    origins, logprobs = "", []
    run: list[int] = []
    for place in places:
        run = run or matcher.must()
        forced = run[:1] == [place["id"]]
        run = run[1:] if forced else []
        if forced:
            logprobs.append(0.0)
        else:
            mask = matcher.bitmask().view("uint32")
            best = ((rival["id"], rival["logprob"]) for rival in place["top_logprobs"])
            may = {token: value for token, value in best if mask[token >> 5] >> (token & 31) & 1}
            may[place["id"]] = place["logprob"]
            most = max(may.values())
            whole = most + math.log(sum(math.exp(value - most) for value in may.values()))
            logprobs.append(min(0.0, place["logprob"] - whole))
        origins += "f" if forced else "s"
        matcher.consume(place["id"])
    return origins, tuple(logprobs)


def _serve(path: Path, context: int, threads: int, key: str, folder: Path | None) -> Any:
    """Start a server on ``path``, which listens on the loopback too, for who has the ``key``.

    It keeps slots in ``folder``.
    """
    try:
        import xllamacpp
    except ImportError:
        architecture = read_header(path, VOCABULARY).architecture
        raise ModelUnavailable(
            f"{path} ({architecture}) needs llama.cpp: run `pip install 'autogpt[gguf]'`"
        ) from None
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.n_batch = context, 1, BATCH
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_ram_mib = KEPT_MIB
    params.api_keys = [key]
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        params.slot_save_path = f"{folder}/"
    params.endpoint_slots = params.ui = False
    params.verbosity = -1
    try:
        return xllamacpp.Server(params)
    except RuntimeError:
        raise ModelUnavailable(f"{path}: llama.cpp cannot load it") from None
