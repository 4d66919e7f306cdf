"""Bad input and bad luck: prompts that do not fit, memory that runs out, numbers that are not finite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.tiny import tiny_loaded
from transformers import GPT2Config, LlamaConfig

from autogpt.llm.engine.engine import Engine, Request
from autogpt.llm.message import CallSpec, Message, Prompt, Sampling, Turn
from autogpt.llm.models.local import ContextOverflow, LocalModel
from autogpt.llm.models.token_budget import PARTS, ledger
from autogpt.llm.nn.build import make_forward
from autogpt.llm.nn.load import LoadedModel
from autogpt.llm.text.tokenizer import ChatTokenizer

CALLS = (
    CallSpec(
        "finish",
        {
            "type": "object",
            "properties": {"answer": {"type": "string", "maxLength": 12}},
            "required": ["answer"],
        },
    ),
)


def tiny(vocabulary: int = 300, kind: str = "llama") -> LoadedModel:
    config: Any = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=600, initializer_range=0.2,
    )  # fmt: skip
    if kind == "gpt2":
        config = GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=3, n_head=2, n_positions=600)
    return tiny_loaded(config, 6)


@pytest.fixture
def model(chat_folder: Path) -> LocalModel:
    tokenizer = ChatTokenizer(chat_folder)
    return LocalModel(tiny(tokenizer.vocab_size), tokenizer, name="tiny")


def request(session: str, seed: int, length: int = 40) -> Request:
    ids = torch.randint(300, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Request(session, ids, sampling=Sampling(max_tokens=8))


SHORT = RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried")


@pytest.mark.parametrize("error", [SHORT, torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_short_memory_frees_what_is_idle_and_tries_once_more(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, failures = tiny(), [error]
    forward = make_forward(loaded.model, loaded.config)
    engine = Engine(loaded, forward=forward)
    expected = Engine(tiny()).generate([request("a", 1)])[0].ids
    engine.generate([request("idle", 2), request("ended", 3, 90)])
    engine.close("ended")
    before, hidden = engine.nbytes, forward.hidden

    def short(*given: Any, **named: Any) -> Any:
        if failures:
            raise failures.pop()
        return hidden(*given, **named)

    monkeypatch.setattr(forward, "hidden", short)
    assert engine.generate([request("a", 1)])[0].ids == expected
    assert not failures and engine.nbytes <= before / 2

    failures.extend([error, error])
    both = engine.generate([request("a", 1), request("b", 2)])
    assert all("out of memory with 2 goals at once" in (answer.error or "") for answer in both)
    assert all("lower" in (answer.error or "") for answer in both)
    assert engine.generate([request("a", 1)])[0].ids == expected  # and the engine goes on

    failures.append(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        engine.generate([request("a", 4)])


@pytest.mark.parametrize(("kind", "layer"), [("llama", "model.layers.1"), ("gpt2", "transformer.h.1")])
def test_numbers_that_are_not_finite_name_the_first_bad_layer(kind: str, layer: str) -> None:
    broken = tiny(kind=kind)
    next(broken.model.get_submodule(f"{layer}.mlp").parameters()).data.fill_(float("nan"))
    error = Engine(broken).generate([request("a", 1)])[0].error
    assert error is not None and "not finite at token 40" in error and f"first in {layer}.mlp" in error


def test_numbers_that_are_not_finite_stop_their_goal_only() -> None:
    expected = Engine(tiny()).generate([request("good", 1)])[0].ids
    poisoned = tiny()
    poisoned.model.get_parameter("model.embed_tokens.weight").data[7] = float("inf")
    good = request("good", 1)
    assert 7 not in [*good.ids, *expected]
    bad = Request("bad", [*good.ids, 7, 5], sampling=Sampling(max_tokens=4))
    engine = Engine(poisoned)
    answers = engine.generate([bad, good])
    assert "first in model.embed_tokens" in (answers[0].error or "")
    assert answers[1].error is None and answers[1].ids == expected
    assert len(engine.log("bad")) == 0  # nothing of it is kept


TOLD = (
    Message("system", "You are it.\nfinish(answer): the end", parts=(("tools", "finish(answer): the end"),)),
    Message("user", "Goal: count\n[a] the player is old", parts=(("memory", "[a] the player is old"),)),
    Message("assistant", "thinking"),
    Message("tool", "a result"),
)


def test_the_ledger_adds_up_to_the_token(model: LocalModel) -> None:
    counts = ledger(model.tokenizer, TOLD)
    assert tuple(counts) == PARTS and all(count > 0 for count in counts.values())
    total = len(model.tokenizer.encode_messages(TOLD, continue_assistant=True).ids)
    assert sum(counts.values()) == total
    assert counts["tools"] == model.tokenizer.count("finish(answer): the end")
    more = ledger(model.tokenizer, (*TOLD[:3], Message("tool", "a result" + " 7" * 50)))
    changed = {part for part in PARTS if more[part] != counts[part]}
    assert changed == {"this turn"}


def test_a_prompt_that_is_too_long_is_refused_with_its_ledger(model: LocalModel) -> None:
    long = (*TOLD[:1], Message("user", "7 " * 400, parts=(("memory", "7 " * 300),)))
    with pytest.raises(
        ContextOverflow, match=r"tiny takes at most 599 \(system \d+, tools \d+, memory"
    ) as caught:
        model.respond([Prompt("x", long, CALLS)])
    total = len(model.tokenizer.encode_messages(long, continue_assistant=True).ids)
    assert sum(caught.value.ledger.values()) == total and f"has {total} tokens" in str(caught.value)
    assert max(caught.value.ledger, key=lambda part: caught.value.ledger[part]) == "memory"


def prompt(session: str, *more: Message, **sampling: Any) -> Prompt:
    start = (Message("system", "Answer."), Message("user", "What is the answer?"))
    return Prompt(session, (*start, *more), CALLS, Sampling(max_tokens=60, **sampling))


def test_the_best_of_several_candidates_is_kept(model: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    greedy = model.respond([prompt("greedy")])[0]
    seen: list[Turn] = []

    def chances(states: torch.Tensor, turns: Sequence[Turn]) -> list[float]:
        assert len(states) == len(turns) == 5
        seen.extend(turns)
        same = [sum(a.call == b.call for b in turns) for a in turns]  # their chances are added up
        return [(1.0 if i == 3 else 0.1) / count for i, count in enumerate(same)]

    monkeypatch.setattr(model, "value", SimpleNamespace(chances=chances))
    heard: list[str] = []
    chosen, other = model.respond(
        [prompt("best", best_of=5), prompt("other", best_of=5)], lambda i, text: heard.append(f"{i}{text}")
    )
    assert len(seen) == 10 and chosen.ids == seen[3].ids and other.ids == seen[8].ids
    assert seen[0].ids == greedy.ids == seen[5].ids  # the first candidate is the greedy one
    assert len({turn.ids for turn in seen[:5]}) > 2
    assert heard == [f"0{chosen.text}", f"1{other.text}"]
    # the candidates' own sessions are gone
    assert all(len(model.engine.log(f"{name}#{k}")) == 0 for name in ("best", "other") for k in range(1, 5))

    # the chosen candidate's session goes on as if it had been alone
    said = Message("assistant", chosen.text, chosen.ids)
    later = model.respond([prompt("best", said, Message("tool", "go on"))])[0]
    assert later.cached_tokens >= chosen.prompt_tokens
    fresh = LocalModel(model.loaded, model.tokenizer, name="fresh")
    assert fresh.respond([prompt("best", said, Message("tool", "go on"))])[0].ids == later.ids

    monkeypatch.setattr(model, "value", None)
    surest = model.respond([prompt("sure", best_of=5)])[0]
    assert surest.confidence == max(greedy.confidence, surest.confidence)
    assert model.engine.log("sure").ids[-len(surest.ids) :] == list(surest.ids)
