"""How examples are cut from one stream: windows, and what follows each of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


@dataclass(frozen=True)
class Cut:
    """How examples are cut from one stream of T rows.

    Attributes:
        window: Steps that the network sees.
        horizon: Steps that it answers.
        targets: The channels that are forecast.
        ends: The rows at which train, val and test end.
        times: What was found of the times, in words.
    """

    window: int
    horizon: int
    targets: tuple[int, ...]
    ends: tuple[int, int, int]
    times: str = ""

    def windows(self, stream: np.ndarray) -> np.ndarray:
        """View all windows of a stream (T, …): (T − window + 1, …, window), by the row at which each begins."""
        return sliding_window_view(stream, self.window, axis=0)

    def futures(self, stream: np.ndarray) -> np.ndarray:
        """View what comes after each window of a stream (T, …): (T − window − horizon + 1, …, horizon)."""
        return sliding_window_view(stream[self.window :], self.horizon, axis=0)

    def rows(self) -> dict[str, np.ndarray]:
        """The first row of each window, by split."""
        train, val, test = self.ends
        # What is forecast lies inside the split; the window before it may reach back into the split before.
        firsts = {"train": (self.window, train), "val": (train, val), "test": (val, test)}
        return {
            split: np.arange(first - self.window, end - self.window - self.horizon + 1, dtype=np.int64)
            for split, (first, end) in firsts.items()
        }
