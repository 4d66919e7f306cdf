"""``autogpt chat``: a conversation in the terminal, which is one durable run.

On a terminal the line editor keeps a history and Ctrl-J starts a new line; without one, each line of
standard input is a message, so that a conversation can be piped in. Ctrl-C stops the step under way;
a second one (or Ctrl-D, or /exit) leaves, and the conversation can be resumed. Nothing is kept here
that the journal does not hold.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ..agent.goals.load import Goal, adapt
from ..agent.open import open_model, open_registry, open_store, with_memory
from ..agent.record.record import Record
from ..agent.record.state import State
from ..agent.run.chat import ChatSession, Reply
from ..agent.run.feedback import who
from ..agent.run.memory import BUDGET, RunMemory
from ..agent.run.runner import Interrupted, Runner
from ..errors import UsageError, UserError
from ..memory.entry import Draft, Kind, Verdict
from ..settings import Settings, load
from .parser import settings_of
from .report import Report, ask_at_terminal, at_terminal, make_report
from .runs import show_runs
from .tables import show_table
from .view import RunView, clean

HELP = """\
/inputs            the files of this conversation
/inputs add FILE   add a file; the next message may use it
/tools             what the agent can do
/plan              the plan of the last message
/usage             time and tokens so far
/good, /bad [WHY]  rate the last answer; ratings are kept as experience
/fix [ANSWER]      say what the last answer should have been; kept as experience
/fix-call [CALL]   the same for its last tool call, as NAME {"argument": "value"}
/private           no model may learn from this conversation
/remember TEXT     keep something for later conversations and goals
/recall QUERY      what the memory holds on something
/runs              recent runs
/exit              leave (the conversation can be resumed)
Ctrl-J starts a new line, Ctrl-C stops the step under way."""


class Leave(Exception):
    """The person wants to go."""


class Repl:
    """One sitting at one conversation."""

    def __init__(self, session: ChatSession, runner: Runner, report: Report) -> None:
        self.session = session
        self.runner = runner
        self.report = report
        self.pending: list[Path] = []
        """Files to be added with the next message."""

    def handle(self, line: str) -> None:
        """Carry out one line: a slash command or a message. Raises Leave and Interrupted."""
        line = line.strip()
        if not line:
            return
        if line.startswith("/"):
            self._command(line)
            return
        inputs, self.pending = self.pending, []
        self._show(self.session.say(line, inputs))

    def catch_up(self) -> None:
        """Show what the last message was, and finish its answer if a crash cut it off. Raises Interrupted."""
        self.report.catch_up(self.session.run, self.session.events)
        view = self.view()
        if view.said:
            print(f"you said: {view.goal}")
            self._show(self.session.continue_())

    def _show(self, reply: Reply) -> None:
        text = reply.text if reply.status in ("answered", "question") else f"no answer: {reply.cause}"
        self.report.reply(self.session.run, clean(text))

    def _command(self, line: str) -> None:
        name, _, rest = line[1:].partition(" ")
        rest = rest.strip()
        commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: print(HELP),
            "tools": self._tools,
            "inputs": self._inputs,
            "plan": self._plan,
            "usage": lambda _: print(self.view().totals),
            "good": lambda text: self._rate(1.0, text),
            "bad": lambda text: self._rate(0.0, text),
            "fix": self._fix,
            "fix-call": self._fix_call,
            "private": self._private,
            "remember": self._remember,
            "recall": self._recall,
            "runs": self._runs,
            "exit": self._exit,
            "quit": self._exit,
        }
        if name not in commands:
            print(f"no command /{clean(name)}; /help lists them")
            return
        commands[name](rest)

    def _tools(self, _: str) -> None:
        specs = Record(self.session.events).specs.values()
        show_table(("tool", "what it does"), [(spec.name, spec.description) for spec in specs])
        hidden = State.of(self.session.events).hidden_tools
        if hidden:
            print(f"and {hidden} more, of which each message shows the model those that fit it")

    def _inputs(self, rest: str) -> None:
        verb, _, names = rest.partition(" ")
        if verb == "add" and names:
            for name in _names(names):
                path = Path(name).expanduser()
                if not path.is_file():
                    print(f"{clean(name)}: no such file")
                    continue
                self.pending.append(path.absolute())
                print(f"{path.name} comes with your next message")
            return
        listed = [*State.of(self.session.events).inputs, *(path.name for path in self.pending)]
        print(clean("\n".join(listed)) if listed else "no files yet; /inputs add FILE")

    def _plan(self, _: str) -> None:
        steps = [step for step in self.view().steps if step.purpose]
        for number, step in enumerate(steps, start=1):
            print(f"{number}. {step.tool}: {step.purpose} ({step.state})")
        if not steps:
            print("no plan yet")

    def _rate(self, value: float, text: str) -> None:
        print(f"thanks, {self.session.rate(value, text, who())}")

    def _fix(self, text: str) -> None:
        """Keep a better answer; on a terminal the old one is there to be edited."""
        last = self.session.answer
        if last is None:
            print("nothing to fix yet; ask something first")
            return
        if not text and at_terminal():
            text = _edited("answer", last[1])
        if not text:
            print("what should the answer have been? /fix ANSWER")
            return
        self.session.correct(text, who())
        print("thanks, kept with the model's answer")

    def _fix_call(self, text: str) -> None:
        """Keep a better tool call; on a terminal the old one is there to be edited."""
        last = self.session.call
        if last is None:
            print("no tool was called for the last message")
            return
        if not text and at_terminal():
            text = _edited("call", last[1])
        if not text:
            print(f"it was {clean(last[1])}; what should it have been? /fix-call NAME {{...}}")
            return
        self.session.correct_call(text, who())
        print("thanks, kept with the model's call")

    def _private(self, _: str) -> None:
        """Let no model learn from this, as ``autogpt experience forget`` does for a run that has ended."""
        from ..agent.learn.forget import forget
        from .memory import say_models

        run, store = self.session.run, self.runner.store
        with self.report.busy("forgetting"):
            done = forget(store, load(), [run], who(), lambda said: self.session.consent(said.learn, said.by))
        print(f"no model learns from this; undo: autogpt experience allow {run}")
        say_models(done.models)

    def _remember(self, text: str) -> None:
        """Keep what the person says by hand, as a fact that holds everywhere."""
        if self.runner.memory is None:
            print("the memory is off (setting `memory`, or --no-memory)")
        elif not text:
            print("what should be remembered? /remember TEXT")
        else:
            written = self.runner.memory.write(Draft(Kind.FACT, text))
            entry = None if written.verdict is Verdict.REFUSED else written.entry
            print(f"kept as [{entry.id}]" if entry else f"not kept: {written.reason}")

    def _recall(self, query: str) -> None:
        if self.runner.memory is None:
            print("the memory is off (setting `memory`, or --no-memory)")
            return
        spaces = RunMemory(self.runner.memory, self.session.folder).namespaces
        hits = self.runner.memory.recall(query, spaces, BUDGET).hits if query else ()
        for hit in hits:
            print(clean(f"[{hit.entry.id}] {hit.entry.kind}: {hit.entry.text}"))
        if not hits:
            print("nothing" if query else "what should be looked up? /recall QUERY")

    def _runs(self, _: str) -> None:
        show_runs(self.runner.store, self.runner.store.list_runs(10))

    def _exit(self, _: str) -> None:
        raise Leave

    def view(self) -> RunView:
        """Return the conversation as a person sees it."""
        return RunView.of(self.session.events)


def chat(args: argparse.Namespace) -> int:
    """Begin a conversation over the given files."""
    goal = adapt("a conversation", args.inputs)
    goal.input_paths()  # a missing file should show before a model is loaded
    return _sit(args, goal, None)


def continue_chat(args: argparse.Namespace, run: str) -> int:
    """Go on with a conversation."""
    return _sit(args, None, run)


def _sit(args: argparse.Namespace, goal: Goal | None, run: str | None) -> int:
    memory = False if getattr(args, "no_memory", False) else None
    settings = settings_of(args, memory=memory)
    store = open_store(settings)
    if run and not args.model:
        settings = settings.model_copy(update={"model": store.info(run).model or settings.model})
    with make_report() as report, with_memory(settings, store) as home_memory:
        with report.busy(f"loading {settings.model}"):
            model = open_model(settings)
        ask = ask_at_terminal(report) if at_terminal() else None
        runner = Runner(
            store,
            model,
            open_registry(),
            ask=ask,
            on_event=report.on_event,
            on_text=report.on_text,
            memory=home_memory,
        )
        session = ChatSession(runner, goal, run=run)
        repl = Repl(session, runner, report)
        report.pause()
        if at_terminal():
            print(f"{model.name} is listening; /help lists commands, Ctrl-D leaves")
        try:
            _talk(repl, settings, begun=run is not None)
        finally:
            session.close(end=False)
    print(f"to go on: autogpt resume {session.run}", file=sys.stderr)
    return 0


def _talk(repl: Repl, settings: Settings, begun: bool) -> None:
    """Go on with a conversation that has ``begun``, then read lines until the person leaves."""
    stopped = begun and _was_stopped(repl, repl.catch_up)
    for line in _lines(settings):
        if line is None:
            if stopped:
                return
            stopped = True
            print("Ctrl-C again leaves", file=sys.stderr)
            continue
        try:
            stopped = _was_stopped(repl, partial(repl.handle, line))
        except Leave:
            return


def _was_stopped(repl: Repl, work: Callable[[], None]) -> bool:
    """Do what the person wants; return whether Ctrl-C stopped it. Raises Leave."""
    try:
        work()
    except (Interrupted, KeyboardInterrupt):
        repl.report.cut_off()
        print("stopped; say something else, or Ctrl-C again to leave", file=sys.stderr)
        return True
    except UserError as error:
        repl.report.pause()
        print(f"error: {error}", file=sys.stderr)
    return False


def _lines(settings: Settings) -> Iterator[str | None]:
    """Yield the person's lines; None for a Ctrl-C at the prompt. Ends at end of input."""
    if not at_terminal():
        for line in sys.stdin:  # bytes that are no text become question marks
            yield line.encode(errors="replace").decode()
        return
    read = _editor(settings)
    while True:
        try:
            yield read()
        except KeyboardInterrupt:
            yield None
        except EOFError:
            return


def _names(text: str) -> list[str]:
    """Return file names as a shell would read them. Raises UsageError for an open quote."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{text}: {error}; close it, or leave it out") from error


def _edited(what: str, text: str) -> str:
    """Let the person edit ``text``; empty when they leave (Ctrl-C, Ctrl-D)."""
    from prompt_toolkit import prompt

    try:
        return prompt(f"{what}: ", default=text).strip()
    except (KeyboardInterrupt, EOFError):
        return ""


def _editor(settings: Settings) -> Callable[[], str]:
    """Return a function that reads one message with history and Ctrl-J for a new line."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("c-j")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    words = [line.split()[0].rstrip(",") for line in HELP.splitlines() if line.startswith("/")]
    editor: PromptSession[str] = PromptSession(
        history=FileHistory(str(settings.home / "history")),
        completer=WordCompleter([*words, "/bad", "/help"], sentence=True),
        key_bindings=keys,
        # room under the prompt for the menu of commands: on a small screen the answer needs it more
        reserve_space_for_menu=min(6, shutil.get_terminal_size().lines // 5),
    )
    return lambda: editor.prompt("> ")
