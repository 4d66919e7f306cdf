"""Measure models on strangers: suites, starts, examples and talk, in one run, as one table and one JSON file.

``python benchmarks/strangers.py --models small,medium --json FILE [--suites ...] [--limit N] [--also ...]``

Each suite is an ``autogpt eval`` of its own process; the table has goals, how many were achieved with
Wilson's interval at 95 %, calls that were no valid call, seconds a goal (median and 90th percentile; with
``--parallel 1`` a goal alone) and the process's peak memory. ``--also`` adds, for each model:

- ``starts``: a table question from the shell (``autogpt run``) in a home of its own, to the checked answer:
  the first start, which makes the caches of the home, and the median of three later ones;
- ``examples``: the eight goals of ``examples/``, each from the shell;
- ``talk``: seconds from a message to the first letter of its answer, median of a session's later messages.

What the JSON file already has, under the same model, suite and settings, is not measured again: run the
command again after an interruption, or with more models or suites. Models are fetched beforehand
(``autogpt model fetch``); a model may also be a file or folder. ``make_suites.py`` makes the suites.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from autogpt.agent.evaluate.statistics import wilson
from autogpt.settings import load

ROOT = Path(__file__).resolve().parents[1]
SUITES = ROOT / "benchmarks" / "suites"
CHOSEN = ("unseen_tools", "strange_tables", "word_problems", "beside_tools", "office", "conversations")
QUESTION = ("Which supplier had the most late deliveries?", "examples/data/deliveries.csv")
ANSWER = "Nordfracht"
TALK = ("Hello!", "I have a free afternoon today.", "Thank you!", "What is the capital of Italy?",
        "I like walking in the hills.", "Good bye!")  # fmt: skip
Row = dict[str, Any]


@dataclass(frozen=True)
class Ran:
    """A process that has ended."""

    code: int
    out: str
    seconds: float
    peak_mb: int


def run(command: Sequence[str], home: str | None = None) -> Ran:
    """Run Python with ``command``; the peak memory is the kernel's figure for the process."""
    environment = {**os.environ, **({"AUTOGPT_HOME": home} if home else {})}
    with tempfile.TemporaryFile("w+") as out:
        begun = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, *command], stdout=out, stdin=subprocess.DEVNULL, cwd=ROOT, env=environment
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - begun
        out.seek(0)
        return Ran(child.returncode, out.read(), seconds, usage.ru_maxrss // 1024)


def chip() -> str:
    """Return the processor's name, its cores and the number formats that it has instructions for."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*: (.*)", text)
    flags = set(re.findall(r"\b(avx2|avx512f|avx512_bf16|amx_bf16)\b", text))
    return f"{name[1] if name else sys.platform}, {os.cpu_count()} cores, {' '.join(sorted(flags))}"


def suite(model: str, name: str, args: argparse.Namespace) -> Row:
    """Run one suite and return its figures; the goals' own rows are kept with them."""
    path = next((found for found in SUITES.glob(f"{name}.jsonl*")), None)
    if path is None:
        sys.exit(f"strangers: no suite {name}: make it with `python benchmarks/make_suites.py {name}`")
    sessions = name == "conversations"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = ["-m", "autogpt", "eval", str(path), "--model", model, "--json", str(report)]
        command += ["--limit", str(args.limit)] if args.limit else []
        command += [] if sessions else ["--parallel", str(args.parallel)]
        ended = run(command)
        if ended.code != 0:
            return {"error": f"exit code {ended.code}"}
        found = json.loads(report.read_text(encoding="utf-8"))
    seconds = [row["seconds"]["total"] for row in found["rows"]]
    kept = ("id", "category", "status", "answer", "invalid_calls", "tool_calls", "checks", "cause")
    return {
        "n": found["n"],
        "passed": found["passed"],
        "invalid_calls": found["invalid_calls"],
        "by_category": found["by_category"],
        "seconds_median": round(statistics.median(seconds), 2),
        "seconds_p90": round(sorted(seconds)[math.ceil(0.9 * len(seconds)) - 1], 2),
        "peak_mb": ended.peak_mb,
        "wall_seconds": round(ended.seconds, 1),
        "goals": [{key: row.get(key) for key in kept} for row in found["rows"]],
    }


def starts(model: str) -> Row:
    """Time the table question from the shell: in a home without caches, then again."""
    with tempfile.TemporaryDirectory() as home:
        models = load().home / "models"
        if models.is_dir():
            (Path(home) / "models").mkdir()
            for folder in models.iterdir():
                _link(folder, Path(home) / "models" / folder.name)
        command = ["-m", "autogpt", "run", *QUESTION, "--model", model, "--no-memory", "--json"]
        ran = [run(command, home) for _ in range(4)]
    return {
        "n": len(ran),
        "passed": sum(one.code == 0 and ANSWER in one.out for one in ran),
        "first_seconds": round(ran[0].seconds, 2),
        "later_seconds": round(statistics.median(one.seconds for one in ran[1:]), 2),
        "peak_mb": max(one.peak_mb for one in ran),
    }


def _link(folder: Path, target: Path) -> None:
    """Make a folder of links to the files of ``folder``: what is written beside them stays apart."""
    target.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            (target / file.name).symlink_to(file.resolve())


def examples(model: str) -> Row:
    """Run each example goal from the shell; achieved is exit code 0."""
    goals = sorted((ROOT / "examples").glob("*.yaml"))
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder)
        subprocess.run(["cp", "-r", str(ROOT / "examples"), folder], check=True)
        ran = [
            run(
                [
                    "-m",
                    "autogpt",
                    "run",
                    str(copied / "examples" / goal.name),
                    "--model",
                    model,
                    "--no-memory",
                ]
            )
            for goal in goals
        ]
    failed = [goal.stem for goal, one in zip(goals, ran, strict=True) if one.code != 0]
    return {
        "n": len(ran),
        "passed": len(ran) - len(failed),
        "failed": failed,
        "seconds_median": round(statistics.median(one.seconds for one in ran), 2),
        "peak_mb": max(one.peak_mb for one in ran),
    }


def talk(model: str) -> Row:
    """Hold a session in a process of its own; return when the answers began."""
    ended = run([str(Path(__file__).resolve()), "--talk-with", model])
    if ended.code != 0:
        return {"error": f"exit code {ended.code}"}
    first: list[float] = json.loads(ended.out.splitlines()[-1])
    warm = statistics.median(first[1:]) if len(first) > 1 else None
    return {"n": len(first), "first_letter": warm, "each": first, "peak_mb": ended.peak_mb}


def talk_with(model: str) -> list[float]:
    """Say the messages of TALK; return for each answer the seconds to its first letter."""
    from autogpt.agent.api import AutoGPT

    found: list[float] = []
    with tempfile.TemporaryDirectory() as home:
        models = load().home / "models"
        if models.is_dir():
            (Path(home) / "models").symlink_to(models)
        agent = AutoGPT(model=model, home=home, memory=False)
        session = agent.chat()
        text, begun = "", 0.0

        def heard(run_id: str, piece: str) -> None:
            nonlocal text
            before, text = text, text + piece
            letter = re.compile(r'"(?:answer|question)":"[^"$]')
            if letter.search(text) and not letter.search(before):
                found.append(round(time.perf_counter() - begun, 3))

        agent.runner.on_text = heard
        for message in TALK:
            text, begun = "", time.perf_counter()
            session.say(message)
        session.close()
    return found


ALSO: dict[str, Callable[[str], Row]] = {"starts": starts, "examples": examples, "talk": talk}


def show(rows: Sequence[Row]) -> None:
    """Print the rows as a Markdown table, then what ``--also`` measured in words."""
    print("| suite | model | n | achieved | 95 % | invalid calls | s a goal, median (p90) | peak MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        if "error" in row:
            print(f"| {row['suite']} | {row['model']} | | {row['error']} | | | | |")
            continue
        for name, part in [(row["suite"], row), *_parts(row)]:
            low, high = wilson(part["passed"], part["n"]) if "passed" in part else (0.0, 1.0)
            rate = f"{part['passed'] / part['n']:.1%} | {low:.1%} to {high:.1%}" if "passed" in part else "|"
            more = f"{part['invalid_calls']} | {_seconds(row)} | {row['peak_mb']}" if part is row and (
                "invalid_calls" in row) else f"| {_seconds(part)} | {part.get('peak_mb', '')}"  # fmt: skip
            print(f"| {name} | {row['model']} | {part['n']} | {rate} | {more} |")


def _parts(row: Row) -> list[tuple[str, Row]]:
    parts = row.get("by_category", {})
    return [(f"- {name}", part) for name, part in parts.items()] if len(parts) > 1 else []


def _seconds(row: Row) -> str:
    if "first_seconds" in row:
        return f"first start {row['first_seconds']}, later {row['later_seconds']}"
    if "first_letter" in row:
        return f"first letter {row['first_letter']}"
    if "seconds_median" not in row:
        return ""
    return (
        f"{row['seconds_median']} ({row['seconds_p90']})"
        if "seconds_p90" in row
        else str(row["seconds_median"])
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="small", help="names, files or folders, with commas between")
    parser.add_argument("--suites", default=",".join(CHOSEN), help="names, with commas; '' for none")
    parser.add_argument("--also", default="", help=f"any of {','.join(ALSO)}")
    parser.add_argument("--limit", type=int, help="only the first N goals of each suite")
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--json", type=Path, help="keep results here, and do not repeat what it has")
    parser.add_argument("--talk-with", metavar="MODEL", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.talk_with:
        print(json.dumps(talk_with(args.talk_with)))
        return 0
    kept = json.loads(args.json.read_text(encoding="utf-8")) if args.json and args.json.exists() else []
    named = [name for name in args.suites.split(",") if name]
    extra = [name for name in args.also.split(",") if name]
    if wrong := [name for name in extra if name not in ALSO]:
        parser.error(f"--also: there is no {', '.join(wrong)}; there are {', '.join(ALSO)}")
    asked = []
    for name in [*named, *extra]:
        for model in args.models.split(","):
            settings = {"limit": args.limit, "parallel": args.parallel} if name in named else {}
            key = {"suite": name, "model": model, **settings}
            done = next((row for row in kept if "error" not in row and key.items() <= row.items()), None)
            if done is None:
                print(f"{name}, {model} ...", file=sys.stderr)
                figures = suite(model, name, args) if name in named else ALSO[name](model)
                done = {**key, "chip": chip(), "day": date.today().isoformat(), **figures}
                kept = [row for row in kept if not key.items() <= row.items()] + [done]
                if args.json:
                    args.json.write_text(json.dumps(kept, ensure_ascii=False, indent=1), encoding="utf-8")
            asked.append(done)
    print(chip())
    show(asked)
    return 1 if any("error" in row for row in asked) else 0


if __name__ == "__main__":
    sys.exit(main())
