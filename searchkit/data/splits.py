"""Stratified, seeded splits: every class keeps its share in train, val and test, and at least one row in train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from searchkit.core.errors import BadInput
from searchkit.core.serialization import derive_seed

TEST_SHARE = 0.20
VAL_SHARE = 0.15  # of what test leaves
BINS = 10  # of the values of a regression; fewer for few rows


def split_rows(
    n: int, strata: np.ndarray | None, *, given: Mapping[str, np.ndarray], seed: int
) -> dict[str, np.ndarray]:
    """Split rows into train, val and test.

    Args:
        n: How many rows there are.
        strata: (n,) int, what every split keeps the shares of; None for no such thing.
        given: Rows by split that are kept as they are. The rest is shared out among the splits that are not given, and
            is in none if all are.
        seed: By which rows are drawn.

    Returns:
        Ascending int64 row indices by split.
    """
    rows = {split: np.sort(chosen).astype(np.int64) for split, chosen in given.items()}
    rest = _to_share_out(n, rows)
    if {"val", "test"} - set(rows):
        rows.pop("train", None)
    # In this order: the share of val is one of what test leaves.
    for split, share in (("test", TEST_SHARE), ("val", VAL_SHARE)):
        if split not in rows:
            rows[split] = _take(rest, strata, share, seed=derive_seed("split", split, seed))
            rest = np.setdiff1d(rest, rows[split])
    return {"train": rows.get("train", rest), "val": rows["val"], "test": rows["test"]}


def _to_share_out(n: int, given: Mapping[str, np.ndarray]) -> np.ndarray:
    """The rows out of which the splits that are not given are drawn, ascending."""
    if "train" in given and {"val", "test"} - set(given):  # what is missing is held out from the given training rows
        return np.sort(given["train"]).astype(np.int64)
    # The empty array is for a source that gives no split: np.concatenate refuses an empty list.
    return np.setdiff1d(np.arange(n), np.concatenate([*given.values(), np.empty(0, np.int64)]))


def _take(rows: np.ndarray, strata: np.ndarray | None, share: float, *, seed: int) -> np.ndarray:
    """About `share` of the rows; of each stratum its share by largest remainder, and never all of it.

    At least one row, unless every stratum is of one row: a class with a single one needs it in train.
    """
    generator = np.random.default_rng(seed)
    member = np.zeros(len(rows), dtype=np.int64) if strata is None else np.unique(strata[rows], return_inverse=True)[1]
    sizes = np.bincount(member)
    exact = sizes * share
    counts = np.floor(exact).astype(np.int64)
    wanted = max(1, round(len(rows) * share))
    # Stable: of equal remainders the first stratum gets the row, on every machine.
    for stratum in np.argsort(-(exact - counts), kind="stable"):
        if counts.sum() < wanted and counts[stratum] < sizes[stratum] - 1:
            counts[stratum] += 1
    chosen = [generator.permutation(np.flatnonzero(member == k))[:count] for k, count in enumerate(counts)]
    return np.sort(rows[np.concatenate(chosen)])


def rows_named(files: Sequence[Path], pattern: str, where: str) -> np.ndarray:
    """Find the rows whose file has a name like `pattern`, with the wildcards of a shell.

    Raises:
        BadInput: none has, or all have.
    """
    rows = np.array([row for row, file in enumerate(files) if fnmatchcase(file.name, pattern)], dtype=np.int64)
    if len(rows) in (0, len(files)):
        raise BadInput(
            f"--test-files '{pattern}' fits {len(rows)} of the {len(files)} files of {where}, such as "
            f"'{files[0].name}'; it must fit some and not all."
        )
    return rows


def quantile_strata(values: np.ndarray, *, given: Mapping[str, np.ndarray]) -> np.ndarray:
    """Number the quantile bin of each value, (n,), for the splits of a regression.

    Args:
        values: (n,).
        given: Rows by split, as of `split_rows`.
    """
    # At least two of the rows to share out for each bin, for a bin of one gives none to val and test.
    bins = max(1, min(BINS, len(_to_share_out(len(values), given)) // 2))
    edges = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(edges, values, side="right")
