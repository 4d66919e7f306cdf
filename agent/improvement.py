"""One improvement, stage by stage: collect, practise, train, gate, decide (see ``improve``).

Each stage begins with what the one before left on disk and ends by naming the next in ``state.json``; a
stage that was killed begins again and finds its own attempts, checkpoint or results where it left them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..memory.experience import Experience
from ..settings import Settings
from . import gate, promotion, selection
from .attempts import Attempt, Practice, rates, read_attempts
from .gate_play import Side, changed, play
from .goal import Goal
from .improve_goals import kept_record, priorities, restored_line
from .improve_machine import Machine
from .improve_state import Lines, State, Work, improvements
from .rewards import Prices
from .runs import RunStore
from .setup import open_registry, open_store
from .survey import survey

if TYPE_CHECKING:
    from ..llm.training.console import Progress

LEAST_KEPT = 8
"""Successes below which nothing is trained."""
SHARES = {"practise": 0.4, "train": 0.35, "gate": 0.25}
"""Of a budget of minutes."""
RATE = 3e-4
"""Peak learning rate of kept-best: an adapter goes on, so less than at its first training."""
EXAMPLES = 12
"""Goals that changed, each way, that the page shows."""

Say = Callable[[str, float | None, str], None]


@dataclass(frozen=True)
class ImproveReport:
    """How an improvement ended."""

    id: str
    decision: str
    """``promoted``, ``kept`` (the old model stays) or ``nothing`` (there was too little to learn from)."""
    reason: str
    parent: str
    version: str
    """The new model's reference, where it was promoted."""
    method: str
    folder: Path
    verdict: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The gate's table; see :class:`~autogpt.agent.gate.Row`."""
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def page(self) -> Path:
        """The HTML page."""
        return self.folder / "index.html"


class Improvement:
    """One walk through the stages, from wherever it stands."""

    def __init__(
        self,
        work: Work,
        settings: Settings,
        machine: Machine,
        goals: Sequence[Goal],
        gate_goals: Sequence[Goal] | None,
        say: Say | None,
    ) -> None:
        self.work = work
        self.state: State = work.state
        self.options = work.state.options
        self.settings = settings
        self.machine = machine
        self.goals = goals
        self.gate_goals = gate_goals
        self.say: Say = say or (lambda text, share, detail: None)
        self.store: RunStore = open_store(settings)
        self.registry = open_registry()
        self.experience = Experience(self.store.database)
        self.seed = self.options.seed + 7919 * (self.state.round - 1)

    def run(self) -> ImproveReport:
        """Walk to the end, and return the report."""
        steps: dict[str, Callable[[], None]] = {
            "collect": self.collect,
            "practise": self.practise,
            "train": self.train,
            "gate": self.gate,
            "decide": self.decide,
        }
        while self.state.stage != "done":
            with self._charged(self.state.stage):
                steps[self.state.stage]()
        self.machine.unload()
        return self.report()

    @contextmanager
    def _charged(self, stage: str) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        finally:
            self.work.charge(stage, time.monotonic() - begun)
            self.work.save()

    def left(self, stage: str) -> float | None:
        """Return the seconds that a stage still has of the budget; None without one."""
        if self.options.budget_minutes is None:
            return None
        share = self.options.budget_minutes * 60 * SHARES[stage]
        return max(0.0, share - self.state.seconds.get(stage, 0.0))

    def collect(self) -> None:
        """Find out what there is, and keep it, so that a resumed improvement has the same."""
        self.say("reading runs", None, "")
        subject = self.machine.subject
        found = survey(self.settings, self.store, subject, self.goals, self.gate_goals, self.seed)
        self.state.method = "sft"
        self.state.fingerprint = self.machine.fingerprint(subject.adapter)
        self.state.facts |= {
            "goals": len(found.drawn.train),
            "own_held_out": len(found.drawn.held_out),
            "dropped": dict(found.drawn.dropped),
            "past_runs": len(found.past),
            "refused": dict(found.refused),
            "tokenizer": found.tokenizer,
        }
        self.work.write("goals.jsonl", map(kept_record, found.drawn.train))
        self.work.write("judging.jsonl", map(kept_record, found.judging))
        self.work.write("past.jsonl", (attempt.row() for attempt in found.past))
        if found.gaps:
            return self.nothing(f"too little to learn from: {'; '.join(found.gaps)}")
        self.work.reach("practise")

    def practise(self) -> None:
        """Try the goals."""
        goals = [restored_line(line) for line in self.work.read("goals.jsonl")]
        left = self.left("practise")
        brain = self.machine.load(self.machine.subject.adapter)
        Practice(
            brain,
            brain.tokenizer,
            self.registry,
            Prices.of(self.settings),
            self.options.attempts,
            self.options.temperature,
            self.options.parallel,
            self.seed,
            None if left is None else time.monotonic() + left,
            lambda tried, solved: self.say(
                "practising",
                min(0.99, tried / (len(goals) * self.options.attempts)),
                f"{tried} tries, {solved / tried:.0%} achieved",
            ),
        ).run(priorities(goals, self.rates(), self.seed), self.work.folder / "attempts.jsonl")
        self.work.reach("train")

    def rates(self) -> dict[str, tuple[int, int]]:
        """Return how often each goal was solved and tried, in past runs and earlier improvements."""
        found = {record.goal: (record.solved, record.attempts) for record in self.experience.goals()}
        for work in improvements(self.settings.home):
            for row in work.read("rates.jsonl"):
                solved, tried = found.get(row["goal"], (0, 0))
                found[row["goal"]] = (solved + row["solved"], tried + row["tried"])
        return found

    def train(self) -> None:
        """Choose the samples and train the candidate on them."""
        if not (self.work.folder / "samples.jsonl").is_file() and not self.choose():
            return
        count = self.state.facts["samples"]
        batch = min(self.options.batch, max(4, count // 12))
        left = self.left("train")
        with Lines(self.work.folder / "curve.jsonl") as curve:

            def show(step: Progress) -> None:
                curve.add({"step": step.step, "loss": step.loss, "mean": step.mean_loss, "done": step.done})
                self.say("training", step.done, f"loss {step.mean_loss:.3f}")

            report = self.machine.finetune(
                show,
                data=[self.work.folder / "samples.jsonl"],
                out=self.work.folder / "train",
                epochs=self.options.epochs,
                minutes=None if left is None else max(left / 60, 0.2),
                batch=batch,
                learning_rate=self.options.learning_rate or RATE,
                seed=self.seed,
            )
        if not report.finished:
            raise KeyboardInterrupt
        self.state.facts |= {"steps": report.steps, "loss": report.loss, "tokens": report.tokens}
        if report.loss != report.loss:
            return self.discard("the training collapsed: its loss is not a number")
        self.work.reach("gate")

    def choose(self) -> bool:
        """Write the training file; returns False where there is too little for one."""
        practised = read_attempts(self.work.folder / "attempts.jsonl")
        past = read_attempts(self.work.folder / "past.jsonl")
        kept = selection.kept_best([*practised, *past], self.options.keep)
        known = self.rates()
        goals = {goal.goal for goal in [*practised, *past]}
        earlier = [
            attempt for attempt in self.earlier() if attempt.goal in goals and attempt.said not in _said(kept)
        ]
        again = selection.draw_buffer(earlier, len(kept), known, self.options.buffer, self.seed)
        wanted = selection.replay_count(len(kept) + len(again), self.options.replay)
        base = selection.replay_samples(self.state.facts["tokenizer"], wanted, self.seed)
        tried = rates(practised)
        self.work.write(
            "rates.jsonl", ({"goal": g, "solved": s, "tried": t} for g, (s, t) in sorted(tried.items()))
        )
        solved = sum(attempt.solved for attempt in practised)
        self.state.facts |= {
            "tries": len(practised),
            "solved_tries": solved,
            "sometimes": sum(0 < s < t for s, t in tried.values()),
            "never": sum(s == 0 for s, _ in tried.values()),
            "kept": len(kept),
            "again": len(again),
            "replayed": len(base),
            "samples": len(kept) + len(again) + len(base),
        }
        if len(kept) < LEAST_KEPT:
            self.discard(f"only {len(kept)} successes to learn from, {LEAST_KEPT} are the least")
            return False
        self.work.write("kept.jsonl", (attempt.row() for attempt in kept))
        self.work.write("samples.jsonl", [*(a.record() for a in [*kept, *again]), *base])
        return True

    def earlier(self) -> list[Attempt]:
        """Return kept successes of earlier improvements with the same tokenizer."""
        found: dict[tuple[str, str], Attempt] = {}
        for work in improvements(self.settings.home):
            same = work.state.facts.get("tokenizer") == self.state.facts["tokenizer"]
            if work.state.id != self.state.id and same:
                for attempt in read_attempts(work.folder / "kept.jsonl"):
                    found[attempt.id, attempt.said] = attempt
        return list(found.values())

    def gate(self) -> None:
        """Let both models play the held-out goals."""
        goals = [restored_line(line) for line in self.work.read("judging.jsonl")]
        if not self.state.planned:
            self.state.planned = self.plan(len(goals))
            self.work.save()  # before the first look: the plan may not depend on what is seen
        machine, adapter = self.machine, self.work.folder / "train" / "adapter"
        mine = machine.subject.adapter
        current = Side("current", machine.fingerprint(mine), lambda: machine.load(mine))
        candidate = Side("candidate", machine.fingerprint(adapter), lambda: machine.load(adapter))
        folder = self.settings.home / "improve" / "gate"
        pairs, verdict = play(
            goals,
            current,
            candidate,
            self.registry,
            folder,
            self.state.planned,
            self.options.parallel,
            lambda side, done, total: self.say(f"gate, {side}", done / total, f"{done} of {total}"),
        )
        self.state.facts |= {
            "verdict": asdict(verdict),
            "rows": [{**asdict(row), "difference": row.difference} for row in gate.table(pairs)],
        }
        self.work.write("pairs.jsonl", map(asdict, pairs))
        seen = goals[: len(pairs)]
        found = changed(seen, folder, current.fingerprint, candidate.fingerprint, EXAMPLES)
        self.work.write("changed.jsonl", [found])
        self.work.reach("decide")

    def plan(self, available: int) -> int:
        """Return how many goals the gate plays at most."""
        most = min(self.options.planned or gate.DEFAULT_N, available)
        left, tries = self.left("gate"), self.state.facts.get("tries", 0)
        if self.options.planned is None and left is not None and tries:
            each = self.state.seconds.get("practise", 0.0) / tries
            most = min(most, int(left / (2 * each)) if each else most)
        return max(most, min(gate.MIN_GOALS, available))

    def decide(self) -> None:
        """Promote or discard. The rename of the registry's pointer is the moment of promotion."""
        verdict = self.state.facts["verdict"]
        if verdict["decision"] != "promote":
            return self.discard(verdict["reason"])
        version = promotion.promote(self.settings.home, self.work, self.machine.subject)
        self.experience.record_training(version, self.trained_runs(), parent=self.state.parent)
        self.state.version = version
        self.finish("promoted", verdict["reason"])

    def trained_runs(self) -> list[str]:
        """Return the runs that the candidate has seen: themselves, or in goals that were practised."""
        goals = {attempt.goal for attempt in read_attempts(self.work.folder / "kept.jsonl")}
        return [run.run for run in self.experience.learnable() if not run.held_out and run.goal in goals]

    def discard(self, reason: str) -> None:
        """Keep the old model."""
        self.finish("kept", reason)

    def nothing(self, reason: str) -> None:
        """End without having trained."""
        self.finish("nothing", reason)

    def finish(self, decision: str, reason: str) -> None:
        """Write the last state and the page."""
        self.state.decision, self.state.reason = decision, reason
        self.work.reach("done")

    def report(self) -> ImproveReport:
        """Return what the state says."""
        state = self.state
        return ImproveReport(
            state.id, state.decision, state.reason, state.parent, state.version, state.method,
            self.work.folder, state.facts.get("verdict", {}), state.facts.get("rows", []), state.facts,
            state.seconds,
        )  # fmt: skip


def _said(attempts: Sequence[Attempt]) -> set[str]:
    return {attempt.said for attempt in attempts}
