"""The words that pass between the loop and a model: messages, calls, prompts and turns.

The seam is narrow on purpose. The loop builds a :class:`Prompt` (a conversation, the calls that
are allowed now, how to sample) and a :class:`Model` answers with a :class:`Turn` (one call, with
the exact token ids, which of them were forced, and log-probabilities). A local model, a LangChain
chat model and the shipped fake are all models. Nothing here imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class ToolCall:
    """One call as the model said it; ``arguments`` is a JSON object."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """Return the Hermes frame with compact JSON, exactly as models are trained to write it."""
        body = {"name": self.name, "arguments": dict(self.arguments)}
        compact = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        return f"<tool_call>{compact}</tool_call>"


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    An assistant message of ours keeps ``ids``, the sampled token ids of its body (without the
    role header, with the end-of-message token), so that text is never tokenised again.
    """

    role: Role
    content: str
    ids: tuple[int, ...] | None = None
    parts: tuple[tuple[Literal["tools", "memory"], str], ...] = ()
    """Excerpts of ``content`` that are a part of their own in the token ledger."""


@dataclass(frozen=True)
class CallSpec:
    """A call that is allowed now: its name and its JSON schema, narrowed to the run's state."""

    name: str
    parameters: Mapping[str, Any]
    description: str = ""


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens. Greedy by default; ``seed`` makes sampling repeatable."""

    temperature: float = 0.0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    max_tokens: int = 400
    """Upper bound of generated tokens, forced ones included; a call cut by it is invalid."""
    best_of: int = 1
    """Candidates per turn, of which the best is taken: the first as this sampling says, the others
    drawn (at temperature 0.7 where this sampling is greedy)."""
    judged: bool = False
    """Ask the model's value head, if there is one, for the chance of success after the turn (with
    several candidates it is asked in any case)."""


@dataclass(frozen=True)
class Prompt:
    """A request to a model: answer this conversation with one of ``calls``."""

    session: str
    """Names the run; a model may keep state (a KV cache) under it between turns."""
    messages: tuple[Message, ...]
    calls: tuple[CallSpec, ...]
    sampling: Sampling = Sampling()


@dataclass(frozen=True)
class Turn:
    """A model's answer. Token fields are empty for models that do not own their tokens."""

    call: ToolCall | None
    """The parsed call, or None when the text was not a valid call (then ``invalid`` says why)."""
    text: str
    ids: tuple[int, ...] = ()
    """Generated token ids, the end-of-message token included."""
    origins: str = ""
    """One letter an id: ``s`` sampled, ``c`` copied (a draft that the model's choice confirmed),
    ``f`` forced by the grammar (such tokens carry no loss)."""
    logprobs: tuple[float, ...] = ()
    """Per id: natural-log probability under the masked distribution; 0.0 for forced tokens."""
    invalid: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """How many of ``prompt_tokens`` were already in the KV cache."""
    seconds: float = 0.0
    value: float | None = None
    """The chance that the run achieves its goal, as the model's value head sees it after this turn."""

    @property
    def forced(self) -> tuple[bool, ...]:
        """Per id: True where the grammar left no choice."""
        return tuple(origin == "f" for origin in self.origins)

    @property
    def confidence(self) -> float:
        """Mean log-probability of the tokens that were chosen, 0.0 where none was."""
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

    def respond(
        self,
        prompts: Sequence[Prompt],
        on_text: Callable[[int, str], None] | None = None,
    ) -> list[Turn]:
        """Answer each prompt, in order. ``on_text(i, piece)`` streams text as it appears."""
        ...

    def close_session(self, session: str) -> None:
        """Forget what is kept for ``session``."""
        ...


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
