"""Turn a family's network for series into a forecaster.

Three additions help any network, and the search may switch each on or off. All are part of the exported graph.

- `level`: predict the difference from the window's last value, since the level of a series moves between train and test
  (NLinear: Zeng et al. 2023, arXiv:2205.13504).
- `direct`: a linear map from window to horizon in parallel, a strong forecaster by itself, which leaves the nonlinear
  part to the network (same paper).
- `apart`: apply one network to each channel separately, which makes the network smaller and gives as many examples as
  channels (PatchTST: Nie et al. 2023, arXiv:2211.14730).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from searchkit.core.data_spec import DataSpec, TensorSpec
from searchkit.core.space import Trial


class Forecaster(nn.Module):
    """A forecasting network: (B, C, L) -> (B, K, H), the next H steps of the first K channels.

    Args:
        net: (B, C, L) -> (B, K·H), or (B·K, 1, L) -> (B·K, H) if `apart`.
        shape: K and H.
        direct: Linear map from the window to the horizon, or None.
        apart: Whether `net` sees one channel at a time.
        level: Whether to predict the difference from the last value.
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
        """Forecast from a window."""
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
    """Build a forecasting network.

    Args:
        spec: The data; its output is a forecast.
        build: Builds the family's network for the spec that it is given: from the series, or one channel of it, to
            values.
        apart: Whether the network sees one channel at a time.
        direct: Whether to add a linear map from window to horizon.
        level: Whether to predict the difference from the last value.
    """
    channels, window = spec.inputs[0].shape
    targets, horizon = spec.outputs[0].shape
    assert channels is not None and window is not None and targets is not None and horizon is not None
    series = TensorSpec(spec.inputs[0].name, (1 if apart else channels, window))
    values = TensorSpec("values", (horizon if apart else targets * horizon,))
    linear = nn.Linear(window, horizon) if direct else None
    if linear is not None:  # starts at 0, so that training begins with the network's own output
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    net = build(replace(spec, inputs=(series,), outputs=(values,)))
    return Forecaster(net, shape=(targets, horizon), direct=linear, apart=apart, level=level)


def sample_apart(trial: Trial, spec: DataSpec) -> bool:
    """Sample `apart`; always False for a single channel, since both values mean the same."""
    several = spec.forecasts and spec.inputs[0].shape[0] != 1
    return bool(trial.suggest_categorical("apart", [True, False])) if several else False


def sample_direct(trial: Trial, spec: DataSpec) -> bool:
    """Sample `direct`; False if the task is not forecasting."""
    return bool(trial.suggest_categorical("direct", [True, False])) if spec.forecasts else False


def sample_level(trial: Trial, spec: DataSpec) -> bool:
    """Sample `level`; False if the task is not forecasting."""
    return bool(trial.suggest_categorical("level", [True, False])) if spec.forecasts else False


def sample_frames(trial: Trial, spec: DataSpec) -> tuple[int, int]:
    """Sample the frame length and hop of a stem from the number of steps that it should leave.

    Returns:
        Frame and hop in steps; frames are twice as long as the hop, so they overlap by half.
    """
    window = spec.inputs[0].shape[-1]
    assert window is not None
    hop = -(-window // trial.suggest_categorical("frames", [24, 12, 48]))
    return 2 * hop + 1, hop
