"""Small networks of every kind of operator, deployed and exported: what the tests of exported files share."""

import numpy as np
import torch
from torch import nn

from searchkit.core.data_spec import TensorSpec
from searchkit.nn.attention import Attention
from searchkit.nn.recurrent import Recurrent
from searchkit.onnx import io as onnx_io
from searchkit.onnx.predictor import Deployed


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("spread", torch.tensor([2.0]))

    def forward(self, x):
        return x.float() / self.spread


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16))
        self.b, self.c = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2)
        self.last = nn.Linear(32, 10)

    def forward(self, x):
        x = self.a(x).relu()
        return self.last(self.c((x + self.b(x)).relu()).relu().mean((2, 3)))


class AutoEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
            nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 128),
            nn.Unflatten(1, (8, 4, 4)), nn.ConvTranspose2d(8, 1, 4, stride=2, padding=1), nn.Flatten(),
        )  # fmt: skip

    def forward(self, x):
        return self.parts(x)[:, :10]


class Series(nn.Module):
    """A recurrent layer or attention over steps, then a linear layer; x: (B, 1, L)."""

    def __init__(self, kind):
        super().__init__()
        self.embed = nn.Linear(1, 32)
        self.mix = Attention(32, heads=4) if kind == "attention" else Recurrent(32, 32, kind=kind)
        self.last = nn.Linear(32, 10)

    def forward(self, x):
        return self.last(self.mix(self.embed(x.transpose(1, 2))).mean(1))


def deployed(net):
    return Deployed(Scale(), net, nn.Softmax(-1)).eval()


def ports(shape=(1, 8, 8)):
    return (TensorSpec("image", shape),), (TensorSpec("probabilities", (10,)),)


def rows(shape, n=64, seed=0):
    return {"image": np.random.default_rng(seed).standard_normal((n, *shape)).astype(np.float32)}


def export(module, shape, path, example=None):
    example = example or rows(tuple(size or 12 for size in shape), 2)
    return onnx_io.export(module, *ports(shape), path, example=example)
