"""Fine-tuning: the shared prefix against the plain computation, the order, resumption, the adapter."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from autogpt.errors import ModelUnavailable, UsageError
from autogpt.llm.training import lora, prefix
from autogpt.llm.training.data import Sample, plan_epoch, read_samples, step_of
from autogpt.llm.training.finetune import finetune, load_config, train
from autogpt.llm.training.trainer import rate_at

VOCABULARY = 96


def tiny_llama(seed: int = 0) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def records(count: int, seed: int = 0, prefixes: int = 1) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    heads = [[rng.randrange(VOCABULARY) for _ in range(9 + i)] for i in range(prefixes)]
    made = []
    for i in range(count):
        head = heads[i % prefixes]
        rest = [rng.randrange(VOCABULARY) for _ in range(rng.randrange(4, 14))]
        mask = [0] * len(head) + [0] + [int(rng.random() < 0.5) for _ in rest[1:-1]] + [1]
        made.append({"ids": head + rest, "mask": mask, "prefix": len(head), "kind": "t"})
    return made


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny_llama().save_pretrained(folder)
    return folder


def peft_model(folder: Path) -> Any:
    """A model with an adapter of PEFT's, which is also written into ``folder``."""
    import peft

    torch.manual_seed(1)
    shape = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    wrapped = peft.get_peft_model(tiny_llama(), shape)
    wrapped.save_pretrained(str(folder))
    return wrapped


def trained(model: torch.nn.Module) -> list[torch.Tensor]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def plain_loss(model: torch.nn.Module, samples: list[Sample]) -> torch.Tensor:
    """The slow, obvious computation: every sample alone and whole."""
    total = torch.zeros(())
    for sample in samples:
        ids = torch.tensor([*sample.prefix, *sample.rest])
        mask = torch.tensor([0] * len(sample.prefix) + list(sample.mask))
        labels = torch.where(mask == 1, ids, -100)
        logits = model(ids[None]).logits[0, :-1]
        total = total + torch.nn.functional.cross_entropy(logits, labels[1:], reduction="sum")
    return total


@pytest.mark.parametrize("shared", [0, 9])
def test_shared_prefix_and_our_layers_give_pefts_loss_and_gradients(tmp_path: Path, shared: int) -> None:
    rows = [{**row, "prefix": shared} for row in records(6)]
    samples = read_samples([write(tmp_path / "a.jsonl", rows)])
    oracle = peft_model(tmp_path / "adapter")
    plain = plain_loss(oracle, samples)
    wanted = torch.autograd.grad(plain, trained(oracle))

    core: Any = tiny_llama()
    adapter = lora.load_adapter(core, tmp_path / "adapter", "base")
    assert len(adapter.layers) == 14
    part = prefix.run_shared(core.model, samples[0].prefix, grad=True)
    summed = 0.0
    for micro in (samples[:2], samples[2:]):
        loss = prefix.loss_sum(core, part, micro)
        torch.autograd.backward(loss)
        summed += loss.item()
    prefix.backward_shared(part)

    assert summed == pytest.approx(plain.item(), rel=1e-5)
    for weight, gradient in zip(trained(core), wanted, strict=True):
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-5)


def test_layers_in_bf16_leave_fp32_gradients_near_the_exact_ones(tmp_path: Path) -> None:
    samples = read_samples([write(tmp_path / "a.jsonl", records(6))])
    oracle = peft_model(tmp_path / "adapter")
    wanted = torch.autograd.grad(plain_loss(oracle, samples), trained(oracle))
    exact = torch.cat([gradient.flatten() for gradient in wanted])
    for autocast in (False, True):  # frozen weights in bf16, and all of it under autocast
        core: Any = tiny_llama() if autocast else tiny_llama().bfloat16()
        lora.load_adapter(core, tmp_path / "adapter", "base")
        weights = trained(core)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            part = prefix.run_shared(core.model, samples[0].prefix, grad=True)
            loss = prefix.loss_sum(core, part, samples)
        torch.autograd.backward(loss)
        prefix.backward_shared(part)

        assert autocast or part.leaves[0][0].dtype is torch.bfloat16
        assert all(weight.dtype is torch.float32 for weight in weights)
        found = torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])
        assert torch.nn.functional.cosine_similarity(found, exact, dim=0) > 0.99


def test_a_fresh_adapter_changes_nothing_and_covers_what_pefts_covers(tmp_path: Path) -> None:
    ids = torch.tensor([[1, 2, 3, 4]])
    model = tiny_llama()
    before = model(ids).logits
    adapter = lora.add_adapter(model, 4, 8, "base")
    assert torch.equal(model(ids).logits, before)
    assert [weight.shape for weight in trained(model)] == [
        weight.shape for weight in trained(peft_model(tmp_path / "peft"))
    ]
    adapter.write(tmp_path / "ours", {"name": "x"})
    assert json.loads((tmp_path / "ours" / "autogpt.json").read_text()) == {"name": "x"}
    again = lora.load_adapter(tiny_llama(), tmp_path / "ours", "base")
    assert list(again.layers) == list(adapter.layers)


@pytest.mark.parametrize(("change", "message"), [("dora", "not plain LoRA"), ("shape", "no place in it")])
def test_an_adapter_that_cannot_be_trained_further_is_refused(
    tmp_path: Path, change: str, message: str
) -> None:
    peft_model(tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    if change == "dora":
        (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, "use_dora": True}))
    model = tiny_llama()
    if change == "shape":
        model = torch.nn.ModuleDict({"model": torch.nn.Linear(2, 2)})
    with pytest.raises(ModelUnavailable, match=message):
        lora.load_adapter(model, tmp_path, "base")


def test_prefix_without_gradient_has_the_same_loss_and_other_gradients(tmp_path: Path) -> None:
    samples = read_samples([write(tmp_path / "a.jsonl", records(3))])
    peft_model(tmp_path / "adapter")
    core: Any = tiny_llama()
    lora.load_adapter(core, tmp_path / "adapter", "base")
    losses, gradients = [], []
    for grad in (True, False):
        core.zero_grad()
        part = prefix.run_shared(core.model, samples[0].prefix, grad=grad)
        loss = prefix.loss_sum(core, part, samples)
        torch.autograd.backward(loss)
        prefix.backward_shared(part)
        losses.append(loss.item())
        gradients.append(
            torch.cat([weight.grad.flatten() for weight in trained(core) if weight.grad is not None])
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert not torch.allclose(gradients[0], gradients[1], rtol=1e-3)


def test_an_epoch_shows_every_sample_once_in_steps_that_share_a_prefix(tmp_path: Path) -> None:
    samples = read_samples([write(tmp_path / "a.jsonl", records(83, prefixes=3))])
    steps = plan_epoch(samples, batch=8, seed=5, epoch=0, budget=64)
    seen = [i for step in steps for group in step for micro in group.micro for i in micro]
    assert sorted(seen) == list(range(83))
    assert all(samples[i].prefix == g.prefix for s in steps for g in s for m in g.micro for i in m)
    assert all(len(m) * max(len(samples[i].rest) for i in m) <= 64 for s in steps for g in s for m in g.micro)
    assert sum(len(step) == 1 for step in steps) >= 8
    assert steps == plan_epoch(samples, batch=8, seed=5, epoch=0, budget=64)
    assert steps != plan_epoch(samples, batch=8, seed=5, epoch=1, budget=64)


def test_a_broken_sample_is_named_by_file_and_line(tmp_path: Path) -> None:
    rows = records(2)
    rows[1]["mask"] = [1]
    with pytest.raises(UsageError, match=r"a\.jsonl:2: .*mask"):
        read_samples([write(tmp_path / "a.jsonl", rows)])
    with pytest.raises(UsageError, match=r"b\.jsonl: no such"):
        read_samples([tmp_path / "b.jsonl"])


def test_zst_samples_and_step_of(tmp_path: Path) -> None:
    import zstandard

    plain = write(tmp_path / "a.jsonl", records(4, prefixes=2))
    packed = tmp_path / "a.jsonl.zst"
    packed.write_bytes(zstandard.compress(plain.read_bytes()))
    samples = read_samples([packed])
    assert samples == read_samples([plain])
    assert len(step_of(samples, range(4), 100)) == 2


def test_learning_rate_climbs_then_falls_to_a_tenth() -> None:
    rates = [rate_at(i / 100, 1.0, 0.1) for i in range(101)]
    assert rates[0] < 0.1 and max(rates) == pytest.approx(1.0) and rates[100] == pytest.approx(0.1)
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)


def config_file(tmp_path: Path, base: Path, **changes: object) -> Path:
    write(tmp_path / "train.jsonl", records(64))
    write(tmp_path / "valid.jsonl", records(8, seed=1))
    settings: dict[str, object] = {
        "base": str(base), "data": ["train.jsonl"], "eval_data": ["valid.jsonl"],
        "out": str(tmp_path / "run"), "batch": 4, "rank": 4, "alpha": 8, "steps": 6, "device": "cpu",
        "dtype": "float32", "learning_rate": 0.01, "checkpoint_minutes": 0, "eval_every": 3,
    }  # fmt: skip
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({**settings, **changes}))
    return path


def adapter_weights(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run / "adapter" / "adapter_model.safetensors")


def test_finetune_learns_and_its_adapter_loads_in_our_loader_and_in_peft(tmp_path: Path, base: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    from autogpt.llm.nn.load import load_model

    seen: list[Any] = []
    config = load_config(config_file(tmp_path, base, steps=40, learning_rate=0.03))
    rows = records(64)
    for row in rows:  # something that can be learnt: all that carries loss is one token
        row["ids"] = [7 if wanted else i for i, wanted in zip(row["ids"], row["mask"], strict=True)]
    write(tmp_path / "train.jsonl", rows)
    report = finetune(config, seen.append)
    assert report.finished and report.steps == 40 and report.samples == 160
    assert seen[-1].loss < seen[0].loss - 0.2
    facts = json.loads((report.folder / "autogpt.json").read_text())
    assert facts["steps"] == 40 and facts["eval_loss"] == report.eval_loss
    merged = load_model(base, "cpu", "float32", adapter=report.folder).model
    wrapped = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), report.folder)
    ids = torch.tensor([[1, 2, 3, 4]])
    torch.testing.assert_close(merged(ids).logits, wrapped(ids).logits, rtol=1e-3, atol=1e-4)
    assert not (config.out / "tensorboard").exists()


def test_curves_are_drawn_where_they_are_asked_for(tmp_path: Path, base: Path) -> None:
    config = load_config(config_file(tmp_path, base, steps=1, tensorboard=True))
    finetune(config, lambda _: None)
    assert any((config.out / "tensorboard").iterdir())


def test_a_minutes_budget_ends_the_run(tmp_path: Path, base: Path) -> None:
    seen: list[Any] = []
    config = load_config(config_file(tmp_path, base, steps=100_000, minutes=0.02))
    report = finetune(config, seen.append)
    assert report.finished and report.steps < 2000 and seen[-1].done == 1.0
    assert seen[-1].rate < 0.2 * config.learning_rate


RUNNER = """
import sys, os, signal
from pathlib import Path
from autogpt.llm.training.finetune import finetune, load_config
at, how = int(sys.argv[2]), int(sys.argv[3])
def show(progress):
    if progress.step == at:
        os.kill(os.getpid(), how)
report = finetune(load_config(Path(sys.argv[1])), show)
print(report.finished, report.steps)
"""


def run_killed(config: Path, at: int, how: signal.Signals) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", RUNNER, str(config), str(at), str(int(how))],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_killed_and_stopped_runs_go_on_to_the_uninterrupted_result(tmp_path: Path, base: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    expected = finetune(load_config(config_file(whole, base)), lambda _: None)
    broken = config_file(cut, base)
    assert run_killed(broken, 4, signal.SIGKILL).returncode == -signal.SIGKILL
    stopped = run_killed(broken, 5, signal.SIGTERM)
    assert stopped.returncode == 0 and "False 5" in stopped.stdout, stopped.stderr
    resumed = finetune(load_config(broken), lambda _: None)
    assert resumed.finished and resumed.steps == 6
    assert resumed.loss == pytest.approx(expected.loss, rel=1e-3)
    ours = adapter_weights(cut / "run")
    for name, tensor in adapter_weights(whole / "run").items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-2, atol=1e-3)


def test_a_checkpoint_of_other_data_is_refused_and_kept(tmp_path: Path, base: Path) -> None:
    config = config_file(tmp_path, base, steps=1)
    finetune(load_config(config), lambda _: None)
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    write(tmp_path / "train.jsonl", records(64, seed=9))
    with pytest.raises(UsageError, match=r"another run.*data_sha256"):
        finetune(load_config(config), lambda _: None)
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [("base: x\n", "data"), ("base: [", "not YAML"), ("base: x\ndata: [y]\nout: z\nepoch: 2\n", "epoch")],
)
def test_a_wrong_training_file_names_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=rf"c\.yaml: .*{message}"):
        load_config(path)


def test_a_model_from_nothing_reads_episodes_of_another_tokenizer_and_loads(tmp_path: Path) -> None:
    from autogpt.llm.message import Message
    from autogpt.llm.nn.load import load_model
    from autogpt.llm.text.tokenizer import ChatTokenizer
    from autogpt.llm.training.pretraining.from_scratch import build_tokenizer
    from autogpt.llm.training.pretraining.pretrain import conversations

    text = "The quick brown fox jumps over the lazy dog. 12345 times, it's said!\n"
    build_tokenizer([text * 20], 320, tmp_path / "other")
    other = ChatTokenizer(tmp_path / "other")
    talk = [
        Message("system", "Answer with a call."),
        Message("user", "How often?"),
        Message("assistant", '<tool_call>{"name":"look","arguments":{}}</tool_call>'),
        Message("tool", "12345 times"),
        Message("assistant", '<tool_call>{"name":"finish","arguments":{"answer":"$1"}}</tool_call>'),
    ]
    encoded = other.encode_messages(talk)
    row = {"ids": encoded.ids, "mask": [int(m) for m in encoded.mask], "prefix": 5, "kind": "t"}
    episodes = write(tmp_path / "episodes.jsonl", [row] * 24)
    assert next(messages for _, messages in conversations([episodes], tmp_path / "other")) == talk

    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": text * 40}) + "\n")
    recipe = tmp_path / "nano.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "kind": "pretrain",
                "out": str(tmp_path / "run"),
                "texts": ["texts.jsonl"],
                "episodes": ["episodes.jsonl"],
                "tokenizer": "other",
                "depth": 2,
                "vocabulary": 330,
                "piece": 32,
                "steps": 25,
                "batch": 4,
                "learning_rate": 0.01,
                "device": "cpu",
            }
        )
    )
    seen: list[Any] = []
    report = train(recipe, progress=seen.append)
    assert report.finished and seen[-1].mean_loss < seen[0].loss - 0.5
    loaded = load_model(report.folder, "cpu", "float32")
    tokenizer = ChatTokenizer(report.folder)
    assert [tokenizer.single(t) for t in ("<|endoftext|>", "<|im_end|>", "<tool_call>")] == [0, 2, 3]
    assert loaded.vocabulary == tokenizer.vocab_size
    assert "weak" in (report.folder / "README.md").read_text()
    assert train(recipe, steps=26).steps == 26


def test_without_pretraining_its_files_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "autogpt.llm.training.pretraining", None)  # as in an installed wheel
    recipe = tmp_path / "nano.yaml"
    recipe.write_text("kind: pretrain\nout: run\n")
    with pytest.raises(UsageError, match="in a checkout of the repository"):
        train(recipe)
    recipe.write_text("kind: other\n")
    with pytest.raises(UsageError, match="'other' is not known"):
        train(recipe)
