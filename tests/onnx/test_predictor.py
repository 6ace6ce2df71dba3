"""Predictors: any number of rows, one after the other in batches, and the same answers from torch and from the file."""

import numpy as np
import pytest
import torch
from onnx_nets import Residual, deployed, export, ports, rows
from torch import nn

from searchkit.core.data_spec import TensorSpec
from searchkit.core.errors import BadInput
from searchkit.onnx import io as onnx_io
from searchkit.onnx.predictor import Deployed, OnnxPredictor, TorchPredictor
from searchkit.onnx.weight_only import weight_only


@pytest.mark.parametrize("n", [1, 4, 5, 9])
def test_batches_are_joined_in_order(n, tmp_path):
    torch.manual_seed(0)
    module = deployed(Residual())
    export(module, (1, 8, 8), tmp_path / "m.onnx")
    arrays = rows((1, 8, 8), n)
    for predictor in (
        TorchPredictor(module, *ports(), batch_size=4),
        OnnxPredictor(tmp_path / "m.onnx", batch_size=4),
    ):
        with torch.no_grad():
            one = [module(torch.from_numpy(row[None])).numpy() for row in arrays["image"]]
        np.testing.assert_allclose(predictor(arrays)["probabilities"], np.concatenate(one), atol=1e-5)


class Both(nn.Module):
    """Two inputs, one of them not batched, to two answers."""

    def forward(self, x, table, rows):
        return (x * rows[:, None]) @ table, rows


def test_several_inputs_and_answers_and_one_that_is_not_batched(tmp_path):
    inputs = (TensorSpec("x", (3,)), TensorSpec("table", (3, 2), batched=False), TensorSpec("rows", (), "int64"))
    answers = (TensorSpec("product", (2,)), TensorSpec("rows_again", (), "int64"))

    class Pass(nn.Module):
        def forward(self, *values):
            return values

    module = Deployed(Pass(), Both(), Pass()).eval()
    rng = np.random.default_rng(0)
    arrays = {"x": rng.random((5, 3), np.float32), "table": rng.random((3, 2), np.float32), "rows": np.arange(5)}
    onnx_io.export(module, inputs, answers, tmp_path / "m.onnx", example=arrays)
    own, file = TorchPredictor(module, inputs, answers, batch_size=2), OnnxPredictor(tmp_path / "m.onnx", batch_size=2)
    expected = (arrays["x"] * arrays["rows"][:, None]) @ arrays["table"]
    for predictor in (own, file):
        found = predictor(arrays)
        np.testing.assert_allclose(found["product"], expected, rtol=1e-5)
        assert found["rows_again"].tolist() == [0, 1, 2, 3, 4]


def test_a_predictor_leaves_the_module_in_its_mode():
    module = deployed(Residual())
    module.net.a.train()
    before = module.net.a[1].running_mean.clone()
    TorchPredictor(module, *ports())(rows((1, 8, 8), 3))
    assert module.net.a.training and not module.net.b.training
    assert torch.equal(before, module.net.a[1].running_mean)


def test_missing_inputs_and_rows_that_do_not_match_are_said(tmp_path):
    export(deployed(Residual()), (1, 8, 8), tmp_path / "m.onnx")
    with pytest.raises(BadInput, match="takes 'image', which is not given; given are picture"):
        OnnxPredictor(tmp_path / "m.onnx")({"picture": np.zeros((1, 1, 8, 8), np.float32)})
    with pytest.raises(BadInput, match=r"differ in their number of rows: \[2, 3\]"):
        TorchPredictor(nn.Identity(), (TensorSpec("a", ()), TensorSpec("b", ())), (TensorSpec("y", ()),))(
            {"a": np.zeros(2), "b": np.zeros(3)}
        )


def test_a_weight_only_file_is_opened_with_its_weights_dequantized_once(tmp_path):
    export(deployed(Residual()), (1, 8, 8), tmp_path / "m.onnx")
    weight_only(tmp_path / "m.onnx", tmp_path / "w.onnx")
    options = {name: onnx_io.session(tmp_path / name).get_session_options() for name in ("m.onnx", "w.onnx")}
    key = "session.disable_quant_qdq"
    assert options["w.onnx"].get_session_config_entry(key) == "1"
    assert options["w.onnx"].get_session_config_entry("session.intra_op.allow_spinning") == "0"
    with pytest.raises(RuntimeError):
        options["m.onnx"].get_session_config_entry(key)
    assert options["m.onnx"].intra_op_num_threads == 1
