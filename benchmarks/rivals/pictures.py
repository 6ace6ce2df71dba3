"""What the rivals of benchmarks/against_rivals.py have in common: the data as arrays, and the line that they print."""

from __future__ import annotations

import argparse
import gzip
import json
import time
from pathlib import Path

import numpy as np


def options(about: str) -> argparse.ArgumentParser:
    """The options that every rival has. about: its module's docstring, of which the first line is shown."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser


def load(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pictures (n, H, W, C) uint8 and labels (n,) int64: of the training set, then of the test set.

    Args:
        path: An .npz with x_train, y_train, x_test and y_test, or a folder with the four files of MNIST's format.
    """
    if path.is_dir():
        found = [_idx(path / f"{part}-{what}.gz") for part in ("train", "t10k")
                 for what in ("images-idx3-ubyte", "labels-idx1-ubyte")]  # fmt: skip
    else:
        with np.load(path) as stored:
            found = [stored[name] for name in ("x_train", "y_train", "x_test", "y_test")]
    x_train, y_train, x_test, y_test = found
    shape = x_train.shape[1:] if x_train.ndim == 4 else (*x_train.shape[1:], 1)
    return (
        x_train.reshape(-1, *shape),
        y_train.astype(np.int64),
        x_test.reshape(-1, *shape),
        y_test.astype(np.int64),
    )


def _idx(file: Path) -> np.ndarray:
    """An array of MNIST's format: four bytes that say type and axes, the lengths, the values."""
    data = gzip.decompress(file.read_bytes())
    n_axes = data[3]
    lengths = np.frombuffer(data, ">u4", n_axes, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * n_axes).reshape(lengths)


def tell(right: int, n: int, *, params: int, trained: int, began: float, what: str) -> None:
    """Print the result as a line of JSON. trained: networks; began: on the monotonic clock."""
    row = {"right": right, "n": n, "params": params, "trained": trained, "what": what}
    print(json.dumps({**row, "seconds": round(time.monotonic() - began, 1)}), flush=True)
