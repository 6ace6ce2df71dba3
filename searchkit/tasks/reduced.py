"""Less of the data, to compare candidates cheaply: a part of the rows, or smaller pictures."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from searchkit.core.data_spec import Split
from searchkit.core.serialization import derive_seed
from searchkit.data.dataset import Dataset

SMALLEST_SIDE = 8
"""Pixels; a network that halves three times has one left."""


class Shrink(nn.Module):
    """Average neighboring pixels: (B, C, …) to (B, C, *sides)."""

    def __init__(self, sides: tuple[int, ...]) -> None:
        super().__init__()
        self.sides = sides

    def forward(self, x: Tensor) -> Tensor:
        """Make the last axes so long."""
        return nn.functional.interpolate(x, size=self.sides, mode="area")


def first_part(data: Dataset, split: Split, share: float) -> np.ndarray:
    """(n,) places among the rows of a split, ascending: of each class the first, in an order that never changes."""
    n = len(data.rows[split])
    order = np.random.default_rng(derive_seed(f"part of {split}", data.split_seed, n)).permutation(n)
    target = data.target_of(split) if data.labels and data.target is not None else np.zeros(n)
    strata = target if target.ndim == 1 else np.zeros(n)
    rank = np.empty(n)  # of a row within its class, from 0 to 1
    for stratum in np.unique(strata):
        own = order[strata[order] == stratum]
        rank[own] = np.arange(len(own)) / len(own)
    return np.flatnonzero(rank < share)
