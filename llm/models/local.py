"""The local model as a model: prompts in, one grammatical call each out, with its exact tokens.

The tokenizer renders the conversation, the grammar compiler turns the allowed calls into masks, the
engine decodes all prompts in one batch, and the text is parsed back into a call. Only a call cut off by
the token limit can be invalid.

Limits: one engine, so calls from several threads take turns; a prompt longer than the model's context
is refused, not shortened (shortening is the transcript's job).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args
from uuid import uuid4

from ...errors import ModelUnavailable, UserError
from ...files import read_object
from ...text import Prompting
from ..message import Message, OnText, Prompt, Sampling, Turn
from ..text.grammar import GrammarCompiler, parse_call
from ..text.tokenizer import CALL_CLOSE, CALL_OPEN, ChatTokenizer
from .best_of import best, candidates
from .token_budget import ContextOverflow, ledger, overflow

if TYPE_CHECKING:
    from torch import Tensor

    from ..engine.engine import Engine, Generated, Request
    from ..engine.value_head import ValueHead
    from ..nn.forward import Forward
    from ..nn.load import LoadedModel

__all__ = ["ContextOverflow", "LocalModel", "OnText"]

log = logging.getLogger(__name__)


class LocalModel:
    """A Hugging Face model on this machine, decoded by our engine under grammars."""

    def __init__(
        self,
        loaded: LoadedModel,
        tokenizer: ChatTokenizer,
        name: str | None = None,
        cache_bytes: int | None = None,
        prompt_cache: Path | None = None,
        forward: Forward | None = None,
        prompting: Prompting = "names",
    ) -> None:
        """Wrap a loaded model.

        ``prompt_cache`` is a folder for the keys and values of system messages; ``forward`` is the
        model's, if it was built already.
        """
        from ..engine.engine import Engine
        from ..kv.prompt_cache import PromptCache

        self.loaded = loaded
        self.tokenizer = tokenizer
        self.prompting = prompting
        self.name = name or Path(loaded.name).name
        self.fingerprint = loaded.fingerprint
        self.tokenizer_hash = tokenizer.fingerprint
        self.context = int(getattr(loaded.config, "max_position_embeddings", 0)) or 1 << 30
        self.compiler = GrammarCompiler(tokenizer, loaded.vocabulary)
        disk = None if prompt_cache is None else PromptCache(prompt_cache, loaded.numerics, loaded.device)
        self.engine: Engine = Engine(loaded, cache_bytes, prompt_cache=disk, forward=forward)
        self.value: ValueHead | None = None
        """Ranks the candidates of a turn (``Sampling.best_of``) by the chance of success; without it
        their mean log-probability does."""

    @classmethod
    def load(
        cls,
        folder: str | Path,
        adapter: str | Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
        cache_dir: Path | None = None,
        name: str | None = None,
    ) -> LocalModel:
        """Load a model folder or hub name, with ``adapter`` (a PEFT folder) merged into it.

        ``cache_dir`` keeps the measurements that choose device and precision, and the keys and values
        of system messages. Raises :class:`~autogpt.errors.ModelUnavailable` or
        :class:`~autogpt.errors.UsageError`.
        """
        from ..nn.load import load_model, locate_model
        from ..nn.precision import PROBE_TEXT, open_packed, pack, settle_precision

        place = locate_model(str(folder))
        # packed weights are mapped, and made ready in the background while the tokenizer is read
        added = None if adapter is None else Path(adapter).expanduser()
        packed = open_packed(place, device, dtype, added, cache_dir)
        tokenizer = ChatTokenizer(place, cache_dir)
        probe = tokenizer.plain(PROBE_TEXT)
        packed = packed or pack(place, device, dtype, added, cache_dir, probe)
        loaded = packed[0] if packed else load_model(place, device, dtype, adapter, cache_dir, light=True)
        if tokenizer.vocab_size > loaded.vocabulary:
            raise ModelUnavailable(
                f"{place}: its tokenizer has {tokenizer.vocab_size} tokens, its weights have rows for "
                f"{loaded.vocabulary}: the files do not belong together; bring the model's own tokenizer.json"
            )
        prompt_cache = None if cache_dir is None else cache_dir / "kv"
        loaded, forward = packed or settle_precision(loaded, probe, cache_dir, release=True)
        name = name or Path(folder).name
        model = cls(
            loaded,
            tokenizer,
            name,
            prompt_cache=prompt_cache,
            forward=forward,
            prompting=prompting_of(place, adapter),
        )
        model.value = None if adapter is None else value_in(Path(adapter), loaded)
        return model

    def respond(self, prompts: Sequence[Prompt], on_text: OnText | None = None) -> list[Turn]:
        """Answer each prompt with one of its calls, all in one batch.

        A single prompt that cannot be served raises :class:`ContextOverflow` or
        :class:`~autogpt.schemas.GrammarError`; in a batch it becomes an invalid turn, so that
        the others are answered.
        """
        turns: list[Turn | None] = [None] * len(prompts)
        flow = self.flow(on_text)
        for i, prompt in enumerate(prompts):
            try:
                flow.put(i, prompt)
            except UserError as error:
                if len(prompts) == 1:
                    raise
                turns[i] = Turn(None, "", invalid=str(error))
        while ready := flow.ready():
            for i, turn in ready:
                turns[i] = turn
        return [turn for turn in turns if turn is not None]

    def flow(self, on_text: OnText | None = None) -> LocalFlow:
        """Open a flow whose prompts join the batch under way."""
        return LocalFlow(self, on_text)

    def states(self, prompts: Sequence[Prompt], turns: Sequence[Turn]) -> Tensor:
        """Return the last hidden state after each turn, ``[n, width]``: the input of a value head.

        Call it right after :meth:`respond`, while the sessions still hold their turns.
        """
        said = [self._encode(p.messages) + list(t.ids) for p, t in zip(prompts, turns, strict=True)]
        return self.engine.last_states([(p.session, ids) for p, ids in zip(prompts, said, strict=True)])

    def pick(self, prompt: Prompt, group: Sequence[Request], answers: Sequence[Generated]) -> Turn:
        """Keep the best of a prompt's candidates, in the prompt's own session."""
        turns = [self._turn(answer) for answer in answers]
        chances = self._chances(prompt, group, turns)
        place = best(turns, chances)
        if place:
            self.engine.fork(group[place].session, prompt.session)
        for request in group[1:]:
            self.engine.forget(request.session)
        value = None if chances is None else chances[place]
        return replace(turns[place], cached_tokens=turns[0].cached_tokens, value=value)

    def _chances(
        self, prompt: Prompt, group: Sequence[Request], turns: Sequence[Turn]
    ) -> list[float | None] | None:
        """Return the value head's chance per candidate, None for invalid ones; None if not asked for."""
        if self.value is None or not (len(group) > 1 or prompt.sampling.judged):
            return None
        valid = [place for place, turn in enumerate(turns) if turn.invalid is None and turn.ids]
        found: list[float | None] = [None] * len(turns)
        if valid:
            said = [(group[i].session, [*group[i].ids, *turns[i].ids]) for i in valid]
            chances = self.value.chances(self.engine.last_states(said), [turns[i] for i in valid])
            for i, chance in zip(valid, chances, strict=True):
                found[i] = chance
        return found

    def generate(
        self,
        text: str,
        max_tokens: int = 2000,
        sampling: Sampling | None = None,
        system: str | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> str:
        """Answer ``text`` freely, without grammar or tools; greedy unless ``sampling`` says otherwise.

        ``max_tokens`` applies when no ``sampling`` is given, and a text that repeats itself may end earlier.
        Raises :class:`ContextOverflow`.
        """
        from ..engine.engine import Request
        messages = [Message("user", text)]
        if system is not None:
            messages.insert(0, Message("system", system))
        ids = self._encode(messages)
        session = f"generate-{uuid4().hex}"
        chosen = sampling or Sampling(max_tokens=max_tokens)
        free = None if sampling else lambda _: True  # what repeats itself is given up
        request = Request(session, ids, None, chosen, frozenset(self.tokenizer.stop_ids), free=free)
        pass_on = None if on_text is None else lambda _, piece: on_text(piece)
        stream = None if pass_on is None else _Stream(self.tokenizer, pass_on, {0: 0})
        try:
            answer = self.engine.generate([request], stream)[0]
        finally:
            self.engine.close(session)
        if answer.error:
            raise UserError(f"{self.name} could not answer: {answer.error}")
        return self.tokenizer.decode(answer.ids)

    def close_session(self, session: str) -> None:
        """Forget the keys and values kept for ``session``."""
        self.engine.close(session)

    def request(self, prompt: Prompt) -> Request:
        """Return the engine's request; UserError if the prompt is too long or the calls have no grammar."""
        from ..engine.engine import Request

        grammar = self.compiler.compile(prompt.calls)
        ids, first = self._encode(prompt.messages), prompt.messages[:1]
        core = len(self.tokenizer.encode_messages([m for m in first if m.role == "system"]).ids)
        long = tuple(
            f'{CALL_OPEN}{{"name":{json.dumps(call.name)},' for call in prompt.calls if call.free_text
        )
        if not long:
            return Request(prompt.session, ids, grammar, prompt.sampling, core=core)

        def free(said: Sequence[int]) -> bool:
            text = self.tokenizer.decode(said)
            return text[max(text.find(CALL_OPEN), 0) :].startswith(long)

        tokenizer = self.tokenizer
        ends = (*tokenizer.plain('…"}}'), *tokenizer.frame(CALL_CLOSE), tokenizer.eos_id)
        return Request(prompt.session, ids, grammar, prompt.sampling, core=core, free=free, ends=ends)

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        ids = self.tokenizer.encode_messages(messages, continue_assistant=True).ids
        if len(ids) >= self.context:
            raise overflow(self.name, self.context - 1, ledger(self.tokenizer, messages))
        return ids

    def _turn(self, answer: Generated) -> Turn:
        """Convert the engine's output."""
        text = self.tokenizer.decode(answer.ids)
        call, invalid = None, answer.error
        if invalid is None and not answer.complete:
            invalid = "cut by the token limit"
        if invalid is None:
            call, invalid = parse_call(text)
        return Turn(
            call=call,
            text=text,
            ids=tuple(answer.ids),
            origins=answer.origins,
            logprobs=tuple(answer.logprobs),
            invalid=invalid,
            prompt_tokens=answer.prompt_tokens,
            cached_tokens=answer.cached_tokens,
            seconds=answer.seconds,
        )


def prompting_of(source: Path, adapter: str | Path | None) -> Prompting:
    """Return how a model wants to be prompted, from the card of its adapter or of its folder.

    A card of before this was kept means a model that was trained on the short prompt; a model without any
    card was not trained by us.
    """
    folder = source if adapter is None else Path(adapter).expanduser()
    card = read_object(folder / "autogpt.json") if folder.is_dir() else {}
    if not card:
        return "teaching" if adapter is None else "names"
    found = card.get("prompting", "names")
    if found not in get_args(Prompting):
        raise ModelUnavailable(f"{folder / 'autogpt.json'}: prompting {found!r} is not known; update AutoGPT")
    return cast(Prompting, found)


def value_in(folder: Path, loaded: LoadedModel) -> ValueHead | None:
    """Return the value head in a folder; one of another model is ignored with a warning."""
    from ..engine.value_head import FILE, ValueHead

    path = folder.expanduser() / FILE
    if not path.exists():
        return None
    try:
        return ValueHead.load(path, loaded.fingerprint, int(loaded.config.hidden_size))
    except ModelUnavailable as error:
        log.warning("%s; until then candidates are ranked without it", error)
        return None


class LocalFlow:
    """A flow on a local model's engine; the candidates of a prompt (``Sampling.best_of``) are batched."""

    def __init__(self, model: LocalModel, on_text: OnText | None = None) -> None:
        self._model, self._on_text = model, on_text
        self._stream = None if on_text is None else _Stream(model.tokenizer, on_text, {})
        self._batch = model.engine.batch(self._stream)
        self._asked: dict[int, _Asked] = {}
        """By the engine's number of each candidate."""

    def put(self, number: int, prompt: Prompt) -> None:
        """Add ``prompt``; raises as :meth:`LocalModel.respond` does for a single one."""
        asked = _Asked(number, prompt, candidates(self._model.request(prompt)))
        for request in asked.group:
            place = self._batch.add(request)
            self._asked[place] = asked
            asked.places.append(place)
        if self._stream is not None and len(asked.group) == 1:
            self._stream.places[asked.places[0]] = number

    def ready(self) -> list[tuple[int, Turn]]:
        """Decode until at least one prompt is answered; return the answered."""
        ready: list[tuple[int, Turn]] = []
        while not ready and self._batch:
            for place, answer in self._batch.finished():
                asked = self._asked.pop(place)
                asked.answers[place] = answer
                if len(asked.answers) < len(asked.group):
                    continue
                answers = [asked.answers[place] for place in asked.places]
                turn = self._model.pick(asked.prompt, asked.group, answers)
                if self._on_text is not None and len(asked.group) > 1:
                    self._on_text(asked.number, turn.text)
                ready.append((asked.number, turn))
        return ready


@dataclass(eq=False)
class _Asked:
    """A prompt under way and the candidates of its turn."""

    number: int
    prompt: Prompt
    group: list[Request]
    places: list[int] = field(default_factory=list)
    answers: dict[int, Generated] = field(default_factory=dict)


class _Stream:
    """Turns new ids into new text, holding back a character until all its tokens are there."""

    def __init__(self, tokenizer: ChatTokenizer, on_text: OnText, places: dict[int, int]) -> None:
        self._tokenizer = tokenizer
        self.places = places
        """From the engine's number to the caller's; other requests are not streamed."""
        self._on_text = on_text
        self._ids: dict[int, list[int]] = {}
        self._said: dict[int, int] = {}

    def __call__(self, index: int, ids: list[int]) -> None:
        if index not in self.places:
            return
        so_far = self._ids.setdefault(index, [])
        so_far.extend(ids)
        text = self._tokenizer.decode(so_far)
        said = self._said.get(index, 0)
        if len(text) > said and not text.endswith("\ufffd"):
            self._said[index] = len(text)
            self._on_text(self.places[index], text[said:])
