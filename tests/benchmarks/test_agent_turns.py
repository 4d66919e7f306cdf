"""The parts of ``benchmarks/agent_turns.py`` that judge: the transcripts, the gate, the counts."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.paths import BENCHMARKS

from autogpt.llm.message import CallSpec, Message, ToolCall
from autogpt.llm.registry import NANO
from autogpt.llm.text.grammar import GrammarCompiler, teacher_ids
from autogpt.llm.text.tokenizer import ChatTokenizer

PATH = {"path": {"type": "string", "maxLength": 9}}
CALL = CallSpec("look", {"type": "object", "properties": PATH}, "Look.")


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def part(name: str) -> Any:
    return importlib.import_module(f"turns.{name}")


def test_the_recorded_transcripts_are_long_enough() -> None:
    found = part("recording").load(BENCHMARKS / "data" / "agent_turns.json.zst")
    assert len(found.goals) >= 20
    assert min(len(goal.turns) for goal in found.goals) >= 6
    for goal in found.goals:
        for turn in goal.turns:
            assert len(turn.said) == len(turn.forced) and turn.calls and not all(turn.forced)
        for before, after in zip(goal.turns, goal.turns[1:], strict=False):
            assert after.prompt[: len(before.prompt)] == before.prompt


def test_transcripts_survive_the_file(tmp_path: Path) -> None:
    recording = part("recording")
    turns = (
        recording.TurnRecord((1, 2, 3), (CALL,), (7, 8), (True, False)),
        recording.TurnRecord((1, 2, 3, 7, 8, 9), (CALL,), (5,), (False,)),
        recording.TurnRecord((1, 4), (CALL,), (6,), (False,)),
    )
    whole = recording.Transcripts("m", "f", "t", (recording.GoalRecord("a", turns),))
    recording.save(whole, tmp_path / "t.zst")
    assert recording.load(tmp_path / "t.zst") == whole


def test_transcripts_are_told_again_in_another_models_tokens(chat_folder: Path) -> None:
    recording = part("recording")
    told, compiler = ChatTokenizer(chat_folder), GrammarCompiler(ChatTokenizer(NANO))
    text = ToolCall("look", {"path": "caf\u00e9 12"}).text()
    messages = [Message("system", "Look at\nfiles."), Message("user", "Where?")]
    turns = []
    for result in ("nothing <|im_end|> here", "3 files"):
        prompt = told.encode_messages(messages, continue_assistant=True).ids
        said, forced = teacher_ids(GrammarCompiler(told).compile([CALL]), text)
        turns.append(recording.TurnRecord(tuple(prompt), (CALL,), tuple(said), tuple(forced)))
        messages += [Message("assistant", text, tuple(said)), Message("tool", result)]
    whole = recording.Transcripts("m", "f", "t", (recording.GoalRecord("a", tuple(turns)),))
    again = recording.retold(whole, told, compiler)
    new = compiler.tokenizer
    assert again.tokenizer == new.fingerprint
    for one, other in zip(turns, again.goals[0].turns, strict=True):
        assert new.decode(other.prompt) == told.decode(one.prompt)
        assert list(other.said) == teacher_ids(compiler.compile([CALL]), text)[0]
        assert len(other.said) == len(other.forced)
        assert other.prompt.count(new.eos_id) == one.prompt.count(told.eos_id)
    first, second = again.goals[0].turns
    assert second.prompt[: len(first.prompt) + len(first.said)] == first.prompt + first.said


def test_the_gate_lets_small_errors_pass_and_no_others() -> None:
    gate = part("gate").gate
    random = np.random.default_rng(0)
    reference = random.normal(0, 3, (200, 500)).astype(np.float32)
    allowed = [random.choice(500, 40, replace=False) for _ in reference]
    assert gate(reference, reference, allowed).error == 0
    small = reference + random.normal(0, 0.03, reference.shape).astype(np.float32)
    large = reference + random.normal(0, 0.3, reference.shape).astype(np.float32)
    assert gate(reference, small, allowed).passed
    assert not gate(reference, large, allowed).passed
    assert gate(reference, large, allowed).error == pytest.approx(0.1, rel=0.1)
    # nearly the same logits, but the best allowed token is another in every tenth row
    turned = reference.copy()
    for row, ids in zip(turned[::10], allowed[::10], strict=True):
        best, second = ids[np.argsort(row[ids])[::-1][:2]]
        row[best], row[second] = row[second], row[best]
    verdict = gate(reference, turned, allowed)
    assert verdict.error < 0.05 and verdict.agreement < 0.95 and not verdict.passed


def test_prompt_tokens_are_counted_against_those_that_there_were() -> None:
    ratio = part("report").run_ratio
    said = {"ids": [1, 2, 3], "goal": 0, "unfed": 1}  # the last of three ids is computed with the next prompt
    once = [
        {**said, "turn": 0, "prompt": 100, "computed": 100},
        {**said, "turn": 1, "prompt": 123, "computed": 21},
        {**said, "turn": 2, "prompt": 146, "computed": 21},
    ]
    assert ratio(once) == pytest.approx(1.0)
    assert ratio([*once[:2], {**once[2], "computed": 146}]) == pytest.approx(267 / 142)


def test_calls_become_grammars_of_llama_cpp() -> None:
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["a", 'b"c']}, "to": {"type": "string", "pattern": "^[a-z]{1,9}$"}},
        "required": ["kind"],
    }
    text = part("gbnf").call_grammar([CallSpec("move", schema, "Move.")], 3, 4)
    rules = dict(line.split(" ::= ", 1) for line in text.splitlines())
    assert rules["root"] == "<[3]> (call0) <[4]>"
    assert rules["a0-0"] == r'"\"a\"" | "\"b\\\"c\""'
    assert rules["a0-1"] == r'"\"" [a-z]{1,9} "\""'
    assert rules["a0-f0"].startswith(r'"\"kind\":" a0-0')
