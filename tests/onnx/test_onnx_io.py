"""The exported file: equal to the network on every example, small, clean, the same again; and what is refused."""

import os
import subprocess
import sys
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_nets import AutoEncoder, Residual, Series, deployed, export, ports, rows

from searchkit.core.data_spec import TensorSpec
from searchkit.core.errors import BadInput
from searchkit.onnx import io as onnx_io
from searchkit.onnx import minify
from searchkit.onnx.parity import parity
from searchkit.onnx.predictor import OnnxPredictor, TorchPredictor
from searchkit.onnx.weight_only import weight_only

# ── export ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["residual", "autoencoder", "simple", "lstm", "gru", "peephole", "attention"])
def test_the_file_agrees_with_the_network_on_every_example_at_any_batch(kind, tmp_path):
    torch.manual_seed(0)
    nets = {"residual": (Residual, (1, 8, 8)), "autoencoder": (AutoEncoder, (1, 8, 8))}
    build, shape = nets.get(kind, (lambda: Series(kind), (1, 20)))
    module, path = deployed(build()), tmp_path / "m.onnx"
    size = export(module, shape, path)
    assert size == path.stat().st_size
    for n in (1, 3, 300):
        found = parity(OnnxPredictor(path), TorchPredictor(module, *ports(shape)), rows(shape, n))
        assert found.agrees and found.n == n and found.max_abs < 2e-6 and found.argmax == 1


@pytest.mark.parametrize("kind", ["lstm", "gru", "peephole", "attention"])
def test_an_axis_that_varies_stays_open(kind, tmp_path):
    module, path = deployed(Series(kind)), tmp_path / "m.onnx"
    export(module, (1, None), path)
    assert OnnxPredictor(path).session.get_inputs()[0].shape == ["batch", 1, "length"]
    for length in (2, 17):
        inputs, answers = ports((1, None))
        assert parity(OnnxPredictor(path), TorchPredictor(module, inputs, answers), rows((1, length), 5)).agrees


def test_the_bytes_are_the_same_in_another_process_with_another_hash_seed(tmp_path):
    tests = os.path.dirname(os.path.dirname(__file__))
    code = (
        f"import sys, torch, pathlib; sys.path.insert(0, {tests!r}); torch.manual_seed(0);"
        "from onnx_nets import *; export(deployed(Residual()), (1, 8, 8), pathlib.Path(sys.argv[1]))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, tmp_path / "there"], check=True, env=environment)
    torch.manual_seed(0)
    export(deployed(Residual()), (1, 8, 8), tmp_path / "here")
    assert (tmp_path / "there").read_bytes() == (tmp_path / "here").read_bytes()


def test_nothing_of_the_source_is_in_the_file_and_names_are_short(tmp_path):
    export(deployed(Residual()), (1, 8, 8), tmp_path / "m.onnx")
    bare = onnx.load(tmp_path / "m.onnx")
    for tensor in bare.graph.initializer:
        tensor.ClearField("raw_data")  # any byte may stand there
    data = bare.SerializeToString()
    for word in (b".py", b"/", b"torch", b"conv", b"weight", b"stack_trace"):
        assert word not in data
    model = onnx.load(tmp_path / "m.onnx")
    assert not model.metadata_props and not model.functions and not model.graph.value_info
    assert [entry.domain for entry in model.opset_import] == [""] and model.opset_import[0].version >= 20
    names = {name for node in model.graph.node for name in (*node.input, *node.output)} - {"image", "probabilities"}
    marked = {t.name: onnx.numpy_helper.to_array(t).tolist() for t in model.graph.initializer if t.name[0] == "_"}
    assert list(marked.values()) == [[2.0]] and marked.keys() == {name for name in names if name[0] == "_"}
    assert max(len(name.removeprefix(minify.PREPROCESSOR)) for name in names) == 1
    assert not any(node.name or node.doc_string or node.metadata_props for node in model.graph.node)


def test_exporting_is_silent_and_leaves_the_module_as_it_was(tmp_path, capfd):
    module = deployed(Residual())
    module.net.train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        export(module, (1, 8, 8), tmp_path / "m.onnx")
    assert capfd.readouterr() == ("", "") and not caught
    assert module.net.training and not module.preprocessor.training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_shrink_keeps_subgraphs_whole_and_merges_twins():
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "weight.of.the.first")
    twin = numpy_helper.from_array(np.ones((4, 4), np.float32), "weight.of.the.second")
    then = helper.make_graph(
        [helper.make_node("MatMul", ["hidden.value", "weight.of.the.second"], ["then.result"], doc_string="a/path.py")],
        "then", [], [helper.make_tensor_value_info("then.result", TensorProto.FLOAT, None)],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Identity", ["hidden.value"], ["else.result"])],
        "else", [], [helper.make_tensor_value_info("else.result", TensorProto.FLOAT, None)],
    )  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight.of.the.first"], ["hidden.value"]),
         helper.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=other)],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4]),
         helper.make_tensor_value_info("flag", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [weight, twin],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    small = minify.shrink(model)
    onnx.checker.check_model(small, full_check=True)
    assert len(small.graph.initializer) == 1 and len(model.graph.initializer) == 2
    assert b"path.py" not in small.SerializeToString() and b"then.result" not in small.SerializeToString()
    import onnxruntime

    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    for flag in (True, False):
        feed = {"x": x, "flag": np.array(flag)}
        own, before = (
            onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)[0]
            for m in (small, model)
        )
        np.testing.assert_array_equal(own, before)


# ── parity ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def constant(values):
    return lambda inputs: {"y": np.asarray(values, np.float64)}


@pytest.mark.parametrize(
    ("a", "b", "agrees"),
    [
        ([[0.5, 0.5]], [[0.5, 0.50005]], True),
        ([[0.5, 0.5]], [[0.5, 0.502]], False),
        ([[150.0], [151.0]], [[150.1], [151.0]], True),  # a large unit: a tolerance in its scale
        ([[150.0], [151.0]], [[151.0], [151.0]], False),
        ([[np.nan, 0.5]], [[np.nan, 0.5]], False),
        ([[0.1, 0.2]], [[0.1]], False),
    ],
)
def test_parity_holds_within_the_tolerance_and_never_for_what_is_not_finite(a, b, agrees):
    assert parity(constant(a), constant(b), {}).agrees is agrees


def test_parity_names_the_worst_example_and_the_decisions_that_differ():
    found = parity(constant([[0.9, 0.1], [0.4, 0.6]]), constant([[0.9, 0.1], [0.6, 0.4]]), {})
    assert (found.worst, found.argmax, found.n, found.agrees) == (1, 0.5, 2, False)
    assert found.max_abs == pytest.approx(0.2) and found.max_rel == pytest.approx(0.2 / 0.9)


def test_parity_some_examples_at_a_time_is_that_of_all_of_them():
    rng = np.random.default_rng(0)
    wanted = rng.normal(size=(150, 4))
    given = wanted.copy()
    given[140] += 0.5 * np.arange(4)[::-1]
    given[3, 0] += 1e-6
    rows = {"x": np.arange(150)}

    def answers(table):
        return lambda inputs: {"y": table[inputs["x"]]}

    ports = (TensorSpec("x", (), "int64"),)
    at_once, in_parts = (parity(answers(given), answers(wanted), rows, ports=p) for p in ((), ports))
    assert (in_parts.n, in_parts.worst, in_parts.agrees) == (150, 140, False)
    assert in_parts.max_abs == at_once.max_abs and in_parts.argmax == pytest.approx(at_once.argmax)
    assert parity(answers(wanted), answers(wanted), rows, ports=ports).agrees


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_missing_a_torn_and_an_empty_file_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(BadInput, match="No file at"):
        onnx_io.load(tmp_path / "none.onnx")
    export(deployed(Residual()), (1, 8, 8), tmp_path / "m.onnx")
    data = (tmp_path / "m.onnx").read_bytes()
    for name, part in {"torn": data[: len(data) // 2], "empty": b"", "text": b"this is not a model at all"}.items():
        (tmp_path / name).write_bytes(part)
        with pytest.raises(BadInput, match=name):
            onnx_io.session(tmp_path / name)


def test_data_outside_the_file_is_refused_and_not_read(tmp_path):
    export(deployed(Residual()), (1, 8, 8), tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    onnx.save(model, tmp_path / "out.onnx", save_as_external_data=True, location="secret.bin", size_threshold=0)
    with pytest.raises(BadInput, match="in another file, which is refused"):
        onnx_io.session(tmp_path / "out.onnx")


def test_an_operator_that_does_not_exist_is_refused(tmp_path):
    export(deployed(Residual()), (1, 8, 8), tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    model.graph.node[0].op_type = "Divide"
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BadInput, match="fails the ONNX checker"):
        onnx_io.load(tmp_path / "bad.onnx")


# ── weight-only ──────────────────────────────────────────────────────────────────────────────────────────────────────


def constants(graph):
    """Every constant by name: stored as it is, or joined with others in half precision."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]].astype(np.float32)
        if node.op_type == "Split" and node.input[0] in found:
            found |= dict(zip(node.output, np.split(found[node.input[0]], len(node.output)), strict=True))
    return found


def axis_of(dequantize):
    return next((attribute.i for attribute in dequantize.attribute), 1)


def test_weight_only_rounds_each_channel_to_half_a_step_and_says_so_in_the_file(tmp_path):
    export(deployed(Residual()), (1, 8, 8), tmp_path / "m.onnx")
    size = weight_only(tmp_path / "m.onnx", tmp_path / "w.onnx")
    model = onnx.load(tmp_path / "w.onnx")
    assert onnx_io.is_weight_only(model) and onnx_io.needed_options(tmp_path / "w.onnx")
    assert size < 0.4 * (tmp_path / "m.onnx").stat().st_size
    stored = constants(model.graph)
    before = [numpy_helper.to_array(t) for t in onnx.load(tmp_path / "m.onnx").graph.initializer]
    checked = 0
    for node in (node for node in model.graph.node if node.op_type == "DequantizeLinear"):
        weight, scale = stored[node.input[0]], stored[node.input[1]]
        axis = axis_of(node)
        shape = [-1 if other == axis else 1 for other in range(weight.ndim)]
        restored = weight * scale.reshape(shape)
        alike = [float(np.max(np.abs(restored - w) / scale.reshape(shape))) for w in before if w.shape == weight.shape]
        assert min(alike) <= 0.5 + 1e-4 and np.abs(weight).max() == 127
        checked += 1
    assert checked == 4


def test_every_weighted_operator_is_stored_by_its_own_output_channel(tmp_path):
    torch.manual_seed(0)
    for name, net, shape, operator, axis in (
        ("ae", AutoEncoder(), (1, 8, 8), "ConvTranspose", 1),
        ("gru", Series("gru"), (1, 20), "GRU", 1),
        ("lstm", Series("lstm"), (1, 20), "LSTM", 1),
        ("attention", Series("attention"), (1, 20), "MatMul", 1),
    ):
        export(deployed(net), shape, tmp_path / name)
        weight_only(tmp_path / name, tmp_path / f"{name}.w")
        graph = onnx.load(tmp_path / f"{name}.w").graph
        maker = {node.output[0]: node for node in graph.node}
        found = [maker[n] for node in graph.node if node.op_type == operator for n in node.input if n in maker]
        dequantized = [node for node in found if node.op_type == "DequantizeLinear"]
        assert dequantized and all(axis_of(node) == axis for node in dequantized)
