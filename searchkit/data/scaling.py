"""Mean and standard deviation of the channels of large arrays, a block at a time, in float64."""

from __future__ import annotations

import numpy as np

BLOCK_ROWS = 4096


def channel_statistics(
    x: np.ndarray, rows: np.ndarray, channel_axis: int | None, *, valid: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the mean and the standard deviation of each channel over some rows.

    Args:
        x: (n, …).
        rows: (m,) indices into x.
        channel_axis: The axis of the channels; None takes all of x for one channel.
        valid: (n, L) bool for x (n, C, L): the steps that are no padding.

    Returns:
        (C,) means and (C,) deviations in float64; the deviation of a constant channel is 1.
    """
    blocks = [rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS)]

    def total(shift: np.ndarray | float, power: int) -> np.ndarray:
        sums = []
        for block in blocks:
            # (rows, channels, values of a channel), as float64 for one block at a time.
            values = x[block][:, None] if channel_axis is None else np.moveaxis(x[block], channel_axis, 1)
            values = values.reshape(len(block), values.shape[1], -1).astype(np.float64)
            moved = (values - np.reshape(shift, (-1, 1))) ** power
            sums.append((moved if valid is None else moved * valid[block][:, None]).sum(axis=(0, 2)))
        return np.asarray(np.sum(sums, axis=0))

    n_channels = 1 if channel_axis is None else x.shape[channel_axis]
    count = float(valid[rows].sum()) if valid is not None else x[:1].size / n_channels * len(rows)
    # Two passes: mean(x²) − mean(x)² would lose its digits if the mean is much larger than the deviation.
    mean = total(0.0, 1) / count
    std = np.sqrt(total(mean, 2) / count)
    # Rounding leaves a constant channel a tiny deviation, by which its noise would be scaled up to 1.
    return mean, np.where(std > 1e-12 * np.maximum(1.0, np.abs(mean)), std, 1.0)
