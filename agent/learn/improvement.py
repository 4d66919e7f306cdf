"""One improvement, stage by stage: collect, practise, train, gate, decide (see ``improve``).

Each stage begins with what the one before left on disk and ends by naming the next in ``state.json``; a
stage that was killed begins again and finds its own attempts, checkpoint or results where it left them.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ... import __version__
from ...errors import UsageError
from ...files import replace_file
from ...llm.text.tokenizer import ChatTokenizer
from ...llm.training.monitor import Collapse
from ...memory.experience import Experience
from ...prompts import ToolLine, texts_hash
from ...settings import Settings
from ..evaluate import statistics as gate
from ..goals.load import Goal
from ..open import open_registry, open_store
from ..record.rewards import Prices
from ..record.store import RunStore
from . import canaries, gate_play, gate_talk, promotion, trial
from .attempts import Practice
from .dataset import Choice
from .gate_play import Side, changed, play
from .goal_split import kept_record, priorities, restored_line
from .improve_report import ImproveReport, Say
from .machine import Machine
from .methods import Rolls, choose, fit_said, settings_for
from .page import page
from .preferences import pair_row, rated_of
from .survey import survey
from .work import Lines, State, Work, improvements

if TYPE_CHECKING:
    from ...llm.training.logprobs import Row
    from ...llm.training.trainer import Progress, Report

SHARES = {"practise": 0.4, "train": 0.35, "gate": 0.25}
"""Of a budget of minutes."""
ATTEMPTS = 4
"""Tries at each goal, unless the options say otherwise."""
EXAMPLES = 12
"""Goals that changed, each way, that the page shows."""


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
            try:
                with self._charged(self.state.stage):
                    steps[self.state.stage]()
            except UsageError as error:
                if self.state.stage == "collect":  # what was asked for cannot be: nothing has begun
                    shutil.rmtree(self.work.folder)
                    raise
                self.discard(f"it could not go on: {error}")
        self.draw()
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
        share = self.share(stage)
        return None if share is None else max(0.0, share - self.state.seconds.get(stage, 0.0))

    def share(self, stage: str) -> float | None:
        """Return the seconds of the budget that are a stage's in all; GRPO tries goals while it trains."""
        if self.options.budget_minutes is None:
            return None
        both = SHARES["practise"] if stage == "train" and self.state.method == "grpo" else 0.0
        return self.options.budget_minutes * 60 * (SHARES[stage] + both)

    def collect(self) -> None:
        """Find out what there is, and keep it, so that a resumed improvement has the same."""
        self.say("reading runs", None, "")
        subject = self.machine.subject
        found = survey(self.settings, self.store, subject, self.goals, self.gate_goals, self.seed)
        self.state.fingerprint = self.machine.fingerprint(subject.adapter)
        self.state.facts |= {
            "goals": len(found.drawn.train),
            "own_held_out": len(found.drawn.held_out),
            "dropped": dict(found.drawn.dropped),
            "past_runs": len(found.past),
            "refused": dict(found.refused + found.said.refused),
            "tokenizer": found.tokenizer,
            "pairs": len(found.said.pairs),
            "thumbs": len(found.said.rated),
            "thumbs_up": sum(one.good for one in found.said.rated),
            "thumbs_down": sum(not one.good for one in found.said.rated),
        }
        made = promotion.method_of(self.settings.home, subject.reference)
        self.state.method = choose(self.options, self.state.facts, made)
        self.work.write("runs.jsonl", ({"run": run.run, "held_out": run.held_out} for run in found.runs))
        self.work.write("goals.jsonl", map(kept_record, found.drawn.train))
        self.work.write("judging.jsonl", map(kept_record, found.judging))
        self.work.write("past.jsonl", (attempt.row() for attempt in found.past))
        self.work.write("said_pairs.jsonl", map(pair_row, found.said.pairs))
        self.work.write("said_rated.jsonl", map(vars, found.said.rated))
        self.work.write("said_held.jsonl", map(vars, found.said.held_out))
        if gaps := found.gaps(self.state.method):
            return self.nothing(f"too little to learn from: {'; '.join(gaps)}")
        self.work.reach("practise")

    def practise(self) -> None:
        """Try the goals."""
        goals = [restored_line(line) for line in self.work.read("goals.jsonl")]
        if not goals or self.state.method == "grpo":  # which tries goals while it trains
            return self.work.reach("train")
        left, attempts = self.left("practise"), self.options.attempts or ATTEMPTS
        model = self.machine.load(self.machine.subject.adapter)
        Practice(
            model,
            model.tokenizer,
            self.registry,
            Prices.of(self.settings),
            attempts,
            self.options.temperature,
            self.options.parallel,
            self.seed,
            None if left is None else time.monotonic() + left,
            lambda tried, solved: self.say(
                "practising",
                min(0.99, tried / (len(goals) * attempts)),
                f"{tried} tries, {solved / tried:.0%} achieved",
            ),
        ).run(priorities(goals, self.rates(), self.seed), self.work.folder / "attempts.jsonl")
        self.work.reach("train")

    def rates(self) -> dict[str, tuple[int, int]]:
        """Return how often each goal was solved and tried, in past runs and earlier improvements."""
        found = {record.goal: (record.solved, record.attempts) for record in self.experience.goals()}
        for work in improvements(self.settings.home):
            if work.state.id == self.state.id:
                continue
            for row in work.read("rates.jsonl"):
                solved, tried = found.get(row["goal"], (0, 0))
                found[row["goal"]] = (solved + row["solved"], tried + row["tried"])
        return found

    def train(self) -> None:
        """Choose the samples and train the candidate on them."""
        if "samples" not in self.state.facts and not self.choose():
            return
        self.work.save()  # what was chosen stands: a resumed training must find the same samples
        with Lines(self.work.folder / "curve.jsonl") as curve:

            def show(step: Progress) -> None:
                curve.add({"step": step.step, "loss": step.loss, "mean": step.mean_loss, "done": step.done})
                self.say("training", step.done, f"loss {step.mean_loss:.3f}")

            try:
                report = self.fit(show)
            except Collapse as problem:
                return self.discard(f"the training collapsed: {problem}")
        if not report.finished:
            raise KeyboardInterrupt
        self.state.facts |= {"steps": report.steps, "loss": report.loss, "tokens": report.tokens}
        if report.loss != report.loss:
            return self.discard("the training collapsed: its loss is not a number")
        self.work.reach("gate")

    def choose(self) -> bool:
        """Write what is trained on; returns False where there is too little."""
        chosen = Choice(self.work, self.settings.home, self.rates(), self.seed)
        lack = chosen.write(self.state.method)
        self.state.facts |= chosen.facts
        if lack:
            self.discard(lack)
        return not lack

    def fit(self, on_step: Callable[[Progress], None]) -> Report:
        """Train the candidate by the method."""
        method, options = self.state.method, self.options
        config = settings_for(options, method, self.share("train"), self.seed)  # its own clock goes on
        config["out"] = self.work.folder / "train"
        if method == "grpo":
            goals = [restored_line(line) for line in self.work.read("goals.jsonl")]
            prices = Prices.of(self.settings)
            rolls = Rolls(goals, self.machine, self.registry, prices, options, self.seed, self._rolled)
            rolls.go_on(len(self.work.read("rewards.jsonl")), self.state.facts)
            names = [goal.id for goal in goals]
            replay = [self.work.folder / "replay.jsonl"] if self.state.facts["replayed"] else []
            return self.machine.reinforce(names, rolls.roll, rolls.publish, replay, on_step, **config)
        config["epsilon"] = options.dp_epsilon
        if method == "sft":
            batch = min(options.batch, max(4, self.state.facts["samples"] // 12))
            data = [self.work.folder / "samples.jsonl"]
            return self.machine.finetune(on_step, data=data, batch=batch, full=options.full, **config)
        return fit_said(self.work, self.machine, method, on_step, config)

    def _rolled(self, rolls: Rolls, reward: float) -> None:
        tried, solved = rolls.tally["tries"], rolls.tally["solved"]
        self.state.facts |= {"tries": tried, "solved_tries": solved, "trying": rolls.seconds}
        self.work.save()
        with Lines(self.work.folder / "rewards.jsonl") as lines:
            lines.add({"tries": tried, "reward": reward})
        self.say("trying goals", None, f"{tried} tries, {solved / max(1, tried):.0%} achieved")

    def gate(self) -> None:
        """Let both models play the held-out goals."""
        goals = [restored_line(line) for line in self.work.read("judging.jsonl")]
        if not self.state.planned:
            self.state.planned = self.plan(len(goals))
            self.work.save()  # before the first look: the plan may not depend on what is seen
        machine, adapter = self.machine, self.work.trained
        if reason := self.too_exposed(adapter):
            return self.discard(reason)
        said = self.said_of(adapter)
        mine = machine.subject.adapter
        current = Side("current", self.played_as(mine), lambda: machine.load(mine))
        candidate = Side("candidate", self.played_as(adapter), lambda: machine.load(adapter))
        folder = self.settings.home / "improve" / "gate"
        pairs, verdict = play(
            goals,
            current,
            candidate,
            self.registry,
            folder,
            self.state.planned,
            self.options.parallel,
            self._played,
            (1.0,) if said else gate.LOOKS,
        )
        if said:
            verdict = gate_play.with_said(verdict, pairs, said)
        rows = gate.table(pairs)
        if verdict.decision == "promote" and self.gate_goals is None:
            sessions = gate_talk.shipped_sessions()
            talks = gate_talk.talk(sessions, current, candidate, self.registry, folder, self._played)
            verdict = gate_talk.guarded(verdict, talks)
            rows = [*gate.table(talks)[:1], *rows]
        self.state.facts |= {
            "said": said and asdict(said),
            "verdict": asdict(verdict),
            "rows": [{**asdict(row), "difference": row.difference} for row in rows],
        }
        self.work.write("pairs.jsonl", map(asdict, pairs))
        seen = goals[: len(pairs)]
        found = changed(seen, folder, current.fingerprint, candidate.fingerprint, EXAMPLES)
        self.work.write("changed.jsonl", [found])
        self.work.reach("decide")

    def _played(self, side: str, done: int, total: int) -> None:
        self.say(f"gate, {side}", done / total, f"{done} of {total}")

    def played_as(self, adapter: Path | None) -> str:
        """Return what the gate's results are kept under: the model, and what runs read and call beside it."""
        tools = [ToolLine(tool.name, tool.parameters, tool.description) for tool in self.registry]
        parts = [self.machine.fingerprint(adapter), texts_hash(tools), __version__]
        return hashlib.sha256("|".join(parts).encode()).hexdigest()

    def too_exposed(self, adapter: Path) -> str:
        """Measure the planted canaries; returns why the candidate may not be promoted, if so."""
        if not self.state.facts.get("canaries"):
            return ""
        if "exposure" not in self.state.facts:
            self.say("measuring canaries", None, "")
            tokenizer = ChatTokenizer(self.machine.subject.base)
            self.state.facts["exposure"] = canaries.exposures(
                tokenizer, self.seed, lambda rows: self.machine.log_probabilities(adapter, rows)
            )
            self.work.save()
        return canaries.verdict(self.state.facts["exposure"])

    def said_of(self, adapter: Path) -> gate_play.SaidResult | None:
        """Return whether held-out rated answers moved the right way; None where there are too few."""
        held = [rated_of(row) for row in self.work.read("said_held.jsonl")]
        if self.state.method not in ("dpo", "kto") or len(held) < gate_play.LEAST_SAID:
            return None
        self.say("scoring held-out ratings", None, "")
        mine = self.machine.subject.adapter

        def change(rows: Sequence[Row]) -> list[float]:
            after = self.machine.log_probabilities(adapter, rows)
            before = self.machine.log_probabilities(mine, rows)
            return [new - old for new, old in zip(after, before, strict=True)]

        return gate_play.moved(held, change)

    def plan(self, available: int) -> int:
        """Return how many goals the gate plays at most."""
        most = gate_play.at_most(self.state.method, self.options.planned, available)
        left, tries = self.left("gate"), self.state.facts.get("tries", 0)
        if self.options.planned is None and left is not None and tries:
            each = self.state.facts.get("trying", self.state.seconds.get("practise", 0.0)) / tries
            most = min(most, int(left / (2 * each)) if each else most)
        return max(most, min(gate.MIN_GOALS, available))

    def decide(self) -> None:
        """Promote or discard. The rename of the registry's pointer is the moment of promotion."""
        verdict = self.state.facts["verdict"]
        if verdict["decision"] != "promote":
            return self.discard(verdict["reason"])
        if promotion.undone(self.settings.home, self.work):
            return self.discard("it was promoted, and a person went back to the model before")
        version = promotion.promote(self.settings.home, self.work, self.machine.subject)
        self.experience.record_training(version, self.trained_runs(), parent=self.state.parent)
        self.state.version = version
        self.state.facts["trial"] = trial.begin(
            self.settings.home, self.store, version, self.state.parent, time.time()
        )
        self.finish("promoted", verdict["reason"])

    def trained_runs(self) -> list[str]:
        """Return the runs that the candidate may have seen: themselves, or in goals that were practised."""
        return [row["run"] for row in self.work.read("runs.jsonl") if not row.get("held_out")]

    def discard(self, reason: str) -> None:
        """Keep the old model."""
        self.finish("kept", reason)

    def nothing(self, reason: str) -> None:
        """End without having trained."""
        self.finish("nothing", reason)

    def finish(self, decision: str, reason: str) -> None:
        """Write the last state and the page."""
        self.state.decision, self.state.reason = decision, reason
        self.draw()  # before the end is recorded, so that an ended improvement has its page
        self.work.reach("done")

    def draw(self) -> None:
        """Write the page."""
        replace_file(self.work.folder / "index.html", page(self.work).encode())

    def report(self) -> ImproveReport:
        """Return what the state says."""
        state = self.state
        return ImproveReport(
            state.id, state.decision, state.reason, state.parent, state.version, state.method,
            self.work.folder, state.facts.get("verdict", {}), state.facts.get("rows", []), state.facts,
            state.seconds,
        )  # fmt: skip
