"""The interface between the agent and a model: messages, calls, prompts, turns and flows.

It is narrow on purpose. The agent's loop builds a :class:`Prompt` (a conversation, the calls that are
allowed now, how to sample) and a :class:`Model` answers with a :class:`Turn` (one call, with the exact
token ids, their origins and log-probabilities). A local model, a LangChain chat model and the scripted
model for tests all implement it. Nothing here imports torch.

A driver of several goals opens a :class:`Flow` on its model, puts in each goal's prompt when it is due
and takes the turns that are ready. A model that decodes here (:class:`~.models.local.LocalModel`) adds
prompts to the batch under way; any other is asked in rounds, for all prompts that are waiting.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ..text import Prompting

Role = Literal["system", "user", "assistant", "tool"]
OnText = Callable[[int, str], None]
"""Called with a prompt's number and each new piece of its text."""


@dataclass(frozen=True)
class ToolCall:
    """One call as the model said it; ``arguments`` is a JSON object."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """Return the call in Hermes markup with compact JSON, exactly as models are trained to write it."""
        body = {"name": self.name, "arguments": dict(self.arguments)}
        compact = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        return f"<tool_call>{compact}</tool_call>"


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    An assistant message keeps ``ids``, the token ids of its body as the model produced them (without
    the role header, with the end-of-message token), so that its text is never tokenised again.
    """

    role: Role
    content: str
    ids: tuple[int, ...] | None = None
    parts: tuple[tuple[Literal["tools", "memory"], str], ...] = ()
    """Excerpts of ``content`` that the token budget counts separately."""


@dataclass(frozen=True)
class CallSpec:
    """A call that is allowed now: its name and its JSON schema, narrowed to the run's state."""

    name: str
    parameters: Mapping[str, Any]
    description: str = ""
    free_text: bool = False
    """Its argument is free text, such as an article: ended where the tokens run out, not cut off."""


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens. Greedy by default; ``seed`` makes sampling repeatable."""

    temperature: float = 0.0
    seed: int = 0
    max_tokens: int = 2000
    """Most generated tokens, forced ones included; a call cut off by it is invalid, free text is ended. So
    there is room for the longest ordinary call: the grammar bounds each argument, mostly by 400 to 1,000
    characters."""
    best_of: int = 1
    """Candidates per turn, of which the best is kept: the first sampled as specified here, the others
    at random (at temperature 0.7 if this sampling is greedy)."""
    judged: bool = False
    """Whether the model's value head, if any, estimates the chance of success after the turn (with
    several candidates it always does)."""


@dataclass(frozen=True)
class Prompt:
    """A request to a model: answer this conversation with one of ``calls``."""

    session: str
    """The run's name; a model may keep state (a KV cache) under it between turns."""
    messages: tuple[Message, ...]
    calls: tuple[CallSpec, ...]
    sampling: Sampling = Sampling()


@dataclass(frozen=True)
class Turn:
    """A model's answer. Token fields are empty for models that do not own their tokens."""

    call: ToolCall | None
    """The parsed call, or None if the text was not a valid call (then ``invalid`` says why)."""
    text: str
    ids: tuple[int, ...] = ()
    """Generated token ids, the end-of-message token included."""
    origins: str = ""
    """One letter per id: ``s`` sampled, ``c`` copied (a draft token that the model's own choice
    confirmed), ``f`` forced by the grammar (such tokens carry no loss)."""
    logprobs: tuple[float, ...] = ()
    """Per id: natural-log probability under the masked distribution; 0.0 for forced tokens."""
    invalid: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """How many of ``prompt_tokens`` were already in the KV cache."""
    seconds: float = 0.0
    value: float | None = None
    """The value head's estimate, after this turn, of the chance that the run achieves its goal."""

    @property
    def forced(self) -> tuple[bool, ...]:
        """Per id: True where the grammar left no choice."""
        return tuple(origin == "f" for origin in self.origins)

    @property
    def confidence(self) -> float:
        """Mean log-probability of the chosen tokens, 0.0 if there are none."""
        chosen = [p for p, origin in zip(self.logprobs, self.origins, strict=True) if origin != "f"]
        return sum(chosen) / len(chosen) if chosen else 0.0


class Model(Protocol):
    """Anything that can answer prompts. ``respond`` takes several at once and may batch them."""

    name: str
    """For reports and the journal, e.g. ``small`` or ``langchain:openai/gpt-4o``."""
    fingerprint: str
    """Hash of the weights (or a name for remote models); kept in ``run.started``."""
    tokenizer_hash: str
    """Hash of the tokenizer, empty for models that do not own their tokens."""
    prompting: Prompting
    """How it wants to be prompted: decided by its training, never by its callers."""

    def respond(
        self,
        prompts: Sequence[Prompt],
        on_text: OnText | None = None,
    ) -> list[Turn]:
        """Answer each prompt, in order. ``on_text(i, piece)`` streams text as it appears."""
        ...

    def close_session(self, session: str) -> None:
        """Forget the state kept for ``session``."""
        ...


class Flow(Protocol):
    """Prompts under way, numbered by the caller; one per session at a time."""

    def put(self, number: int, prompt: Prompt) -> None:
        """Submit ``prompt``; UserError if this model cannot take it."""
        ...

    def ready(self) -> list[tuple[int, Turn]]:
        """Wait until at least one prompt is answered; return the answers. Empty if none is under way."""
        ...


class Rounds:
    """A flow for models that answer all waiting prompts together.

    A prompt that such a model cannot take is noticed when it is asked: :meth:`ready` raises the error.
    """

    def __init__(self, model: Model, on_text: OnText | None = None) -> None:
        self._model, self._on_text = model, on_text
        self._waiting: list[tuple[int, Prompt]] = []

    def put(self, number: int, prompt: Prompt) -> None:
        """Submit ``prompt`` for the next round."""
        self._waiting.append((number, prompt))

    def ready(self) -> list[tuple[int, Turn]]:
        """Answer all waiting prompts."""
        asked, self._waiting = self._waiting, []
        if not asked:
            return []
        on_text = self._on_text
        renumbered = None if on_text is None else lambda i, piece: on_text(asked[i][0], piece)
        turns = self._model.respond([prompt for _, prompt in asked], renumbered)
        return [(number, turn) for (number, _), turn in zip(asked, turns, strict=True)]


def flow_of(model: Model, on_text: OnText | None = None) -> Flow:
    """Open the model's own flow, or one in rounds."""
    own: Callable[[OnText | None], Flow] | None = getattr(model, "flow", None)
    return Rounds(model, on_text) if own is None else own(on_text)


def why_invalid(call: ToolCall, calls: Sequence[CallSpec]) -> str | None:
    """Return why ``call`` is not one of ``calls`` with arguments of its schema; None if it is.

    Meant for models without a grammar to read: one line that names the argument.
    """
    import jsonschema

    spec = next((spec for spec in calls if spec.name == call.name), None)
    if spec is None:
        allowed = ", ".join(spec.name for spec in calls) or "nothing"
        return f"{call.name} is not allowed now; allowed: {allowed}"
    validator = jsonschema.Draft202012Validator(dict(spec.parameters))
    errors = sorted(validator.iter_errors(dict(call.arguments)), key=lambda error: list(map(str, error.path)))
    if not errors:
        return None
    worst = jsonschema.exceptions.best_match(errors) or errors[0]
    where = "".join(f"[{json.dumps(part)}]" for part in worst.absolute_path)
    return f"{call.name}: arguments{where}: {worst.message[:200]}"
