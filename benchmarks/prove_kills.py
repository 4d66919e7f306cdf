"""Proof by killing: real processes, SIGKILL at every kind of instant, resume, and an outside observer.

    python benchmarks/prove_kills.py --kills 60 [--seed 0]

One goal is run over and over: it writes, moves and delivers files, posts to a log outside (an opaque
tool of the caller: nobody can tell whether a lost post arrived) and pays into a ledger outside (an
idempotent one: it can be verified). Each trial forks a process that works on the goal and is killed
before or after the n-th commit, before the n-th file operation, around the effect of a tool, or at a
random time; then the run is resumed, in some trials killed again while it resumes, until it ends.
What counts is seen from outside: the log, the ledger, the delivered files, and the events that the
killed process had reported as committed. A control without the journal's protection (every lost call
simply repeated) must fail, or the proof would prove nothing.

Needs fork (Linux, macOS). Not covered: power loss (the disk keeps what the kernel has).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema  # noqa: F401  (loaded once here, not once in every process that is killed)
from kill_world import Careless, Kill, Pay, Post, Switch, WatchedStore, lines, watch

from autogpt import prompts
from autogpt.agent.goals.load import Goal
from autogpt.agent.record.events import ModelTurn, RunEnded, ToolOutcome, dump_event
from autogpt.agent.record.store import RunStore
from autogpt.agent.run.replay import replay
from autogpt.agent.run.runner import Runner
from autogpt.llm.message import Prompt, ToolCall
from autogpt.llm.models.scripted import ScriptedModel
from autogpt.tools.registry import Registry, builtins

STEPS = ("files.write", "ledger.pay", "files.move", "post", "files.write")
SCRIPT = (
    ToolCall("plan", {"steps": [{"tool": tool, "for": "the work"} for tool in STEPS]}),
    ToolCall("files.write", {"path": "draft.txt", "content": "draft"}),
    ToolCall("post", {"text": "first"}),
    ToolCall("files.move", {"source": "draft.txt", "target": "done/draft.txt"}),
    ToolCall("ledger.pay", {"key": "k1", "amount": 5}),
    ToolCall("post", {"text": "second"}),
    ToolCall("files.write", {"path": "late.txt", "content": "Nordfracht"}),
    ToolCall("finish", {"answer": "done"}),
)
prompts.prompt_hash()  # reads the templates once, likewise
FILES = {"done/draft.txt": "draft", "late.txt": "Nordfracht"}


def say_next(prompt: Prompt) -> ToolCall:
    """What the scripted model says depends on the conversation alone, so it knows its place again."""
    return SCRIPT[sum(message.role == "assistant" for message in prompt.messages)]


class Bench:
    """One trial's world: a home, the goal's folder, the log and the ledger outside."""

    def __init__(self, root: Path, runner: type[Runner] = Runner) -> None:
        self.home, self.folder = root / "home", root / "goal"
        self.log, self.ledger = root / "log.txt", root / "ledger.txt"
        self.runner = runner
        self.folder.mkdir(parents=True)
        (self.folder / "notes.txt").write_text("remember the milk")
        self.told: list[str] = []
        self.counts: Counter[str] = Counter()
        self.kills = 0

    def goal(self) -> Goal:
        """The goal, as it would be read from a file in the folder."""
        goal = Goal.model_validate(
            {
                "goal": "do the work",
                "inputs": ["notes.txt"],
                "files": {"sub/inline.txt": "inline"},
                "grants": {"write": ["draft.txt", *FILES]},
                "check": [
                    {"file": {"path": "late.txt", "equals": "Nordfracht"}},
                    {"answer": {"equals": "done"}},
                ],
            }
        )
        return goal.at(self.folder)

    def registry(self, switch: Switch) -> Registry:
        """The built-in tools and the caller's two."""
        registry = builtins()
        registry.register(Post(self.log, switch))
        registry.register(Pay(self.ledger, switch))
        return registry

    def work(self, kill: Kill | None) -> bool:
        """Work on the goal in a process of its own, until it ends or is killed; True if it ended."""
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            os._exit(self._child(Switch(kill, write)))
        os.close(write)
        deadline = time.monotonic() + kill.at / 1000 if kill and kill.kind == "time" else None
        heard = self._listen(read, pid, deadline)
        _, status = os.waitpid(pid, 0)
        for line in heard:
            if line.startswith("counts "):
                self.counts = Counter(json.loads(line[7:]))
            else:
                self.told.append(line)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            self.kills += 1
            return False
        if os.WEXITSTATUS(status) != 0:
            raise AssertionError(f"the working process failed: {heard[-3:]}")
        return True

    @staticmethod
    def _listen(read: int, pid: int, deadline: float | None) -> list[str]:
        data = b""
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([read], [], [], left)[0]:
                os.kill(pid, signal.SIGKILL)
                deadline = None
                continue
            piece = os.read(read, 65536)
            if not piece:
                os.close(read)
                return data.decode().splitlines()
            data += piece

    def _child(self, switch: Switch) -> int:
        try:
            watch(switch)
            store = WatchedStore(self.home)
            store.switch = switch
            runner = self.runner(store, ScriptedModel([say_next] * len(SCRIPT)), self.registry(switch))
            known = store.list_runs()
            result = runner.resume(known[0].run) if known else runner.run(self.goal())
            switch.tell("counts " + json.dumps(switch.counts))
            return 0 if result.status == "achieved" else 1
        except BaseException as error:
            switch.tell(f"{type(error).__name__}: {error}")
            return 2

    def verify(self) -> int:
        """Compare what is outside with what was promised; return how many calls are uncertain.

        Raises AssertionError naming the promise that was broken.
        """
        store = RunStore(self.home)
        runs = store.list_runs()
        assert len(runs) == 1, f"{len(runs)} runs instead of one"
        events = store.load(runs[0].run)
        registry = self.registry(Switch(None, -1))
        store.database.close()
        lost = [line for line in self.told if line.startswith("event ") and not _is_there(line, events)]
        assert not lost, f"recorded, then lost: {lost}"
        turns = sum(isinstance(event, ModelTurn) for event in events)
        assert turns == len(SCRIPT), f"{turns} turns are recorded instead of {len(SCRIPT)}"
        assert sum(isinstance(event, RunEnded) for event in events) == 1, "ended more than once"
        outcomes = [event for event in events if isinstance(event, ToolOutcome) and event.by == "model"]
        calls = Counter(event.call_id for event in outcomes)
        assert set(calls.values()) == {1} and len(calls) == len(SCRIPT) - 2, f"outcomes: {calls}"
        uncertain = [event for event in outcomes if event.state == "uncertain"]
        assert all(event.tool == "post" and "uncertain" in event.preview for event in uncertain)
        posts = {"c3": "first", "c6": "second"}
        for event in outcomes:
            assert event.state in ("done", "uncertain"), f"{event.tool}: {event.preview}"
            if event.call_id in posts:
                seen = lines(self.log).count(posts[event.call_id])
                assert seen <= 1, f"posted {seen} times"
                assert seen == 1 or event.state == "uncertain", "lost without a word"
        assert lines(self.ledger) == ["k1"], f"paid {lines(self.ledger)}"
        found = {
            path.relative_to(self.folder).as_posix(): path.read_text()
            for path in self.folder.rglob("*")
            if path.is_file()
        }
        assert found == {"notes.txt": "remember the milk", **FILES}, f"delivered {sorted(found)}"
        again = replay(events, registry.select())
        assert again.same, f"does not replay: {again.difference}"
        return len(uncertain)


def _is_there(line: str, events: list[Any]) -> bool:
    _, number, kind = line.split()
    return int(number) < len(events) and dump_event(events[int(number)])["type"] == kind


def trial(root: Path, kills: list[Kill], runner: type[Runner] = Runner) -> Bench:
    """Work on the goal, killed at each of ``kills`` in turn, then to the end; verify and return."""
    bench = Bench(root, runner)
    for kill in kills:
        if bench.work(kill):
            break
    else:
        assert bench.work(None)
    bench.verify()
    return bench


def instants(counts: Mapping[str, int], milliseconds: float, seed: int) -> Iterator[list[Kill]]:
    """Yield kills without end: every commit, effect and file operation first, then random ones."""
    rng = random.Random(seed)
    for kind in ("before", "after", "effect"):
        for at in range(1, counts[kind] + 1):
            yield [Kill(kind, at)]
    for at in rng.sample(range(1, counts["file"] + 1), counts["file"]):
        yield [Kill("file", at)]
    while True:
        if rng.random() < 0.5:
            yield [Kill("time", rng.uniform(0, milliseconds * 1.1))]
        else:
            kinds = rng.choices(("before", "after", "effect", "file"), k=rng.choice((1, 2, 3)))
            yield [Kill(kind, rng.randint(1, max(1, counts[kind] // 2))) for kind in kinds]


def measure(root: Path) -> tuple[Counter[str], float]:
    """Run the goal undisturbed; return how often each instant comes, and its milliseconds."""
    bench = Bench(root)
    begun = time.perf_counter()
    assert bench.work(None)
    milliseconds = (time.perf_counter() - begun) * 1000
    assert bench.verify() == 0
    return bench.counts, milliseconds


def control(root: Path) -> bool:
    """Return whether the observer notices a runner that repeats lost calls."""
    try:
        trial(root, [Kill("effect", 2)], Careless)
    except AssertionError as error:
        return "posted 2 times" in str(error)
    return False


def campaign(kills: int, seed: int, say: Callable[[str], None]) -> int:
    """Kill at least ``kills`` processes; return the number of broken promises."""
    with tempfile.TemporaryDirectory(prefix="autogpt-kills-") as name:
        root = Path(name)
        if not control(root / "control"):
            raise SystemExit("the control passed: this proof would prove nothing")
        counts, milliseconds = measure(root / "dry")
        kinds = ("before", "after", "effect", "file")
        say(f"one run: {milliseconds:.0f} ms, instants: " + ", ".join(f"{counts[k]} {k}" for k in kinds))
        done = broken = uncertain = number = 0
        plan = instants(counts, milliseconds, seed)
        begun = time.perf_counter()
        while done < kills:
            number += 1
            instant = next(plan)
            shown = ", then ".join(map(str, instant))
            try:
                bench = trial(root / str(number), instant)
                uncertain += bench.verify()
                done += bench.kills
            except AssertionError as error:
                broken += 1
                done += 1
                say(f"BROKEN: killed {shown}: {error}")
        seconds = time.perf_counter() - begun
        say(f"{done} kills in {number} runs, {seconds:.0f} s, seed {seed}: {broken} broken promises,")
        say(f"{uncertain} uncertain calls reported; the control without recovery rules failed, as it must")
        return broken


def main() -> int:
    """Parse the command line and run the campaign."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    return 1 if campaign(args.kills, args.seed, print) else 0


if __name__ == "__main__":
    sys.exit(main())
