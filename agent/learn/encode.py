"""From a run's events to what is trained on: its token ids exactly as they were served, and their masks.

Only tokens that the model itself chose carry loss: prompts, tool results and the tokens that the grammar
left no choice about do not, and neither do turns that went wrong (an invalid, failed or refused call), so
that a mistake inside a success is not taught. What a tool or a file said is context and never a target.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..record.events import ConversationFolded, Event, ModelTurn, ToolOutcome
from ..record.transcript import messages

if TYPE_CHECKING:
    from ...llm.text.tokenizer import ChatTokenizer


@dataclass(frozen=True)
class Encoded:
    """A run as token ids. The three sequences have the same length."""

    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    """True where the token carries loss."""
    logprobs: tuple[float, ...]
    """Natural logarithm of the probability at which a token was sampled; 0 where the mask is False."""
    prefix: int
    """How many of the first ids are the system message, which many runs share."""

    def record(self, kind: str) -> dict[str, Any]:
        """Return the run as a line of a training file (``llm/training/data.py``)."""
        return sample_record(self.ids, self.mask, self.prefix, kind)


def sample_record(ids: Sequence[int], mask: Sequence[bool], prefix: int, kind: str) -> dict[str, Any]:
    """Return a line of a training file, as ``llm/training/data.py`` reads it."""
    return {"ids": list(ids), "mask": [int(learned) for learned in mask], "prefix": prefix, "kind": kind}


def encode_run(tokenizer: ChatTokenizer, events: Sequence[Event], unlearned: Collection[int] = ()) -> Encoded:
    """Encode the whole run; ``unlearned`` are turns (counted from 0) whose tokens carry no loss.

    Raises ValueError where the record does not hold every turn's tokens as they stand in the prompt: a
    model that does not own its tokens, or a conversation that was folded.
    """
    if any(isinstance(event, ConversationFolded) for event in events):
        raise ValueError("the conversation was folded")
    conversation = messages(events)
    encoded = tokenizer.encode_messages(conversation, continue_assistant=False)
    turns = [event for event in events if isinstance(event, ModelTurn)]
    marks = [
        (not forced and number not in unlearned, logprob)
        for number, turn in enumerate(turns)
        for forced, logprob in zip(turn.forced, turn.logprobs, strict=True)
    ]
    said = [place for place, value in enumerate(encoded.mask) if value]
    if len(said) != len(marks) or not all(turn.ids for turn in turns):
        raise ValueError(f"{len(said)} tokens of the model but {len(marks)} marks")
    mask, logprobs = [False] * len(encoded.ids), [0.0] * len(encoded.ids)
    for place, (learned, logprob) in zip(said, marks, strict=True):
        mask[place] = learned
        logprobs[place] = logprob if learned else 0.0
    prefix = len(tokenizer.encode_messages(conversation[:1], continue_assistant=False).ids)
    return Encoded(tuple(encoded.ids), tuple(mask), tuple(logprobs), prefix)


def wrong_turns(events: Sequence[Event]) -> tuple[int, ...]:
    """Return which turns (counted from 0) were no valid call, or one that failed or was refused."""
    found: set[int] = set()
    number = -1
    for event in events:
        if isinstance(event, ModelTurn):
            number += 1
            if event.call is None:
                found.add(number)
        elif isinstance(event, ToolOutcome) and event.by == "model" and event.state != "done":
            found.add(number)
    return tuple(sorted(found))
