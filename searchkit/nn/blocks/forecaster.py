"""A family's network as a forecaster: around any network from a series to values, what every forecast gains by.

Against the window's last value, because a series moves its level between train and test (Zeng et al. 2023,
arXiv:2205.13504, NLinear); a linear map from window to horizon beside the network, which is a strong forecaster alone
and leaves the network what is not linear; and each channel by itself with the same weights, so that there is one small
network and as many examples as channels (Nie et al. 2023, arXiv:2211.14730). All of it is in the exported graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from searchkit.core.data_spec import DataSpec, TensorSpec
from searchkit.core.space import Trial


class Forecaster(nn.Module):
    """(B, C, L) -> (B, K, H), the next H steps of the first K channels. net: (B, C, L) -> (B, K·H), or, where `apart`,
    (B·K, 1, L) -> (B·K, H).
    """

    def __init__(
        self, net: nn.Module, *, shape: tuple[int, int], direct: nn.Linear | None, apart: bool, level: bool
    ) -> None:
        super().__init__()
        self.net = net
        self.shape = shape
        self.direct = direct
        self.apart = apart
        self.level = level

    def forward(self, x_BCL: Tensor) -> Tensor:
        last_BC1 = x_BCL[:, :, -1:]
        if self.level:
            x_BCL = x_BCL - last_BC1
        targets, horizon = self.shape
        x_BKL = x_BCL[:, :targets]
        out: Tensor = self.net(x_BKL.reshape(-1, 1, x_BKL.shape[2]) if self.apart else x_BCL)
        out_BKH = out.reshape(-1, targets, horizon)
        if self.direct is not None:
            out_BKH = out_BKH + self.direct(x_BKL)
        return out_BKH + last_BC1[:, :targets] if self.level else out_BKH


def forecaster(
    spec: DataSpec, build: Callable[[DataSpec], nn.Module], *, apart: bool, direct: bool, level: bool
) -> nn.Module:
    """build: the family's own, which is asked for a network from the series, or a channel of it, to plain values."""
    channels, window = spec.inputs[0].shape
    targets, horizon = spec.outputs[0].shape
    assert channels is not None and window is not None and targets is not None and horizon is not None
    series = TensorSpec(spec.inputs[0].name, (1 if apart else channels, window))
    values = TensorSpec("values", (horizon if apart else targets * horizon,))
    linear = nn.Linear(window, horizon) if direct else None
    if linear is not None:  # at first the network's own answer
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    net = build(replace(spec, inputs=(series,), outputs=(values,)))
    return Forecaster(net, shape=(targets, horizon), direct=linear, apart=apart, level=level)


def sample_apart(trial: Trial, spec: DataSpec) -> bool:
    """One channel is by itself however it is asked for."""
    several = spec.forecasts and spec.inputs[0].shape[0] != 1
    return bool(trial.suggest_categorical("apart", [True, False])) if several else False


def sample_direct(trial: Trial, spec: DataSpec) -> bool:
    return bool(trial.suggest_categorical("direct", [True, False])) if spec.forecasts else False


def sample_level(trial: Trial, spec: DataSpec) -> bool:
    return bool(trial.suggest_categorical("level", [True, False])) if spec.forecasts else False


def sample_frames(trial: Trial, spec: DataSpec) -> tuple[int, int]:
    """frame and hop of a stem over a window: as many steps as are asked for, each of twice as much as lies between."""
    window = spec.inputs[0].shape[-1]
    assert window is not None
    hop = -(-window // trial.suggest_categorical("frames", [24, 12, 48]))
    return 2 * hop + 1, hop
