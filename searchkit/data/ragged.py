"""Rows of different lengths as one array: padded at the end, with their lengths, or all made the same length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from searchkit.core.errors import BadInput

MOST_BYTES = 4 * 2**30


def stacked(rows: Sequence[np.ndarray], steps: int | None, where: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Stack rows of different lengths, padded with zeros at the end.

    Args:
        rows: (C, steps of the row) each.
        steps: The length of all; a longer row loses its end. None takes that of the longest row.
        where: What an error calls the rows.

    Returns:
        (n, C, L), and (n,) int64 lengths; None if all rows are of one length, or `steps` was given.

    Raises:
        BadInput: the array would not fit in memory.
    """
    lengths = np.array([row.shape[1] for row in rows], dtype=np.int64)
    longest = int(lengths.max()) if steps is None else steps
    channels, dtype = rows[0].shape[0], rows[0].dtype
    wanted = len(rows) * channels * longest * dtype.itemsize
    # Refused before memory is taken: one row of an hour would pad thousands of short ones to an hour.
    if wanted > MOST_BYTES:
        raise BadInput(
            f"{where} has {len(rows):,} rows, the longest of {longest:,} steps, which padded to one length are "
            f"{wanted / 2**30:.1f} GB; give --steps N, such as the median {int(np.median(lengths)):,}."
        )
    x = np.zeros((len(rows), channels, longest), dtype=dtype)
    for filled, row in zip(x, rows, strict=True):
        filled[:, : row.shape[1]] = row[:, :longest]
    return x, None if steps is not None or (lengths == longest).all() else lengths
