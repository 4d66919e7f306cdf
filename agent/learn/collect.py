"""From journals to experience: which runs may be learned from, and what is still missing.

A run is read when it has events that were not read before; a rating that comes later brings it up again.
It gives nothing, with the reason kept, when the settings or its user do not want it (``consent``), when
anything in it is labelled secret, when it has not ended, when nobody said what it was worth, or when its
model does not own its tokens. In a conversation every message that was answered counts by itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import sqlalchemy as sa

from ...labels import Label
from ...memory.database import events as event_rows
from ...memory.experience import Collected, Experience, Sample, Stats
from ...settings import Settings
from ..record.events import (
    Consent,
    Correction,
    Event,
    MemoryRecalled,
    MemoryWritten,
    ModelTurn,
    PersonAnswered,
    PersonSaid,
    Rating,
    RunEnded,
    RunStarted,
    ToolOutcome,
)
from ..record.journal import is_held
from ..record.rewards import Prices, reward_of, spans
from ..record.store import RunStore
from ..record.transcript import messages

LEAST_GOALS = 20
"""Rewarded goals below which a model would learn the goals by heart, not the work."""

SAID_BY = (RunStarted, PersonSaid, PersonAnswered, Rating, Correction, Consent)
"""Events that name the person who caused them."""

RULES = 1
"""Counts up when this module makes other samples of the same events."""


def collect(store: RunStore, settings: Settings) -> Experience:
    """Read what is new in the journals of ``store`` and return its experience."""
    experience = Experience(store.database)
    prices = Prices.of(settings)
    for run in experience.unread(_reader(prices, settings.learn)):
        live = is_held(store.folder(run))  # before reading, so that no event is missed for good
        experience.put(read_run(store.load(run), prices, live=live, learn=settings.learn))
    return experience


def read_run(events: Sequence[Event], prices: Prices, *, live: bool = False, learn: bool = True) -> Collected:
    """Return what the run that ``events`` record gives; ``learn``: what holds where its user said nothing."""
    started = events[0]
    assert isinstance(started, RunStarted)
    said = next((event for event in reversed(events) if isinstance(event, Consent)), None)
    refused = not (said.learn if said else learn)
    secret = any(label is Label.SECRET for label in _labels(events))
    ended = started.mode == "chat" or any(isinstance(event, RunEnded) for event in events)
    samples: list[Sample] = []
    reason = ""
    if refused:
        reason = "private" if said else "the setting `learn` is off"
    elif secret:
        reason = "holds a secret"
    elif not ended or live:
        reason = "not ended"
    elif not any(isinstance(event, ModelTurn) and event.ids for event in events):
        reason = "no token ids"
    else:
        samples = [sample for span in spans(events) for sample in _samples(events, span, prices)]
        reason = "" if samples else "no reward"
    shown = [spec.model_dump(mode="json") for spec in started.tools]
    return Collected(
        run=started.run,
        # A live conversation may be read again without a new event, once it is closed.
        events=0 if live else len(events),
        reader=_reader(prices, learn),
        reason=reason,
        wording=_wording(events).encode(errors="replace").decode(),  # lone surrogates cannot be stored
        consent="default" if said is None else "given" if said.learn else "refused",
        model=started.model,
        model_hash=started.model_hash,
        tokenizer_hash=started.tokenizer_hash,
        tools_hash=_hash(shown),
        samples=samples,
    )


def _reader(prices: Prices, learn: bool) -> str:
    """Return what changes when runs would be read differently: prices, consent, or these rules."""
    return _hash([RULES, asdict(prices), learn])


def _labels(events: Sequence[Event]) -> Iterator[Label]:
    for event in events:
        if isinstance(event, ToolOutcome | MemoryRecalled | MemoryWritten):
            yield event.label


def _wording(events: Sequence[Event]) -> str:
    """Return the goal's text; of a conversation the first message, so that it is split as one."""
    started = events[0]
    assert isinstance(started, RunStarted)
    if started.mode != "chat":
        return str(started.goal.get("goal", ""))
    return next((event.text for event in events if isinstance(event, PersonSaid)), "")


def _samples(events: Sequence[Event], span: range, prices: Prices) -> Iterator[Sample]:
    """Yield the turns of a goal or message that something was earned with, or that were corrected."""
    started = events[0]
    assert isinstance(started, RunStarted)
    current = [events[place] for place in span]
    reward = reward_of(current, prices)
    fixed = {event.turn: event.chosen for event in current if isinstance(event, Correction)}
    for place in span:
        turn = events[place]
        if not isinstance(turn, ModelTurn) or not turn.ids or (reward is None and place not in fixed):
            continue
        context = [(message.role, message.content) for message in messages(events[:place])]
        yield Sample(
            run=started.run,
            seq=place,
            hash=_hash([started.tokenizer_hash, context, turn.ids]),
            ids=tuple(turn.ids),
            sampled=tuple(not forced for forced in turn.forced),
            logprobs=tuple(turn.logprobs),
            reward=reward.value if reward else None,
            base=reward.base if reward else None,
            source=reward.source if reward else "",
            parts=asdict(reward.parts) if reward else {},
            chosen=fixed.get(place),
        )


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def missing(found: Stats) -> list[str]:
    """Return what would have to be there for a model to learn something, one line each."""
    gaps = []
    if found.train_goals < LEAST_GOALS:
        lack = LEAST_GOALS - found.train_goals
        gaps.append(
            f"{lack} more goals to train on with a reward (of {LEAST_GOALS}): "
            "give goal files a `check`, or rate runs with 'autogpt rate RUN good|bad'"
        )
    if not found.sometimes:
        gaps.append(
            "a goal that is solved sometimes: 'autogpt improve --goals SUITE' tries each several times"
        )
    if found.train_goals == found.goals:
        gaps.append("held-out goals to judge by: run more different goals")
    return gaps


def runs_of(store: RunStore, user: str) -> list[str]:
    """Return the runs that ``user`` began, or rated, corrected, or said anything in; oldest first."""
    kinds = [kind.model_fields["type"].default for kind in SAID_BY]
    query = sa.select(event_rows.c.run, event_rows.c.body).where(event_rows.c.type.in_(kinds))
    with store.database.read() as connection:
        rows = connection.execute(query.order_by(event_rows.c.run)).all()
    return list(dict.fromkeys(row.run for row in rows if json.loads(row.body).get("by") == user))
