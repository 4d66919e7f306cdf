"""``autogpt improve``: runs become rewards, rewards become weights, and only a proven gain is promoted.

An improvement goes through five stages, each of which leaves its results on disk (``work``): *collect* what
may be learned from, *practise* goals that check themselves, *train* a candidate by a method (``methods``),
let the *gate* play both models on held-out goals, and *decide*. A stage that was killed begins again and
finds its own attempts, checkpoint or results. Nothing before the last step touches the model in use, so a
kill at any point changes nothing, and the next call resumes there.

Limits: goals must be checkable or runs rated; a gate plays at least a hundred goals twice, and sees gains
of five points, not of one. What a tool returned is context and never a target or a reward.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...errors import UsageError
from ...files import replace_file
from ...llm.text.tokenizer import ChatTokenizer
from ...memory.experience import Experience
from ...prompts import ToolLine, texts_hash
from ...settings import Settings
from ..evaluate import statistics
from ..evaluate.statistics import RankTest, Row, Verdict
from ..goals.load import Goal
from ..open import open_registry, open_store
from ..record.rewards import Prices
from . import canaries, promotion
from . import gate as promotion_gate
from .dataset import count_attempts, known_rates
from .gate import Gate, Side
from .goal_split import priorities
from .methods import LEAST, Method, Say, choose, named
from .page import page
from .rollouts import Practice
from .survey import survey
from .trainer import Subject, Trainer, subject_of
from .work import Figures, Options, Work, begin, improvements, lock

if TYPE_CHECKING:
    from ...llm.training.logprobs import Row as TokenRow
    from ...llm.training.trainer import Progress

__all__ = ["ImproveOptions", "ImproveReport", "improve"]

ImproveOptions = Options
ATTEMPTS = 4
"""Attempts at each goal, unless the options say otherwise."""
EXAMPLES = 12
"""Goals that changed, each way, that the page shows."""
CHARGED_EVERY = 5.0
"""Seconds: a kill loses at most this much of the time that a stage has used of its budget."""


@dataclass(frozen=True)
class ImproveReport:
    """How an improvement ended."""

    id: str
    decision: str
    """``promoted``, ``kept`` (the old model stays) or ``nothing`` (there was too little to learn from)."""
    reason: str
    parent: str
    version: str
    """The new model's reference, if it was promoted."""
    method: str
    folder: Path
    page: Path
    figures: Figures
    seconds: dict[str, float]

    @classmethod
    def of(cls, work: Work) -> ImproveReport:
        """Return what the state says."""
        state = work.state
        return cls(
            state.id, state.decision, state.reason, state.parent, state.version, state.method, work.folder,
            work.page, state.figures, state.seconds,
        )  # fmt: skip

    @property
    def verdict(self) -> Verdict | None:
        """The gate's verdict, if it played."""
        return self.figures.verdict

    @property
    def rows(self) -> list[Row]:
        """The gate's table."""
        return self.figures.rows

    def as_json(self) -> dict[str, Any]:
        """Return what ``autogpt improve --json`` prints."""
        names = ("id", "decision", "reason", "parent", "version", "method", "seconds")
        return {
            **{name: getattr(self, name) for name in names},
            "folder": str(self.folder),
            "page": str(self.page),
            "verdict": asdict(self.verdict) if self.verdict else {},
            "rows": [{**asdict(row), "difference": row.difference} for row in self.rows],
            "facts": self.figures.model_dump(mode="json", by_alias=True, exclude_none=True),
        }


def improve(
    settings: Settings,
    options: Options | None = None,
    *,
    goals: Sequence[Goal] = (),
    gate_goals: Sequence[Goal] | None = None,
    say: Say | None = None,
    trainer: Callable[[Settings, Subject], Trainer] = Trainer,
    on_round: Callable[[ImproveReport], None] | None = None,
) -> list[ImproveReport]:
    """Improve the model in use, and return how each round ended.

    Args:
        goals: to practise on, in addition to those of past runs; any alike to a goal that judges is left out.
        gate_goals: goals that judge, in place of the user's held-out goals and the shipped gate.
        say: told what is being done (text, share or None, detail).
        trainer: loads and trains; tests pass another.

    Raises UsageError if the model cannot be trained, UserError if another improvement is under way. An
    interrupted improvement resumes with the goals and options that it began with.
    """
    options = options or Options()
    reports: list[ImproveReport] = []
    held = lock(settings.home)
    try:
        subject = subject_of(settings)
        work = unfinished(settings.home, subject.reference)
        if work is None:
            work = begin(settings.home, subject.reference, options, given=goals)
        else:
            goals = work.given.read() or goals
        options = work.state.options
        for number in range(work.state.round, options.rounds + 1):
            if number != work.state.round:
                subject = subject_of(settings)
                work = begin(settings.home, subject.reference, options, number, goals)
            one = Improvement(work, settings, trainer(settings, subject), goals, gate_goals, say)
            reports.append(one.run())
            if on_round:
                on_round(reports[-1])
            if reports[-1].decision == "nothing":
                break
            settings = following(settings, reports[-1])
    finally:
        held.release()
    return reports


def following(settings: Settings, report: ImproveReport) -> Settings:
    """Return the settings for the next round: if they name a model, they name what it became."""
    renamed = settings.model and report.version
    return settings.model_copy(update={"model": report.version}) if renamed else settings


def unfinished(home: Path, current: str) -> Work | None:
    """Return the improvement to resume; one of another model is closed, because its parent is not in use."""
    open_ones = [work for work in improvements(home) if not work.state.decision]
    for work in open_ones:
        if current not in (work.state.parent, promotion.promoted(home, work.state.id)):
            work.close("another model came into use meanwhile")
    return next((work for work in reversed(open_ones) if not work.state.decision), None)


class Improvement:
    """Runs an improvement's remaining stages."""

    def __init__(
        self,
        work: Work,
        settings: Settings,
        trainer: Trainer,
        goals: Sequence[Goal],
        gate_goals: Sequence[Goal] | None,
        say: Say | None,
    ) -> None:
        self.work = work
        self.state = work.state
        self.options = work.state.options
        self.settings = settings
        self.trainer = trainer
        self.goals = goals
        self.gate_goals = gate_goals
        self.store = open_store(settings)
        self.registry = open_registry()
        self._say = say
        self._charged_to, self._since = "", time.monotonic()

    def run(self) -> ImproveReport:
        """Go through to the end, and return the report."""
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
                if self.state.stage == "collect":  # what was asked for is impossible: nothing has begun
                    shutil.rmtree(self.work.folder)
                    raise
                self.finish("kept", f"it could not go on: {error}")
        self.draw()
        self.trainer.unload()
        return ImproveReport.of(self.work)

    @contextmanager
    def _charged(self, stage: str) -> Iterator[None]:
        self._charged_to, self._since = stage, time.monotonic()
        try:
            yield
        finally:
            self._charge()

    def _charge(self) -> None:
        """Charge the running stage with the time since it was last charged."""
        now = time.monotonic()
        self.work.charge(self._charged_to, now - self._since)
        self._since = now
        self.work.save()

    def say(self, text: str, share: float | None, detail: str) -> None:
        """Report progress."""
        if time.monotonic() - self._since > CHARGED_EVERY:
            self._charge()  # now, because a process that is killed cannot do it at the end
        if self._say:
            self._say(text, share, detail)

    @property
    def method(self) -> Method:
        """The method of this improvement."""
        return named(self.state.method)

    def left(self, stage: str) -> float | None:
        """Return the seconds that a stage has left of the budget; None without one."""
        if self.options.budget_minutes is None:
            return None
        share = self.options.budget_minutes * 60 * self.method.share(stage)
        return max(0.0, share - self.state.seconds.get(stage, 0.0))

    def collect(self) -> None:
        """Find out what there is, and keep it, so that a resumed improvement has the same."""
        self.say("reading runs", None, "")
        work, subject = self.work, self.trainer.subject
        found = survey(self.settings, self.store, subject, self.goals, self.gate_goals, work.seed)
        self.state.fingerprint = self.trainer.fingerprint(subject.adapter)
        self.state.figures = found.figures()
        made_by = promotion.method_of(self.settings.home, subject.reference)
        self.state.method = choose(self.options, self.state.figures, made_by).name
        work.runs.write({"run": run.run, "held_out": run.held_out} for run in found.runs)
        work.goals.write(found.drawn.train)
        work.judging.write(found.judging)
        work.past.write(found.past)
        work.feedback_pairs.write(found.feedback.pairs)
        work.feedback_rated.write(found.feedback.rated)
        work.feedback_held_out.write(found.feedback.held_out)
        if gaps := self.method.needs(self.state.figures):
            return self.finish("nothing", f"too little to learn from: {'; '.join(gaps)}")
        work.reach("practise")

    def practise(self) -> None:
        """Make attempts at the goals, unless the method makes its own."""
        goals = self.work.goals.read()
        if not goals or not self.method.practises:
            return self.work.reach("train")
        left, attempts = self.left("practise"), self.options.attempts or ATTEMPTS
        model = self.trainer.load(self.trainer.subject.adapter)
        Practice(
            model,
            model.tokenizer,
            self.registry,
            Prices.of(self.settings),
            attempts,
            self.options.temperature,
            self.options.parallel,
            self.work.seed,
            None if left is None else time.monotonic() + left,
            lambda tried, solved: self.say(
                "practising",
                min(0.99, tried / (len(goals) * attempts)),
                f"{tried} tries, {solved / tried:.0%} achieved",
            ),
        ).run(priorities(goals, known_rates(self.work), self.work.seed), self.work.attempts)
        self.work.reach("train")

    def train(self) -> None:
        """Choose the samples and train the candidate on them."""
        from ...llm.training.monitor import Collapse

        figures = self.state.figures
        if figures.samples is None and not self.choose():
            return

        def show(step: Progress) -> None:
            row = {"step": step.step, "loss": step.loss, "mean": step.mean_loss, "done": step.done}
            self.work.curve.add(row)
            self.say("training", step.done, f"loss {step.mean_loss:.3f}")

        try:
            report = self.method.train(self.trainer, self.work, show, self.say)
        except Collapse as problem:
            return self.finish("kept", f"the training collapsed: {problem}")
        if not report.finished:
            raise KeyboardInterrupt
        figures.steps, figures.loss, figures.tokens = report.steps, report.loss, report.tokens
        if report.loss != report.loss:
            return self.finish("kept", "the training collapsed: its loss is not a number")
        self.work.reach("gate")

    def choose(self) -> bool:
        """Write the training files; returns False if there is too little."""
        count_attempts(self.work)
        count = self.method.gather(self.work)
        if self.state.figures.samples is None:
            self.state.figures.samples = count
        if count < LEAST:
            self.finish("kept", f"only {count} {self.method.unit} to learn from, {LEAST} are the least")
            return False
        self.work.save()  # a resumed training must find the same samples
        return True

    def gate(self) -> None:
        """Let both models play the held-out goals."""
        goals, trainer, adapter = self.work.judging.read(), self.trainer, self.work.trained
        if not self.state.planned:
            self.state.planned = self.plan(len(goals))
            self.work.save()  # before the first look: the plan may not depend on what is seen
        if reason := self.too_exposed(adapter):
            return self.finish("kept", reason)
        feedback = self.held_out_feedback(adapter)
        mine = trainer.subject.adapter
        gate = Gate(
            Side("current", self.played_as(mine), lambda: trainer.load(mine)),
            Side("candidate", self.played_as(adapter), lambda: trainer.load(adapter)),
            self.registry,
            self.settings.home / "improve" / "gate",
            self.options.parallel,
            lambda side, done, total: self.say(f"gate, {side}", done / total, f"{done} of {total}"),
        )
        looks = (1.0,) if feedback else statistics.LOOKS
        pairs, verdict = gate.play(goals, self.state.planned, looks)
        if feedback:
            verdict = promotion_gate.with_feedback(verdict, pairs, feedback)
        rows = statistics.table(pairs)
        if verdict.decision == "promote" and self.gate_goals is None:
            row = statistics.table(gate.converse(promotion_gate.shipped_sessions()))[0]
            verdict = promotion_gate.guarded(verdict, row)
            rows = [row, *rows]
        figures = self.state.figures
        figures.feedback, figures.verdict, figures.rows = feedback, verdict, rows
        self.work.outcomes.write(pairs)
        self.work.examples.write([gate.changed(goals[: len(pairs)], EXAMPLES)])
        self.work.reach("decide")

    def played_as(self, adapter: Path | None) -> str:
        """Return the key of the gate's stored results: the model, and all that its runs read and call."""
        tools = [ToolLine(tool.name, tool.parameters, tool.description) for tool in self.registry]
        parts = [self.trainer.fingerprint(adapter), texts_hash(tools), __version__]
        return hashlib.sha256("|".join(parts).encode()).hexdigest()

    def too_exposed(self, adapter: Path) -> str:
        """Measure the planted canaries; returns why the candidate may not be promoted, if so."""
        figures = self.state.figures
        if not figures.canaries:
            return ""
        if figures.exposure is None:
            self.say("measuring canaries", None, "")
            tokenizer = ChatTokenizer(self.trainer.subject.base)
            figures.exposure = canaries.exposures(
                tokenizer, self.work.seed, lambda rows: self.trainer.log_probabilities(adapter, rows)
            )
            self.work.save()
        return canaries.verdict(figures.exposure)

    def held_out_feedback(self, adapter: Path) -> RankTest | None:
        """Return whether held-out rated answers moved the right way; None if the method uses none, or few."""
        held = self.work.feedback_held_out.read() if self.method.feedback else []
        if len(held) < promotion_gate.LEAST_RATED:
            return None
        self.say("scoring held-out ratings", None, "")

        def change(rows: Sequence[TokenRow]) -> list[float]:
            after = self.trainer.log_probabilities(adapter, rows)
            before = self.trainer.log_probabilities(self.trainer.subject.adapter, rows)
            return [new - old for new, old in zip(after, before, strict=True)]

        return promotion_gate.moved(held, change)

    def plan(self, available: int) -> int:
        """Return how many goals the gate plays at most."""
        most = promotion_gate.size(self.method.gate_goals, self.options.planned, available)
        left, figures = self.left("gate"), self.state.figures
        if self.options.planned is None and left is not None and figures.tries:
            spent = self.state.seconds.get("practise", 0.0) if figures.trying is None else figures.trying
            each = spent / figures.tries
            most = min(most, int(left / (2 * each)) if each else most)
        return max(most, min(statistics.MIN_GOALS, available))

    def decide(self) -> None:
        """Promote or discard. The rename of the registry's pointer is the moment of promotion."""
        verdict, home = self.state.figures.verdict, self.settings.home
        assert verdict is not None
        if verdict.decision != "promote":
            return self.finish("kept", verdict.reason)
        if promotion.undone(home, self.work):
            return self.finish("kept", "it was promoted, and a person went back to the model before")
        version = promotion.promote(home, self.work, self.trainer.subject)
        # the runs that the candidate may have seen: themselves, or in goals that were practised
        runs = [row["run"] for row in self.work.runs.read() if not row.get("held_out")]
        Experience(self.store.database).record_training(version, runs, parent=self.state.parent)
        self.state.version = version
        self.state.figures.canary_release = promotion.start_canary_release(
            home, self.store, version, self.state.parent, time.time()
        )
        self.finish("promoted", verdict.reason)

    def finish(self, decision: str, reason: str) -> None:
        """Write the last state and the page."""
        self.state.decision, self.state.reason = decision, reason
        self.draw()  # before the end is recorded, so that an ended improvement has its page
        self.work.reach("done")

    def draw(self) -> None:
        """Write the page."""
        replace_file(self.work.page, page(self.work))
