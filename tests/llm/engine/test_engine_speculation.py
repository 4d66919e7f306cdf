"""Drafts change nothing: the engine against slow, obvious decoding, over every combination.

Four shapes of random tiny models, decoded freely and under a real grammar, with and without drafts
and forced runs, alone and in a batch, cold, warm and forked.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from support.reference_decoder import Slow, slow_greedy
from support.tiny import generated, tiny_loaded
from transformers import GPT2Config, LlamaConfig, MistralConfig, Qwen3Config

from autogpt.llm.engine.engine import Engine, Generated, Request
from autogpt.llm.message import CallSpec, Sampling
from autogpt.llm.text.grammar import Grammar, GrammarCompiler
from autogpt.llm.text.tokenizer import ChatTokenizer

ERROR = 1e-4
"""Logits may differ by this much (fp32; a matrix product rounds by its shape)."""
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
    "tie_word_embeddings": True,
}
WORDS = ("nationality", "player", "the answer is", "caf\u00e9")
CALLS = (
    CallSpec(
        "tables.query",
        {
            "type": "object",
            "properties": {
                "select": {"type": "array", "items": {"enum": list(WORDS)}, "minItems": 3, "maxItems": 4},
                "path": {"enum": ["a.txt", "b.txt"]},
                "where": {"type": "string", "maxLength": 8},
            },
            "required": ["select", "path", "where"],
        },
    ),
    CallSpec(
        "finish",
        {"type": "object", "properties": {"answer": {"enum": [*WORDS, 12]}}, "required": ["answer"]},
    ),
)
NAMES = ("qwen3", "llama", "gpt2", "mistral")
Modes = tuple[bool, bool]
ALL: list[Modes] = [(False, False), (False, True), (True, False), (True, True)]


class World:
    """Tiny models over one tokenizer, a grammar, and the remembered answers of the oracle."""

    def __init__(self, folder: Path) -> None:
        tokenizer = ChatTokenizer(folder)
        v = tokenizer.vocab_size
        configs: dict[str, Any] = {
            "qwen3": Qwen3Config(vocab_size=v, head_dim=16, **SHAPE),
            "llama": LlamaConfig(vocab_size=v, **SHAPE),
            "gpt2": GPT2Config(
                vocab_size=v, n_embd=32, n_layer=2, n_head=2, n_positions=1024, initializer_range=0.2
            ),
            "mistral": MistralConfig(vocab_size=v, sliding_window=48, **SHAPE),
        }
        self.loaded = {name: tiny_loaded(config, 11) for name, config in configs.items()}
        self.grammar: Grammar = GrammarCompiler(tokenizer, v).compile(CALLS)
        self.tokenizer = tokenizer

        @cache
        def answer(name: str, ids: tuple[int, ...], grammar: bool, forced: bool) -> Slow:
            return slow_greedy(self.loaded[name].model, ids, LIMIT, self.grammar if grammar else None, forced)

        @cache
        def free(name: str, ids: tuple[int, ...]) -> list[int]:
            return generated(self.loaded[name], ids, LIMIT)

        self.answer, self.generated = answer, free

    def prompt(self, seed: int) -> list[int]:
        """Return a prompt in which calls stand that can be copied from."""
        said = f'{{"name":"tables.query","arguments":{{"select":["{WORDS[seed % 4]}","player"]}}}}'
        draw = torch.Generator().manual_seed(seed)
        noise = torch.randint(7, self.tokenizer.vocab_size, (5 + 9 * seed,), generator=draw).tolist()
        return [*noise, *self.tokenizer.assistant_ids(f"<tool_call>{said}</tool_call>"), *noise[:7]]


LIMIT = 48


@pytest.fixture(scope="module")
def world(chat_folder: Path) -> World:
    return World(chat_folder)


def same(found: Generated, expected: Slow) -> None:
    """Demand equal ids, up to the first near-tie of the expected ones."""
    assert found.error is None
    if found.ids == expected.ids:
        assert found.complete == expected.complete
        return
    pairs = zip(found.ids, expected.ids, strict=False)
    split = next(i for i, (a, b) in enumerate(pairs) if a != b)
    assert expected.margins[split] < 2 * ERROR, f"another token at {split}"
    pytest.fail(f"a tie at {split}: choose another seed, so that the test says more")


def request(world: World, session: str, ids: Sequence[int], grammar: bool) -> Request:
    return Request(session, ids, world.grammar if grammar else None, Sampling(max_tokens=LIMIT))


@pytest.mark.parametrize("mode", ALL, ids=["neither", "forced", "drafts", "both"])
@pytest.mark.parametrize("name", NAMES)
def test_grammatical_output_equals_the_oracle(world: World, name: str, mode: Modes) -> None:
    speculate, forced = mode
    engine = Engine(world.loaded[name], speculate=speculate, forced=forced, row_cost=0.01)
    prompts = [world.prompt(seed) for seed in range(4)]

    def check(answers: list[Generated], given: list[list[int]]) -> None:
        for answer, ids in zip(answers, given, strict=True):
            same(answer, world.answer(name, tuple(ids), True, forced))

    alone = engine.generate([request(world, "s0", prompts[0], True)])
    check(alone, prompts[:1])  # batch 1, cold
    rest = [request(world, f"s{i}", prompts[i], True) for i in range(1, 4)]
    check(engine.generate([request(world, "x0", prompts[0], True), *rest]), prompts)  # batch 4, cold
    engine.fork("s0", "fork")
    longer = [*prompts[0], *alone[0].ids, *prompts[1][:9]]
    check(engine.generate([request(world, "s0", longer, True)]), [longer])  # warm
    requests = [request(world, name, longer, True) for name in ("fork", "x0", "s0")]
    check(engine.generate(requests), [longer] * 3)  # forked, and warm in a batch
    assert (engine.stats.copied > 0) == speculate
    assert engine.stats.copied <= engine.stats.drafted


@pytest.mark.parametrize("speculate", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_free_output_equals_generate(world: World, name: str, speculate: bool) -> None:
    loaded = world.loaded[name]
    engine = Engine(loaded, speculate=speculate, row_cost=0.01)
    for turn, seeds in enumerate(((0,), (1, 2, 3, 0))):
        prompts = [world.prompt(seed) for seed in seeds]
        answers = engine.generate(
            [request(world, f"{turn}.{i}", ids, False) for i, ids in enumerate(prompts)]
        )
        for answer, ids in zip(answers, prompts, strict=True):
            assert answer.ids == world.generated(name, tuple(ids))
    if speculate:  # a repeated question is answered from what was said before
        assert engine.stats.copied > LIMIT / 2
