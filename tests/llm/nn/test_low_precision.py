"""Reduced precision: near the dense layer, independent of the batch, used only where accurate enough."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.tiny import tiny_loaded

from autogpt.errors import DefectError
from autogpt.llm.engine.engine import Engine, Request
from autogpt.llm.message import Sampling
from autogpt.llm.nn import device, low_precision, precision
from autogpt.llm.nn.build import make_forward
from autogpt.llm.nn.device import DeviceChoice, probe_device
from autogpt.llm.nn.forward import FusedForward
from autogpt.llm.nn.load import LoadedModel
from autogpt.llm.nn.low_precision import PRECISIONS, Dense, available, has_bf16, has_vnni, quantised
from autogpt.llm.nn.precision import MAX_ERROR, logit_error, settle_precision

V = 96
IDS = [(7 * i) % V for i in range(60)]


def loaded(precisions: tuple[str, ...] = (), verify: bool = True, scale: float = 1.0) -> LoadedModel:
    """A random tiny Llama; ``scale`` blows up one column, which int8 activations cannot hold."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=V, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    found = tiny_loaded(config, 0)
    for name, weight in found.model.named_parameters():
        if name.endswith("input_layernorm.weight"):
            weight[3] *= scale
    return replace(found, precisions=precisions, verify=verify)


needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="this processor multiplies no bf16")


@pytest.mark.parametrize(
    ("width", "bound"),
    [("float16", 1e-3), pytest.param("bfloat16", 1e-2, marks=needs_bf16), ("int8", 2e-2)],
)
@pytest.mark.parametrize("biased", [False, True])
def test_a_packed_layer_is_near_the_dense_one(width: str, bound: float, biased: bool) -> None:
    torch.manual_seed(1)
    weight, bias = torch.randn(48, 64), torch.randn(48) if biased else None
    dense = Dense(weight, bias)
    layer = PRECISIONS[width].linear(dense)
    if width == "float16":
        x = torch.randn(2, 64)
        assert torch.equal(layer(x), dense(x)), "right also before it is prepared"
    layer.prepare()
    for rows in (1, 3, low_precision.FEW_ROWS + 5):
        x = torch.randn(rows, 64)
        exact, found = dense(x), layer(x)
        assert found.shape == exact.shape
        error = float((found - exact).norm() / exact.norm())
        assert error < bound
        assert error > 0 or (rows > low_precision.FEW_ROWS and not PRECISIONS[width].every), (
            "nothing was packed"
        )


@pytest.mark.parametrize(
    ("width", "bound"), [("float16", 1e-3), pytest.param("bfloat16", 1e-2, marks=needs_bf16), ("int8", 3e-2)]
)
@pytest.mark.parametrize("biased", [False, True])
def test_a_gated_layer_is_near_the_dense_one(width: str, bound: float, biased: bool) -> None:
    torch.manual_seed(3)
    dense = Dense(torch.randn(96, 64), torch.randn(96) if biased else None)
    layer = PRECISIONS[width].swiglu(dense)
    layer.prepare()
    for rows in (1, 5):
        x = torch.randn(rows, 64)
        gate, up = dense(x).chunk(2, -1)
        exact = torch.nn.functional.silu(gate) * up
        found = layer(x)
        assert found.shape == (rows, 48)
        assert 0 < float((found.float() - exact).norm() / exact.norm()) < bound


@needs_bf16
def test_bf16_gives_the_same_before_and_after_it_was_prepared() -> None:
    torch.manual_seed(4)
    weight, x = torch.randn(48, 64), torch.randn(3, 64)
    first, second = (PRECISIONS["bfloat16"].linear(Dense(weight)) for _ in range(2))
    second.prepare()
    assert torch.equal(first(x), second(x))


@pytest.mark.parametrize("vnni", [True, False])
def test_int8_with_outliers_is_as_near_as_its_weights(vnni: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if vnni and not has_vnni():
        pytest.skip("this processor sums int8 products in 16 bits")
    monkeypatch.setattr(low_precision, "has_vnni", lambda: vnni)
    torch.manual_seed(5)
    weight, x = torch.randn(48, 64), torch.randn(3, 64)
    x[:, 7] *= 300.0  # leaves one step of 127 for all the others
    stored = quantised(Dense(weight))
    assert stored.scales is not None
    exact = x @ (stored.weight.float() * stored.scales[:, None]).T
    layer = PRECISIONS["int8"].linear(Dense(weight))
    before = layer(x)
    layer.prepare()
    assert torch.equal(layer(x), before), "packed or not, sums are the same integers"
    assert float((before - exact)[:, :].abs().max() / x.abs().max()) < 2e-3
    assert layer(torch.full((1, 64), float("nan"))).isnan().all()


def test_a_row_in_int8_does_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(2)
    layer = PRECISIONS["int8"].linear(Dense(torch.randn(32, 64)))
    x = torch.randn(9, 64) * torch.logspace(-3, 3, 9)[:, None]
    together = layer(x)
    assert all(torch.equal(together[i : i + 1], layer(x[i : i + 1])) for i in range(9))
    assert torch.equal(layer(torch.zeros(2, 64)), torch.zeros(2, 32))


def test_the_gate_takes_the_first_width_that_passes_and_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, forward = settle_precision(loaded(("int8", "float16"), scale=300.0), IDS, tmp_path)
    (errors,) = json.loads((tmp_path / "widths.json").read_text()).values()
    assert errors["int8"] > MAX_ERROR >= errors["float16"] > 0
    assert found.precision == "float16"
    assert isinstance(forward, FusedForward) and forward.precision is PRECISIONS["float16"]
    assert "float16" in found.numerics
    monkeypatch.setattr(precision, "logit_error", None)  # a second measurement would fail
    assert settle_precision(loaded(("int8", "float16"), scale=300.0), IDS, tmp_path)[0].precision == "float16"


def test_no_width_passes_and_a_damaged_file_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "widths.json").write_text("[oops")
    monkeypatch.setattr(precision, "MAX_ERROR", 0.0)
    found, forward = settle_precision(loaded(("float16",)), IDS, tmp_path)
    assert found.precision == ""
    assert isinstance(forward, FusedForward) and forward.precision is None
    assert json.loads((tmp_path / "widths.json").read_text())


def test_a_width_that_the_user_names_needs_no_gate() -> None:
    found, _ = settle_precision(loaded(("int8",), verify=False, scale=300.0), IDS, None)
    assert found.precision == "int8"


def test_released_weights_are_gone_and_decoding_goes_on() -> None:
    tiny = loaded(("int8",), verify=False)
    kept, forward = settle_precision(loaded(("int8",), verify=False), IDS, None)
    expected = (
        Engine(kept, forward=forward).generate([Request("s", IDS, None, Sampling(max_tokens=8))])[0].ids
    )
    found, forward = settle_precision(tiny, IDS, None, release=True)
    assert found.released and not kept.released
    assert tiny.model.get_parameter("model.layers.1.mlp.down_proj.weight").numel() == 0
    assert tiny.model.get_parameter("model.layers.1.input_layernorm.weight").numel() == 64
    engine = Engine(found, forward=forward)
    assert engine.generate([Request("s", IDS, None, Sampling(max_tokens=8))])[0].ids == expected
    engine.clear()  # there is nothing to take over
    assert engine.generate([Request("s", IDS, None, Sampling(max_tokens=8))])[0].ids == expected
    with pytest.raises(DefectError, match="released"):
        found.whole()
    tiny.model.get_parameter("model.layers.1.input_layernorm.weight").data[5] = float("nan")
    engine.clear()
    error = engine.generate([Request("s", IDS, None, Sampling(max_tokens=8))])[0].error
    assert error is not None and "first in model.layers.1" in error


def test_packing_in_the_background_stops_when_the_interpreter_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = SimpleNamespace(is_alive=lambda: False)
    packed: list[low_precision.Float16] = []
    monkeypatch.setattr(low_precision.Float16, "prepare", lambda layer: packed.append(layer))
    tiny = loaded()
    forward = make_forward(tiny.model, tiny.config)
    assert isinstance(forward, FusedForward)
    with monkeypatch.context() as patch:
        patch.setattr("threading.main_thread", lambda: ended)
        forward.set_precision(PRECISIONS["float16"])
    assert not packed
    forward.set_precision(PRECISIONS["float16"])
    assert len(packed) == 2 * 4 + 1


def test_weights_that_a_width_needs_are_not_released() -> None:
    tiny = loaded(("float16",), verify=False)
    found, _ = settle_precision(tiny, IDS, None, release=True)
    assert not found.released and found.whole() is tiny.model
    assert tiny.model.get_parameter("model.layers.1.mlp.down_proj.weight").numel() > 0


def test_the_logits_error_is_relative_and_sees_nan() -> None:
    exact = torch.randn(5, V) * 3
    assert logit_error(exact, exact) == 0
    assert logit_error(exact + 0.3, exact) == pytest.approx(0.1, rel=0.2)
    assert logit_error(exact * float("nan"), exact) == float("inf")


def test_an_engine_decodes_packed_and_follows_changed_weights() -> None:
    tiny = loaded()
    engine = Engine(tiny, forward=make_forward(tiny.model, tiny.config, "float16"))
    request = Request("s", IDS, None, Sampling(max_tokens=8))
    first = engine.generate([request])[0].ids
    plain = Engine(loaded()).generate([request])[0].ids
    assert first == plain  # a tiny error: the same greedy tokens
    with torch.no_grad():
        for name, weight in tiny.model.named_parameters():
            if name.endswith("mlp.down_proj.weight"):
                weight.normal_()
    engine.clear()
    changed = engine.logits(IDS[:20])
    exact = tiny.model(input_ids=torch.tensor([IDS[:20]])).logits[0]
    assert logit_error(changed, exact) < 0.01


def test_timings_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(device, "physical_cores", lambda: 2)

    def decide(times: dict[str, float]) -> DeviceChoice:
        """Choose as if these milliseconds had been measured before."""
        monkeypatch.setattr(device, "read_measurements", lambda _: defaultdict(lambda: times))
        return probe_device("cpu", "auto")

    two = {"float32": 10, "one thread": 20, "all threads": 11}
    assert decide({**two, "float16": 6, "int8": 4}) == DeviceChoice("cpu", "float32", 2, ("int8", "float16"))
    one = {"float32": 10, "one thread": 8, "all threads": 10}
    assert decide({**one, "float16": 9.8, "int8": 11}) == DeviceChoice("cpu", "float32", 1)
    times: dict[str, float] = {"float32": 10, "bfloat16": 4, "float16": 6, "int8": 7}
    times |= {"one thread": 10, "all threads": 6}
    monkeypatch.setattr(low_precision, "has_bf16", lambda: True)
    assert decide(times).precisions == ("bfloat16", "float16", "int8")
    assert decide({**times, "bfloat16": 5.9}).precisions == (
        "float16",
        "bfloat16",
        "int8",
    )  # precision counts
    monkeypatch.setattr(low_precision, "has_bf16", lambda: False)
    assert decide(times).precisions == ("float16", "int8")  # a file from another chip of the same name
    assert "bfloat16" not in available()
    assert probe_device("cpu", "int8").precisions == ("int8",)
    assert not probe_device("cpu", "float16").verify


@pytest.mark.parametrize("quiet", [True, False])
def test_timings_of_a_busy_machine_serve_this_process_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    runs = []

    def measure(threads: int) -> tuple[dict[str, float], bool]:
        runs.append(threads)
        return {"float32": 9.0, "int8": 1.0, "one thread": 9.0, "all threads": 9.0}, quiet

    monkeypatch.setattr(device, "measure", measure)
    monkeypatch.setattr(device, "chip", lambda: f"a chip {quiet}")
    for _ in range(3):
        assert probe_device("cpu", "auto", tmp_path).precisions == ("int8",)
    assert len(runs) == 1
    assert (tmp_path / "probe.json").exists() == quiet


def test_the_measurement_takes_processor_time() -> None:
    times, quiet = device.measure(1)
    assert {"float32", "one thread", "all threads", *available()} >= set(times)
    assert all(0 < ms < 10_000 for ms in times.values())
    assert quiet or times["one thread"] == times["all threads"]


def test_bf16_that_the_user_names_is_narrow_layers_where_the_chip_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "has_bf16", lambda: True)
    assert probe_device("cpu", "bfloat16") == DeviceChoice(
        "cpu", "float32", probe_device("cpu", "float32").threads, ("bfloat16",), verify=False
    )
    monkeypatch.setattr(device, "has_bf16", lambda: False)
    assert probe_device("cpu", "bfloat16").dtype == "bfloat16"  # slow, and what was asked for
