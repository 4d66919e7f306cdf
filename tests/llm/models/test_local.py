"""The local model as a model, on a real (tiny, untrained) GPT: whatever it says is an allowed call."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.calls import CALLS, GO
from support.tiny import tiny_module
from transformers import LlamaConfig

from autogpt.errors import ModelUnavailable
from autogpt.llm.engine import sequence
from autogpt.llm.message import CallSpec, Message, Prompt, Sampling, Turn, why_invalid
from autogpt.llm.models.local import ContextOverflow, LocalModel
from autogpt.llm.text.grammar import GrammarError, mark_forced
from autogpt.llm.text.tokenizer import ChatTokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, chat_folder: Path) -> Path:
    """A model folder with random weights and the suite's tokenizer."""
    place = tmp_path_factory.mktemp("model")
    tokenizer = ChatTokenizer(chat_folder)
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size + 13,  # padded, as many models are
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    tiny_module(config, 5).save_pretrained(place)
    (place / "tokenizer.json").write_text((chat_folder / "tokenizer.json").read_text())
    return place


@pytest.fixture(scope="module")
def model(folder: Path) -> LocalModel:
    return LocalModel.load(folder, device="cpu", dtype="float32", name="tiny")


def ask(session: str, *messages: Message, **sampling: Any) -> Prompt:
    return Prompt(session, messages or GO, CALLS, Sampling(temperature=1.0, **sampling))


def test_every_turn_is_an_allowed_call_with_its_exact_tokens(model: LocalModel) -> None:
    grammar = model.compiler.compile(CALLS)
    names = set()
    for seed in range(12):
        turn = model.respond([ask(f"s{seed}", seed=seed)])[0]
        assert turn.call is not None, turn.invalid
        assert why_invalid(turn.call, CALLS) is None
        assert turn.text == model.tokenizer.decode(turn.ids) and turn.ids[-1] == model.tokenizer.eos_id
        assert mark_forced(grammar, turn.ids) == list(turn.forced)
        assert all(
            (logprob == 0.0) or not free for logprob, free in zip(turn.logprobs, turn.forced, strict=True)
        )
        assert all(logprob <= 0.0 for logprob in turn.logprobs)
        names.add(turn.call.name)
    assert names == {"files.read", "finish"}


def test_a_batch_answers_as_each_alone(model: LocalModel) -> None:
    prompts = [
        ask(f"batch{i}", *GO, Message("assistant", "x"), Message("user", str(i)), seed=i) for i in range(5)
    ]
    together = model.respond(prompts)
    for prompt in prompts:
        model.close_session(prompt.session)
    alone = [model.respond([prompt])[0] for prompt in prompts]
    assert [turn.ids for turn in together] == [turn.ids for turn in alone]


def test_the_next_turn_reuses_the_last_ones_work(model: LocalModel) -> None:
    first = model.respond([ask("long")])[0]
    said = Message("assistant", first.text, first.ids)
    second = model.respond([ask("long", *GO, said, Message("tool", "hello"))])[0]
    last_sampled = max(i for i, forced in enumerate(first.forced) if not forced)
    assert second.cached_tokens >= first.prompt_tokens + last_sampled  # forced tokens at the end may wait
    assert second.prompt_tokens > second.cached_tokens
    model.engine.clear()
    cold = model.respond([ask("long", *GO, said, Message("tool", "hello"))])[0]
    assert cold.cached_tokens == 0 and cold.ids == second.ids


def test_a_cut_call_is_invalid(model: LocalModel) -> None:
    turn = model.respond([ask("cut", max_tokens=6)])[0]
    assert turn.call is None and turn.invalid == "cut by the token limit" and len(turn.ids) == 6


def test_free_text_may_be_long_and_is_ended_at_its_own_limit(model: LocalModel) -> None:
    text = {"type": "string", "pattern": r"^[^$](.|\n){200,7999}$"}
    schema = {"type": "object", "properties": {"answer": text}, "required": ["answer"]}
    long = CallSpec("finish", schema, free_text=True)
    sampling = Sampling(temperature=1.0, max_tokens=90)
    turn = model.respond([Prompt("free", GO, (long,), sampling)])[0]
    # the text says less than its 200 characters, so it cannot be ended, and 4 tokens are its last chance
    assert turn.call is None and turn.invalid == "cut by the token limit" and len(turn.ids) == 94
    text["pattern"] = r"^[^$](.|\n){0,7999}$"
    heard: list[str] = []
    texts = []
    for seed in range(4):
        drawn = Sampling(temperature=1.0, max_tokens=25, seed=seed)
        asked = Prompt(f"free{seed}", GO, (long,), drawn)
        turn = model.respond([asked], lambda _, piece: heard.append(piece))[0]
        assert turn.call is not None and turn.ids[-1] == model.tokenizer.eos_id
        assert turn.text == "".join(heard) == turn.call.text()
        texts.append((len(turn.ids) > 25, turn.call.arguments["answer"].endswith("…")))
        heard.clear()
    assert (True, True) in texts and all(cut == ended for cut, ended in texts)


def test_a_call_that_is_no_free_text_is_cut_off_beside_one_that_is_ended(model: LocalModel) -> None:
    text = {"type": "string", "minLength": 5, "maxLength": 300}
    schema = {"type": "object", "properties": {"text": text}, "required": ["text"]}
    calls = (CallSpec("files.write", schema), CallSpec("finish", schema, free_text=True))
    found = set()
    for seed in range(24):
        sampling = Sampling(temperature=1.0, max_tokens=30, seed=seed)
        turn = model.respond([Prompt(f"two{seed}", GO, calls, sampling)])[0]
        if len(turn.ids) >= 30:
            name = turn.text.partition('{"name":"')[2].partition('"')[0]
            found.add((name, turn.call is not None))
    assert found == {("files.write", False), ("finish", True)}


def test_free_text_is_granted_step_by_step_unless_it_repeats_itself(
    model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence, "STEP", 60)
    text = {"type": "string", "pattern": r"^(ab){100,2000}$"}
    schema = {"type": "object", "properties": {"text": text}, "required": ["text"]}

    def said(free: bool) -> Turn:
        calls = (CallSpec("say", schema, free_text=free),)
        return model.respond([Prompt(f"circle{free}", GO, calls, Sampling(max_tokens=90))])[0]

    assert len(said(free=False).ids) == 90, "the grammar wants the circle, so only the most ends it"
    assert 60 <= len(said(free=True).ids) < 70


def test_text_is_streamed_whole(model: LocalModel) -> None:
    heard = {0: "", 1: ""}

    def listen(i: int, piece: str) -> None:
        heard[i] += piece

    turns = model.respond([ask("a", seed=1), ask("b", seed=2)], listen)
    assert [heard[0], heard[1]] == [turn.text for turn in turns]


def test_a_prompt_longer_than_the_context_names_the_numbers(model: LocalModel) -> None:
    long = Message("user", "7 " * 400)
    with pytest.raises(ContextOverflow, match=r"has \d{3,} tokens, the model tiny takes at most 511"):
        model.respond([ask("x", long)])
    bad, good = model.respond([ask("x", long), ask("y")])
    assert bad.call is None and bad.invalid is not None and "at most 511" in bad.invalid
    assert good.call is not None


def test_a_schema_that_cannot_be_compiled_is_named(model: LocalModel) -> None:
    wrong = CallSpec("odd", {"type": "object", "properties": {"a": {"not": {}}}, "required": ["a"]})
    with pytest.raises(GrammarError, match="'odd'"):
        model.respond([Prompt("x", GO, (wrong,))])


def test_free_text_stops_at_the_limit_and_leaves_no_session(model: LocalModel) -> None:
    pieces: list[str] = []
    text = model.generate("Say something.", max_tokens=9, system="Be brief.", on_text=pieces.append)
    assert text.startswith("".join(pieces))
    assert text == model.generate("Say something.", max_tokens=9, system="Be brief.")
    with pytest.raises(ContextOverflow):
        model.generate("7 " * 400)


def test_hashes_name_the_weights_and_the_tokenizer(folder: Path, model: LocalModel) -> None:
    assert model.name == "tiny"
    assert model.tokenizer_hash == ChatTokenizer(folder).fingerprint
    assert LocalModel.load(folder, device="cpu", dtype="float32").fingerprint == model.fingerprint


def test_a_tokenizer_with_more_tokens_than_the_weights_have_rows_is_refused(
    tmp_path: Path, folder: Path
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    first = len(tokenizer["model"]["vocab"])
    extra = [
        {"id": first + i, "content": f"<extra{i}>", "special": True, "normalized": False,
         "single_word": False, "lstrip": False, "rstrip": False}
        for i in range(14)
    ]  # fmt: skip
    tokenizer["added_tokens"] += extra
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    rows, tokens = first + 13, first + 14
    with pytest.raises(ModelUnavailable, match=f"tokenizer has {tokens} tokens.*rows for {rows}") as caught:
        LocalModel.load(tmp_path, device="cpu", dtype="float32")
    assert "\n" not in str(caught.value)


def test_a_folder_without_tokenizer_or_weights_is_one_clear_line(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ModelUnavailable):
        LocalModel.load(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text())))
    with pytest.raises(ModelUnavailable, match=r"tokenizer\.json"):
        LocalModel.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())
    with pytest.raises(ModelUnavailable, match="weights"):
        LocalModel.load(tmp_path)
