"""The gate's last look: what is about to be promoted must hold conversations as well as the model in use.

Goals are single; a model that practised them forgot to follow up (17 points of a suite, `LOG.md`), and no
goal of the gate saw it. So sessions that ship beside the gate are held with both models before a promotion,
and only then, for they take a minute or two a model. A session's score is the share of its messages that were
achieved; sessions are what is compared. Scores are kept like the gate's results.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ...tools.registry import Registry
from ..evaluate import statistics as gate
from ..evaluate.suite import converse
from ..goals.load import Conversation, load_conversations
from .gate_play import Played, Side
from .work import Lines, read_lines

SESSIONS = Path(__file__).parent / "held_out" / "sessions.jsonl.zst"
NAME = "conversations"


def shipped_sessions() -> list[Conversation]:
    """Return the sessions that ship for judging."""
    return load_conversations(SESSIONS)


def talk(
    sessions: Sequence[Conversation],
    current: Side,
    candidate: Side,
    registry: Registry,
    folder: Path,
    on_done: Played,
) -> list[gate.Pair]:
    """Hold the sessions with both models; ``folder`` keeps the scores. Returns a pair a session."""
    before, after = (_scores(sessions, side, registry, folder, on_done) for side in (current, candidate))
    return [gate.Pair(one.id, NAME, before[_key(one)], after[_key(one)]) for one in sessions]


def guarded(verdict: gate.Verdict, pairs: Sequence[gate.Pair]) -> gate.Verdict:
    """Return the verdict, turned to ``keep`` where sessions got worse by more than chance explains."""
    row = gate.table(pairs)[0]
    if not row.worse:
        return verdict
    reason = f"{NAME} got worse: {row.current:.0%} to {row.candidate:.0%} of {row.n} sessions' messages"
    return replace(verdict, decision="keep", reason=reason, worse=(*verdict.worse, NAME))


def _scores(
    sessions: Sequence[Conversation], side: Side, registry: Registry, folder: Path, on_done: Played
) -> Mapping[str, float]:
    path = folder / f"talk-{side.fingerprint[:32]}.jsonl"
    known = {row["session"]: float(row["score"]) for row in read_lines(path)}
    missing = [one for one in sessions if _key(one) not in known]
    if not missing:
        return known
    model = side.load()
    with Lines(path) as lines:
        for number, session in enumerate(missing, start=1):
            rows = converse("gate", [session], model, registry).rows
            score = sum(row.status in ("achieved", "answered") for row in rows) / len(rows)
            known[_key(session)] = score
            lines.add({"session": _key(session), "score": score})
            on_done(f"{side.name}, {NAME}", len(sessions) - len(missing) + number, len(sessions))
    return known


def _key(session: Conversation) -> str:
    return hashlib.sha256(session.model_dump_json().encode()).hexdigest()[:32]
