"""Modules around a Q-network: observations to features, and action values back to the unit of the rewards."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from searchkit.tasks.rl.environments import EnvSpec

LARGEST = 10.0
"""The deviation of a feature over the log, at most, in the unit that networks see. That unit is how far random actions
move the feature: what drifts slowly, and ends the game far out (the cart of CartPole-v1), is seen in fine steps."""


class Scale(nn.Module):
    """Standardize observations: mean 0 over the log, each feature in its unit."""

    mean: Tensor
    unit: Tensor

    def __init__(self, mean: Tensor, unit: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("unit", unit)

    def forward(self, x: Tensor) -> Tensor:
        """(B, features) to the same shape."""
        return (x - self.mean) / self.unit


class OneHot(nn.Module):
    """One-hot states; an unknown state becomes zeros."""

    states: Tensor

    def __init__(self, n_states: int) -> None:
        super().__init__()
        self.register_buffer("states", torch.arange(n_states))

    def forward(self, x: Tensor) -> Tensor:
        """(B,) states to (B, n_states)."""
        # A comparison, since F.one_hot raises an error for a state out of range.
        return (x[:, None] == self.states).float()


class InUnit(nn.Module):
    """Rescale action values from the network's unit to that of the rewards."""

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, values: Tensor) -> Tensor:
        """(B, n_actions) to the same shape."""
        return values * self.unit


def encoder(about: EnvSpec, seen: np.ndarray, unit: np.ndarray) -> nn.Module:
    """The preprocessor of an environment: one-hot states, or observations scaled by what was seen.

    Args:
        about: The environment.
        seen: (n, features) observations of train, or (n,) states.
        unit: (features,) what random actions change each feature by.
    """
    if about.n_states:
        return OneHot(about.n_states).eval()
    mean, deviation = seen.mean(0, dtype=np.float64), seen.std(0, dtype=np.float64)
    unit = np.clip(unit, deviation / LARGEST, deviation)
    # A feature that never changed in the log has the deviation 0.
    unit = np.where(unit > 1e-8, unit, 1.0)
    return Scale(torch.from_numpy(mean).float(), torch.from_numpy(unit).float()).eval()
