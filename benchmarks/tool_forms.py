"""Which way of describing a tool serves best? Three forms, before and after a short training.

``AUTOGPT_DATA=FOLDER python benchmarks/tool_forms.py MODEL [--train N] [--limit N] [--forms typed,schema]``

``names`` is ``tool(a, b?)`` and its description, ``typed`` a signature in Python's notation with what is
known of each argument, ``schema`` the function as JSON, as Hermes' and OpenAI's prompts show it. Each form
is measured in a process of its own, on the first ``--limit`` goals of the suite ``unseen_tools``: the model
as it is under the teaching prompt, then trained on ``--train`` episodes in that form (Seal-Tools and SGD,
none with a held-out tool or service; the same for each form) under the short prompt. Tokens are those of
one tool's lines, the mean over the suite's tools. Without ``--train`` only the first half is measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from autogpt import prompts
from autogpt.agent.evaluate.statistics import wilson
from autogpt.agent.evaluate.suite import evaluate
from autogpt.agent.experts import stubs
from autogpt.agent.experts.expert import Recorder
from autogpt.agent.experts.public import services
from autogpt.agent.goals.load import Goal, load_goals
from autogpt.llm.models.local import LocalModel
from autogpt.llm.text.tokenizer import ChatTokenizer
from autogpt.llm.training.finetune import FinetuneConfig, finetune
from autogpt.prompts.tool_lines import Form, Shown, ToolLine
from autogpt.tools.registry import builtins

SUITE = Path(__file__).parent / "suites" / "unseen_tools.jsonl.zst"
FORMS = ("names", "typed", "schema")
TYPED = ToolLine.shown


def show_as(form: str) -> None:
    """Make every prompt of this process describe tools in ``form``."""

    def shown(line: ToolLine, wanted: Form) -> Shown:
        if form == "schema":
            function = {"description": line.description, "parameters": line.parameters}
            return Shown(line.name, json.dumps(function, ensure_ascii=False))
        return TYPED(line, "names" if form == "names" else "typed")

    ToolLine.shown = shown  # type: ignore[method-assign]


def episodes(tokenizer: Path, count: int, path: Path) -> None:
    """Write ``count`` training episodes in the form of this process."""
    rng = random.Random(5)
    tasks = itertools.chain.from_iterable(
        zip(
            services.requests(rng, count),
            stubs.seal_tools(random.Random(6), count, strangers=3),
            stubs.requests(random.Random(7), count),
            strict=False,
        )
    )
    recorder = Recorder(ChatTokenizer(tokenizer), builtins(), prompting="typed")
    samples = itertools.islice(recorder.samples(tasks, max_tokens=2000), count)
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))


def measured(label: str, model: LocalModel, goals: list[Goal], form: str) -> dict[str, object]:
    """Run the goals and return the row of the table."""
    begun = time.process_time()
    done = evaluate("unseen_tools", goals, model, builtins(), parallel=8)
    passed = sum(row.status == "achieved" for row in done.rows)
    kind = model.prompting
    lines = [ToolLine(stub.name, stub.parameters, stub.description) for goal in goals for stub in goal.stubs]
    tokens = [len(model.tokenizer.plain(line.shown(prompts.FORMS[kind]).text)) for line in lines]
    low, high = wilson(passed, len(goals))
    return {
        "form": form, "training": label, "n": len(goals), "passed": passed, "low": low, "high": high,
        "tokens": round(statistics.mean(tokens), 1),
        "cpu_seconds": round((time.process_time() - begun) / len(goals), 1),
    }  # fmt: skip


def one_form(args: argparse.Namespace) -> None:
    """Measure one form and print its rows as JSON lines."""
    form = args.forms
    show_as(form)
    goals = load_goals(SUITE)[: args.limit]
    model = LocalModel.load(args.model)
    print(json.dumps(measured("none", model, goals, form)), flush=True)
    del model
    if args.train:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            data = folder / "train.jsonl"
            episodes(Path(args.model), args.train, data)
            config = FinetuneConfig(
                base=Path(args.model), data=[data], out=folder / "run", rank=8, alpha=16, batch=8,
                micro_tokens=1280, longest=2000, learning_rate=5e-4, prompting="typed",
            )  # fmt: skip
            finetune(config)
            model = LocalModel.load(args.model, adapter=folder / "run" / "adapter")
            print(json.dumps(measured(f"{args.train} episodes", model, goals, form)), flush=True)


def main() -> None:
    """Start a process for each form and print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("model", help="a GGUF file or model folder that was not trained here")
    parser.add_argument("--train", type=int, default=0, metavar="N")
    parser.add_argument("--limit", type=int, default=60, metavar="N")
    parser.add_argument("--forms", default=",".join(FORMS))
    args = parser.parse_args()
    forms = args.forms.split(",")
    if len(forms) == 1:
        one_form(args)
        return
    print("| form | trained on | n | passed | 95 % | tokens a tool | CPU s a goal |\n" + "| --- " * 7 + "|")
    for form in forms:
        command = [sys.executable, __file__, args.model, "--forms", form, "--limit", str(args.limit)]
        ran = subprocess.run(
            [*command, "--train", str(args.train)], stdout=subprocess.PIPE, text=True, check=True
        )
        for row in map(json.loads, ran.stdout.splitlines()):
            between = f"{row['low'] * 100:.0f} to {row['high'] * 100:.0f}"
            first = (row["form"], row["training"], row["n"], row["passed"], between)
            print("|", *(f"{cell} |" for cell in (*first, row["tokens"], row["cpu_seconds"])), flush=True)


if __name__ == "__main__":
    main()
