"""Rewritten graphs: the same answers, in fewer bytes, by the operators that were meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from searchkit.core.data_spec import Arrays, TensorSpec
from searchkit.nn.convolution import MixedDepthwise
from searchkit.onnx import arithmetic, int8, measure, minify, passes
from searchkit.onnx import io as onnx_io
from searchkit.onnx.parity import parity
from searchkit.onnx.predictor import Deployed, OnnxPredictor, TorchPredictor

IMAGE, ANSWER = (TensorSpec("image", (1, 8, 8)),), (TensorSpec("logits", (10,)),)


class Branches(nn.Module):
    """Two branches over the same picture, joined, normalized, rectified; and a mixed depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 5, 3, padding=1), nn.Conv2d(1, 19, 1, bias=False)
        self.norm = nn.BatchNorm2d(24)
        self.mixed, self.after = MixedDepthwise(24, kernels=(3, 5)), nn.BatchNorm2d(24)
        self.last = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.cat([self.a(x), self.b(x)], 1)).relu()
        y: Tensor = self.last(nn.functional.leaky_relu(self.after(self.mixed(x)), 0.1).mean((2, 3)))
        return y


def images(n: int) -> Arrays:
    return {"image": np.random.default_rng(0).standard_normal((n, 1, 8, 8)).astype(np.float32)}


def as_it_is(net: nn.Module) -> nn.Module:
    return Deployed(nn.Identity(), net, nn.Identity()).eval()


@pytest.fixture(scope="module")
def branches(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    net, path = Branches(), tmp_path_factory.mktemp("branches") / "m.onnx"
    with torch.no_grad():
        for norm in (net.norm, net.after):
            for tensor in (norm.weight, norm.bias, norm.running_mean):
                tensor.normal_()
            norm.running_var.uniform_(0.1, 3.0)
    whole = as_it_is(net)
    onnx_io.export(whole, IMAGE, ANSWER, path, example=images(2))
    return whole, path


def test_what_follows_a_join_of_convolutions_is_part_of_them(branches: tuple[nn.Module, Path], tmp_path: Path) -> None:
    net, path = branches
    assert parity(OnnxPredictor(path), TorchPredictor(net, IMAGE, ANSWER), images(32)).agrees
    counts = onnx_io.op_counts(path)
    assert "BatchNormalization" not in counts and counts["Conv"] == 4 and counts["Concat"] == 2
    assert counts["Relu"] == counts["LeakyRelu"] == 2, "an activation behind each convolution, which runs them as one"
    int8.static(path, tmp_path / "q.onnx", [images(32)])
    assert arithmetic.arithmetic(tmp_path / "q.onnx", images(1)) == arithmetic.Arithmetic(1.0, {})


def test_a_join_that_others_read_too_is_left_as_it_is(tmp_path: Path) -> None:
    class Read(nn.Module):
        def __init__(self, twice: str) -> None:
            super().__init__()
            self.a, self.b, self.norm, self.twice = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 1), nn.BatchNorm2d(8), twice

        def forward(self, x: Tensor) -> Tensor:
            a = self.a(x)
            joined = torch.cat([a, self.b(x)], 1)
            y = self.norm(joined) + (joined if self.twice == "join" else torch.cat([a, a], 1))
            return y.mean((2, 3))

    for twice in ("join", "convolution"):
        torch.manual_seed(0)
        inner = Read(twice)
        nn.init.normal_(inner.norm.running_mean)
        net = as_it_is(inner)
        path, answer = tmp_path / f"{twice}.onnx", (TensorSpec("logits", (8,)),)
        onnx_io.export(net, IMAGE, answer, path, example=images(2))
        assert onnx_io.op_counts(path)["BatchNormalization"] == 1
        assert parity(OnnxPredictor(path), TorchPredictor(net, IMAGE, answer), images(8)).agrees


def test_a_default_goes_unsaid_and_nothing_else_does() -> None:
    def conv(**attributes: object) -> onnx.NodeProto:
        return helper.make_node("Conv", ["x", "w"], ["y"], **attributes)

    nodes = [
        conv(group=1, strides=[1, 1], dilations=[1, 1], pads=[0, 0, 0, 0], auto_pad="NOTSET"),
        conv(group=4, strides=[2, 1], dilations=[1, 2], pads=[0, 1, 0, 1], auto_pad="SAME_UPPER"),
        helper.make_node("Gemm", ["a", "b"], ["c"], alpha=1.0, beta=0.5, transA=0, transB=1),
        helper.make_node("LayerNormalization", ["a", "b"], ["c"], axis=-1, epsilon=1e-5, stash_type=1),
        helper.make_node("LayerNormalization", ["a", "b"], ["c"], axis=1, epsilon=1e-6, stash_type=1),
        helper.make_node("Gelu", ["a"], ["c"], approximate="tanh"),
        helper.make_node("Pad", ["a", "b"], ["c"], domain="com.microsoft", mode="constant"),
        *(helper.make_node("Reshape", ["a", shape], ["c"], allowzero=1) for shape in ("whole", "empty", "computed")),
    ]
    shapes = [numpy_helper.from_array(np.array(sizes), name) for name, sizes in (("whole", [-1, 4]), ("empty", [0, 4]))]
    graph = helper.make_graph(nodes, "g", [], [], shapes)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    passes.drop_defaults(model, model.graph)
    said = [sorted(attribute.name for attribute in node.attribute) for node in model.graph.node]
    assert said == [
        [], ["auto_pad", "dilations", "group", "pads", "strides"], ["beta", "transB"], [], ["axis", "epsilon"],
        ["approximate"], ["mode"], [], ["allowzero"], ["allowzero"],
    ]  # fmt: skip


def test_a_file_without_defaults_answers_bit_for_bit(
    branches: tuple[nn.Module, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, path = branches
    monkeypatch.setattr(passes, "drop_defaults", lambda model, graph: None)
    size = onnx_io.export(net, IMAGE, ANSWER, tmp_path / "said.onnx", example=images(2))
    assert path.stat().st_size < size - 100
    said, unsaid = (OnnxPredictor(file)(images(16))["logits"] for file in (tmp_path / "said.onnx", path))
    assert np.array_equal(said, unsaid)


def chain(vectors: dict[str, np.ndarray]) -> onnx.ModelProto:
    """x @ a (int8) + first, normalized with gain and shift, @ b (int8) + last: 16 -> 16 -> 16."""
    rng = np.random.default_rng(0)
    weights = {name: rng.integers(-127, 128, (16, 16)).astype(np.int8) for name in ("a", "b")}
    nodes = [
        helper.make_node("DequantizeLinear", ["a", "scale"], ["A"], axis=1),
        helper.make_node("DequantizeLinear", ["b", "scale_b"], ["B"], axis=1),
        helper.make_node("Add", ["x", "_mean"], ["f"]),
        helper.make_node("MatMul", ["f", "A"], ["1"]),
        helper.make_node("Add", ["1", "first"], ["2"]),
        helper.make_node("LayerNormalization", ["2", "gain", "shift"], ["3"]),
        helper.make_node("MatMul", ["3", "B"], ["4"]),
        helper.make_node("Add", ["4", "last"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in {**weights, **vectors}.items()]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 16]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


NAMES = ("scale", "scale_b", "_mean", "first", "gain", "shift", "last")


@pytest.mark.parametrize(
    "row, is_counted",
    [
        (np.arange(5000), True),
        (np.arange(40, dtype=np.int32)[::-1] * 3 - 7, True),
        (np.arange(31), False),
        (np.zeros(40, np.int64), False),
        (np.append(np.arange(40), 7), False),
        (np.arange(40, dtype=np.float32), False),
    ],
    ids=["up", "down", "few", "all the same", "but one", "fractions"],
)
def test_what_counts_up_is_not_stored(row: np.ndarray, is_counted: bool, tmp_path: Path) -> None:
    kind = helper.np_dtype_to_tensor_dtype(row.dtype)
    ports = [helper.make_tensor_value_info(name, kind, ["n", n]) for name, n in (("x", 1), ("y", len(row)))]
    add = helper.make_node("Add", ["x", "row"], ["y"])
    graph = helper.make_graph([add], "g", ports[:1], ports[1:], [numpy_helper.from_array(row, "row")])
    opset = [helper.make_opsetid("", onnx_io.OPSET)]
    model = minify.shrink(helper.make_model(graph, opset_imports=opset, ir_version=10))
    assert ("Range" in [node.op_type for node in model.graph.node]) == is_counted
    size = onnx_io.save(model, tmp_path / "m.onnx")
    assert not is_counted or size < 300
    given = {"x": np.array([[0], [5]], row.dtype)}
    assert np.array_equal(onnx_io.session(tmp_path / "m.onnx").run(None, given)[0], row + given["x"])
    assert [node.op_type for node in measure.trace(tmp_path / "m.onnx", given)[0].graph.node] == ["Add"]


def test_short_vectors_are_one_tensor_that_is_folded_when_the_file_is_opened(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    vectors = {name: rng.uniform(0.001, 0.01, 16).astype(np.float32) for name in NAMES}
    model = chain(vectors)
    passes.join_vectors(model, exact="_")
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert {"_mean", "last"} < stored.keys(), "a preprocessor's, and what is in the unit of the answers"
    assert not {"scale", "scale_b", "first", "gain", "shift"} & stored.keys()
    (packed,) = (array for array in stored.values() if array.dtype == np.float16)
    assert packed.shape == (5 * 16,)
    for name, one in (("whole", chain(vectors)), ("joined", model)):
        helper.set_model_props(one, {minify.MARK: "weight-only"})
        onnx_io.save(minify.shrink(one), tmp_path / f"{name}.onnx")
    assert (tmp_path / "joined.onnx").stat().st_size < (tmp_path / "whole.onnx").stat().st_size - 5 * 16 * 2 + 40
    x = {"x": rng.standard_normal((64, 16)).astype(np.float32)}
    whole, joined = (onnx_io.session(tmp_path / f"{name}.onnx").run(None, x)[0] for name in ("whole", "joined"))
    assert 0 < np.abs(joined - whole).max() < 2e-3 * np.abs(whole).max()
    optimized = [node.op_type for node in measure.trace(tmp_path / "joined.onnx", x)[0].graph.node]
    assert "Cast" not in optimized and "Split" not in optimized


@pytest.mark.parametrize(
    "name, value", [("scale", 1e-7), ("gain", 1e5), ("scale_b", 70_000.0)], ids=["small", "large", "too large"]
)
def test_a_vector_that_half_precision_does_not_hold_stays(name: str, value: float) -> None:
    vectors = {one: np.full(16, 0.01, np.float32) for one in NAMES}
    vectors[name][3] = value
    model = chain(vectors)
    passes.join_vectors(model, exact="_")
    stored = {tensor.name for tensor in model.graph.initializer}
    assert name in stored and "first" not in stored


def test_one_short_vector_is_not_worth_two_operators() -> None:
    model = chain({name: np.ones(16, np.float32) for name in NAMES})
    for node in model.graph.node:
        node.input[:] = ["scale" if name in NAMES and name != "last" else name for name in node.input]
    before = model.SerializeToString()
    passes.join_vectors(model, exact="_")
    assert model.SerializeToString() == before
