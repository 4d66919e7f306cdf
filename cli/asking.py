"""Putting a run's questions to the person at the terminal.

An approval is answered once, for this run, always in this folder, or no (with a reason that the model
reads); a question gets free text. The report is paused meanwhile, so that nothing moves under the
cursor. End of input counts as leaving: the run stays resumable.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from ..agent.record.events import PersonAnswered, PersonAsked
from ..agent.run.feedback import who
from .report import Report
from .view import clean

DECISIONS = {"o": "once", "r": "run", "a": "always", "n": "no"}


def at_terminal() -> bool:
    """Return whether a person can be asked: both ends are a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def ask_at_terminal(report: Report) -> Callable[[str, PersonAsked], PersonAnswered]:
    """Return the function that asks, for a runner. It raises KeyboardInterrupt at end of input."""

    def ask(run: str, asked: PersonAsked) -> PersonAnswered:
        report.pause()
        return answer_to(asked, _read)

    return ask


def answer_to(asked: PersonAsked, read: Callable[[str], str]) -> PersonAnswered:
    """Return the person's answer, asking again until it makes sense. ``read`` prompts for a line."""
    print(clean(asked.text))
    if asked.kind == "question":
        text = ""
        while not text:
            text = read("answer: ").strip()
        return PersonAnswered(text=text, by=who())
    while True:
        said = read("[o]nce, for this [r]un, [a]lways in this folder, [n]o: ").strip().lower()
        decision = DECISIONS.get(said[:1])
        if decision == "no":
            why = read("why (the model reads it): ").strip()
            return PersonAnswered(text=why, decision="no", by=who())
        if decision:
            return PersonAnswered(text="", decision=decision, by=who())


def _read(prompt: str) -> str:
    try:
        return input(prompt)
    except EOFError:
        raise KeyboardInterrupt from None
