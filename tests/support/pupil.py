"""A model whose skill is a number, for tests of improving: no weights, but real tokens, masks and loops.

It answers each goal at once, rightly as often as its skill says, by a draw from seed and goal; a candidate
is trained by writing the skill that the test wants into its adapter's folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from autogpt.agent.goals.load import Goal
from autogpt.agent.learn.canaries import REFERENCE
from autogpt.agent.learn.improve import ImproveOptions, ImproveReport, improve
from autogpt.agent.learn.trainer import Subject, Trainer
from autogpt.agent.record.events import Event, ModelTurn, RunEnded, RunStarted
from autogpt.agent.record.store import RunStore
from autogpt.llm.engine.sampling import uniform
from autogpt.llm.message import Prompt, ToolCall, Turn
from autogpt.llm.registry import NANO
from autogpt.llm.text.grammar import GrammarCompiler, teacher_ids
from autogpt.llm.text.tokenizer import ChatTokenizer
from autogpt.llm.training.trainer import Report
from autogpt.settings import Settings, load
from autogpt.text import Prompting

RIGHT, WRONG = "certainly", "hardly"
TOKENIZER = ChatTokenizer(NANO)


class Pupil:
    """Answers RIGHT as often as ``skill`` says, else WRONG."""

    def __init__(self, skill: float, name: str) -> None:
        self.skill = skill
        self.name = name
        self.fingerprint = f"pupil {skill}"
        self.tokenizer = ChatTokenizer(NANO)
        self.tokenizer_hash = self.tokenizer.fingerprint
        self.prompting: Prompting = "names"
        self.compiler = GrammarCompiler(self.tokenizer, self.tokenizer.vocab_size)

    def respond(
        self, prompts: Sequence[Prompt], on_text: Callable[[int, str], None] | None = None
    ) -> list[Turn]:
        return [self._answer(prompt) for prompt in prompts]

    def close_session(self, session: str) -> None:
        pass

    def _answer(self, prompt: Prompt) -> Turn:
        said = prompt.messages[1].content
        sampled = prompt.sampling.temperature > 0
        seed, drawn = (prompt.sampling.seed, f"{said} {prompt.session}") if sampled else (0, said)
        right = uniform(seed, drawn, 0) < self.skill
        call = ToolCall("finish", {"answer": RIGHT if right else WRONG})
        ids, forced = teacher_ids(self.compiler.compile(prompt.calls), call.text())
        origins = "".join("f" if mark else "s" for mark in forced)
        logprobs = tuple(0.0 if mark else -0.5 for mark in forced)
        return Turn(call, call.text(), tuple(ids), origins, logprobs)


class School(Trainer):
    """Trains by decree: every candidate has the skill ``taught``."""

    taught = 0.95
    start = 0.5
    exposed = -1.0
    """Log-probability of a planted canary; that of all others is 0."""

    def __init__(self, settings: Settings, subject: Subject) -> None:
        super().__init__(settings, subject)
        self.models: dict[Path | None, Pupil] = {}
        self.trained_on: list[dict[str, Any]] = []

    def load(self, adapter: Path | None) -> Any:
        file = adapter and adapter / "adapter_model.safetensors"
        skill = float(file.read_text()) if file else self.start
        return self.models.setdefault(adapter, Pupil(skill, "pupil"))

    def finetune(self, on_step: Any, data: Any = (), epsilon: Any = None, **config: Any) -> Report:
        folder = config["out"] / "adapter"
        folder.mkdir(parents=True, exist_ok=True)
        facts = {"base": str(NANO), "tokenizer_sha256": "t"}
        (folder / "adapter_config.json").write_text("{}")
        (folder / "autogpt.json").write_text(json.dumps(facts))
        (folder / "adapter_model.safetensors").write_text(str(self.taught))
        return Report(True, 3, 30, 900, 0.1, 0.5, None, folder)

    def prefer(
        self, method: str, items: Sequence[Any], replay: Any, on_step: Any, epsilon: Any = None, **config: Any
    ) -> Report:
        self.trained_on = list(items)
        return self.finetune(on_step, **config)

    def log_probabilities(self, adapter: Path | None, rows: Sequence[Any]) -> list[float]:
        return [self.exposed if number % (REFERENCE + 1) == 0 else 0.0 for number, _ in enumerate(rows)]


def words(count: int, begin: int = 0) -> list[str]:
    """Return texts of goals without a common word, so that no two are alike."""
    letters = ["".join(chr(97 + n // 26**k % 26) for k in range(3)) for n in range(begin, begin + count)]
    return [f"{text}x {text}y {text}z" for text in letters]


def goals(count: int, begin: int = 0, category: str = "words") -> list[Goal]:
    """Return goals that ``RIGHT`` achieves."""
    made = [{"goal": text, "category": category, "check": [{"answer": {"equals": RIGHT}}]}
            for text in words(count, begin)]  # fmt: skip
    return [Goal.model_validate(record) for record in made]


def study(
    school: type[School] = School, options: ImproveOptions | None = None, judging: int = 40, **more: Any
) -> ImproveReport:
    """Improve once, on 24 goals, judged by others."""
    settings = load(model=os.environ.get("PUPIL", ""))
    given: dict[str, Any] = {"goals": goals(24), "gate_goals": goals(judging, 5000), **more}
    options = options or ImproveOptions(attempts=2)
    return improve(settings, options, trainer=school, **given)[-1]


def run_of(
    store: RunStore,
    number: int,
    text: str,
    answer: str,
    *events: Event,
    model: str = "nano",
    tokenizer: str = TOKENIZER.fingerprint,
    reward: float | None = 1.0,
) -> str:
    """Record a live run of one turn."""
    call = {"name": "finish", "arguments": {"answer": answer}}
    said = f'<tool_call>{{"name":"finish","arguments":{{"answer":"{answer}"}}}}</tool_call>'
    ids = list(TOKENIZER.assistant_ids(said))
    turn = ModelTurn(text=said, call=call, ids=ids, forced=[False] * len(ids), logprobs=[-0.5] * len(ids))
    first = RunStarted(
        run=f"20261122-{number:06d}-aaaaaa",
        goal={"goal": text, "check": [{"answer": {"equals": RIGHT}}]},
        model=model,
        tokenizer_hash=tokenizer,
        folder=str(store.home),
    )
    end = RunEnded(status="achieved" if reward else "not_met", cause="", answer=answer, reward=reward)
    with store.create(first) as journal:
        for event in (turn, end, *events):
            journal.append(event)
        journal.end(end.status) if hasattr(journal, "end") else None
    return first.run
