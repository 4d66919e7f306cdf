"""Training methods: each is a :class:`Method`, and one file in this folder adds one.

Command line, survey, training and gate ask the method; nothing else names it. ``auto`` takes the method of
the highest priority among those that suit what there is to learn from. What people said is not learned twice
in a row: the improvement after one by DPO or KTO is by goals.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from ....errors import UsageError
from ...evaluate import statistics

if TYPE_CHECKING:
    from ....llm.training.trainer import Progress, Report
    from ..trainer import Trainer
    from ..work import Figures, Options, Work

LEAST = 8
"""Successes, pairs, ratings or goals below which nothing is trained."""
SHARES = {"practise": 0.4, "train": 0.35, "gate": 0.25}
"""Of a budget of minutes."""

OnStep = Callable[["Progress"], None]
Say = Callable[[str, float | None, str], None]
"""Told what is being done: text, share done or None, detail."""


class Method:
    """A way to train a candidate; a subclass with a ``name`` is offered as soon as it is imported."""

    name: ClassVar[str] = ""
    """What ``--method`` and stored files call it."""
    unit: ClassVar[str] = "samples"
    """What :meth:`gather` counts."""
    feedback: ClassVar[str] = ""
    """What people give it to learn from; empty where it learns from goals alone."""
    rate: ClassVar[float] = 5e-5
    """Peak learning rate: an adapter goes on, so less than at its first training."""
    full_rate: ClassVar[float | None] = None
    """That of training all weights; None where the method trains adapters only."""
    epochs: ClassVar[float] = 2.0
    least_share: ClassVar[float] = 0.0
    """Replayed samples are at least this share of a step, unless replay is off."""
    private: ClassVar[bool] = False
    """Whether it can keep a privacy budget."""
    practises: ClassVar[bool] = True
    """Whether attempts are made before training; else it makes its own, in the time of both."""
    gate_goals: ClassVar[int] = statistics.DEFAULT_N
    """Goals at which its candidates are compared, at most."""
    priority: ClassVar[int] = 0

    def suits(self, figures: Figures, parent: str) -> bool:
        """Return whether ``auto`` may take it; ``parent``: the method that made the model in use, if any."""
        return False

    def given(self, figures: Figures) -> int:
        """Return how much feedback of its kind there is."""
        return 0

    def needs(self, figures: Figures) -> list[str]:
        """Return what is missing before an improvement can begin, a line each."""
        from ..survey import LEAST_GOALS

        lack, given, found = LEAST_GOALS - figures.distinct, self.given(figures), list[str]()
        if lack > 0 and given < LEAST_GOALS:
            found.append(
                f"{lack} more goals to train on (of {LEAST_GOALS}): run goal files with a `check`, name a "
                "suite of them by --goals ('autogpt practice' makes one), or rate runs"
            )
            if self.feedback:
                found.append(f"or {LEAST_GOALS - given} more {self.feedback} (of {LEAST_GOALS})")
        if figures.judging < statistics.MIN_GOALS:
            least = statistics.MIN_GOALS
            found.append(f"a gate takes at least {least} held-out goals, here are {figures.judging}")
        return found

    def can(self, options: Options) -> bool:
        """Return whether it can train all weights, or within a privacy budget, where that is asked for."""
        return not ((options.full and self.full_rate is None) or (options.dp_epsilon and not self.private))

    def check(self, options: Options) -> None:
        """Raise UsageError where the options cannot go with the method."""
        if options.full and (self.full_rate is None or options.dp_epsilon):
            what = "a privacy budget" if options.dp_epsilon else self.name
            raise UsageError(f"--full: {what} trains an adapter; take --method sft alone")
        if options.dp_epsilon and not self.private:
            able = " or ".join(name for name, one in methods().items() if one.private)
            raise UsageError(f"--dp-epsilon: {self.name} cannot keep a privacy budget; take --method {able}")

    def share(self, stage: str) -> float:
        """Return a stage's share of the budget."""
        if self.practises or stage == "gate":
            return SHARES[stage]
        return SHARES["practise"] + SHARES["train"] if stage == "train" else 0.0

    def gather(self, work: Work) -> int:
        """Write the training files of ``work``; returns how many ``unit`` there are."""
        raise NotImplementedError

    def train(self, trainer: Trainer, work: Work, on_step: OnStep, say: Say) -> Report:
        """Train the candidate at ``work.trained`` on what :meth:`gather` wrote."""
        raise NotImplementedError

    def config(self, work: Work) -> dict[str, Any]:
        """Return the training configuration that methods share: epochs, time, peak rate, seed, folder."""
        options = work.state.options
        minutes = options.budget_minutes and max(options.budget_minutes * self.share("train"), 0.2)
        return {
            "epochs": options.epochs or self.epochs,
            "minutes": minutes,
            "learning_rate": options.learning_rate or (self.full_rate if options.full else self.rate),
            "seed": work.seed,
            "out": work.training,
        }

    def replay_share(self, options: Options) -> float:
        """Return the share of replayed samples in a step."""
        return max(options.replay, self.least_share) if options.replay else 0.0


def methods() -> dict[str, Method]:
    """Return all methods by name: those in this folder, and other subclasses that were imported."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    pending, found = [Method], dict[str, Method]()
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        if kind.name:
            found[kind.name] = kind()
    return dict(sorted(found.items(), key=lambda item: (item[1].priority, item[0])))


def named(name: str) -> Method:
    """Return the method; raises UsageError where there is none of this name."""
    known = methods()
    if name not in known:
        raise UsageError(f"--method {name}: there is no such method; there are auto, {', '.join(known)}")
    return known[name]


def choose(options: Options, figures: Figures, parent: str) -> Method:
    """Return the method that the options name, or that suits what there is to learn from.

    ``parent``: by which method the model in use was made, empty if by none. Raises UsageError where the
    other options cannot go with it.
    """
    if options.method != "auto":
        found = named(options.method)
    else:
        able = [one for one in methods().values() if one.can(options) and one.suits(figures, parent)]
        found = max(able, key=lambda one: one.priority)
    found.check(options)
    return found
