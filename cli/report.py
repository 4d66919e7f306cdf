"""What a run looks like while it goes: a tree that fills in on a terminal, plain lines elsewhere.

A report takes events and nothing else, so ``runs show`` uses the same code as a live run. On a
terminal each goal is a tree (inputs, plan, calls with their results, checks, verdict); finished goals
scroll up, unfinished ones stay at the bottom with a clock. Piped output is one line per event, as it
happens. The screen is drawn by a thread of its own, so a report takes a lock. A person at the terminal is
asked with the screen at rest; the end of input counts as leaving, and the run stays resumable.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text
from rich.tree import Tree

from ..agent.record.events import (
    SAID_LATER,
    CheckResult,
    ConversationFolded,
    Event,
    MemoryRecalled,
    MemoryWritten,
    ModelTurn,
    PersonAnswered,
    PersonAsked,
    PersonSaid,
    RunEnded,
    RunInterrupted,
    RunStarted,
    ToolOutcome,
    ToolsShown,
)
from ..agent.run.feedback import who
from .alive import process as alive
from .answer_stream import AnswerStream, last_rows
from .view import (
    CallView,
    RunView,
    StepView,
    answer_text,
    clean,
    compacted,
    delivery,
    kept,
    one_line,
)

MARKS = {
    "waiting": ("○", "dim"),
    "dropped": ("–", "dim"),
    "running": ("●", "cyan"),
    "done": ("✓", "green"),
    "failed": ("✗", "red"),
    "refused": ("⊘", "yellow"),
    "uncertain": ("?", "yellow"),
}
VERDICTS = {
    "achieved": ("achieved", "bold green"),
    "answered": ("answered, not checked", "bold cyan"),
    "not_met": ("not met", "bold red"),
    "limit": ("limit reached", "bold yellow"),
    "needs_person": ("needs a person", "bold yellow"),
    "error": ("not begun", "bold red"),
    "interrupted": ("interrupted", "bold yellow"),
}
PREVIEW_WIDTH = 200
AT_REST = (*SAID_LATER, RunInterrupted)
"""Events after which nothing is under way: a conversation waits for its next message."""


class Report:
    """Base of all reports, and the one that says nothing."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._answers: dict[str, AnswerStream] = {}
        """The turns that are being written, by run."""

    def on_event(self, run: str, event: Event) -> None:
        """Show one event of a run."""

    def on_text(self, run: str, piece: str) -> None:
        """Take in what the model writes before its turn is complete."""
        with self.lock:
            self._answers.setdefault(run, AnswerStream()).feed(piece)

    def _said(self, run: str, event: Event) -> None:
        """Forget what was being written, unless it was stopped: :meth:`cut_off` shows that."""
        if not isinstance(event, RunInterrupted):
            self._answers.pop(run, None)

    def cut_off(self) -> None:
        """Leave on the screen what was being answered when the person stopped it."""
        with self.lock:
            texts = [stream.text for stream in self._answers.values() if stream.text]
            self._answers.clear()
        self.pause()
        for text in texts:
            print(f"{text}…", flush=True)

    def catch_up(self, run: str, events: Iterable[Event]) -> None:
        """Take in what is already recorded of a run that goes on, without showing it again."""

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Show that something without events (loading a model) takes its time."""
        resting = alive.resting
        alive.touch(what)
        yield
        if resting:
            alive.rest()
        else:
            alive.touch()

    def pause(self) -> None:
        """Leave the screen alone, because a person is being asked."""
        alive.rest()

    def reply(self, run: str, text: str) -> None:
        """Show the agent's reply in a conversation; the screen is then the person's."""
        alive.rest()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the screen as a terminal expects it, with what was being answered."""
        self.cut_off()


class WarningReport(Report):
    """For ``--json``: only what should not go unseen, on standard error."""

    def on_text(self, run: str, piece: str) -> None:
        """Say nothing: the result comes as JSON."""

    def on_event(self, run: str, event: Event) -> None:
        """Name an input that could not be read and a result that could not take its place."""
        alive.touch()
        match event:
            case ToolOutcome(by="driver", state="failed"):
                self._warn(event.preview.removeprefix("error: "))
            case RunEnded():
                for name in event.delivered:
                    if (text := delivery(name, run)) != clean(name):
                        self._warn(f"delivered {text}")

    def _warn(self, text: str) -> None:
        with self.lock:
            print(f"autogpt: warning: {one_line(clean(text))}", file=sys.stderr)


class PlainReport(Report):
    """One line per event, for pipes and files. ``label`` puts the run's id before each line."""

    def __init__(self, label: bool = False) -> None:
        super().__init__()
        self._views: dict[str, RunView] = {}
        self._label = label

    def catch_up(self, run: str, events: Iterable[Event]) -> None:
        """Take in what was shown by an earlier process."""
        self._views[run] = RunView.of(events)

    def on_event(self, run: str, event: Event) -> None:
        """Print the event's line, if it has one."""
        if isinstance(event, AT_REST):
            alive.rest()
        else:
            alive.touch()
        with self.lock:
            self._said(run, event)
            view = self._views.setdefault(run, RunView())
            view.apply(event)
            for line in plain_lines(view, event):
                prefix = f"[{run[-6:]}] " if self._label else ""
                print(prefix + line, flush=True)


class LiveReport(Report):
    """The tree on a terminal; finished runs scroll up, live ones stay below."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        alive.rest()  # this report moves by itself
        self.console = console
        self._views: dict[str, RunView] = {}
        self._resting: set[str] = set()
        """Conversations in which nothing is under way: the screen is the person's."""
        self._busy: list[str] = []
        self._spinner = Spinner("dots", style="cyan")
        self._live: Live | None = None

    def catch_up(self, run: str, events: Iterable[Event]) -> None:
        """Take in what was shown by an earlier process; the tree will hold it."""
        self._views[run] = RunView.of(events)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw what is under way; called by rich several times a second."""
        with self.lock:
            for run, view in self._views.items():
                if run in self._resting:
                    continue
                shown = tree(view)
                yield shown
                stream = self._answers.get(run)
                if stream is not None and stream.text:
                    taken = len(console.render_lines(shown, options, pad=False))
                    rows = max(3, console.height - taken - 2)
                    yield Text(last_rows(stream.text, options.max_width, rows))
                yield self._moving(f"{time.time() - view.began:.0f} s")
            for what in self._busy:
                yield self._moving(what)

    def _moving(self, text: str) -> Spinner:
        self._spinner.update(text=Text(text, style="dim"))
        return self._spinner

    def on_event(self, run: str, event: Event) -> None:
        """Update the run's tree; when it ends, print it above and forget it."""
        with self.lock:
            self._said(run, event)
            view = self._views.setdefault(run, RunView())
            view.apply(event)
            ended = bool(view.status) and view.mode != "chat"
            if ended:
                del self._views[run]
            elif isinstance(event, AT_REST):
                self._resting.add(run)
                return
            self._resting.discard(run)
        self._show()
        if ended:
            self.console.print(tree(view))
        if isinstance(event, PersonAsked):
            self.pause()

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Show ``what`` with a spinner meanwhile."""
        self._busy.append(what)
        self._show()
        try:
            yield
        finally:
            self._busy.remove(what)
            if not self._busy and self._resting.issuperset(self._views):
                self.pause()

    def _show(self) -> None:
        if self._live is None:
            self._live = Live(self, console=self.console, refresh_per_second=8, transient=True)
            self._live.start()

    def pause(self) -> None:
        """Take the moving part off the screen; the next event brings it back."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def reply(self, run: str, text: str) -> None:
        """Leave the work of this message on the screen, and the reply under it."""
        self.pause()
        self._resting.add(run)
        view = self._views[run]
        if view.inputs or view.steps:
            view.answer, view.status = None, ""  # the reply follows below, and the conversation goes on
            self.console.print(tree(view, title=False))
        self.console.print(Text(text))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop moving; goals that did not end leave their tree on the screen, and what they answered."""
        self.pause()
        for view in self._views.values():
            if view.mode != "chat":
                self.console.print(tree(view))
        self.cut_off()


def make_report(json: bool = False, parallel: int = 1) -> Report:
    """Return the report that fits: a tree on a terminal, lines when piped, silence for ``--json``.

    With ``--json`` a terminal on standard error still shows the tree there.
    """
    if json:
        return LiveReport(Console(stderr=True)) if sys.stderr.isatty() else WarningReport()
    console = Console()
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveReport(console)
    return PlainReport(label=parallel > 1)


def tree(view: RunView, title: bool = True) -> Tree:
    """Return the run as a tree that fits any width: calls and results keep to one row each."""
    root = Tree(Text(view.goal, style="bold"), guide_style="dim", hide_root=not title)
    for call in view.inputs:
        root.add(_call_lines(call, "dim"))
    for step in view.steps:
        _add_step(root, step)
    for note in view.notes:
        root.add(_row(one_line(note), "yellow"))
    for check in view.checks:
        mark, style = MARKS["done" if check.passed else "failed"]
        root.add(_row(f"{mark} {check_text(check)}", style))
    if view.answer is not None and view.status != "limit":
        root.add(Text(answer_text(view.answer), style="bold"))
    for path in view.delivered:
        root.add(_row(f"delivered {path}", "green"))
    for line in view.undelivered:
        root.add(_row(line, "yellow"))
    if view.status:
        root.add(_verdict(view))
    return root


def _add_step(root: Tree, step: StepView) -> None:
    mark, style = MARKS[step.state]
    branch = root.add(_row(f"{mark} {step.purpose}", style)) if step.purpose else root
    for call in step.calls:
        branch.add(_call_lines(call, ""))


def _call_lines(call: CallView, style: str) -> Group:
    mark, mark_style = MARKS[call.state]
    head = Text.assemble((f"{mark} ", mark_style), (call.tool, style or "cyan"), " ", (call.arguments, "dim"))
    rows = [_fit(head)]
    if call.preview:
        name = f"{call.handle} = " if call.handle else ""
        rows.append(_row(name + one_line(call.preview)[:PREVIEW_WIDTH], style or ""))
    return Group(*rows)


def _row(text: str, style: str = "") -> Text:
    return _fit(Text(text, style=style))


def _fit(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _verdict(view: RunView) -> Text:
    word, style = VERDICTS.get(view.status, (view.status, "bold"))
    line = Text.assemble((word, style))
    if view.status not in ("achieved", "answered") and view.cause:
        line.append(f": {view.cause}")
    line.append(f" · {view.figures}", style="dim")
    return line


def check_text(check: CheckResult) -> str:
    """Return a check's verdict in one line."""
    return one_line(clean(f"check {check.kind}: {check.detail or ('passed' if check.passed else 'failed')}"))


def plain_lines(view: RunView, event: Event) -> Iterator[str]:
    """Yield the lines that ``event``, just applied to ``view``, adds to plain output."""
    match event:
        case RunStarted():
            yield f"run     {event.run}  {event.model}"
            if view.mode != "chat":
                yield f"goal    {one_line(view.goal)}"
        case PersonSaid():
            yield f"said    {one_line(view.goal)}"
        case ModelTurn(call={"name": "plan"}):
            for number, step in enumerate((s for s in view.steps if not s.dropped), start=1):
                yield f"plan    {number}. {step.tool}: {step.purpose}"
        case ModelTurn(call={"name": "finish"}) if view.mode == "chat":
            yield f"answer  {one_line(answer_text(view.answer))}"
        case ModelTurn(call=None):
            yield f"invalid {one_line(clean(event.invalid or event.text))}"
        case ToolOutcome():
            calls = [*view.inputs, *(call for step in view.steps for call in step.calls)]
            call = next(call for call in calls if call.call_id == event.call_id)
            name = f"{call.handle} = " if call.handle else ""
            kind = "input" if event.by == "driver" else "call"
            state = "" if event.state == "done" else f"{event.state}: "
            result = f"{state}{name}{one_line(call.preview)[:PREVIEW_WIDTH]}"
            yield f"{kind:<7} {call.tool} {call.arguments} -> {result}"
        case ToolsShown() if event.tools:
            yield f"tools   {one_line(clean(', '.join(spec.name for spec in event.tools)))}"
        case MemoryRecalled():
            for entry in event.entries:
                yield f"recall  [{entry.id}] {one_line(clean(entry.text))[:PREVIEW_WIDTH]}"
        case ConversationFolded():
            yield f"compact {compacted(event).removeprefix('compacted ')}"
        case MemoryWritten() if event.kind != "episode":  # every run leaves one
            yield f"memory  {one_line(kept(event))[:PREVIEW_WIDTH]}"
        case PersonAsked():
            yield f"asks    {one_line(clean(event.text))}"
        case CheckResult():
            yield f"{'passed' if event.passed else 'failed':<7} {check_text(event)}"
        case RunEnded():
            yield from plain_end(view)


def plain_end(view: RunView) -> Iterator[str]:
    """Yield the last lines of a run: answer, deliveries, verdict with figures."""
    if view.answer is not None:
        yield f"answer  {one_line(answer_text(view.answer))}"
    for path in view.delivered:
        yield f"file    {path}"
    for line in view.undelivered:
        yield f"note    {line}"
    word = VERDICTS.get(view.status, (view.status, ""))[0]
    told = view.cause and view.status not in ("achieved", "answered")
    cause = f": {one_line(view.cause)}" if told else ""
    yield f"{word}{cause} ({view.figures})"


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
