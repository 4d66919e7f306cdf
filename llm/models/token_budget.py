"""The token ledger: what a prompt's tokens are spent on, to say which part is too long.

Five parts, always all of them, and their sum is the prompt's length to the token: ``system`` (the
fixed text), ``tools`` (their lines), ``memory`` (what was recalled), ``history`` (everything up to
the model's last answer) and ``this turn`` (what came after it, and the header of the answer). Which
text inside a message is tools or memory is said by the message (:attr:`~.message.Message.parts`);
such a text is counted as tokenised by itself and the message's remainder goes to its own part, so a
token that straddles a border may be counted on the wrong side of it, never twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...errors import UserError
from ..message import Message
from ..text.tokenizer import ChatTokenizer

PARTS = ("system", "tools", "memory", "history", "this turn")


class ContextOverflow(UserError):
    """A prompt has more tokens than the model can take; ``ledger`` says where they are."""

    def __init__(self, message: str, ledger: Mapping[str, int] | None = None) -> None:
        super().__init__(message)
        self.ledger = dict(ledger or {})


def overflow(model: str, most: int, ledger: Mapping[str, int]) -> ContextOverflow:
    """Return the error that says what a prompt beyond ``most`` tokens is made of."""
    spent = ", ".join(f"{part} {count}" for part, count in ledger.items())
    return ContextOverflow(
        f"the conversation has {sum(ledger.values())} tokens, the model {model} takes at most {most} "
        f"({spent}): give smaller inputs or split the goal",
        ledger,
    )


def ledger(tokenizer: ChatTokenizer, messages: Sequence[Message]) -> dict[str, int]:
    """Return the tokens of each part of a prompt that ends with an answer's header."""
    counts = dict.fromkeys(PARTS, 0)
    answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
    past = answers[-1] if answers else -1
    seen = 0
    for i, message in enumerate(messages):
        until = len(tokenizer.encode_messages(messages[: i + 1]).ids)
        rest, seen = until - seen, until
        for part, text in message.parts:
            count = min(rest, tokenizer.count(text))
            counts[part] += count
            rest -= count
        own = "system" if message.role == "system" else "history" if i <= past else "this turn"
        counts[own] += rest
    counts["this turn"] += len(tokenizer.encode_messages(messages, continue_assistant=True).ids) - seen
    return counts
