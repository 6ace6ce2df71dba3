"""What is measured, against what can be counted by hand; and the reading of time, on made-up times."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_nets import Residual, deployed, export, rows
from torch import nn

from searchkit.core.data_spec import TensorSpec
from searchkit.core.errors import BadInput
from searchkit.nn.attention import Attention
from searchkit.nn.recurrent import Recurrent
from searchkit.onnx import int8, measure
from searchkit.onnx import io as onnx_io
from searchkit.onnx.random_inputs import draw_inputs
from searchkit.stages.quantize import calibration

# ── counting ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_shared_parameters_count_once():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    assert measure.params(nn.Sequential(first, second, nn.BatchNorm1d(3))) == 9 + 3 + 3 + 6


GATES = {"simple": 1, "lstm": 4, "gru": 3, "peephole": 4}


@pytest.mark.parametrize("kind", GATES)
def test_macs_of_a_recurrent_layer_are_its_products_at_every_step(kind):
    assert measure.macs(Recurrent(5, 7, kind=kind), (torch.zeros(1, 11, 5),)) == 11 * GATES[kind] * 7 * (5 + 7)


def test_macs_of_convolutions_and_of_attention():
    conv = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, groups=6))
    assert measure.macs(conv, (torch.zeros(1, 2, 8, 8),)) == 64 * 6 * 2 * 9 + 64 * 6 * 9
    assert measure.macs(nn.ConvTranspose2d(4, 3, 2, stride=2), (torch.zeros(1, 4, 5, 5),)) == 25 * 4 * 3 * 4
    layer = Attention(16, heads=2)
    assert measure.macs(layer, (torch.zeros(1, 11, 16),)) == 4 * 11 * 16 * 16 + 2 * 11 * 11 * 16


def test_counting_macs_changes_nothing():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    before = net[1].running_mean.clone()
    enabled = torch.backends.mkldnn.enabled
    assert measure.macs(net, (torch.ones(1, 4),)) == 16
    assert net.training and net[1].training and torch.equal(before, net[1].running_mean)
    assert torch.backends.mkldnn.enabled == enabled


def chain(path, *, batch="batch"):
    """x (b, 4) -> Gemm -> (b, 100) -> Reshape (b, 10, 10) -> Neg -> Neg -> Flatten -> Gemm -> (b, 2)"""
    value = helper.make_tensor_value_info
    weight = [np.ones(s, np.float32) for s in ((4, 100), (100, 2))]
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w0"], ["a"]), helper.make_node("Reshape", ["a", "s"], ["b"]),
         helper.make_node("Sin", ["b"], ["c"]), helper.make_node("Cos", ["c"], ["d"]),
         helper.make_node("Flatten", ["d"], ["e"]), helper.make_node("Gemm", ["e", "w1"], ["y"])],
        "g", [value("x", TensorProto.FLOAT, [batch, 4])], [value("y", TensorProto.FLOAT, [batch, 2])],
        [*(numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weight)),
         numpy_helper.from_array(np.array([-1, 10, 10]), "s")],
    )  # fmt: skip
    onnx_io.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_the_peak_of_activations_is_what_is_alive_at_once(tmp_path):
    # two tensors of 100 floats, the input of a node and its output; the reshape shares memory, weights are not counted
    assert measure.peak_activation_bytes(chain(tmp_path / "m.onnx")) == 2 * 100 * 4


def test_the_peak_of_an_int8_file_counts_bytes(tmp_path):
    torch.manual_seed(0)
    export(deployed(Residual()), (1, 8, 8), tmp_path / "m.onnx")
    int8.static(
        tmp_path / "m.onnx", tmp_path / "q.onnx", calibration((TensorSpec("image", (1, 8, 8)),), rows((1, 8, 8)), 64)
    )
    whole = measure.peak_activation_bytes(tmp_path / "m.onnx")
    assert whole >= 2 * 16 * 64 * 4
    assert measure.peak_activation_bytes(tmp_path / "q.onnx") <= 0.5 * whole


# ── reading time ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("ratio", "low", "high", "verdict"),
    [
        (0.5, 0.45, 0.55, "faster"),
        (0.95, 0.94, 0.96, "no difference"),  # certain, and within the tie of 10 %
        (0.5, 0.3, 1.1, "no difference"),  # large, and uncertain
        (1.0, 1.0, 1.0, "no difference"),
        (1.08, 1.07, 1.09, "no difference"),
        (1.5, 1.2, 1.9, "slower"),
    ],
)
def test_a_verdict_needs_an_interval_beyond_one_and_more_than_a_tie(ratio, low, high, verdict):
    assert measure.verdict(ratio, low, high) == verdict


def test_the_interval_holds_the_ratio_and_widens_with_the_spread_between_processes():
    rng = np.random.default_rng(0)
    steady = [0.5 + 0.01 * rng.standard_normal(24) for _ in range(5)]
    uneven = [ratios * factor for ratios, factor in zip(steady, (0.8, 0.9, 1.0, 1.1, 1.2), strict=True)]
    narrow, wide = measure.interval(steady, seed=0), measure.interval(uneven, seed=0)
    assert narrow[0] < 0.5 < narrow[1] and wide[0] < 0.5 < wide[1]
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])
    assert measure.interval(uneven, seed=0) == wide


def test_ratios_are_taken_within_a_round(monkeypatch, tmp_path):
    # the machine slows down tenfold half way: each file alone varies by ten, their ratio not at all
    pace = np.repeat([1.0, 10.0], 12)
    timings = measure.Timings(np.stack([pace, 2 * pace], 1), (pace, 2 * pace))
    monkeypatch.setattr(measure, "time_blocks", lambda files, feeds, rounds: timings)
    found = measure.latency({"a": tmp_path, "b": tmp_path}, {}, processes=0)
    assert (found["b"].ratio, found["b"].low, found["b"].high, found["b"].verdict) == (2.0, 2.0, 2.0, "slower")
    assert found["a"].ratio == 1.0 and found["a"].verdict == "no difference"
    assert found["a"].p50_ms == 5.5 and found["b"].p95_ms == 20.0


@pytest.mark.parametrize("processes", [0, 2])
def test_every_file_is_timed_in_every_round(processes, tmp_path):
    for name in ("a", "b"):
        chain(tmp_path / name)
    paths = {"a": tmp_path / "a", "b": tmp_path / "b"}
    found = measure.latency(paths, {"x": np.ones((7, 4), np.float32)}, processes=processes, rounds=4)
    assert list(found) == ["a", "b"] and found["a"].ratio == 1.0
    for one in found.values():
        assert 0 < one.p50_ms <= one.p95_ms and 0 < one.low <= one.ratio <= one.high
        assert (one.processes, one.rounds) == (processes, 4)


def test_this_process_may_use_its_cores_again_after_timing(tmp_path):
    import os

    before = os.sched_getaffinity(0)
    measure.time_blocks([chain(tmp_path / "a")], [{"x": np.ones((1, 4), np.float32)}], rounds=2)
    assert os.sched_getaffinity(0) == before


def test_the_process_that_times_imports_no_torch():
    code = "import sys, searchkit.onnx.measure; print([m for m in ('torch', 'optuna', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ── bench ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_bench_takes_any_two_files(tmp_path):
    chain(tmp_path / "a"), chain(tmp_path / "b", batch=3)
    found = measure.bench([tmp_path / "a", tmp_path / "b"], processes=1, rounds=3)
    assert list(found) == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert draw_inputs(tmp_path / "a")["x"].shape == (1, 4)
    assert draw_inputs(tmp_path / "b")["x"].shape == (3, 4)


def test_bench_refuses_what_it_cannot_run(tmp_path):
    good = chain(tmp_path / "a.onnx")
    onnx.save(onnx.load(good), tmp_path / "out.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "torn.onnx").write_bytes(good.read_bytes()[:-40])
    for name, message in (("none.onnx", "No file at"), ("out.onnx", "in another file"), ("torn.onnx", "torn.onnx")):
        with pytest.raises(BadInput, match=message):
            measure.bench([good, tmp_path / name], processes=0)
    with pytest.raises(BadInput, match="named twice"):
        measure.bench([good, good])
