"""Building blocks of the families: activations, squeeze-and-excitation, and initialization.

Xavier initialization (Glorot & Bengio 2010) for activations that saturate, and Kaiming (He et al. 2015,
arXiv:1502.01852) for rectifiers.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from searchkit.core.data_spec import DataSpec

SATURATING = ("sigmoid", "tanh")
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def activation(name: str) -> nn.Module:
    """Return an activation module by name.

    Args:
        name: "sigmoid", "tanh", "relu", "leaky_relu", "gelu" or "silu". The last two stay fp32 in an int8 file, so no
            family has them as its default.

    Raises:
        ValueError: If the name is unknown.
    """
    match name:
        case "sigmoid":
            return nn.Sigmoid()
        case "tanh":
            return nn.Tanh()
        case "relu":
            return nn.ReLU()
        case "leaky_relu":
            return nn.LeakyReLU(0.1)  # the slope that `initialize_` assumes
        case "gelu":
            return nn.GELU(approximate="tanh")
        case "silu":
            return nn.SiLU()
    raise ValueError(f"no activation named '{name}'; they are sigmoid, tanh, relu, leaky_relu, gelu, silu")


def initialize_(net: nn.Module, activation: str) -> None:
    """Initialize every Linear and convolution of a network, in place: weights by the activation, biases 0.

    Args:
        net: The network.
        activation: Name of its activation; Xavier for sigmoid and tanh, else Kaiming.
    """
    for module in net.modules():
        if isinstance(module, WEIGHTED):
            if activation in SATURATING:
                nn.init.xavier_uniform_(module.weight, gain=nn.init.calculate_gain(activation))  # type: ignore[arg-type]
            else:
                nn.init.kaiming_normal_(module.weight, a=0.1 if activation == "leaky_relu" else 0.0)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def initialize_head_(linear: nn.Linear) -> None:
    """Initialize the last layer with small weights, in place, so that the first predictions are near uniform."""
    # Half of Xavier's scale, so that the first loss is about that of guessing.
    nn.init.xavier_uniform_(linear.weight, gain=0.5)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def features(spec: DataSpec) -> int | None:
    """Return the number of input values of an example, or None if it varies."""
    shape = [size for size in spec.inputs[0].shape if size is not None]
    return math.prod(shape) if len(shape) == len(spec.inputs[0].shape) else None


def plain_answer(spec: DataSpec) -> str | None:
    """Return None if the output is one vector (logits or values), else the reason why it is not."""
    if spec.reconstructs or len(spec.outputs) != 1 or len(spec.outputs[0].shape) != 1:
        return "it answers with one vector, classes or values; for reconstruction take autoencoder"
    return None


def n_outputs(spec: DataSpec) -> int:
    """Return the size of the output vector."""
    size = spec.outputs[0].shape[0]
    assert size is not None
    return size


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from all channels: (B, C, H, W) -> (B, C, H, W).

    Hu et al. 2018, arXiv:1709.01507.

    Args:
        width: Channels C.
        inner: Hidden units of the gate.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(width, inner, 1)
        self.relu = nn.ReLU()
        self.expand = nn.Conv2d(inner, width, 1)
        self.gate = nn.Hardsigmoid()  # piecewise linear, as in MobileNetV3 (Howard et al. 2019, arXiv:1905.02244)

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels."""
        y: Tensor = x * self.gate(self.expand(self.relu(self.reduce(self.pool(x)))))
        return y
