"""Every test runs in a world of its own: a fresh AUTOGPT_HOME, no settings leaking in, no network.

A test that needs the developer's data folder asks the environment before this fixture cleans it;
the suite itself needs none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from autogpt.agent.record.store import RunStore
    from autogpt.llm.registry import ModelRegistry

# Two workers share two cores: more threads than cores only makes them wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Clear AUTOGPT_* and point home and data at a new folder; returns AUTOGPT_HOME."""
    for name in [name for name in os.environ if name.startswith("AUTOGPT_")]:
        monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AUTOGPT_HOME", str(home / "autogpt"))
    return home / "autogpt"


@pytest.fixture
def nano_in_use(isolated: Path, monkeypatch: pytest.MonkeyPatch) -> ModelRegistry:
    """Nano is what is improved, and the gate takes fewer goals, for the tests' sake."""
    from autogpt.agent.evaluate import statistics as gate
    from autogpt.llm.registry import ModelRegistry

    monkeypatch.setattr(gate, "MIN_GOALS", 20)
    registry = ModelRegistry(isolated)
    registry.use("nano")
    return registry


@pytest.fixture
def store(isolated: Path) -> RunStore:
    """The runs of the test's home."""
    from autogpt.agent.record.store import RunStore

    return RunStore(isolated)


@pytest.fixture(scope="session")
def packed_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder (``AUTOGPT_DATA``) with a few records of each file."""
    import zstandard

    folder = tmp_path_factory.mktemp("data")
    for place in (Path(__file__).parent / "data").glob("*.jsonl"):
        raw = zstandard.ZstdCompressor().compress(place.read_bytes())
        (folder / f"{place.name}.zst").write_bytes(raw)
    return folder


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small real tokenizer, made like the base model's and prepared like it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from autogpt.llm.text.tokenizer import prepare_tokenizer

    folder = tmp_path_factory.mktemp("chat")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<repo_name>",
        "<reponame>",
        "<file_sep>",
        "<filename>",
    ]
    calls = [
        f'{{"name":"{name}","arguments":{{"{key}":"{word} {number}","{key}s":[["{word}","="]]}}}} tool_call'
        for name in ("tables.query", "tables.describe", "files.read", "calculator", "finish", "plan")
        for key in ("select", "where", "answer", "expression", "path")
        for word, number in (
            ("nationality", 12),
            ("player", 7),
            ("the answer is", 304),
            ("caf\u00e9 \u4e2d\u6587", 5),
        )
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(calls, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    prepare_tokenizer(folder)
    return folder


def tiny_llama() -> Any:
    """A random decoder of 96 words that trains in milliseconds."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.fixture
def tiny_model() -> Any:
    """The model of ``tiny_base``."""
    return tiny_llama()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random base model."""
    folder = tmp_path_factory.mktemp("base")
    tiny_llama().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter for it, named `current`, as PEFT writes it; not at zero, to be told from the base."""
    import peft
    import torch

    torch.manual_seed(1)
    shape = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    folder = tmp_path_factory.mktemp("adapters") / "current"
    peft.get_peft_model(tiny_llama(), shape).half().save_pretrained(str(folder))
    return folder


TinyScore = Callable[[Path, Sequence[int], Sequence[int], Sequence[bool]], float]


@pytest.fixture(scope="session")
def tiny_score(tiny_base: Path) -> TinyScore:
    """The obvious log-probability of ids after a context, with an adapter: one row, whole and alone."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    loaded: dict[bytes, Any] = {}

    def score(adapter: Path, context: Sequence[int], ids: Sequence[int], mask: Sequence[bool]) -> float:
        weights = (adapter / "adapter_model.safetensors").read_bytes()  # training rewrites the folder
        if weights not in loaded:
            plain = AutoModelForCausalLM.from_pretrained(tiny_base)
            loaded[weights] = peft.PeftModel.from_pretrained(plain, str(adapter))
        with torch.no_grad():
            logs = loaded[weights](input_ids=torch.tensor([[*context, *ids]])).logits[0].log_softmax(-1)
        start = len(context)
        return sum(float(logs[start + i - 1, ids[i]]) for i in range(len(ids)) if mask[i])

    return score
