"""llama.cpp as a model: nano as a GGUF file, against the same weights in our engine."""

from __future__ import annotations

import builtins
import importlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.calls import CALLS, GO
from support.paths import BENCHMARKS

from autogpt.agent.open import open_model
from autogpt.errors import ModelUnavailable, UsageError
from autogpt.llm.message import CallSpec, Message, Prompt, Sampling, why_invalid
from autogpt.llm.models.llamacpp import LlamaCppModel, only_llamacpp_runs
from autogpt.llm.models.local import LocalModel
from autogpt.llm.models.token_budget import ContextOverflow
from autogpt.llm.nn.load import load_model
from autogpt.llm.registry import NANO, ModelRegistry
from autogpt.llm.text.grammar import GrammarError
from autogpt.llm.text.tokenizer import ChatTokenizer
from autogpt.settings import Settings


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nano as a GGUF file."""
    loaded = load_model(NANO, device="cpu", dtype="float32")
    path = tmp_path_factory.mktemp("gguf") / "nano.gguf"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        importlib.import_module("turns.gguf_file").write_gguf(loaded.model, loaded.config, NANO, path, "f32")
    return path


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[LlamaCppModel]:
    pytest.importorskip("xllamacpp")
    yield LlamaCppModel.load(path, threads=1)


@pytest.fixture(scope="module")
def ours(path: Path) -> LocalModel:
    return LocalModel(load_model(NANO, device="cpu", dtype="float32"), ChatTokenizer(path))


def ask(session: str, *messages: Message, calls: tuple[CallSpec, ...] = CALLS, **sampling: Any) -> Prompt:
    return Prompt(session, messages or GO, calls, Sampling(**sampling))


def test_it_says_what_our_engine_says(model: LlamaCppModel, ours: LocalModel) -> None:
    for text in ("Read a.txt", "Say hello", "What is 3 + 4?"):
        prompt = ask(text, Message("system", "Answer with one call."), Message("user", text))
        here, there = ours.respond([prompt])[0], model.respond([prompt])[0]
        assert there.call == here.call and there.text == here.text and there.ids == here.ids
        assert there.forced == here.forced and there.prompt_tokens == here.prompt_tokens
        # of the allowed tokens only the best are known, so what is left for each is never less than there is
        for known, true in zip(there.logprobs, here.logprobs, strict=True):
            assert true - 0.02 < known < true + 0.3


def test_every_turn_is_an_allowed_call_with_its_exact_tokens(model: LlamaCppModel) -> None:
    said = set()
    for seed in range(12):
        turn = model.respond([ask("s", temperature=1.5, seed=seed)])[0]
        assert turn.call is not None, turn.invalid
        assert why_invalid(turn.call, CALLS) is None
        assert turn.text == model.tokenizer.decode(turn.ids) and turn.ids[-1] == model.tokenizer.eos_id
        assert len(turn.ids) == len(turn.origins) == len(turn.logprobs)
        assert all(logprob <= 0.0 for logprob in turn.logprobs)
        pairs = zip(turn.logprobs, turn.forced, strict=True)
        assert all(logprob == 0.0 for logprob, forced in pairs if forced)
        said.add(turn.text)
    assert len(said) > 3
    again = [model.respond([ask("s", temperature=1.5, seed=5)])[0].ids for _ in range(2)]
    assert again[0] == again[1]


def test_characters_of_several_tokens_keep_their_ids(model: LlamaCppModel, ours: LocalModel) -> None:
    texts = {"text": {"enum": ["你好，世界", "你坏"]}}
    call = CallSpec("say", {"type": "object", "properties": texts, "required": ["text"]})
    pieces: list[str] = []
    turn = model.respond([ask("c", calls=(call,))], lambda _, piece: pieces.append(piece))[0]
    assert turn.call is not None and why_invalid(turn.call, (call,)) is None
    assert turn.ids == ours.respond([ask("c", calls=(call,))])[0].ids and len(turn.logprobs) == len(turn.ids)
    assert model.tokenizer.decode(turn.ids) == turn.text == "".join(pieces)


def test_what_was_said_before_is_not_computed_again(model: LlamaCppModel) -> None:
    first = model.respond([ask("kept")])[0]
    said = (*GO, Message("assistant", first.text, first.ids), Message("tool", "nothing is there"))
    turn = model.respond([ask("kept", *said)])[0]
    assert turn.cached_tokens >= first.prompt_tokens + len(first.ids) - 1
    assert turn.cached_tokens < turn.prompt_tokens


def test_a_call_cut_off_is_invalid(model: LlamaCppModel) -> None:
    turn = model.respond([ask("cut", max_tokens=5)])[0]
    assert turn.call is None and turn.invalid == "cut by the token limit" and len(turn.ids) == 5


def test_a_prompt_that_is_too_long_costs_itself_alone(model: LlamaCppModel) -> None:
    long = ask("long", Message("user", "word " * 9000))
    with pytest.raises(ContextOverflow, match="takes at most 4095"):
        model.respond([long])
    turns = model.respond([long, ask("short")])
    assert "takes at most" in (turns[0].invalid or "") and turns[1].call is not None


def test_calls_without_a_grammar_are_refused(model: LlamaCppModel) -> None:
    with pytest.raises(GrammarError, match="no call is allowed"):
        model.respond([ask("none", calls=())])
    assert model.respond([ask("after")])[0].call is not None


def test_an_interrupt_stops_the_answer(model: LlamaCppModel) -> None:
    heard: list[str] = []

    def interrupted(_: int, piece: str) -> None:
        heard.append(piece)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.respond([ask("stop")], interrupted)
    assert len(heard) == 1
    assert model.respond([ask("stop")])[0].call is not None


def test_threads_take_turns(model: LlamaCppModel) -> None:
    alone = [model.respond([ask("t", Message("user", f"Say {n}"))])[0].ids for n in range(3)]
    found: dict[int, tuple[int, ...]] = {}

    def one(n: int) -> None:
        found[n] = model.respond([ask("t", Message("user", f"Say {n}"))])[0].ids

    threads = [threading.Thread(target=one, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[n] for n in range(3)] == alone


def test_a_system_message_is_kept_on_disk(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    long = Message("system", "Answer with one call. " * 20)
    first = LlamaCppModel.load(path, threads=1, cache_dir=tmp_path)
    said = first.respond([ask("a", long, Message("user", "Read a.txt"))])[0]
    (kept,) = tmp_path.glob("*/*")
    assert kept.stat().st_mode & 0o077 == 0
    second = LlamaCppModel.load(path, threads=1, cache_dir=tmp_path)
    again = second.respond([ask("b", long, Message("user", "Read a.txt"))])[0]
    assert again.ids == said.ids and again.cached_tokens >= 80
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 255
    kept.write_bytes(data)
    third = LlamaCppModel.load(path, threads=1, cache_dir=tmp_path)
    assert third.respond([ask("c", long, Message("user", "Read a.txt"))])[0].ids == said.ids
    (mended,) = tmp_path.glob("*/*")
    assert mended.name == kept.name and mended.read_bytes() != bytes(data)


def test_it_answers_freely(model: LlamaCppModel, ours: LocalModel) -> None:
    pieces: list[str] = []
    said = model.generate("Say hello", max_tokens=8, on_text=pieces.append)
    assert said == ours.generate("Say hello", max_tokens=8)
    assert model.tokenizer.count(said) <= 8


def test_the_file_is_its_identity(model: LlamaCppModel, path: Path, tmp_path: Path) -> None:
    assert model.tokenizer_hash == ChatTokenizer(path).fingerprint
    assert (model.name, model.prompting, model.context) == ("nano", "teaching", 4096)
    copy = tmp_path / "other.gguf"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    copy.write_bytes(data)
    assert LlamaCppModel.load(copy).fingerprint != model.fingerprint


def test_a_file_that_is_none_is_said_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="no such file"):
        LlamaCppModel.load(tmp_path / "away.gguf")
    (tmp_path / "text.gguf").write_text("hello there")
    with pytest.raises(ModelUnavailable, match="not a GGUF file"):
        LlamaCppModel.load(tmp_path / "text.gguf")


def test_it_is_named_by_its_file(model: LlamaCppModel, path: Path) -> None:
    opened = open_model(Settings(model=f"llamacpp:{path}"))
    assert opened.name == f"llamacpp:{path}" and opened.fingerprint == model.fingerprint
    with pytest.raises(UsageError, match="needs a file"):
        open_model(Settings(model="llamacpp:"))


def test_a_file_that_is_too_large_in_our_forms_is_for_llamacpp(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xllamacpp")
    assert isinstance(open_model(Settings(model=str(path))), LocalModel)
    monkeypatch.setattr(ModelRegistry, "too_little_memory", lambda *_: "it needs 9 GB, 4 GB are available")
    assert isinstance(open_model(Settings(model=str(path))), LlamaCppModel)


def test_an_architecture_that_we_do_not_compute_is_for_llamacpp(path: Path, tmp_path: Path) -> None:
    strange = tmp_path / "strange.gguf"
    strange.write_bytes(path.read_bytes().replace(b"qwen3", b"qwenX"))
    assert only_llamacpp_runs(strange) and not only_llamacpp_runs(path) and not only_llamacpp_runs(NANO)
    pytest.importorskip("xllamacpp")
    with pytest.raises(ModelUnavailable, match=r"strange\.gguf: llama\.cpp cannot load it"):
        LlamaCppModel.load(strange)


def test_without_the_package_the_line_says_how_to_get_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "xllamacpp":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModelUnavailable, match=r"pip install 'autogpt\[gguf\]'"):
        LlamaCppModel.load(path)
