"""Rewritten graphs: the same answers, in fewer bytes, by the operators that were meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from searchkit import int8, onnxfile
from searchkit.layers import MixedDepthwise
from searchkit.runtime import Deployed, OnnxPredictor, TorchPredictor
from searchkit.types import Arrays, Port

IMAGE, ANSWER = (Port("image", (1, 8, 8)),), (Port("logits", (10,)),)


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
    onnxfile.export(whole, IMAGE, ANSWER, path, example=images(2))
    return whole, path


def test_what_follows_a_join_of_convolutions_is_part_of_them(branches: tuple[nn.Module, Path], tmp_path: Path) -> None:
    net, path = branches
    assert onnxfile.parity(OnnxPredictor(path), TorchPredictor(net, IMAGE, ANSWER), images(32)).agrees
    counts = onnxfile.op_counts(path)
    assert "BatchNormalization" not in counts and counts["Conv"] == 4 and counts["Concat"] == 2
    assert counts["Relu"] == counts["LeakyRelu"] == 2, "an activation behind each convolution, which runs them as one"
    int8.static(path, tmp_path / "q.onnx", [images(32)])
    assert int8.arithmetic(tmp_path / "q.onnx", images(1)) == int8.Arithmetic(1.0, {})


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
        path, answer = tmp_path / f"{twice}.onnx", (Port("logits", (8,)),)
        onnxfile.export(net, IMAGE, answer, path, example=images(2))
        assert onnxfile.op_counts(path)["BatchNormalization"] == 1
        assert onnxfile.parity(OnnxPredictor(path), TorchPredictor(net, IMAGE, answer), images(8)).agrees
